"""Tensor fields that direct migration: checked, normalised and decomposed into links between cells.

A tensor T(x) multiplies a diffusivity, D(x) T(x), and has the mean of its eigenvalues equal to one (trace T = number of
axes), so that D stays the mean diffusivity. On the grid it is a sum over links between cells,

    T = Σ_e w_e n_e n_eᵀ,   w_e ≥ 0,   n_e the direction of the link from cell x - e to cell x [mm],

from Selling's decomposition (`_selling`), which exists for every positive definite tensor and any spacing. That makes
diffusion conservative and non-negative however strong and however oriented the anisotropy is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax import Array

from glioma_pde._maps import where
from glioma_pde._selling import decompose
from glioma_pde.errors import GliomaError
from glioma_pde.grid import Grid

ORDERS = {
    "fsl": ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)),
    "dipy": ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2)),
    "mrtrix": ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)),
}
"""Orders in which tools store the components: ``fsl`` the upper triangle by rows (dtifit; BIDS), ``dipy`` the lower
triangle by rows (the NIfTI standard's SYMMATRIX; ANTs), ``mrtrix`` the diagonal first (dwi2tensor)."""

AXES = ("voxel", "fsl", "world")
"""Axes that components refer to: ``voxel`` those of the array, ``fsl`` the same with the first one reversed where the
affine has a positive determinant (the radiological convention of FSL's b-vectors), ``world`` +x right, +y anterior,
+z superior."""

_SYMMETRIC = 1e-3  # of the trace: two triangles that differ by more than rounding are not one tensor


class Tensors(eqx.Module):
    """A tensor field of unit mean diffusivity on the cells of a grid.

    Attributes:
        components: lower triangle by rows (xx, xy, yy, xz, yz, zz) along the grid's axes, ``(n(n + 1)/2, *shape)``.
        offsets: differences of the indices of linked cells; those along the axes come first.
        weights: w of each offset, ``(offsets, *shape)``, dimensionless; they sum to the number of axes.
    """

    components: Array
    offsets: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    weights: Array

    @classmethod
    def of(cls, components, grid: Grid) -> Tensors:
        """From positive definite components, taken as they are."""
        stored = np.array(components)
        n, rounding = grid.ndim, 16.0 * float(np.finfo(stored.dtype).eps)
        matrices = _matrices(np.moveaxis(stored.astype(float), 0, -1), lower_triangle(n)).reshape(-1, n, n)
        spacing = np.asarray(grid.spacing_mm)
        isotropic = np.all(np.abs(matrices - np.eye(n)) <= rounding, axis=(1, 2))
        found, weights = decompose(matrices[~isotropic] / np.outer(spacing, spacing))
        weights = weights * np.sum((found * spacing) ** 2, axis=-1)
        used = weights > rounding
        most = int(np.abs(found).max(initial=1))
        place = (2 * most + 1) ** np.arange(n)[::-1]
        keys = (found + most) @ place
        axes = [tuple(int(j == k) for j in range(n)) for k in range(n)]
        known = np.unique(keys[used])
        others = [tuple(int(i) for i in np.unravel_index(key, (2 * most + 1,) * n)) for key in known]
        oblique = [e for e in (tuple(i - most for i in other) for other in others) if e not in axes]
        offsets = (*axes, *oblique)
        share = np.zeros((len(offsets), len(matrices)), stored.dtype)
        share[:n, isotropic] = 1.0
        cells = np.flatnonzero(~isotropic)
        for k, e in enumerate(offsets):
            cell, one = np.nonzero(used & (keys == (np.asarray(e) + most) @ place))
            share[k, cells[cell]] = weights[cell, one]
        return cls(_leaf(stored), offsets, _leaf(share.reshape(-1, *grid.shape)))

    @property
    def ndim(self) -> int:
        return len(self.offsets[0])

    def matrices(self) -> np.ndarray:
        """The tensors as matrices, ``(*shape, n, n)``, in double precision."""
        return _matrices(np.moveaxis(np.asarray(self.components, float), 0, -1), lower_triangle(self.ndim))

    def averaged(self, mean: Callable[[Any], np.ndarray], mask: Any, grid: Grid) -> Tensors:
        """Means over the cells of another grid, the mask's cells counted only.

        Args:
            mean: volume-weighted mean of a map over each cell of ``grid``.
        """
        weight = np.asarray(mean(mask))
        inside = weight > 0
        out = np.zeros((len(self.components), *grid.shape), self.components.dtype)
        for c, (i, j) in enumerate(lower_triangle(self.ndim)):
            part = np.asarray(mean(self.components[c] * mask))
            out[c] = np.where(inside, part / np.where(inside, weight, 1.0), float(i == j))
        return Tensors.of(out, grid)

    def crop(self, cut: tuple[slice, ...]) -> Tensors:
        """Those of some cells; offsets that none of them uses are left out."""
        weights = np.asarray(self.weights)[(slice(None), *cut)]
        kept = [k for k in range(len(self.offsets)) if k < self.ndim or weights[k].any()]
        components = np.asarray(self.components)[(slice(None), *cut)]
        return Tensors(_leaf(components), tuple(self.offsets[k] for k in kept), _leaf(weights[kept]))


def unit_tensors(
    values: Any,
    grid: Grid,
    mask: np.ndarray,
    order: str | None = None,
    axes: str = "voxel",
    scaling: float = 1.0,
    largest_ratio: float = 10.0,
    repair: bool = False,
) -> np.ndarray:
    """Components of unit mean diffusivity along the grid's axes, ``(n(n + 1)/2, *shape)``; the unit one outside the mask.

    Args:
        values: matrices ``(*shape, n, n)``, or components ``(*shape, n(n + 1)/2)``; any unit.
        order: key of `ORDERS`; needed for components.
        axes: one of `AXES`.
        scaling: r ≥ 1 of `stretched`.
        largest_ratio: of the largest to the smallest eigenvalue (after scaling).
        repair: make tensors isotropic that are missing (zero or not finite), and raise eigenvalues that are below the
            largest one over ``largest_ratio``; otherwise all of these are errors.

    Raises:
        GliomaError: with the number of voxels of the mask concerned and the first of them.
    """
    n = grid.ndim
    if grid.geometry == "radial" or n == 1:
        raise GliomaError("Tensors need a grid of two or three Cartesian axes.")
    if axes not in AXES:
        raise GliomaError(f"The axes of tensors are one of {', '.join(AXES)}, not {axes!r}.")
    if not (np.isfinite(scaling) and scaling >= 1) or not (np.isfinite(largest_ratio) and largest_ratio > 1):
        raise GliomaError(
            f"Tensors take a scaling of at least 1 and a largest ratio above 1, not {scaling} and {largest_ratio}."
        )
    matrices = _as_matrices(values, grid, order)
    inside = matrices[mask]

    def refuse(bad: np.ndarray, what: str, advice: str) -> None:
        if bad.any():
            cells = np.zeros(grid.shape, bool)
            cells[mask] = bad
            raise GliomaError(f"The tensors are {what} in {bad.sum()} voxels, first at {where(cells, grid)}; {advice}.")

    finite = np.isfinite(inside).all(axis=(1, 2))
    inside = np.where(finite[:, None, None], inside, 0.0)
    size = np.abs(inside).max(axis=(1, 2))
    skew = np.abs(inside - inside.swapaxes(1, 2)).max(axis=(1, 2))
    refuse(skew > _SYMMETRIC * size, "not symmetric", "store both triangles alike")
    missing = size == 0.0
    if not repair:
        refuse(missing, "missing (zero or not finite)", "mask them out, or let repair make them isotropic")
    inside[missing] = np.eye(n)
    rotation = to_grid(grid, axes)
    inside = rotation @ (0.5 * (inside + inside.swapaxes(1, 2))) @ rotation.T
    eigen, vectors = np.linalg.eigh(inside)
    lost = eigen[:, -1] <= 0.0
    if not repair:
        refuse(eigen[:, 0] <= 0.0, "not positive definite", "let repair raise their eigenvalues, or mask them out")
    eigen[lost] = 1.0
    if repair:
        eigen = np.maximum(eigen, eigen[:, -1:] / largest_ratio)
    changed = repair or scaling != 1.0
    eigen = stretched(eigen, scaling)
    if repair:
        eigen = np.maximum(eigen, eigen.max(axis=1, keepdims=True) / largest_ratio)
    ratio = eigen.max(axis=1) / eigen.min(axis=1)
    refuse(
        ratio > largest_ratio * (1.0 + 1e-9),
        f"stronger than largest_ratio = {largest_ratio:g} (largest : smallest eigenvalue, up to {ratio.max():.3g})",
        "raise it (at the cost of longer links), or let repair limit them",
    )
    if changed:
        inside = np.einsum("aik,ak,ajk->aij", vectors, eigen, vectors)
    inside = inside * (n / np.trace(inside, axis1=1, axis2=2))[:, None, None]
    out = np.zeros((len(lower_triangle(n)), *grid.shape))
    for c, (i, j) in enumerate(lower_triangle(n)):
        out[c] = float(i == j)
        out[c][mask] = inside[:, i, j]
    return out


def stretched(eigenvalues: np.ndarray, r: float) -> np.ndarray:
    """Eigenvalues, ascending, of anisotropy increased by r as in Jbabdi et al. 2005.

    In three dimensions the largest is multiplied by r c_l + r c_p + c_s and the middle one by c_l + r c_p + c_s, with
    the linear, planar and spherical shares c_l = (λ₁ - λ₂)/Λ, c_p = 2(λ₂ - λ₃)/Λ, c_s = 3λ₃/Λ, Λ = λ₁ + λ₂ + λ₃; in two
    dimensions there is no planar share. They sum to one: r = 1 changes nothing.
    """
    if r == 1.0:
        return eigenvalues
    descending = eigenvalues[:, ::-1]
    n = descending.shape[1]
    below = np.concatenate([descending[:, 1:], np.zeros((len(descending), 1))], axis=1)
    shares = (descending - below) * np.arange(1, n + 1) / descending.sum(axis=1, keepdims=True)
    # eigenvalue k is stretched by what is linear or planar up to its own rank and beyond, but not by the spherical share
    factors = [1.0 + (r - 1.0) * shares[:, k : n - 1].sum(axis=1) for k in range(n)]
    return (descending * np.stack(factors, axis=1))[:, ::-1]


def lower_triangle(n: int) -> tuple[tuple[int, int], ...]:
    """Rows and columns of the components in their order."""
    return tuple((i, j) for i in range(n) for j in range(i + 1))


def tensor_names(n: int) -> tuple[str, ...]:
    """Names of the components in a run file."""
    return tuple("tensor_" + "xyz"[j] + "xyz"[i] for i, j in lower_triangle(n))


def component(i: int, j: int) -> int:
    """Place of T_ij among the components."""
    i, j = max(i, j), min(i, j)
    return i * (i + 1) // 2 + j


def to_grid(grid: Grid, axes: str) -> np.ndarray:
    """Q with Q T Qᵀ along the grid's axes for T along ``axes``."""
    n = grid.ndim
    directions = grid.matrix[:n, :n] / np.asarray(grid.spacing_mm)
    if axes == "world":
        return directions.T
    turned = np.eye(n)
    if axes == "fsl" and np.linalg.det(directions) > 0:
        turned[0, 0] = -1.0
    return turned


def _as_matrices(values: Any, grid: Grid, order: str | None) -> np.ndarray:
    try:
        given = np.asarray(values)
        if given.dtype.kind == "c":
            raise TypeError
        given = given.astype(float)
    except (TypeError, ValueError):
        raise GliomaError("The tensors are not an array of real numbers.") from None
    n = grid.ndim
    count = n * (n + 1) // 2
    if given.shape == (*grid.shape, n, n):
        return given
    if given.shape != (*grid.shape, count):
        raise GliomaError(
            f"The tensors have shape {given.shape}; the grid {grid.shape} needs {(*grid.shape, n, n)}, or "
            f"{(*grid.shape, count)} for {count} components."
        )
    if order not in ORDERS:
        raise GliomaError(f"The order of the tensors' components must be one of {', '.join(ORDERS)}, not {order!r}.")
    return _matrices(given, [pair for pair in ORDERS[order] if max(pair) < n])


def _matrices(components: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Symmetric matrices from components along the last axis."""
    n = max(max(pair) for pair in pairs) + 1
    out = np.empty((*components.shape[:-1], n, n))
    for c, (i, j) in enumerate(pairs):
        out[..., i, j] = out[..., j, i] = components[..., c]
    return out


def _leaf(values: np.ndarray) -> Any:
    return jax.device_put(np.array(values))
