"""Resection: cells are taken out of a region at an instant.

    x ← x (1 − f R(x)) for every field of cells,   R = 1 inside the region, 0 outside

An open cavity stays as permeable as it was, so that cells may grow back into it. With a closed one the cells of the grid
where R ≥ ½ leave the domain for good: all that is transported is taken out of them, and nothing passes their faces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..grid import Grid
from ..parameters import default
from ..tissue import Tissue
from .base import CELLS, TUMOUR, Box, Event, Fields, Observable, refuse_outside

_INSIDE = 0.5
"""R from which on a cell of the grid belongs to the cavity."""


class Resections(Event):
    """Resections of balls, or of a region given as a map; one row per event.

    With an open cavity everything that is left is smooth in centre, radius, margin and fraction; a closed one is made of
    whole cells, so that derivatives take its place and size as given.

    Attributes:
        day: ``(E,)`` [day].
        centre_mm: ``(E, ndim)`` [mm]; on radial grids the centre is the origin.
        radius_mm, margin_mm: ``(E,)`` [mm]; the ball reaches to their sum.
        removed_fraction: f, the part of the region's cells that is taken, ``(E,)``; 0 is no operation.
        edge_mm: width over which R falls from 1 to 0, scalar [mm].
        region: R itself, of the grid's shape, for all events in place of the balls.
        closed: whether the cavity leaves the domain; then any f above 0 takes everything.
    """

    needs: ClassVar = ("tumour",)
    scalars: ClassVar = (
        Observable("resected_cells", "cells", "tumour cells resected so far", "last"),
        Observable("extent_of_resection", "1", "extent of resection (tumour cells resected : present)", "last"),
        Observable("resected_volume", "mm3", "volume of tissue resected so far", "last"),
    )

    day: Array
    centre_mm: Array
    radius_mm: Array
    margin_mm: Array
    removed_fraction: Array
    edge_mm: Array | float = default("surgery.edge_mm")
    region: Array | None = None
    closed: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        refuse_outside(-math.inf, day=self.day)
        refuse_outside(0.0, radius_mm=self.radius_mm, margin_mm=self.margin_mm)
        refuse_outside(0.0, 1.0, removed_fraction=self.removed_fraction)

    def entries(self, model):
        return {
            **{f"resected_{name}": (name, -1.0) for name in self._takes(model)},
            "resection_present": None,
            "resected_volume": None,
            "resections_empty": None,
        }

    def reach(self, x: Fields, model: Any, i: Array) -> Array:
        """R for event ``i``, of the grid's shape."""
        if self.region is not None:
            return self.region
        return ball(model.tissue.grid, self.centre_mm[i], self.radius_mm[i] + self.margin_mm[i], self.edge_mm)

    def jump(self, x, model, i, quantities=dict):
        grid, mask = model.tissue.grid, model.tissue.mask
        taken = self.removed_fraction[i] * self.reach(x, model, i)
        if self.closed:
            taken = self._hole(x, model, i).astype(taken.dtype)
        removed = {name: taken * x[name] for name in self._takes(model)}
        volume = grid.integrate(jnp.where(mask, taken, 0.0))
        amounts = {f"resected_{name}": grid.integrate(value) for name, value in removed.items()}
        done = self.removed_fraction[i] > 0
        present = sum(grid.integrate(x[name]) for name in model.tumour)
        amounts["resection_present"] = jnp.where(done, present, 0.0)
        amounts["resected_volume"] = volume
        amounts["resections_empty"] = (done & (volume <= 0)).astype(volume.dtype)
        return {**x, **{name: (1.0 - taken) * x[name] for name in removed}}, amounts

    def alters(self):
        return ("cavity", "mask") if self.closed else ("cavity",)

    def remodel(self, x, model, i):
        """A closed cavity grows with every resection; an open one is that of the last that took something."""
        hole, tissue = self._hole(x, model, i), model.tissue
        if self.closed:
            return {"mask": tissue.mask & ~hole, "cavity": tissue.map_of("cavity") | hole}
        return {"cavity": jnp.where(jnp.any(hole), hole, tissue.map_of("cavity"))}

    def bounds(self, tissue):
        grid = tissue.grid
        if self.region is not None:
            inside = np.argwhere(np.asarray(self.region) >= _INSIDE)
            return (inside.min(axis=0), inside.max(axis=0)) if inside.size else None
        there = np.asarray(self.removed_fraction) > 0
        if not there.any():
            return None
        centres = np.stack([grid.index_of(c) for c in np.asarray(self.centre_mm, float)[there]])
        reach = (np.asarray(self.radius_mm, float) + np.asarray(self.margin_mm, float))[there, None]
        reach = reach / np.asarray(grid.spacing_mm) + 1.0
        return (centres - reach).min(axis=0), (centres + reach).max(axis=0)

    def extent(self, tissue: Tissue, events: Sequence[Event] = ()) -> Box | None:
        return self.bounds(tissue) if self.closed else None

    def _hole(self, x: Fields, model: Any, i: Array) -> Array:
        """The cells of the tissue that event ``i`` empties; flags, which have no derivative."""
        inside = lax.stop_gradient(self.reach(x, model, i)) >= _INSIDE
        return inside & model.tissue.mask & (lax.stop_gradient(self.removed_fraction[i]) > 0)

    def _takes(self, model: Any) -> tuple[str, ...]:
        """Fields that it takes out."""
        return tuple(f.name for f in model.fields if self.closed or f.role in (TUMOUR, CELLS))

    def cut(self, cells):
        if self.region is None:
            return self
        return eqx.tree_at(lambda e: e.region, self, self.region[cells])

    def look(self, model, ledger):
        if "resection_present" not in ledger:
            return {}
        taken = sum(ledger[f"resected_{name}"] for name in model.tumour)
        present = ledger["resection_present"]
        extent = jnp.where(present > 0, taken / jnp.where(present > 0, present, 1.0), 0.0)
        return {
            "resected_cells": taken * model.capacity_cells_per_mm3,
            "extent_of_resection": extent,
            "resected_volume": ledger["resected_volume"],
        }

    def remarks(self, model, ledger):
        empty = round(ledger.get("resections_empty", 0.0))
        if not empty:
            return []
        which = "a resection" if empty == 1 else f"{empty} resections"
        return [f"surgery: {which} took nothing; its region held no tissue, or no tumour at the threshold, on its day"]


