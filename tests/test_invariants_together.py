"""What must hold for any parameters, tissue and schedule with all modules on: mass, positivity, bounds, the tissue's edge,
and that more treatment leaves less tumour.

`test_invariants.py` has the same for the core, over laws. Shapes are fixed: examples differ in leaves alone.
"""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_invariants import EPS, EXAMPLES, PARAMETERS, between, gap
from whole import OFF, TYPICAL, Kind, model_of, schedule_of

from glioma_pde.biology.base import DENSEST
from glioma_pde.grid import Grid
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

TOLERANCE = 1e-4
STEPS = 24

RANGES = {
    "alpha_s": between(1e-3, 1.0, zero=True), "alpha_beta_s": between(0.5, 50.0),
    "volume": between(0.3, 2.0), "available": st.floats(0.1, 1.0), "molar": between(50.0, 500.0), "ratio": st.floats(0.1, 1.0),
    "k_exl": between(1.0, 1000.0, zero=True), "km": between(10.0, 2e4), "D_p": between(0.1, 100.0, zero=True),
    "effluxl": between(1.0, 1000.0, zero=True),
    # resistance
    "mu_0": between(1e-4, 1.0, zero=True), "mu_c": between(1e-3, 2.0, zero=True), "omega": st.floats(0.0, 2.0),
    "alpha_r": st.floats(0.0, 2.0), "beta_r": st.floats(0.0, 2.0),
    # temozolomide: the three rates differ
    "k_a": between(2.1, 10.0), "k_x": between(1.0, 2.0), "cl": between(5.0, 20.0), "v": between(25.0, 60.0),
    "pi_t": st.floats(0.05, 1.0), "m_t": between(100.0, 300.0), "bsa": st.floats(0.5, 2.5),
    "emax_t": between(1e-2, 5.0, zero=True), "ic50_t": between(0.1, 100.0), "n_t": st.floats(1.0, 6.0),
    "k_t": between(1e-4, 0.1, zero=True),
    # radiation and surgery
    "alpha": between(1e-3, 1.0, zero=True), "alpha_beta": between(0.5, 50.0), "edge": between(0.3, 5.0),
    "threshold": st.floats(0.01, 0.9),
    # TRAIL
    "D_l": between(0.1, 10.0, zero=True), "lambda_l": between(5.0, 100.0), "q_l": between(1e-18, 1e-13, zero=True),
    "emax_l": between(1e-2, 5.0, zero=True), "ic50_l": between(1e-2, 100.0), "n_l": st.floats(1.0, 6.0),
    # immune response, malignant clone
    "kappa_i": between(1e-2, 10.0, zero=True), "D_i": between(1e-3, 10.0, zero=True), "sigma_i": between(1e-2, 5.0, zero=True),
    "K_i": between(1e-3, 1.0), "d_i": between(1e-2, 5.0), "pi_i": between(0.1, 10.0, zero=True), "x_half": between(1.0, 1e8),
    "d_m": between(1e-3, 1.0, zero=True), "mu_m": between(1e-4, 0.1, zero=True), "rho_m": between(1e-2, 2.0, zero=True),
    "D_mw": between(1e-3, 10.0, zero=True), "D_mg": between(1e-3, 10.0, zero=True), "eps_m": between(1e-2, 3.0, zero=True),
    # oxygen, necrosis, vessels
    "sigma_n": between(5.0, 40.0), "sigma_b": between(41.0, 100.0), "D_o": between(10.0, 1000.0, zero=True),
    "k_o": between(10.0, 1e5), "eta": between(0.1, 10.0, zero=True), "K_o": between(0.1, 50.0, zero=True),
    "oer": st.floats(1.0, 5.0), "oer_half": between(0.1, 50.0), "kappa_n": between(1e-2, 5.0, zero=True),
    "below_n": between(1.0, 100.0), "c_n": between(1e-2, 2.0, zero=True), "collapse": between(1e-2, 5.0, zero=True),
    "collapse_at": between(0.05, 2.0), "recovery": between(1e-3, 2.0), "leaky_at": between(0.05, 2.0),
    "sprout": between(1e-2, 5.0, zero=True), "sprout_below": between(1.0, 100.0),
    "thickness": between(0.2, 5.0), "strength": st.just(0.0),
}  # fmt: skip


ANY = st.tuples(PARAMETERS, st.fixed_dictionaries(RANGES)).map(lambda both: both[0] | both[1])
"""Every parameter by its name in `TYPICAL`; the core's ranges are those of `test_invariants`."""

