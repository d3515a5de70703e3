"""The command line: what it prints, what it writes, and which code it leaves with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
from test_run import TINY

from glioma_pde import __version__, cli
from glioma_pde.cli import main
from glioma_pde.errors import GliomaError
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.run import _Loop

ARMS = (
    TINY
    + """
[arms.untreated]
label = "nothing given"
without = ["carriers", "attractant", "prodrug", "drug", "schedule"]
[arms.treated]
"""
)


@pytest.fixture(scope="module", autouse=True)
def single_precision():
    """The state in which the command line runs; its own compilation cache is left to the session's."""
    before = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(jax.config.jax_compilation_cache_dir)
    with jax.enable_x64(False):
        yield
    if before is None:
        del os.environ["JAX_COMPILATION_CACHE_DIR"]


@pytest.fixture(scope="module")
def ran(single_precision, tmp_path_factory):
    """Both arms run from the command line; their configuration and folder."""
    folder = tmp_path_factory.mktemp("cli")
    source = folder / "tiny.toml"
    source.write_text(ARMS, encoding="utf-8")
    assert main(["run", str(source), "--out", str(folder / "out"), "--no-figures"]) == 0
    return source, folder / "out"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(ARMS, encoding="utf-8")
    return path


def fails(capsys, code: int, *argv) -> str:
    """The one message of a command that leaves with ``code``, and never with a traceback."""
    assert main([str(a) for a in argv]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("glioma-pde: ")
    assert "Traceback" not in shown.err
    return shown.err


def test_the_label_of_a_single_arm_is_said_once(source, tmp_path, capsys):
    assert main(["run", str(source), "--arm", "untreated", "--out", str(tmp_path), "--no-figures"]) == 0
    assert capsys.readouterr().out.count("nothing given") == 1


# -- run ------------------------------------------------------------------------------------------


def test_run_writes_one_file_for_each_arm_and_nothing_else(ran):
    _, out = ran
    assert {p.name for p in out.iterdir()} == {"untreated.h5", "treated.h5", "outcomes.csv"}
    with RunFile(out / "untreated.h5") as file:
        assert file.attrs["status"] == "finished"
        assert list(file.fields) == ["tumour"]
        assert file.attrs["label"] == "nothing given"
    with RunFile(out / "treated.h5") as file:
        assert set(file.fields) == {"tumour", "carriers", "attractant", "prodrug", "drug"}
        assert file.config_text == ARMS


def test_run_prints_the_table_and_the_files(source, tmp_path, capsys):
    assert main(["run", str(source), "--out", str(tmp_path / "o"), "--arm", "untreated", "--no-figures"]) == 0
    shown = capsys.readouterr().out
    assert "Tiny" in shown
    assert "not for clinical use" in shown
    assert "burden, day 3 [cells]" in shown
    assert "nothing given" in shown
    assert str(tmp_path / "o" / "untreated.h5") in shown
    assert not (tmp_path / "o" / "treated.h5").exists()


def test_run_with_set_and_default_folder(source, tmp_path, monkeypatch, ran):
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(source), "--arm", "untreated", "--set", "time.end_day=3", "--no-figures"]) == 0
    with RunFile(tmp_path / "results" / "tiny" / "untreated.h5") as file, RunFile(ran[1] / "untreated.h5") as longer:
        assert file.days[-1] == 3.0
        np.testing.assert_array_equal(file.observable("burden_cells"), longer.observable("burden_cells")[:4])


def test_a_run_file_is_repeated_to_the_same_bits(ran, tmp_path):
    original = ran[1] / "treated.h5"
    assert main(["run", str(original), "--out", str(tmp_path), "--no-figures"]) == 0
    with RunFile(original) as a, RunFile(tmp_path / "treated.h5") as b:
        for name in a.fields:
            np.testing.assert_array_equal(a.field(name, index=-1), b.field(name, index=-1), err_msg=name)
        assert a.config_text == b.config_text


