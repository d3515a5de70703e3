"""Conservative diffusion on masked grids.

Everything is written as elementwise work on zero-filled shifts, so that XLA fuses a whole stage into
one pass, input sharding carries over, and a wall is nothing but a conductance of zero.

`net_diffusion` is one primitive, which a native kernel may compute (`kernels`). Diffusion takes `Faces` or, for full
tensors, `Links`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..grid import Grid
from . import kernels

T = TypeVar("T")

Faces = tuple[Array, ...]
"""One array per axis, each of the shape of a field; entry i is the face between cells i-1 and i."""

Offsets = tuple[tuple[int, ...], ...]
"""Differences of cell indices, each once and not also with the opposite sign."""


class Links(eqx.Module):
    """Conductances of links between cells that need not share a face [1/day].

    Attributes:
        offsets: e of every link.
        g: one array per offset, of the shape of a field; entry x is the link between the cells x - e and x.
    """

    offsets: Offsets = eqx.field(static=True)
    g: tuple[Array, ...]


def shift(f: Array, axis: int, by: int) -> Array:
    """``result[i] = f[i - by]`` along ``axis``; zeros enter from outside."""
    return shift_by(f, tuple(by if k == axis % f.ndim else 0 for k in range(f.ndim)))


def shift_by(f: Array, offset: Sequence[int]) -> Array:
    """``result[x] = f[x - offset]``; zeros enter from outside."""
    return lax.pad(f, jnp.zeros((), f.dtype), [(by, -by, 0) for by in offset])


def along_axes(ndim: int) -> Offsets:
    """The offsets between cells that share a face."""
    return tuple(tuple(int(j == k) for j in range(ndim)) for k in range(ndim))


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


def net_inflow(inflow: Sequence[Array]) -> Array:
    """Net gain of each cell from fluxes through its faces, per reference volume.

    ``inflow[k][i]`` flows in the +axis direction through face i: into cell i, out of cell i - 1.
    """
    net = inflow[0] - shift(inflow[0], 0, -1)
    for axis in range(1, len(inflow)):
        net = net + inflow[axis] - shift(inflow[axis], axis, -1)
    return net


def diffuse(grid: Grid, u: Array, g: Faces | Links) -> Array:
    """∇·(D∇u) by finite volumes [density/day]; ``g`` from `conductances` or `links`. Sums to zero over the grid."""
    return per_volume(grid, net_diffusion(u, g))


def net_diffusion(u: Array, g: Faces | Links) -> Array:
    """`diffuse` times the relative cell volume: a symmetric operator on the cells."""
    offsets, values = _parts(g)
    return _net_diffusion.bind(u, *values, offsets=offsets)


def _parts(g: Faces | Links) -> tuple[Offsets, Faces]:
    return (g.offsets, g.g) if isinstance(g, Links) else (along_axes(len(g)), g)


def _opposite(offset: Sequence[int]) -> tuple[int, ...]:
    return tuple(-by for by in offset)


def _in_xla(u: Array, *g: Array, offsets: Offsets) -> Array:
    net = None
    for e, ga in zip(offsets, g, strict=True):
        back = _opposite(e)
        term = ga * (shift_by(u, e) - u) + shift_by(ga, back) * (shift_by(u, back) - u)
        net = term if net is None else net + term
    assert net is not None
    return net


# A primitive of its own: linear in u and in g, and its own adjoint in u, so a reverse pass runs the same kernel
# where transposed shifts would cost several.
_net_diffusion = Primitive("net_diffusion")
_net_diffusion.def_impl(jax.jit(_in_xla, static_argnames="offsets"))
_net_diffusion.def_abstract_eval(lambda u, *g, offsets: u)
kernels.lower(
    _net_diffusion,
    _in_xla,
    lambda u, *g, offsets: kernels.call("diffuse", [kernels.like(u)], u, *g)[0],
    takes=lambda u, *g, offsets: offsets == along_axes(u.ndim),
)


def _jvp(primals, tangents, offsets):
    u, *g = primals
    du, *dg = tangents
    net = partial(_net_diffusion.bind, offsets=offsets)
    out = net(u, *g)
    terms = []
    if type(du) is not ad.Zero:
        terms.append(net(du, *g))
    if any(type(d) is not ad.Zero for d in dg):
        terms.append(net(u, *map(ad.instantiate_zeros, dg)))
    return out, sum(terms[1:], terms[0])


def _transpose(ct, u, *g, offsets):
    if type(ct) is ad.Zero:
        return (None,) * (1 + len(g))
    if ad.is_undefined_primal(u):
        return (_net_diffusion.bind(ct, *g, offsets=offsets), *(None for _ in g))
    # a link's conductance moves content from the denser of its cells to the other
    by_link = [
        (shift_by(u, e) - u) * (ct - shift_by(ct, e)) if ad.is_undefined_primal(ga) else None
        for e, ga in zip(offsets, g, strict=True)
    ]
    return (None, *by_link)


def _batch(operands, dims, offsets):
    return jax.vmap(partial(_in_xla, offsets=offsets), in_axes=dims)(*operands), 0


ad.primitive_jvps[_net_diffusion] = _jvp
ad.primitive_transposes[_net_diffusion] = _transpose
batching.primitive_batchers[_net_diffusion] = _batch


def row_sum(g: Faces | Links) -> Array:
    """Sum of the conductances around each cell [1/day], relative to the reference volume."""
    total = None
    for e, ga in zip(*_parts(g), strict=True):
        total = ga if total is None else total + ga
        total = total + shift_by(ga, _opposite(e))
    assert total is not None
    return total


def outflow_rate(grid: Grid, g: Faces | Links) -> Array:
    """The fastest rate at which diffusion empties any cell [1/day]: max Σ g / V."""
    return jnp.max(per_volume(grid, row_sum(g)))


def per_volume(grid: Grid, net: Array) -> Array:
    """From gains per reference volume to gains per volume of the cell itself."""
    volume = grid.relative_volume(net.dtype)
    return net if volume is None else net / volume