KINDS = {
    # all that has a field of its own follows its dynamics; cavities leave the domain
    "dynamic": (
        Grid.cartesian((14,), 0.9),
        Kind(substances="dynamic", temozolomide="bliss", radiotherapy="rockne", surgery="at_threshold", trail="drug"),
    ),
    "at rest": (
        Grid.cartesian((12, 10), (1.0, 1.4)),
        Kind("gompertz", "linear", "logarithmic", True, True, environment="quasi_steady", route="intravenous"),
    ),
    "plane": (
        Grid.cartesian((12, 10), (1.0, 1.4)),
        Kind("logistic", "linear", "receptor", substances="dynamic", surgery="closed", route="intraventricular"),
    ),
}


def drawn_rest(grid: Grid, seed: int):
    """Tissue, initial fields and schedule of one example, from a seed; days as fractions of the run."""
    rng = np.random.default_rng(seed)
    shape, dim = grid.shape, grid.ndim
    white, share = rng.random(shape), rng.random(shape)
    mask = rng.random(shape) < rng.uniform(0.5, 1.0)
    mask[tuple(n // 2 for n in shape)] = True
    centre = rng.uniform(-4, 4, (dim, *[1] * dim))
    bump = np.exp(-0.5 * np.sum((grid.world_mm() - centre) ** 2, axis=0) / rng.uniform(0.5, 4.0) ** 2)
    tumour = [rng.random(shape), (rng.random(shape) < 0.2) * rng.random(shape), rng.uniform(0, 1) * bump][rng.choice(3)]
    weight = rng.random((2, 2))

    def windows():
        return np.sort(rng.uniform(-0.2, 1.2, (2, 2)), 0)

    def due(count):
        return np.where(rng.random(STEPS) < 0.12, rng.integers(0, count, STEPS), -1)

    start, end = windows()
    dexa, until = windows()
    # at most 1.5 anywhere after one dose, the second group's included
    cells = rng.uniform(0, 1.0, 2) * grid.cell_volume_mm3 * rng.integers(2)
    schedule = {
        "start": start, "end": end, "rate": rng.uniform(0, 300, 2), "bolus": rng.uniform(-0.2, 1.2, 1),
        "mg": rng.uniform(0, 100, 1), "tablet": rng.uniform(-0.2, 1.2, 2), "mg_m2": rng.uniform(0, 200, 2),
        "dexa": dexa, "until": until, "fraction": rng.uniform(0, 1, 2),
        "fractions": np.zeros(2), "gray": rng.uniform(0, 20, 2) * rng.integers(0, 2, 2), "map": rng.uniform(0, 1.2, shape),
        "cut": np.zeros(2), "centre": rng.uniform(-4, 4, (2, dim)), "radius": rng.uniform(0, 3, 2),
        "margin": rng.uniform(0, 1, 2), "taken": rng.choice([0.0, 0.5, 1.0], 2),
        "dose": np.zeros(2), "cells": cells, "kept": rng.uniform(0, 1, 2), "back": rng.uniform(0, 1, 2),
        "site": rng.uniform(-4, 4, (2, 2, dim)), "sigma": rng.uniform(1.5, 4.0, (2, 2)),
        "share": weight / weight.sum(1, keepdims=True),
        "dose_2": np.zeros(2), "cells_2": 0.5 * cells,
    }  # fmt: skip
    return {
        "white": white * share, "grey": white * (1.0 - share), "mask": mask,
        "cavity": (rng.random(shape) < 0.1) & (rng.random() < 0.8), "wall": (rng.random(shape) < 0.1) & mask,
        "tumour": tumour, "carriers": (rng.random(shape) < 0.1) * rng.random(shape) * rng.integers(2),
        "due": [due(2) for _ in range(4)], "schedule": schedule,
    }  # fmt: skip


@eqx.filter_jit
def march(grid, kind, p, rest):
    """Steps at exactly the model's own bound, with whatever is due before each; extremes of everything on the way."""
    tissue = Tissue(
        grid=grid, white=rest["white"], grey=rest["grey"], csf=None, mask=rest["mask"], cavity=rest["cavity"],
        ventricle_wall=rest["wall"],
    )  # fmt: skip

    def build(days):
        return model_of(kind, p, tissue, rest["schedule"], days, TOLERANCE)

    def longest(model):
        return jnp.minimum(1.0 / model.loss_rate(model.prepare()), 100.0)

    # the bound depends on how doses overlap, and their days here on the bound: one turn of that wheel
    model = build(STEPS * longest(build(jnp.ones(()))))
    medium, dt = model.prepare(), longest(model)
    events = schedule_of(kind, p, rest["schedule"], STEPS * dt).events

    def step(before, k):
        ready = before
        for event, due in zip(events, rest["due"], strict=True):
            i = due[k]
            ready = jax.lax.cond(
                i >= 0, lambda c, e=event, i=i: model.happen(e, i, c, medium), lambda c: c, ready
            )  # fmt: skip
        here, there = model.now(ready.anatomy, medium)
        after = here.step(ready, there, k * dt, dt)
        q = here.quantities(after.x, after.warm, there, k * dt, dt)
        derived = (
            "attractant",
            "drug",
            "trail",
            "oxygen",
            "vessels",
            "vessel_leakiness",
            "growth_factor",
            "oer_factor",
        )
        everything = after.x | {name: q[name] for name in derived}
        return after, {
            "low": {n: v.min() for n, v in everything.items()},
            "high": {n: v.max() for n, v in everything.items()},
            "outside": {
                n: jnp.abs(jnp.where(here.tissue.mask, 0.0, v)).max() for n, v in everything.items()
                if n not in ("growth_factor", "oer_factor")
            },
            "carriers": ready.x["carriers"].max(),
            "crowding": q["crowding"].max(),
            "tumour": q["tumour_cells"].max(),
            "vessels": (after.x["vessels_missing"] + after.x["vessels_new"]).max() if "vessels_new" in after.x else 0.0,
            "gap": gap(model, before, after, events),
            "total": {f: jnp.maximum(grid.integrate(ready.x[f]), grid.integrate(after.x[f])) for f in after.x},
            "before": {f: grid.integrate(before.x[f]) for f in after.x},
        }  # fmt: skip

    carry = model.start({"tumour": rest["tumour"], "carriers": rest["carriers"]}, events)
    return carry.x["tumour"].max(), jax.lax.scan(step, carry, jnp.arange(STEPS))[1]


def check(name, p, seed):
    grid, kind = KINDS[name]
    p, rest = jax.tree.map(jnp.asarray, (p, drawn_rest(grid, seed)))
    first, seen = jax.tree.map(np.asarray, march(grid, kind, p, rest))
    high, low = seen["high"], seen["low"]
    # Up to here reach the bounds of rates that do not saturate, and of growth beyond the capacity.
    assume(seen["carriers"].max() <= DENSEST and seen["crowding"].max() <= 2.0)
    at_rest = {"attractant", "drug", "trail"} - set(seen["gap"])
    for field in low.keys() - at_rest:
        assert np.all(low[field] >= -10 * EPS * np.maximum(high[field], 1e-290)), field
    for field in at_rest:
        assert np.all(low[field] >= -TOLERANCE * np.maximum(high[field], 1e-290)), field
    for field, missing in seen["gap"].items():
        most = np.maximum(seen["total"][field], seen["before"][field])
        assert np.all(np.abs(missing) <= 1e-13 * most), field
    for field, worst in seen["outside"].items():
        assert np.all(worst == 0), field
    above = 1 + 10 * EPS
    assert seen["tumour"].max() <= max(1.0, first) * above
    for part in ("vessels", "vessel_leakiness", "oer_factor"):
        assert high[part].max() <= above, part
    assert high["growth_factor"].max() <= above
    assert high["oxygen"].max() <= float(p["sigma_n"]) * above
    assert high["immune"].max() <= float((1.0 + p["pi_i"]) * p["sigma_i"] / p["d_i"]) * above
    assert seen["vessels"].max() <= above


@pytest.mark.parametrize("kind", ["dynamic"])
@settings(EXAMPLES, max_examples=25)
@given(p=ANY, seed=st.integers(0, 2**32 - 1))
def test_mass_positivity_and_bounds_hold_with_everything_on(kind, p, seed):
    check(kind, p, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(EXAMPLES, max_examples=200)
@given(p=ANY, seed=st.integers(0, 2**32 - 1))
def test_mass_positivity_and_bounds_hold_in_many_more_examples(kind, p, seed):
    check(kind, p, seed)


# -- more treatment, less tumour -------------------------------------------------------------------------

LINE = Grid.cartesian((14,), 0.9)
PLANE = Grid.cartesian((8, 7), (1.0, 0.8))
TREATED = Kind(
    resistance=False, temozolomide="bliss", radiotherapy="rockne", surgery="open", immune="constant", malignancy=False,
    trail="drug", environment=OFF, route="intracavity",
)  # fmt: skip
KNOBS = ("gray", "mg_m2", "rate", "cells", "cells_2", "taken", "q_l", "emax_t", "kappa", "fraction")
WIDTH = 40

solved = eqx.filter_jit(solve)


def compare(grid, p, seed, knob, more):
    """A theorem of the scheme, as in `test_properties`, for radiation, temozolomide, TRAIL, surgery and immunosuppression.

    Each kill rate and each surviving fraction depends on the tumour nowhere, or so that more cells leave more. Carriers
    go their way whatever the tumour does: no taxis, growth or suicide; radiation spares them, and where the operation is
    the question there are none, since it takes them too.
    """
    p = p | dict.fromkeys(("speed", "rho_s", "eps", "uptake", "alpha_s"), 0.0) | {"volume": 0.78}
    rest = drawn_rest(grid, seed)
    r = rest["schedule"] | {
        "dose": np.array([0.1, 0.5]), "dose_2": np.array([0.2, 0.6]), "fractions": np.array([0.3, 0.8]),
        "cut": np.array([0.4, 0.7]), "gray": np.minimum(rest["schedule"]["gray"], 8.0),
    }  # fmt: skip
    tissue = Tissue.from_arrays(rest["white"], rest["grey"], mask=rest["mask"], grid=grid, cavity=rest["cavity"])
    initial = {"tumour": rest["tumour"], "carriers": rest["carriers"]}
    if knob == "taken":
        initial["carriers"], r = 0.0 * initial["carriers"], r | {"cells": np.zeros(2), "cells_2": np.zeros(2)}
        stronger = p, r | {"taken": np.minimum(1.0, more * r["taken"])}
    elif knob in r:
        changed = np.minimum(1.0, more * r[knob]) if knob == "fraction" else more * r[knob]
        stronger = p, r | {knob: changed}
    else:
        stronger = p | {knob: more * p[knob]}, r
    runs = []

    def made(p, r, days):
        p, r = jax.tree.map(jnp.asarray, (p, r))
        return model_of(TREATED, p, tissue, r, days, 1e-12), schedule_of(TREATED, p, r, days)

    def least(days):
        return min(made(*one, days)[0].largest_step() for one in ((p, r), stronger))

    days = 10 * min(least(1.0), 100.0)
    runs = [made(*one, days) for one in ((p, r), stronger)]
    saves = days * np.array([0.0, 0.5, 1.0])
    plan = make_plan(*runs[0], saves, min(m.largest_step() for m, _ in runs))
    assume(plan.lower.shape[1] <= WIDTH)
    plan = replace(plan.padded_to(2, WIDTH), padded=True)
    weak, strong = (np.asarray(solved(m, s, initial, plan, jnp.asarray(saves))["tumour"]) for m, s in runs)
    assert np.all(strong <= weak + 1e-10 * weak.max())
    return weak - strong


@settings(EXAMPLES, max_examples=25)
@given(p=ANY, seed=st.integers(0, 2**32 - 1), knob=st.sampled_from(KNOBS), more=st.floats(1.0, 3.0))
def test_more_treatment_leaves_less_tumour(p, seed, knob, more):
    compare(LINE, p, seed, knob, more)


@pytest.mark.slow
@settings(EXAMPLES, max_examples=200)
@given(p=ANY, seed=st.integers(0, 2**32 - 1), knob=st.sampled_from(KNOBS), more=st.floats(1.0, 3.0))
def test_more_treatment_leaves_less_tumour_in_many_more_examples(p, seed, knob, more):
    compare(PLANE, p, seed, knob, more)


@pytest.mark.slow
def test_every_treatment_is_a_treatment():
    """So that the comparison above is of different runs."""
    seed, rest = 28, drawn_rest(LINE, 28)  # with doses, cells, a cavity and something to resect further
    assert (
        min(rest["schedule"]["gray"]) > 1.0 and np.any(rest["schedule"]["taken"] == 0.5) and rest["carriers"].max() > 0
    )
    for knob in KNOBS:
        assert np.any(compare(LINE, TYPICAL, seed, knob, 2.0) > 1e-6), knob
