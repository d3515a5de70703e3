"""Conductances of the links that make up tensor diffusion.

    ∇·(D T ∇u) at x  ≈  Σ_e g_e (u(x ± e) - u(x)),   g_e = w_e D̄_e / ℓ_e²,

w_e the mean of the shares that T has along the link at its two ends, ℓ_e its length [mm], and D̄_e the harmonic mean of
D over the cells that it runs through, each counted by the length inside: resistances in series. A link is closed where
it runs through a cell that is outside the mask or has D = 0. Where it runs exactly through an edge or a corner of
cells, they must offer a way around it from face to face. So no link jumps a gap, and what two cells cannot exchange
along faces they do not exchange at all.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from ..tensors import component
from ..tissue import Tissue
from .diffusion import Links, conductances, shift_by

Cell = tuple[int, ...]


class Way(NamedTuple):
    """How the straight line runs from cell 0 to cell e.

    Attributes:
        cells: those it runs through, with the part of its length in each.
        corners: edges and corners it hits: the cell it comes from and the steps it takes at once.
    """

    cells: tuple[tuple[Cell, float], ...]
    corners: tuple[tuple[Cell, tuple[Cell, ...]], ...]


def way(e: Cell) -> Way:
    """The way of the link with offset ``e``."""
    crossings = sorted((Fraction(2 * j + 1, 2 * abs(n)), k) for k, n in enumerate(e) for j in range(abs(n)))
    here, since = (0,) * len(e), Fraction(0)
    cells, corners = [], []
    for at, group in groupby(crossings, key=lambda c: c[0]):
        steps = tuple(_unit(k, 1 if e[k] > 0 else -1, len(e)) for _, k in group)
        cells.append((here, float(at - since)))
        if len(steps) > 1:
            corners.append((here, steps))
        for step in steps:
            here = _plus(here, step)
        since = at
    return Way((*cells, (here, float(1 - since))), tuple(corners))


def links(tissue: Tissue, D: Array, strength: Array | float) -> Links:
    """Conductances [1/day] of diffusion with D(x) T(x), T = (1 - α) 1 + α (tensors of the tissue); smooth in D and α.

    Args:
        D: mean diffusivity [mm²/day], of the grid's shape.
        strength: α from 0 (isotropic) to 1, a scalar or of the grid's shape.

    Raises:
        ValueError: if the tissue has no tensors.
    """
    tensors, grid = _tensors(tissue), tissue.grid
    smallest = jnp.finfo(D.dtype).tiny
    is_open = tissue.mask & (smallest < D)
    resistance = 1.0 / jnp.where(is_open, D, 1.0)
    faces = conductances(grid, tissue.face_average(D))
    out = []
    for k, e in enumerate(tensors.offsets):
        share = strength * tensors.weights[k]
        if k < grid.ndim:
            share = share + (1.0 - strength)
        mean = 0.5 * (share + shift_by(share, e))
        if k < grid.ndim:
            out.append(mean * faces[k])
        else:
            length2 = sum((n * h) ** 2 for n, h in zip(e, grid.spacing_mm, strict=True))
            out.append(mean * _along(e, resistance, is_open) / length2)
    return Links(tensors.offsets, tuple(out))


def guide(tissue: Tissue, strength: Array | float) -> Array:
    """Components of T = (1 - α) 1 + α (tissue's tensors), ``(n(n + 1)/2, *shape)``.

    Raises:
        ValueError: if the tissue has no tensors.
    """
    tensors = _tensors(tissue)
    diagonal = {component(i, i) for i in range(tissue.grid.ndim)}
    parts = [strength * t + (1.0 - strength if c in diagonal else 0.0) for c, t in enumerate(tensors.components)]
    return jnp.stack(parts)


def _tensors(tissue: Tissue):
    if tissue.tensors is None:
        raise ValueError("Anisotropic migration needs a tissue with tensors: see Tissue.with_tensors.")
    return tissue.tensors


def _along(e: Cell, resistance: Array, is_open: Array) -> Array:
    """Harmonic mean of D along the link from x - e to x; 0 where it is closed."""
    there, back = way(e), tuple(-n for n in e)

    def at(values: Array, cell: Cell) -> Array:
        return shift_by(values, tuple(-n for n in _plus(back, cell)))

    total, through = None, None
    for cell, part in there.cells:
        term, here = part * at(resistance, cell), at(is_open, cell)
        total = term if total is None else total + term
        through = here if through is None else through & here
    assert total is not None and through is not None
    for cell, steps in there.corners:
        through = through & _around(cell, steps, lambda cell: at(is_open, cell))
    return jnp.where(through, 1.0 / jnp.where(through, total, 1.0), 0.0)


def _around(cell: Cell, steps: tuple[Cell, ...], is_open) -> Array:
    """Whether ``steps`` can be taken one by one through open cells, in some order; the last one arrives."""
    ways: Array | None = None
    for step in steps:
        rest = tuple(s for s in steps if s != step)
        beyond = _plus(cell, step)
        one = is_open(beyond)
        if len(rest) > 1:
            one = one & _around(beyond, rest, is_open)
        ways = one if ways is None else ways | one
    assert ways is not None
    return ways


def _unit(axis: int, by: int, n: int) -> Cell:
    return tuple(by if j == axis else 0 for j in range(n))


def _plus(a: Cell, b: Cell) -> Cell:
    return tuple(i + j for i, j in zip(a, b, strict=True))
