"""NIfTI images in and out: real volumes in mm, with their place in the world.

Voxel arrays keep the order of the file (axis k of the array is axis k of the image) and are never
flipped or reordered; the affine alone says which way is right. So left stays left for any stored
orientation.
"""

from __future__ import annotations

import gzip
import math
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from glioma_pde.errors import GliomaError
from glioma_pde.grid import Grid
from glioma_pde.tissue import Tissue

MAX_VOXELS = 512**3
_PIECE = 2**20
_HEADERS = {348: nib.Nifti1Image, 540: nib.Nifti2Image}


def read_image(path: str | os.PathLike, max_voxels: int = MAX_VOXELS) -> tuple[np.ndarray, np.ndarray]:
    """Read a 3-D NIfTI-1 or NIfTI-2 file (``.nii`` or ``.nii.gz``).

    Where the sform and the qform are both set, the sform counts; if they differ by more than
    0.01 mm a warning says so.

    Args:
        max_voxels: refuse larger images; checked before memory is taken.

    Returns:
        The data, float32, scaled as the header says, axes as stored; and the 4x4 affine from voxel
        indices to world coordinates [mm] (+x right, +y anterior, +z superior).

    Raises:
        GliomaError: the file is missing, damaged, not a 3-D real image in mm, too large, holds
            non-finite values, or does not say which way is left.
    """
    path = Path(path)
    volumes, affine = read_volumes(path, 1, max_voxels)
    data = volumes[..., 0]
    if not (np.isfinite(data.min()) and np.isfinite(data.max())):
        bad = ~np.isfinite(data)
        first = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), data.shape))
        raise GliomaError(
            f"{path} has {bad.sum()} values that are not finite, first at voxel {first}; replace them first."
        )
    return data, affine


def read_volumes(path: str | os.PathLike, count: int, max_values: int = MAX_VOXELS) -> tuple[np.ndarray, np.ndarray]:
    """Read the ``count`` values that a NIfTI file holds for each voxel, along its 4th or 5th axis.

    Returns:
        The data as of `read_image`, ``(x, y, z, count)``, finite or not; and the affine.

    Raises:
        GliomaError: as `read_image`, but for values that are not finite.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise GliomaError(f"There is no image file {path}; check the path.")
        if not path.name.lower().endswith((".nii", ".nii.gz")):
            raise GliomaError(f"{path} is not a NIfTI file (.nii or .nii.gz); convert it first.")
        header, stored = _load(path, max_values, count)
        affine = _affine(header, path)
        data = _scaled(header, stored).reshape(*header.get_data_shape()[:3], count, order="F")
    except (
        OSError,
        EOFError,
        zlib.error,
        ImageFileError,
        HeaderDataError,
        ValueError,
        ArithmeticError,
        KeyError,
    ) as error:
        raise GliomaError(f"{path} cannot be read as NIfTI, it may be damaged or cut short: {error}") from None
    return data, affine


def write_image(path: str | os.PathLike, data_xyz, affine) -> None:
    """Write a 3-D array as float32 NIfTI-1 in mm, whole or not at all.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``; an existing file is replaced in one step.
        data_xyz: array, axes as in the affine's columns (not transposed, as held in memory).
        affine: 4x4, from voxel indices to world coordinates [mm].

    Raises:
        GliomaError: the array or the affine is not valid, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.name.lower()
    if not suffix.endswith((".nii", ".nii.gz")):
        raise GliomaError(f"{path} must end in .nii or .nii.gz.")
    data = np.asarray(data_xyz, dtype=np.float32)
    if data.ndim != 3 or data.size == 0 or not np.all(np.isfinite(data)):
        raise GliomaError(f"Only finite 3-D arrays can be written to {path}, not one of shape {data.shape}.")
    if max(data.shape) > np.iinfo(np.int16).max:
        raise GliomaError(f"{path}: NIfTI-1 holds at most 32767 voxels along an axis, not {data.shape}.")
    image = nib.Nifti1Image(data, _placed(data.shape, affine, path))
    image.header.set_xyzt_units("mm")
    raw = image.to_bytes()
    if suffix.endswith(".gz"):
        raw = gzip.compress(raw, compresslevel=6, mtime=0)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise GliomaError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        part.unlink(missing_ok=True)


