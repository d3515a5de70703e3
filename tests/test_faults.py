"""Faults from outside, each the real one: signals, disks and folders that refuse, numbers that overflow, damaged files.

Command lines run in processes of their own, on a small radial model whose programs are compiled once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from forked import Done, Server, serving

from glioma_pde.build import build, days_of, described
from glioma_pde.cli import main
from glioma_pde.config import BIOLOGY, loads
from glioma_pde.config.size import estimate
from glioma_pde.errors import ConfigError, GliomaError
from glioma_pde.io._files import in_units, require_room
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.run import output_size
from glioma_pde.signals import Terminated, asking, ending
from glioma_pde.tissue import Tissue

ROOT = Path(__file__).resolve().parents[1]
RADIAL = """
title = "Ball"
[tissue]
kind = "radial"
radius_mm = 12.0
spacing_mm = 0.5
[tumour]
initial = { kind = "gaussian", centre_mm = [0.0], sigma_mm = 1.5, peak = 0.9 }
[carriers]
taxis = { kind = "none" }
tumour_kill_per_day = 1.0
[[schedule.injections]]
days = [3.3, 20.0]
cells = 2e5
sites_mm = [[0.0]]
sigma_mm = 1.5
[time]
end_day = 40.0
frame_every_days = 3.0
observe_every_days = 1.0
"""
"""Every kind of event in few cells: doses between days, frames, observations in between."""

LONG = [f"--set=time.{key}" for key in ("end_day=6000", "frame_every_days=5000", "observe_every_days=1")]
"""So long that a signal finds it running; resuming it would take too long for a test."""


def contents(path: Path) -> dict[str, np.ndarray]:
    """Everything in a run file that the simulation computed."""
    with RunFile(path) as file:
        out = {"days": file.days, "observable_days": file.observable_days}
        for i in range(len(file.days)):
            out |= {f"{name} {i}": file.field(name, index=i) for name in file.fields}
        out |= {name: file.observable(name) for name in file.observables}
        return out | {f"ledger {name}": file.ledger(name) for name in file.ledger_columns}


def check_same_bits(one: Path, other: Path) -> None:
    a, b = contents(one), contents(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name, strict=True)


def one_sentence(done: Done, code: int) -> str:
    assert done.code == code, done
    assert "Traceback" not in done.err
    lines = [line for line in done.err.splitlines() if line]
    assert lines[0].startswith("glioma-pde: "), done.err
    return done.err


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "ball.toml"
    path.write_text(RADIAL, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "ball.toml").write_text(RADIAL, encoding="utf-8")
    done = server.glioma("run", folder / "ball.toml", "--out", folder, "--no-figures").wait()
    assert done.code == 0, done.err
    return folder / "run.h5"


# -- signals ----------------------------------------------------------------------------------------


def signalled(server: Server, number: int, path: Path, *argv, times: int = 1) -> Done:
    """A command line that gets the signal once the run file at ``path`` has a few rows beyond its first frame."""
    child = server.glioma(*argv)
    limit = time.monotonic() + 90
    while time.monotonic() < limit:
        with contextlib.suppress(GliomaError), RunFile(path) as file:
            if len(file.observable_days) > 3:
                break
        time.sleep(0.05)
    for _ in range(times):
        child.send(number)
    return child.wait(60)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_run_and_says_how_to_resume(server, source, tmp_path, number, code):
    source.write_text(RADIAL + "[arms.first]\n[arms.second]\n[arms.third]\n", encoding="utf-8")
    out = tmp_path / "out folder"
    path = out / "first.h5"
    done = signalled(server, number, path, "run", source, "--out", out, "--no-figures", *LONG)
    shown = one_sentence(done, code)
    assert "interrupted after day" in shown
    assert f"glioma-pde resume '{path}'" in shown
    again = next(line for line in shown.splitlines() if line.startswith("The arms after it"))
    assert again.endswith("--arm=second --arm=third")
    assert "--set=time.end_day=6000" in again
    day = float(shown.split("after day ")[1].split()[0])
    assert sorted(p.name for p in out.iterdir() if p.suffix == ".h5") == ["first.h5"]
    with RunFile(path) as file:
        assert not file.live
        assert file.attrs["status"] == "running"
        # nothing that was computed is lost: the rows reach the day at which the run ended, on no day of a frame
        assert file.observable_days[-1] == day > file.days[-1]
        assert len(file.observable_days) == day + 1
    assert (out / "first.checkpoint").exists()


def test_a_second_ctrl_c_ends_at_once_and_keeps_the_last_checkpoint(server, source, tmp_path):
    path = tmp_path / "run.h5"
    done = signalled(server, signal.SIGINT, path, "run", source, "--out", tmp_path, "--no-figures", *LONG, times=2)
    assert "resume" in one_sentence(done, 130)
    with RunFile(path) as file:
        assert file.days[0] == 0.0


# -- arms side by side ------------------------------------------------------------------------------

ARMS = RADIAL + "".join(
    f"[arms.{name}]\ncarriers.tumour_kill_per_day = {k}.0\n" for k, name in enumerate(("first", "second", "third"))
)


def test_arms_side_by_side_are_those_one_after_the_other(server, source, tmp_path):
    source.write_text(ARMS.replace(", 20.0]", "]"), encoding="utf-8")
    for jobs in (1, 2):
        argv = ["run", source, "--out", tmp_path / str(jobs), "--no-figures", "--jobs", jobs]
        done = server.glioma(*argv, "--arm=first", "--arm=second", "--set=time.end_day=15").wait()
        assert done.code == 0, done.err
    for name in ("first", "second"):
        check_same_bits(tmp_path / "1" / f"{name}.h5", tmp_path / "2" / f"{name}.h5")
    assert not list(tmp_path.glob("2/*.checkpoint*"))


def test_a_signal_saves_every_arm_that_runs(server, source, tmp_path):
    source.write_text(ARMS, encoding="utf-8")
    out = tmp_path / "out"
    argv = ["run", source, "--out", out, "--jobs", "2", *LONG]
    done = signalled(server, signal.SIGTERM, out / "second.h5", *argv, times=2)
    lines = one_sentence(done, 143).splitlines()
    assert "third" in lines[-2]
    assert lines[-2].endswith("--arm=third --jobs=2")
    assert lines[-1].startswith("The figures then: ")
    for name in ("first", "second"):
        path = out / f"{name}.h5"
        (said,) = (line for line in lines if f"Arm {name!r} was interrupted after day" in line)
        assert said.endswith(f"Go on with: glioma-pde resume {path}")
        assert (out / f"{name}.checkpoint").exists()
        with RunFile(path) as file:
            assert file.observable_days[-1] == float(said.split("after day ")[1].split()[0])
    assert not (out / "third.h5").exists()


def test_an_arm_that_fails_saves_those_beside_it(server, source, tmp_path):
    source.write_text(ARMS, encoding="utf-8")
    (tmp_path / "out" / "second.h5").mkdir(parents=True)  # a folder stands where the file should
    argv = ["run", source, "--out", tmp_path / "out", "--no-figures", "--jobs", "2", *LONG]
    lines = one_sentence(server.glioma(*argv).wait(), 1).splitlines()
    assert "second.h5" in lines[0]
    for line in lines[1:]:
        assert "Arm 'first' was interrupted" in line
    assert not (tmp_path / "out" / "third.h5").exists()


# -- signals, one arm at a time ---------------------------------------------------------------------

STOP_AT = """
from glioma_pde import run, build
from glioma_pde.run import _Loop
record = _Loop._record
def stopping(self, writer, path, j):
    seen = record(self, writer, path, j)
    if j in {days}:
        os.kill(os.getpid(), signal.{name})
    return seen
