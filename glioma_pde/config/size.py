"""How much a run will write, from its configuration alone or from what was built of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .anatomy import resampled
from .base import Section
from .sections import SECTIONS, Config

PACKED = 0.5
"""Share that compression leaves of the fields; 0.23 to 0.39 in the MNI152 brain, more where no cell is empty."""

LARGE = 10**9
"""Output that a run announces before it starts [bytes]."""

_MAPS = 4
_COLUMNS = 40  # observables and ledger
_BASE = 4 * 10**5  # HDF5's own tables, texts, series of one chunk
_BRAIN_MM = (146.0, 184.0, 156.0)  # the box around the MNI152 brain
_ATLAS_MM = (197, 233, 189)  # its image


@dataclass(frozen=True)
class Size:
    """Bytes on the disk, about.

    Attributes:
        file: the finished run file.
        beside: what else lies there at most while it is written: a second copy at the end, and checkpoints.
    """

    file: int
    beside: int


def size_of(cells: int, fields: int, frames: int, rows: int, width: int, voxels: int, maps: int) -> Size:
    """Size of a run.

    Args:
        cells: of the computed window. fields: stored per frame. rows: of observables.
        width: bytes per value in memory, which is what checkpoints hold.
        voxels: of the background, the image of the whole anatomy. maps: of the anatomy besides the usual ones.
    """
    fixed = int(PACKED * (4 * cells * (fields * frames + _MAPS + maps) + voxels))
    file = _BASE + fixed + 8 * _COLUMNS * rows
    return Size(file, file + 3 * cells * fields * width)


def estimate(config: Config) -> Size | None:
    """`size_of` one arm; ``None`` where only the images tell how many cells there are."""
    cells = _cells(config.tissue)
    if cells is None:
        return None
    sections = [s for s in (getattr(config, name) for name in SECTIONS) if isinstance(s, Section)]
    fields = {field for section in sections for field in section.stored()}
    maps = sum(len(section.images()) for section in sections)
    if config.anisotropy is not None:
        dim = len(config.tissue.shape) if config.tissue.kind == "phantom" else 3
        maps += dim * (dim + 1) // 2
    frames, rows = _counts(config)
    width = 8 if config.numerics.precision == "float64" else 4
    return size_of(cells, len(fields), frames, rows, width, _voxels(config.tissue, Path(config.folder)), maps)


def _cells(tissue: Any) -> int | None:
    if tissue.kind == "radial":
        return max(4, round(tissue.radius_mm / tissue.spacing_mm))
    if tissue.kind == "phantom":
        return math.prod(tissue.shape)
    h = tissue.spacing_mm
    if h is None or (tissue.kind == "nifti" and tissue.window is None):
        return None
    sides = list(_BRAIN_MM) if tissue.kind == "mni152" else [math.inf] * 3
    if tissue.window is not None:
        sides = [min(side, 2 * tissue.window.half_width_mm) for side in sides]
    return math.prod(math.ceil(side / h) + 1 for side in sides)


def _voxels(tissue: Any, folder: Path) -> int:
    """Of the background; none where no image is at hand."""
    if tissue.kind not in ("mni152", "nifti"):
        return 0
    import numpy as np

    counts, old = np.asarray(_ATLAS_MM), np.ones(3)
    if tissue.kind == "nifti":
        from .images import read_header

        header = read_header(folder / tissue.white)
        if header is None:
            return 0
        counts, old = np.asarray(header.shape), np.linalg.norm(header.matrix[:3, :3], axis=0)
    new = old if tissue.spacing_mm is None else np.full(3, float(tissue.spacing_mm))
    return math.prod(int(n) for n in resampled(counts, old, new))


def _counts(config: Config) -> tuple[int, int]:
    """Frames and rows of observables."""
    time = config.time

    def every(step: float) -> set[float]:
        return {i * step for i in range(math.ceil(time.end_day * (1 - 1e-9) / step))} | {time.end_day}

    frames = every(time.frame_every_days) | set(time.frames_days)
    frames |= {day for day in config.outcome.compare_days if day <= time.end_day}
    given = config.tumour.initial.kind == "nifti"  # kept as a frame of its own
    return len(frames) + given, len(frames | every(time.observe_every_days))
