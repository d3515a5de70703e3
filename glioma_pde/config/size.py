"""How much a run will write, from its configuration alone or from what was built of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .sections import Config

PACKED = 0.5
"""Share that compression leaves of the fields; 0.23 to 0.39 in the MNI152 brain, more where no cell is empty."""

LARGE = 10**9
"""Output that a run announces before it starts [bytes]."""

_FIELDS = ("tumour", "carriers", "attractant", "prodrug", "drug", "trail", "immune", "malignancy")
_MAPS = 4
_COLUMNS = 40  # observables and ledger
_BASE = 4 * 10**5  # HDF5's own tables, texts, series of one chunk
_BRAIN_MM = (146.0, 184.0, 156.0)  # the box around the MNI152 brain


@dataclass(frozen=True)
class Size:
    """Bytes on the disk, about.

    Attributes:
        file: the finished run file.
        beside: what else lies there at most while it is written: a second copy at the end, and checkpoints.
    """

    file: int
    beside: int


def size_of(cells: int, fields: int, frames: int, rows: int, width: int) -> Size:
    """Size of a run.

    Args:
        cells: of the computed window. fields: stored per frame. rows: of observables.
        width: bytes per value in memory, which is what checkpoints hold.
    """
    file = _BASE + int(PACKED * 4 * cells * (fields * frames + _MAPS)) + 8 * _COLUMNS * rows
    return Size(file, file + 3 * cells * fields * width)


def estimate(config: Config) -> Size | None:
    """`size_of` one arm; ``None`` where only the images tell how many cells there are."""
    cells = _cells(config.tissue)
    if cells is None:
        return None
    fields = sum(getattr(config, name) is not None for name in _FIELDS)
    frames, rows = _counts(config)
    return size_of(cells, fields, frames, rows, 8 if config.numerics.precision == "float64" else 4)


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


def _counts(config: Config) -> tuple[int, int]:
    """Frames and rows of observables."""
    time = config.time

    def every(step: float) -> set[float]:
        return {i * step for i in range(math.ceil(time.end_day * (1 - 1e-9) / step))} | {time.end_day}

    frames = every(time.frame_every_days) | set(time.frames_days)
    frames |= {day for day in config.outcome.compare_days if day <= time.end_day}
    return len(frames), len(frames | every(time.observe_every_days))
