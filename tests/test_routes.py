"""Routes of delivery: where the cells go, that none is lost unbooked, and what a route cannot do without."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from glioma_pde.biology.base import Module
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.surgery import Resections
from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build
from glioma_pde.config import loads
from glioma_pde.delivery import (
    CarrierDoses,
    Intracavity,
    Intracerebral,
    Intranasal,
    Intravenous,
    Intraventricular,
    Schedule,
    gaussian,
)
from glioma_pde.errors import ConfigError
from glioma_pde.grid import Grid
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.parameters import PARAMETERS, default
from glioma_pde.parameters.delivery import OLFACTORY_MM
from glioma_pde.repeat import experiment_from_file
from glioma_pde.run import run
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

GRIDS = {
    "ball": Grid.radial(20, 0.5),
    "plane": Grid.cartesian((16, 14), (1.0, 0.7), thickness_mm=2.0),
    "box": Grid.cartesian((12, 10, 8), (1.0, 1.5, 2.0)),
}
ROUTES = {
    "intracerebral": Intracerebral(),
    "intranasal": Intranasal(),
    "intracavity": Intracavity(2.0),
    "intraventricular": Intraventricular(1.5),
    "intravenous": Intravenous(),
}


def marked(grid, dtype=None):
    """Tissue with cells missing everywhere, a cavity in the middle and a ventricle on one side."""
    ones, rng = np.ones(grid.shape), np.random.default_rng(0)
    away = np.sqrt((grid.world_mm() ** 2).sum(0))
    fluid = np.zeros(grid.shape, bool)
    fluid[-2:] = True
    mask = (rng.random(grid.shape) < 0.8) & ~fluid
    return Tissue.from_arrays(
        ones, 0 * ones, grid=grid, mask=mask, dtype=dtype, ventricle=fluid, cavity=away < 2.2, tolerance=0.1
    )


class Leaky(Module):
    """A leakiness in proportion to the square of the tumour."""

    name: ClassVar[str] = "leaky"
    needs: ClassVar = ("tumour",)
    provides: ClassVar = ("vessel_leakiness",)
    factor: float = 3.0

    def quantities(self, x, q, at):
        return {"vessel_leakiness": self.factor * q["tumour_cells"] ** 2}


@eqx.filter_jit
def footprint(route, tissue, leak, dtype):
    """G of a dose of two sites, of which the first takes a quarter."""
    dim = tissue.grid.ndim
    sites = jnp.asarray(np.stack([np.full(dim, -1.0), np.full(dim, 2.0)]) * (tissue.grid.geometry != "radial"), dtype)
    weight, sigma = jnp.asarray([0.25, 0.75], dtype), jnp.asarray([1.5, 1.5], dtype)
    return route.footprint(tissue, sites, sigma, weight, {}, lambda: {"vessel_leakiness": leak})


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", GRIDS)
def test_every_footprint_integrates_to_one_inside_the_mask(name, route):
    dtype = jnp.float64 if name != "plane" else jnp.float32
    tissue = marked(GRIDS[name], dtype)
    leak = jnp.asarray(np.random.default_rng(1).random(tissue.grid.shape), dtype)
    g = footprint(ROUTES[route], tissue, leak, dtype)
    assert g.dtype == dtype
    whole = float((np.asarray(g, float) * tissue.grid.volumes_mm3()).sum())
    assert whole == pytest.approx(1.0, rel=1e-13 if dtype == jnp.float64 else 2e-6)
    assert np.all(np.asarray(g)[~np.asarray(tissue.mask)] == 0)
    assert g.min() >= 0


def ring(away, radius, thickness, spacing):
    """Weights of the layer around a disk, by SciPy's distances: 1, and a cubic over the last cell."""
    disk = away < radius
    part = np.clip((thickness - spacing * distance_transform_edt(~disk)) / spacing + 1.0, 0.0, 1.0)
    return np.where(disk, 0.0, part * part * (3.0 - 2.0 * part))


