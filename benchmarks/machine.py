"""What a run was measured on, and how fast that machine copies memory.

A copy is counted as in STREAM (McCalpin 1995): bytes read plus bytes written, nothing for the lines a cache
fetches before it overwrites them.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from glioma_pde.errors import GliomaError
from glioma_pde.manifest import git_revision, versions

BYTES_PER_CELL_STEP = 12
"""The least a one-pass float32 step with a diffusivity of its own in every cell can move: u and D in, u out."""


def choose_device(name: str | None) -> Any:
    """The device that all arrays go to: ``"cpu"``, ``"gpu"``, or None for JAX's own choice.

    Raises:
        GliomaError: if JAX finds no such device.
    """
    if name == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        return jax.devices(name)[0]
    except RuntimeError as error:
        raise GliomaError(f"JAX finds no {name} to measure: {str(error).splitlines()[0]}") from None


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(device: Any) -> dict[str, Any]:
    """Date, machine, device and versions, for the head of a result."""
    return {
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {"platform": device.platform, "kind": device.device_kind},
        "machine": {
            "processor": _processor(),
            "cores": cores(),
            "system": f"{platform.system()} {platform.machine()}",
            # others' work on the same cores is the largest error of all
            "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        },
        "versions": {"python": platform.python_version(), **versions(), "backend": device.platform},
        "git_revision": git_revision(),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }


class Copies:
    """Copy bandwidth [GB/s] by kind, sampled between the cases, so that limit and cases share the machine's moods.

    Kinds: ``numpy_1`` and ``numpy_n`` (one thread, one per core; on a CPU only) and ``xla`` (one compiled pass
    from one array into another, on the device measured).
    """

    def __init__(self, device: Any, mib: int) -> None:
        """``mib``: size of one array [MiB]; STREAM asks for four times the last cache."""
        count = mib * 2**20 // 4
        self.bytes_moved = 2 * 4 * count
        self.array_mib = mib
        self.samples: dict[str, list[float]] = {}
        self._runs: dict[str, Callable[[], None]] = {}
        if device.platform == "cpu":
            source, target = np.ones(count, np.float32), np.ones(count, np.float32)
            for name, threads in (("numpy_1", 1), ("numpy_n", cores())):
                self._runs[name] = _numpy_copy(source, target, threads)
        self._runs["xla"] = _xla_copy(count)

    def sample(self, repeats: int) -> None:
        """Copy ``repeats`` times in every way."""
        for name, run in self._runs.items():
            run()
            for _ in range(repeats):
                start = time.perf_counter()
                run()
                seconds = time.perf_counter() - start
                self.samples.setdefault(name, []).append(self.bytes_moved / seconds / 1e9)

    def result(self) -> dict[str, Any]:
        """Medians and extremes of each kind, and the limit they set: the fastest kind's median.

        ``limit_million_cell_steps_per_s`` is that limit at `BYTES_PER_CELL_STEP`.
        """
        kinds = {
            name: {"median": statistics.median(v), "min": min(v), "max": max(v), "samples": len(v)}
            for name, v in self.samples.items()
        }
        limit = max(k["median"] for k in kinds.values())
        return {
            "array_mib": self.array_mib,
            "gb_per_s": kinds,
            "limit_gb_per_s": limit,
            "bytes_per_cell_step": BYTES_PER_CELL_STEP,
            "limit_million_cell_steps_per_s": limit * 1e3 / BYTES_PER_CELL_STEP,
        }


def _numpy_copy(source: np.ndarray, target: np.ndarray, threads: int) -> Callable[[], None]:
    pairs = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    if threads == 1:
        return lambda: np.copyto(*pairs[0])
    pool = ThreadPoolExecutor(threads)

    def run() -> None:
        # NumPy lets go of the interpreter while it copies
        list(pool.map(lambda pair: np.copyto(*pair), pairs))

    return run


def _xla_copy(count: int) -> Callable[[], None]:
    # A factor that is not known at compile time makes this a pass of the kind a stencil is, not a call of memcpy.
    # Donating the target spares the page faults of a new array on every call.
    scale = jax.jit(lambda source, target, one: source * one, donate_argnums=1, keep_unused=True)
    one = jnp.ones((), jnp.float32)
    arrays = [jnp.ones(count, jnp.float32), jnp.zeros(count, jnp.float32)]
    jax.block_until_ready(arrays)

    def run() -> None:
        source, target = arrays
        arrays[:] = [jax.block_until_ready(scale(source, target, one)), source]

    return run


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
