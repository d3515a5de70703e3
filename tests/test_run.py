"""Runs from a configuration to the file: right numbers, the same after a break, and the same from the file alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from glioma_pde import manifest
from glioma_pde.biology.attractant import Attractant
from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build
from glioma_pde.config import loads
from glioma_pde.delivery import Schedule
from glioma_pde.errors import ConfigError, GliomaError
from glioma_pde.io.checkpoint import load_checkpoint, save_checkpoint
from glioma_pde.io.export import export_nifti
from glioma_pde.io.hdf5 import RunFile, RunWriter
from glioma_pde.ledger import steady_balances
from glioma_pde.model import Model
from glioma_pde.observe import observe, rim, trends
from glioma_pde.repeat import experiment_from_file
from glioma_pde.run import RIM_TOLERANCE, _Loop, checkpoint_path, output_size, resume, run
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue
from glioma_pde.window import Window, inner_box

TINY = """
title = "Tiny"
[tissue]
kind = "phantom"
geometry = "head"
shape = [24, 20]
spacing_mm = 1.0
[tumour]
proliferation_per_day = 0.1
initial = { kind = "gaussian", centre_mm = [5.0, 3.0], sigma_mm = 1.5, peak = 0.9 }
[carriers]
loss_per_day = 0.1
crowding = 0.5
[attractant]
[prodrug]
courses = [{ start_day = 1.0, end_day = 3.0, dose_mg_per_kg_per_day = 150.0 }]
[drug]
uptake_per_day = 20.0
[[schedule.injections]]
days = [0.0, 2.5]
cells = 2e5
sites_mm = [[4.0, 6.0], [6.0, -1.0]]
sigma_mm = 1.5
retained_fraction = 1.0
[time]
end_day = 4.0
frame_every_days = 2.0
[outcome]
compare_days = [3.0]
"""
"""All modules on; its shape is shared by the tests so that they compile once."""

FIELDS = ("tumour", "carriers", "attractant", "prodrug", "drug")


@pytest.fixture(scope="module", autouse=True)
def single_precision():
    """The state in which the command line runs."""
    with jax.enable_x64(False):
        yield


def experiment_of(sets=(), text=TINY):
    return build(loads(text, "tiny.toml", sets).arms[0])


def contents(path) -> dict[str, np.ndarray]:
    """Everything in a run file that the simulation computed."""
    with RunFile(path) as file:
        out = {"days": file.days, "observable_days": file.observable_days}
        for i in range(len(file.days)):
            out |= {f"{name} {i}": file.field(name, index=i) for name in file.fields}
        out |= {name: file.observable(name) for name in file.observables}
        out |= {f"ledger {name}": file.ledger(name) for name in file.ledger_columns}
    return out


def check_same_bits(one, other) -> None:
    a, b = contents(one), contents(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name, strict=True)


@pytest.fixture(scope="module")
def whole(single_precision, tmp_path_factory):
    """One uninterrupted run: its experiment, file, result and reported days."""
    experiment = experiment_of()
    path = tmp_path_factory.mktemp("whole") / "run.h5"
    reports = []
    result = run(experiment, path, reports.append, TINY)
    return experiment, path, result, reports


class Stop(Exception):
    pass


def interrupt_after(day: float):
    def report(progress) -> None:
        if progress.day >= day:
            raise Stop

    return report


# -- what the file holds ----------------------------------------------------------------------------


def test_file_agrees_with_solve_of_the_same_plan(whole):
    experiment, path, _, _ = whole
    outcome = experiment.config.outcome

    def save(model, carry, medium, day):
        q = model.quantities(carry.x, carry.warm, medium, day, jnp.zeros_like(day))
        fields = {f.name: carry.x.get(f.name, q.get(f.name)) for f in model.outputs}
        seen = observe(model, carry, q, outcome.t1gd_threshold, outcome.flair_threshold)
        return fields, seen, {k: v[0] + v[1] for k, v in carry.ledger.items()}

    fields, seen, entries = eqx.filter_jit(solve)(
        experiment.model, experiment.schedule, experiment.initial, experiment.plan, experiment.days, save
    ).saved
    frames = sorted(experiment.frames)
    capacity = experiment.config.capacity_cells_per_mm3
    moles = {entry for signs in steady_balances(experiment.model).values() for entry in signs}
    with RunFile(path) as file:
        np.testing.assert_array_equal(file.observable_days, experiment.days)
        np.testing.assert_array_equal(file.days, experiment.days[frames])
        assert set(file.fields) == set(fields) == set(FIELDS)
        for name in file.fields:
            for i, j in enumerate(frames):
                wanted = np.asarray(fields[name][j])
                top = max(float(np.abs(wanted).max()), 1e-30)
                np.testing.assert_allclose(file.field(name, index=i) / top, wanted / top, atol=3e-6, err_msg=name)
        given = {o.name for e in experiment.schedule.events for o in e.scalars}
        assert set(file.observables) == {*seen, *trends([0.0], [0.0], [0.0]), *given, "carriers_displacement"}
        for name in seen:
            wanted = np.asarray(seen[name], float)
            top = float(np.abs(wanted).max())
            np.testing.assert_allclose(file.observable(name), wanted, rtol=1e-5, atol=1e-5 * top, err_msg=name)
        for name in set(file.ledger_columns) & set(entries):
            wanted = np.asarray(entries[name], float) * (1.0 if name in moles else capacity)
            top = float(np.abs(wanted).max())
            np.testing.assert_allclose(file.ledger(name), wanted, rtol=1e-5, atol=1e-5 * top, err_msg=name)


def test_everything_happens_in_the_tiny_run(whole):
    _, path, result, _ = whole
    with RunFile(path) as file:
        for name in FIELDS:
            assert max(file.field(name, index=i).max() for i in range(3)) > 0, name
        for name in ("carrier_delivery", "carrier_loss", "drug_kill", "tumour_growth"):
            assert file.ledger(name)[-1] > 0, name
    assert result.summary["drug_peak"] > 0


def test_ledger_closes_and_counts_the_doses(whole):
    experiment, path, _, _ = whole
    with RunFile(path) as file:
        for name in ("tumour", "carriers"):
            assert np.abs(file.ledger(f"{name}_imbalance")).max() < 2e-6
        # what is made of the prodrug, enters, decays and is taken up: to the tolerance of the solver
        assert np.abs(file.ledger("prodrug_imbalance")).max() < 1e-5
        assert np.abs(file.ledger("drug_imbalance")).max() < experiment.config.numerics.elliptic_tolerance
        for name in ("prodrug_entered", "prodrug_converted", "drug_released", "drug_decay", "drug_uptake"):
            assert file.ledger(name)[-1] > 0, name
        np.testing.assert_allclose(file.ledger("tumour_total"), file.observable("burden_cells"), rtol=1e-6)
        # rows are taken before the events of their instant
        np.testing.assert_allclose(file.ledger("carrier_delivery"), [0, 2e5, 2e5, 4e5, 4e5], rtol=1e-6)


def test_nothing_is_outside_the_tissue_or_below_zero(whole):
    experiment, path, _, _ = whole
    outside = ~np.asarray(experiment.model.tissue.mask)
    with RunFile(path) as file:
        np.testing.assert_array_equal(file.tissue("mask").astype(bool), ~outside)
        for name in FIELDS:
            for i in range(3):
                field = file.field(name, index=i)
                assert np.all(field[outside] == 0), name
                assert np.all(field >= 0), name


def test_observables_are_those_of_the_stored_frames(whole):
    experiment, path, _, _ = whole
    rows = sorted(experiment.frames)
    with RunFile(path) as file:
        for i, row in enumerate(rows):
            u = file.field("tumour", index=i).astype(float)
            assert file.observable("burden_cells")[row] == pytest.approx(u.sum() * 1e5, rel=1e-5)
            assert file.observable("t1gd_volume")[row] == (u >= np.float32(0.8)).sum()
            assert file.observable("tumour_peak")[row] == u.max()
            assert file.observable("rim_density")[row] == float(rim(jnp.asarray(u)))


def test_result_progress_and_attributes(whole):
    experiment, path, result, reports = whole
    assert result.status == "finished"
    assert [p.day for p in reports] == [1.0, 2.0, 3.0, 4.0]
    assert all(p.arm == "run" and p.end_day == 4.0 and p.elapsed_s > 0 and p.remaining_s >= 0 for p in reports)
    assert reports[-1].remaining_s == 0
    np.testing.assert_array_equal(result.course.days, experiment.days)
    assert not checkpoint_path(path).exists()
    with RunFile(path) as file:
        assert file.attrs["status"] == "finished"
        assert file.config_text == TINY
        assert file.summary["burden_day3"] == pytest.approx(file.observable("burden_cells")[3])
        assert {row.name: row.value for row in file.parameters()}["tumour.proliferation_per_day"] == 0.1
        assert file.schedule("injections")["cells"].sum() == 4e5


def test_run_stops_at_the_burden_and_stores_that_day(tmp_path):
    harmless = "drug.kill={kind='hill', emax_per_day=0.0}"
    burden = run(experiment_of([harmless]), tmp_path / "whole.h5").course.values["burden_cells"]
    assert np.all(np.diff(burden) > 0)
    limit = 0.5 * (burden[2] + burden[3])
    result = run(experiment_of([harmless, f"time.stop_at_cells={limit}"]), tmp_path / "stopped.h5")
    assert result.status.startswith("stopped: burden reached")
    assert result.course.days[-1] == 3.0
    with RunFile(tmp_path / "stopped.h5") as file:
        assert file.attrs["status"] == result.status
        np.testing.assert_array_equal(file.days, [0.0, 2.0, 3.0])
        np.testing.assert_array_equal(file.observable("burden_cells"), burden[:4])


def test_a_dose_on_an_observation_day_that_is_no_short_number_wakes_the_model(tmp_path):
    """Day 2.3 is not 2.3 in single precision; the plan and the choice of the model must agree on its side."""
    sets = ["schedule.injections=[{days=[2.3, 2.7], cells=2e5, sites_mm=[[4.0, 6.0], [6.0, -1.0]], sigma_mm=1.5}]"]
    sets += ["outcome.compare_days=[2.3]", "time.end_day=3.0"]
    courses = {}
    for idle in (0, 1):
        result = run(experiment_of([*sets, f"numerics.idle_below_cells={idle}"]), tmp_path / f"{idle}.h5")
        courses[idle] = result.course
    assert courses[1].days.tolist() == [0.0, 1.0, 2.0, 2.3, 3.0]
    assert courses[1].at("carriers_cells", 2.3) == 0.0  # a day's row comes before its doses
    assert courses[1].values["carriers_cells"][-1] > 0.0
    assert courses[1].values["drug_exposure_tumour"][-1] > 0.0
    for name, values in courses[0].values.items():
        np.testing.assert_allclose(courses[1].values[name], values, rtol=1e-5, err_msg=name)


def test_a_run_killed_as_it_stops_gets_no_further_row(tmp_path, monkeypatch):
    """Between the checkpoint of the last frame and the end of the file there is a moment to die in."""
    limit = 0.5 * run(experiment_of(), tmp_path / "whole.h5").course.values["burden_cells"][2:4].sum()
    experiment = experiment_of([f"time.stop_at_cells={limit}"])
    straight, broken = tmp_path / "straight.h5", tmp_path / "broken.h5"
    run(experiment, straight)

    def die(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(RunWriter, "finish", die)
        with pytest.raises(Stop):
            run(experiment, broken)
    assert resume(experiment, broken).status.startswith("stopped: burden reached")
    check_same_bits(straight, broken)


# -- interrupted, resumed, repeated -------------------------------------------------------------------


@pytest.mark.parametrize("day", [1.0, 3.0])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, whole, day):
    experiment, path, result, _ = whole
    broken = tmp_path / "broken.h5"
    with pytest.raises(Stop):
        run(experiment, broken, interrupt_after(day), TINY)
    with RunFile(broken) as file:
        assert file.attrs["status"] == "running"
        assert file.days[-1] <= day
    again = resume(experiment_from_file(broken), broken)
    check_same_bits(path, broken)
    assert again.summary == result.summary
    assert again.warnings == result.warnings
    assert again.status == "finished"
    assert not checkpoint_path(broken).exists()


def test_a_run_can_be_interrupted_more_than_once(tmp_path, whole):
    experiment, path, _, _ = whole
    broken = tmp_path / "broken.h5"
    with pytest.raises(Stop):
        run(experiment, broken, interrupt_after(1.0), TINY)
    with pytest.raises(Stop):
        resume(experiment, broken, interrupt_after(3.0))
    resume(experiment, broken)
    check_same_bits(path, broken)


def test_resuming_what_cannot_be_resumed_says_so(tmp_path, whole):
    experiment, path, _, _ = whole
    with pytest.raises(GliomaError, match="no checkpoint"):
        resume(experiment, path)
    broken = tmp_path / "broken.h5"
    with pytest.raises(Stop):
        run(experiment, broken, interrupt_after(1.0))
    with pytest.raises(GliomaError, match="another configuration"):
        resume(experiment_of(["drug.decay_per_day=82"]), broken)


def test_resuming_with_other_versions_says_so(tmp_path, whole, monkeypatch):
    experiment, path, _, _ = whole
    broken = tmp_path / "broken.h5"
    with pytest.raises(Stop):
        run(experiment, broken, interrupt_after(2.0))
    now = manifest.versions()
    monkeypatch.setattr(manifest, "versions", lambda: now | {"jax": "0.0.1", "backend": "abacus"})
    with pytest.warns(UserWarning, match=rf"begun with jax {now['jax']} \(now 0\.0\.1\), backend cpu \(now abacus\)"):
        resume(experiment, broken)
    check_same_bits(path, broken)


def test_versions_that_a_file_says_oddly_or_not_at_all_are_no_matter():
    for odd in ({}, {"versions": "x"}, {"versions": "[1]"}, {"versions": "{}"}, {"versions": 3.0}):
        assert manifest.changes_since(odd) == ""
    long = manifest.changes_since({"versions": json.dumps({"jax": "9" * 1000 + "\x1b"}), "git_revision": "x"})
    assert len(long) < 150
    assert long.isprintable()


def test_resuming_asks_for_room_as_a_run_does(tmp_path, whole, monkeypatch):
    experiment = whole[0]
    broken = tmp_path / "broken.h5"
    with pytest.raises(Stop):
        run(experiment, broken, interrupt_after(2.0))
    before = broken.read_bytes()
    there = broken.stat().st_size
    needed = max(there, output_size(experiment).file + output_size(experiment).beside - there)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(GliomaError, match="the output needs about"):
        resume(experiment, broken)
    assert broken.read_bytes() == before
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    resume(experiment, broken)


@pytest.mark.parametrize("change", [{"control": ...}, {"interval": "x"}, {"box": 3}, {"start_totals": ...}])
def test_a_checkpoint_of_another_version_is_refused(tmp_path, whole, change):
    experiment = whole[0]
    broken = tmp_path / "broken.h5"
    with pytest.raises(Stop):
        run(experiment, broken, interrupt_after(2.0))
    arrays, meta = load_checkpoint(checkpoint_path(broken))
    meta = {k: v for k, v in (meta | change).items() if v is not ...}
    save_checkpoint(checkpoint_path(broken), arrays, meta)
    with pytest.raises(GliomaError, match="does not fit this model"):
        resume(experiment, broken)


def test_a_run_repeats_from_its_file_alone(tmp_path, whole):
    _, path, _, _ = whole
    again = experiment_from_file(path)
    assert again.config.to_json() == whole[0].config.to_json()
    run(again, tmp_path / "again.h5", config_text=TINY)
    check_same_bits(path, tmp_path / "again.h5")


# -- trouble ------------------------------------------------------------------------------------------


def test_a_field_that_stops_being_finite_is_named_with_arm_and_day(tmp_path, whole):
    experiment = whole[0]
    model = eqx.tree_at(lambda m: m["tumour"].proliferation_per_day, experiment.model, jnp.asarray(np.nan, jnp.float32))
    path = tmp_path / "nan.h5"
    with pytest.raises(
        GliomaError, match=r"Arm 'run': .* by day 1 \(NaN or overflow\).*glioma-pde resume .*nan\.h5.*float64"
    ) as caught:
        run(replace(experiment, model=model), path)
    assert caught.value.exit_code == 1
    with RunFile(path) as file:
        np.testing.assert_array_equal(file.days, [0.0])
        assert np.isfinite(file.field("tumour", index=0)).all()


def test_rows_before_a_failure_are_in_the_file(tmp_path, whole):
    experiment = whole[0]
    days = [d for d in experiment.days if d < 2.0]
    poison = np.array(experiment.schedule.events[0].cells)
    poison[1] = np.nan  # the dose on day 2.5
    schedule = eqx.tree_at(lambda s: s.events[0].cells, experiment.schedule, jnp.asarray(poison))
    path = tmp_path / "late.h5"
    with pytest.raises(GliomaError, match="by day 3"):
        run(replace(experiment, schedule=schedule, frames=frozenset({0})), path)
    with RunFile(path) as file:
        np.testing.assert_array_equal(file.observable_days, [*days, 2.0])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("tumour.initial.centre_mm=[11.9, 9.9]", "is not in brain tissue; the nearest tissue is at"),
        ("tumour.initial={kind='gaussian', centre_mm=[5.0, 3.0], sigma_mm=1.0, cells=1e7}", "of the carrying capacity"),
        ("schedule.injections=[{days=[1.0], cells=1.0, sites_mm=[[4.0, 6.0]], sigma_mm=0.4}]", "cannot resolve it"),
        (
            "schedule.injections=[{days=[1.0], cells=1e6, sites_mm=[[4.0, 6.0]], sigma_mm=1.0, retained_fraction=1}]",
            "use sigma_mm of at",
        ),
        ("schedule.injections=[{days=[1.0], cells=1e9, sites_mm=[[4.0, 6.0]], sigma_mm=1.0}]", "sites apart"),
        ("schedule.injections=[{days=[1.0], cells=1.0, sites_mm=[[-11.9, 9.9]], sigma_mm=1.0}]", "nearest tissue"),
        ("numerics.precision='float64'", "jax_enable_x64"),
        (
            "tumour.initial={kind='gaussian', centre_mm=[5.0, 3.0], sigma_mm=0.01, peak=0.9}",
            r"initial\.sigma_mm: .*resolve",
        ),
    ],
)
def test_what_only_the_anatomy_shows_is_a_config_error(change, expected):
    with pytest.raises(ConfigError, match=expected):
        experiment_of([change])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("carriers.diffusivity_white_mm2_per_day=1e4", "carriers: it stays non-negative .* more than 10⁷"),
        ("drug.dynamics=dynamic", "drug: it stays non-negative .* more than 10⁷.*drug.dynamics = 'quasi_steady'"),
    ],
)
def test_a_field_that_needs_more_steps_than_fit_into_memory_is_named(change, expected):
    long = ["time.end_day=1e5", "time.observe_every_days=1e4", "time.frame_every_days=1e4"]
    with pytest.raises(ConfigError, match=expected):
        experiment_of([*long, change])


def test_an_image_without_tumour_in_the_tissue_is_refused(tmp_path):
    text = TINY.split("[carriers]")[0].replace("[24, 20]", "[14, 12, 10]") + "[time]\nend_day = 1.0\n"
    matrix = Tissue.phantom("head", (14, 12, 10)).grid.matrix
    image = np.zeros((14, 12, 10), np.float32)
    image[0, 0, 0] = 0.5
    nib.save(nib.Nifti1Image(image, matrix), tmp_path / "u.nii")
    arm = loads(text, sets=["tumour.initial={kind='nifti', path='u.nii'}"], folder=tmp_path).arms[0]
    with pytest.raises(ConfigError, match=r"tumour\.initial\.path: u\.nii holds no tumour"):
        build(arm)


def test_a_therapy_is_built_of_few_programs():
    """Outside of a program JAX compiles each operation for each new shape: setting up is left to NumPy for the most part."""
    compiled = []

    def listen(event, *_, **__):
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        experiment_of(["tissue.shape=[23, 19]"])
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert 3 <= compiled.count("/jax/core/compile/backend_compile_duration") <= 10


def test_the_advised_sigma_is_enough_away_from_walls():
    text = TINY.replace('"head"', '"box"')
    dose = "schedule.injections=[{{days=[1.0], cells=1e6, sites_mm=[[0.0, 0.0]], sigma_mm={}, retained_fraction=1}}]"
    with pytest.raises(ConfigError) as caught:
        experiment_of([dose.format(1.0)], text)
    advice = float(str(caught.value).split("sigma_mm of at least ")[1].split(",")[0])
    experiment_of([dose.format(advice)], text)


def test_a_rim_that_the_tumour_reaches_is_reported(tmp_path):
    text = TINY.replace('"head"', '"box"').replace("[5.0, 3.0]", "[10.0, 3.0]")
    result = run(experiment_of(text=text), tmp_path / "rim.h5")
    assert result.summary["largest_rim_density"] > RIM_TOLERANCE
    assert any("rim" in w for w in result.warnings)


def test_single_precision_traces_where_double_is_enabled():
    with jax.enable_x64(True):
        e = experiment_of()
        assert e.model.tissue.white.dtype == jnp.float32
        final = eqx.filter_eval_shape(solve, e.model, e.schedule, e.initial, e.plan, e.days).final
    assert {leaf.dtype for leaf in jax.tree.leaves(final)} == {np.dtype(np.float32)}


# -- windows and sides --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_larger_anatomy_gives_the_same_answer(tmp_path):
    text = TINY.replace('"head"', '"box"').replace("[5.0, 3.0]", "[1.0, 1.0]")
    text = text.replace("[[4.0, 6.0], [6.0, -1.0]]", "[[-1.0, 0.0]]")
    text = text.replace("[tumour]", "[tumour]\ndiffusivity_white_mm2_per_day = 0.01")
    text = text.replace("sigma_mm = 1.5, peak", "sigma_mm = 1.0, peak")
    text = text.replace("[attractant]", '[attractant]\nrange = "short"')  # 0.3 mm: the wall is many ranges away
    small, large = tmp_path / "small.h5", tmp_path / "large.h5"
    # in double precision, since the attractant is solved to a tolerance relative to the whole field
    sets = ["numerics.elliptic_tolerance=1e-12", "numerics.precision=float64"]
    with jax.enable_x64(True):
        run(experiment_of(sets, text), small)
        run(experiment_of(sets, text.replace("[24, 20]", "[30, 26]")), large)
    with RunFile(small) as a, RunFile(large) as b:
        for name in ("tumour", "carriers", "attractant", "drug"):
            x, y = a.field(name, day=4.0), b.field(name, day=4.0)[3:-3, 3:-3]
            np.testing.assert_allclose(x, y, atol=3e-6 * max(float(y.max()), 1.0), err_msg=name)


WIDE = TINY.replace("spacing_mm = 1.0", "spacing_mm = 4.0").replace("[5.0, 3.0]", "[18.0, 2.0]")
WIDE = WIDE.replace("[[4.0, 6.0], [6.0, -1.0]]", "[[18.0, 6.0]]").replace("sigma_mm = 1.5", "sigma_mm = 3.0")
WIDE = WIDE.replace("end_day = 4.0", "end_day = 4.0\nstep_days = 0.25")


SELDOM = WIDE.split("[carriers]")[0] + "[time]\nend_day = 4.0\nstep_days = 0.25\nframe_every_days = 4.0\n"
SELDOM += "observe_every_days = 4.0\n"
"""A tumour by itself, and nobody looks before the last day."""


@pytest.mark.parametrize(
    ("text", "diffusivity"), [(WIDE, 0.13), (WIDE, 8.0), (SELDOM, 8.0)], ids=["slow", "grows", "seldom"]
)
def test_a_growing_window_changes_nothing(tmp_path, text, diffusivity):
    paths = {}
    for grows in ("true", "false"):
        paths[grows] = tmp_path / f"{grows}.h5"
        sets = [f"numerics.grow_window={grows}", f"tumour.diffusivity_white_mm2_per_day={diffusivity}"]
        run(experiment_of(sets, text), paths[grows])
    a, b = contents(paths["true"]), contents(paths["false"])
    assert a.keys() == b.keys()
    for name in {n for n in a if not n.endswith("_imbalance")} - {"rim_density"}:
        top = max(float(np.abs(b[name]).max()), 1e-12)
        np.testing.assert_allclose(a[name] / top, b[name] / top, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("decay", "cells"), [(17.0, 3), (0.1, 16)])
def test_the_first_window_leaves_room_for_what_the_tumour_releases(decay, cells):
    """12 mm, or what a range of √(4.4 mm²/day / 0.1/day) = 6.6 mm takes to fall to 1e-4: 61 mm."""
    tissue = Tissue.phantom("box", (64, 60), 4.0)
    spot = jnp.zeros((64, 60)).at[30, 30].set(0.9)
    (a, b), _ = inner_box(Model(tissue, [Tumour(), Attractant(4.4, decay)]), {"tumour": spot}, Schedule())
    assert (30 - a, b - 31) == (cells, cells)


def test_the_rim_is_looked_at_before_the_first_step():
    """The attractant has no last iterate then; it must be there all the same."""
    experiment = experiment_of(["numerics.grow_window=false", "attractant.decay_per_day=0.1"], WIDE)
    for cells, grows in ((3, True), (0, False)):
        index = np.argwhere(np.asarray(experiment.initial["tumour"]) > 1e-8)
        low, high = index.min(axis=0) - cells, index.max(axis=0) + cells + 1
        window = Window(tuple(zip(np.maximum(low, 0).tolist(), high.tolist(), strict=True)))
        start = window.cut(experiment.model.start(experiment.initial, experiment.schedule.events))
        loop = _Loop(experiment, window, start)
        loop._grow(begin=grows)
        assert (loop.window.box is None) == grows


def test_a_tumour_on_the_right_stays_on_the_right(tmp_path):
    text = TINY.split("[carriers]")[0].replace("[24, 20]", "[14, 12, 10]").replace("[5.0, 3.0]", "[4.0, 1.0, -2.0]")
    text = text.replace('"head"', '"box"') + "[time]\nend_day = 1.0\nframe_every_days = 1.0\n"
    path, image = tmp_path / "side.h5", tmp_path / "side.nii.gz"
    experiment = experiment_of(text=text)
    run(experiment, path)
    export_nifti(path, "tumour", 1.0, image)
    loaded = nib.load(image)
    with RunFile(path) as file:
        for data, matrix in (
            (file.field("tumour", day=1.0), file.grid.matrix),
            (loaded.get_fdata(), loaded.affine),
        ):
            index = np.indices(data.shape).reshape(3, -1)
            world = matrix[:3, :3] @ index + matrix[:3, 3:]
            centre = (world * data.ravel()).sum(axis=1) / data.sum()
            np.testing.assert_allclose(centre, [4.0, 1.0, -2.0], atol=0.35)
    assert nib.aff2axcodes(loaded.affine)[0] == "R"