def test_layers_lie_where_they_should_and_have_their_thickness():
    grid = Grid.cartesian((80, 70), (0.5, 0.5))
    away = np.hypot(*grid.world_mm())
    ones = np.ones(grid.shape)
    tissue = Tissue.from_arrays(ones, 0 * ones, grid=grid, cavity=away < 6.0)
    nothing = jnp.zeros(grid.shape)
    for thickness in (1.0, 3.0):
        g = np.asarray(footprint(Intracavity(jnp.asarray(thickness)), tissue, nothing, jnp.float64))
        assert np.all(g[away < 6.0] == 0)
        assert np.all(g[away > 6.0 + thickness + 1.0] == 0)
        layer = ring(away, 6.0, thickness, 0.5)
        np.testing.assert_allclose(g, layer / (layer.sum() * 0.25), rtol=1e-12)
    # the cubic reaches h/2 further than the ring, less what lies between the rim and the last centres inside: of first order
    for spacing in (0.5, 0.25, 0.125):
        x = spacing * (np.arange(int(24 / spacing)) + 0.5) - 12.0
        away = np.hypot(x[:, None], x)
        for thickness in (1.0, 3.0):
            outer = 6.0 + thickness
            excess = ring(away, 6.0, thickness, spacing).sum() * spacing**2 - np.pi * (outer**2 - 36.0)
            assert 0.0 < excess / (2.0 * np.pi * outer * spacing) < 0.3
    away = np.hypot(*grid.world_mm())
    # thinner than a cell: the cells at the wall, and no others
    wall = Tissue.from_arrays(ones, 0 * ones, grid=grid, mask=away >= 6.0, ventricle=away < 6.0)
    g = np.asarray(footprint(Intraventricular(jnp.asarray(0.2)), wall, nothing, jnp.float64))
    np.testing.assert_array_equal(g > 0, wall.ventricle_wall)
    deep = np.asarray(footprint(Intraventricular(jnp.asarray(2.0)), wall, nothing, jnp.float64))
    assert 1 / deep.max() == pytest.approx(np.pi * (64.0 - 36.0), rel=0.05)


def test_cells_from_the_blood_leave_it_in_proportion_to_the_leakiness():
    tissue = Tissue.phantom("box", (16, 14), 1.0)
    u = gaussian(tissue.grid, jnp.asarray([1.0, 0.5]), jnp.asarray(2.0))
    x = {"tumour": u, "carriers": jnp.zeros_like(u)}
    doses = CarrierDoses.along(Intravenous(), [1.0], 1e6, 0.02)
    model = Model(tissue, [Tumour(), Carriers(taxis=None), Leaky()])
    after = jax.jit(lambda c: model.happen(doses, jnp.asarray(0), c, model.prepare()))(model.start(x, (doses,)))
    s = np.asarray(after.x["carriers"])
    np.testing.assert_allclose(s / s.sum(), np.asarray(u**2 / jnp.sum(u**2)), rtol=1e-12)
    assert float(tissue.grid.integrate(after.x["carriers"])) * 1e5 == pytest.approx(2e4, rel=1e-12)
    bare = Model(tissue, [Tumour(), Carriers(taxis=None)])
    with pytest.raises(ValueError, match=r"CarrierDoses need \['vessel_leakiness'\]"):
        bare.start(x, (doses,))
    assumed = CarrierDoses.along(Intravenous("tumour_cells"), [1.0], 1e6, 0.02)
    s = np.asarray(bare.happen(assumed, jnp.asarray(0), bare.start(x, (assumed,)), bare.prepare()).x["carriers"])
    np.testing.assert_allclose(s / s.sum(), np.asarray(u / jnp.sum(u)), rtol=1e-12)
    with pytest.raises(ValueError, match=r"CarrierDoses need \['ventricle_wall'\]"):
        bare.start(x, (CarrierDoses.along(Intraventricular(), [1.0], 1.0),))


# -- in a run ----------------------------------------------------------------------------------------

SAVES = (0.0, 2.0, 4.0)
PLANE = Tissue.phantom("head", (20, 18), 1.0)
MODEL = Model(PLANE, [Tumour(), Carriers(taxis=None), Leaky()])
U0 = 0.9 * gaussian(PLANE.grid, jnp.asarray([5.0, 0.5]), jnp.asarray(2.0)) * PLANE.mask


