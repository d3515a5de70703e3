"""The code against a second statement of the same system (`independent`), as rates and as whole runs.

Runs are compared with diffrax at tight tolerances, ours extrapolated to steps of length zero: what is left are
the limiters' kinks.
"""

from __future__ import annotations

import itertools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from covering import CASES, SAVES, therapy
from independent import System

from glioma_pde.biology.laws import GROWTH, KILL, SENSING
from glioma_pde.numerics.stepping import SSPRK2
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve

SUBSTANCES = ("attractant", "prodrug", "drug")


def close(ours, theirs, tolerance):
    """Relative to the largest value of a field, and to a part of each value by itself."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert np.abs(theirs).max() > 0
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@eqx.filter_jit
def our_rates(model, x, t):
    """Rates, and the quasi-steady fields, at an instant: steps of length zero have no means."""
    medium, zero = model.prepare(), jnp.zeros(())
    warm = {f.name: jnp.zeros(model.tissue.grid.shape) for f in model.memory}
    q = model.quantities(x, warm, medium, t, zero)
    return model.rates(x, warm, medium, t, zero)[0], {k: q[k] for k in ("attractant", "prodrug", "drug")}


# one plane and one box beside the cases that run: every sensing law with transverse differences
RATES = {
    **CASES,
    "plane-receptor": CASES["plane"]._replace(sensing="receptor", growth="exponential", filling=False),
    "plane-linear": CASES["plane"]._replace(sensing="linear", kill="linear", depletable=False),
    "box-flux": CASES["box"]._replace(sensing="flux_limited", filling=True),
}


FEW = ("line-filled", "plane")


@pytest.mark.parametrize(
    "name",
    [
        *FEW,
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("ball", "box", "box-flux", "plane-receptor", "plane-linear")
        ),
    ],
)
def test_rates_are_those_of_the_equations(name):
    t = therapy(RATES[name], seed=3)
    system = System(t.model, RATES[name])
    rng = np.random.default_rng(0)
    inside = system.mask
    for _ in range(3):
        u, s = (jnp.where(inside, rng.uniform(0.02, 0.45, inside.shape), 0.0) for _ in range(2))
        now = jnp.asarray(1.1)
        P = t.model["prodrug"].plasma(now, jnp.zeros(()))
        ours, fields = our_rates(t.model, {"tumour": u, "carriers": s}, now)
        theirs = system.rate(now, system.pack(u, s, P), 0.0)
        du, ds, _ = system.split(theirs)
        close(ours["tumour"][inside], du, 1e-12)
        close(ours["carriers"][inside], ds, 1e-12)
        p = system.prodrug(s[inside], P)
        close(fields["attractant"][inside], system.attractant(u[inside]), 1e-12)
        close(fields["prodrug"][inside], p, 1e-12)
        close(fields["drug"][inside], system.drug(u[inside], s[inside], p), 1e-12)


def test_the_cases_have_every_law():
    for field, laws in (("growth", GROWTH), ("kill", KILL), ("sensing", SENSING)):
        assert {getattr(case, field) for case in CASES.values()} == set(laws)


# -- whole runs --------------------------------------------------------------------------------------

run = eqx.filter_jit(solve)


def ours(t, halvings):
    """Fields at the save days, extrapolated from steps of 1, ½, ¼, … (errors in dt², dt³, …)."""
    plans = [make_plan(t.model, t.schedule, SAVES, min(0.125, t.model.largest_step()))]
    for _ in range(halvings):
        plans.append(problems.refine(plans[-1]))
    table = []
    for plan in problems.same_shape(plans):
        saved = run(t.model, t.schedule, t.initial, plan, jnp.asarray(SAVES)).saved
        table.append({k: np.asarray(v) for k, v in saved.items()})
    for power in range(2, 2 + halvings):
        table = [
            {k: fine[k] + (fine[k] - coarse[k]) / (2.0**power - 1.0) for k in fine}
            for coarse, fine in itertools.pairwise(table)
        ]
    return table[0]


def theirs(t, system):
    """The same by diffrax, from event to event."""
    prodrug, doses = t.model["prodrug"], t.schedule.events[0]
    begin, end, amount = (
        np.asarray(getattr(prodrug.courses, k)) for k in ("start_day", "end_day", "dose_mg_per_kg_per_day")
    )
    bolus = np.asarray(prodrug.boluses.day)
    nodes = np.unique(np.concatenate([SAVES, begin, end, bolus, np.asarray(doses.day)]))
    to_micromolar = 1e3 * prodrug.bioavailability / (prodrug.volume_l_per_kg * prodrug.molar_mass_g_per_mol)
    start = t.model.start(t.initial).x
    y = system.pack(start["tumour"], start["carriers"], 0.0, *(start[n] for n in SUBSTANCES if n in start))
    if len(start) > 2:
        u = jnp.asarray(t.initial["tumour"])[system.mask]
        close(start["attractant"][system.mask], system.attractant(u), 1e-12)
    saved = []
    for now, then in zip(nodes, [*nodes[1:], None], strict=True):
        u, s, P = system.split(y)
        rest = y[2 * len(u) : -1]
        if now in SAVES:
            more = dict(zip(SUBSTANCES, rest.reshape(3, -1), strict=True)) if len(rest) else {}
            saved.append({k: system.field(v) for k, v in ({"tumour": u, "carriers": s} | more).items()})
        if then is None:
            return {k: np.stack([v[k] for v in saved]) for k in saved[0]}
        for e in np.flatnonzero(np.asarray(doses.day) == now):
            shape = system.footprint(
                t.model.tissue.grid, *(np.asarray(a)[e] for a in (doses.sites_mm, doses.sigma_mm, doses.weight))
            )
            s = s + doses.cells[e] * doses.retained_fraction[e] / system.K * shape
        P = P + to_micromolar * sum(
            mg for day, mg in zip(bolus, prodrug.boluses.dose_mg_per_kg, strict=True) if day == now
        )
        intake = sum(mg for a, b, mg in zip(begin, end, amount, strict=True) if a <= now < b)
        y = integrate(system, jnp.concatenate([u, s, rest, P[None]]), now, then, float(intake))


def integrate(system, y, now, then, intake):
    if not hasattr(system, "compiled"):

        def go(y, now, then, intake):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, y, args: system.rate(t, y, intake)), diffrax.Dopri8(), now, then, 0.01, y,
                stepsize_controller=diffrax.PIDController(rtol=1e-11, atol=1e-13), max_steps=100_000,
                saveat=diffrax.SaveAt(t1=True),
            ).ys[-1]  # fmt: skip

        system.compiled = jax.jit(go)
    return system.compiled(y, jnp.asarray(now), jnp.asarray(then), jnp.asarray(intake))


def agree(name, halvings=4, tolerance=1e-8):
    t = therapy(CASES[name], seed=5)
    t = t._replace(model=eqx.tree_at(lambda m: m.stepper, t.model, SSPRK2()))
    a, b = ours(t, halvings), theirs(t, System(t.model, CASES[name]))
    for field in a:
        for day in range(len(SAVES)):
            if day or np.any(b[field][day]):  # no prodrug at the start
                close(a[field][day], b[field][day], tolerance)


@pytest.mark.parametrize("name", ["ball-held", "line-dynamic"])
def test_whole_runs_agree_with_another_integrator(name):
    agree(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["line", "line-filled", "ball", "plane", "box"])
def test_whole_runs_agree_with_another_integrator_in_every_other_case(name):
    agree(name)
