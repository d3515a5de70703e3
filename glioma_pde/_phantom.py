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
    """The arguments of ``Tissue.from_arrays`` for one phantom, and its ``tensors`` if it has some; see
    ``Tissue.phantom``.

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
    if kind == "bundle":
        return _bundle(grid, place, half, white_fraction, radius_mm)
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
        raise GliomaError(f'There is no phantom "{kind}"; choose "box", "sphere", "head", "slab" or "bundle".')
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


FIBRE_RATIO = 6.0
"""Eigenvalue along the fibres over those across them; assumption, of the order of DTI in the corpus callosum."""


def _bundle(grid: _Cells, place: Sequence[np.ndarray], half: np.ndarray, white_fraction: float, radius_mm) -> Maps:
    """A tube around a half circle that has its top in the middle of the box, with a tanh edge."""
    axes, shape = len(grid.shape), np.broadcast_shapes(*(x.shape for x in place))
    if axes < 2:
        raise GliomaError('The phantom "bundle" needs two or three axes.')
    radius = 0.15 * half.min() if radius_mm is None else float(radius_mm)
    if not radius > 0:
        raise GliomaError(f"A bundle of fibres needs a positive radius, not {radius:g} mm.")
    x, y = place[0], place[1] + half[1]
    from_centre = np.sqrt(x * x + y * y)
    across = np.sqrt((from_centre - half[1]) ** 2 + sum(z * z for z in place[2:]))
    share = np.broadcast_to(0.5 - 0.5 * np.tanh((across - radius) / (0.3 * radius)), shape)
    along = np.zeros((*shape, axes))
    safe = np.where(from_centre > 0, from_centre, 1.0)
    along[..., 0], along[..., 1] = y / safe, -x / safe
    tensors = np.eye(axes) + (FIBRE_RATIO - 1.0) * (share[..., None] * along)[..., None] * along[..., None, :]
    white = float(white_fraction) * share
    return {"white": white, "grey": 1.0 - white, "tensors": tensors}
