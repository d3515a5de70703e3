import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are not part of the installed package

from benchmarks import __main__ as program
from benchmarks.machine import Copies
from benchmarks.therapy import count_sweeps, many_intervals
from glioma_pde.biology.attractant import Attractant
from glioma_pde.biology.tumour import Tumour
from glioma_pde.delivery import Schedule, gaussian
from glioma_pde.model import Model
from glioma_pde.numerics import kernels
from glioma_pde.numerics.elliptic import sweeps_cold
from glioma_pde.numerics.stepping import Euler
from glioma_pde.schedule import make_plan, times
from glioma_pde.tissue import Tissue

HEAD = {
    "date_utc",
    "device",
    "machine",
    "versions",
    "git_revision",
    "glibc_tunables",
    "quick",
    "copy",
    "cases",
    "ratios",
    "gradients",
    "parts",
}
CASE = {
    "name", "shape", "cells", "cells_inside", "stages", "ledger", "steps", "seconds", "trace_s", "compile_s",
    "ms_per_step", "ms_per_step_best", "million_cell_steps_per_s", "million_cell_stages_per_s",
    "fraction_of_copy_limit", "solves_per_step", "sweeps_per_step", "sweeps_cold_per_solve", "passes_per_step",
}  # fmt: skip

THERAPY = """
[tissue]
kind = "phantom"
geometry = "sphere"
shape = [16, 16, 16]
spacing_mm = 2.0
[tumour]
initial = { kind = "gaussian", centre_mm = [0.0, 0.0, 0.0], sigma_mm = 4.0, peak = 0.9 }
[carriers]
[attractant]
[prodrug]
courses = [{ start_day = 1.0, end_day = 3.0, dose_mg_per_kg_per_day = 150.0 }]
[drug]
[[schedule.injections]]
days = [0.0]
cells = 1e7
sites_mm = [[8.0, 0.0, 0.0]]
sigma_mm = 3.0
[time]
end_day = 4.0
observe_every_days = 1.0
"""


