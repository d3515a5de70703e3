"""Closed cavities: they hold nothing, nothing passes their rim, and runs with them resume, repeat and grow as others do."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.biology.attractant import Attractant
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug, DynamicDrug
from glioma_pde.biology.surgery import Resections, ThresholdResections
from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build
from glioma_pde.config import loads
from glioma_pde.delivery import CarrierDoses, Intracavity, Schedule, gaussian
from glioma_pde.errors import ConfigError
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.repeat import experiment_from_file
from glioma_pde.run import resume, run
from glioma_pde.schedule import make_plan, stack
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue
from glioma_pde.window import Window, inner_box

ULP = np.finfo(float).eps
TISSUE = Tissue.phantom("head", (20, 18), 1.0)
SAVES = (0.0, 1.0, 2.0)
CENTRE, RADIUS = (5.0, 0.5), 2.2


def resections(days, radius=RADIUS, centre=CENTRE, margin=0.0, fraction=1.0, closed=True, **more):
    n = len(days)
    kind = ThresholdResections if "threshold" in more else Resections
    centres = jnp.broadcast_to(jnp.asarray(centre, float), (n, len(centre)))
    rest = (jnp.broadcast_to(jnp.asarray(v, float), (n,)) for v in (radius, margin, fraction))
    return kind(jnp.asarray(days, float), centres, *rest, jnp.asarray(1.0), **more, closed=closed)


def model_of(tissue=TISSUE, elliptic=1e-13):
    drug = DynamicDrug(1.5, 2.0, 0.0, uptake_per_day=0.5, secretion_mol_per_cell_per_day=2e-14)
    return Model(tissue, [Tumour(), Carriers(), Attractant(tolerance=elliptic), drug])


def bump(tissue=TISSUE, sigma=2.5):
    return 0.9 * gaussian(tissue.grid, jnp.asarray(CENTRE), jnp.asarray(sigma)) * tissue.mask


def start(tissue=TISSUE):
    return {"tumour": bump(tissue), "carriers": 0.05 * bump(tissue, 4.0)}


def keep(model, carry, medium, day):
    q = model.quantities(carry.x, carry.warm, medium, day, jnp.zeros_like(day))
    return {**carry.x, "attractant": q["attractant"], "inside": model.tissue.mask}


@eqx.filter_jit
def solved(model, schedule, initial, plan):
    return solve(model, schedule, initial, plan, jnp.asarray(SAVES), keep)


MODEL = model_of()
DOSES = CarrierDoses.at_sites([0.4, 1.3], 3e5, [[2.5, 4.5], [-4.5, 0.5]], 1.5, 0.71)
AWAY = np.sqrt(((TISSUE.grid.world_mm() - np.array(CENTRE)[:, None, None]) ** 2).sum(0))
HOLE = (AWAY <= RADIUS) & np.asarray(TISSUE.mask)


def with_cavity(fractions, model=MODEL, initial=None):
    """A run with doses, and operations on days 0 and 1 that take these fractions."""
    schedule = Schedule((resections([0.0, 1.0], fraction=jnp.asarray(fractions)), DOSES))
    plan = make_plan(model, schedule, SAVES, 0.1)
    initial = MODEL.start(start()).x if initial is None else initial
    return solved(model, schedule, initial, plan), schedule


def test_nothing_is_in_a_closed_cavity_and_nothing_is_lost_but_what_is_booked():
    assert MODEL.largest_step() > 0.1
    solution, schedule = with_cavity([0.0, 1.0])
    done = solution.final
    assert 10 < HOLE.sum() < 30
    np.testing.assert_array_equal(done.anatomy["mask"], np.asarray(TISSUE.mask) & ~HOLE)
    np.testing.assert_array_equal(solution["inside"][-1], done.anatomy["mask"])
    outside = ~np.asarray(done.anatomy["mask"])
    for name in (*done.x, "attractant"):
        before, after = np.asarray(solution[name][1]), np.asarray(solution[name][2])
        assert np.all(before[HOLE] > 0), name
        assert np.all(after[outside] == 0), name
        assert np.all(after[~outside] > 0)
    entries = {name: float(sum(v)) for name, v in done.ledger.items()}
    for field, signs in balances(MODEL, schedule.events).items():
        assert f"resected_{field}" in signs
        first, last = (float(TISSUE.grid.integrate(solution[field][k])) for k in (0, 2))
        scale = max(last, *(entries[n] for n in signs))
        assert last - first == pytest.approx(sum(s * entries[n] for n, s in signs.items()), abs=1e-13 * scale)
        taken = float(TISSUE.grid.integrate(jnp.where(HOLE, solution[field][1], 0.0)))
        assert entries[f"resected_{field}"] == pytest.approx(taken, rel=1e-13)
    seen = schedule.events[0].look(MODEL, {n: jnp.asarray(v) for n, v in entries.items()})
    there = float(TISSUE.grid.integrate(solution["tumour"][1]))
    assert float(seen["extent_of_resection"]) == pytest.approx(entries["resected_tumour"] / there, rel=1e-12)
    assert float(seen["resected_volume"]) == HOLE.sum() * TISSUE.grid.cell_volume_mm3
    assert not schedule.events[0].remarks(MODEL, entries)


def test_it_is_the_same_as_an_anatomy_that_had_the_cavity_from_the_start():
    """No flux through its rim, elliptic fields solved without it."""
    after, _ = with_cavity([1.0, 0.0])
    mask = np.asarray(TISSUE.mask) & ~HOLE
    x = {n: jnp.where(mask, v, 0.0) for n, v in MODEL.start(start()).x.items()}
    before, _ = with_cavity([0.0, 0.0], model_of(TISSUE.with_maps({"mask": jnp.asarray(mask)})), x)
    for name in (*after.final.x, "attractant"):
        np.testing.assert_allclose(after[name][2], before[name][2], rtol=1e-10, err_msg=name)


def test_without_an_event_that_alters_it_no_anatomy_is_carried():
    still = resections([1.0], closed=False)
    assert MODEL.start({}, (still, DOSES)).anatomy == {}
    inside = CarrierDoses.along(Intracavity(), [1.0], 1e5)
    assert set(MODEL.start({}, (still, inside)).anatomy) == {"cavity"}
    assert set(MODEL.start({}, (resections([1.0]),)).anatomy) == {"mask"}
    assert set(MODEL.start({}, (resections([1.0]), inside)).anatomy) == {"cavity", "mask"}
    with pytest.raises(ValueError, match=r"CarrierDoses need \['cavity'\]"):
        MODEL.start({}, (inside,))


ROD = Tissue.phantom("slab", (40,), 0.5)
SMALL = Model(ROD, [Tumour(), Carriers(taxis=None, tumour_kill_per_day=3.0)])


def on_rod(event, doses=None):
    """A run of the small model, with doses into the cavity."""
    inside = CarrierDoses.along(Intracavity(jnp.asarray(1.2)), [1.3], 3e4, 0.6, 0.1) if doses is None else doses
    schedule = Schedule((event, inside))
    return schedule, make_plan(SMALL, schedule, SAVES, 0.2)


@eqx.filter_jit
def solved_on_rod(schedule, plan):
    u0 = 0.9 * gaussian(ROD.grid, jnp.asarray([1.0]), jnp.asarray(2.5))
    return solve(SMALL, schedule, {"tumour": u0}, plan, jnp.asarray(SAVES)).final


def test_an_operation_that_takes_nothing_is_no_operation():
    doses = CarrierDoses.at_sites([1.3], 3e4, [[0.5]], 1.0)
    none = solved_on_rod(*on_rod(resections([1.1], centre=(0.9,), fraction=0.0)))
    schedule, plan = on_rod(resections([1.1], centre=(0.9,), closed=False), doses)
    without = solved_on_rod(schedule, replace(plan, events=tuple(-jnp.ones_like(e) for e in plan.events)))
    assert set(none.anatomy) == {"cavity", "mask"}
    assert without.anatomy == {}
    for name in none.x:
        np.testing.assert_allclose(none.x[name], without.x[name], rtol=10 * ULP, err_msg=name)
    # and what was meant for the wall of the cavity found no place
    assert float(none.x["carriers"].max()) == 0
    lost = {n: float(sum(v)) for n, v in none.ledger.items() if n.startswith("carrier_")}
    assert lost["carrier_unplaced"] * 1e5 == pytest.approx(3e4 * 0.9 * 0.6, rel=1e-12)
    assert lost["carrier_backflow"] * 1e5 == pytest.approx(3e4 * 0.1, rel=1e-12)
    assert lost["carrier_delivery"] == 0
    assert "1.62e+04 carriers found no place" in schedule.events[1].remarks(SMALL, lost)[0]


def test_cavities_add_up_at_thresholds_too_and_what_is_empty_is_said():
    model, x = MODEL, MODEL.start(start()).x
    event = resections([0.0, 1.0], radius=3.0, margin=1.0, threshold=jnp.array([0.5, 0.95]))

    @jax.jit
    def act(x, maps, i):
        here = eqx.tree_at(lambda m: m.tissue, model, TISSUE.with_maps(maps))
        return event.jump(x, here, i), event.remodel(x, here, i)

    (after, amounts), maps = act(x, {"mask": TISSUE.mask, "cavity": jnp.zeros_like(TISSUE.mask)}, jnp.asarray(0))
    gone = np.asarray(TISSUE.mask & ~maps["mask"])
    np.testing.assert_array_equal(gone, maps["cavity"])
    assert 5 < gone.sum() < 60
    assert all(np.all(np.asarray(v)[gone] == 0) for v in after.values())
    assert float(amounts["resections_empty"]) == 0
    (again, amounts), same = act(after, maps, jnp.asarray(1))
    assert float(amounts["resections_empty"]) == 1
    assert all(np.array_equal(again[n], after[n]) for n in x)
    np.testing.assert_array_equal(same["cavity"], gone)
    assert "a resection took nothing" in event.remarks(model, {"resections_empty": 1.0})[0]
    # a second ball enlarges the first
    ball = resections([0.0], centre=(-5.0, 0.5))
    there = eqx.tree_at(lambda m: m.tissue, model, TISSUE.with_maps(maps))
    both = ball.remodel(after, there, jnp.asarray(0))["cavity"]
    assert np.all(np.asarray(both)[gone])
    assert np.asarray(both).sum() > gone.sum() + 5


def test_patients_with_different_cavities_share_one_call():
    """Doses of each go into the wall of the own cavity."""
    cases = [on_rod(resections([1.1], centre=(c,))) for c in (0.9, -2.0, 3.1)]
    events = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(schedule for schedule, _ in cases))
    batch = jax.jit(jax.vmap(solved_on_rod.__wrapped__))(events, stack([plan for _, plan in cases]))
    holes = set()
    for k, case in enumerate(cases):
        alone = solved_on_rod(*case)
        holes.add(np.asarray(alone.anatomy["cavity"]).tobytes())
        for name, value in alone.x.items():
            np.testing.assert_allclose(batch.x[name][k], value, rtol=1e-12, err_msg=name)
        assert float(sum(alone.ledger["carrier_unplaced"])) == pytest.approx(0, abs=1e-16)
        assert np.all(np.asarray(alone.x["carriers"])[np.asarray(alone.anatomy["cavity"])] == 0)
    assert len(holes) == 3


@pytest.mark.slow
def test_the_taylor_remainder_is_of_second_order():
    """In a parameter, doses, days and the initial field, through a closed cavity and a dose into its wall."""
    schedule, plan = on_rod(resections([1.1], radius=2.1, centre=(0.9,)))
    event, doses = schedule.events
    u0 = 0.9 * gaussian(ROD.grid, jnp.asarray([1.0]), jnp.asarray(2.5))

    def of_doses(d):
        return (d.cells, d.day, d.retained_fraction, d.backflow_fraction, d.route.thickness_mm)

    theta = {"rho": jnp.asarray(0.1), "u0": u0, "day": event.day, "doses": of_doses(doses)}

    @jax.jit
    @jax.value_and_grad
    def goal(theta):
        m = eqx.tree_at(lambda m: m["tumour"].proliferation_per_day, SMALL, theta["rho"])
        e = eqx.tree_at(lambda e: e.day, event, theta["day"])
        d = eqx.tree_at(of_doses, doses, theta["doses"])
        x = solve(m, Schedule((e, d)), {"tumour": theta["u0"]}, plan, jnp.asarray(SAVES)).final.x
        return jnp.sum(x["tumour"] ** 2) + jnp.sum(x["carriers"] ** 2)

    rng = np.random.default_rng(3)
    scales = {"rho": 0.02, "u0": 0.1, "day": 0.05, "doses": (3e3, 0.05, 0.1, 0.05, 0.1)}
    along = jax.tree.map(lambda v, s: s * jnp.asarray(rng.uniform(0.5, 1.0, jnp.shape(v))), theta, scales)
    along["u0"] = along["u0"] * u0
    value, slope = goal(theta)
    assert all(np.any(np.asarray(v) != 0) for v in jax.tree.leaves(slope))
    total = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(along), strict=True))
    eps = 2.0 ** -np.arange(4, 10)
    rest = [float(goal(jax.tree.map(lambda t, a, e=e: t + e * a, theta, along))[0] - value) - e * total for e in eps]
    orders = np.log2(np.abs(np.divide(rest[:-1], rest[1:])))
    assert np.all(orders >= 1.95), orders


# -- windows, files ---------------------------------------------------------------------------------

TEXT = """
[tissue]
kind = "phantom"
geometry = "box"
shape = [72, 60]
[tumour]
proliferation_per_day = 0.2
diffusivity_white_mm2_per_day = 1.0
initial = { kind = "gaussian", centre_mm = [5.0, 3.0], sigma_mm = 1.5, peak = 0.9 }
[carriers]
taxis = { kind = "none" }
[attractant]
range = "short"
[time]
end_day = 6.0
frame_every_days = 2.0
[numerics]
idle_below_cells = 0
[surgery]
cavity = "closed"
resections = [
  { day = 1.5, centre_mm = [5.0, 3.0], radius_mm = 4.0, at_threshold = 0.2, margin_mm = 1.0 },
  { day = 1.0, centre_mm = [1.5, 3.0], radius_mm = 2.0 },
]
[schedule]
injections = [
  { route = "intracavity", days = [1.5, 3.0], cells = [1e5, 2e5], backflow_fraction = 0.2 },
  { days = [2.5], cells = 1e5, sites_mm = [[9.0, 9.0]], sigma_mm = 1.5 },
]
"""


class Stop(Exception):
    pass


def contents(path):
    with RunFile(path) as file:
        out = {f"{n} {i}": file.field(n, index=i) for n in file.fields for i in range(len(file.days))}
        return (
            out | {n: file.observable(n) for n in file.observables} | {n: file.ledger(n) for n in file.ledger_columns}
        )


@pytest.mark.slow
def test_from_a_configuration_through_a_growing_window_to_the_file_and_again(tmp_path):
    with jax.enable_x64(False):
        experiment = build(loads(TEXT).arms[0])
        result = run(experiment, tmp_path / "a.h5")
        assert len(result.warnings) == 1  # of the speed of fronts
        with RunFile(tmp_path / "a.h5") as file:
            last = file.field("tumour", index=-1)
            x, y = experiment.model.tissue.grid.world_mm()
            hole = (last == 0) & (np.hypot(x - 4.0, y - 3.0) < 8.0)
            assert 30 < hole.sum() < 120
            assert np.all(file.field("tumour", index=0)[hole] > 0)
            for name in ("carriers", "attractant"):
                assert np.all(file.field(name, index=-1)[hole] == 0)
            for name in ("tumour", "carriers"):
                assert np.abs(file.ledger(f"{name}_imbalance")).max() < 2e-6
                assert file.ledger(f"resected_{name}")[-1] > 0 or name == "carriers"
            given = file.observable("carriers_given_cells")
            assert given[-1] == pytest.approx(4e5, rel=1e-6)
            assert file.observable("carriers_backflow_cells")[-1] == pytest.approx(0.2 * 3e5, rel=1e-6)
            delivered = 0.8 * 0.61 * 3e5 + 0.71 * 1e5
            assert file.ledger("carrier_delivery")[-1] == pytest.approx(delivered, rel=1e-6)
            assert file.observable("carriers_delivered_cells")[-1] == pytest.approx(delivered, rel=1e-6)
            assert file.observable("extent_of_resection")[-1] > 0.2
        # nothing that dense: said once the run has ended
        other = build(loads(TEXT.replace("at_threshold = 0.2", "at_threshold = 0.99")).arms[0])
        empty = run(other, tmp_path / "empty.h5")
        assert any("a resection took nothing" in w for w in empty.warnings)
        whole = build(loads(TEXT, sets=["numerics.grow_window=false"]).arms[0])
        run(whole, tmp_path / "w.h5")
        expected, other = contents(tmp_path / "a.h5"), contents(tmp_path / "w.h5")
        for name in ("burden_cells", "carriers_cells", "resected_cells", "resected_volume", "extent_of_resection"):
            np.testing.assert_allclose(expected[name], other[name], rtol=2e-5, err_msg=name)

        def stop(progress):
            if progress.day >= 2.0:
                raise Stop

        with pytest.raises(Stop):
            run(experiment, tmp_path / "b.h5", stop)
        resume(experiment, tmp_path / "b.h5")
        run(experiment_from_file(tmp_path / "a.h5"), tmp_path / "c.h5")
        for name in ("b.h5", "c.h5"):
            found = contents(tmp_path / name)
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                np.testing.assert_array_equal(found[key], value, err_msg=f"{name} {key}")


def test_a_window_holds_all_of_a_cavity_and_of_the_layer_on_it_and_gives_it_back():
    wide = resections([1.0], radius=20.0, centre=(0.0, 0.0))
    tissue = Tissue.phantom("box", (120, 100), 1.0)
    model = Model(tissue, [Tumour()])
    u0 = {"tumour": gaussian(tissue.grid, jnp.zeros(2), jnp.asarray(1.0))}
    plain = inner_box(model, u0, Schedule())
    assert inner_box(model, u0, Schedule((resections([1.0], radius=20.0, centre=(0.0, 0.0), closed=False),))) == plain
    box = inner_box(model, u0, Schedule((wide,)))
    assert all(stop - start >= 64 for start, stop in box)
    inside = CarrierDoses.along(Intracavity(5.0), [1.0], 1e5)
    larger = inner_box(model, u0, Schedule((wide, inside)))
    assert all(b[0] - a[0] >= 5 and a[1] - b[1] >= 5 for a, b in zip(larger, box, strict=True))
    window = Window(box)
    carry = model.start(u0, (wide,))
    cut = window.cut(carry)
    small = window.model(model)
    happen = jax.jit(lambda m, c: m.happen(wide, jnp.asarray(0), c, None))
    back = window.restore(happen(small, cut), tissue)
    direct = happen(model, carry)
    for name, value in direct.anatomy.items():
        np.testing.assert_array_equal(back.anatomy[name], value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('cavity = "closed"', 'cavity = "shut"', "surgery.cavity: should be 'open' or 'closed'"),
        (
            "radius_mm = 2.0", "radius_mm = 2.0, removed_fraction = 0.9",
            "surgery: resections[1].removed_fraction must be 1: nothing is left in a closed cavity",
        ),
        (
            "[[9.0, 9.0]]", "[[2.0, 3.0]]",
            "schedule.injections[1].sites_mm[0]: [2.0, 3.0] mm lies in the closed cavity of surgery.resections[1]",
        ),
        (
            "[1.5, 3.0], cells = [1e5, 2e5]", "[0.5], cells = 1e5",
            "schedule.injections[0]: there is no cavity yet on day 0.5; the first resection is on day 1",
        ),
    ],
)  # fmt: skip
def test_wrong_sections_are_told_in_one_sentence(old, new, message):
    with pytest.raises(ConfigError) as error:
        loads(TEXT.replace(old, new))
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]


def test_a_direct_solve_leaves_the_cavity_alone():
    """A quasi-steady drug on a sphere: nothing in the hole, whatever was there before."""
    tissue = Tissue.radial(24, 0.5)
    model = Model(tissue, [Tumour(), Carriers(taxis=None), Drug(secretion_mol_per_cell_per_day=1e-13)])
    x = {n: jnp.full(tissue.grid.shape, 0.1) for n in ("tumour", "carriers")}
    event = resections([0.0], radius=2.2, centre=(0.0,))

    @jax.jit
    def after(x):
        carry = model.start(x, (event,))
        carry = carry._replace(warm={n: jnp.ones(tissue.grid.shape) for n in carry.warm})
        done = model.happen(event, jnp.asarray(0), carry, model.prepare())
        here, medium = model.now(done.anatomy, None)
        return done, here.quantities(done.x, done.warm, medium, jnp.zeros(()), jnp.zeros(()))

    done, q = after(x)
    hole = np.asarray(~done.anatomy["mask"])
    assert hole.sum() == 4
    assert np.all(np.asarray(q["drug"])[hole] == 0)
    assert np.all(np.asarray(q["drug"])[~hole] > 0)
    assert all(np.all(np.asarray(v)[hole] == 0) for v in done.warm.values())
