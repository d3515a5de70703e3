"""What an HDF5 file of a stranger may not hold, found out before anything of it is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from glioma_pde.errors import GliomaError

DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
"""What reading a damaged file may raise."""

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_HIDDEN = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"}  # HDF5's own marks of dimension scales
_MAX_OBJECTS = 10_000
_MAX_FRAME = 64 * 2**30  # bytes of one frame of one field
_MAX_CHUNK = 2**30
_MAX_TEXT = 2**26
_MOST_PACKED = 1040  # bytes that one byte of the file can stand for: deflate's limit, and a little
_HEAP = b"GCOL\x01"  # how a store of texts (HDF5: global heap collection) begins
_SMALLEST_HEAP = 4096
_MOST_TEXTS = 2**16  # in one store, as texts are numbered in two bytes
_BLOCK = 2**20


def vet(file: h5py.File, path: Path) -> None:
    """Refuse what a file of ours never holds: ways out of the file, plug-in filters, absurd sizes, texts without end.

    Raises:
        GliomaError: naming the first such thing.
    """

    def refuse(name: str, what: str) -> GliomaError:
        return GliomaError(f"{path}: '{name}' is {what}, as in no file of this program; do not trust this file.")

    sizes = file.id.get_create_plist().get_sizes()
    if sizes != (8, 8):
        raise refuse("/", f"laid out with addresses and lengths of {sizes} bytes")
    _check_texts(path, file.id.get_filesize())
    size = path.stat().st_size
    waiting, seen = [("", file["/"])], set()
    while waiting:
        place, group = waiting.pop()
        for key in group:
            name = f"{place}/{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise refuse(name, "a link to somewhere else")
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > _MAX_OBJECTS:
                raise refuse(name, f"more than the {_MAX_OBJECTS}th object")
            if isinstance(item, h5py.Group):
                waiting.append((name, item))
            elif isinstance(item, h5py.Dataset):
                if problem := _problem(item, size):
                    raise refuse(name, problem)
            else:
                raise refuse(name, "neither a group nor a dataset")


def _check_texts(path: Path, allocated: int) -> None:
    """Refuse a store of texts that HDF5 cannot take apart.

    HDF5 keeps texts without checksums and goes from one to the next by their lengths, unchecked: at an entry of no
    length it stays for ever. Such a store may lie anywhere, so the whole file is searched (2 GB a second).

    Args:
        allocated: length of the file according to itself [bytes]; of what is missing HDF5 may read zeros.
    """
    with open(path, "rb") as raw:
        end = 0
        for start in _found(raw, _HEAP):
            length = int.from_bytes(_at(raw, start + 8, 8), "little")
            if not _SMALLEST_HEAP <= length <= allocated - start:
                continue  # HDF5 refuses it, if it is one at all
            if start < end or not _ends(raw, start, end := start + length):
                raise GliomaError(
                    f"{path}: its texts are damaged (at byte {start}); copy it again, or resume the run from its checkpoint."
                )


def _ends(raw: IO[bytes], start: int, end: int) -> bool:
    """Whether the entries of a store of texts lead from its start to its end."""
    place = start + 16
    for _ in range(_MOST_TEXTS):
        if place + 16 > end:
            return place <= end
        head = _at(raw, place, 16)
        number, length = int.from_bytes(head[:2], "little"), int.from_bytes(head[8:], "little")
        if number == 0 and length < 16:
            return False
        place += length if number == 0 else 16 + -(-length // 8) * 8  # number 0 is what is free, head included
    return False


def _at(raw: IO[bytes], place: int, count: int) -> bytes:
    raw.seek(place)
    return raw.read(count).ljust(count, b"\0")


def _found(raw: IO[bytes], what: bytes) -> Iterator[int]:
    """Every place of ``what`` in a file, which may be read elsewhere meanwhile."""
    first, block = 0, b""
    while True:
        raw.seek(first + len(block))
        more = raw.read(_BLOCK)
        if not more:
            return
        kept = block[-len(what) + 1 :]
        first, block = first + len(block) - len(kept), kept + more
        at = block.find(what)
        while at >= 0:
            yield first + at
            at = block.find(what, at + 1)


def _problem(dataset: h5py.Dataset, file_size: int) -> str | None:
    plan = dataset.id.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        return "kept in another file"
    if {plan.get_filter(i)[0] for i in range(plan.get_nfilters())} - _FILTERS:
        return "packed with an unknown filter"
    if not is_plain(dataset.dtype):
        return f"of type {dataset.dtype}"
    if dataset.shape is None:
        return "empty of any shape"
    # A frame of a field is read at a time, everything else whole.
    is_field = dataset.parent.name == "/" and dataset.ndim > 1
    items = dataset.shape[1:] if is_field else dataset.shape
    if _bytes(items, dataset) > _MAX_FRAME or _bytes(dataset.chunks or (), dataset) > _MAX_CHUNK:
        return f"absurdly large {dataset.shape}"
    present = not is_field or len(dataset) > 0
    if present and _bytes(items, dataset) > _MOST_PACKED * file_size:
        return f"larger {dataset.shape} than the file can hold"
    return None


def _bytes(shape: tuple[int, ...], dataset: h5py.Dataset) -> int:
    total = dataset.dtype.itemsize
    for n in shape:  # Python integers: numpy's product would overflow
        total *= int(n)
    return total


def attributes_of(item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """Attributes as text, numbers and numeric arrays."""
    found: dict[str, Any] = {}
    for name in item.attrs:
        if name in _HIDDEN or name.startswith("_Netcdf4"):
            continue
        kept = item.attrs.get_id(name)
        if not is_plain(kept.dtype) or kept.get_storage_size() > _MAX_TEXT:
            raise ValueError(f"attribute {name} is neither text nor numbers")
        value = item.attrs[name]
        if isinstance(value, bytes):
            value = value.decode()
        found[name] = value.item() if isinstance(value, np.generic) else value
    return found


def is_plain(dtype: np.dtype) -> bool:
    text = h5py.check_string_dtype(dtype)
    return dtype.kind in "iufb" if text is None else text.length is None or text.length <= 2**16
