"""The run file: what is written is read, whole or not at all, by us and by others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from glioma_pde.errors import GliomaError
from glioma_pde.grid import Grid
from glioma_pde.io._packing import PACKED, fletcher32, write_packed
from glioma_pde.io.hdf5 import Quantity, RunFile, RunWriter

ROOT = Path(__file__).parents[1]
TUMOUR = Quantity("tumour", "1", "tumour cell density")
DRUG = Quantity("drug", "µM", "drug concentration")
BURDEN = Quantity("burden_cells", "cells", "tumour burden")
TOTAL = Quantity("tumour_total", "cells", "tumour cells")
FLIPPED = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -20], [0, 0, 1.5, 5], [0, 0, 0, 1]])
GRIDS = {
    "3-D": Grid.from_affine((6, 5, 4), FLIPPED),
    "2-D": Grid.cartesian((6, 5), 0.5, thickness_mm=2.0),
    "1-D": Grid.cartesian((7,), 1.5),
    "radial": Grid.radial(9, 0.25),
}


def frame(grid: Grid, day: float) -> dict[str, np.ndarray]:
    random = np.random.default_rng(int(1000 * day))
    return {name: random.random(grid.shape, np.float32) for name in ("tumour", "drug")}


def start(path: Path, grid: Grid, **more) -> RunWriter:
    return RunWriter.create(path, grid=grid, fields=[TUMOUR, DRUG], observables=[BURDEN], ledger=[TOTAL], **more)


def add(writer: RunWriter, grid: Grid, day: float) -> None:
    writer.append_frame(day, frame(grid, day))
    writer.append_observables(day, {"burden_cells": 10.0 * day}, {"tumour_total": -day})


def written(path: Path, grid: Grid, days=(0.0, 0.5, 2.0), **more) -> Path:
    with start(path, grid, **more) as writer:
        for day in days:
            add(writer, grid, day)
        writer.finish("finished", {"burden_ratio_day56": 0.25, "verdict": "grows"})
    return path


def python(code: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run ``code`` in another process, with this file's names at hand."""
    head = "import sys; sys.path[:0] = ['.', 'tests']; from test_hdf5 import *\n"
    command = [sys.executable, "-W", "ignore", "-c", head + code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **options)


# -- what is written is read --------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRIDS)
def test_roundtrip(tmp_path, name):
    grid = GRIDS[name]
    white, mask = (
        np.random.default_rng(1).random(grid.shape),
        np.arange(grid.size).reshape(grid.shape) % 2 == 0,
    )
    injections = {"day": np.array([1.0, 2.0]), "cells": np.array([2e6, 3e6]), "event": np.array([0, 1])}
    background = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    rows = [("carriers.speed", 1.5, "mm/day", "Käs 2011", 1.0), ("b", None, "", "assumption", None)]
    path = written(
        tmp_path / "run.h5",
        grid,
        tissue={"white": white, "mask": mask},
        anatomy=(background, FLIPPED),
        schedule={"injections": injections, "empty": {"day": np.zeros(0)}},
        parameters=rows,
        attributes={"title": "µ", "config_toml": "a = 'µ'\n" * 9000, "versions": {"jax": "1"}, "seed": 7},
    )
    with RunFile(path) as run:
        assert not run.live
        assert run.grid == grid
        assert run.fields == {"tumour": TUMOUR, "drug": DRUG}
        assert run.days.tolist() == [0.0, 0.5, 2.0]
        for i, day in enumerate(run.days):
            for key, expected in frame(grid, day).items():
                np.testing.assert_array_equal(run.field(key, index=i), expected, strict=True)
                np.testing.assert_array_equal(run.field(key, day=day), expected)
        assert run.observable_days.tolist() == [0.0, 0.5, 2.0]
        assert run.observable("burden_cells").tolist() == [0.0, 5.0, 20.0]
        assert run.observables == {"burden_cells": BURDEN}
        assert run.ledger("tumour_total").tolist() == [0.0, -0.5, -2.0]
        assert run.tissue_names == ("white", "mask")
        np.testing.assert_array_equal(run.tissue("white"), white, strict=True)
        np.testing.assert_array_equal(run.tissue("mask"), mask.astype(np.uint8), strict=True)
        np.testing.assert_array_equal(run.anatomy()[0], background, strict=True)
        np.testing.assert_array_equal(run.anatomy()[1], FLIPPED)
        for key, expected in injections.items():
            np.testing.assert_array_equal(run.schedule("injections")[key], expected, strict=True)
        assert run.schedule("prodrug") == {}
        assert [p[:2] for p in run.parameters()[:1]] == [("carriers.speed", 1.5)]
        assert run.parameters()[0].source == "Käs 2011"
        assert np.isnan(run.parameters()[1].value)
        assert run.summary == {"burden_ratio_day56": 0.25, "verdict": "grows"}
        assert run.config_text == "a = 'µ'\n" * 9000
        assert run.attrs["status"] == "finished"
        assert run.attrs["seed"] == 7
        assert json.loads(run.attrs["versions"]) == {"jax": "1"}
        assert run.attrs["full_shape"].tolist() == list(grid.shape)
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]


