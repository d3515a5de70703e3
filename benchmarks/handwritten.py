"""A loop written by hand in C with OpenMP (`loop.c`), to measure against: compiled when asked for, where a compiler is.

It computes the tumour's SSP-RK2 step on stored face conductances, as this package does, one pass per stage.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("loop.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")


def compiler() -> str | None:
    """The C compiler, if there is one."""
    named = os.environ.get("CC")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@functools.cache
def library(dtype: str) -> ctypes.CDLL | None:
    """The loop for ``"float32"`` or ``"float64"``; None without a compiler that knows OpenMP."""
    found = compiler()
    if found is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "loop.so"
        real = {"float32": "float", "float64": "double"}[dtype]
        done = subprocess.run([found, *FLAGS, f"-DREAL={real}", str(SOURCE), "-o", str(out)], capture_output=True)
        return None if done.returncode else ctypes.CDLL(str(out))


def growth(start: np.ndarray, conductances, rho: float, days: float, steps: int) -> Callable[[], np.ndarray] | None:
    """A call of the loop from ``start`` over ``steps`` equal steps, in the precision of ``start``.

    Args:
        conductances: of the lower faces along x, y and z [1/day]; zero at walls.
    """
    compiled = library(start.dtype.name)
    if compiled is None:
        return None
    g = [np.ascontiguousarray(a, start.dtype) for a in conductances]
    u, work = np.empty_like(start), np.empty_like(start)
    real = {"float32": ctypes.c_float, "float64": ctypes.c_double}[start.dtype.name]
    shape = [ctypes.c_long(n) for n in start.shape]
    arrays = [a.ctypes.data_as(ctypes.c_void_p) for a in (u, work, *g)]

    def run() -> np.ndarray:
        u[...] = start
        compiled.ssprk2(*shape, *arrays, real(days / steps), real(rho), ctypes.c_long(steps))
        return u

    return run