def test_an_interrupted_run_leaves_130_and_resumes(source, tmp_path, capsys, monkeypatch, ran):
    loop = _Loop
    record = loop._record

    def interrupt(self, writer, path, j):
        if j == 3:
            raise KeyboardInterrupt
        return record(self, writer, path, j)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_record", interrupt)
        assert main(["run", str(source), "--out", str(tmp_path), "--arm", "treated", "--no-figures"]) == 130
    assert "interrupted" in capsys.readouterr().err
    path = tmp_path / "treated.h5"
    assert main(["resume", str(path)]) == 0
    with RunFile(path) as a, RunFile(ran[1] / "treated.h5") as b:
        assert a.attrs["status"] == "finished"
        np.testing.assert_array_equal(a.field("tumour", index=-1), b.field("tumour", index=-1))
    assert main(["resume", str(path)]) == 0
    assert "nothing to resume" in capsys.readouterr().out


def test_figures_come_with_a_run(source, tmp_path, capsys):
    sets = ["--set", "output.animation=false", "--set", "output.xdmf=true"]
    assert main(["run", str(source), "--out", str(tmp_path / "f"), "--arm", "untreated", *sets]) == 0
    images = list((tmp_path / "f").glob("*.png"))
    assert images
    assert all(p.stat().st_size > 1000 for p in images)
    assert (tmp_path / "f" / "untreated.xdmf").exists()
    shown = capsys.readouterr().out
    assert all(str(p) in shown for p in images)


# -- wrong input ----------------------------------------------------------------------------------


def test_a_wrong_configuration_leaves_two_and_names_everything(source, capsys, tmp_path):
    out = tmp_path / "never"
    sets = ["--set", "tumour.prolif=1", "--set", "time.end_day=-1"]
    for command in (["run", source, "--out", out], ["check", source]):
        shown = fails(capsys, 2, *command, *sets)
        assert "tumour.prolif: unknown key" in shown
        assert "time.end_day: " in shown
    assert not out.exists()


def test_an_unknown_arm_is_named_with_the_known(source, capsys):
    shown = fails(capsys, 2, "run", source, "--arm", "placebo")
    assert "--arm placebo" in shown
    assert "untreated, treated" in shown


TOO_DENSE = """
[arms.late]
[[arms.late.schedule.injections]]
days = [1.0]
cells = 1e9
sites_mm = [[4.0, 6.0]]
sigma_mm = 1.5
"""


def test_all_arms_are_built_before_the_first_runs(source, tmp_path, capsys):
    """What only the anatomy shows of the last arm, or of two, or of all that are to run."""
    source.write_text(ARMS + TOO_DENSE, encoding="utf-8")
    out = tmp_path / "o"
    shown = fails(capsys, 2, "run", source, "--out", out, "--no-figures")
    assert f"{source}: 1 problem" in shown
    assert "  - arms.late.schedule.injections[0]: 1e+09 cells reach" in shown
    assert not out.exists()
    narrow = "tumour.initial={kind='gaussian', centre_mm=[5.0, 3.0], sigma_mm=0.1, peak=0.9}"
    shown = fails(capsys, 2, "run", source, "--out", out, "--no-figures", "--set", narrow)
    assert "2 problems\n  - tumour.initial.sigma_mm: 0.1 mm" in shown
    assert "  - arms.late.schedule.injections[0]: " in shown
    assert not out.exists()


@pytest.mark.parametrize(
    "hungry", [lambda args: np.zeros(2**55), lambda args: jnp.zeros(2**55, jnp.uint8)], ids=["numpy", "jax"]
)
def test_memory_that_is_not_there_is_one_sentence(hungry, monkeypatch, capsys):
    monkeypatch.setitem(cli.ACTIONS, "check", hungry)
    shown = fails(capsys, 1, "check", "x.toml")
    assert "not enough memory" in shown
    assert len(shown.splitlines()) == 1


def test_other_faults_are_not_taken_for_a_lack_of_memory(monkeypatch):
    monkeypatch.setitem(cli.ACTIONS, "check", lambda args: {}["x"])
    with pytest.raises(KeyError):
        main(["check", "x.toml"])