def several():
    """Every route in one schedule, the operation first on its day."""
    there = jnp.asarray([[5.0, 0.5]])
    surgery = Resections(jnp.array([1.0]), there, jnp.array([2.2]), jnp.zeros(1), jnp.ones(1))
    return Schedule((
        surgery,
        CarrierDoses.at_sites([0.0, 2.5], jnp.array([1e5, 3e5]), [[2.5, 4.5]], 1.5, 0.71, backflow_fraction=0.1),
        CarrierDoses.along(Intracavity(2.0), [1.0], 2e5, 0.61, 0.25),
        CarrierDoses.along(Intraventricular(1.0), [1.5], 1e5, 0.1),
        CarrierDoses.intranasal([1.2], 1e6, 12.0, 2.0, [[7.5, 0.5]], 0.05),
        CarrierDoses.along(Intravenous(), [3.0], 1e7, 0.01),
    ))  # fmt: skip


@eqx.filter_jit
def final(schedule, plan):
    return solve(MODEL, schedule, {"tumour": U0}, plan, jnp.asarray(SAVES))


def test_what_is_given_is_delivered_or_booked_as_lost():
    schedule = several()
    assert float(schedule.events[4].day[0]) == pytest.approx(1.7)
    solution = final(schedule, make_plan(MODEL, schedule, SAVES, 0.25))
    done = solution.final
    entries = {name: float(sum(v)) for name, v in done.ledger.items()}
    k = 1e5
    assert entries["carrier_given"] * k == pytest.approx(4e5 + 2e5 + 1e5 + 1e6 + 1e7, rel=1e-13)
    assert entries["carrier_backflow"] * k == pytest.approx(0.1 * 4e5 + 0.25 * 2e5, rel=1e-13)
    delivered = 0.9 * 0.71 * 4e5 + 0.75 * 0.61 * 2e5 + 1e4 + 5e4 + 1e5
    assert entries["carrier_delivery"] * k == pytest.approx(delivered, rel=1e-13)
    lost = sum(entries[f"carrier_{n}"] for n in ("delivery", "backflow", "not_retained", "unplaced"))
    assert lost == pytest.approx(entries["carrier_given"], rel=1e-13)
    for field, signs in balances(MODEL, schedule.events).items():
        first, last = (float(PLANE.grid.integrate(x)) for x in (U0, done.x[field]))
        first = first if field == "tumour" else 0.0
        scale = max(last, *(entries[n] for n in signs))
        assert last - first == pytest.approx(sum(s * entries[n] for n, s in signs.items()), abs=1e-13 * scale)
        assert float(done.x[field].min()) >= 0
        assert np.all(np.asarray(done.x[field])[~np.asarray(PLANE.mask)] == 0)
    seen = schedule.events[1].look(MODEL, {n: jnp.asarray(v) for n, v in entries.items()})
    assert float(seen["carriers_delivered_cells"]) == pytest.approx(delivered, rel=1e-13)
    assert not schedule.events[1].remarks(MODEL, entries)
    # the cavity stays open: its region is remembered, the tissue as it was
    assert set(done.anatomy) == {"cavity"}
    away = np.hypot(PLANE.grid.world_mm()[0] - 5.0, PLANE.grid.world_mm()[1] - 0.5)
    np.testing.assert_array_equal(done.anatomy["cavity"], (away <= 2.2) & np.asarray(PLANE.mask))


def test_footprints_are_differentiable_in_amounts_losses_and_thickness():
    tissue = marked(GRIDS["plane"])
    rng = np.random.default_rng(0)
    goal_weight = jnp.asarray(rng.standard_normal(tissue.grid.shape))
    leak = jnp.asarray(rng.random(tissue.grid.shape))

    @jax.jit
    @jax.value_and_grad
    def goal(theta):
        total = 0.0
        for route in (Intracavity(theta["w"]), Intraventricular(theta["w"]), Intravenous()):
            doses = CarrierDoses.along(route, [0.0], theta["cells"], theta["f"], theta["b"])
            shape = doses.density(tissue, jnp.asarray(1e5), jnp.asarray(0), {}, lambda: {"vessel_leakiness": leak})[0]
            total = total + jnp.vdot(goal_weight, shape)
        return total

    theta = {k: jnp.asarray(v) for k, v in {"w": 1.83, "cells": 2e5, "f": 0.6, "b": 0.2}.items()}
    _, slope = goal(theta)
    for name, value in theta.items():
        h = 1e-5 * value
        ends = [goal({**theta, name: value + sign * h})[0] for sign in (1, -1)]
        assert float(slope[name]) != 0
        assert float(slope[name]) == pytest.approx(float(ends[0] - ends[1]) / (2 * float(h)), rel=1e-7), name


