"""Finite-volume grids: spherical radial 1-D, and Cartesian 1-D, 2-D and 3-D.

All fields live at cell centres. Axis ``k`` of an array is axis ``k`` of the grid (x, y, z in that
order); a *face array* for axis ``k`` has the shape of a field, and its entry ``i`` is the face
between cells ``i - 1`` and ``i`` (so entry 0 is the closed lower wall).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

Affine = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Grid:
    """A static, hashable description of the cells; it holds no arrays.

    Attributes:
        shape: number of cells along each axis.
        spacing_mm: cell size along each axis [mm].
        geometry: ``"cartesian"`` or ``"radial"`` (shells of a sphere, one axis).
        affine: 4x4 map from cell indices ``(i, j, k, 1)`` to world coordinates [mm] of the cell
            centre, as in NIfTI (+x right, +y anterior, +z superior). Its columns may be rotated
            or flipped but must be orthogonal with the lengths of ``spacing_mm``.
        thickness_mm: extent of a 2-D grid along the missing axis (1-D: a square of that edge),
            which turns areas into volumes [mm].
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    geometry: Literal["cartesian", "radial"] = "cartesian"
    affine: Affine | None = None
    thickness_mm: float = 1.0

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.spacing_mm) or not 1 <= len(self.shape) <= 3:
            raise ValueError(
                f"A grid needs one spacing for each of its 1 to 3 axes, "
                f"not shape {self.shape} with spacing {self.spacing_mm}."
            )
        if min(self.shape) < 1 or not all(0 < h < math.inf for h in (*self.spacing_mm, self.thickness_mm)):
            raise ValueError("A grid needs at least one cell and a positive, finite spacing on each axis.")
        if self.geometry == "radial" and (len(self.shape) != 1 or self.affine is not None):
            raise ValueError("A radial grid has one axis and no affine.")
        if self.affine is not None:
            dim = len(self.shape)
            axes = np.array(self.affine, dtype=float)[:dim, :dim] / np.asarray(self.spacing_mm)
            if not np.abs(axes.T @ axes - np.eye(dim)).max() < 5e-3:
                raise ValueError(
                    f"The affine's axes must be orthogonal and as long as the spacing {self.spacing_mm} mm."
                )

    # -- constructors -----------------------------------------------------------------------

    @classmethod
    def radial(cls, n: int, spacing_mm: float) -> Grid:
        """Spherical shells ``[i h, (i + 1) h]``, ``i = 0 … n - 1``; the first cell is a ball."""
        return cls((int(n),), (float(spacing_mm),), "radial")

    @classmethod
    def cartesian(
        cls,
        shape: tuple[int, ...],
        spacing_mm: float | tuple[float, ...],
        origin_mm: tuple[float, ...] | None = None,
        thickness_mm: float = 1.0,
    ) -> Grid:
        """A box aligned with the world axes; by default its centre is the world's origin.

        Args:
            origin_mm: world coordinates of the centre of cell ``(0, 0, 0)`` [mm].
        """
        dim = len(shape)
        h = (float(spacing_mm),) * dim if np.ndim(spacing_mm) == 0 else tuple(map(float, spacing_mm))  # type: ignore[arg-type]
        if origin_mm is None:
            origin_mm = tuple(-0.5 * (n - 1) * d for n, d in zip(shape, h, strict=True))
        if len(h) != dim or len(origin_mm) != dim:
            raise ValueError(f"A grid of {dim} axes needs {dim} spacings and an origin of {dim} coordinates.")
        matrix = np.eye(4)
        for k in range(dim):
            matrix[k, k], matrix[k, 3] = h[k], origin_mm[k]
        return cls(tuple(map(int, shape)), h, "cartesian", as_affine(matrix), float(thickness_mm))

    @classmethod
    def from_affine(cls, shape: tuple[int, ...], affine: np.ndarray) -> Grid:
        """A 3-D grid of voxels placed by a NIfTI affine.

        Raises:
            ValueError: if the affine shears, which a finite-volume box cannot follow.
        """
        matrix = np.asarray(affine, dtype=float)
        axes = matrix[:3, :3]
        h = np.linalg.norm(axes, axis=0)
        if not np.all(np.isfinite(matrix)) or np.any(h == 0):
            raise ValueError("The affine is singular: voxels need a size along every axis.")
        gram = (axes / h).T @ (axes / h)
        if np.abs(gram - np.eye(3)).max() > 1e-3:
            raise ValueError(
                "The affine shears the voxels, which a box of cells cannot follow; "
                "resample the image to an orthogonal grid first."
            )
        return cls(tuple(map(int, shape)), tuple(map(float, h)), "cartesian", as_affine(matrix))

    # -- sizes ------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def cell_volume_mm3(self) -> float:
        """Volume of a Cartesian cell; for radial grids the reference 4π h³ of ``relative_volume``."""
        if self.geometry == "radial":
            return 4.0 * math.pi * self.spacing_mm[0] ** 3
        return math.prod(self.spacing_mm) * self.thickness_mm ** (3 - self.ndim)

    def relative_volume(self, dtype=None) -> Array | None:
        """Cell volumes over ``cell_volume_mm3``; ``None`` stands for all ones."""
        if self.geometry != "radial":
            return None
        i = np.arange(self.shape[0], dtype=float)
        return jnp.asarray(i * i + i + 1.0 / 3.0, dtype)

    def relative_area(self, dtype=None) -> Array | None:
        """Areas of the lower faces times spacing over ``cell_volume_mm3``; ``None``: all ones."""
        if self.geometry != "radial":
            return None
        i = np.arange(self.shape[0], dtype=float)
        return jnp.asarray(i * i, dtype)

    def volumes_mm3(self) -> np.ndarray:
        """Volume of every cell [mm³], shape ``shape``, in double precision."""
        volumes = np.full(self.shape, self.cell_volume_mm3)
        if self.geometry == "radial":
            i = np.arange(self.shape[0], dtype=float)
            volumes *= i * i + i + 1.0 / 3.0
        return volumes

    def integrate(self, density: Array) -> Array:
        """∫ density dV over the grid [density · mm³]; summed axis by axis, which keeps float32 sums sharp."""
        relative = self.relative_volume(density.dtype)
        total = density if relative is None else density * jnp.broadcast_to(relative, density.shape)
        for _ in range(self.ndim):
            total = total.sum(axis=-1)
        return total * self.cell_volume_mm3

    # -- places -----------------------------------------------------------------------------

    @property
    def matrix(self) -> np.ndarray:
        """The affine as an array; for radial grids a scaling along x."""
        if self.affine is not None:
            return np.array(self.affine)
        matrix = np.eye(4)
        for k, h in enumerate(self.spacing_mm):
            matrix[k, k] = h
        if self.geometry == "radial":
            matrix[0, 3] = 0.5 * self.spacing_mm[0]
        return matrix

    def axis_mm(self, k: int) -> np.ndarray:
        """Cell centres along axis ``k`` [mm], measured along the axis.

        These are world coordinates when the grid is aligned with the world; on a rotated grid they
        start from the projection of the first cell on that axis.
        """
        h = self.spacing_mm[k]
        if self.geometry == "radial":
            return (np.arange(self.shape[k]) + 0.5) * h
        column = self.matrix[:3, k] / h
        start = float(self.matrix[:3, 3] @ column)
        sign = -1.0 if column[np.argmax(np.abs(column))] < 0 else 1.0
        return sign * (start + np.arange(self.shape[k]) * h)

    def local_mm(self, points_mm: Array) -> Array:
        """World points ``(…, ndim)`` [mm] → distances from the first cell's centre along each axis.

        Differentiable in the points. For radial grids the single coordinate is the radius, and the
        distance is measured from r = 0.
        """
        if self.geometry == "radial":
            return points_mm
        dim = self.ndim
        axes = self.matrix[:dim, :dim] / np.asarray(self.spacing_mm)
        origin = self.matrix[:dim, 3]
        return (points_mm - jnp.asarray(origin, points_mm.dtype)) @ jnp.asarray(axes, points_mm.dtype)

    def local_axis(self, k: int, dtype=None) -> Array:
        """Cell centres along axis ``k`` in the coordinate of ``local_mm``, shape ``(shape[k],)``."""
        offset = 0.5 if self.geometry == "radial" else 0.0
        return jnp.asarray((np.arange(self.shape[k]) + offset) * self.spacing_mm[k], dtype)

    def square_distance_mm2(self, point_mm: Array, dtype=None) -> Array:
        """Squared distance of every cell's centre from a world point ``(ndim,)`` [mm²]; on radial grids from the origin."""
        local = self.local_mm(point_mm)
        square = jnp.zeros((), local.dtype if dtype is None else dtype)
        for k in range(self.ndim):
            at = 0.0 if self.geometry == "radial" else local[k]
            along = (self.local_axis(k, square.dtype) - at) ** 2
            square = square + jnp.expand_dims(along, [j for j in range(self.ndim) if j != k])
        return square

    def world_mm(self) -> np.ndarray:
        """World coordinates of every cell centre, shape ``(ndim, *shape)`` [mm]."""
        if self.geometry == "radial":
            return self.axis_mm(0)[None]
        index = np.stack(np.meshgrid(*[np.arange(n) for n in self.shape], indexing="ij"))
        dim = self.ndim
        matrix = self.matrix
        flat = matrix[:dim, :dim] @ index.reshape(dim, -1) + matrix[:dim, 3:4]
        return flat.reshape(dim, *self.shape)

    def index_of(self, point_mm) -> np.ndarray:
        """Fractional cell indices of a world point [mm]."""
        if self.geometry == "radial":
            return np.asarray(point_mm, float) / self.spacing_mm[0] - 0.5
        dim = self.ndim
        matrix = self.matrix
        return np.linalg.solve(matrix[:dim, :dim], np.asarray(point_mm, float) - matrix[:dim, 3])

    def crop(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Grid:
        """The sub-box of cells ``start ≤ index < stop``, at the same place in the world.

        Raises:
            ValueError: if the sub-box is empty or leaves the grid.
        """
        start, stop = tuple(map(int, start)), tuple(map(int, stop))
        shape = tuple(b - a for a, b in zip(start, stop, strict=True))
        if len(start) != self.ndim or min(start) < 0 or np.any(np.greater(stop, self.shape)):
            raise ValueError(f"The cells {start} to {stop} are not inside a grid of shape {self.shape}.")
        if self.geometry == "radial":
            if start != (0,):
                raise ValueError("A radial grid can only be cropped from outside.")
            return Grid(shape, self.spacing_mm, "radial")
        matrix = self.matrix
        matrix[: self.ndim, 3] += matrix[: self.ndim, : self.ndim] @ np.asarray(start, float)
        return Grid(shape, self.spacing_mm, "cartesian", as_affine(matrix), self.thickness_mm)


def as_affine(matrix: np.ndarray) -> Affine:
    """A 4x4 matrix as nested tuples, which hash."""
    return tuple(tuple(float(v) for v in row) for row in matrix)  # type: ignore[misc]
