"""What other programs get from a run file stands where it stood."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest

from glioma_pde.errors import GliomaError
from glioma_pde.grid import Grid
from glioma_pde.io.export import export_nifti, write_xdmf
from glioma_pde.io.hdf5 import Quantity, RunWriter
from glioma_pde.io.nifti import read_image

FIELDS = [Quantity("tumour", "1", "tumour cell density"), Quantity("drug", "µM", "drug")]
MARK = (1, 3, 2)  # cell of the marker in the window
START = (2, 0, 1)
FULL_SHAPE = (10, 6, 7)
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])


def affine_of(kind: str) -> np.ndarray:
    affine = np.diag([2.0, 2.0, 1.5, 1.0])
    affine[:3, 3] = -7, -20, 5
    if kind == "flipped":
        affine[0] *= -1
        affine[2] *= -1
    elif kind == "swapped":
        affine = affine[[1, 0, 2, 3]]
    elif kind == "rotated":
        affine[:3, :3] = TURN @ affine[:3, :3]
    return affine


def written(path: Path, grid: Grid, **attributes) -> tuple[Path, np.ndarray]:
    """A run whose marker at ``MARK`` holds 1 + day; returns the marker's place in the world too."""
    marked, mark = np.zeros(grid.shape), MARK[: grid.ndim]
    tissue = {"white": np.zeros(grid.shape), "mask": np.zeros(grid.shape, bool)}
    tissue["white"][mark], tissue["mask"][mark] = 0.5, True
    with RunWriter.create(path, grid=grid, fields=FIELDS, tissue=tissue, attributes=attributes) as writer:
        for day in (0.0, 1.5, 4.0):
            marked[mark] = 1 + day
            writer.append_frame(day, {"tumour": marked, "drug": -marked})
        writer.finish("finished")
    return path, grid.world_mm()[(slice(None), *mark)]


def windowed(path: Path, kind: str) -> tuple[Path, np.ndarray, np.ndarray]:
    affine = affine_of(kind)
    full = Grid.from_affine(FULL_SHAPE, affine)
    window = full.crop(START, tuple(a + n for a, n in zip(START, (5, 6, 4), strict=True)))
    return *written(path, window, full_shape=FULL_SHAPE, full_affine=affine, window_start=START), affine


@pytest.mark.parametrize("kind", ["straight", "flipped", "swapped", "rotated"])
@pytest.mark.parametrize("full", [True, False])
def test_nifti_keeps_the_place(tmp_path, kind, full):
    path, place, affine = windowed(tmp_path / "run.h5", kind)
    out = tmp_path / "tumour.nii.gz"
    export_nifti(path, "tumour", 1.4, out, full=full)
    data, stored = read_image(out)
    assert data.shape == (FULL_SHAPE if full else (5, 6, 4))
    index = np.argwhere(data)
    assert len(index) == 1
    assert data[tuple(index[0])] == 2.5  # the frame of day 1.5 is the nearest
    np.testing.assert_allclose(stored[:3] @ [*index[0], 1], place, atol=1e-4)
    if full:
        np.testing.assert_allclose(stored, affine, atol=1e-5)
        assert tuple(index[0]) == tuple(np.add(START, MARK))


def test_nifti_of_a_layer(tmp_path):
    path, place = written(tmp_path / "run.h5", Grid.cartesian((6, 5), 0.5, thickness_mm=3.0))
    export_nifti(path, "drug", 0.0, tmp_path / "drug.nii")
    data, affine = read_image(tmp_path / "drug.nii")
    assert data.shape == (6, 5, 1)
    np.testing.assert_allclose((affine @ [*np.argwhere(data)[0], 1])[:2], place)
    assert np.linalg.norm(affine[:3, 2]) == pytest.approx(3.0)


def test_nifti_refuses_what_it_cannot_place(tmp_path):
    path, _ = written(tmp_path / "run.h5", Grid.radial(9, 1.0))
    with pytest.raises(GliomaError, match="one-dimensional"):
        export_nifti(path, "tumour", 0.0, tmp_path / "a.nii")
    path, _, affine = windowed(tmp_path / "run.h5", "flipped")
    for field, day in (("carriers", 0.0), ("tumour", 9.0)):
        with pytest.raises(GliomaError, match=r"run\.h5"):
            export_nifti(path, field, day, tmp_path / "a.nii")
    mirrored = affine @ np.diag([-1.0, 1, 1, 1])
    for name, value in (("window_start", (3, 0, 1)), ("full_shape", (6, 6, 7)), ("full_affine", mirrored)):
        windowed(path, "flipped")
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value
            del file.attrs["content_sha256"]
        with pytest.raises(GliomaError, match="does not lie in its full image"):
            export_nifti(path, "tumour", 0.0, tmp_path / "a.nii")
    assert not (tmp_path / "a.nii").exists()