_Loop._record = stopping
"""


def test_what_signals_interrupt_between_frames_resumes_to_the_same_bits(server, source, tmp_path, whole):
    """Twice, on days without a frame, the first of them the one after a dose."""
    path = tmp_path / "run.h5"
    with RunFile(whole) as file:
        days = file.observable_days.tolist()
    stops = [days.index(4.0), days.index(22.0)]
    assert not {4.0, 22.0} & set(contents(whole)["days"])
    start = STOP_AT.format(days=stops, name="SIGINT")
    one_sentence(server.glioma("run", source, "--out", tmp_path, "--no-figures", before=start).wait(), 130)
    assert contents(path)["observable_days"][-1] == 4.0
    start = STOP_AT.format(days=stops, name="SIGTERM")
    one_sentence(server.glioma("resume", path, before=start).wait(), 143)
    assert contents(path)["observable_days"][-1] == 22.0
    done = server.glioma("resume", path).wait()
    assert done.code == 0, done.err
    check_same_bits(whole, path)
    assert not list(tmp_path.glob("*.checkpoint*"))


LAST = STOP_AT.format(days=[40], name="SIGTERM")


def test_a_signal_in_the_last_interval_is_heard_after_it(server, source, tmp_path):
    """Nothing is lost of the arm that is complete, and what was to follow is named: arms, figures, or nothing."""
    source.write_text(RADIAL + "[arms.first]\n[arms.second]\n", encoding="utf-8")
    out = tmp_path / "out"
    done = server.glioma("run", source, "--out", out, before=LAST).wait()
    lines = one_sentence(done, 143).splitlines()
    assert lines[0] == "glioma-pde: Interrupted after arm 'first', which is complete."
    assert lines[1] == f"The arms after it, second: glioma-pde run {source} --out {out} --arm=second"
    assert lines[2] == f"The figures then: glioma-pde plot {out}/first.h5 {out}/second.h5 --out {out}"
    assert [p.name for p in out.iterdir()] == ["first.h5"]
    with RunFile(out / "first.h5") as file:
        assert file.attrs["status"] == "finished"
    done = server.glioma("run", source, "--out", out, "--arm", "second", before=LAST).wait()
    lines = one_sentence(done, 143).splitlines()
    assert lines[1:] == [f"The figures then: glioma-pde plot {out}/second.h5 --out {out}"]
    done = server.glioma("run", source, "--out", out, "--arm", "second", "--no-figures", before=LAST).wait()
    assert done.code == 0
    assert not list(out.glob("*.png"))


IN_FIGURES = """
import glioma_pde.cli
def slow(*given, **options):
    os.kill(os.getpid(), signal.SIGINT)
