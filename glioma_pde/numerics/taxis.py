"""Directed migration: second-order upwind fluxes with a smooth limiter.

The flux through a face is ``F = v s*`` with ``s*`` reconstructed from the upwind side. The limited slope

    σ(a, b) = a²b²(a + b) / (a⁴ + b⁴)   for ab > 0, else 0      (a, b: one-sided differences)

is continuously differentiable, second order where s is smooth, and never exceeds 1.04 min(|a|, |b|),
so both face values of a cell stay within [0, 2s] and add up to 2s: no cell gives more than it has while
``dt Σ |v| / h ≤ 1`` over its faces, at any cell Péclet number.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..grid import Grid
from ..tensors import component
from . import kernels
from .diffusion import Faces, materialise, net_inflow, outflow_rate, per_volume, shift


def limited_slope(s: Array, axis: int) -> Array:
    """The slope σ(a, b) of each cell [density per cell]."""
    return _limited(s - shift(s, axis, 1), shift(s, axis, -1) - s)


@jax.custom_jvp
def _limited(a: Array, b: Array) -> Array:
    a, b, scale, quartic = _scaled(a, b)
    return jnp.where(a * b > 0, scale * a * a * b * b * (a + b) / quartic, 0.0)


def _scaled(a: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """a and b over their scale, the scale, and a⁴ + b⁴ of them.

    σ is homogeneous of degree one: a scale held constant keeps its derivatives and stops underflow.
    """
    tiny = jnp.finfo(a.dtype).tiny
    scale = lax.stop_gradient(jnp.maximum(jnp.maximum(jnp.abs(a), jnp.abs(b)), tiny))
    a, b = a / scale, b / scale
    quartic = a * a * a * a + b * b * b * b
    return a, b, scale, jnp.where(quartic > 0, quartic, 1.0)


@_limited.defjvp
def _limited_jvp(primals, tangents):
    """With ∂σ/∂a and ∂σ/∂b themselves, which are all that a reverse pass then keeps."""
    a, b, _, quartic = _scaled(*primals)
    kept = a * b > 0

    def slope_by(a, b):  # ∂σ/∂a; by symmetry ∂σ/∂b is the same of (b, a)
        ratio = a * a / quartic
        return jnp.where(kept, b * b * ((3.0 * a + 2.0 * b) * a - 4.0 * a * a * a * ratio * (a + b)) / quartic, 0.0)

    da, db = tangents
    return _limited(*primals), slope_by(a, b) * da + slope_by(b, a) * db


def face_speed_factor(grid: Grid, open_faces: Faces) -> Faces:
    """Area A h / V₀ of the open faces over the spacing [1/mm]: turns a speed into a rate [1/day]."""
    out = []
    for axis, is_open in enumerate(open_faces):
        area = grid.relative_area(is_open.dtype)
        factor = is_open / grid.spacing_mm[axis]
        out.append(factor if area is None else factor * area)
    return tuple(out)


def advection_rate(grid: Grid, factor: Faces) -> Array:
    """The rate [1/mm] which, times the largest speed, bounds how fast any cell can be emptied.

    A face carries up to 1.52 s, and opposite faces s + σ/2 and s − σ/2: of two equal faces, twice s together.
    """
    if grid.geometry == "radial":
        return 1.52 * outflow_rate(grid, factor)
    total = None
    for axis, low in enumerate(factor):
        high = shift(low, axis, -1)
        both = jnp.maximum(low + high, 1.52 * jnp.maximum(low, high))
        total = both if total is None else total + both
    assert total is not None
    return jnp.max(total)


def gradient(grid: Grid, f: Array, open_faces: Faces) -> Faces:
    """∂f/∂x at the faces [1/mm], zero where closed."""
    return tuple((f - shift(f, axis, 1)) * is_open / grid.spacing_mm[axis] for axis, is_open in enumerate(open_faces))


def gradient_magnitude2(gradients: Faces) -> Faces:
    """|∇f|² at the faces of each axis, transverse parts averaged from the four nearest faces.

    Contains the square of the face's own difference in full, so that a velocity
    ``v_max G/√(1 + |G|²)`` never exceeds ``v_max`` on any grid.
    """
    centred = materialise([0.5 * (g + shift(g, axis, -1)) for axis, g in enumerate(gradients)])
    out = []
    for axis, g in enumerate(gradients):
        total = g * g
        for other, c in enumerate(centred):
            if other != axis:
                at_face = 0.5 * (c + shift(c, axis, 1))
                total = total + at_face * at_face
        out.append(total)
    return tuple(out)


def guided(gradients: Faces, tensor: Array) -> tuple[Faces, Faces]:
    """T∇f at the faces: its component along each axis, and |T∇f|².

    Args:
        gradients: ∇f from `gradient`; transverse parts are averaged from the four nearest faces.
        tensor: components of T, lower triangle by rows, ``(n(n + 1)/2, *shape)``.
    """
    centred = materialise([0.5 * (g + shift(g, axis, -1)) for axis, g in enumerate(gradients)])
    n = len(gradients)
    along, squares = [], []
    for axis, own in enumerate(gradients):
        slope = [own if j == axis else 0.5 * (c + shift(c, axis, 1)) for j, c in enumerate(centred)]
        at_face = [0.5 * (t + shift(t, axis, 1)) for t in tensor]
        vector = []
        for i in range(n):
            terms = [at_face[component(i, j)] * slope[j] for j in range(n)]
            vector.append(sum(terms[1:], terms[0]))
        along.append(vector[axis])
        squares.append(sum((v * v for i, v in enumerate(vector) if i != axis), vector[axis] * vector[axis]))
    return tuple(along), tuple(squares)


def stretch(tensor: Array, n: int) -> Array:
    """The most by which T multiplies the largest component of a vector: max Σ_j |T_ij|."""
    rows = [sum(jnp.abs(tensor[component(i, j)]) for j in range(n)) for i in range(n)]
    return jnp.max(jnp.stack([jnp.max(row) for row in rows]))


def advect(grid: Grid, s: Array, velocity: Faces, factor: Faces, occupied: Array | None = None) -> Array:
    """−∇·(v φ(s)) by finite volumes [density/day].

    Args:
        velocity: speed at the faces [mm/day], positive along the axis.
        factor: from `face_speed_factor`; zero at closed faces.
        occupied: N of the volume-filling law φ(s) = s (1 − N)₊, or ``None`` for φ(s) = s. The free space
            is reconstructed from the receiving side, so a full cell receives nothing.
    """
    net = _net_advection.bind(s, *velocity, *factor, *(() if occupied is None else (occupied,)))[0]
    return per_volume(grid, net)


def _in_xla(s: Array, *wind: Array) -> list[Array]:
    velocity, factor, occupied = wind[: s.ndim], wind[s.ndim : 2 * s.ndim], wind[2 * s.ndim :]
    flows = []
    for axis, v in enumerate(velocity):
        half = materialise(0.5 * limited_slope(s, axis))
        from_below, from_above = shift(s + half, axis, 1), s - half
        for n in occupied:
            # from what is occupied, which is nothing beyond the mask and beyond the grid alike
            half_free = materialise(-0.5 * limited_slope(jnp.minimum(n, 1.0), axis))
            free = jnp.maximum(1.0 - n, 0.0)
            from_below = from_below * (free - half_free)
            from_above = from_above * shift(free + half_free, axis, 1)
        rate = v * factor[axis]
        # One side alone: what the other one holds must not round into a cell that is empty. Without wind, the slope by
        # it is the mean of both.
        calm = 0.5 * (from_below + from_above)
        flows.append(rate * jnp.where(rate > 0, from_below, jnp.where(rate < 0, from_above, calm)))
    return [net_inflow(materialise(flows))]


_net_advection = kernels.drop_in(
    "net_advection",
    lambda s, *wind: [s],
    _in_xla,
    lambda s, *wind: kernels.call("advect", [kernels.like(s)], s, *wind),
)