@pytest.mark.parametrize(
    ("shape", "chunk"), [((9, 70, 11), (4, 64, 11)), ((5, 7), (5, 7)), ((300, 9), (256, 9)), ((4097,), (4096,))]
)
def test_chunks_are_packed_as_hdf5_reads_them(tmp_path, shape, chunk):
    random = np.random.default_rng(5)
    half = np.maximum(random.normal(size=shape), 0).astype(np.float32)  # half of it zeros
    images = [half, random.random(shape, np.float32), np.zeros(shape, np.float32), np.full(shape, 65535, np.float32)]
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        made = [
            file.create_dataset(str(i), (2, *shape), "f4", chunks=(1, *chunk), fillvalue=np.nan, **PACKED)
            for i in range(len(images))
        ]
        write_packed(1, dict(zip(made, images, strict=True)))
    with h5py.File(tmp_path / "packed.h5") as file:
        for i, image in enumerate(images):
            np.testing.assert_array_equal(file[str(i)][1], image)  # HDF5 checks the checksums as it reads
            assert np.isnan(file[str(i)][0]).all()
            for k in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunk, strict=True))):
                skipped, _ = file[str(i)].id.read_direct_chunk((1, *(n * c for n, c in zip(k, chunk, strict=True))))
                assert skipped == 0  # no filter was left out


def test_checksums_of_all_sizes():
    assert fletcher32(b"") == 0
    assert fletcher32(bytes(10)) == 0
    assert fletcher32(b"\xff\xff") == 0xFFFFFFFF  # both sums are multiples of 65535, but not of nothing
    assert fletcher32(b"\x01\x02\x03") == (0x0102 + 0x0102 + 0x0300) << 16 | (0x0102 + 0x0300)


def test_layout_on_file(tmp_path):
    grid = Grid.cartesian((100, 70, 66), 1.0)
    marked = np.zeros(grid.shape)
    marked[99, 2, 1] = 1
    with start(tmp_path / "run.h5", grid) as writer:
        writer.append_frame(0.0, {"tumour": marked, "drug": marked})
    with h5py.File(tmp_path / "run.h5") as file:
        data = file["tumour"]
        assert data.shape == (1, 66, 70, 100)
        assert data[0, 1, 2, 99] == 1
        assert data.chunks == (1, 64, 64, 78)
        assert (data.compression, data.compression_opts, data.shuffle, data.fletcher32) == (
            "gzip",
            1,
            True,
            True,
        )
        assert data.dtype == np.float32
        assert [dim[0].name for dim in data.dims] == ["/time", "/z", "/y", "/x"]
        assert data.attrs["units"] == "1"
        assert file["x"].attrs["units"] == "mm"
        assert file["time"].attrs["units"] == file["observables/time"].attrs["units"] == "day"
        assert file["ledger/time"] == file["observables/time"]
        assert file.attrs["Conventions"].startswith("CF-1.11")


