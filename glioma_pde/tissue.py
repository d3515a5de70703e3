"""The anatomy that a tumour grows in: white matter, grey matter and CSF on a grid.

Cells live in its ``mask`` (brain parenchyma); nothing crosses the mask's edge, because the face between a cell inside
and one outside carries no flux. A ``Tissue`` is the anatomy of an instant: it changes only by events.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from glioma_pde._maps import (
    check_finite,
    check_range,
    check_shape,
    connected_component,
    flags,
    make_grid,
    numbers,
    overlap,
    wall_of,
)
from glioma_pde._phantom import phantom_maps
from glioma_pde.errors import GliomaError
from glioma_pde.grid import Grid, as_affine
from glioma_pde.tensors import Tensors, unit_tensors

__all__ = ["Tissue", "connected_component", "wall_of"]

_MAPS = ("white", "grey", "csf", "mask", "ventricle_wall", "background", "ventricle", "cavity")
SHAPING = ("white", "grey", "mask")
"""Maps that transport is computed from."""


class Tissue(eqx.Module):
    """Maps of brain tissue at cell centres, all of the grid's shape.

    Attributes:
        grid: the cells.
        white, grey: volume fractions p_white and p_grey of each cell (0 to 1).
        csf: volume fraction of cerebrospinal fluid, where known.
        mask: the cells in which tumour and carriers live (bool).
        ventricle_wall: cells of the mask that share a face with the ventricles (bool).
        background: an image to draw under the fields, in its own units.
        ventricle: the ventricles' own cells (bool), outside the mask.
        cavity: what was taken out by surgery (bool), whether or not cells can enter it.
        full_grid: the grid this tissue was cropped from, ``None`` if it was not.
        window_start: index in ``full_grid`` of this grid's first cell.
        mask_threshold: the mask is ``white + grey ≥ mask_threshold``; ``None``: it was given.
        tensors: directions of migration, see `with_tensors`.
    """

    grid: Grid = eqx.field(static=True)
    white: Array
    grey: Array
    csf: Array | None
    mask: Array
    ventricle_wall: Array | None = None
    background: Array | None = None
    ventricle: Array | None = None
    cavity: Array | None = None
    full_grid: Grid | None = eqx.field(static=True, default=None)
    window_start: tuple[int, ...] | None = eqx.field(static=True, default=None)
    mask_threshold: float | None = eqx.field(static=True, default=None)
    tensors: Tensors | None = None

    # -- constructors -----------------------------------------------------------------------

    @classmethod
    def from_arrays(
        cls,
        white,
        grey,
        csf=None,
        mask=None,
        spacing_mm: float | Sequence[float] | None = None,
        affine=None,
        origin_mm: Sequence[float] | None = None,
        grid: Grid | None = None,
        mask_threshold: float = 0.5,
        dtype=None,
        *,
        ventricle=None,
        background=None,
        cavity=None,
        tolerance: float = 1e-3,
        on_host: bool = False,
    ) -> Tissue:
        """Tissue from arrays of volume fractions in 1-D, 2-D or 3-D.

        Args:
            white, grey, csf: fractions, axes x, y, z; values 0 to 1, together at most 1.
            mask: where cells live (bool, or 0 and 1); default ``white + grey >= mask_threshold``.
            spacing_mm: cell size [mm], a number or one per axis; default 1. The box is centred on
                the world's origin unless ``origin_mm``, the centre of its first cell, is given.
            affine: 4x4 NIfTI affine of a 3-D image, instead of a spacing and an origin.
            grid: the grid itself, instead of all three.
            dtype: floating type of the maps; default JAX's own (float32 unless x64 is enabled).
            ventricle: cells of the ventricles; their wall is where they touch the mask.
            background: an image to draw under the fields.
            cavity: cells of a cavity from an operation before; the mask says whether cells can enter it.
            tolerance: how far fractions, or their sum, may exceed 1 (rounding in stored maps).
            on_host: leave the maps in NumPy, where possible without a copy, for what is soon cut from them.

        Raises:
            GliomaError: shapes differ, values are not fractions, or no cell is left in the mask.
        """
        dtype = _float_dtype(dtype)
        if not 0 < mask_threshold <= 1:
            raise GliomaError(f"The mask's threshold must lie above 0 and at most at 1, not {mask_threshold}.")
        work = np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
        white = numbers("white", white, work)
        if grid is None:
            grid = make_grid(white.shape, spacing_mm, affine, origin_mm)
        elif not (spacing_mm is None and affine is None and origin_mm is None):
            raise GliomaError("Give the tissue either a grid, or a spacing, origin or affine, but not both.")
        maps: dict[str, np.ndarray] = {"white": white, "grey": numbers("grey", grey, work)}
        if csf is not None:
            maps["csf"] = numbers("csf", csf, work)
        for name, values in maps.items():
            check_shape(name, values, grid)
            check_range(name, values, grid, tolerance)
        parenchyma = maps["white"] + maps["grey"]
        total = parenchyma if csf is None else parenchyma + maps["csf"]
        check_range(" + ".join(maps), total, grid, tolerance)
        if mask is None:
            inside = parenchyma >= mask_threshold
            reason = f"white + grey is at most {parenchyma.max():.3g} and never reaches {mask_threshold:g}"
        else:
            inside, reason = flags("mask", mask, grid), "the mask that was given is empty"
        if not inside.any():
            raise GliomaError(f"There is no tissue for cells to live in: {reason}; check the maps' scale.")
        region = None if ventricle is None else flags("ventricle", ventricle, grid) & ~inside
        picture = None
        if background is not None:
            picture = numbers("background", background, work)
            check_shape("background", picture, grid)
            check_finite("background", picture, grid)
        leaf = _on_host if on_host else _leaf
        return cls(
            grid=grid,
            white=leaf(maps["white"], dtype),
            grey=leaf(maps["grey"], dtype),
            csf=leaf(maps.get("csf"), dtype),
            mask=leaf(inside),
            ventricle_wall=None if region is None else leaf(wall_of(region, inside)),
            background=leaf(picture, dtype),
            ventricle=leaf(region),
            cavity=None if cavity is None else leaf(flags("cavity", cavity, grid)),
            mask_threshold=float(mask_threshold) if mask is None else None,
        )

    @classmethod
    def radial(cls, n: int, spacing_mm: float, white_fraction: float = 1.0, dtype=None) -> Tissue:
        """A homogeneous sphere of ``n`` shells, radius ``n * spacing_mm`` [mm]; the rest is grey matter."""
        try:
            grid = Grid.radial(n, spacing_mm)
        except ValueError as error:
            raise GliomaError(str(error)) from None
        white = np.full(grid.shape, float(white_fraction))
        return cls.from_arrays(white, 1.0 - white, grid=grid, dtype=dtype)

    @classmethod
    def phantom(
        cls,
        kind: Literal["box", "sphere", "head", "slab", "bundle"] = "box",
        shape: tuple[int, ...] = (64, 64, 64),
        spacing_mm: float | tuple[float, ...] = 1.0,
        *,
        white_fraction: float = 1.0,
        radius_mm: float | None = None,
        origin_mm: tuple[float, ...] | None = None,
        dtype=None,
    ) -> Tissue:
        """Synthetic tissue, centred on the world's origin unless ``origin_mm`` is given.

        ``box``: uniform tissue, ``white_fraction`` white and the rest grey. ``sphere``: the same
        within ``radius_mm`` of the middle (default: one cell short of the walls), nothing outside.
        ``slab``: grey matter, with ``white_fraction`` of white in the lower half of the first axis.
        ``head`` (2-D, 3-D): an ellipsoidal brain with a white core, a grey cortex, two ventricles
        and a film of CSF around it; smooth fractions that do not depend on the grid. ``bundle``
        (2-D, 3-D): grey matter with a bundle of fibres of ``radius_mm`` (default: 0.15 of the least
        half-width) in a half circle from side to side through the middle, and tensors along them.

        Raises:
            GliomaError: unknown kind, or sizes that leave no tissue.
        """
        try:
            grid = Grid.cartesian(shape, spacing_mm, origin_mm)
        except (ValueError, TypeError) as error:
            raise GliomaError(f"The phantom's grid is not possible: {error}") from None
        maps = phantom_maps(kind, grid, white_fraction, radius_mm)
        tensors = maps.pop("tensors", None)
        tissue = cls.from_arrays(**maps, grid=grid, dtype=dtype)
        return tissue if tensors is None else tissue.with_tensors(tensors)

    # -- parts of it ------------------------------------------------------------------------

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Tissue:
        """The cells ``start <= index < stop``, at the same place in the world.

        Raises:
            GliomaError: the box leaves the grid or holds no cell of the mask.
        """
        start, stop = tuple(int(i) for i in start), tuple(int(i) for i in stop)
        try:
            grid = self.grid.crop(start, stop)
        except ValueError as error:
            raise GliomaError(f"The tissue cannot be cropped: {error}") from None
        cut = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        # Cutting in NumPy keeps XLA from compiling a slice for every new window.
        held = {name: getattr(self, name) for name in _MAPS}
        maps: dict[str, Any] = {name: None if v is None else _leaf(np.asarray(v)[cut]) for name, v in held.items()}
        if not np.asarray(maps["mask"]).any():
            raise GliomaError(f"The cells {start} to {stop} hold no brain tissue; choose a window that does.")
        first = self.window_start or (0,) * self.grid.ndim
        return Tissue(
            grid=grid,
            **maps,
            full_grid=self.full_grid or self.grid,
            window_start=tuple(a + b for a, b in zip(first, start, strict=True)),
            mask_threshold=self.mask_threshold,
            tensors=None if self.tensors is None else self.tensors.crop(cut),
        )

    def crop_to_mask(self, margin_cells: int = 1) -> Tissue:
        """The mask's bounding box and ``margin_cells`` around it, as far as the grid goes."""
        return self.crop(*self._mask_box(int(margin_cells)))

    def window(self, centre_mm: Sequence[float], half_width_mm: float | Sequence[float]) -> Tissue:
        """The cells within ``half_width_mm`` (per axis) of a world point, and near the mask.

        The box is clipped to the mask's bounding box plus one cell. Widths are measured along the
        grid's own axes. A radial grid can only be cut around its centre.

        Raises:
            GliomaError: the window is empty or holds no cell of the mask.
        """
        grid, dim = self.grid, self.grid.ndim
        centre = np.atleast_1d(np.asarray(centre_mm, dtype=float))
        half = np.asarray(half_width_mm, dtype=float)
        half = np.full(dim, half) if half.ndim == 0 else half
        if not (centre.shape == half.shape == (dim,) and np.all(np.isfinite(centre)) and np.all(half > 0)):
            raise GliomaError(
                f"A window needs {dim} finite coordinates and positive half-widths [mm], "
                f"not centre {centre_mm} with half-width {half_width_mm}."
            )
        if grid.geometry == "radial" and centre[0] != 0:
            raise GliomaError("A radial grid can only be cut around its centre; use centre_mm = (0,).")
        index, reach = grid.index_of(centre), half / np.asarray(grid.spacing_mm)
        low, high = self._mask_box(1)
        start = np.maximum(np.ceil(index - reach - 1e-9), low).astype(int)
        stop = np.minimum(np.floor(index + reach + 1e-9) + 1, high).astype(int)
        if np.any(stop <= start):
            raise GliomaError(f"The window around {centre.tolist()} mm holds no brain tissue; move it.")
        return self.crop(tuple(start), tuple(stop))

    def with_ventricles(self, *seeds_mm: Sequence[float], threshold: float = 0.5) -> Tissue:
        """The same tissue with its ventricles: the CSF connected to the given world points [mm].

        Cells are CSF where ``csf >= threshold`` outside the mask; they connect through faces.

        Raises:
            GliomaError: there is no CSF map, no seed, or a seed is not in CSF.
        """
        if self.csf is None or not seeds_mm:
            raise GliomaError("Finding the ventricles takes a CSF map and a point inside the ventricles.")
        mask = np.asarray(self.mask)
        fluid = (np.asarray(self.csf) >= threshold) & ~mask
        region = np.zeros_like(fluid)
        for seed in seeds_mm:
            cell = tuple(np.rint(self.grid.index_of(seed)).astype(int).tolist())
            if not (all(0 <= i < n for i, n in zip(cell, self.grid.shape, strict=True)) and fluid[cell]):
                raise GliomaError(f"{list(seed)} mm is not in CSF; a seed is a point inside the ventricles.")
            region |= connected_component(fluid, cell)
        return eqx.tree_at(
            lambda t: (t.ventricle, t.ventricle_wall),
            self,
            (_leaf(region), _leaf(wall_of(region, mask))),
            is_leaf=lambda leaf: leaf is None,
        )

    def resample(self, spacing_mm: float | Sequence[float], max_cells: int = 1024**3) -> Tissue:
        """The same tissue on cells of another size, conserving the volume of every map.

        Each new cell takes the volume-weighted mean of the old cells it overlaps (outside the old
        box there is nothing). The new box is centred on the old one and covers it. The mask is
        found again: white + grey against its threshold, or, if it was given, by half its volume.

        Raises:
            GliomaError: the spacing is not possible or leaves no tissue.
        """
        grid = self.grid
        new = np.asarray(spacing_mm, dtype=float)
        new = np.full(grid.ndim, new) if new.ndim == 0 else new
        if grid.geometry == "radial":
            raise GliomaError("A radial tissue is not resampled; build it anew with Tissue.radial.")
        if new.shape != (grid.ndim,) or not np.all((new > 0) & (new < math.inf)):
            raise GliomaError(f"Resampling needs 1 or {grid.ndim} positive spacings in mm, not {spacing_mm}.")
        old = np.asarray(grid.spacing_mm)
        if np.array_equal(new, old):
            return self
        if self.ventricle is None and self.ventricle_wall is not None:
            raise GliomaError("A wall without its ventricles cannot be resampled; use with_ventricles.")
        # The allowance keeps rounding from adding a cell when the box is a whole number of new ones.
        shape = np.maximum(np.ceil(np.asarray(grid.shape) * old / new - 1e-6), 1.0)
        if shape.prod() > max_cells:
            raise GliomaError(f"{spacing_mm} mm makes {shape.prod():.3g} cells, over {max_cells}; enlarge it.")
        sizes = tuple(int(n) for n in shape)
        matrix = grid.matrix
        first = 0.5 * ((np.asarray(grid.shape) - 1) * old - (shape - 1) * new)
        matrix[: grid.ndim, 3] += matrix[: grid.ndim, : grid.ndim] @ (first / old)
        matrix[:, : grid.ndim] *= new / old
        work = np.dtype(self.white.dtype) if self.white.dtype == np.float64 else np.dtype(np.float32)
        weights = [overlap(*item, work) for item in zip(grid.shape, old, sizes, new, strict=True)]

        def mean(values: Array | None) -> Any:
            if values is None:
                return None
            result = np.asarray(values).astype(work)
            for k, weight in enumerate(weights):
                result = np.moveaxis(np.tensordot(weight, result, axes=(1, k)), 0, k)
            return result

        threshold = self.mask_threshold
        ventricle, cavity = mean(self.ventricle), mean(self.cavity)
        result = Tissue.from_arrays(
            mean(self.white),
            mean(self.grey),
            mean(self.csf),
            mask=mean(self.mask) >= 0.5 if threshold is None else None,
            grid=Grid(sizes, tuple(map(float, new)), "cartesian", as_affine(matrix), grid.thickness_mm),
            mask_threshold=0.5 if threshold is None else threshold,
            dtype=self.white.dtype,
            ventricle=None if ventricle is None else ventricle >= 0.5,
            background=mean(self.background),
            cavity=None if cavity is None else cavity >= 0.5,
            tolerance=2e-2,
        )
        if self.tensors is None:
            return result
        return replace(result, tensors=self.tensors.averaged(mean, self.mask, result.grid))

    def with_tensors(
        self,
        tensors,
        order: Literal["fsl", "dipy", "mrtrix"] | None = None,
        axes: Literal["voxel", "fsl", "world"] = "voxel",
        *,
        scaling: float = 1.0,
        largest_ratio: float = 10.0,
        repair: bool = False,
    ) -> Tissue:
        """The same tissue with tensors that direct migration; only their shape counts, not their size.

        Args: as for `tensors.unit_tensors`.

        Raises:
            GliomaError: wrong shape or order, or tensors of the mask that are missing, not symmetric,
                not positive definite or too strong.
        """
        inside = np.asarray(self.mask)
        unit = unit_tensors(tensors, self.grid, inside, order, axes, scaling, largest_ratio, repair)
        return replace(self, tensors=Tensors.of(unit.astype(self.white.dtype), self.grid))

    def map_of(self, name: str) -> Array:
        """A map by its name; flags that are all down where this anatomy has none."""
        found = getattr(self, name)
        return jnp.zeros(self.grid.shape, bool) if found is None else found

    def with_maps(self, maps: Mapping[str, Any]) -> Tissue:
        """The same tissue with other maps in the place of those named; shapes are not checked."""
        return dataclasses.replace(self, **dict(maps))

    # -- what the equations use -------------------------------------------------------------

    def diffusivity(self, white, grey) -> Array:
        """D(x) = D_w p_white(x) + D_g p_grey(x) in the mask, 0 outside, shape of the grid.

        Args:
            white, grey: D_w and D_g, in pure white and pure grey matter [mm²/day].
        """
        return jnp.where(self.mask, white * self.white + grey * self.grey, 0.0)

    def face_average(self, D: Array) -> tuple[Array, ...]:
        """Harmonic means 2ab/(a + b) of neighbouring cells, one array of the grid's shape per axis.

        Entry ``i`` is the face between cells ``i - 1`` and ``i``; entry 0 is the closed wall. A face
        is 0 unless both its cells are in the mask. Values and gradients are finite also where
        a = b = 0 (gradient 0 there). ``D`` may have leading batch axes.
        """
        dim = self.grid.ndim
        return tuple(_harmonic(D, self.mask, axis - dim) for axis in range(dim))

    def open_faces(self) -> tuple[Array, ...]:
        """1 at faces between two cells of the mask, 0 at closed ones, one array of the grid's shape per axis."""
        return self.face_average(jnp.asarray(self.mask, self.white.dtype))

    def _mask_box(self, margin: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First and one-past-last index of the mask along each axis, with a margin inside the grid."""
        mask = np.asarray(self.mask)
        low, high = [], []
        for k, n in enumerate(mask.shape):
            used = np.flatnonzero(mask.any(axis=tuple(j for j in range(mask.ndim) if j != k)))
            low.append(max(int(used[0]) - margin, 0))
            high.append(min(int(used[-1]) + 1 + margin, n))
        return tuple(low), tuple(high)


# -- details --------------------------------------------------------------------------------


def _harmonic(D: Array, mask: Array, axis: int) -> Array:
    n = D.shape[axis]
    a, b = jax.lax.slice_in_dim(D, 0, n - 1, axis=axis), jax.lax.slice_in_dim(D, 1, n, axis=axis)
    inside = jax.lax.slice_in_dim(mask, 0, n - 1, axis=axis) & jax.lax.slice_in_dim(mask, 1, n, axis=axis)
    is_open = jnp.broadcast_to(inside, a.shape) & (a + b > 0)
    # The inner where keeps 0/0 out of the gradient; a·(b/(a+b)) cannot underflow as a·b can.
    mean = jnp.where(is_open, 2.0 * a * (b / jnp.where(is_open, a + b, 1.0)), 0.0)
    widths = [(0, 0)] * D.ndim
    widths[axis] = (1, 0)
    return jnp.pad(mean, widths)


def _leaf(values: np.ndarray | None, dtype=None) -> Any:
    # An own copy: JAX may share memory with a NumPy array, which its owner can still change.
    return None if values is None else jax.device_put(np.array(values, dtype))


def _on_host(values: np.ndarray | None, dtype=None) -> Any:
    return None if values is None else values.astype(dtype or values.dtype, copy=False)


def _float_dtype(dtype) -> np.dtype:
    found = np.dtype(jnp.result_type(float) if dtype is None else dtype)
    if not jnp.issubdtype(found, jnp.floating):
        raise GliomaError(f"Tissue maps need a floating dtype, not {found}.")
    if jax.dtypes.canonicalize_dtype(found) != found:
        raise GliomaError('float64 needs jax.config.update("jax_enable_x64", True) before any array is made.')
    return found