# -- from the configuration ------------------------------------------------------------------------

TEXT = """
[tissue]
kind = "phantom"
geometry = "head"
shape = [24, 20]
[tumour]
initial = { kind = "gaussian", centre_mm = [5.0, 3.0], sigma_mm = 1.5, peak = 0.9 }
[carriers]
taxis = { kind = "none" }
[time]
end_day = 4.0
[surgery]
resections = [{ day = 1.0, centre_mm = [5.0, 3.0], radius_mm = 2.0 }]
[[schedule.injections]]
days = [2.0, 1.5]
cells = [1e5, 2e5]
sites_mm = [[4.0, 4.0]]
sigma_mm = 1.5
[[schedule.injections]]
route = "intracavity"
days = [1.0]
cells = 1e5
[[schedule.injections]]
route = "intraventricular"
every = { from_day = 0.5, days = 1.0, count = 2 }
cells = 3e5
depth_mm = 1.5
[[schedule.injections]]
route = "intranasal"
days = [0.0]
cells = 1e6
sites_mm = [[8.0, 0.0]]
sigma_mm = 1.5
"""


def test_routes_from_a_configuration_to_the_file_and_again(tmp_path):
    study = loads(TEXT)
    rows = study.arms[0].schedule.injections
    assert [one.route for one in rows] == ["intracerebral", "intracavity", "intraventricular", "intranasal"]
    for one in rows:
        assert one.retained_fraction == default(f"schedule.injections[{one.route}].retained_fraction")
    assert rows[0].arrivals() == [(1.5, 2e5), (2.0, 1e5)]
    assert rows[3].arrivals() == [(0.5, 1e6)]
    with jax.enable_x64(False):
        experiment = build(study.arms[0])
        doses = experiment.schedule.events[1:]  # the operation comes first
        assert [type(d.route) for d in doses] == [Intracerebral, Intracavity, Intraventricular, Intranasal]
        assert float(doses[2].route.depth_mm) == 1.5
        result = run(experiment, tmp_path / "a.h5")
        assert result.warnings == ()
        run(experiment_from_file(tmp_path / "a.h5"), tmp_path / "b.h5")
    with RunFile(tmp_path / "a.h5") as a, RunFile(tmp_path / "b.h5") as b:
        np.testing.assert_array_equal(a.field("carriers", index=-1), b.field("carriers", index=-1))
        expected = 0.71 * 3e5 + 0.61 * 1e5 + 0.1 * 6e5 + 0.05 * 1e6
        assert a.ledger("carrier_delivery")[-1] == pytest.approx(expected, rel=1e-5)
        assert a.observable("carriers_given_cells")[-1] == pytest.approx(2e6, rel=1e-6)
        table = a.schedule("injections")
        np.testing.assert_array_equal(table["day"], [1.5, 2.0, 1.0, 0.5, 1.5, 0.5])
        np.testing.assert_array_equal(np.isnan(table["x_mm"]), [False, False, True, True, True, False])
    assert result.summary["carriers_delivered_cells"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("days = [2.0, 1.5]", "days = [2.0]", "schedule.injections[0]: cells lists 2 amounts for 1 times"),
        ("cells = [1e5, 2e5]", "cells = [1e5, -2.0]", "schedule.injections[0].cells[1]: should be greater than or"),
        ("cells = [1e5, 2e5]", "cells = -2.0", "schedule.injections[0].cells: should be greater than or equal to 0"),
        ("[[4.0, 4.0]]\nsigma_mm = 1.5", "[[4.0, 4.0]]", "schedule.injections[0].sigma_mm: is missing"),
        ('"intracavity"', '"intracavitary"', "schedule.injections[1].route: 'intracavitary' is not one of"),
        ('"intracavity"', '"intracavity"\nthickness_mm = 0', "schedule.injections[1].thickness_mm: should be greater"),
        ('"intracavity"', '"intracavity"\nthicknes_mm = 1', "thicknes_mm: unknown key; did you mean 'thickness_mm'?"),
        ("depth_mm = 1.5", "backflow_fraction = 1.5", "schedule.injections[2].backflow_fraction: should be less than"),
        ("day = 1.0", "day = 1.4", "schedule.injections[1]: there is no cavity yet on day 1; the first resection is on"),
        ('"head"', '"sphere"', "schedule.injections[2]: the intraventricular route needs an anatomy with ventricles"),
        ("sites_mm = [[8.0, 0.0]]", "delay_h = 6", "schedule.injections[3].sites_mm: is missing; the olfactory site"),
        ("days = [0.0]", "days = [3.8]", "schedule.injections[3]: day 4.3 is not before time.end_day = 4"),
        (
            '"intracavity"', '"intravenous"',
            "schedule.injections[1]: the intravenous route needs the section [vasculature], which says where vessels leak",
        ),
        (
            '"intracavity"', '"intra_arterial"',
            "schedule.injections[1]: the intra_arterial route needs the section [vasculature]",
        ),
        (
            "[surgery]\nresections = [{ day = 1.0, centre_mm = [5.0, 3.0], radius_mm = 2.0 }]", "",
            "schedule.injections[1]: the intracavity route needs the section [surgery], which leaves a cavity",
        ),
    ],
)  # fmt: skip
def test_wrong_doses_are_told_in_one_sentence(old, new, message):
    with pytest.raises(ConfigError) as error:
        loads(TEXT.replace(old, new, 1))
    assert len(error.value.problems) == 1, error.value.problems
    assert message in error.value.problems[0]


