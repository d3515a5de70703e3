"""Chunks of images packed side by side on all cores, by the filters that the datasets of a run file have.

HDF5 packs one chunk after the other. What is written here is what its own filters (shuffle, deflate, Fletcher's
checksum) would have written, and is read by them.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np

LEVEL = 1
PACKED = {"compression": "gzip", "compression_opts": LEVEL, "shuffle": True, "fletcher32": True}
"""Filters of a dataset that `write_packed` may write to, for ``create_dataset``."""


def write_packed(row: int, images: Mapping[h5py.Dataset, np.ndarray]) -> None:
    """Write one image into each dataset, all of its ``row``.

    Args:
        row: index along the first axis, along which a chunk is 1 long.
        images: per dataset made with `PACKED` an array of the shape and type of one row.

    Raises:
        OSError, RuntimeError: if the file cannot be written.
    """
    places = [(dataset, image, at) for dataset, image in images.items() for at in _places(dataset)]
    with ThreadPoolExecutor() as pool:
        packed = pool.map(lambda place: _pack(_chunk(*place)), places)
        for (dataset, _, at), data in zip(places, packed, strict=True):
            dataset.id.write_direct_chunk((row, *at), data)


def _places(dataset: h5py.Dataset) -> Iterator[tuple[int, ...]]:
    """First cells of the chunks of one row."""
    return itertools.product(*(range(0, n, c) for n, c in zip(dataset.shape[1:], dataset.chunks[1:], strict=True)))


def _chunk(dataset: h5py.Dataset, image: np.ndarray, at: tuple[int, ...]) -> np.ndarray:
    """A whole chunk; at the upper edges of the image the fill value follows."""
    shape = dataset.chunks[1:]
    part = image[tuple(slice(a, a + c) for a, c in zip(at, shape, strict=True))]
    if part.shape == shape:
        return np.ascontiguousarray(part)
    whole = np.full(shape, dataset.fillvalue, image.dtype)
    whole[tuple(map(slice, part.shape))] = part
    return whole


def _pack(chunk: np.ndarray) -> bytes:
    shuffled = chunk.view(np.uint8).reshape(-1, chunk.itemsize).T
    data = zlib.compress(shuffled.tobytes(), LEVEL)
    return data + fletcher32(data).to_bytes(4, "little")


def fletcher32(data: bytes) -> int:
    """Fletcher's checksum of 16-bit big-endian words as HDF5 defines it: both sums modulo 65535, which stands for 0.

    Up to 2²⁴ words; only nothing but zeros has the sum 0.
    """
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    first, second = (int(s) for s in (words.sum(), np.cumsum(words).sum()))
    return _folded(second) << 16 | _folded(first)


def _folded(total: int) -> int:
    return (total - 1) % 0xFFFF + 1 if total else 0