def test_flipped_axis_keeps_left_and_right(tmp_path):
    """A marker further right in the world stands at the larger x, whichever way the image is stored."""
    for sign in (1.0, -1.0):
        grid = Grid.from_affine((8, 5, 4), np.diag([sign * 2.0, 2.0, 2.0, 1.0]))
        world = grid.world_mm()
        right, left = np.argmax(world[0, :, 0, 0]), np.argmin(world[0, :, 0, 0])
        marked = np.zeros(grid.shape)
        marked[right, 1, 2], marked[left, 1, 2] = 1.0, 0.5
        with start(tmp_path / "run.h5", grid) as writer:
            writer.append_frame(0.0, {"tumour": marked, "drug": marked})
        with h5py.File(tmp_path / "run.h5") as file:
            data, x = file["tumour"][0], file["x"][:]
            place = {value: x[np.argwhere(data == value)[0][2]] for value in (1.0, 0.5)}
            assert place[1.0] > place[0.5]
            assert place[1.0] == world[0, right, 0, 0]
        with RunFile(tmp_path / "run.h5") as run:
            index = np.argwhere(run.field("tumour", index=0) == 1.0)[0]
            np.testing.assert_allclose(run.grid.matrix @ [*index, 1], [*world[:, right, 1, 2], 1])


def test_opens_in_xarray(tmp_path):
    grid = GRIDS["3-D"]
    table = {"day": np.array([1.0])}
    path = written(tmp_path / "run.h5", grid, tissue={"white": np.ones(grid.shape)}, schedule={"injections": table})
    with xarray.open_dataset(path, engine="h5netcdf") as data:
        assert dict(data.sizes) == {"time": 3, "z": 4, "y": 5, "x": 6}
        assert set(data.coords) == {"time", "z", "y", "x"}
        assert data["time"].dtype == np.float64
        assert data["tumour"].attrs == {"units": "1", "long_name": "tumour cell density"}
        picked = data["tumour"].sel(time=0.5).transpose("x", "y", "z").values
        np.testing.assert_array_equal(picked, frame(grid, 0.5)["tumour"])
        assert data["x"].values.tolist() == grid.axis_mm(0).tolist()
        with RunFile(path) as run:  # both at once
            np.testing.assert_array_equal(run.field("tumour", day=0.5), picked)
    for group, sizes in {
        "observables": {"time": 3},
        "ledger": {"time": 3},
        "tissue": {"z": 4, "y": 5, "x": 6},
        "schedule/injections": {"row": 1},
    }.items():
        with xarray.open_dataset(path, engine="h5netcdf", group=group) as data:
            assert dict(data.sizes) == sizes
    with xarray.open_dataset(path, engine="h5netcdf", group="observables") as data:
        assert data["burden_cells"].sel(time=2.0) == 20.0


# -- while it is written ------------------------------------------------------------------------------