class ThresholdResections(Resections):
    """Resections of what is tumour by the day: cells within the ball whose tumour density reaches ``threshold``, and
    all cells whose centres lie within ``margin_mm`` of one of theirs.

    What is left is smooth in the removed fraction alone: the region is taken as given by derivatives.

    Attributes:
        threshold: ``(E,)``, fraction of K.
    """

    threshold: Array = eqx.field(default_factory=lambda: jnp.zeros((0,)))

    def reach(self, x, model, i):
        grid = model.tissue.grid
        density = sum(x[name] for name in model.tumour)
        inside = distance_from(grid, self.centre_mm[i]) <= self.radius_mm[i]
        tumour = lax.stop_gradient(density >= self.threshold[i]) & inside & model.tissue.mask
        near = distance_to(grid, tumour, density.dtype) <= lax.stop_gradient(self.margin_mm[i])
        return near.astype(density.dtype)


def distance_from(grid: Grid, centre_mm: Array) -> Array:
    """Distance of every cell's centre from a world point [mm]."""
    square = grid.square_distance_mm2(centre_mm)
    # √ has no derivative at the centre, and none is needed there
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def ball(grid: Grid, centre_mm: Array, radius_mm: Array, edge_mm: Array | float) -> Array:
    """1 within a ball and 0 outside, with a cubic in between over ``edge_mm``; its volume is that of the ball up to
    the order of edge²/radius². A ball of radius 0 is empty."""
    part = jnp.clip((radius_mm - distance_from(grid, centre_mm)) / edge_mm + 0.5, 0.0, 1.0)
    return jnp.where(radius_mm > 0, part * part * (3.0 - 2.0 * part), 0.0)


def distance_to(grid: Grid, flags: Array, dtype=float) -> Array:
    """Distance of every cell's centre to the nearest flagged one's [mm]; infinite if none is flagged.

    Exact: squared distances along one axis after the other, each the least over all cells of a line.
    """
    dtype = jnp.result_type(dtype)
    square = jnp.where(flags, jnp.zeros((), dtype), jnp.inf)
    for axis, spacing in enumerate(grid.spacing_mm):
        n = grid.shape[axis]
        place = jnp.expand_dims(jnp.arange(n, dtype=dtype), [j for j in range(grid.ndim) if j != axis])

        def nearer(k, least, square=square, axis=axis, spacing=spacing, place=place):
            there = lax.dynamic_index_in_dim(square, k, axis, keepdims=True)
            return jnp.minimum(least, there + (spacing * (place - k)) ** 2)

        square = lax.fori_loop(0, n, nearer, square)
    return jnp.sqrt(square)