sys.modules["glioma_pde.cli"]._conclude = slow
"""

AT_ONCE = """
from glioma_pde.run import _Loop
finish = _Loop._finish
def finishing(self, *given):
    finish(self, *given)
    raise KeyboardInterrupt
_Loop._finish = finishing
"""


def test_a_signal_after_the_runs_names_the_figures(server, source, tmp_path):
    done = server.glioma("run", source, "--out", tmp_path / "o", before=IN_FIGURES).wait()
    shown = one_sentence(done, 130)
    assert "after arm 'run', which is complete" in shown
    assert f"The figures then: glioma-pde plot {tmp_path}/o/run.h5" in shown
    done = server.glioma("run", source, "--out", tmp_path / "o", "--no-figures", before=AT_ONCE).wait()
    assert f"It is complete: {tmp_path}/o/run.h5" in one_sentence(done, 130)


def test_sigterm_outside_of_runs_leaves_143(server, source):
    """While it imports and builds there is nothing to save, but the code is the same."""
    start = "import time, glioma_pde.build; sys.modules['glioma_pde.build'].common_shapes = lambda arms: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(20))"
    done = server.glioma("run", source, "--out", source.parent, before=start).wait()
    assert "interrupted" in one_sentence(done, 143)


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with ending(), asking() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Terminated), ending():
        os.kill(os.getpid(), signal.SIGTERM)
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ending(), asking() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before[1])


def test_help_lists_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for code in ("0    done", "1    failed", "2    wrong", "130  interrupted", "143  ended by SIGTERM"):
        assert code in shown


# -- the disk -----------------------------------------------------------------------------------------


def test_a_disk_without_room_for_the_first_byte(server, source, tmp_path):
    start = "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))"
    shown = one_sentence(server.glioma("run", source, "--out", tmp_path / "o", "--no-figures", before=start).wait(), 1)
    assert "full" in shown
    assert not list((tmp_path / "o").iterdir())


def test_a_disk_that_fills_up_during_a_run_keeps_it_resumable(server, source, tmp_path, whole):
    """The limit on file size is met by the system's own error."""
    path = tmp_path / "run.h5"
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) + 5000, resource.RLIM_INFINITY))"
    start = STOP_AT.format(days=[10], name="SIGINT").replace("os.kill(os.getpid(), signal.SIGINT)", limit)
    shown = one_sentence(server.glioma("run", source, "--out", tmp_path, "--no-figures", before=start).wait(), 1)
    assert "full" in shown
    assert "resume" in shown
    expected = contents(whole)
    with RunFile(path) as file:
        assert 0 < len(file.days) < len(expected["days"])
        for i in range(len(file.days)):
            for name in file.fields:
                np.testing.assert_array_equal(file.field(name, index=i), expected[f"{name} {i}"])
    done = server.glioma("resume", path).wait()
    assert done.code == 0, done.err
    check_same_bits(whole, path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte and a half."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs Linux")