def test_another_process_reads_along(tmp_path):
    grid, path = GRIDS["3-D"], tmp_path / "run.h5"
    code = """
grid, run = GRIDS["3-D"], RunFile(sys.argv[1])
for _ in range(2):
    equal = [bool(np.array_equal(run.field(k, index=i), v)) for i, d in enumerate(run.days) for k, v in frame(grid, d).items()]
    live = xarray.open_dataset(sys.argv[1], engine="h5netcdf", driver_kwds={"swmr": True})
    table = xarray.open_dataset(sys.argv[1], engine="h5netcdf", group="observables", driver_kwds={"swmr": True})
    seen = [int(live.sizes["time"]), float(live["tumour"][0].sum()), table["burden_cells"].values.tolist()]
    live.close(); table.close()
    print(json.dumps([run.live, run.days.tolist(), equal, run.observable("burden_cells").tolist(), *seen]), flush=True)
    sys.stdin.readline()
    run.refresh()
"""
    with start(path, grid) as writer:
        add(writer, grid, 0.0)
        add(writer, grid, 1.0)
        # What has no time yet does not exist.
        writer._output.h5["tumour"].resize(3, axis=0)
        writer._output.h5.flush()
        head = "import sys; sys.path[:0] = ['.', 'tests']; from test_hdf5 import *\n"
        reader = subprocess.Popen(
            [sys.executable, "-c", head + code, path],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            live, days, equal, burden, _, total, _ = json.loads(reader.stdout.readline())
            assert (live, days, burden) == (True, [0.0, 1.0], [0.0, 10.0])
            assert equal == [True] * 4
            assert total == pytest.approx(frame(grid, 0.0)["tumour"].sum(), rel=1e-6)
            add(writer, grid, 2.5)
            reader.stdin.write("\n")
            reader.stdin.flush()
            _, days, equal, burden, count, _, table = json.loads(reader.stdout.readline())
            assert (days, burden) == ([0.0, 1.0, 2.5], [0.0, 10.0, 25.0])
            assert equal == [True] * 6
            assert (count, table) == (3, [0.0, 10.0, 25.0])
        finally:
            reader.communicate("\n", timeout=60)


def test_a_second_writer_is_refused(tmp_path):
    grid, path = GRIDS["1-D"], tmp_path / "run.h5"
    attempt = """
for act in (lambda p: start(p, GRIDS["1-D"]), lambda p: RunWriter.reopen(p, 9.0)):
    try:
        act(sys.argv[1])
        print("written")
    except GliomaError as error:
        print(error)
"""
    with start(path, grid) as writer:
        add(writer, grid, 0.0)
        lines = python(attempt, path).stdout.splitlines()
        assert len(lines) == 2
        assert all("being written" in line for line in lines)
        with pytest.raises(GliomaError, match="being written"):
            start(path, grid)
        with RunFile(path) as run:
            assert run.days.tolist() == [0.0]
        add(writer, grid, 1.0)
    with RunFile(path) as run:
        assert run.days.tolist() == [0.0, 1.0]
        # A reader that holds the old file blocks nobody, and keeps what it has opened.
        written(path, grid, days=(5.0,))
        assert run.field("tumour", index=1).tolist() == frame(grid, 1.0)["tumour"].tolist()
    with RunFile(path) as run:
        assert run.days.tolist() == [5.0]


def test_an_error_inside_keeps_what_is_committed(tmp_path):
    grid, path = GRIDS["2-D"], tmp_path / "run.h5"
    with pytest.raises(ZeroDivisionError), start(path, grid) as writer:
        add(writer, grid, 0.0)
        raise ZeroDivisionError
    with RunFile(path) as run:
        assert (run.live, run.days.tolist(), run.attrs["status"]) == (False, [0.0], "running")
    with pytest.raises(GliomaError, match="closed"):
        add(writer, grid, 1.0)


def test_a_failed_start_leaves_the_old_file(tmp_path):
    path = written(tmp_path / "run.h5", GRIDS["2-D"])
    before = path.read_bytes()
    wrong = np.zeros((5, 6))
    for more in (
        {"tissue": {"white": wrong}},
        {"schedule": {"a": {"x": [1.0], "y": [1.0, 2.0]}}},
        {"attributes": {"a": object()}},
        {"anatomy": (wrong, FLIPPED)},
        {"ledger": [BURDEN, BURDEN]},
        {"observables": [Quantity("time", "day", "")]},
    ):
        with pytest.raises(ValueError):
            RunWriter.create(path, grid=GRIDS["2-D"], fields=[TUMOUR], **more)
    with pytest.raises(ValueError, match="reserved"):
        RunWriter.create(path, grid=GRIDS["2-D"], fields=[Quantity("x", "1", "")])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]


def test_wrong_rows_are_not_committed(tmp_path):
    grid = GRIDS["2-D"]
    with start(tmp_path / "run.h5", grid) as writer:
        add(writer, grid, 1.0)
        good = frame(grid, 2.0)
        for day, fields in (
            (1.0, good),
            (np.nan, good),
            (2.0, {"tumour": good["tumour"]}),
            (2.0, {**good, "other": good["drug"]}),
            (2.0, {**good, "drug": good["drug"].T}),
        ):
            with pytest.raises(ValueError):
                writer.append_frame(day, fields)
        with pytest.raises(ValueError):
            writer.append_observables([2.0, 3.0], {"burden_cells": [1.0]}, {"tumour_total": [1.0, 2.0]})
        with pytest.raises(ValueError):
            writer.append_observables([3.0, 2.0], {"burden_cells": [1.0, 2]}, {"tumour_total": [1.0, 2.0]})
        writer.append_observables([2.0, 3.0], {"burden_cells": [1.0, 2]}, {"tumour_total": [1.0, 2.0]})
    with RunFile(tmp_path / "run.h5") as run:
        assert run.days.tolist() == [1.0]
        assert run.observable_days.tolist() == [1.0, 2.0, 3.0]


