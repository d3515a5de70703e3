"""Resection: cells are taken out of a region at an instant.

    x ← x (1 − f R(x)) for every field of cells,   R = 1 inside the region, 0 outside

The cavity is open: tissue around it stays as permeable as it was, so that cells may grow back into it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array, lax

from ..grid import Grid
from ..parameters import default
from .base import CELLS, TUMOUR, Event, Fields, Observable


class Resections(Event):
    """Resections of balls, or of a region given as a map; one row per event.

    Everything that is left is smooth in centre, radius, margin and fraction.

    Attributes:
        day: ``(E,)`` [day].
        centre_mm: ``(E, ndim)`` [mm]; on radial grids the centre is the origin.
        radius_mm, margin_mm: ``(E,)`` [mm]; the ball reaches to their sum.
        removed_fraction: f, the part of the region's cells that is taken, ``(E,)``; 0 is no operation.
        edge_mm: width over which R falls from 1 to 0, scalar [mm].
        region: R itself, of the grid's shape, for all events in place of the balls.
    """

    needs: ClassVar = ("tumour",)
    scalars: ClassVar = (
        Observable("resected_cells", "cells", "tumour cells resected so far", "last"),
        Observable("extent_of_resection", "1", "extent of resection (tumour cells resected : present)", "last"),
    )

    day: Array
    centre_mm: Array
    radius_mm: Array
    margin_mm: Array
    removed_fraction: Array
    edge_mm: Array | float = default("surgery.edge_mm")
    region: Array | None = None

    def entries(self, model):
        return {
            **{f"resected_{name}": (name, -1.0) for name in _cells(model)},
            "resection_present": None,
        }

    def reach(self, x: Fields, model: Any, i: Array) -> Array:
        """R for event ``i``, of the grid's shape."""
        if self.region is not None:
            return self.region
        return ball(model.tissue.grid, self.centre_mm[i], self.radius_mm[i] + self.margin_mm[i], self.edge_mm)

    def jump(self, x, model, i, quantities=dict):
        integrate = model.tissue.grid.integrate
        taken = self.removed_fraction[i] * self.reach(x, model, i)
        removed = {name: taken * x[name] for name in _cells(model)}
        amounts = {f"resected_{name}": integrate(value) for name, value in removed.items()}
        amounts["resection_present"] = sum(integrate(x[name]) for name in model.tumour)
        return {**x, **{name: (1.0 - taken) * x[name] for name in removed}}, amounts

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
        return {"resected_cells": taken * model.capacity_cells_per_mm3, "extent_of_resection": extent}


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


def _cells(model: Any) -> tuple[str, ...]:
    """Fields that consist of cells."""
    return tuple(f.name for f in model.fields if f.role in (TUMOUR, CELLS))


def distance_from(grid: Grid, centre_mm: Array) -> Array:
    """Distance of every cell's centre from a world point [mm]."""
    local = grid.local_mm(centre_mm)
    square = jnp.zeros((), local.dtype)
    for k in range(grid.ndim):
        at = 0.0 if grid.geometry == "radial" else local[k]
        along = (grid.local_axis(k, local.dtype) - at) ** 2
        square = square + jnp.expand_dims(along, [j for j in range(grid.ndim) if j != k])
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