def test_a_site_outside_the_brain_leaves_two_and_no_file(source, tmp_path, capsys):
    sets = ["--set", "tumour.initial.centre_mm=[11.9, 9.9]"]
    assert "nearest tissue" in fails(capsys, 2, "run", source, "--out", tmp_path / "o", *sets)
    assert not list((tmp_path / "o").glob("*.h5"))


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["run", "none.toml"], 2),
        (["check", "none.toml"], 2),
        (["run", "none.h5"], 1),
        (["resume", "none.h5"], 1),
        (["info", "none.h5"], 1),
        (["plot", "none.h5"], 1),
        (["export", "none.h5", "--xdmf"], 1),
    ],
    ids=lambda v: v[0] + v[1] if isinstance(v, list) else "",
)
def test_missing_files_are_named(command, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command[1] in fails(capsys, code, *command)
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_run_files_are_refused(tmp_path, capsys):
    text, foreign = tmp_path / "text.h5", tmp_path / "foreign.h5"
    text.write_text("no HDF5")
    with h5py.File(foreign, "w") as file:
        file["x"] = 1
    for bad in (text, foreign):
        for command in (["info", bad], ["plot", bad], ["resume", bad], ["run", bad], ["export", bad, "--xdmf"]):
            assert bad.name in fails(capsys, 1, *command)


def test_a_folder_that_cannot_be_made_is_named(source, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "out", "a\0b", "x" * 300):
        with pytest.raises(GliomaError, match=r"cannot be made: .*--out"):
            cli._folder(place)
    shown = fails(capsys, 1, "run", source, "--out", tmp_path / "file" / "out", "--no-figures")
    assert "cannot be made" in shown


def test_a_folder_that_cannot_be_written_is_named(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert "cannot be written" in fails(capsys, 1, "run", source, "--out", tmp_path / "out", "--no-figures")


def test_a_run_file_is_not_repeated_onto_itself_or_changed(ran, capsys):
    path = ran[1] / "treated.h5"
    assert "would overwrite it" in fails(capsys, 1, "run", path, "--out", ran[1])
    assert "--set and --arm change a configuration" in fails(capsys, 2, "run", path, "--set", "time.end_day=9")
    with RunFile(path) as file:
        assert file.attrs["status"] == "finished"


@pytest.mark.parametrize("argv", [[], ["fly"], ["run"], ["plot", "a.h5", "--format", "bmp"]])
def test_wrong_command_lines_leave_two(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: glioma-pde" in capsys.readouterr().err


# -- the other commands ---------------------------------------------------------------------------


def test_check_lists_the_arms(source, capsys):
    assert main(["check", str(source)]) == 0
    shown = capsys.readouterr().out
    assert "correct; 2 arms" in shown
    assert "untreated: tumour; 0 doses of carriers; 4 days" in shown
    assert "treated: tumour, carriers, attractant, prodrug, drug; 2 doses" in shown


def test_info_of_a_file_and_of_the_installation(ran, capsys):
    assert main(["info", str(ran[1] / "treated.h5")]) == 0
    shown = capsys.readouterr().out
    assert "Tiny / treated (finished)" in shown
    assert "24 × 20 cells of 1 × 1 mm" in shown
    assert "4 frames, days 0 to 4" in shown
    assert "(default 0.025)" in shown
    assert "final_burden_cells" in shown
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert jax.__version__ in shown
    assert __version__ in shown


def test_export_writes_the_chosen_frame(ran, tmp_path, capsys):
    path = ran[1] / "treated.h5"
    image = tmp_path / "c.nii.gz"
    assert main(["export", str(path), "--nifti", str(image), "--field", "carriers", "--day", "2"]) == 0
    with RunFile(path) as file:
        np.testing.assert_array_equal(nib.load(image).get_fdata()[:, :, 0], file.field("carriers", day=2.0))
    last = tmp_path / "last.nii.gz"
    assert main(["export", str(path), "--nifti", str(last)]) == 0
    with RunFile(path) as file:
        np.testing.assert_array_equal(nib.load(last).get_fdata()[:, :, 0], file.field("tumour", day=4.0))
    assert "choose --xdmf" in fails(capsys, 2, "export", path)
    assert "blood" in fails(capsys, 1, "export", path, "--field", "blood", "--nifti", tmp_path / "x.nii")
    assert "day 99" in fails(capsys, 1, "export", path, "--day", "99", "--nifti", tmp_path / "x.nii")


def test_plot_compares_files(ran, tmp_path, capsys):
    files = [str(ran[1] / f"{arm}.h5") for arm in ("untreated", "treated")]
    assert main(["plot", *files, "--out", str(tmp_path), "--no-animation"]) == 0
    listed = [Path(line) for line in capsys.readouterr().out.split("\n") if line.endswith(".png")]
    assert listed
    assert set(listed) == set(tmp_path.glob("*.png"))


def test_version_and_module_entry_point():
    done = subprocess.run(
        [sys.executable, "-m", "glioma_pde", "--version"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.strip() == f"glioma_pde {__version__}"