# -- crashes ------------------------------------------------------------------------------------------

WRITE_UNTIL_KILLED = """
# One process forks the writers and kills them: the imports are then paid once.
import os, random, signal, time
folder, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
grid, chance = GRIDS["1-D"], random.Random(5)
for k in range(count):
    child = os.fork()
    if child == 0:
        log = os.open(f"{folder}/{k}.log", os.O_WRONLY | os.O_CREAT)
        while True:
            writer, day = start(f"{folder}/{k}.h5", grid), 0
            while kind == "frames" or day < 3:
                add(writer, grid, day)
                os.pwrite(log, b"%6d" % day, 0)
                day += 1
            writer.finish("finished")
            os.pwrite(log, b"%6d" % -1, 0)
    # half of them only once something is committed, however slow the machine is
    while not os.path.exists(f"{folder}/{k}.log") or (k % 2 and not os.path.getsize(f"{folder}/{k}.log")):
        time.sleep(0.001)
    time.sleep(chance.uniform(0.01, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_kill_9_loses_no_committed_frame(tmp_path):
    grid, total = GRIDS["1-D"], 0
    assert python(WRITE_UNTIL_KILLED, tmp_path, "frames", 8).returncode == 0
    for k in range(8):
        path, log = tmp_path / f"{k}.h5", (tmp_path / f"{k}.log").read_text()
        if not log:
            continue
        last = int(log)
        with RunFile(path) as run:
            assert run.live
            days = run.days
            assert len(days) >= last + 1
            assert len(run.observable_days) >= last + 1
            for i, day in enumerate(days):
                assert day == i
                for key, expected in frame(grid, day).items():
                    np.testing.assert_array_equal(run.field(key, index=i), expected)
            np.testing.assert_array_equal(run.observable("burden_cells"), 10.0 * run.observable_days)
            total += len(days)
        keep = days[-1] // 2
        with RunWriter.reopen(path, keep) as writer:
            add(writer, grid, keep + 0.5)
            writer.finish("finished")
        with RunFile(path) as run:
            assert not run.live
            assert run.days.tolist() == [*range(int(keep) + 1), keep + 0.5]
    assert total > 10


def test_kill_9_between_create_and_finish_leaves_a_readable_file(tmp_path):
    assert python(WRITE_UNTIL_KILLED, tmp_path, "whole", 5).returncode == 0
    statuses = set()
    for k in range(5):
        if (tmp_path / f"{k}.log").read_text():
            with RunFile(tmp_path / f"{k}.h5") as run:
                statuses.add(run.attrs["status"])
                for i, day in enumerate(run.days):
                    expected = frame(run.grid, day)["drug"]
                    np.testing.assert_array_equal(run.field("drug", index=i), expected)
                if run.attrs["status"] == "finished":
                    assert run.days.tolist() == [0.0, 1.0, 2.0]
    assert statuses


def test_reopened_run_equals_the_uninterrupted_one(tmp_path):
    grid = GRIDS["3-D"]
    more = {
        "tissue": {"white": frame(grid, 9)["drug"]},
        "anatomy": (np.arange(60, dtype=np.uint8).reshape(3, 4, 5), FLIPPED),
        "schedule": {"injections": {"day": np.array([1.0]), "event": np.array([3])}},
        "parameters": [("a", 1.0, "1/day", "ref", None)],
        "attributes": {"created_utc": "then", "seed": 3, "label": "µ", "window_start": [1, 2, 3]},
    }
    straight = written(tmp_path / "a.h5", grid, days=(0.0, 1.0, 2.0, 3.0), **more)
    broken = tmp_path / "b.h5"
    with start(broken, grid, **more) as writer:
        for day in (0.0, 1.0, 1.5):
            add(writer, grid, day)
    with RunWriter.reopen(broken, 1.0) as writer:
        for day in (2.0, 3.0):
            add(writer, grid, day)
        writer.finish("finished", {"burden_ratio_day56": 0.25, "verdict": "grows"})
    contents: list[dict] = []
    for path in (straight, broken):
        content = {}
        with h5py.File(path) as file:
            content["/"] = {k: np.array(v).tolist() for k, v in file.attrs.items()}
            file.visititems(
                lambda name, item, content=content: content.update(
                    {name: item[()].tobytes() if isinstance(item, h5py.Dataset) and item.dtype != "O" else None}
                )
            )
        contents.append(content)
    assert contents[0] == contents[1]


def test_finish_is_all_or_nothing(tmp_path, monkeypatch):
    grid, path = GRIDS["1-D"], tmp_path / "run.h5"
    writer = start(path, grid)
    add(writer, grid, 0.0)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glioma_pde.io.hdf5.os.replace", fail)
    with pytest.raises(GliomaError, match="full"):
        writer.finish("finished", {"a": 1.0})
    monkeypatch.undo()
    with RunFile(path) as run:
        assert (run.attrs["status"], run.summary, run.days.tolist()) == ("running", {}, [0.0])
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]
    RunWriter.reopen(path, 0.0).finish("finished")


FULL_DISK = """
import os, resource
grid = Grid.cartesian((20000,), 1.0)
writer = start(sys.argv[1], grid)
try:
    for day in range(100):
        if day == 3:
            if sys.argv[2] == "limit":
                at = os.path.getsize(sys.argv[1]) + 5000
                resource.setrlimit(resource.RLIMIT_FSIZE, (at, resource.RLIM_INFINITY))
            else:
                os.dup2(os.open("/dev/full", os.O_RDWR), writer._output.h5.id.get_vfd_handle())
        writer.append_frame(day, frame(grid, day))
