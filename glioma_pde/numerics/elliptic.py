"""Quasi-steady fields: (σ − ∇·D∇) c = b under no flux.

The operator is symmetric positive definite. In one dimension it is tridiagonal and solved directly;
elsewhere by Chebyshev-accelerated Jacobi (Golub & Varga 1961), whose number of sweeps is known before
it starts from Gershgorin's bound and the size of the first residual: no reductions inside the loop, and
a warm start costs only what it still lacks. Derivatives of any order, forward or reverse, come from
the implicit function theorem and are solved by the same sweeps from a cold start.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from ..grid import Grid
from . import kernels
from .diffusion import conductances, materialise, row_sum, shift

SOLVED = "solved"
"""Name of what is found by many sweeps, for policies of recomputation."""


LARGE = 2**19
"""Cells from which sweeps are native: faster than XLA's in single precision, about a fifth slower in double. On fewer cells,
which fit into a core's cache, XLA's are as good."""


class Coupling(NamedTuple):
    """How cells exchange a uniformly diffusing field [1/day, relative to the reference volume].

    Attributes:
        g: one number per axis (Cartesian: D/h²), or face arrays (radial).
        rows: conductance of all open faces around each cell, field-shaped.
        inside: 1 in the mask, 0 outside; fields vanish outside, which closes the mask's edge by itself.
    """

    g: tuple[Array, ...]
    rows: Array
    inside: Array

    def gather(self, c: Array) -> Array:
        """Σ over neighbours of conductance × value; meaningless outside the mask."""
        return _gather(self.g, c)

    def apply(self, sink: Array, c: Array) -> Array:
        """(σ − ∇·D∇) c times the relative volume, for c that vanishes outside the mask."""
        return (sink + self.rows) * c - self.gather(c) * self.inside


def uniform_coupling(grid: Grid, diffusivity: Array | float, inside: Array, faces: Sequence[Array]) -> Coupling:
    """Coupling of a field with one diffusivity [mm²/day] throughout the mask.

    Args:
        inside: 1 in the mask, 0 outside.
        faces: 1 at open faces, 0 at closed ones (`Tissue.open_faces`).
    """
    diffusivity = jnp.asarray(diffusivity, inside.dtype)
    per_face = conductances(grid, [f * diffusivity for f in faces])
    rows = row_sum(per_face)
    if grid.geometry == "radial":
        return Coupling(per_face, rows, inside)
    return Coupling(tuple(diffusivity / h**2 for h in grid.spacing_mm), rows, inside)


def solve_quasi_steady(
    grid: Grid,
    coupling: Coupling,
    sink: Array,
    source: Array,
    guess: Array,
    tolerance: float,
    negligible: Array | float = 0.0,
) -> Array:
    """The field c with ``sink c − ∇·(D∇c) = source`` (no flux through closed faces).

    Args:
        sink: σ > 0 [1/day], scalar or field-shaped.
        source: b [µM/day], field-shaped, zero outside the mask.
        guess: start of the iteration, zero outside the mask; no derivative flows through it.
        tolerance: bound on the residual relative to the source, both in the Jacobi-weighted
            Euclidean norm; the sweeps are as many as this norm and the maximum norm each ask for.
            Ignored in one dimension, where the solve is direct.
        negligible: a level [µM] under which c need not be known. Where the maximum principle, max c ≤ max b/σ, keeps all
            of c under it, c is zero and no sweep is made. Derivatives are those of the equation all the same.
            Ignored in one dimension.

    Returns:
        c [µM], zero outside the mask and never below ``−tolerance × max c``.
    """
    volume = grid.relative_volume(source.dtype)
    sink = jnp.broadcast_to(sink, source.shape)
    if volume is not None:
        sink, source = sink * volume, source * volume
    negligible = lax.stop_gradient(jnp.asarray(negligible, source.dtype))
    return _solve(float(tolerance), coupling, sink, source, lax.stop_gradient(guess), negligible)


def sweeps_cold(coupling: Coupling, sink: Array, tolerance: float) -> Array:
    """Sweeps from a cold start, as an integer scalar: for reports and benchmarks."""
    sink = jnp.broadcast_to(sink, coupling.rows.shape)
    return _count(jnp.min(sink / (sink + coupling.rows)), jnp.asarray(1.0 / tolerance, sink.dtype))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(tolerance: float, coupling: Coupling, sink: Array, source: Array, guess: Array, negligible: Array) -> Array:
    if source.ndim == 1:
        return _tridiagonal(coupling, sink, source)
    return _iterate(tolerance, coupling, sink, source, guess, negligible)[0]


def _iterate(
    tolerance: float, coupling: Coupling, sink: Array, source: Array, guess: Array, negligible: Array
) -> tuple[Array, Array]:
    """The solution, and the sweeps that it took."""
    tol = jnp.asarray(tolerance, source.dtype)
    c, count = _solution.bind(sink, source, guess, coupling.rows, coupling.inside, tol, negligible, *coupling.g)
    return c, count


def _solution_in_xla(sink, source, guess, rows, inside, tolerance, negligible, *g) -> list[Array]:
    coupling = Coupling(g, rows, inside)
    inverse = materialise(1.0 / (sink + coupling.rows))
    gap = jnp.min(sink * inverse)
    highest = jnp.max(jnp.abs(source) * inverse)

    def from_guess():
        start, lacking = _foreseen(coupling, sink, source, guess, inverse, highest)
        count = _in_pairs(_count(gap, lacking / tolerance))
        return _chebyshev(coupling, inverse, gap, source, start, count), count

    # A source of exactly zero has the solution zero, whatever the guess was. max b/σ ≤ max b/(σ + Σg) / min σ/(σ + Σg).
    matters = (highest > 0) & (highest > gap * negligible)
    return list(lax.cond(matters, from_guess, lambda: (jnp.zeros_like(source), jnp.int32(0))))


def _solution_native(sink, source, guess, *rest) -> list[Array]:
    c, _, _, _, count = kernels.call(
        "solve", [*[kernels.like(source)] * 4, jax.ShapeDtypeStruct((), jnp.int32)], sink, source, guess, *rest
    )
    return [c, count]


_solution = kernels.drop_in(
    "quasi_steady",
    lambda sink, *_: [sink, jax.core.ShapedArray((), jnp.int32)],
    _solution_in_xla,
    _solution_native,
    takes=lambda *operands: _large(operands[0], operands[7:]),
)


def _foreseen(
    coupling: Coupling, sink: Array, source: Array, guess: Array, inverse: Array, highest: Array
) -> tuple[Array, Array]:
    """Where to start from, and how large a part of the source its residual is, 1 at most."""
    tiny = jnp.finfo(source.dtype).tiny
    image = materialise(coupling.apply(sink, guess))
    # The best multiple of the guess: what grows or fades everywhere at one rate is foreseen by it.
    multiple = jnp.sum(source * image * inverse) / jnp.maximum(jnp.sum(image * image * inverse), tiny)
    residual = source - multiple * image
    wanted = jnp.sum(source * source * inverse)
    lacking = jnp.sqrt(jnp.sum(residual * residual * inverse) / jnp.maximum(wanted, tiny))
    # A wide source hides a narrow residual in the Euclidean norm: the highest cells have their say too.
    peak = jnp.max(jnp.abs(residual) * inverse) / jnp.maximum(highest, tiny)
    lacking = jnp.maximum(lacking, peak)
    # A guess worse than none would leave its own rounding behind when the source has fallen far.
    return jnp.where(lacking < 1.0, multiple * guess, 0.0), jnp.minimum(lacking, 1.0)


@_solve.defjvp
def _solve_jvp(tolerance, primals, tangents):
    coupling, sink, source = primals[:3]
    c = checkpoint_name(_solve(tolerance, *primals), SOLVED)

    def residual(coupling, sink, source):
        return source - coupling.apply(sink, c)

    _, rhs = jax.jvp(residual, (coupling, sink, source), tangents[:3])

    def cold(_, b):
        if b.ndim == 1:
            return _tridiagonal(coupling, sink, b)
        inverse = 1.0 / (sink + coupling.rows)
        gap = jnp.min(sink * inverse)
        count = _in_pairs(_count(gap, jnp.asarray(1.0 / tolerance, b.dtype)))
        inner = _chebyshev(coupling, inverse, gap, b * coupling.inside, jnp.zeros_like(b), count)
        return inner + b * inverse * (1.0 - coupling.inside)

    # Outside the mask the operator is the bare sink: it stays symmetric for right-hand sides of any support.
    def operator(v):
        inside = coupling.inside
        return (sink + coupling.rows) * v - coupling.gather(v * inside) * inside

    return c, lax.custom_linear_solve(operator, rhs, cold, cold, symmetric=True)


def _count(gap: Array, factor: Array) -> Array:
    """Smallest n with T_n(1/r) ≥ factor: n = arccosh(factor) / arccosh(1/r).

    r = 1 − gap bounds the spectral radius of the Jacobi iteration: gap = min σ/(σ + Σg) (Gershgorin).
    """
    factor = jnp.maximum(factor, 1.0)
    excess = gap / jnp.maximum(1.0 - gap, jnp.finfo(gap.dtype).eps)  # 1/r − 1
    per_sweep = jnp.log1p(excess + jnp.sqrt(excess * (2.0 + excess)))
    needed = jnp.log(factor + jnp.sqrt((factor - 1.0) * (factor + 1.0))) / per_sweep
    return jnp.ceil(jnp.minimum(needed, 1e6)).astype(jnp.int32)


def _in_pairs(count: Array) -> Array:
    return 2 * ((count + 1) // 2)


def _chebyshev(coupling: Coupling, inverse: Array, gap: Array, source: Array, guess: Array, count: Array) -> Array:
    """``count`` sweeps, an even number: two per pass let both iterates stay in place."""
    weight = inverse * coupling.inside
    return _sweeps.bind(source * inverse, weight, guess, (1.0 - gap) ** 2, count, *coupling.g)[0]


def _in_xla(source: Array, weight: Array, guess: Array, r2: Array, count: Array, *g: Array) -> list[Array]:
    def sweep(c):
        return source + weight * _gather(g, c)

    def body(k, state):
        even, odd, omega = state
        omega = jnp.where(k == 0, 1.0, 1.0 / (1.0 - 0.25 * r2 * omega))
        odd = odd + omega * (sweep(even) - odd)
        omega = jnp.where(k == 0, 2.0 / (2.0 - r2), 1.0 / (1.0 - 0.25 * r2 * omega))
        even = even + omega * (sweep(odd) - even)
        return even, odd, omega

    one = jnp.ones((), source.dtype)
    return list(lax.fori_loop(0, count // 2, body, (guess, guess, one))[:2])


def _large(field: Any, g: Sequence[Any]) -> bool:
    """Whether there are many cells, which exchange what they do by one number per axis."""
    return field.size >= LARGE and all(ga.ndim == 0 for ga in g)


_sweeps = kernels.drop_in(
    "sweeps",
    lambda source, *_: [source, source],
    _in_xla,
    lambda source, *rest: kernels.call("chebyshev", [kernels.like(source)] * 2, source, *rest),
    takes=lambda *operands: _large(operands[0], operands[5:]),
)


def _gather(g: Sequence[Array], c: Array) -> Array:
    total = None
    for axis, ga in enumerate(g):
        if ga.ndim == 0:
            term = ga * (shift(c, axis, 1) + shift(c, axis, -1))
        else:
            term = ga * shift(c, axis, 1) + shift(ga, axis, -1) * shift(c, axis, -1)
        total = term if total is None else total + term
    assert total is not None
    return total


def _tridiagonal(coupling: Coupling, sink: Array, source: Array) -> Array:
    # a 1-D Cartesian coupling is a number: close its faces by the mask
    g = coupling.g[0]
    if g.ndim == 0:
        g = g * coupling.inside * shift(coupling.inside, 0, 1)
    upper = -shift(g, 0, -1)
    return lax.linalg.tridiagonal_solve(-g, sink + coupling.rows, upper, source[:, None])[:, 0]
