"""One side of the patient, from the images of another program through config, run, file and figure to an exported image.

Everything asymmetric lies on the patient's right: the lesion, the larger hemisphere, the injection. Each link of the
chain is read in world coordinates by its own means (nibabel, h5py, the pixels of the figure).
"""

from __future__ import annotations

import h5py
import nibabel as nib
import numpy as np
import pytest

from glioma_pde import cli, plot

SHAPE_MM = np.array([56.0, 64.0, 48.0])
LESION_MM = np.array([12.0, -6.0, 4.0])
SITE_MM = np.array([12.0, 6.0, 4.0])
SPACING = 4.0

# From axes of the image to those of the world, and their directions.
STORED = {
    "RAS": ((0, 1, 2), (1, 1, 1)),
    "LAS": ((0, 1, 2), (-1, 1, 1)),
    "LPS": ((0, 1, 2), (-1, -1, 1)),
    "sagittal": ((1, 2, 0), (-1, 1, 1)),
}

CONFIG = f"""
title = "Which side"
[tissue]
kind = "nifti"
white = "white.nii.gz"
grey = "grey.nii.gz"
background = "t1.nii.gz"
window = {{ centre_mm = [4.0, 0.0, 2.0], half_width_mm = 22.0 }}
[tumour]
initial = {{ kind = "nifti", path = "lesion.nii.gz" }}
[carriers]
[attractant]
[[schedule.injections]]
days = [0.0]
cells = 1e6
sites_mm = [{SITE_MM.tolist()}]
sigma_mm = 3.0
[time]
end_day = 2.0
step_days = 1.0
frame_every_days = 1.0
[numerics]
precision = "float32"
[output]
animation = false
"""


def stored_as(order, flips):
    """Shape and affine of an image around the world's origin whose axis k runs along the world's axis order[k]."""
    shape = tuple(int(SHAPE_MM[w] / SPACING) for w in order)
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for k, (w, sign) in enumerate(zip(order, flips, strict=True)):
        affine[w, k] = sign * SPACING
    affine[:3, 3] = -affine[:3, :3] @ (0.5 * (np.array(shape) - 1))
    return shape, affine


def patient(folder, order, flips):
    """A head whose right half is larger, with a lesion on the right."""
    shape, affine = stored_as(order, flips)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    x = index @ affine[:3, :3].T + affine[:3, 3]
    wide = np.where(x[..., 0] > 0, 26.0, 18.0)
    inside = (x[..., 0] / wide) ** 2 + (x[..., 1] / 29.0) ** 2 + (x[..., 2] / 21.0) ** 2 < 1
    lesion = 0.8 * np.exp(-((x - LESION_MM) ** 2).sum(-1) / (2 * 4.0**2)) * inside
    maps = {"white": 0.6 * inside, "grey": 0.4 * inside, "t1": 100.0 * inside + 50.0 * lesion, "lesion": lesion}
    for name, values in maps.items():
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), folder / f"{name}.nii.gz")
    (folder / "side.toml").write_text(CONFIG, encoding="utf-8")
    return shape, affine


def centre(values, matrix):
    """Centre of mass in the world [mm] of an array ``(i, j, k)``."""
    weights = np.asarray(values, float)
    index = np.stack(np.meshgrid(*map(np.arange, weights.shape), indexing="ij"), axis=-1)
    middle = (weights[..., None] * index).reshape(-1, 3).sum(0) / weights.sum()
    return matrix[:3, :3] @ middle + matrix[:3, 3]


@pytest.mark.parametrize("kind", STORED)
def test_the_right_side_stays_the_right_side(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("glioma_pde.plot._style.DPI", 80)
    shape, affine = patient(tmp_path, *STORED[kind])
    assert cli.main(["run", "side.toml", "--out", "out", "--no-figures"]) == 0
    path = next((tmp_path / "out").glob("*.h5"))

    with h5py.File(path) as file:  # datasets are (time, z, y, x) of the stored axes
        matrix = np.asarray(file.attrs["affine"])
        fields = {name: np.asarray(file[name][()]).transpose(0, 3, 2, 1) for name in ("tumour", "carriers")}
        white = np.asarray(file["tissue/white"][()]).transpose(2, 1, 0)
    assert centre(fields["tumour"][0], matrix) == pytest.approx(LESION_MM, abs=0.5)
    assert centre(fields["carriers"][1], matrix) == pytest.approx(SITE_MM, abs=1.0)
    assert centre(white, matrix)[0] > 2.0

    figure = plot.slices(path, days=[0.0])
    panels = [axes for axes in figure.axes if any(i.get_array().ndim == 3 for i in axes.get_images())]
    axial = panels[0]
    letters = {t.get_text(): t.get_position()[0] for t in axial.texts}
    assert letters["L"] < 0.5 < letters["R"]
    (image,) = [i for i in axial.get_images() if i.get_array().ndim == 3]
    alpha = np.asarray(image.get_array())[..., 3]
    left, right = image.get_extent()[:2]
    x = left + (np.arange(alpha.shape[1]) + 0.5) * (right - left) / alpha.shape[1]
    assert alpha.sum(axis=0) @ x / alpha.sum() == pytest.approx(LESION_MM[0], abs=1.0)

    out = tmp_path / "back.nii.gz"
    assert cli.main(["export", str(path), "--nifti", str(out), "--field", "tumour", "--day", "0"]) == 0
    back = nib.load(out)
    assert back.shape == shape
    np.testing.assert_allclose(back.affine, affine, atol=1e-5)
    assert centre(back.get_fdata(), back.affine) == pytest.approx(LESION_MM, abs=0.5)
    original = np.asarray(nib.load(tmp_path / "lesion.nii.gz").get_fdata())
    seen = back.get_fdata() > 0
    np.testing.assert_allclose(back.get_fdata()[seen], original[seen], atol=1e-6)


def test_however_it_is_stored_the_outcome_is_the_same(tmp_path):
    burdens = []
    for kind in ("RAS", "sagittal"):
        folder = tmp_path / kind
        folder.mkdir()
        patient(folder, *STORED[kind])
        assert cli.main(["run", str(folder / "side.toml"), "--out", str(folder), "--no-figures"]) == 0
        with h5py.File(next(folder.glob("*.h5"))) as file:
            burdens.append([file[f"observables/{n}"][-1] for n in ("burden_cells", "carriers_cells", "flair_volume")])
    np.testing.assert_allclose(burdens[0], burdens[1], rtol=1e-5)
