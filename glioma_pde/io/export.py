"""Run files for other programs: an XDMF sidecar for ParaView, and NIfTI images for medical viewers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as Tree

import numpy as np

from glioma_pde.errors import GliomaError
from glioma_pde.io._files import file_errors
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.io.nifti import MAX_VOXELS, write_image

_PLACE_TOLERANCE_MM = 1e-3
_NUMBERS = {"float32": ("Float", "4"), "float64": ("Float", "8"), "uint8": ("UChar", "1")}


def write_xdmf(h5_path: str | os.PathLike) -> Path:
    """Write ``<name>.xdmf`` beside a run file, for ParaView's XDMF reader; returns its path.

    Each committed frame becomes a uniform grid whose *nodes* are the cell centres, so contours and
    interpolation need no conversion; the tissue maps stand in every frame. Dimensions, origin and spacing
    are listed slowest axis first (z, y, x), as XDMF wants. An axis that is flipped in the world (radiological
    storage) has a negative spacing from the place of its first cell, so that left and right stay true.

    XDMF's uniform grids cannot be rotated: for a rotated affine ParaView shows the cells in the coordinates
    of ``Grid.axis_mm``, measured along the rotated axes, and not in world coordinates.

    A 2-D run becomes one layer at z = 0. The sidecar only points into the HDF5 file: keep them together.

    Raises:
        GliomaError: if the run has one dimension or no frame, or the sidecar cannot be written.
    """
    h5_path = Path(h5_path)
    out_path = h5_path.with_suffix(".xdmf")
    with RunFile(h5_path) as run:
        grid, days = run.grid, run.days
        if grid.ndim == 1:
            raise GliomaError(f"{h5_path} is one-dimensional, which ParaView cannot show; plot it instead.")
        if not len(days):
            raise GliomaError(f"{h5_path} holds no frame yet, so there is nothing to show.")
        maps = {name: run.tissue(name).dtype.name for name in run.tissue_names}
        fields = tuple(run.fields)
    axes = [grid.axis_mm(k) for k in range(grid.ndim)]
    flat = 3 - grid.ndim
    origin = [a[0] for a in axes] + [0.0] * flat
    # A single layer has no second centre to tell its direction by, and needs none.
    steps = [a[1] - a[0] if len(a) > 1 else h for a, h in zip(axes, grid.spacing_mm, strict=True)]
    steps += [grid.thickness_mm] * flat
    on_file = grid.shape[::-1]
    layers = (1,) * flat + on_file

    root = Tree.Element("Xdmf", Version="3.0")
    domain = Tree.SubElement(root, "Domain")
    series = Tree.SubElement(domain, "Grid", Name="run", GridType="Collection", CollectionType="Temporal")
    for index, day in enumerate(days):
        frame = Tree.SubElement(series, "Grid", Name=f"day {day:g}", GridType="Uniform")
        Tree.SubElement(frame, "Time", Value=repr(float(day)))
        Tree.SubElement(frame, "Topology", TopologyType="3DCoRectMesh", Dimensions=_text(layers))
        geometry = Tree.SubElement(frame, "Geometry", GeometryType="ORIGIN_DXDYDZ")
        _data(geometry, (3,), text=_text(origin[::-1]), Format="XML", NumberType="Float", Precision="8")
        _data(geometry, (3,), text=_text(steps[::-1]), Format="XML", NumberType="Float", Precision="8")
        for name in fields:
            slab = _data(_attribute(frame, name), layers, ItemType="HyperSlab")
            start, count = (index, *(0 for _ in on_file)), (1, *on_file)
            corners = " ".join(map(_text, (start, (1,) * len(start), count)))
            _data(slab, (3, len(start)), text=corners, Format="XML", NumberType="Int")
            _stored(slab, (len(days), *on_file), h5_path, name, "float32")
        for name, dtype in maps.items():
            _stored(_attribute(frame, name), on_file, h5_path, f"tissue/{name}", dtype)
    Tree.indent(root)
    part = out_path.with_name(out_path.name + ".partial")
    with file_errors(out_path):
        Tree.ElementTree(root).write(part, encoding="utf-8", xml_declaration=True)
        os.replace(part, out_path)
    return out_path


def export_nifti(
    h5_path: str | os.PathLike, field: str, day: float, out_path: str | os.PathLike, full: bool = True
) -> None:
    """Write the frame of ``field`` nearest to ``day`` [day] as a NIfTI image, float32, in the field's unit.

    Args:
        full: put the computed window back into the whole image it was cut from (zero outside the window),
            so that it overlays the patient's images voxel by voxel; else write the window alone.

    A 2-D run becomes an image of one layer.

    Raises:
        GliomaError: if the field or day does not exist, the run has one dimension, the window does not fit
            its image, or the image cannot be written.
    """
    with RunFile(h5_path) as run:
        if run.grid.ndim == 1:
            raise GliomaError(f"{h5_path} is one-dimensional and has no place in an image.")
        data, affine = run.field(field, day=day), run.grid.matrix
        if full:
            data, affine = _in_full_image(run, data)
        if data.ndim == 2:
            data = data[:, :, None]
            affine[:3, 2] *= run.grid.thickness_mm
    write_image(out_path, data, affine)


def _in_full_image(run: RunFile, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The window's data in the whole image, and that image's affine."""
    misfit = GliomaError(f"{run.path}: the window does not lie in its full image; export with full=False.")
    try:
        shape = tuple(int(n) for n in run.attrs["full_shape"])
        start = [int(n) for n in run.attrs["window_start"]]
        affine = np.array(run.attrs["full_affine"], float)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise misfit from error
    if affine.shape != (4, 4) or not len(shape) == len(start) == window.ndim:
        raise misfit
    box = tuple(slice(a, a + n) for a, n in zip(start, window.shape, strict=True))
    inside = all(a >= 0 and s.stop <= n for a, s, n in zip(start, box, shape, strict=True))
    moved = affine.copy()
    moved[:3, 3] += affine[:3, : len(start)] @ start
    if not inside or not np.allclose(moved, run.grid.matrix, rtol=0, atol=_PLACE_TOLERANCE_MM):
        raise misfit
    if math.prod(shape) > MAX_VOXELS:
        raise GliomaError(f"{run.path}: its full image of shape {shape} is too large; export with full=False.")
    whole = np.zeros(shape, np.float32)
    whole[box] = window
    return whole, affine


def _attribute(frame: Tree.Element, name: str) -> Tree.Element:
    return Tree.SubElement(frame, "Attribute", Name=name, AttributeType="Scalar", Center="Node")


def _data(parent: Tree.Element, shape: Sequence[int], text: str = "", **attributes: str) -> Tree.Element:
    item = Tree.SubElement(parent, "DataItem", {"Dimensions": _text(shape), **attributes})
    item.text = text
    return item


def _stored(parent: Tree.Element, shape: Sequence[int], h5_path: Path, name: str, dtype: str) -> None:
    number, precision = _NUMBERS[dtype]
    place = f"{h5_path.name}:/{name}"
    _data(parent, shape, text=place, Format="HDF", NumberType=number, Precision=precision)


def _text(numbers: Sequence[float]) -> str:
    return " ".join(str(n) if isinstance(n, int) else repr(float(n)) for n in numbers)
