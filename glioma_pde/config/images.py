"""NIfTI images read with NumPy alone, for a check that starts nothing heavy.

What is not plain here (damaged, of another type, not placed in the world) is left to the reader of `io.nifti`,
which says what is wrong with it.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MOST_BYTES = 2**27
"""Values of larger images are not looked at: reading them takes longer than a check may."""

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
# Offsets of the fields of a header, by its size: type code, and where dim, … begin.
_FIELDS: dict[int, dict[str, tuple[str, int, int]]] = {
    348: {
        "type": ("i2", 70, 1), "dim": ("i2", 40, 8), "pixdim": ("f4", 76, 8), "offset": ("f4", 108, 1),
        "slope": ("f4", 112, 1), "inter": ("f4", 116, 1), "codes": ("i2", 252, 2), "quaternion": ("f4", 256, 3),
        "shift": ("f4", 268, 3), "rows": ("f4", 280, 12),
    },
    540: {
        "type": ("i2", 12, 1), "dim": ("i8", 16, 8), "pixdim": ("f8", 104, 8), "offset": ("i8", 168, 1),
        "slope": ("f8", 176, 1), "inter": ("f8", 184, 1), "codes": ("i4", 344, 2), "quaternion": ("f8", 352, 3),
        "shift": ("f8", 376, 3), "rows": ("f8", 400, 12),
    },
}  # fmt: skip


class Header(NamedTuple):
    """Shape, 4x4 affine to world mm, and how the values are stored."""

    path: Path
    shape: tuple[int, int, int]
    matrix: np.ndarray
    dtype: np.dtype
    offset: int
    slope: float
    inter: float


def read_header(path: Path) -> Header | None:
    """The header of a 3-D image, or ``None`` if it is not plain."""
    try:
        with _open(path) as file:
            raw = file.read(540)
        return _parse(path, raw)
    except (OSError, EOFError, zlib.error, ValueError, ArithmeticError, KeyError):
        return None


def read_values(header: Header) -> np.ndarray | None:
    """The values of an image as float32, or ``None`` if they are not plain."""
    count = math.prod(header.shape) * header.dtype.itemsize
    if count > MOST_BYTES:
        return None
    try:
        with _open(header.path) as file:
            raw = file.read(header.offset + count)
        values = np.frombuffer(raw, header.dtype, math.prod(header.shape), header.offset)
    except (OSError, EOFError, zlib.error, ValueError):
        return None
    out = values.reshape(header.shape, order="F").astype(np.float32)
    if header.slope not in (0.0, 1.0) or header.inter != 0.0:
        out = out * np.float32(header.slope or 1.0) + np.float32(header.inter)
    return out if np.isfinite(out.min()) and np.isfinite(out.max()) else None


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")


def _parse(path: Path, raw: bytes) -> Header:
    if len(raw) < 348:
        raise EOFError
    order = "<" if int(np.frombuffer(raw, "<i4", 1)[0]) in _FIELDS else ">"
    table = _FIELDS[int(np.frombuffer(raw, order + "i4", 1)[0])]
    read = {name: np.frombuffer(raw, order + kind, count, at) for name, (kind, at, count) in table.items()}
    dim = [int(n) for n in read["dim"]]
    if not 3 <= dim[0] <= 7 or min(dim[1:4]) < 1 or any(n != 1 for n in dim[4 : dim[0] + 1]):
        raise ValueError
    matrix = _affine(read)
    if not np.all(np.isfinite(matrix)) or abs(np.linalg.det(matrix[:3, :3])) == 0:
        raise ValueError
    offset, slope, inter = (float(read[name][0]) for name in ("offset", "slope", "inter"))
    dtype = np.dtype(order + _TYPES[int(read["type"][0])])
    if not np.isfinite([offset, slope, inter]).all() or not 0 <= offset <= 2**30:
        raise ValueError
    return Header(path, (dim[1], dim[2], dim[3]), matrix, dtype, int(offset), slope, inter)


def _affine(read: dict[str, np.ndarray]) -> np.ndarray:
    """The sform if there is one, else the qform."""
    matrix = np.eye(4)
    qform, sform = read["codes"]
    if sform > 0:
        matrix[:3] = read["rows"].reshape(3, 4)
    elif qform > 0:
        b, c, d = (float(v) for v in read["quaternion"])
        a = math.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
        rotation = [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
        size = read["pixdim"].astype(float)
        matrix[:3, :3] = np.asarray(rotation) * [size[1], size[2], -size[3] if size[0] < 0 else size[3]]
        matrix[:3, 3] = read["shift"]
    else:
        raise ValueError
    return matrix
