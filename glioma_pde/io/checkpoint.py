"""Checkpoints: arrays and a little JSON, exact to the bit, written whole or not at all.

The file is an uncompressed NumPy ``.npz`` without pickle: member ``manifest`` is the SHA-256 of a JSON text
followed by that text, which holds the caller's ``meta`` and, for every array, its name, type, shape and
SHA-256; the arrays are the members ``array_0``, ``array_1``, …
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glioma_pde.errors import GliomaError, one_line
from glioma_pde.io._files import file_errors, sync_folder

_FORMAT = "glioma_pde checkpoint 1"
_KINDS = "biufcSUmM"  # what .npy holds exactly, and without pickle


def previous_path(path: str | os.PathLike) -> Path:
    """Where the checkpoint before the newest is kept."""
    path = Path(path)
    return path.with_name(path.name + ".previous")


def partial_path(path: str | os.PathLike) -> Path:
    """Where a checkpoint is built before it has its name; a killed writer leaves it behind."""
    path = Path(path)
    return path.with_name(path.name + ".partial")


def save_checkpoint(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one that was there stays as ``<path>.previous``.

    The new file is on the disk (fsync) before any older one is touched, so at every moment one whole
    checkpoint exists.

    Args:
        arrays: any shapes, 0-d included; booleans, integers, floats, complex numbers, dates, text.
        meta: what JSON can hold; floats come back exactly.

    Raises:
        GliomaError: if it cannot be written; the older checkpoints are then untouched.
        TypeError: if an array or ``meta`` holds other objects.
    """
    path = Path(path)
    members: dict[str, Any] = {}
    described = []
    for i, (name, array) in enumerate(arrays.items()):
        array = np.asarray(array, order="C")
        if array.dtype.kind not in _KINDS:
            raise TypeError(f"{name}: arrays of {array.dtype} cannot be kept exactly.")
        members[f"array_{i}"] = array
        described.append([name, array.dtype.str, list(array.shape), _digest(array)])
    text = json.dumps({"format": _FORMAT, "meta": dict(meta), "arrays": described}).encode()
    manifest = np.frombuffer(hashlib.sha256(text).digest() + text, np.uint8)
    partial = partial_path(path)
    with file_errors(path):
        try:
            with open(partial, "wb") as handle:
                np.savez(handle, manifest=manifest, **members)
                handle.flush()
                os.fsync(handle.fileno())
            if path.exists():
                os.replace(path, previous_path(path))
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def load_checkpoint(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the newest checkpoint that is whole: ``(arrays, meta)`` as they were saved, bit for bit.

    Warns (``UserWarning``) when the newest is missing or damaged and the previous one is taken.

    Raises:
        GliomaError: if neither is usable.
    """
    path = Path(path)
    previous = previous_path(path)
    try:
        return _load(path)
    except GliomaError as error:
        newest = str(error)
    try:
        loaded = _load(previous)
    except GliomaError as error:
        if not path.exists() and not previous.exists():
            raise GliomaError(f"{path}: there is no checkpoint here; check the path or start anew.") from None
        raise GliomaError(f"No usable checkpoint ({newest}; {error}); start the run anew.") from None
    warnings.warn(f"{newest}; going on from the one before, {previous}.", stacklevel=2)
    return loaded


def _load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with open(path, "rb") as handle, zipfile.ZipFile(handle) as archive:
            length = os.fstat(handle.fileno()).st_size
            raw = bytes(_values(archive, "manifest", length))
            if hashlib.sha256(raw[32:]).digest() != raw[:32]:
                raise ValueError("its manifest is damaged")
            manifest = json.loads(raw[32:])
            if manifest["format"] != _FORMAT:
                raise ValueError(f"its format is '{manifest['format']}', not '{_FORMAT}'")
            arrays = {}
            for i, (name, dtype, shape, digest) in enumerate(manifest["arrays"]):
                kind = np.dtype(dtype)
                if kind.kind not in _KINDS or any(not isinstance(n, int) or n < 0 for n in shape):
                    raise ValueError(f"its array '{name}' is of no kind that is kept")
                data = _values(archive, f"array_{i}", length)
                if len(data) != kind.itemsize * math.prod(shape) or hashlib.sha256(data).hexdigest() != digest:
                    raise ValueError(f"its array '{name}' is damaged")
                arrays[name] = np.ndarray(shape, kind, data)
            return arrays, manifest["meta"]
    except FileNotFoundError:
        raise GliomaError(f"{path} does not exist") from None
    except PermissionError:
        raise GliomaError(f"{path} may not be read") from None
    except _DAMAGE as error:
        reason = one_line(str(error).splitlines()[0], 80) if str(error) else type(error).__name__
        raise GliomaError(f"{path} cannot be used ({reason})") from error


def _values(archive: zipfile.ZipFile, name: str, length: int) -> bytearray:
    """The values of an array, in C order, without believing what its header says of their number.

    The member is refused unless it lies uncompressed in the file of ``length`` bytes, so no more memory is taken
    than the file has.
    """
    info = archive.getinfo(name + ".npy")
    if info.compress_type != zipfile.ZIP_STORED or not 0 <= info.file_size <= length:
        raise ValueError(f"its member '{name}' is longer than the file")
    data = bytearray(archive.read(info))
    lead = 2 if data[6] == 1 else 4  # bytes that say how long the header is, after magic and version
    return data[8 + lead + int.from_bytes(data[8 : 8 + lead], "little") :]


# What numpy, zipfile and json raise on bytes that are not theirs.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    struct.error,
    zipfile.BadZipFile,
)


def _digest(array: np.ndarray) -> str:
    """SHA-256 of the values in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