def tissue_from_nifti(
    white_path: str | os.PathLike,
    grey_path: str | os.PathLike,
    csf_path: str | os.PathLike | None = None,
    mask_path: str | os.PathLike | None = None,
    background_path: str | os.PathLike | None = None,
    cavity_path: str | os.PathLike | None = None,
    spacing_mm: float | tuple[float, ...] | None = None,
    *,
    scale: float = 1.0,
    mask_threshold: float = 0.5,
    dtype=None,
    max_voxels: int = MAX_VOXELS,
    on_host: bool = False,
) -> Tissue:
    """Tissue from probability maps of one space, as a segmentation tool writes them.

    Args:
        mask_path: where cells may live, a binary image; default white + grey ≥ ``mask_threshold``.
        background_path: an image to draw under the fields, such as T1.
        cavity_path: the cavity of an operation before, a binary image.
        spacing_mm: resample to this cell size [mm]; default the images' own voxels.
        scale: what the white, grey and CSF maps store for a whole voxel of their tissue: 1 for
            fractions, 100 for percent, 255 for bytes.
        on_host: as for `Tissue.from_arrays`, unless resampled.

    Raises:
        GliomaError: an image cannot be read, two do not share one space, or the maps are no
            fractions.
    """
    if not 0 < scale < math.inf:
        raise GliomaError(f"The scale of the tissue maps must be positive, not {scale}.")
    paths = {
        "white": white_path,
        "grey": grey_path,
        "csf": csf_path,
        "mask": mask_path,
        "background": background_path,
        "cavity": cavity_path,
    }
    maps: dict[str, Any] = {}
    for name, path in paths.items():
        if path is None:
            continue
        data, affine = read_image(path, max_voxels)
        if name == "white":
            place = affine
        else:
            _same_space(white_path, maps["white"], place, path, data, affine)
        if name in ("mask", "cavity"):
            data = _binary(data, path)
        elif name != "background":
            data = _fractions(data, scale, path)
        maps[name] = data
    tissue = Tissue.from_arrays(
        **maps,
        affine=place,
        mask_threshold=mask_threshold,
        dtype=dtype,
        tolerance=1e-2,  # three maps stored as bytes can add up to 1 + 3/510 by rounding
        on_host=on_host,
    )
    return tissue if spacing_mm is None else tissue.resample(spacing_mm)


# -- details --------------------------------------------------------------------------------


def _load(path: Path, max_values: int, count: int) -> tuple[Any, bytearray]:
    """The header, judged before the data is read, and the file as far as it says; the stream is read to its end."""
    compressed = path.name.lower().endswith(".gz")
    with gzip.open(path, "rb") if compressed else open(path, "rb") as file:
        head = file.read(540)
        sizes = [int.from_bytes(head[:4], order) for order in ("little", "big")]
        kind = next((_HEADERS[n] for n in sizes if n in _HEADERS), None)
        if kind is None or len(head) < kind.header_class.template_dtype.itemsize:
            raise ImageFileError("it does not start with a NIfTI header")
        header = kind.header_class(head[: kind.header_class.template_dtype.itemsize])
        _check_header(header, path, max_values, count)
        start = int(header.get_data_offset())
        length = start + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
        data = bytearray(head)
        # In pieces: a single read would take memory for all that is promised, there or not.
        while len(data) < length and (piece := file.read(min(_PIECE, length - len(data)))):
            data += piece
        if len(data) < length:
            raise EOFError(f"{length} bytes are promised, {len(data)} are there")
        beyond = 0
        while compressed and (piece := file.read(_PIECE)):  # gzip checks its checksum only at the end of the stream
            beyond += len(piece)
            if beyond > max(length, 64 * _PIECE):
                raise EOFError("it unpacks to more than twice what its header promises")
    return header, data


def _scaled(header, stored: bytearray) -> np.ndarray:
    """The values, scaled as the header says, layer by layer: nothing is held but the result and what is stored."""
    shape = header.get_data_shape()
    raw = np.ndarray(shape, header.get_data_dtype(), stored, int(header.get_data_offset()), order="F")
    raw = raw.reshape(*shape[:2], -1, order="F")
    slope, inter = header.get_slope_inter()
    data = np.empty(raw.shape, np.float32, order="F")
    with np.errstate(all="ignore"):  # what overflows float32 is reported by the caller
        for k in range(raw.shape[2]):
            layer = raw[..., k]
            data[..., k] = layer if slope is None else apply_read_scaling(layer, slope, inter)
    return data