except GliomaError as error:
    print(day, error)
writer.close()
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
@pytest.mark.parametrize("kind", ["limit", "device"])
def test_full_disk_is_one_sentence_and_loses_nothing(tmp_path, kind):
    """Before HDF5 writes (limit) and, where that cannot be foreseen, in the midst of it (device)."""
    done = python(FULL_DISK, tmp_path / "run.h5", kind)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 ")
    assert "full" in done.stdout
    grid = Grid.cartesian((20000,), 1.0)
    with RunFile(tmp_path / "run.h5") as run:
        assert run.days.tolist() == [0.0, 1.0, 2.0]
        for day in run.days:
            np.testing.assert_array_equal(run.field("drug", day=day), frame(grid, day)["drug"])
    with RunWriter.reopen(tmp_path / "run.h5", 2.0) as writer:
        writer.append_frame(3.0, frame(grid, 3.0))
    with RunFile(tmp_path / "run.h5") as run:
        assert run.days.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_paths_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, words in (("none/run.h5", "no such"), ("file/run.h5", "folder"), ("folder", "folder")):
        with pytest.raises(GliomaError, match=words):
            start(tmp_path / path, GRIDS["1-D"])
    with pytest.raises(GliomaError, match="no such"):
        RunWriter.reopen(tmp_path / "none.h5", 0.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(GliomaError, match="permission"):
        start(tmp_path / "run.h5", GRIDS["1-D"])


# -- files that are not, or no longer, run files ------------------------------------------------------


def test_asking_for_what_is_not_there(tmp_path):
    with RunFile(written(tmp_path / "run.h5", GRIDS["1-D"])) as run:
        for ask in (
            lambda: run.field("carriers", index=0),
            lambda: run.field("tumour", index=3),
            lambda: run.field("tumour", day=2.1),
            lambda: run.field("tumour", day=-1.0),
            lambda: run.observable("tumour_total"),
            lambda: run.ledger("burden_cells"),
            lambda: run.tissue("white"),
        ):
            with pytest.raises(GliomaError, match=r"run\.h5"):
                ask()
        np.testing.assert_array_equal(run.field("drug", index=-1), run.field("drug", day=1.9))
        assert run.index_of(0.2) == 0
        assert run.anatomy() is None
    start(tmp_path / "empty.h5", GRIDS["1-D"]).close()
    with RunFile(tmp_path / "empty.h5") as run, pytest.raises(GliomaError, match="no frame yet"):
        run.field("tumour", day=0.0)


def test_damaged_files_are_refused_in_words(tmp_path):
    whole = written(tmp_path / "run.h5", GRIDS["3-D"]).read_bytes()
    path = tmp_path / "bad.h5"
    with pytest.raises(GliomaError, match="no such"):
        RunFile(path)
    with pytest.raises(GliomaError, match="folder"):
        RunFile(tmp_path)
    for bytes_, words in ((b"", "not an HDF5"), (b"PK" * 99, "not an HDF5"), (whole[:-100], "cut off")):
        path.write_bytes(bytes_)
        with pytest.raises(GliomaError, match=words):
            RunFile(path)
    path.write_bytes(whole)
    killed = "import h5py, os, sys; file = h5py.File(sys.argv[1], 'r+'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed, path], check=False)
    with pytest.raises(GliomaError, match="h5clear"):
        RunFile(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        del file.attrs["affine"]
    with pytest.raises(GliomaError, match="affine"):
        RunFile(path)
    with h5py.File(path, "w") as file:
        file["data"] = 1
    with pytest.raises(GliomaError, match="not a run file"):
        RunFile(path)
    random = np.random.default_rng(0)
    for _ in range(150):
        spoilt = bytearray(whole)
        for place in random.integers(len(whole), size=20):
            spoilt[place] = random.integers(256)
        path.write_bytes(spoilt[: random.integers(len(whole) // 2, 2 * len(whole))])
        try:
            with RunFile(path) as run:
                for i in range(len(run.days)):
                    assert np.array_equal(run.field("drug", index=i), frame(run.grid, run.days[i])["drug"])
        except GliomaError as error:
            assert str(path) in str(error)


def test_a_damaged_frame_spares_the_others(tmp_path):
    path = written(tmp_path / "run.h5", GRIDS["3-D"])
    with h5py.File(path) as file:
        place = file["tumour"].id.get_chunk_info(1).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 20] ^= 1
    path.write_bytes(data)
    with RunFile(path) as run:
        with pytest.raises(GliomaError, match="damaged"):
            run.field("tumour", index=1)
        np.testing.assert_array_equal(run.field("tumour", index=2), frame(run.grid, 2.0)["tumour"])


def _external_link(file, folder):
    file["tissue/white"] = h5py.ExternalLink(str(folder / "secret.h5"), "/data")


def _soft_link(file, folder):
    file["tissue/white"] = h5py.SoftLink("/observables")


def _virtual(file, folder):
    layout = h5py.VirtualLayout((5,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "data", (5,))
    file.create_virtual_dataset("observables/other", layout)


def _external_storage(file, folder):
    file.create_dataset("observables/other", (5,), "f8", external=str(folder / "secret.bin"))


def _plug_in_filter(file, folder):
    file.create_dataset("observables/other", data=np.zeros(9), chunks=(9,), compression="lzf")


def _huge(file, folder):
    file.create_dataset("observables/other", (2**34,), "f8", chunks=(2**10,))


def _huge_chunk(file, folder):
    file.create_dataset("observables/other", (2**28,), "f8", chunks=(2**28,))


def _huge_overflowing(file, folder):
    file.create_dataset("field", (1, 2**40, 2**40), "f4", chunks=(1, 1, 64))


def _compound(file, folder):
    file["observables/other"] = np.zeros(3, [("a", "f8"), ("b", "i4")])


def _ragged(file, folder):
    file.create_dataset("parameters/other", (2,), h5py.vlen_dtype(np.float64))


@pytest.mark.parametrize(
    "spoil",
    [
        _external_link,
        _soft_link,
        _virtual,
        _external_storage,
        _plug_in_filter,
        _huge,
        _huge_chunk,
        _huge_overflowing,
        _compound,
        _ragged,
    ],
)
def test_files_with_ways_out_are_refused(tmp_path, spoil):
    path = written(tmp_path / "run.h5", GRIDS["1-D"])
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["data"] = np.zeros(5)
    with h5py.File(path, "r+") as file:
        spoil(file, tmp_path)
    with pytest.raises(GliomaError, match="do not trust"):
        RunFile(path)
