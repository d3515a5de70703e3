"""`kill -9` at random moments: what was committed is readable, and resuming gives the uninterrupted run to the bit."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from forked import Server, serving
from test_faults import RADIAL, check_same_bits, contents

from glioma_pde.io.hdf5 import RunFile

BUILD = """
import pickle
from glioma_pde.build import build
from glioma_pde.config import load
experiment = build(load(sys.argv[1]).arms[0])
with open(sys.argv[2], "wb") as file:
    pickle.dump(experiment, file)
"""

WORK = """
import pickle, warnings
from glioma_pde.run import checkpoint_path, resume, run
warnings.simplefilter("ignore")
built, path = sys.argv[1:3]
with open(built, "rb") as file:
    experiment = pickle.load(file)
log = os.open(path + ".log", os.O_WRONLY | os.O_CREAT)
act = resume if os.path.exists(checkpoint_path(path)) else run
os.pwrite(log, b"begun", 30)
act(experiment, path, lambda progress: os.pwrite(log, b"%20.10f" % progress.day, 0))
"""
"""Runs or, where there is a checkpoint, resumes; logs every day that it has recorded."""

FINISH = """
import warnings
from glioma_pde.config import load
from glioma_pde.build import build
from glioma_pde.repeat import experiment_from_file
from glioma_pde.run import checkpoint_path, resume, run
from glioma_pde.io.hdf5 import RunFile
warnings.simplefilter("ignore")
for path in sys.argv[2:]:
    if os.path.exists(checkpoint_path(path)):
        with RunFile(path) as file:
            over = file.attrs["status"] != "running"
        if not over:
            resume(experiment_from_file(path), path)
            print("resumed")
    else:
        run(build(load(sys.argv[1]).arms[0]), path)
        print("anew")
"""
"""What a user would do about each file: resume it, or start anew what has no checkpoint yet."""


def begun(path: Path) -> bool:
    """Whether the work proper has begun, after the imports and the building."""
    log = Path(f"{path}.log")
    return log.exists() and log.stat().st_size > 30


def logged(path: Path) -> float:
    """The last day whose recording the process knew to be complete; −1 if none."""
    text = Path(f"{path}.log").read_bytes()[:20].strip(b"\0 ")
    return float(text) if text else -1.0


def check_what_is_there(path: Path, whole: dict[str, np.ndarray]) -> int:
    """Every frame that was committed is that of the uninterrupted run, and none is missing; their number."""
    day = logged(path)
    if not path.exists():
        assert day < 0
        return 0
    with RunFile(path) as file:
        assert len(file.days) >= (whole["days"] <= day).sum()
        np.testing.assert_array_equal(file.days, whole["days"][: len(file.days)])
        rows = len(file.observable_days)
        np.testing.assert_array_equal(file.observable_days, whole["observable_days"][:rows])
        # the rows of a frame are committed before it
        assert rows >= (whole["observable_days"] <= max(file.days, default=-1.0)).sum()
        for name in file.fields:
            for i in range(len(file.days)):
                np.testing.assert_array_equal(file.field(name, index=i), whole[f"{name} {i}"])
        for name in file.observables:
            np.testing.assert_array_equal(file.observable(name), whole[name][:rows])
        for name in file.ledger_columns:
            np.testing.assert_array_equal(file.ledger(name), whole[f"ledger {name}"][:rows])
        return len(file.days)


def finished(path: Path) -> bool:
    if not path.exists():
        return False
    with RunFile(path) as file:
        return file.attrs["status"] == "finished"


def work(server: Server, built: Path, path: Path):
    """A child that has begun to run, or to resume, the run at ``path``."""
    Path(f"{path}.log").unlink(missing_ok=True)
    child = server.start(WORK, built, path)
    limit = time.monotonic() + 60
    while not begun(path) and time.monotonic() < limit:
        time.sleep(0.001)
    return child


def crash(server: Server, folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill runs and their resumptions ``kills`` times in all; then finish every run and compare it.

    Returns:
        How many kills met what: ``"start"`` (no frame yet), ``"frames"``, ``"resumption"``; and in ``"between"``
        how many left a file with more frames or rows than its process had finished recording.
    """
    chance = random.Random(seed)
    source, built, straight = folder / "ball.toml", folder / "built.pickle", folder / "whole.h5"
    source.write_text(RADIAL, encoding="utf-8")
    assert server.start(BUILD, source, built).wait().code == 0
    for _ in range(2):  # the first fills the compilation cache
        child = work(server, built, straight)
        start = time.perf_counter()
        assert child.wait().code == 0
        duration = time.perf_counter() - start
    whole = contents(straight)
    met = {"start": 0, "frames": 0, "resumption": 0, "between": 0}
    paths: list[Path] = []
    done = 0
    for attempt in range(10 * kills):
        if done == kills:
            break
        path = folder / f"{attempt}.h5"
        paths.append(path)
        for life in ("run", "resumption"):
            child = work(server, built, path)
            time.sleep(chance.uniform(0.0, duration))
            child.send(signal.SIGKILL)
            code = child.wait().code
            assert code in (0, -signal.SIGKILL), (folder, code)
            count = check_what_is_there(path, whole)
            if code == 0:
                assert finished(path)
                break
            done += 1
            met["resumption" if life == "resumption" else "frames" if count else "start"] += 1
            met["between"] += count > (whole["days"] <= logged(path)).sum()
            if finished(path) or done == kills:
                break
    assert done == kills
    over = {f"{p.stem}.checkpoint{more}" for p in paths if finished(p) for more in ("", ".previous")}
    outcome = server.start(FINISH, source, *paths).wait(600)
    assert outcome.code == 0, outcome.err
    for path in paths:
        assert finished(path)
        check_same_bits(straight, path)
    # a process killed after its last word leaves its checkpoints, and that is all that is ever left
    left = {p.name for p in folder.iterdir()} - {f"{p.name}{more}" for p in [*paths, straight] for more in ("", ".log")}
    assert left - over == {source.name, built.name}
    return met


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


def test_kill_9_at_thirty_random_moments(server, tmp_path):
    met = crash(server, tmp_path, 30, 1)
    assert met["frames"] >= 5
    assert met["resumption"] >= 5


@pytest.mark.slow
def test_kill_9_at_a_hundred_random_moments(server, tmp_path):
    met = crash(server, tmp_path, 100, 2)
    assert met["between"] > 0
    assert met["start"] > 0
