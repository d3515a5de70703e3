"""What must not depend on names of axes, places, units or batches: the model has no preferred ones."""

from __future__ import annotations

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covering import CASES, SAVES, Case, Therapy, therapy

from glioma_pde.biology.laws import Gompertz
from glioma_pde.grid import Grid
from glioma_pde.ledger import steady_balances
from glioma_pde.model import Model
from glioma_pde.numerics.stepping import SSPRK2
from glioma_pde.parameters import PARAMETERS
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve

DT = 0.25
run = eqx.filter_jit(solve)


def plan_of(t: Therapy, days=SAVES, dt=DT):
    return make_plan(t.model, t.schedule, days, dt)


def result(t: Therapy, days=SAVES, plan=None):
    """Fields at the save days and totals of the ledger."""
    solution = run(t.model, t.schedule, t.initial, plan_of(t) if plan is None else plan, jnp.asarray(days))
    return solution.saved | solution.final.warm, {k: float(sum(v)) for k, v in solution.final.ledger.items()}


def same(found, expected, tolerance):
    """Fields relative to their largest value, totals relative to themselves."""
    for name, field in expected[0].items():
        most = float(jnp.abs(field).max())
        assert most > 0
        np.testing.assert_allclose(found[0][name], field, rtol=0, atol=tolerance * most, err_msg=name)
    assert found[1] == pytest.approx(expected[1], rel=tolerance)


# -- axes and places: one compiled program ---------------------------------------------------------

CUBE = Case("cube", "gompertz", "hill", "flux_limited", True, True, True, True, True, SSPRK2())


@pytest.fixture(scope="module")
def cube():
    t = therapy(CUBE)
    return t, result(t)


def moved(t: Therapy, maps, points) -> Therapy:
    """Every field through ``maps``, every needle tip through ``points``."""

    def places(x):
        return x.white, x.grey, x.mask

    model = eqx.tree_at(lambda m: places(m.tissue), t.model, tuple(map(maps, places(t.model.tissue))))
    doses = eqx.tree_at(lambda s: s.events[0].sites_mm, t.schedule, points(t.schedule.events[0].sites_mm))
    return Therapy(model, doses, {k: maps(v) for k, v in t.initial.items()})


def of_fields(seen, maps):
    """``maps`` over the fields of a result, those of all save days as well."""
    return {k: jnp.stack([maps(f) for f in v]) if v.ndim == 4 else maps(v) for k, v in seen[0].items()}, seen[1]


@pytest.mark.parametrize("axis", range(3))
def test_a_mirror_image_stays_one(cube, axis):
    t, straight = cube
    sign = jnp.where(jnp.arange(3) == axis, -1.0, 1.0)  # the grid's centre is the origin

    def mirror(f):
        return jnp.flip(f, axis)

    there = result(moved(t, mirror, lambda sites: sites * sign[None, None]))
    same(there, of_fields(straight, mirror), 1e-12)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:], ids=str)
def test_axes_have_no_names(cube, order):
    t, straight = cube
    there = result(moved(t, lambda f: jnp.transpose(f, order), lambda sites: sites[..., jnp.array(order)]))
    same(there, of_fields(straight, lambda f: jnp.transpose(f, order)), 1e-12)


@pytest.mark.parametrize("by", [(1, 0, 0), (1, -1, 1), (-1, -1, -1)], ids=str)
def test_tissue_may_lie_anywhere_in_the_grid_and_touch_its_edge(cube, by):
    t, _ = cube
    within = np.zeros((6, 6, 6), bool)
    within[1:5, 1:5, 1:5] = True  # one cell from every edge: the shifted ones touch three of them
    t = eqx.tree_at(lambda t: t.model.tissue.mask, t, t.model.tissue.mask & jnp.asarray(within))

    def shifted(f):
        return jnp.roll(f, by, (0, 1, 2))

    step = jnp.asarray(np.array(by) * 0.9)
    there = result(moved(t, shifted, lambda sites: sites + step[None, None]))
    same(there, of_fields(result(t), shifted), 1e-12)


# -- amounts ---------------------------------------------------------------------------------------


def test_twice_the_capacity_and_twice_the_cells_are_the_same_densities(cube):
    t, one = cube
    per_cell = (t.model["prodrug"].vmax_mol_per_cell_per_day, t.model["drug"].secretion_mol_per_cell_per_day)
    twice = eqx.tree_at(
        lambda t: (t.model["prodrug"].vmax_mol_per_cell_per_day, t.model["drug"].secretion_mol_per_cell_per_day),
        t,
        tuple(0.5 * v for v in per_cell),
    )
    twice = eqx.tree_at(
        lambda t: (t.model.capacity_cells_per_mm3, t.schedule.events[0].cells),
        twice,
        (2.0 * t.model.capacity_cells_per_mm3, 2.0 * t.schedule.events[0].cells),
    )
    same(result(twice), one, 1e-12)


def test_a_dose_of_no_cells_is_no_dose(cube):
    t, _ = cube
    plan = plan_of(t)
    nothing = eqx.tree_at(lambda t: t.schedule.events[0].cells, t, jnp.zeros(2))
    never = eqx.tree_at(lambda p: p.events, plan, tuple(-jnp.ones_like(e) for e in plan.events))
    same(result(nothing, plan=plan), result(t, plan=never), 1e-12)


# -- units -----------------------------------------------------------------------------------------