def test_the_smallest_tumour_case_runs_end_to_end(tmp_path, capsys):
    out = tmp_path / "result.json"
    argv = [
        "--quick",
        "--sizes",
        "16",
        "--no-therapy",
        "--no-gradients",
        "--no-parts",
        "--copy-mib",
        "1",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    assert program.main(argv) == 0
    result = json.loads(out.read_text())
    assert set(result) == HEAD
    assert result["parts"] == []
    assert result["device"]["platform"] == "cpu"
    assert set(result["copy"]["gb_per_s"]) == {"numpy_1", "numpy_n", "xla"}
    assert [c["name"] for c in result["cases"]] == [f"tumour_{name}_16" for name in ("euler", "ssprk2", "ssprk2_eight")]
    for case in result["cases"]:
        assert set(case) == CASE
        assert case["cells"] == 16**3 > case["cells_inside"] > 0
        assert len(case["seconds"]) == 3
        # the rates follow from what was measured, at 12 B per cell-step
        rate = case["cells"] * case["steps"] / np.median(case["seconds"]) / 1e6
        assert case["million_cell_steps_per_s"] == pytest.approx(rate)
        limit = result["copy"]["limit_gb_per_s"] * 1e3 / 12
        assert case["fraction_of_copy_limit"] == pytest.approx(rate / limit)
    printed = capsys.readouterr().out
    assert "tumour_ssprk2_16" in printed
    assert str(out) in printed


def test_parts_of_a_step_are_timed_with_all_kernels_there_are(tmp_path, capsys):
    out = tmp_path / "result.json"
    argv = ["--quick", "--sizes", "8", "--no-therapy", "--no-gradients", "--copy-mib", "1", "--out", str(out)]
    assert program.main(argv) == 0
    result = json.loads(out.read_text())
    kinds = {"xla"} if kernels.WHY_NOT else {"xla", "native"}
    assert {(p["name"].split(",")[0], p["dtype"]) for p in result["parts"]} == {
        (name, dtype)
        for name in ("two steps of a tumour alone", "diffusion", "tensor diffusion", "migration", "elliptic solve")
        for dtype in ("float32", "float64")
    }
    for part in result["parts"]:
        assert set(part["seconds"]) == set(part["rates"]) == kinds
        rate = 8**3 / np.median(part["seconds"]["xla"])
        assert part["rates"]["xla"]["million_cells_per_s"] == pytest.approx(rate / 1e6)
        share = rate * part["bytes_per_cell"] / (result["copy"]["limit_gb_per_s"] * 1e9)
        assert part["rates"]["xla"]["fraction_of_copy_limit"] == pytest.approx(share)
    assert "migration, volume filling" in capsys.readouterr().out


def test_whole_jobs_are_timed(tmp_path, capsys):
    config, out = tmp_path / "therapy.toml", tmp_path / "result.json"
    config.write_text(THERAPY)
    assert program.main(["--jobs", "--quick", "--config", str(config), "--out", str(out)]) == 0
    found = {j["name"]: j for j in json.loads(out.read_text())["jobs"]}
    assert len(found) == 6 and all(j["median_s"] > 0 for j in found.values())
    errors = {name: j["error"] for name, j in found.items() if "days of a tumour" in name}
    longest, configured = sorted(errors, key=lambda name: int(name.split()[-2]))
    assert 0 < errors[configured] < errors[longest] < 1e-2
    assert found["the same, compiled before"]["aim_s"] == 3.0
    assert "16 radial patients" in capsys.readouterr().out


@pytest.mark.slow
def test_cost_and_memory_are_followed_as_they_grow(tmp_path, capsys):
    out = tmp_path / "result.json"
    assert program.main(["--scaling", "--quick", "--out", str(out)]) == 0
    found = json.loads(out.read_text())["scaling"]
    timed = {"cells", "by_hand", "steps", "fields", "patients", "events"}
    assert set(found) == timed | {"memory", "sweeps"}
    assert all(p["median_s"] > 0 and len(p["seconds"]) == 2 for name in timed for p in found[name])
    assert [p["x"] for p in found["cells"]] == [8**3, 12**3]
    assert [len(p["fields"]) for p in found["fields"]] == [1, 5]
    none, two = found["events"]
    assert none["steps"] < two["steps"]  # a step ends at every dose
    (held,) = found["memory"]
    assert 1 < held["forward_states"] < held["reverse_states"]
    (sweeps,) = found["sweeps"]
    assert 0 < sweeps["attractant_warm"] < sweeps["attractant_cold"] and 0 < sweeps["drug_warm"] < sweeps["drug_cold"]
    assert "sweeps per elliptic solve" in capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_the_copies_copy():
    copies = Copies(jax.devices("cpu")[0], mib=1)
    copies.sample(2)
    result = copies.result()
    assert all(v["samples"] == 2 and 0 < v["min"] <= v["median"] <= v["max"] for v in result["gb_per_s"].values())
    assert result["limit_gb_per_s"] == max(v["median"] for v in result["gb_per_s"].values())


@pytest.mark.slow
def test_sweeps_are_those_the_solver_made():
    tissue = Tissue.phantom("box", (12, 12), 1.0, dtype=jnp.float32)
    model = Model(tissue, [Tumour(), Attractant()], stepper=Euler(), ledger=False)
    plan = make_plan(model, Schedule(), [0.0, 2.0], 0.5)
    instants = times(model, Schedule(), jnp.asarray([0.0, 2.0], jnp.float32))
    u = 0.5 * gaussian(tissue.grid, jnp.zeros(2, jnp.float32), jnp.asarray(2.0, jnp.float32))
    medium = model.prepare()
    ends = (jnp.asarray(0, jnp.int32), jnp.asarray(1, jnp.int32))
    args = (model, Schedule(), plan, instants, medium, model.start({"tumour": u}), *ends)
    before = jax.jit(lambda *a: many_intervals(*a))(*args)
    done, cold = count_sweeps(model, args)
    attractant = model["attractant"]
    alone = int(sweeps_cold(medium["attractant"], attractant.decay_per_day, attractant.tolerance))
    assert cold == {"attractant": [alone] * plan.steps}
    assert len(done["attractant"]) == plan.steps
    # nothing to start from at first: a full cold solve, in pairs; then the last step's field is a good guess
    assert max(done["attractant"]) == 2 * ((alone + 1) // 2)
    assert sum(done["attractant"]) < 0.8 * alone * plan.steps
    # once counted, the solver is itself again and gives the same
    after = jax.jit(lambda *a: many_intervals(*a))(*args)
    np.testing.assert_array_equal(before.x["tumour"], after.x["tumour"])


@pytest.mark.slow
def test_the_therapy_runs_end_to_end(tmp_path):
    config, out = tmp_path / "therapy.toml", tmp_path / "result.json"
    config.write_text(THERAPY)
    argv = ["--quick", "--sizes", "--no-gradients", "--copy-mib", "1", "--config", str(config), "--out", str(out)]
    assert program.main(argv) == 0
    result = json.loads(out.read_text())
    alone, whole, ledger = result["cases"]
    assert [c["ledger"] for c in result["cases"]] == [False, False, True]
    assert alone["steps"] == whole["steps"] == ledger["steps"] == 4
    assert whole["solves_per_step"] == {"attractant": 2.0, "drug": 2.0}
    assert 0 < whole["sweeps_per_step"]["attractant"] < 2 * whole["sweeps_cold_per_solve"]["attractant"] + 2
    assert whole["bytes_per_cell_step"] == 4 * sum(whole["passes_per_step"].values())
    share = whole["fraction_of_copy_limit"] * whole["bytes_per_cell_step"] / 12
    assert whole["fraction_of_own_copy_limit"] == pytest.approx(share)
    assert result["ratios"]["therapy_step_per_tumour_step"] == pytest.approx(
        whole["ms_per_step"] / alone["ms_per_step"]
    )


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["--sizes", "4"], 2, "from 8 on"),
        (["--sizes", "--copy-mib", "1", "--config", "nowhere.toml"], 1, "does not exist"),
    ],
)
def test_mistakes_are_named(argv, status, words, capsys):
    assert program.main(argv) == status
    assert words in capsys.readouterr().err


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is a GPU to measure")
def test_a_missing_gpu_is_named(capsys):
    assert program.main(["--device", "gpu"]) == 1
    assert "finds no gpu" in capsys.readouterr().err


def test_a_configuration_without_therapy_is_refused(tmp_path, capsys):
    config = tmp_path / "alone.toml"
    config.write_text(THERAPY.split("[carriers]")[0] + "[time]\nend_day = 4.0\n")
    assert program.main(["--sizes", "--copy-mib", "1", "--config", str(config)]) == 1
    assert "no therapy to time" in capsys.readouterr().err
