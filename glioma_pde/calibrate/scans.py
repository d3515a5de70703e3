"""What a scan says of every cell of a tissue: shares of segmentations, and cellularity from diffusion.

Water diffuses the more slowly the more cells there are. With ADC_w of free water and ADC_min where cells are packed most
densely (Atuegwu et al. 2011, Hormuth et al. 2015),

    N = θ (ADC_w − ADC)/(ADC_w − ADC_min),    θ the capacity, so that u = N/θ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ..errors import GliomaError
from ..tissue import Tissue

ADC_WATER = 2.5e-3
"""ADC_w, of free water at 37 °C [mm²/s] (Hormuth et al. 2015)."""
CELLULARITY_SD = 0.1
"""Standard deviation of a cellularity, fraction of capacity: **assumption**; a change of ADC by 0.2e-3 mm²/s."""


class Scan(NamedTuple):
    """What was seen on one day; ``None`` where there is nothing.

    Attributes:
        t1gd, flair: share of every cell that lies inside the segmentation.
        cellularity: density of tumour cells, fraction of capacity; NaN where it is not known. sd: its standard deviation.
    """

    day: float
    t1gd: np.ndarray | None = None
    flair: np.ndarray | None = None
    cellularity: np.ndarray | None = None
    sd: float = CELLULARITY_SD


def shares_on(tissue: Tissue, mask: np.ndarray, affine: np.ndarray, split: int = 2) -> np.ndarray:
    """Share of every cell of the tissue that lies in a mask with the place ``affine`` (voxel indices → world mm).

    Every voxel counts by ``split``³ points. Cells that no voxel reaches are empty.
    """
    grid = tissue.grid
    offsets = (np.arange(split) + 0.5) / split - 0.5
    count, inside = np.zeros(grid.size), np.zeros(grid.size)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in mask.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    to_cell = np.linalg.inv(grid.matrix) @ np.asarray(affine, float)
    flat = np.asarray(mask, float).ravel()
    for shift in np.stack(np.meshgrid(offsets, offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 3):
        cell = np.rint((index + shift) @ to_cell[:3, :3].T + to_cell[:3, 3]).astype(int)
        good = np.all((cell >= 0) & (cell < grid.shape), axis=1)
        at = np.ravel_multi_index(tuple(cell[good].T), grid.shape)
        count += np.bincount(at, minlength=grid.size)
        inside += np.bincount(at, flat[good], minlength=grid.size)
    return (inside / np.maximum(count, 1)).reshape(grid.shape)


def cellularity_on(
    tissue: Tissue, adc: np.ndarray, inside: np.ndarray, affine: np.ndarray, lowest: float, water: float = ADC_WATER
) -> np.ndarray:
    """Mean density of tumour cells, fraction of capacity, over the voxels of each cell that lie ``inside`` the lesion; NaN
    where these are less than half of it: elsewhere it is not the tumour that slows water down.

    Args:
        adc: map, in the unit of ``lowest`` (ADC_min) and ``water``. inside: mask of the same voxels.
    """
    if not water > lowest:
        raise GliomaError(f"ADC of free water, {water:g}, must be above the lowest ADC, {lowest:g}.")
    u = (water - np.asarray(adc, float)) / (water - lowest)
    share = shares_on(tissue, inside, affine)
    whole = shares_on(tissue, np.where(inside, u, 0.0), affine)
    return np.where(share >= 0.5, whole / np.maximum(share, 0.5), np.nan)


def radius_of(tissue: Tissue, share: np.ndarray | None) -> float | None:
    """Of the ball [mm] that is as large as the segmentation; ``None`` where it is empty."""
    if share is None or share.max() <= 0:
        return None
    volume = float(tissue.grid.integrate(jnp.asarray(share * np.asarray(tissue.mask))))
    return (3.0 * volume / (4.0 * math.pi)) ** (1 / 3) if volume > 0 else None


def check_scans(tissue: Tissue, scans: Sequence[Scan], treated_from: float) -> None:
    """Raises: GliomaError, for scans that say nothing, all at once."""
    problems = []
    if tissue.grid.geometry == "radial" or tissue.grid.ndim != 3:
        problems.append("images need a Cartesian tissue of three axes")
    for scan in scans:
        for name in ("t1gd", "flair", "cellularity"):
            share = getattr(scan, name)
            if share is None:
                continue
            if share.shape != tissue.grid.shape:
                problems.append(f"day {scan.day:g}: {name} has the shape {share.shape}, the tissue {tissue.grid.shape}")
            elif name == "cellularity":
                if not np.any(np.isfinite(share) & np.asarray(tissue.mask)):
                    problems.append(f"day {scan.day:g}: cellularity is known nowhere in the tissue")
            elif share.min() < 0 or share.max() > 1:
                problems.append(f"day {scan.day:g}: {name} must hold shares from 0 to 1")
        if not scan.sd > 0:
            problems.append(f"day {scan.day:g}: sd must be positive, not {scan.sd:g}")
    days = [scan.day for scan in scans]
    problems += [f"day {d:g} has {days.count(d)} scans" for d in sorted(set(days)) if days.count(d) > 1]
    if treated_from < days[0]:
        problems.append(
            f"day {treated_from:g}: a treatment begins before the first scan, on day {days[0]:g}, until which the tumour is "
            "taken to grow untreated"
        )
    good = [s for s in scans if all(m is not None and m.max() > 0 for m in (s.t1gd, s.flair))]
    if not good:
        problems.append(
            "no day has both T1Gd and FLAIR masks that are not empty: their distance tells the width of the front"
        )
    if not problems and all(radius_of(tissue, m) is None for m in (scans[0].t1gd, scans[0].flair)):
        problems.append(
            f"day {scans[0].day:g}: the first day has no mask that is not empty in the tissue; leave it out"
        )
    if problems:
        raise GliomaError("; ".join(problems) + ".")
