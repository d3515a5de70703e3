"""Where the cells of a dose go: the routes of delivery.

A route turns a dose into a footprint G with ∫G dV = 1 inside the tissue as it is at that instant. It may look at the
anatomy (cavity, ventricles), at the fields, and at shared quantities (leaky vessels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .biology.base import Box, Event, Fields, Quantities, soft_zero
from .biology.surgery import distance_to
from .grid import Grid
from .parameters import default
from .tissue import Tissue

# Three-point Gauss–Legendre rule on a cell: keeps footprints positive, and accurate for σ ≥ h/2.
_NODES = 0.5 * math.sqrt(0.6) * np.array([-1.0, 0.0, 1.0])
_WEIGHTS = np.array([5.0, 8.0, 5.0]) / 18.0

NARROWEST = 0.5
"""Smallest σ in units of the spacing that a footprint resolves."""

_REACH_SIGMA = 6.0
"""Deposits beyond so many σ count as nothing when a window is chosen."""


@partial(jax.jit, static_argnums=0)
def gaussian(grid: Grid, centre_mm: Array, sigma_mm: Array) -> Array:
    """Cell means of exp(−|x − centre|²/2σ²), field-shaped and positive.

    Args:
        centre_mm: world point, shape ``(ndim,)`` [mm]; on radial grids the centre is the origin.
        sigma_mm: standard deviation, scalar [mm].
    """
    dtype = jnp.result_type(centre_mm, sigma_mm)
    local = grid.local_mm(centre_mm)
    out = jnp.ones((), dtype)
    for k in range(grid.ndim):
        at = 0.0 if grid.geometry == "radial" else local[k]
        h = grid.spacing_mm[k]
        nodes = grid.local_axis(k, dtype)[:, None] + jnp.asarray(_NODES * h, dtype)[None, :]
        z = (nodes - at) / sigma_mm
        weights = jnp.asarray(_WEIGHTS, dtype)[None, :]
        if grid.geometry == "radial":
            weights = weights * nodes * nodes
            weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        profile = jnp.sum(jnp.exp(-0.5 * z * z) * weights, axis=1)
        out = out * jnp.expand_dims(profile, [i for i in range(grid.ndim) if i != k])
    return out


class Route(eqx.Module):
    """A way for carriers into the brain. Its leaves are its parameters."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Shared quantities, and maps of the tissue, that it reads."""

    def requires(self) -> tuple[str, ...]:
        """`needs`, where it depends on the route's own values."""
        return self.needs

    def footprint(
        self,
        tissue: Tissue,
        sites_mm: Array,
        sigma_mm: Array,
        weight: Array,
        x: Fields | None = None,
        quantities: Callable[[], Quantities] = dict,
    ) -> Array:
        """G [1/mm³]: ∫G dV = Σ weight, or G = 0 everywhere if the tissue has no place for the cells.

        Args:
            tissue: as it is at that instant.
            sites_mm: ``(S, ndim)`` [mm]. sigma_mm: ``(S,)`` [mm]. weight: ``(S,)``. Routes without sites read the
                weight alone.
            x: the fields just before the dose.
            quantities: computes the shared quantities.
        """
        raise NotImplementedError

    def extent(self, tissue: Tissue, sites_mm: np.ndarray, sigma_mm: np.ndarray, events: Sequence[Event]) -> Box | None:
        """Corners of a box (in cells) around all footprints; ``None``: they are where the tumour is.

        Args:
            events: all events of the schedule.
        """
        return None


class Intracerebral(Route):
    """Gaussian deposits at the needle tips; the cells of an event are shared out by ``weight``."""

    def footprint(self, tissue, sites_mm, sigma_mm, weight, x=None, quantities=dict):
        """G [1/mm³] with ∫G dV = Σ weight: every deposit is normalised inside the mask.

        A tip outside the mask delivers to the tissue nearest to it; one with no tissue within reach of its
        Gaussian (some 13 σ in float32) makes G NaN.
        """
        inside = jnp.asarray(tissue.mask, sigma_mm.dtype)

        @jax.checkpoint  # else a gradient would keep a field for each site
        def add(total, deposit):
            site, sigma, share = deposit
            g = gaussian(tissue.grid, site, sigma) * inside
            whole = tissue.grid.integrate(g)
            # a padding site may lie out of reach; a site with cells may not, and the result says so by NaN
            return total + g * (share / jnp.where((whole > 0) | (share > 0), whole, 1.0)), None

        none = jnp.zeros(tissue.grid.shape, jnp.result_type(sites_mm, sigma_mm, weight))
        return lax.scan(add, none, (sites_mm, sigma_mm, weight))[0]

    def extent(self, tissue, sites_mm, sigma_mm, events):
        grid = tissue.grid
        sites = sites_mm.reshape(-1, grid.ndim)
        reach = _REACH_SIGMA * sigma_mm.reshape(-1, 1) / np.asarray(grid.spacing_mm)
        index = np.stack([grid.index_of(site) for site in sites])
        return (index - reach).min(axis=0), (index + reach).max(axis=0)