def _check_header(header, path: Path, max_values: int, count: int) -> None:
    shape = header.get_data_shape()
    if len(shape) < 3 or [n for n in shape[3:] if n != 1] != [count] * (count > 1):
        needed = "a 3-D image is needed, so extract one volume first"
        if count > 1:
            needed = f"an image with {count} values along its 4th or 5th axis is needed"
        raise GliomaError(f"{path} has shape {shape}; {needed}.")
    if min(shape) < 1 or math.prod(shape) > max_values:
        raise GliomaError(f"{path} has shape {shape}; between 1 and {max_values} voxels are possible.")
    if header.get_data_dtype().kind not in "iufb":
        raise GliomaError(f"{path} holds {header.get_data_dtype()} values; convert it to real numbers.")
    offset = header.get_data_offset()
    if not header["sizeof_hdr"] + 4 <= offset <= 1 << 30:
        raise HeaderDataError(f"its data starts at byte {offset:g}")
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise GliomaError(
            f"{path} declares its lengths in {unit}; convert it to mm (affine, voxel sizes and xyzt_units)."
        )


def _affine(header, path: Path) -> np.ndarray:
    shape = header.get_data_shape()[:3]
    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    if sform is None and qform is None:
        raise GliomaError(
            f"{path} does not say which way is left (sform_code and qform_code are 0); set its orientation."
        )
    if sform is None or qform is None:
        return _placed(shape, qform if sform is None else sform, path)
    sform, qform = _placed(shape, sform, path), _placed(shape, qform, path)
    axes = [m[:3, :3] / np.linalg.norm(m[:3, :3], axis=0) for m in (sform, qform)]
    # Real scanner-to-template alignments stay well below 45°; more means one of them is mirrored.
    if np.sign(np.linalg.det(axes[0])) != np.sign(np.linalg.det(axes[1])) or np.any(
        np.sum(axes[0] * axes[1], axis=0) < math.sqrt(0.5)
    ):
        raise GliomaError(
            f"{path}: its sform and qform orient the axes differently, so left and right are in doubt; "
            "correct one or set its code to 0."
        )
    apart = _distance_mm(shape, sform, qform)
    if apart > 1e-2:
        warnings.warn(
            f"{path}: its sform and qform place voxels up to {apart:.3g} mm apart; the sform is used.",
            stacklevel=4,
        )
    return sform


def _placed(shape: tuple[int, ...], affine, path: Path) -> np.ndarray:
    """The affine, if a grid of cells can follow it."""
    matrix = np.asarray(affine, dtype=float)
    if matrix.shape != (4, 4):
        raise GliomaError(f"{path}: an affine is a 4x4 matrix, not one of shape {matrix.shape}.")
    try:
        Grid.from_affine(shape, matrix)
    except ValueError as error:
        raise GliomaError(f"{path}: {error}") from None
    return matrix


def _distance_mm(shape: tuple[int, ...], a: np.ndarray, b: np.ndarray) -> float:
    """How far two affines place the same voxel apart, at most [mm] (reached at a corner)."""
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    return float(np.linalg.norm((a - b)[:3, :3] @ corners + (a - b)[:3, 3:], axis=0).max())


def _same_space(path_a, data_a, affine_a, path_b, data_b, affine_b) -> None:
    if data_a.shape != data_b.shape:
        raise GliomaError(
            f"{path_a} has shape {data_a.shape} but {path_b} has {data_b.shape}; resample one to the other."
        )
    if np.abs(affine_a - affine_b).max() > 1e-3:
        apart = _distance_mm(data_a.shape, affine_a, affine_b)
        raise GliomaError(
            f"{path_a} and {path_b} lie in different places (voxels up to {apart:.3g} mm apart); "
            "resample one to the other."
        )


def _fractions(data: np.ndarray, scale: float, path) -> np.ndarray:
    largest = float(data.max()) / scale
    if largest > 1.01:
        guess = 100 if largest * scale <= 100 else 255
        raise GliomaError(
            f"{path} reaches {largest * scale:g}, but a tissue fraction is at most 1; "
            f"if it stores 0 to {guess}, give scale = {guess}."
        )
    return data / np.float32(scale)


def _binary(data: np.ndarray, path) -> np.ndarray:
    largest = data.max()
    if not np.all((data == 0) | (data == largest)):
        raise GliomaError(f"{path} is not a binary mask (one value besides 0); threshold it first.")
    return data > 0
