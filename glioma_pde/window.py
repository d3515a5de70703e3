"""A computed window that grows with what is in it.

Most of a brain is empty for most of a run. `inner_box` finds a box around everything that starts out
in the tissue, `Window` cuts model and state down to it and puts fields back; the host loop enlarges the window as
soon as anything on its rim exceeds `GROW_AT` or `GROW_AT_RELATIVE`, so what is cut off never matters. It looks before
the first step and every `CHECK_EVERY_DAYS`, however far apart the observations are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .delivery import Schedule
from .model import Carry, Model

GROW_AT = 1e-5
"""Density (fraction of K) on the rim at which the window grows."""

GROW_AT_RELATIVE = 1e-4
"""The same for concentrations (attractant, drug), relative to their largest value."""

CHECK_EVERY_DAYS = 1.0
"""Time that may pass between two looks at the rim [day], or one block of steps where that is longer."""

_EMPTY = 1e-8
"""Density under which a cell counts as empty at the start."""

_MARGIN_MM = 12.0
"""Distance [mm] from all cells to the rim, at least; more where concentrations need it to fall to
`GROW_AT_RELATIVE`."""

_WORTH = 0.6
"""A box that saves less than 40 % of the cells is not worth its compilation."""

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Window:
    """A box of cells of the whole grid; ``None`` stands for all of it."""

    box: Box | None

    @property
    def slices(self) -> Any:
        return (...,) if self.box is None else tuple(slice(a, b) for a, b in self.box)

    def model(self, model: Model) -> Model:
        """The model on the box: its tissue, and every grid-shaped parameter, cut out."""
        if self.box is None:
            return model
        shape = model.tissue.grid.shape
        start, stop = zip(*self.box, strict=True)
        modules = jax.tree.map(lambda a: a[self.slices] if jnp.shape(a) == shape else a, model.modules)
        return eqx.tree_at(lambda m: (m.tissue, m.modules), model, (model.tissue.crop(start, stop), modules))

    def schedule(self, schedule: Schedule) -> Schedule:
        """The schedule on the box."""
        return schedule if self.box is None else Schedule(tuple(e.cut(self.slices) for e in schedule.events))

    def cut(self, carry: Carry) -> Carry:
        """The state on the box, from the state on the whole grid."""
        fields = {k: v[self.slices] for k, v in carry.x.items()}
        return Carry(fields, {k: v[self.slices] for k, v in carry.warm.items()}, carry.ledger)

    def put_back(self, values: Any, shape: tuple[int, ...]) -> np.ndarray:
        """A field on the whole grid, zero outside the box."""
        if self.box is None:
            return np.asarray(values)
        whole = np.zeros(shape, np.asarray(values).dtype)
        whole[self.slices] = np.asarray(values)
        return whole

    def restore(self, carry: Carry, shape: tuple[int, ...]) -> Carry:
        """The state on the whole grid; nothing is lost, what lay outside the box was zero."""

        def back(fields):
            return {k: jnp.asarray(self.put_back(v, shape)) for k, v in fields.items()}

        return Carry(back(carry.x), back(carry.warm), carry.ledger)


def inner_box(model: Model, initial: dict[str, Any], schedule: Schedule) -> Box | None:
    """The box around the initial fields (above `_EMPTY`) and all that events add, with a margin of `_MARGIN_MM` and of
    ln(1/`GROW_AT_RELATIVE`) times the longest range of a concentration.

    ``None`` if the whole grid is hardly larger, or radial, or if a field is not confined to where cells are.
    """
    grid = model.tissue.grid
    if grid.geometry == "radial" or any(f.everywhere for f in model.fields):
        return None
    spacing = np.asarray(grid.spacing_mm)
    far = -math.log(GROW_AT_RELATIVE) * max(float(np.max(m.range_mm(), initial=0.0)) for m in model.modules)
    low, high = np.full(grid.ndim, np.inf), np.full(grid.ndim, -np.inf)

    def include(first, last, margin_mm: float) -> None:
        nonlocal low, high
        low, high = np.minimum(low, first - margin_mm / spacing), np.maximum(high, last + margin_mm / spacing)

    for field in initial.values():
        values = np.asarray(field)
        # what few cells release is as negligible at the rim as what many release far from it
        for level, margin in ((_EMPTY, _MARGIN_MM), (max(_EMPTY, GROW_AT_RELATIVE * values.max()), far)):
            cells = np.argwhere(values > level)
            if cells.size:
                include(cells.min(axis=0), cells.max(axis=0), margin)
    for event in schedule.events:
        extent = event.extent(grid)
        if extent is not None:
            include(*extent, max(_MARGIN_MM, far))
    if not np.all(np.isfinite(low)):
        return None
    start = np.maximum(np.floor(low), 0).astype(int)
    stop = np.minimum(np.ceil(high) + 1, grid.shape).astype(int)
    if (
        np.prod(stop - start) > _WORTH * grid.size
        or not np.asarray(model.tissue.mask)[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].any()
    ):
        return None
    return tuple((int(a), int(b)) for a, b in zip(start, stop, strict=True))
