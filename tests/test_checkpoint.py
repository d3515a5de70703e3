"""Checkpoints: exact to the bit, whole or not at all."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from glioma_pde.errors import GliomaError
from glioma_pde.io.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[1]
RANDOM_BITS = np.random.default_rng(0).integers(0, 2**63, (5, 7), dtype=np.uint64) * np.uint64(2)
ARRAYS = {
    "float32 bits": RANDOM_BITS.view(np.float32),  # subnormals and NaN payloads among them
    "float64 bits": RANDOM_BITS.view(np.float64),
    "signed zero": np.array([-0.0, 0.0, np.nan, np.inf], np.float32),
    "0-d": np.array(1.5, np.float64),
    "0-d int": np.array(-(2**63), np.int64),
    "empty": np.zeros((0, 3, 2), np.float32),
    "bool": np.array([[True], [False]]),
    "half": np.array([1, 2], np.float16),
    "complex": np.array([1 + 2j], np.complex64),
    "big endian": np.arange(4, dtype=">f8"),
    "uint8": np.arange(256, dtype=np.uint8),
    "text": np.array(["µM", ""]),
    "Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(20.0)[::3],
    "fields/tumour": np.ones((3, 4, 5), np.float32),
}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype.str == b[k].dtype.str and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a
    )


def test_roundtrip_is_bit_equal(tmp_path):
    meta = {"day": 0.1 + 0.2, "block": 7, "seed": 2**60 + 1, "label": "µ", "nested": [1, None, {"a": True}]}
    path = tmp_path / "run.checkpoint"
    save_checkpoint(path, ARRAYS, meta)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays, loaded = load_checkpoint(path)
    assert same(arrays, ARRAYS)
    assert loaded == meta
    assert isinstance(loaded["day"], float)
    save_checkpoint(path, {}, {"t": math.inf})
    assert load_checkpoint(path) == ({}, {"t": math.inf})


def test_two_are_kept(tmp_path):
    path = tmp_path / "run.checkpoint"
    for day in range(4):
        save_checkpoint(path, {"a": np.full(3, day)}, {"day": day})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.checkpoint", "run.checkpoint.previous"]
    assert load_checkpoint(path)[1] == {"day": 3}
    path.unlink()
    with pytest.warns(UserWarning, match="previous"):
        assert load_checkpoint(path)[1] == {"day": 2}


def test_any_damage_is_seen(tmp_path):
    path = tmp_path / "run.checkpoint"
    old, new = {"a": np.arange(40, dtype=np.float32)}, {"a": np.arange(40, dtype=np.float32) + 1}
    save_checkpoint(path, old, {"day": 1})
    save_checkpoint(path, new, {"day": 2})
    whole = path.read_bytes()
    spoilt = [whole[:n] for n in range(0, len(whole), 37)]
    for place in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        spoilt.append(bytes(flipped))
    fallen_back = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for bytes_ in spoilt:
            path.write_bytes(bytes_)
            arrays, meta = load_checkpoint(path)
            # Some bits of a zip file (dates, flags) mean nothing: then it must be read as it was.
            assert same(arrays, {1: old, 2: new}[meta["day"]])
            fallen_back += meta["day"] == 1
    assert fallen_back > len(spoilt) // 2


def test_nothing_usable_is_one_sentence(tmp_path):
    path = tmp_path / "run.checkpoint"
    with pytest.raises(GliomaError, match="no checkpoint here"):
        load_checkpoint(path)
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(GliomaError, match="No usable checkpoint"):
        load_checkpoint(path)
    path.with_name("run.checkpoint.previous").write_bytes(b"")
    with pytest.raises(GliomaError, match="previous"):
        load_checkpoint(path)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(GliomaError, match="No usable checkpoint"):
        load_checkpoint(tmp_path / "other.npz")


class Trap:
    """Unpickling it leaves a trace."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_pickled_objects_are_neither_written_nor_read(tmp_path):
    path, trace = tmp_path / "run.checkpoint", tmp_path / "trace"
    with pytest.raises(TypeError, match="cannot be kept"):
        save_checkpoint(path, {"a": np.array([Trap(trace)], object)}, {})
    with pytest.raises(TypeError):
        save_checkpoint(path, {}, {"a": Trap(trace)})
    assert not list(tmp_path.iterdir())
    with open(path, "wb") as handle:
        np.savez(handle, manifest=np.array([Trap(trace)], object))
    with pytest.raises(GliomaError):
        load_checkpoint(path)
    assert not trace.exists()


def test_a_failed_save_leaves_the_older_ones(tmp_path, monkeypatch):
    path = tmp_path / "run.checkpoint"
    for day in (1, 2):
        save_checkpoint(path, {"a": np.zeros(3)}, {"day": day})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glioma_pde.io.checkpoint.os.fsync", fail)
    with pytest.raises(GliomaError, match="full"):
        save_checkpoint(path, {"a": np.ones(3)}, {"day": 3})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    with pytest.raises(GliomaError, match="no such"):
        save_checkpoint(tmp_path / "none" / "run.checkpoint", {}, {})


SAVE_UNTIL_KILLED = """
# One process forks the writers and kills them: the imports are then paid once.
import os, random, signal, sys, time
import numpy as np
from glioma_pde.io.checkpoint import save_checkpoint
chance = random.Random(3)
for k in range(8):
    child = os.fork()
    if child == 0:
        day = 0
        while True:
            save_checkpoint(f"{sys.argv[1]}/{k}", {"a": np.full(20000, day)}, {"day": day})
            day += 1
    while not os.path.exists(f"{sys.argv[1]}/{k}"):
        time.sleep(0.001)
    time.sleep(chance.uniform(0.0, 0.08))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_kill_9_while_saving(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", SAVE_UNTIL_KILLED, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    newest = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(8):
            arrays, meta = load_checkpoint(tmp_path / str(k))
            np.testing.assert_array_equal(arrays["a"], np.full(20000, meta["day"]))
            newest.append(meta["day"])
    assert max(newest) > 2
