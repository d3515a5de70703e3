"""Conservative diffusion on masked grids.

Everything is written as elementwise work on zero-filled shifts, so that XLA fuses a whole stage into
one pass, input sharding carries over, and a wall is nothing but a conductance of zero.

`divergence` and `diffuse` are the signatures that another kernel (native, Pallas) has to fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..grid import Grid

T = TypeVar("T")

Faces = tuple[Array, ...]
"""One array per axis, each of the shape of a field; entry i is the face between cells i-1 and i."""


def shift(f: Array, axis: int, by: int) -> Array:
    """``result[i] = f[i - by]`` along ``axis``; zeros enter from outside."""
    config = [(0, 0, 0)] * f.ndim
    config[axis] = (by, -by, 0)
    return lax.pad(f, jnp.zeros((), f.dtype), config)


def materialise(tree: T) -> T:
    """The identity, which has XLA store these arrays, and the cotangents on their way back.

    XLA on CPU fuses an expression into every shifted read of it and computes it many times over; it drops
    `lax.optimization_barrier` before it fuses. What enters a loop has to be stored, and this one takes no turns
    (one, if the first value is NaN, and then it changes nothing that matters).
    """
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, _store.bind(*leaves))


def _stored(*leaves):
    return lax.platform_dependent(*leaves, cpu=_through_loop, default=lambda *x: lax.optimization_barrier(x))


def _through_loop(*leaves):
    first = leaves[0].ravel()[0]
    turns = (first != first).astype(jnp.int32)
    return lax.fori_loop(0, turns, lambda _, t: tuple(map(jnp.negative, t)), leaves)


_store = Primitive("store")
_store.multiple_results = True
_store.def_impl(jax.jit(_stored))
_store.def_abstract_eval(lambda *leaves: leaves)
mlir.register_lowering(_store, mlir.lower_fun(_stored, multiple_results=True))


def _store_jvp(primals, tangents):
    moving = [k for k, t in enumerate(tangents) if type(t) is not ad.Zero]
    out = list(tangents)
    if moving:
        for k, t in zip(moving, _store.bind(*(tangents[k] for k in moving)), strict=True):
            out[k] = t
    return _store.bind(*primals), out


def _store_transpose(cotangents, *_):
    moving = [k for k, t in enumerate(cotangents) if type(t) is not ad.Zero]
    out: list[Any] = [None] * len(cotangents)
    if moving:
        for k, t in zip(moving, _store.bind(*(cotangents[k] for k in moving)), strict=True):
            out[k] = t
    return out


ad.primitive_jvps[_store] = _store_jvp
ad.primitive_transposes[_store] = _store_transpose
batching.primitive_batchers[_store] = lambda operands, dims: (_store.bind(*operands), dims)


def conductances(grid: Grid, diffusivity_faces: Sequence[Array]) -> Faces:
    """Face conductances A D / (h V₀) [1/day] from face diffusivities [mm²/day].

    V₀ is ``grid.cell_volume_mm3``; on radial grids the area grows with the radius.
    """
    out = []
    for axis, d in enumerate(diffusivity_faces):
        area = grid.relative_area(d.dtype)
        g = d / grid.spacing_mm[axis] ** 2
        out.append(g if area is None else g * area)
    return tuple(out)


def divergence(grid: Grid, inflow: Sequence[Array]) -> Array:
    """Net gain of each cell from fluxes through its faces (already per reference volume).

    ``inflow[k][i]`` flows in the +axis direction through face i: into cell i, out of cell i - 1.
    """
    net = inflow[0] - shift(inflow[0], 0, -1)
    for axis in range(1, len(inflow)):
        net = net + inflow[axis] - shift(inflow[axis], axis, -1)
    return _per_volume(grid, net)


def diffuse(grid: Grid, u: Array, g: Faces) -> Array:
    """∇·(D∇u) by finite volumes [density/day]; ``g`` from `conductances`. Sums to zero over the grid."""
    return _per_volume(grid, net_diffusion(u, g))


def net_diffusion(u: Array, g: Faces) -> Array:
    """`diffuse` times the relative cell volume: a symmetric operator on the cells."""
    return _net_diffusion.bind(u, *g)


def _in_xla(u: Array, *g: Array) -> Array:
    net = None
    for axis, ga in enumerate(g):
        term = ga * (shift(u, axis, 1) - u) + shift(ga, axis, -1) * (shift(u, axis, -1) - u)
        net = term if net is None else net + term
    assert net is not None
    return net


# A primitive of its own: linear in u and in g, and its own adjoint in u, so a reverse pass runs the same kernel
# where transposed shifts would cost several. Another kernel is another lowering.
_net_diffusion = Primitive("net_diffusion")
_net_diffusion.def_impl(jax.jit(_in_xla))
_net_diffusion.def_abstract_eval(lambda u, *g: u)
mlir.register_lowering(_net_diffusion, mlir.lower_fun(_in_xla, multiple_results=False))


def _jvp(primals, tangents):
    u, *g = primals
    du, *dg = tangents
    out = _net_diffusion.bind(u, *g)
    terms = []
    if type(du) is not ad.Zero:
        terms.append(_net_diffusion.bind(du, *g))
    if any(type(d) is not ad.Zero for d in dg):
        terms.append(_net_diffusion.bind(u, *map(ad.instantiate_zeros, dg)))
    return out, sum(terms[1:], terms[0])


def _transpose(ct, u, *g):
    if type(ct) is ad.Zero:
        return (None,) * (1 + len(g))
    if ad.is_undefined_primal(u):
        return (_net_diffusion.bind(ct, *g), *(None for _ in g))
    # a face's conductance moves content from the denser of its cells to the other
    by_face = [
        (shift(u, k, 1) - u) * (ct - shift(ct, k, 1)) if ad.is_undefined_primal(ga) else None for k, ga in enumerate(g)
    ]
    return (None, *by_face)


def _batch(operands, dims):
    return jax.vmap(_in_xla, in_axes=dims)(*operands), 0


ad.primitive_jvps[_net_diffusion] = _jvp
ad.primitive_transposes[_net_diffusion] = _transpose
batching.primitive_batchers[_net_diffusion] = _batch


def row_sum(g: Faces) -> Array:
    """Sum of the conductances around each cell [1/day], relative to the reference volume."""
    total = g[0] + shift(g[0], 0, -1)
    for axis in range(1, len(g)):
        total = total + g[axis] + shift(g[axis], axis, -1)
    return total


def outflow_rate(grid: Grid, g: Faces) -> Array:
    """The fastest rate at which diffusion empties any cell [1/day]: max Σ g / V."""
    return jnp.max(_per_volume(grid, row_sum(g)))


def _per_volume(grid: Grid, net: Array) -> Array:
    volume = grid.relative_volume(net.dtype)
    return net if volume is None else net / volume
