"""The parts of a step, each with XLA's own loops and with native kernels, side by side.

Bytes are those that one pass has to move: every operand in, the result out, nothing twice.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from glioma_pde.biology.tumour import Tumour
from glioma_pde.model import Model
from glioma_pde.numerics import kernels
from glioma_pde.numerics.diffusion import Links, net_diffusion
from glioma_pde.numerics.elliptic import solve_quasi_steady, sweeps_cold, uniform_coupling
from glioma_pde.numerics.taxis import advect, face_speed_factor
from glioma_pde.tissue import Tissue

TURNS = 4
"""Calls of a part in one timed program, each on what the one before returned."""
LINKS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))
"""Faces and three diagonals: about what a tensor along no axis needs."""


@dataclass
class Part:
    """One line of the table.

    Attributes:
        bytes_per_cell: moved by one call, at least.
        seconds: of one call, by kind of kernel.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes_per_cell: float
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def result(self, limit_gb_per_s: float) -> dict[str, Any]:
        """The part with its rates, ready for JSON."""
        cells = int(np.prod(self.shape))
        out: dict[str, Any] = {}
        for kind, seconds in self.seconds.items():
            rate = cells / statistics.median(seconds)
            share = rate * self.bytes_per_cell / (limit_gb_per_s * 1e9)
            out[kind] = {"million_cells_per_s": rate / 1e6, "fraction_of_copy_limit": share}
        return asdict(self) | {"rates": out}


def parts(sizes: list[int], repeats: int) -> list[Part]:
    """All parts on phantoms of these sizes, in single and double precision."""
    kinds = ("xla",) if kernels.WHY_NOT else ("xla", "native")
    with jax.enable_x64(True):
        out = []
        for n, dtype in itertools.product(sizes, ("float32", "float64")):
            for part, step, operands in _parts(n, dtype):
                assert operands[0].dtype == dtype
                for kind in kinds:
                    with kernels.use(kind):
                        program = jax.jit(partial(_turns, step))
                        part.seconds[kind] = _timed(lambda p=program, o=operands: p(*o), repeats)
                out.append(part)
        return out


def _turns(step: Callable[..., Array], u: Array, *others: Array) -> Array:
    return lax.fori_loop(0, TURNS, lambda _, u: step(u, *others), u)


def _timed(call: Callable[[], Array], repeats: int) -> list[float]:
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append((time.perf_counter() - start) / TURNS)
    return seconds


def _parts(n: int, dtype: str) -> Iterator[tuple[Part, Callable[..., Array], tuple[Any, ...]]]:
    tissue = Tissue.phantom("head", (n, n, n), 1.0, dtype=dtype)
    grid, shape = tissue.grid, tissue.grid.shape
    item = np.dtype(dtype).itemsize
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.random(shape), dtype) * tissue.mask
    faces = tissue.open_faces()
    g = tuple(0.05 * f for f in faces)

    def add(u, net):
        return u + 1e-3 * net

    alone = Model(tissue, [Tumour()], ledger=False)
    medium, start = alone.prepare(), alone.start({"tumour": u})
    dt = jnp.asarray(0.1, dtype)

    def two_steps(u, model, medium, carry, dt):
        return model.steps(carry._replace(x={"tumour": u}), medium, lambda k: (k * dt, dt), 2).x["tumour"]

    yield Part("two steps of a tumour alone", shape, dtype, 5 * item), two_steps, (u, alone, medium, start, dt)
    yield Part("diffusion", shape, dtype, 5 * item), lambda u, *g: add(u, net_diffusion(u, g)), (u, *g)
    links = tuple(0.05 * jnp.asarray(rng.random(shape), dtype) for _ in LINKS)
    yield (
        Part("tensor diffusion", shape, dtype, (2 + len(LINKS)) * item),
        lambda u, *g: add(u, net_diffusion(u, Links(LINKS, g))),
        (u, *links),
    )
    wind = tuple(jnp.asarray(rng.random(shape) - 0.5, dtype) for _ in faces)
    factor = face_speed_factor(grid, faces)

    def carried(u, wind, factor, occupied=None):
        return add(u, advect(grid, u, wind, factor, occupied))

    yield Part("migration", shape, dtype, 8 * item), carried, (u, wind, factor)
    yield Part("migration, volume filling", shape, dtype, 9 * item), carried, (u, wind, factor, 0.5 * u)

    inside = jnp.asarray(tissue.mask, dtype)
    coupling = uniform_coupling(grid, 4.4, inside, faces)
    sink = jnp.asarray(1.7, dtype)
    cold = jnp.zeros(shape, dtype)

    def solved(u, coupling, sink, cold):
        return add(u, solve_quasi_steady(grid, coupling, sink, u, cold, 1e-4))

    sweeps = int(sweeps_cold(coupling, sink, 1e-4))
    name = f"elliptic solve, {sweeps} sweeps"
    # a sweep goes over half of the cells
    yield Part(name, shape, dtype, 2.5 * item * (sweeps + 1)), solved, (u, coupling, sink, cold)


def table(results: list[dict[str, Any]]) -> list[str]:
    """Lines of text for `Part.result`s."""
    lines = [f"{'part of a step':<30}{'cells':>8}{'precision':>11}{'B/cell':>8}{'XLA':>16}{'native':>16}{'ratio':>8}"]
    for r in results:
        rates = r["rates"]
        text = [
            f"{rates[k]['million_cells_per_s']:.0f} ({rates[k]['fraction_of_copy_limit']:.0%})" if k in rates else "–"
            for k in ("xla", "native")
        ]
        both = "xla" in rates and "native" in rates
        ratio = rates["native"]["million_cells_per_s"] / rates["xla"]["million_cells_per_s"] if both else None
        lines.append(
            f"{r['name']:<30}{r['shape'][0]:>7}³{r['dtype']:>11}{r['bytes_per_cell']:>8.0f}{text[0]:>16}{text[1]:>16}"
            f"{'–' if ratio is None else f'{ratio:.1f}':>8}"
        )
    return [*lines, "(million cells/s, and the part of what copying memory allows at these bytes)"]
