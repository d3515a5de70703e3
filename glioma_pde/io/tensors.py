"""Diffusion tensors from NIfTI images of any voxel size, position and orientation."""

from __future__ import annotations

import itertools
import math
import os
from typing import Literal

import numpy as np

from glioma_pde.errors import GliomaError
from glioma_pde.grid import Grid
from glioma_pde.io.nifti import MAX_VOXELS, read_volumes
from glioma_pde.tensors import AXES, ORDERS, to_grid
from glioma_pde.tissue import Tissue


def tensors_from_nifti(
    tissue: Tissue,
    path: str | os.PathLike,
    order: Literal["fsl", "dipy", "mrtrix"],
    axes: Literal["voxel", "fsl", "world"],
    *,
    scaling: float = 1.0,
    largest_ratio: float = 10.0,
    repair: bool = False,
    max_values: int = 6 * MAX_VOXELS,
) -> Tissue:
    """The tissue with the tensors of an image, which the affines of both place in the world.

    Components are interpolated linearly at the cells' centres, and averaged over cells that are larger than the
    image's voxels; voxels without a tensor (zero or not finite) do not count. Cells that coincide with voxels take
    theirs as they are.

    Args:
        path: six components per voxel along the 4th or 5th axis, any unit.
        order: of the components, key of `tensors.ORDERS`: ``fsl`` xx, xy, xz, yy, yz, zz (dtifit --save_tensor);
            ``dipy`` xx, xy, yy, xz, yz, zz (NIfTI's SYMMATRIX, ANTs); ``mrtrix`` xx, yy, zz, xy, xz, yz.
        axes: what x, y and z of the components are. ``voxel``: the axes of the image's array. ``fsl``: the same, but
            the first one reversed if the affine has a positive determinant; what FSL's dtifit writes. ``world``: +x
            right, +y anterior, +z superior; what MRtrix writes.
        scaling, largest_ratio, repair: see `tensors.unit_tensors`.

    Raises:
        GliomaError: the image cannot be read or has another number of components, the grid is not 3-D, or tensors of
            the mask are missing, not positive definite or too strong.
    """
    if order not in ORDERS or axes not in AXES:
        raise GliomaError(
            f"Tensors are stored in an order of {', '.join(ORDERS)} along axes of {', '.join(AXES)}, "
            f"not {order!r} along {axes!r}."
        )
    if tissue.grid.ndim != 3:
        raise GliomaError(f"{path} holds tensors of three axes, the tissue has {tissue.grid.ndim}.")
    values, affine = read_volumes(path, 6, max_values)
    inside = np.asarray(tissue.mask)
    sampled = np.full((*inside.shape, 6), np.nan)
    sampled[inside] = _sample(values, affine, tissue.grid, np.argwhere(inside))
    matrices = np.empty((*inside.shape, 3, 3))
    for c, (i, j) in enumerate(ORDERS[order]):
        matrices[..., i, j] = matrices[..., j, i] = sampled[..., c]
    image = Grid.from_affine(values.shape[:3], affine)
    to_world = to_grid(image, "world").T @ to_grid(image, axes)
    return tissue.with_tensors(
        to_world @ matrices @ to_world.T, axes="world", scaling=scaling, largest_ratio=largest_ratio, repair=repair
    )


def _sample(values: np.ndarray, affine: np.ndarray, grid: Grid, cells: np.ndarray) -> np.ndarray:
    """Means of ``values`` ``(x, y, z, count)`` over some cells of the grid, ``(cells, count)``; NaN where there is none."""
    valid = np.isfinite(values).all(axis=-1) & values.any(axis=-1)
    to_voxels = np.linalg.inv(affine) @ grid.matrix
    # as many parts of a cell along each of its axes as it spans voxels
    counts = [max(1, math.ceil(span - 1e-4)) for span in np.abs(to_voxels[:3, :3]).max(axis=0)]
    total, weight = np.zeros((len(cells), values.shape[-1])), np.zeros(len(cells))
    for part in itertools.product(*map(range, counts)):
        place = cells + (np.asarray(part) + 0.5) / counts - 0.5
        voxel = place @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        nearest = np.rint(voxel)
        voxel = np.where(np.abs(voxel - nearest) < 1e-4, nearest, voxel)  # affines are stored in single precision
        low = np.floor(voxel).astype(int)
        beyond = voxel - low
        for corner in itertools.product((0, 1), repeat=3):
            at = low + corner
            share = np.prod(np.where(corner, beyond, 1.0 - beyond), axis=1)
            there = np.all((at >= 0) & (at < values.shape[:3]), axis=1) & (share > 0)
            at = np.where(there[:, None], at, 0)
            i, j, k = at.T
            there &= valid[i, j, k]
            share = np.where(there, share, 0.0)
            total += share[:, None] * np.where(there[:, None], values[i, j, k], 0.0)
            weight += share
    return np.where(weight[:, None] > 0, total / np.where(weight > 0, weight, 1.0)[:, None], np.nan)