def test_a_small_disk_is_refused_before_or_reported_during_the_run(server, source, small_disk, whole):
    many = ["--set=time.frame_every_days=0.01", "--set=tissue.spacing_mm=0.1"]
    shown = one_sentence(server.glioma("run", source, "--out", small_disk, "--no-figures", *many).wait(), 1)
    assert "MB free" in shown
    assert not list(small_disk.iterdir())
    filler = small_disk / "filler"
    filler.write_bytes(bytes(int(shutil.disk_usage(small_disk).free - 0.99e6)))
    code = f"import glioma_pde.run as r; r.require_room = lambda *a: open({str(small_disk / 'more')!r}, 'wb').write(bytes(500_000))"
    shown = one_sentence(server.glioma("run", source, "--out", small_disk, "--no-figures", before=code).wait(), 1)
    assert "full" in shown


def test_output_that_no_disk_holds_is_refused_before_it_is_built(server, tmp_path):
    """A thousand million cells would take minutes and all memory to build: the refusal takes neither."""
    source = tmp_path / "huge.toml"
    text = RADIAL.replace('kind = "radial"\nradius_mm = 12.0', 'kind = "phantom"\nshape = [1000, 1000, 1000]')
    source.write_text(text.replace("[0.0]", "[0.0, 0.0, 0.0]").replace("end_day = 40.0", "end_day = 40000.0"))
    limit = "resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, resource.RLIM_INFINITY))"
    shown = one_sentence(server.glioma("run", source, "--out", tmp_path / "o", before=limit).wait(), 1)
    assert "the output needs about" in shown
    assert " TB" in shown
    assert not (tmp_path / "o").exists()


