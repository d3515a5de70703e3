"""What a check finds of the anatomy without JAX is what the build finds with it."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from glioma_pde.build import make_tissue
from glioma_pde.cli import main
from glioma_pde.config import load, loads
from glioma_pde.config import sections as s
from glioma_pde.config.anatomy import Atlas, anatomy_of
from glioma_pde.config.images import read_header, read_values
from glioma_pde.config.size import _voxels
from glioma_pde.errors import ConfigError
from glioma_pde.io.nifti import read_image
from glioma_pde.tissue import Tissue

ROOT = Path(__file__).parents[1]
SHIPPED = next((ROOT / "configs").glob("brain*.toml"))
TURNED = np.array([[-1.6, -0.72, 0.0, 20.0], [-1.2, 0.96, 0.0, -12.0], [0.0, 0.0, 1.5, 3.0], [0, 0, 0, 1]])
"""Left-handed, rotated, with voxels of 2 x 1.2 x 1.5 mm."""


def agrees(section, tissue: Tissue, folder=".") -> None:
    """Whether all cells are judged as the tissue has them, except those at the very threshold."""
    anatomy = anatomy_of(section, Path(folder))
    assert anatomy.shape == tissue.grid.shape
    dim = tissue.grid.ndim
    np.testing.assert_allclose(anatomy.matrix[:, :-1], tissue.grid.matrix[:dim, :dim], atol=1e-4)
    np.testing.assert_allclose(anatomy.matrix[:, -1], tissue.grid.matrix[:dim, 3], atol=1e-4)
    found = anatomy.inside([0] * dim, anatomy.shape)
    assert 0 < found.sum() < found.size or getattr(section, "geometry", "") in ("box", "slab", "bundle")
    mask = np.asarray(tissue.mask)
    assert np.all(found >= mask)  # where rounding decides, the build does
    assert np.mean(found != mask) < 0.01
    part = [slice(n // 3, n // 3 + 4) for n in anatomy.shape]
    np.testing.assert_array_equal(anatomy.inside([p.start for p in part], [p.stop for p in part]), found[tuple(part)])


@pytest.mark.parametrize("shape", [[24, 20], [10, 12, 14]])
@pytest.mark.parametrize("geometry", ["box", "sphere", "slab", "head", "bundle"])
def test_phantoms(geometry, shape):
    section = s.PhantomTissue(kind="phantom", geometry=geometry, shape=shape, spacing_mm=1.5)
    agrees(section, Tissue.phantom(geometry, tuple(shape), 1.5))


def test_the_atlas_on_coarser_cells():
    arm = loads(SHIPPED.read_text(), sets=["tissue.spacing_mm=5.0"]).arms[0]
    whole = arm.tissue.model_copy(update={"window": None})
    tissue, background = make_tissue(arm, np.float32)
    assert _voxels(arm.tissue, Path()) == background[0].size
    anatomy = anatomy_of(whole, Path())
    assert anatomy.cut(arm.tissue.window.centre_mm, arm.tissue.window.half_width_mm) is None
    # the tissue is cut to the mask too
    start = np.asarray(tissue.window_start)
    stop = start + tissue.grid.shape
    assert np.all(anatomy.low <= start)
    assert np.all(stop <= anatomy.high)
    np.testing.assert_array_equal(anatomy.inside(start, stop), np.asarray(tissue.mask))


@pytest.fixture
def maps(tmp_path):
    """White and grey matter as bytes, and a mask, turned in space."""
    chance = np.random.default_rng(5)
    white = np.clip(chance.normal(0.4, 0.3, (9, 11, 8)), 0, 1)
    grey = (1 - white) * chance.random(white.shape)
    for name, values in {"white": white, "grey": grey}.items():
        nib.save(nib.Nifti1Image(np.round(255 * values).astype(np.uint8), TURNED), tmp_path / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image((white + grey > 0.7).astype(np.int16), TURNED), tmp_path / "mask.nii")
    return tmp_path


@pytest.mark.parametrize("spacing_mm", [None, 1.0, 2.3])
@pytest.mark.parametrize("mask", [None, "mask.nii"])
def test_images_on_their_own_and_on_other_cells(maps, mask, spacing_mm):
    section = s.NiftiTissue(
        kind="nifti", white="white.nii.gz", grey="grey.nii.gz", mask=mask, scale=255, spacing_mm=spacing_mm
    )
    arm = loads(SHIPPED.read_text()).arms[0].model_copy(update={"tissue": section, "folder": str(maps)})
    tissue, background = make_tissue(arm, np.float32)
    assert _voxels(section, maps) == background[0].size
    whole = Tissue.from_arrays(
        np.zeros(tissue.full_grid.shape), np.zeros(tissue.full_grid.shape), grid=tissue.full_grid,
        mask=np.pad(np.asarray(tissue.mask), [(a, n - a - m) for a, n, m in zip(
            tissue.window_start, tissue.full_grid.shape, tissue.grid.shape, strict=True)]),
    )  # fmt: skip
    agrees(section, whole, maps)


def stored(path: Path, kind, dtype, order: str, way: str) -> None:
    data = (100 * np.random.default_rng(1).random((3, 4, 5))).astype(dtype)
    image = kind(data, TURNED, header=kind.header_class(endianness=order))
    image.header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    image.header.set_sform(TURNED, code=0 if way == "qform" else 2)
    image.header.set_qform(TURNED, code=1 if way == "qform" else 0)
    image.header.set_slope_inter(*((0.5, 3.0) if way == "scaled" else (1.0, 0.0)))
    raw = image.to_bytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("way", ["sform", "qform", "scaled"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("dtype", "name"), [("u1", "a.nii.gz"), ("i2", "a.nii"), ("f4", "a.nii"), ("f8", "a.nii.gz")])
def test_images_are_read_as_by_nibabel(tmp_path, kind, dtype, name, order, way):
    path = tmp_path / name
    stored(path, kind, dtype, order, way)
    header = read_header(path)
    values, affine = read_image(path)
    np.testing.assert_allclose(header.matrix, affine, atol=1e-5)
    np.testing.assert_allclose(read_values(header), values, rtol=1e-6)


@pytest.mark.parametrize("length", [0, 3, 200, 347, 352, 400])
def test_images_cut_short_are_left_to_the_build(tmp_path, length):
    path = tmp_path / "a.nii"
    stored(path, nib.Nifti1Image, "f8", "<", "sform")
    path.write_bytes(path.read_bytes()[:length])
    header = read_header(path)
    assert header is None or read_values(header) is None
    section = s.NiftiTissue(kind="nifti", white="a.nii", grey="a.nii")
    assert Atlas(tmp_path).problems(section, [("x", (TURNED @ [1, 2, 2, 1])[:3].tolist())]) == []


# -- sentences ----------------------------------------------------------------------------------------


def problems_of(path: Path, *sets: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, sets)
    return caught.value.problems


SITES = "schedule.injections=[{{days=[0.0], cells=1e5, sites_mm={}, sigma_mm=3.0}}]"


@pytest.mark.parametrize("command", ["check", "run"])
def test_an_injection_outside_the_brain_is_refused_before_anything_starts(command, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")] if command == "run" else []
    assert main([command, str(SHIPPED), *out, "--set", SITES.format("[[500.0, 10.0, 30.0]]")]) == 2
    assert "sites_mm[0]: [500.0, 10.0, 30.0] mm lies outside the computed window" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_points_of_the_atlas_are_told_apart():
    wrong = SITES.format("[[22.0, 10.0, 30.0], [95.0, 10.0, 30.0], [30.0, 10.0, 88.0], [-10.0, -5.0, 24.0]]")
    found = [p.split("sites_mm")[1] for p in problems_of(SHIPPED, wrong)]
    assert found[0] == "[1]: [95.0, 10.0, 30.0] mm lies outside the computed window"
    assert found[1].startswith("[2]: [30.0, 10.0, 88.0] mm is not in brain tissue; the nearest tissue is at [")
    assert found[2].startswith("[3]: [-10.0, -5.0, 24.0] mm is not in brain tissue")  # the lateral ventricle
    assert len(found) == 3
    advice = found[1].split("is at ")[1].removesuffix(" mm")
    load(SHIPPED, [SITES.format(f"[{advice}]")])
    assert problems_of(SHIPPED, "tissue.window.centre_mm=[300.0, 1.0, 1.0]") == [
        "tissue.window: it lies outside the image, which has 197 × 233 × 189 cells"
    ]


def test_points_of_phantoms_and_missing_images_are_named(tmp_path):
    path = tmp_path / "a.toml"
    start = "tumour.initial={kind='gaussian', centre_mm=[%s], sigma_mm=1.5, peak=0.5}"
    path.write_text("[tissue]\nkind='phantom'\nshape=[24, 20]\n[time]\nend_day=4.0\n")
    assert "is not in brain tissue; the nearest tissue is at" in problems_of(path, start % "11.4, 9.4")[0]
    (problem,) = problems_of(path, start % "40.0, 0.0")
    assert "is outside the phantom" in problem
    load(path, [start % "5.0, 3.0"])
    path.write_text("[tissue]\nkind='nifti'\nwhite='w.nii'\ngrey='g.nii'\n[time]\nend_day=4.0\n")
    found = problems_of(path, "tumour.initial={kind='nifti', path='u.nii'}")
    assert [p.split(": there is no image file ")[0] for p in found] == [
        "tumour.initial.path",
        "tissue.white",
        "tissue.grey",
    ]
    assert problems_of(path, f"tumour.initial={{kind='nifti', path='{'u' * 300}.nii'}}")


READS = """
[tissue]
kind = "nifti"
white = "white.nii.gz"
grey = "grey.nii.gz"
scale = 255
[tumour]
initial = { kind = "nifti", path = "start.nii.gz" }
[radiotherapy]
fractions = [
  { days = [1.0], dose_gy = 2.0 },
  { days = [2.0], dose_gy = 2.0, dose_map = { path = "plan.nii.gz", prescription = 60.0 } },
]
[anisotropy]
tensors = "tensors.nii.gz"
order = "fsl"
axes = "world"
[time]
end_day = 4.0
"""


@pytest.mark.parametrize(
    ("shape", "shift", "why"),
    [
        ((9, 11, 8), 0.0, None),
        ((9, 11, 8), 0.5, "another affine"),
        ((9, 8, 11), 0.0, "shape (9, 8, 11) against (9, 11, 8)"),
    ],
)
def test_images_in_another_space_are_told_before_anything_is_built(maps, shape, shift, why):
    """All at once; tensors are brought to the grid, so that theirs may be any."""
    moved = TURNED + shift * np.eye(4)[:, [3, 0, 1, 2]]
    for name in ("start", "plan"):
        nib.save(nib.Nifti1Image(np.full(shape, 0.5, np.float32), moved), maps / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3, 6), np.float32), np.eye(4)), maps / "tensors.nii.gz")
    (path := maps / "a.toml").write_text(READS)
    if why is None:
        load(path)
        return
    assert problems_of(path) == [
        f"tumour.initial.path: start.nii.gz is not in the space of the tissue ({why}); resample it first",
        f"radiotherapy.fractions[1].dose_map.path: plan.nii.gz is not in the space of the tissue ({why}); resample it first",
    ]
