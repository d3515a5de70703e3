"""Whole runs of any parameters, tissue and schedule: what must hold through `solve`, its plans and its events.

`test_invariants.py` has the same for single steps in a plane; here steps are cut by doses, courses and save days, in a
ball and in a box, and runs are compared with runs. Shapes are fixed: examples differ in leaves alone.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_invariants import EPS, EXAMPLES, LAWS, PARAMETERS, assemble

from glioma_pde.biology.laws import Exponential
from glioma_pde.biology.prodrug import Boluses, Courses
from glioma_pde.delivery import CarrierDoses, Schedule
from glioma_pde.grid import Grid
from glioma_pde.ledger import balances
from glioma_pde.schedule import Plan, make_plan, stack
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

# Kill saturates or carriers keep below one: the bound on the step then holds at any density.
KINDS = {
    "ball": (Grid.radial(10, 0.7), LAWS["receptor"]),
    "box": (Grid.cartesian((5, 4, 3), (1.0, 0.7, 1.3)), LAWS["flux-limited"]),
    "ball-log": (Grid.radial(10, 0.7), LAWS["logarithmic"]),
}
STEPS = 12
WIDTH = 20
"""Blocks of a padded row: an interval's own, and two for each of the instants that can cut it."""

run = eqx.filter_jit(solve)


def patient(kind, seed):
    """Tissue, initial fields and schedule, days as fractions of the run."""
    grid, _ = KINDS[kind]
    rng = np.random.default_rng(seed)
    share = rng.random(grid.shape)
    mask = rng.random(grid.shape) < rng.uniform(0.4, 1.0)
    mask.flat[rng.integers(grid.size)] = True
    edges = np.sort(rng.uniform(-0.2, 1.2, (2, 2)), 0)
    # some instants coincide with each other and with save days
    day = rng.choice([0.0, 0.5, edges[0, 0], *rng.uniform(0, 1.1, 3)], 2)
    weight = rng.random((2, 2))
    tumour = rng.random(grid.shape) * (rng.random(grid.shape) < rng.uniform(0.1, 1.0))
    sites = grid.world_mm()[:, mask].T[rng.integers(mask.sum(), size=(2, 2))]
    return {
        "tissue": Tissue.from_arrays(share, 1.0 - share, mask=mask, grid=grid),
        "initial": {
            "tumour": jnp.asarray(tumour),
            "carriers": jnp.asarray((rng.random(grid.shape) < 0.2) * rng.uniform(0, 0.3, grid.shape)),
        },
        "edges": edges, "rate": rng.uniform(0, 300, 2), "bolus": rng.uniform(-0.2, 1.2, 1), "mg": rng.uniform(0, 100, 1),
        # each adds at most 0.8 anywhere: the whole dose in the smallest cell
        "day": day, "amount": rng.uniform(0, 0.8, 2) * grid.volumes_mm3().min(), "sites": sites,
        "sigma": rng.uniform(0.8, 3.0, (2, 2)), "weight": weight / weight.sum(1, keepdims=True),
    }  # fmt: skip


def therapy(kind, p, r, days, more_prodrug=1.0, more_cells=1.0):
    courses = Courses(*(jnp.asarray(days * e) for e in r["edges"]), jnp.asarray(more_prodrug * r["rate"]))
    boluses = Boluses(jnp.asarray(days * r["bolus"]), jnp.asarray(more_prodrug * r["mg"]))
    model = assemble(KINDS[kind][1], p, r["tissue"], courses, boluses, tolerance=1e-12)
    doses = CarrierDoses(
        jnp.asarray(days * r["day"]), jnp.asarray(more_cells * r["amount"] * p["K"]), jnp.ones(2),
        *(jnp.asarray(r[k]) for k in ("sites", "sigma", "weight")),
    )  # fmt: skip
    return model, Schedule((doses,))


def length_of(kind, p, r):
    """Days of a run of about `STEPS` of the longest steps, which depend on how doses overlap in that time."""
    days = STEPS * min(therapy(kind, p, r, 1.0)[0].largest_step(), 100.0)
    return min(days, STEPS * min(therapy(kind, p, r, days)[0].largest_step(), 100.0))


def padded(plan: Plan) -> Plan:
    assume(plan.lower.shape[1] <= WIDTH)
    empty, none = jnp.zeros((2, WIDTH), jnp.int32), -jnp.ones((2, WIDTH), jnp.int32)
    blank = Plan(empty, empty, empty, empty, (none,), jnp.zeros(2, jnp.int32), 3)
    return jax.tree.map(lambda leaf: leaf[0], stack([plan, blank]))


def capped(kind, p):
    """Those that configurations accept: carriers that multiply stop at twice the capacity or below."""
    law = KINDS[kind][1]
    crowding = p["gamma"] if law["one_sided"] else 0.0
    free = not law["filling"] and crowding < 0.5
    return p | {"rho_s": min(p["rho_s"], p["loss"])} if free else p


