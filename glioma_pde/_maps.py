"""Checks of tissue maps, and the geometry of regions on a grid, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from glioma_pde.errors import GliomaError
from glioma_pde.grid import Grid


def connected_component(region: np.ndarray, seed: Sequence[int] | None = None) -> np.ndarray:
    """The cells of ``region`` (bool) connected through faces to the cell ``seed``.

    Without a seed, the largest connected component. In 3-D that is 6-connectivity, in 2-D 4.

    Raises:
        GliomaError: the seed is not in the region, or the region is empty.
    """
    padded = np.pad(np.asarray(region, dtype=bool), 1)
    strides = np.array([math.prod(padded.shape[k + 1 :]) for k in range(padded.ndim)])
    steps = np.concatenate([strides, -strides])
    open_cells = padded.ravel()

    def fill(start: int) -> np.ndarray:
        # Only the moving front is touched, so the cost is that of the component, not of the grid.
        front = np.array([start])
        open_cells[front] = False
        found = [front]
        while front.size:
            near = (front[:, None] + steps).ravel()
            front = np.unique(near[open_cells[near]])
            open_cells[front] = False
            found.append(front)
        return np.concatenate(found)

    if seed is not None:
        inside = len(seed) == region.ndim and all(0 <= i < n for i, n in zip(seed, region.shape, strict=True))
        if not inside or not region[tuple(seed)]:
            raise GliomaError(f"The seed cell {tuple(seed)} is not in the region; choose a point inside it.")
        best = fill(int(np.dot(np.asarray(seed) + 1, strides)))
    else:
        best = np.empty(0, dtype=int)
        candidates = np.flatnonzero(open_cells)
        left = candidates.size
        if left == 0:
            raise GliomaError("The region to fill is empty.")
        for start in candidates:
            if open_cells[start]:
                cells = fill(int(start))
                left -= cells.size
                best = cells if cells.size > best.size else best
                if left <= best.size:
                    break
    result = np.zeros(padded.size, dtype=bool)
    result[best] = True
    return result.reshape(padded.shape)[(slice(1, -1),) * region.ndim]


def wall_of(region: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The cells of ``mask`` that share a face with a cell of ``region`` (all bool)."""
    near = np.zeros_like(region)
    for k in range(region.ndim):
        lower = (slice(None),) * k + (slice(None, -1),)
        upper = (slice(None),) * k + (slice(1, None),)
        near[upper] |= region[lower]
        near[lower] |= region[upper]
    return near & mask


def overlap(n: int, h: float, n_new: int, h_new: float, dtype) -> np.ndarray:
    """Share of every new cell that each old one fills, shape ``(n_new, n)``; both boxes have one centre."""
    old, new = (np.arange(n + 1) - 0.5 * n) * h, (np.arange(n_new + 1) - 0.5 * n_new) * h_new
    shared = np.minimum(new[1:, None], old[None, 1:]) - np.maximum(new[:-1, None], old[None, :-1])
    return (np.maximum(shared, 0.0) / h_new).astype(dtype)


def make_grid(shape: tuple[int, ...], spacing_mm, affine, origin_mm) -> Grid:
    """The grid that an image's shape and either its spacing or its affine describe."""
    try:
        if affine is None:
            return Grid.cartesian(shape, 1.0 if spacing_mm is None else spacing_mm, origin_mm)
        if np.shape(affine) != (4, 4) or len(shape) != 3 or origin_mm is not None:
            raise ValueError("An affine is 4x4, places a 3-D image, and already holds the origin.")
        grid = Grid.from_affine(shape, np.asarray(affine, dtype=float))
    except (ValueError, TypeError) as error:
        raise GliomaError(f"The tissue has no valid grid: {error}") from None
    if spacing_mm is not None and not np.allclose(spacing_mm, grid.spacing_mm, rtol=1e-3):
        raise GliomaError(f"The spacing {spacing_mm} mm contradicts the affine's {grid.spacing_mm}; give one.")
    return grid


def numbers(name: str, values, dtype) -> np.ndarray:
    """``values`` as an array of ``dtype``; a ``GliomaError`` if they are no real numbers."""
    try:
        array = np.asarray(values)
        if array.dtype.kind == "c":
            raise TypeError
        return array.astype(dtype, copy=False)
    except (TypeError, ValueError):
        raise GliomaError(f"The {name} map is not an array of real numbers.") from None


def flags(name: str, values, grid: Grid) -> np.ndarray:
    """``values``, of the grid's shape and 0 or 1, as bool; a ``GliomaError`` otherwise."""
    array = np.asarray(values)
    check_shape(name, array, grid)
    if array.dtype != bool and not np.all((array == 0) | (array == 1)):
        raise GliomaError(f"The {name} must hold only 0 and 1 (or False and True); threshold it first.")
    return array.astype(bool)


def check_shape(name: str, values: np.ndarray, grid: Grid) -> None:
    """Raise a ``GliomaError`` unless ``values`` has the grid's shape."""
    if values.shape != grid.shape:
        raise GliomaError(f"The {name} map has shape {values.shape}, the grid {grid.shape}; they must agree.")


def where(bad: np.ndarray, grid: Grid) -> str:
    """Where the first bad cell is, in words."""
    cell = np.unravel_index(int(np.argmax(bad)), bad.shape)
    if grid.geometry == "radial":
        return f"shell {int(cell[0])}, radius {grid.axis_mm(0)[cell[0]]:g} mm"
    dim = grid.ndim
    world = grid.matrix[:dim, :dim] @ np.asarray(cell, float) + grid.matrix[:dim, 3]
    return f"cell {tuple(int(i) for i in cell)}, world ({', '.join(f'{x:g}' for x in world)}) mm"


def check_finite(name: str, values: np.ndarray, grid: Grid) -> None:
    """Raise a ``GliomaError`` that says where ``values`` is NaN or infinite."""
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):  # no temporary in the good case
        bad = ~np.isfinite(values)
        raise GliomaError(f"The {name} map is not finite in {bad.sum()} cells, first at {where(bad, grid)}.")


def check_range(name: str, values: np.ndarray, grid: Grid, tolerance: float) -> None:
    """Raise a ``GliomaError`` that says where ``values`` leaves 0 to ``1 + tolerance``."""
    check_finite(name, values, grid)
    if values.min() < 0:
        bad = values < 0
        raise GliomaError(
            f"The {name} map is negative in {bad.sum()} cells, first {values[bad][0]:.4g} "
            f"at {where(bad, grid)}; fractions lie between 0 and 1."
        )
    if values.max() > 1 + tolerance:
        bad = values > 1 + tolerance
        raise GliomaError(
            f"{name} exceeds 1 in {bad.sum()} cells, first {values[bad][0]:.4g} at {where(bad, grid)}; "
            "fractions add up to at most 1 (divide percentages by 100, bytes by 255)."
        )
