"""Synthetic tissue: fractions on a grid whose box has its middle at the origin of ``place``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from glioma_pde.errors import GliomaError

Maps = dict[str, Any]


class _Cells(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def spacing_mm(self) -> tuple[float, ...]: ...


class Box(NamedTuple):
    """All that a phantom needs to know of a grid."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]


def phantom_maps(
    kind: str, grid: _Cells, white_fraction: float, radius_mm: float | None, cells: Sequence[slice] | None = None
) -> Maps:
    """The arguments of ``Tissue.from_arrays`` for one phantom; see ``Tissue.phantom``.

    Args:
        cells: of the grid, those that are wanted; default all.
    """
    counts, spacing = np.asarray(grid.shape), np.asarray(grid.spacing_mm)
    half = 0.5 * counts * spacing
    axes = [(np.arange(n) + 0.5) * h - b for n, h, b in zip(counts, spacing, half, strict=True)]
    if cells is not None:
        axes = [axis[part] for axis, part in zip(axes, cells, strict=True)]
    # Distances from the middle of the box, one broadcastable array per axis [mm].
    place = np.meshgrid(*axes, indexing="ij", sparse=True)
    if kind == "head":
        return _head([x / b for x, b in zip(place, half, strict=True)])
    shape = tuple(len(axis) for axis in axes)
    tissue, white = np.ones(shape), np.full(shape, float(white_fraction))
    if kind == "sphere":
        radius = half.min() - spacing.max() if radius_mm is None else float(radius_mm)
        tissue = np.asarray(sum(x * x for x in place) <= radius * radius, dtype=float)
        if not radius > 0 or (cells is None and not tissue.any()):
            raise GliomaError(f"A sphere of radius {radius:g} mm holds no cell; choose a larger one.")
    elif kind == "slab":
        # The share of each cell below the middle, so that an interface may cut through cells.
        white = white * np.minimum(np.maximum(0.5 - place[0] / spacing[0], 0.0), 1.0)
    elif kind != "box":
        raise GliomaError(f'There is no phantom "{kind}"; choose "box", "sphere", "head" or "slab".')
    return {"white": tissue * white, "grey": tissue * (1.0 - white)}


def _head(unit: list[np.ndarray]) -> Maps:
    """Ellipsoids with tanh edges, in units of the box's half-widths."""
    if len(unit) < 2:
        raise GliomaError('The phantom "head" needs two or three axes.')

    def ellipsoid(centre: tuple[float, ...], semi_axes: tuple[float, ...], edge: float) -> np.ndarray:
        parts = zip(unit, centre, semi_axes, strict=False)
        distance = np.sqrt(sum(((x - c) / a) ** 2 for x, c, a in parts))
        return 0.5 - 0.5 * np.tanh((distance - 1.0) / edge)

    middle = (0.0, 0.0, 0.0)
    skull, brain = ellipsoid(middle, (0.94,) * 3, 0.04), ellipsoid(middle, (0.86,) * 3, 0.04)
    core = ellipsoid(middle, (0.66,) * 3, 0.08)
    left, right = (ellipsoid((x, 0.0, 0.0), (0.12, 0.34, 0.22), 0.15) for x in (-0.24, 0.24))
    # Products of shares, rather than differences, keep every fraction from rounding below zero.
    solid = (1.0 - left) * (1.0 - right)
    white, grey = brain * core * solid, brain * (1.0 - core) * solid
    csf = brain * (1.0 - solid) + (1.0 - brain) * skull
    return {
        "white": white,
        "grey": grey,
        "csf": csf,
        "ventricle": brain * (1.0 - solid) > 0.5,
        "background": white + 0.7 * grey + 0.2 * csf,  # bright white matter, dark fluid: for display only
    }