MM, DAY, CELL, MOL, GRAM, KG, LEVEL = 1.7, 0.6, 2.3, 0.4, 3.1, 0.7, 1.9
"""How many new units make one old unit; ``LEVEL`` is that of the attractant."""

UNITS = {
    "1": 1.0, "mm": MM, "mm2": MM**2, "mm3": MM**3, "L": MM**3, "day": DAY, "h": DAY, "cell": CELL, "cells": CELL,
    "mol": MOL, "µM": MOL / MM**3, "g": GRAM, "kg": KG, "units of a": LEVEL, "Gy": 1.2,
}  # fmt: skip


def factor(unit: str) -> float:
    first, *others = unit.split("/")
    return UNITS[first] / float(np.prod([UNITS[u] for u in others]))


def parameters_of(model: Model) -> dict[str, tuple[str, ...]]:
    """Path of attributes, from its module on, of every tabulated parameter that this model has."""
    out = {}
    for key in PARAMETERS:
        name, *path = key.split(".")
        part = model[name] if path and name in model else None
        for attribute in path:
            part = getattr(part, attribute, None)
        if part is not None:
            out[key] = (name, *path)
    return out


def in_other_units(t: Therapy) -> Therapy:
    old = t.model.tissue.grid
    h = [MM * d for d in old.spacing_mm]
    if old.geometry == "radial":
        grid = Grid.radial(old.shape[0], h[0])
    else:
        grid = Grid.cartesian(old.shape, tuple(h), thickness_mm=MM)
    known = parameters_of(t.model)

    def leaf(model, path):
        part = model[path[0]]
        for attribute in path[1:]:
            part = getattr(part, attribute)
        return part

    def all_of(model):
        r = model["prodrug"]
        return (
            *(leaf(model, path) for path in known.values()),
            model.capacity_cells_per_mm3,
            *(r.courses.start_day, r.courses.end_day, r.courses.dose_mg_per_kg_per_day),
            *(r.boluses.day, r.boluses.dose_mg_per_kg),
        )

    # nothing escapes: these are all the numbers that the modules hold
    assert len(all_of(t.model)) - 1 == len(jax.tree.leaves(t.model.modules))
    factors = [factor(PARAMETERS[key].unit) for key in known]
    factors += [factor("cells/mm3"), DAY, DAY, factor("g/kg/day"), DAY, factor("g/kg")]
    model = eqx.tree_at(all_of, t.model, tuple(f * v for f, v in zip(factors, all_of(t.model), strict=True)))
    model = eqx.tree_at(lambda m: m.tissue, model, dataclasses.replace(model.tissue, grid=grid))

    def of_doses(s):
        d = s.events[0]
        return d.day, d.cells, d.sites_mm, d.sigma_mm

    doses = tuple(f * v for f, v in zip((DAY, CELL, MM, MM), of_doses(t.schedule), strict=True))
    return Therapy(model, eqx.tree_at(of_doses, t.schedule, doses), t.initial)


UNIT_CASES = {
    **CASES,
    "ball-receptor": CASES["ball-held"]._replace(sensing="receptor", depletable=True),
}


def check_units(name):
    """With t̂ = t/τ, x̂ = x/λ and so on, parameters rescaled by the units they are tabulated in: the same fields."""
    t = therapy(UNIT_CASES[name])
    # the floor of Gompertz growth, one cell in a mm³, is a number with a unit: it has to lie below all densities
    assert not isinstance(t.model["tumour"].growth, Gompertz) or t.model.capacity_cells_per_mm3 > 1e4
    other = in_other_units(t)
    fields, ledger = result(t)
    found, totals = result(other, DAY * SAVES, plan_of(other, DAY * SAVES, DAY * DT))
    level = {"attractant": LEVEL, "drug": factor("µM")}
    scaled = {k: f * level.get(k, 1.0) for k, f in fields.items()}
    moles = [entry for signs in steady_balances(t.model).values() for entry in signs]
    amount = dict.fromkeys(moles, factor("µM"))
    amount |= dict.fromkeys(["drug_exposure_tumour", "drug_exposure_healthy"], factor("µM") * DAY)
    same((found, totals), (scaled, {k: v * MM**3 * amount.get(k, 1.0) for k, v in ledger.items()}), 1e-10)


@pytest.mark.parametrize("name", ["line", pytest.param("ball-receptor", marks=pytest.mark.slow)])
def test_units_are_what_the_table_says(name):
    check_units(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["line-filled", "ball", "plane", "box"])
def test_units_are_what_the_table_says_in_every_other_case(name):
    check_units(name)


# -- batches ---------------------------------------------------------------------------------------


def test_a_batch_of_patients_with_tissues_of_their_own_equals_a_loop():
    each = [therapy(CASES["line"], seed) for seed in range(3)]
    plan = plan_of(each[0])
    assert all(eqx.tree_equal(plan, plan_of(t)) for t in each[1:])
    float_parts, (fixed, *_) = zip(*(eqx.partition(t, eqx.is_array) for t in each), strict=True)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *float_parts)

    def one(arrays):
        t = eqx.combine(arrays, fixed)
        return solve(t.model, t.schedule, t.initial, plan, jnp.asarray(SAVES))

    together = jax.jit(jax.vmap(one))(batch)
    for k, t in enumerate(each):
        mine = jax.tree.map(lambda a, k=k: a[k], together)
        totals = {n: float(sum(v)) for n, v in mine.final.ledger.items()}
        same((mine.saved | mine.final.warm, totals), result(t, plan=plan), 1e-12)