@pytest.mark.parametrize("shape", [(2**40, 9, 9), (2000, 2000, 2000), (513, 512, 512), (2**62, 2**62, 2**62)])
def test_a_full_image_larger_than_any_is_not_allocated(tmp_path, shape):
    path, _, _ = windowed(tmp_path / "run.h5", "flipped")
    with h5py.File(path, "r+") as file:
        file.attrs["full_shape"] = np.array(shape)
        del file.attrs["content_sha256"]
    tracemalloc.start()
    with pytest.raises(GliomaError, match="too large; export with full=False"):
        export_nifti(path, "tumour", 0.0, tmp_path / "a.nii")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize("value", [np.inf, np.nan, -3, "x", [6, 6, np.inf], [[6, 6, 6]]])
def test_a_full_shape_that_is_none_is_refused(tmp_path, value):
    path, _, _ = windowed(tmp_path / "run.h5", "flipped")
    with h5py.File(path, "r+") as file:
        file.attrs["full_shape"] = value
        del file.attrs["content_sha256"]
    with pytest.raises(GliomaError, match="does not lie in its full image"):
        export_nifti(path, "tumour", 0.0, tmp_path / "a.nii")


def read_item(item: ElementTree.Element, folder: Path) -> np.ndarray:
    """A DataItem as an XDMF reader sees it, in the shape that it states."""
    shape = tuple(map(int, item.get("Dimensions").split()))
    if item.get("ItemType") == "HyperSlab":
        (start, stride, count), data = (read_item(child, folder) for child in item)
        picked = tuple(slice(int(a), int(a + s * n), int(s)) for a, s, n in zip(start, stride, count, strict=True))
        return data[picked].reshape(shape)
    if item.get("Format") == "HDF":
        name, _, place = item.text.partition(":")
        with h5py.File(folder / name) as file:
            data = file[place]
            assert data.shape == shape
            number = {"Float": "f", "UChar": "u"}[item.get("NumberType")] + item.get("Precision")
            assert data.dtype == np.dtype(number)
            return data[()]
    return np.array(item.text.split(), float).reshape(shape)


@pytest.mark.parametrize("kind", ["straight", "flipped", "layer", "rotated"])
def test_xdmf_shows_every_frame_in_its_place(tmp_path, kind):
    if kind == "layer":
        path, place = written(tmp_path / "run.h5", Grid.cartesian((6, 5), 0.5))
        place = np.array([*place, 0.0])
    else:
        path, place, _ = windowed(tmp_path / "a run.h5", kind)
        if kind == "rotated":  # ParaView sees coordinates along the rotated axes
            place = TURN.T @ place
    out = write_xdmf(path)
    assert out == path.with_suffix(".xdmf")
    series = ElementTree.parse(out).find("Domain/Grid")
    assert (series.get("GridType"), series.get("CollectionType")) == ("Collection", "Temporal")
    assert [float(frame.find("Time").get("Value")) for frame in series] == [0.0, 1.5, 4.0]
    for frame, day in zip(series, (0.0, 1.5, 4.0), strict=True):
        shape = tuple(map(int, frame.find("Topology").get("Dimensions").split()))
        origin, step = (read_item(item, tmp_path) for item in frame.find("Geometry"))
        values = {"tumour": 1 + day, "drug": -1 - day, "white": 0.5, "mask": 1}
        found = {item.get("Name"): read_item(item[0], tmp_path) for item in frame.iter("Attribute")}
        assert found.keys() == values.keys()
        for name, data in found.items():
            data = data.reshape(shape)  # layers, rows, columns: z, y, x
            index = np.argwhere(data)
            assert len(index) == 1
            assert data[tuple(index[0])] == values[name]
            np.testing.assert_allclose((origin + step * index[0])[::-1], place, atol=1e-9)


def test_xdmf_refuses_what_it_cannot_show(tmp_path):
    path, _ = written(tmp_path / "run.h5", Grid.radial(9, 1.0))
    with pytest.raises(GliomaError, match="one-dimensional"):
        write_xdmf(path)
    RunWriter.create(path, grid=Grid.cartesian((4, 4), 1.0), fields=FIELDS).close()
    with pytest.raises(GliomaError, match="no frame"):
        write_xdmf(path)
    assert not path.with_suffix(".xdmf").exists()