def test_check_shows_the_size_and_a_large_run_announces_it(server, source, capsys, tmp_path):
    assert main(["check", str(source)]) == 0
    assert f"output about {in_units(estimate(loads(RADIAL).arms[0]).file)}" in capsys.readouterr().out
    shipped = str(next((ROOT / "configs").glob("brain*.toml")))
    assert main(["check", shipped]) == 0
    sizes = [line.split("output about ")[1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert [s.split()[1] for s in sizes] == ["MB"] * 3
    for large, announced in ((10**5, True), (10**9, False)):
        start = f"import glioma_pde.session; sys.modules['glioma_pde.session'].LARGE = {large}"
        done = server.glioma("run", source, "--out", tmp_path, "--no-figures", before=start).wait()
        assert done.code == 0
        assert ("the output will take about" in done.out) == announced


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("time.frames_days=[0.3, 3.0, 7.7]", "outcome.compare_days=[5.0, 8.5, 90.0]"),
        ("time.end_day=20.5", "time.frame_every_days=0.7", "time.observe_every_days=0.1"),
    ],
)
def test_the_estimate_counts_what_is_built(sets):
    arm = loads(RADIAL, "ball.toml", sets).arms[0]
    experiment = build(arm)
    assert estimate(arm) == output_size(experiment)
    assert len(days_of(arm)[0]) == len(experiment.days)


FORMS = {
    "attractant": ["dynamics = 'dynamic'"],
    "prodrug": ["dynamics = 'dynamic'"],
    "drug": ["dynamics = 'dynamic'"],
    "immune": ["priming = 2.0", "kind = 'constant'"],
    "vasculature": ["dynamics = 'dynamic'"],
    "surgery": ["resections = [{ day = 1.0, centre_mm = [0.0, 0.0], radius_mm = 3.0 }]"],
    "radiotherapy": ["schedule = 'stupp'\nstart_day = 1.0"],
}
"""Keys of a section that make it another module, or without which it cannot be."""


FLAT = RADIAL.replace('"radial"', '"phantom"\ngeometry = "bundle"').replace("radius_mm = 12.0", "shape = [24, 20]")
FLAT = FLAT.replace("[0.0]", "[0.0, 0.0]")


def arm_with(section: str, keys: str):
    """Tumour and carriers, that section, and the ones that it says it needs; ``None`` if it cannot be so."""
    tables = {section: keys}
    for _ in range(9):
        text = FLAT + "".join(f"[{n}]\n{k}\n" for n, k in tables.items() if n not in ("tumour", "carriers"))
        try:
            return loads(text).arms[0]
        except ConfigError as error:
            needed = re.findall(r"needs the section \[(\w+)\]|has no source; add \[(\w+)\]", str(error))
            if not needed:
                return None
            tables |= {a or b: "" for a, b in needed}
    return None


@pytest.mark.parametrize("section", BIOLOGY)
def test_the_estimate_counts_the_fields_of_each_section(section):
    """As it is by default, and in its other forms."""
    arms = [arm for keys in ("", *FORMS.get(section, ())) if (arm := arm_with(section, keys)) is not None]
    assert arms, "give keys for it in FORMS"
    for arm in arms:
        model, _ = described(arm, Tissue.phantom("bundle", (24, 20), 0.5), {}, {})
        stored = {field for name in BIOLOGY if (s := getattr(arm, name)) is not None for field in s.stored()}
        assert stored == {f.name for f in model.outputs}


def test_the_estimate_bounds_what_is_written(whole):
    assert 0.3 * estimate(loads(RADIAL).arms[0]).file < whole.stat().st_size < estimate(loads(RADIAL).arms[0]).file


