"""Resections: what they take and book, on any grid and window, and runs with all treatments from file to file."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.resistance import Resistance
from glioma_pde.biology.surgery import Resections, ThresholdResections, ball, distance_to
from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build, common_shapes
from glioma_pde.config import loads
from glioma_pde.delivery import CarrierDoses, Schedule, gaussian
from glioma_pde.errors import ConfigError
from glioma_pde.grid import Grid
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.repeat import experiment_from_file
from glioma_pde.run import resume, run
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue
from glioma_pde.window import Window, inner_box

ULP = np.finfo(float).eps
TISSUE = Tissue.phantom("head", (20, 18), 1.0)
GRIDS = {
    "ball": Grid.radial(60, 0.25),
    "plane": Grid.cartesian((30, 24), (0.5, 0.7)),
    "box": Grid.cartesian((20, 22, 18), (1.0, 0.8, 1.2)),
}


def resections(days, radius=3.0, centre=(1.0, 0.5), fraction=1.0, margin=0.0, edge=1.0, **more):
    n = len(days)
    kind = ThresholdResections if "threshold" in more else Resections
    return kind(
        jnp.asarray(days, float), jnp.broadcast_to(jnp.asarray(centre, float), (n, len(centre))),
        *(jnp.broadcast_to(jnp.asarray(v, float), (n,)) for v in (radius, margin, fraction)), jnp.asarray(edge),
        **more,
    )  # fmt: skip


def model_of(*more, tissue=TISSUE):
    return Model(tissue, [Tumour(), Carriers(taxis=None, loss_per_day=0.1), Resistance(0.01, 0.0), *more])


def bump(tissue=TISSUE, sigma=2.5, centre=(1.0, 0.5)):
    return 0.9 * gaussian(tissue.grid, jnp.asarray(centre), jnp.asarray(sigma)) * tissue.mask


# -- regions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRIDS)
def test_balls_have_the_volume_of_balls_and_end_where_they_should(name):
    grid = GRIDS[name]
    centre, radius, edge = np.full(grid.ndim, 0.0 if name == "ball" else 0.3), 5.0, 1.5
    r = np.asarray(ball(grid, jnp.asarray(centre), jnp.asarray(radius), edge))
    full = {"ball": 4 / 3 * np.pi * radius**3, "box": 4 / 3 * np.pi * radius**3, "plane": np.pi * radius**2}[name]
    assert float(grid.integrate(jnp.asarray(r))) / grid.thickness_mm ** (name == "plane") == pytest.approx(
        full, rel=0.02
    )
    away = np.sqrt(((grid.world_mm() - centre.reshape(-1, *[1] * grid.ndim)) ** 2).sum(0))
    assert np.all(r[away <= radius - 0.5 * edge] == 1)
    assert np.all(r[away >= radius + 0.5 * edge] == 0)
    assert not np.any(ball(grid, jnp.asarray(centre), jnp.zeros(()), edge))


@pytest.mark.parametrize("name", GRIDS)
def test_distances_are_those_of_a_euclidean_distance_transform(name):
    grid = GRIDS[name]
    flags = np.random.default_rng(1).random(grid.shape) < 0.02
    flags.flat[7] = True
    found = jax.jit(lambda f: distance_to(grid, f))(jnp.asarray(flags))
    np.testing.assert_allclose(found, distance_transform_edt(~flags, sampling=grid.spacing_mm), atol=1e-12)
    assert np.all(np.isinf(distance_to(grid, jnp.zeros(grid.shape, bool))))


def test_at_a_threshold_the_tumour_within_the_ball_and_its_margin_go():
    model, x = model_of(), {"tumour": 0.6 * bump(), "resistant": 0.4 * bump(), "carriers": 0.1 * TISSUE.mask}
    event = resections([1.0], radius=3.2, centre=(3.0, 0.5), margin=2.0, threshold=jnp.array([0.3]))
    after, amounts = jax.jit(lambda x: event.jump(x, model, jnp.asarray(0)))(x)
    # the same by other means: all tumour cells together reach the threshold
    away = np.sqrt(((TISSUE.grid.world_mm() - np.array([3.0, 0.5])[:, None, None]) ** 2).sum(0))
    core = (np.asarray(bump()) >= 0.3) & (away <= 3.2) & np.asarray(TISSUE.mask)
    gone = distance_transform_edt(~core) <= 2.0
    assert 5 < core.sum() < gone.sum() < np.asarray(TISSUE.mask).sum() / 2
    for name, value in x.items():
        assert np.all(np.asarray(after[name])[gone] == 0)
        np.testing.assert_array_equal(np.asarray(after[name])[~gone], np.asarray(value)[~gone])
        lost = float(TISSUE.grid.integrate(value - after[name]))
        assert float(amounts[f"resected_{name}"]) == pytest.approx(lost, rel=1e-13)
    # nothing dense enough, nothing done
    none = eqx.tree_at(lambda e: e.threshold, event, jnp.array([0.95]))
    kept, _ = none.jump(x, model, jnp.asarray(0))
    assert all(np.array_equal(kept[n], x[n]) for n in x)


def test_a_region_of_ones_takes_it_all_and_one_given_as_a_map_is_cut_with_the_window():
    map_ = jnp.asarray(np.random.default_rng(2).random(TISSUE.grid.shape))
    event = resections([1.0], region=map_)
    model, x = model_of(), {"tumour": bump(), "resistant": bump(), "carriers": bump()}
    window = Window(((3, 17), (2, 15)))
    small = window.schedule(Schedule((event,))).events[0]
    whole, _ = event.jump(x, model, jnp.asarray(0))
    cut, _ = small.jump({n: v[window.slices] for n, v in x.items()}, window.model(model), jnp.asarray(0))
    for name in x:
        np.testing.assert_array_equal(cut[name], whole[name][window.slices])
        np.testing.assert_allclose(whole[name], (1.0 - map_) * x[name], rtol=1e-15)
    assert inner_box(model, {"tumour": x["tumour"]}, Schedule()) == inner_box(
        model, {"tumour": x["tumour"]}, Schedule((event,))
    )


# -- in a run --------------------------------------------------------------------------------------

SAVES = (0.0, 2.0, 4.0)


@eqx.filter_jit
def final(model, schedule, initial, plan):
    return solve(model, schedule, initial, plan, jnp.asarray(SAVES))


def treated(event, plan=None):
    model = model_of()
    schedule = Schedule((CarrierDoses.at_sites([0.0, 2.6], 3e5, [[3.0, 0.5], [-1.0, 0.5]], 1.5), event))
    plan = make_plan(model, schedule, SAVES, 0.5) if plan is None else plan
    return final(model, schedule, {"tumour": bump()}, plan), schedule, plan


def test_the_ledger_closes_and_the_extent_is_what_was_taken():
    model = model_of()
    events = resections([0.0, 2.0])
    solution, schedule, _ = treated(events)
    done = solution.final
    entries = {name: float(sum(v)) for name, v in done.ledger.items()}
    for field, signs in balances(model, schedule.events).items():
        assert f"resected_{field}" in signs
        assert float(done.x[field].min()) >= 0
        total = float(TISSUE.grid.integrate(done.x[field]))
        start = float(TISSUE.grid.integrate(bump())) if field == "tumour" else 0.0
        assert total - start == pytest.approx(sum(s * entries[n] for n, s in signs.items()), abs=1e-13 * 60)
        assert entries[f"resected_{field}"] > 0
    seen = events.look(model, {n: jnp.asarray(v) for n, v in entries.items()})
    taken = entries["resected_tumour"] + entries["resected_resistant"]
    assert float(seen["resected_cells"]) == pytest.approx(1e5 * taken, rel=1e-12)
    assert float(seen["extent_of_resection"]) == pytest.approx(taken / entries["resection_present"], rel=1e-12)
    # days are saved before their events: the operations found what was there
    there = solution["tumour"][:2] + solution["resistant"][:2]
    present = sum(float(TISSUE.grid.integrate(u)) for u in there)
    assert entries["resection_present"] == pytest.approx(present, rel=1e-12)


def test_nothing_removed_is_no_operation():
    solution, _, plan = treated(resections([0.0, 2.0], fraction=0.0))
    without = eqx.tree_at(lambda p: p.events[1], plan, -jnp.ones_like(plan.events[1]))
    bare = treated(resections([0.0, 2.0], fraction=0.0), plan=without)[0]
    done = solution.final
    for name in done.x:
        np.testing.assert_allclose(done.x[name], bare.final.x[name], rtol=10 * ULP, atol=0)
    assert all(float(sum(v)) == 0 for n, v in done.ledger.items() if n.startswith("resected"))


def test_without_the_field_it_acts_on_an_event_is_refused():
    carriers = Model(TISSUE, [Carriers(taxis=None)])
    with pytest.raises(ValueError, match=r"Resections need \['tumour'\]"):
        carriers.start({}, (resections([1.0]),))
    with pytest.raises(ValueError, match=r"CarrierDoses need \['carriers'\]"):
        Model(TISSUE, [Tumour()]).start({}, (CarrierDoses.at_sites([0.0], 1.0, [[0.0, 0.0]], 1.0),))


@pytest.mark.parametrize("at_threshold", [False, True])
def test_the_taylor_remainder_is_of_second_order(at_threshold):
    """Balls in their days (one a save day), places, sizes and fractions; at a threshold in days and fractions."""
    rod = Tissue.phantom("slab", (40,), 0.5)
    model = Model(rod, [Tumour(), Resistance(0.01, 0.0)])
    more = {"threshold": jnp.array([0.2, 0.05])} if at_threshold else {}
    base = resections([1.3, 2.0], centre=(0.9,), fraction=0.7, margin=0.5, **more)
    parts = ["day", "removed_fraction"] + ([] if at_threshold else ["centre_mm", "radius_mm", "margin_mm", "edge_mm"])
    plan = make_plan(model, Schedule((base,)), SAVES, 0.5)
    theta = {n: getattr(base, n) for n in parts}

    @jax.jit
    def goal(theta):
        event = eqx.tree_at(lambda e: [getattr(e, n) for n in theta], base, list(theta.values()))
        x = final(model, Schedule((event,)), {"tumour": bump(rod, centre=(1.0,))}, plan).final.x
        return jnp.sum(x["tumour"] ** 2) + jnp.sum(x["resistant"])

    rng = np.random.default_rng(5)
    scale = {"day": 0.05, "removed_fraction": 0.1, "centre_mm": 0.2, "radius_mm": 0.2, "margin_mm": 0.1, "edge_mm": 0.1}
    along = {n: scale[n] * jnp.asarray(rng.uniform(0.5, 1.0, np.shape(v))) for n, v in theta.items()}
    value, slope = jax.jit(jax.value_and_grad(goal))(theta)
    assert all(np.all(np.asarray(v) != 0) for v in slope.values())
    total = sum(float(jnp.vdot(slope[n], along[n])) for n in parts)
    eps = 2.0 ** -np.arange(4, 10)
    rest = [float(goal({n: theta[n] + e * along[n] for n in parts}) - value) - e * total for e in eps]
    orders = np.log2(np.abs(np.divide(rest[:-1], rest[1:])))
    assert np.all(orders >= 1.95), orders


# -- from the configuration to the file ----------------------------------------------------------------

TEXT = """
[tissue]
kind = "phantom"
geometry = "head"
shape = [24, 20]
[tumour]
proliferation_per_day = 0.1
initial = { kind = "gaussian", centre_mm = [5.0, 3.0], sigma_mm = 1.5, peak = 0.9 }
[time]
end_day = 4.0
frame_every_days = 2.0
[resistance]
spontaneous_per_day = 0.02
[temozolomide]
combination = "bliss"
doses = [{ every = { from_day = 2.5, days = 0.5, count = 2 }, dose_mg_per_m2 = 200 }]
[surgery]
resections = [
  { day = 1.5, centre_mm = [5.0, 3.0], radius_mm = 3.0, at_threshold = 0.2, margin_mm = 1.0 },
  { day = 1.0, centre_mm = [4.0, 3.0], radius_mm = 1.0 },
]
[arms.both]
[arms.none]
without = ["resistance", "temozolomide", "surgery"]
[arms.once]
surgery.resections = [{ day = 1.0, centre_mm = [4.0, 3.0], radius_mm = 2.0 }]
temozolomide.doses = []
"""


class Stop(Exception):
    pass


def contents(path):
    with RunFile(path) as file:
        out = {f"{n} {i}": file.field(n, index=i) for n in file.fields for i in range(len(file.days))}
        return (
            out | {n: file.observable(n) for n in file.observables} | {n: file.ledger(n) for n in file.ledger_columns}
        )


def test_all_treatments_run_from_a_configuration_to_the_file_and_again_from_it(tmp_path):
    with jax.enable_x64(False):
        study = loads(TEXT)
        experiment = build(study.arms[0], shapes=common_shapes(study.arms))
        result = run(experiment, tmp_path / "a.h5")
        with RunFile(tmp_path / "a.h5") as file:
            assert {"tumour", "resistant", "tumour_cells"} == set(file.fields)
            tumour, resistant, both = (file.field(n, index=-1) for n in ("tumour", "resistant", "tumour_cells"))
            np.testing.assert_allclose(both, tumour + resistant, rtol=1e-6)
            assert resistant.max() > 0
            cells = 1e5 * both.sum() * experiment.model.tissue.grid.cell_volume_mm3
            assert file.observable("burden_cells")[-1] == pytest.approx(cells, rel=1e-5)
            days, burden = file.observable_days, file.observable("burden_cells")
            extent, csf = file.observable("extent_of_resection"), file.observable("temozolomide_csf")
            assert list(extent > 0) == [bool(d > 1.0) for d in days]
            assert burden[days == 2.0] < 0.3 * burden[days == 1.0]
            assert list(csf > 0) == [bool(d > 2.5) for d in days]
            for name in ("tumour", "resistant"):
                assert np.abs(file.ledger(f"{name}_imbalance")).max() < 2e-6
                assert file.ledger(f"resected_{name}")[-1] > 0
                assert file.ledger("temozolomide_kill" + ("" if name == "tumour" else f"_{name}"))[-1] > 0
            assert {"resections", "temozolomide"} <= set(file.schedule_names)
            table = file.schedule("resections")
            assert list(table["day"]) == [1.5, 1.0]
            assert table["threshold"][0] == 0.2
            assert np.isnan(table["threshold"][1])
            assert list(file.schedule("temozolomide")["dose_mg_per_m2"]) == [200.0, 200.0]
        assert result.summary["extent_of_resection"] == extent[-1]
        assert "resected_cells" in result.more

        # interrupted and resumed, and repeated from its own file: the same bits
        def stop(progress):
            if progress.day >= 2.0:
                raise Stop

        with pytest.raises(Stop):
            run(experiment, tmp_path / "b.h5", stop)
        resume(experiment, tmp_path / "b.h5")
        run(experiment_from_file(tmp_path / "a.h5"), tmp_path / "c.h5")
        expected = contents(tmp_path / "a.h5")
        for other in ("b.h5", "c.h5"):
            found = contents(tmp_path / other)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_arms_share_shapes_and_what_is_off_is_absent():
    study = loads(TEXT)
    shapes = common_shapes(study.arms)
    assert shapes == {"temozolomide.doses": 2, "surgery.balls": 1, "surgery.thresholds": 1}
    with jax.enable_x64(False):
        none, once = (build(study.arms[i], shapes=shapes) for i in (1, 2))
    assert [m.name for m in none.model.modules] == ["tumour"]
    assert none.schedule.events == ()
    assert [type(e) for e in once.schedule.events] == [Resections]
    assert once.model["temozolomide"].doses.day.shape == (2,)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("day = 1.5", "day = 4.0", "surgery.resections[0]: day 4 is not before time.end_day = 4"),
        ("[5.0, 3.0], radius", "[5.0], radius", "surgery.resections[0].centre_mm: [5.0] has 1 coordinates"),
        ("[5.0, 3.0], radius", "[50.0, 3.0], radius", "surgery.resections[0].centre_mm: [50.0, 3.0] mm is outside"),
        ("radius_mm = 3.0", "radius_mm = 0", "surgery.resections[0].radius_mm: should be greater than 0"),
        ("at_threshold = 0.2", "at_threshold = 1.2", "surgery.resections[0].at_threshold: should be less than 1"),
        ("at_threshold", "threshold", "surgery.resections[0].threshold: unknown key; did you mean 'at_threshold'?"),
        ("[surgery]", "[surgery]\ncavity = 'shut'", "surgery.cavity: should be 'open' or 'closed'"),
    ],
)
def test_wrong_sections_are_told_in_one_sentence(old, new, message):
    text = TEXT.partition("[arms.both]")[0]
    with pytest.raises(ConfigError) as error:
        loads(text.replace(old, new))
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (
            "[{ day = 1.0, centre_mm = [0.0, 0.0], radius_mm = -3.0 }]",
            "resections[0].radius_mm: should be greater than 0 (it is -3.0)",
        ),
        ("[]", "resections: should have at least 1 entry (it has 0)"),
    ],
)
def test_the_only_resection_is_told_once(listed, message):
    text = f"{TEXT.partition('[surgery]')[0]}[surgery]\nresections = {listed}\n"
    with pytest.raises(ConfigError) as error:
        loads(text)
    assert error.value.problems == [f"surgery.{message}"]


def test_a_resection_outside_the_brain_is_told_with_the_nearest_tissue():
    text = TEXT.partition("[arms.both]")[0].replace("[4.0, 3.0]", "[11.0, 9.0]")
    with jax.enable_x64(False), pytest.raises(ConfigError, match=r"resections\[1\].centre_mm.*not in brain tissue"):
        build(loads(text).arms[0])
