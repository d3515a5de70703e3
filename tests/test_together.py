"""All modules and laws together: a covering array of models in a plane, each through a whole run."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole import (
    LEVELS,
    OFF,
    Kind,
    anatomy,
    arrangement,
    model_of,
    near_typical,
    rough_start,
    schedule_of,
)

from glioma_pde.grid import Grid
from glioma_pde.model import balances
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve

EPS = np.finfo(float).eps
TOLERANCE = 1e-10
GRID = Grid.cartesian((12, 10), (1.0, 0.9))
DAYS = 2.0
SAVES = np.linspace(0.0, DAYS, 5)

# Levels of the factors of `LEVELS` in their order, found by annealing: any two levels of any two factors meet in a row.
ARRAY = """
    0000121202110100 0001121022212211 0020001111012101 0030100102111212 0030111000002022 0111121120012202
    1010110121201010 1021120202201022 1101010010001100 1111100000102021 1131111211110221 2000000101200022
    2030021011211001 2111010212000112 2120011020100210 2130100220202120
"""
ROWS = [Kind(*(levels[int(k)] for levels, k in zip(LEVELS.values(), row, strict=True))) for row in ARRAY.split()]


def test_any_two_levels_of_any_two_factors_meet():
    for (a, of_a), (b, of_b) in itertools.combinations(LEVELS.items(), 2):
        met = {(getattr(kind, a), getattr(kind, b)) for kind in ROWS}
        assert met == set(itertools.product(of_a, of_b)), (a, b)


def keep(model, carry, medium, day):
    """Fields, iterates of quasi-steady ones, the mask of the day, and what has been booked."""
    return carry.x, carry.warm, model.tissue.mask, {k: v + rest for k, (v, rest) in carry.ledger.items()}


solved = eqx.filter_jit(solve)


def check(kind: Kind, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    tissue = anatomy(GRID, rng, tensors=kind.tensors != OFF)
    p, r = near_typical(rng), arrangement(GRID, rng)
    model = model_of(kind, p, tissue, r, DAYS, TOLERANCE)
    schedule = schedule_of(kind, p, r, DAYS)
    plan = make_plan(model, schedule, SAVES, min(0.25, model.largest_step()))
    done = solved(model, schedule, rough_start(tissue, rng), plan, jnp.asarray(SAVES), keep)
    x, warm, masks, booked = jax.tree.map(np.asarray, done.saved)

    signs = balances(model, schedule.events)
    for name, field in x.items():
        assert np.all(np.isfinite(field)), name
        assert not np.any(field[~masks]), name
        assert field.min() >= -10 * EPS * field.max(), name
        # from the first day to every other one, all that comes and goes is booked
        total = [float(GRID.integrate(jnp.asarray(f))) for f in field]
        for k in range(1, len(SAVES)):
            flows = [sign * (booked[entry][k] - booked[entry][0]) for entry, sign in signs[name].items()]
            most = max(total[0], total[k], *map(abs, flows))
            assert abs(total[k] - total[0] - sum(flows)) <= 1e-13 * most, name
    for name, field in warm.items():
        assert not np.any(field[~masks]), name
        assert field.min() >= -TOLERANCE * field.max(), name

    # every module and event has had its say, so that nothing above holds for want of anything to happen
    idle = {name for name, values in booked.items() if not values[-1] > 0}
    assert idle <= {"carrier_unplaced", "resections_empty", "drug_exposure_healthy"}, idle
    assert masks[-1].sum() < masks[0].sum() if kind.surgery != "open" else np.all(masks == masks[0])
    if "vessels_missing" in x:
        assert float((x["vessels_missing"] + x["vessels_new"]).max()) <= 1.0 + 10 * EPS
    if "immune" in x:
        assert x["immune"].max() <= (1.0 + p["pi_i"]) * p["sigma_i"] / p["d_i"]
    if kind.filling and kind.growth != "exponential":
        assert x["carriers"].max() <= 1.0


# Every module and event but temozolomide, with transported substances.
FEW = (1,)


@pytest.mark.parametrize("row", FEW)
def test_mass_and_positivity_hold_whatever_is_on(row):
    check(ROWS[row])


@pytest.mark.slow
@pytest.mark.parametrize("row", sorted(set(range(len(ROWS))) - set(FEW)))
def test_mass_and_positivity_hold_in_every_other_row(row):
    check(ROWS[row])