def test_room_is_asked_of_the_disk_that_will_hold_the_file(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_room(tmp_path / "not" / "yet" / "run.h5", free // 2)
    with pytest.raises(GliomaError, match=r"needs about .*TB, but the disk has .* free; free some space"):
        require_room(tmp_path / "not" / "yet" / "run.h5", free + 10**14)


# -- folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/proc/glioma", "/proc/self/fdinfo", "/dev/null/out"])
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_folders_that_refuse_files_even_to_root(server, source, place):
    shown = one_sentence(server.glioma("run", source, "--out", place, "--no-figures").wait(), 1)
    assert place in shown


def test_a_folder_that_vanishes_during_a_run(server, source, tmp_path):
    out = tmp_path / "out"
    start = STOP_AT.format(days=[5], name="SIGINT").replace(
        "os.kill(os.getpid(), signal.SIGINT)", f"import shutil; shutil.rmtree({str(out)!r})"
    )
    shown = one_sentence(server.glioma("run", source, "--out", out, "--no-figures", before=start).wait(), 1)
    assert str(out) in shown


# -- numbers ------------------------------------------------------------------------------------------


def test_overflow_by_a_parameter_is_one_sentence_and_keeps_the_frames(server, source, tmp_path):
    sets = ["--set=tumour.growth=exponential", "--set=tumour.proliferation_per_day=3", "--set=carriers.crowding=0"]
    shown = one_sentence(server.glioma("run", source, "--out", tmp_path, "--no-figures", *sets).wait(), 1)
    assert "stopped being finite" in shown
    assert "numerics.precision" in shown
    with RunFile(tmp_path / "run.h5") as file:
        assert not file.live
        assert 0 < file.days[-1] < 40
        assert all(np.isfinite(file.field("tumour", index=i)).all() for i in range(len(file.days)))
        assert np.isfinite(file.observable("burden_cells")).all()
    # from the last good state it comes to the same end
    assert "stopped being finite" in one_sentence(server.glioma("resume", tmp_path / "run.h5").wait(), 1)


# -- files that are gone or not whole -------------------------------------------------------------------


@pytest.fixture
def broken(server, source, tmp_path):
    """A run interrupted on day 4, between frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_ENABLE_X64", "0")
        start = STOP_AT.format(days=[5], name="SIGINT")
        one_sentence(server.glioma("run", source, "--out", tmp_path, "--no-figures", before=start).wait(), 130)
    return tmp_path / "run.h5"


def test_resuming_from_what_is_left(server, broken, whole, capsys):
    """No checkpoint, two cut off, the newest cut off, a run file cut off, and at last the whole."""
    newest, previous = broken.with_suffix(".checkpoint"), broken.with_suffix(".checkpoint.previous")
    kept = {p: p.read_bytes() for p in (broken, newest, previous)}

    def refused() -> str:
        assert main(["resume", str(broken)]) == 1
        shown = capsys.readouterr().err
        assert "Traceback" not in shown
        return shown

    newest.unlink()
    previous.unlink()
    assert "no checkpoint here" in refused()
    newest.write_bytes(kept[newest][:-300])
    previous.write_bytes(kept[previous][:100])
    assert "No usable checkpoint" in refused()
    newest.write_bytes(kept[newest])
    broken.write_bytes(kept[broken][: len(kept[broken]) // 2])
    assert "cut off" in refused()
    broken.unlink()
    assert "no such file" in refused()
    broken.write_bytes(kept[broken])
    newest.write_bytes(kept[newest][:-300])
    previous.write_bytes(kept[previous])
    done = server.glioma("resume", broken, before="import warnings; warnings.simplefilter('default')").wait()
    assert done.code == 0
    assert "going on from the one before" in done.err
    check_same_bits(whole, broken)


def test_a_checkpoint_of_an_earlier_run_of_the_name_is_not_taken(server, broken, source, capsys):
    """A new run of the same configuration, killed before its first checkpoint, beside the old run's."""
    old = broken.with_suffix(".checkpoint").read_bytes()
    start = STOP_AT.format(days=[0], name="SIGKILL").replace("seen = record(self, writer, path, j)", "")
    done = server.glioma("run", source, "--out", source.parent, "--no-figures", before=start).wait()
    assert done.code == -signal.SIGKILL
    assert not list(source.parent.glob("*.checkpoint*"))  # taken away with the old run file
    broken.with_suffix(".checkpoint").write_bytes(old)
    assert main(["resume", str(broken)]) == 1
    assert "an earlier run" in capsys.readouterr().err
    with RunFile(broken) as file:
        assert len(file.days) == 0