def check(kind, p, seed):
    p = capped(kind, p)
    r = patient(kind, seed)
    days = length_of(kind, p, r)
    model, schedule = therapy(kind, p, r, days)
    saves = days * np.array([0.0, 0.5, 1.0])
    plan = padded(make_plan(model, schedule, saves, model.largest_step()))
    solution = jax.tree.map(np.asarray, run(model, schedule, r["initial"], plan, jnp.asarray(saves)))

    mask, grid = np.asarray(model.tissue.mask), model.tissue.grid
    total = {k: [float(grid.integrate(jnp.asarray(f))) for f in v] for k, v in solution.saved.items()}
    ledger = {k: float(v + rest) for k, (v, rest) in solution.final.ledger.items()}
    for name, field in solution.saved.items():
        assert np.all(np.isfinite(field)), name
        assert np.all(field[:, ~mask] == 0), name
        assert field.min() >= -10 * EPS * max(field.max(), 1e-290), name
        # what the ledger explains, against the most that there was or flowed
        flows = [sign * ledger[k] for k, sign in balances(model, schedule.events)[name].items()]
        most = max(*total[name], *map(abs, flows))
        assert abs(total[name][-1] - total[name][0] - sum(flows)) <= 1e-12 * most, name
    for name, field in solution.final.warm.items():
        assert np.all(field[~mask] == 0), name
        assert field.min() >= -1e-12 * field.max(), name
    # every amount that is counted is an amount, but growth above the capacity; what enters is a small difference
    signed = ("tumour_growth", "prodrug_entered")
    assert all(v >= -1e-12 for k, v in ledger.items() if not k.startswith(signed)), ledger
    given_in_time = (days * r["day"] >= 0) & (days * r["day"] < days)
    assert ledger["carrier_delivery"] == pytest.approx(float(r["amount"][given_in_time].sum()), rel=1e-12)
    if KINDS[kind][1]["growth"] is not Exponential:
        assert solution.saved["tumour"].max() <= max(1.0, solution.saved["tumour"][0].max()) * (1 + 4 * EPS)


@pytest.mark.parametrize("kind", ["ball", "box"])
@settings(EXAMPLES, max_examples=20)
@given(p=PARAMETERS, seed=st.integers(0, 2**32 - 1))
def test_mass_positivity_and_bounds_hold_through_whole_runs(kind, p, seed):
    check(kind, p if kind == "box" else p | {"kappa": 0.0}, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ball", "box"])
@settings(EXAMPLES, max_examples=200)
@given(p=PARAMETERS, seed=st.integers(0, 2**32 - 1))
def test_mass_positivity_and_bounds_hold_through_many_more_runs(kind, p, seed):
    check(kind, p if kind == "box" else p | {"kappa": 0.0}, seed)


# -- more treatment, less tumour -------------------------------------------------------------------

KNOBS = ("prodrug", "cells", "emax", "contact", "growth", "start")


def compare(kind, p, seed, knob, more):
    """A theorem of the scheme, where carriers go their way whatever the tumour and the drug do.

    Without taxis, growth of carriers and their own death by the drug, s does not depend on u and rises with the cells
    given; without uptake c does not depend on u and rises with s and with the prodrug (also where it is depleted: the
    conversion is k_ex (πP − p), and p falls with s). A stage of the time step is monotone in u within its bound, as long
    as N ≤ 1 or growth stops there, and falls with the kill rate. Hence the order of two runs is kept at every step, cell
    by cell, to the tolerance of the drug's solve.
    """
    p = p | {"speed": 0.0, "chi": 0.0, "rho_s": 0.0, "eps": 0.0, "uptake": 0.0}
    r = patient(kind, seed)
    stronger, dose, first, second = dict(p), {}, r["initial"], r["initial"]
    if knob in ("prodrug", "cells"):
        dose = {f"more_{knob}": more}
    elif knob == "start":
        first = first | {"tumour": jnp.minimum(more * first["tumour"] + 0.01 * (more - 1.0), 1.0)}
    else:
        key = {"emax": "emax", "contact": "kappa", "growth": "rho"}[knob]
        stronger[key] = p[key] * more if knob != "growth" else p[key] / more
    days = min(length_of(kind, q, r) for q in (p, stronger))
    runs = [therapy(kind, p, r, days), therapy(kind, stronger, r, days, **dose)]
    saves = days * np.array([0.0, 0.5, 1.0])
    plan = padded(make_plan(*runs[0], saves, min(m.largest_step() for m, _ in runs)))
    weak, strong = (
        np.asarray(run(m, s, u, plan, jnp.asarray(saves))["tumour"])
        for (m, s), u in zip(runs, (first, second), strict=True)
    )
    assert np.all(strong <= weak + 1e-10 * weak.max())
    return weak - strong


@pytest.mark.parametrize("kind", ["ball", "box"])
@settings(EXAMPLES, max_examples=20)
@given(p=PARAMETERS, seed=st.integers(0, 2**32 - 1), knob=st.sampled_from(KNOBS), more=st.floats(1.0, 3.0))
def test_more_treatment_leaves_less_tumour_in_every_cell(kind, p, seed, knob, more):
    compare(kind, p | {"kappa": 0.0} if kind == "ball" and knob != "contact" else p, seed, knob, more)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(EXAMPLES, max_examples=200)
@given(p=PARAMETERS, seed=st.integers(0, 2**32 - 1), knob=st.sampled_from(KNOBS), more=st.floats(1.0, 3.0))
def test_more_treatment_leaves_less_tumour_in_many_more_examples(kind, p, seed, knob, more):
    compare(kind, p, seed, knob, more)