class Intranasal(Intracerebral):
    """Cells that have come through the olfactory mucosa, as deposits where the olfactory nerves enter the brain.

    The delay between nose and brain is part of the events' days.
    """


class Intracavity(Route):
    """An even layer of tissue around the cavity that surgery left.

    Attributes:
        thickness_mm: of the layer [mm]; at least one cell of the grid is reached.
    """

    needs: ClassVar = ("cavity",)

    thickness_mm: Array | float = default("schedule.injections[intracavity].thickness_mm")

    def footprint(self, tissue, sites_mm, sigma_mm, weight, x=None, quantities=dict):
        cavity = tissue.map_of("cavity")
        dtype = weight.dtype
        layer = _layer(tissue.grid, distance_to(tissue.grid, cavity, dtype), self.thickness_mm)
        return _spread(tissue, jnp.where(cavity, 0.0, layer), weight)

    def extent(self, tissue, sites_mm, sigma_mm, events):
        boxes = [e.bounds(tissue) for e in events if "cavity" in e.alters()] + [_box(tissue.cavity)]
        return _widened(tissue.grid, boxes, self.thickness_mm)


class Intraventricular(Route):
    """An even layer under the wall (ependyma) of the ventricles.

    Attributes:
        depth_mm: of the layer [mm]; at least the cells at the wall are reached.
    """

    needs: ClassVar = ("ventricle_wall",)

    depth_mm: Array | float = default("schedule.injections[intraventricular].depth_mm")

    def footprint(self, tissue, sites_mm, sigma_mm, weight, x=None, quantities=dict):
        grid = tissue.grid
        away = distance_to(grid, tissue.map_of("ventricle_wall"), weight.dtype)
        return _spread(tissue, _layer(grid, away + max(grid.spacing_mm), self.depth_mm), weight)

    def extent(self, tissue, sites_mm, sigma_mm, events):
        return _widened(tissue.grid, [_box(tissue.ventricle_wall)], self.depth_mm)


class Intravenous(Route):
    """Cells that leave the blood where vessels leak: G ∝ leakiness, which must fall off with the tumour.

    Attributes:
        leakiness: the shared quantity it is proportional to; ``"tumour_cells"`` stands for an assumption in place of
            a model of vessels.
    """

    leakiness: str = eqx.field(static=True, default="vessel_leakiness")

    def requires(self):
        return (self.leakiness,)

    def footprint(self, tissue, sites_mm, sigma_mm, weight, x=None, quantities=dict):
        return _spread(tissue, soft_zero(quantities()[self.leakiness]), weight)


def _layer(grid: Grid, distance_mm: Array, thickness_mm: Array | float) -> Array:
    """1 in a layer and 0 beyond, with a cubic in between over one cell, so that it is smooth in its thickness.

    Args:
        distance_mm: to the cells that the layer lies on; h in the first cells of the layer.
    """
    h = max(grid.spacing_mm)
    part = jnp.clip((thickness_mm - lax.stop_gradient(distance_mm)) / h + 1.0, 0.0, 1.0)
    return part * part * (3.0 - 2.0 * part)


def _spread(tissue: Tissue, density: Array, weight: Array) -> Array:
    """A footprint in proportion to ``density``, inside the mask; zero if there is none."""
    g = jnp.where(tissue.mask, density, 0.0)
    whole = tissue.grid.integrate(g)
    return g * (jnp.sum(weight) / jnp.where(whole > 0, whole, 1.0))


def _box(flags: Array | None) -> Box | None:
    """Corners of the box around the flagged cells."""
    cells = np.argwhere(np.asarray(flags)) if flags is not None else np.zeros((0, 1))
    return (cells.min(axis=0), cells.max(axis=0)) if cells.size else None


def _widened(grid: Grid, boxes: Sequence[Box | None], by_mm: Array | float) -> Box | None:
    """Corners of the box around all ``boxes`` and a layer on them."""
    there = [box for box in boxes if box is not None]
    if not there:
        return None
    cells = (float(by_mm) + max(grid.spacing_mm)) / np.asarray(grid.spacing_mm)
    low, high = (np.stack([np.asarray(box[k], float) for box in there]) for k in (0, 1))
    return low.min(axis=0) - cells, high.max(axis=0) + cells
