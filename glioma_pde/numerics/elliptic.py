"""Quasi-steady fields: (σ − ∇·D∇) c = b under no flux.

The operator is symmetric positive definite. In one dimension it is tridiagonal and solved directly;
elsewhere by the cyclic Chebyshev method (Golub & Varga 1961), whose number of sweeps is known before
it starts from Gershgorin's bound and the size of the first residual: no reductions inside the loop, and
a warm start costs only what it still lacks. Derivatives of any order, forward or reverse, come from
the implicit function theorem and are solved by the same sweeps from a cold start.

Cells are red where the sum of their indices is even, else black, as on a chessboard; neighbours differ in colour. So half
of what Chebyshev-accelerated Jacobi computes does not depend on the other half, and is not computed: each sweep goes over
the cells of one colour, which are stored side by side. The last one solves the equations of the red cells exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from ..grid import Grid
from . import kernels
from .diffusion import conductances, materialise, row_sum, shift

SOLVED = "solved"
"""Name of what is found by many sweeps, for policies of recomputation."""


COLD = 2.0
"""Bound on the residual of a start from nothing, once the red cells are solved for, relative to the source: 1 + r of
maximum norms and √2 of Euclidean ones."""


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
    sink = jnp.asarray(sink, source.dtype)
    if volume is not None:
        sink, source = sink * volume, source * volume
    negligible = lax.stop_gradient(jnp.asarray(negligible, source.dtype))
    return _solve(float(tolerance), coupling, sink, source, lax.stop_gradient(guess), negligible)


def sweeps_cold(coupling: Coupling, sink: Array, tolerance: float) -> Array:
    """Sweeps from a cold start, as an integer scalar: for reports and benchmarks."""
    gap = jnp.min(sink / (sink + coupling.rows))
    return _in_pairs(_count(gap, jnp.asarray(COLD / tolerance, coupling.rows.dtype)))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(tolerance: float, coupling: Coupling, sink: Array, source: Array, guess: Array, negligible: Array) -> Array:
    if source.ndim == 1:
        return _tridiagonal(coupling, sink, source)
    return _iterate(tolerance, coupling, sink, source, guess, negligible)[0]


def _iterate(
    tolerance: float, coupling: Coupling, sink: Array, source: Array, guess: Array, negligible: Array
) -> tuple[Array, Array]:
    """The solution, and the sweeps that it took, red and black in turn, less the last one."""
    tol = jnp.asarray(tolerance, source.dtype)
    c, count = _solution.bind(source, sink, guess, coupling.rows, coupling.inside, tol, negligible, *coupling.g)
    return c, count


def _solution_in_xla(source, sink, guess, rows, inside, tolerance, negligible, *g) -> list[Array]:
    inverse = materialise(1.0 / (sink + rows))
    gap = jnp.min(sink * inverse)
    highest = jnp.max(jnp.abs(source) * inverse)

    def from_guess():
        halves = materialise([_split(f) for f in (source * inverse, inside * inverse, guess)])
        (red_source, black_source), (red_weight, black_weight), (_, guess_black) = halves
        multiple = _foreseen(source, guess, inverse, inside, g)

        def red_of(black):
            return red_source + red_weight * _beyond(g, black, _odd_rows(black.shape))

        def black_of(red):
            return black_source + black_weight * _beyond(g, red, ~_odd_rows(red.shape))

        tiny = jnp.finfo(source.dtype).tiny
        wanted = jnp.maximum(jnp.sum(source * source * inverse), tiny)
        # what the black cells of the guess lack once the red ones are solved for
        lack = materialise(black_of(materialise(red_of(multiple * guess_black))) - multiple * guess_black)
        weighed = jnp.where(black_weight > 0, lack * lack / jnp.where(black_weight > 0, black_weight, 1.0), 0.0)
        # A wide source hides a narrow residual in the Euclidean norm: the highest cells have their say too.
        lacking = jnp.maximum(jnp.sqrt(jnp.sum(weighed) / wanted), jnp.max(jnp.abs(lack)) / jnp.maximum(highest, tiny))
        # A guess worse than none would leave its own rounding behind when the source has fallen far.
        useful = (lacking < 1.0) & (multiple != 0.0)
        count = _in_pairs(_count(gap, jnp.where(useful, lacking, COLD) / tolerance))
        black = jnp.where(useful, multiple, 0.0) * guess_black
        r2 = (1.0 - gap) ** 2

        def body(k, state):
            red, black, omega = state
            omega = jnp.where(k == 0, 1.0, 1.0 / (1.0 - 0.25 * r2 * omega))
            red = red + omega * (red_of(black) - red)
            omega = jnp.where(k == 0, 2.0 / (2.0 - r2), 1.0 / (1.0 - 0.25 * r2 * omega))
            black = black + omega * (black_of(red) - black)
            return red, black, omega

        one = jnp.ones((), source.dtype)
        _, black, _ = lax.fori_loop(0, count // 2, body, (jnp.zeros_like(black), black, one))
        return _joined(red_of(black), black, source.shape[-1]), count

    # A source of exactly zero has the solution zero, whatever the guess was. max b/σ ≤ max b/(σ + Σg) / min σ/(σ + Σg).
    matters = (highest > 0) & (highest > gap * negligible)
    return list(lax.cond(matters, from_guess, lambda: (jnp.zeros_like(source), jnp.int32(0))))


def _solution_native(source, *rest) -> list[Array]:
    halves = jax.ShapeDtypeStruct((2, *source.shape[:-1], (source.shape[-1] + 1) // 2), source.dtype)
    results = [kernels.like(source), *[halves] * 3, jax.ShapeDtypeStruct((), jnp.int32)]
    c, _, _, _, count = kernels.call("solve", results, source, *rest)
    return [c, count]


_solution = kernels.drop_in(
    "quasi_steady",
    lambda source, *_: [source, jax.core.ShapedArray((), jnp.int32)],
    _solution_in_xla,
    _solution_native,
    takes=lambda source, *rest: all(ga.ndim == 0 for ga in rest[6:]),
)


def _foreseen(source: Array, guess: Array, inverse: Array, inside: Array, g: Sequence[Array]) -> Array:
    """The best multiple of the guess: what grows or fades everywhere at one rate is foreseen by it."""
    image = materialise(guess - _gather(g, guess) * (inside * inverse))  # of D⁻¹A
    return jnp.sum(source * image) / jnp.maximum(jnp.sum(image * image / inverse), jnp.finfo(source.dtype).tiny)


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
        inner, _ = _iterate(tolerance, coupling, sink, b * coupling.inside, jnp.zeros_like(b), jnp.zeros((), b.dtype))
        return inner + b * (1.0 - coupling.inside) / (sink + coupling.rows)

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


def _odd_rows(shape: Sequence[int]) -> Array:
    """Of rows along the last axis, whether the other indices add up to something odd; to be broadcast along it."""
    rows = (*shape[:-1], 1)
    indices = [lax.broadcasted_iota(jnp.int32, rows, axis) for axis in range(len(shape) - 1)]
    return sum(indices[1:], indices[0]) % 2 == 1


def _split(f: Array) -> tuple[Array, Array]:
    """The red and the black cells, each side by side along the last axis; zeros where there is none."""
    half = (f.shape[-1] + 1) // 2
    f = jnp.pad(f, [(0, 0)] * (f.ndim - 1) + [(0, 2 * half - f.shape[-1])])
    pairs = f.reshape(*f.shape[:-1], half, 2)
    odd = _odd_rows(f.shape)
    return jnp.where(odd, pairs[..., 1], pairs[..., 0]), jnp.where(odd, pairs[..., 0], pairs[..., 1])


def _joined(red: Array, black: Array, n: int) -> Array:
    """The inverse of `_split`, with ``n`` cells along the last axis."""
    odd = _odd_rows(red.shape)
    pairs = jnp.stack([jnp.where(odd, black, red), jnp.where(odd, red, black)], axis=-1)
    return pairs.reshape(*red.shape[:-1], -1)[..., :n]


def _beyond(g: Sequence[Array], other: Array, late: Array) -> Array:
    """Σ over neighbours of conductance × value, for the cells of one colour from the ``other`` one.

    Along the last axis the neighbours of the j-th are the j-th and, where ``late``, the next, else the one before.
    """
    axes = range(other.ndim - 1)
    along = other + jnp.where(late, shift(other, -1, -1), shift(other, -1, 1))
    return sum((g[k] * (shift(other, k, 1) + shift(other, k, -1)) for k in axes), start=g[-1] * along)


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