def test_a_window_without_the_olfactory_site_is_refused():
    rest = TEXT.partition("[tumour]")[2]
    text = "[tumour]" + rest.partition("[surgery]")[0].replace("[5.0, 3.0]", "[30.0, 10.0, 30.0]")
    text += '[[schedule.injections]]\nroute = "intranasal"\ndays = [0.0]\ncells = 1e6\n'

    def within(half_width_mm):
        window = f"{{ centre_mm = [30.0, 10.0, 30.0], half_width_mm = {half_width_mm} }}"
        return loads(f'[tissue]\nkind = "mni152"\nwindow = {window}\n{text}')

    assert within(60).arms[0].schedule.injections[0].sites_mm is None
    with pytest.raises(ConfigError) as error:
        within(40)
    assert error.value.problems == [
        "schedule.injections[0]: the olfactory site at [-5.0, 36.0, -24.0] mm lies outside tissue.window; "
        "enlarge it, or set sites_mm"
    ]


def test_doses_that_do_not_fit_are_told_with_what_helps():
    many = TEXT.replace("cells = 1e5", "cells = 1e8", 1).replace("cells = 3e5", "cells = 1e9", 1)
    with jax.enable_x64(False), pytest.raises(ConfigError) as error:
        build(loads(many).arms[0])
    assert len(error.value.problems) == 2
    for i, problem in zip((1, 2), error.value.problems, strict=True):
        assert problem.startswith(f"schedule.injections[{i}]: 1e+0")
        assert problem.endswith("of the carrying capacity; use fewer cells or a thicker layer")


def test_defaults_are_those_of_the_sources():
    retained = {k.split("[")[1].split("]")[0]: p for k, p in PARAMETERS.items() if k.endswith("].retained_fraction")}
    assert {k: p.default for k, p in retained.items()} == {
        "intracerebral": 0.71, "intracavity": 0.61, "intraventricular": 0.1, "intranasal": 0.05, "intravenous": 0.01,
        "intra_arterial": 0.30,
    }  # fmt: skip
    assert 0.01 <= retained["intranasal"].default <= 0.25
    assert 6 <= default("schedule.injections[intranasal].delay_h") <= 24
    assert len(OLFACTORY_MM) == 2
