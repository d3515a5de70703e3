"""The packaged MNI152 brain: volumes, ventricles and places known from elsewhere."""

import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from glioma_pde import _atlas
from glioma_pde.errors import GliomaError
from glioma_pde.io.atlas import mni152

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def brain():
    start = time.perf_counter()
    tissue = mni152(dtype=np.float32)
    return tissue, time.perf_counter() - start


@pytest.fixture(scope="module")
def maps(brain):
    tissue = brain[0]
    return {k: np.asarray(getattr(tissue, k)) for k in ("white", "grey", "csf", "mask", "ventricle")}


def world_of(grid, flags):
    """World coordinates of the flagged cells, shape (3, n)."""
    return grid.matrix[:3, :3] @ np.argwhere(np.asarray(flags)).T + grid.matrix[:3, 3:]


def test_loading_is_quick(brain):
    assert brain[1] < 3.0  # about 1 s; the rest is for busy machines


def test_nilearn_is_not_imported():
    code = "import sys; from glioma_pde.io.atlas import mni152; mni152(4.0); assert 'nilearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_the_grid_is_that_of_the_atlas(brain):
    grid = brain[0].grid
    assert grid.shape == (197, 233, 189)
    assert grid.spacing_mm == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(grid.matrix[:3, 3], (-98, -134, -72))
    np.testing.assert_array_equal(grid.index_of((0, 0, 0)), (98, 134, 72))


def test_volumes_of_the_brain_and_its_tissues(maps):
    white, grey, csf = maps["white"], maps["grey"], maps["csf"]
    inside = white + grey + csf > 0.5
    assert inside.sum() / 1e3 == pytest.approx(1883, abs=1)
    assert ((white > grey) & (white > 0.5)).sum() / 1e3 == pytest.approx(632, abs=1)
    assert ((grey >= white) & (grey > 0.5)).sum() / 1e3 == pytest.approx(1080, abs=1)
    assert (inside & (white + grey < 0.5)).sum() / 1e3 == pytest.approx(153, abs=1)
    np.testing.assert_array_equal(maps["mask"], white + grey >= 0.5)


def test_fractions_fill_the_brain_and_nothing_else(maps):
    total = maps["white"] + maps["grey"] + maps["csf"]
    np.testing.assert_allclose(total[total > 0], 1.0, atol=1e-6)
    for name in ("white", "grey", "csf"):
        assert maps[name].min() == 0, name
        assert maps[name].max() == pytest.approx(1, abs=0.01), name


def test_the_lateral_ventricles(brain, maps):
    grid, ventricle = brain[0].grid, maps["ventricle"]
    assert ventricle.sum() / 1e3 == pytest.approx(17.8, abs=0.1)
    x, y, z = world_of(grid, ventricle)
    left, right = (x < 0).sum(), (x > 0).sum()
    assert abs(left - right) < 0.15 * min(left, right)
    assert (x.min(), x.max()) == (-35, 35)
    assert (y.min(), y.max()) == (-58, 30)
    assert (z.min(), z.max()) == (-4, 28)


def test_the_ventricle_wall_lines_the_ventricles(brain, maps):
    wall = np.asarray(brain[0].ventricle_wall)
    assert not (wall & ~maps["mask"]).any()
    padded = np.pad(maps["ventricle"], 1)
    touching = sum(np.roll(padded, s, k)[1:-1, 1:-1, 1:-1].astype(int) for k in range(3) for s in (1, -1))
    np.testing.assert_array_equal(wall, maps["mask"] & (touching > 0))
    # The ventricles are closed: what touches them is their wall, but for two voxels too dark to be brain.
    assert (~wall & ~maps["ventricle"] & (touching > 0)).sum() == 2


def test_known_places_hold_the_tissue_they_should(brain, maps):
    def at(name, point):
        return maps[name][tuple(np.rint(brain[0].grid.index_of(point)).astype(int))]

    # Frontal white matter, the head of the caudate, the lateral ventricles, on both sides.
    assert at("white", (26, 20, 20)) > 0.9
    assert at("white", (-26, 20, 20)) > 0.9
    assert at("grey", (14, 10, 10)) > 0.5
    assert at("grey", (-14, 10, 10)) > 0.5
    assert at("csf", (-10, -5, 24)) > 0.5
    assert at("csf", (10, -5, 24)) > 0.5
    # The frontal pole lies in front, the cerebellum below and behind.
    assert at("mask", (20, 60, 0))
    assert not at("mask", (20, 80, 0))
    assert at("mask", (20, -65, -35))
    assert not at("mask", (20, 65, -35))


def test_the_background_is_the_t1_image(brain, maps):
    t1 = np.asarray(brain[0].background)
    assert t1.max() == 255
    assert t1[maps["white"] > 0.95].mean() > t1[maps["grey"] > 0.95].mean() > t1[maps["csf"] > 0.95].mean()


@pytest.mark.parametrize("spacing", [2.0, (3.0, 3.0, 4.0)])
def test_coarser_brains_keep_volumes_and_places(brain, maps, spacing):
    coarse = mni152(spacing)
    cell = coarse.grid.cell_volume_mm3
    for name in ("white", "grey", "csf"):
        volume = float(np.asarray(getattr(coarse, name), float).sum()) * cell
        assert volume == pytest.approx(maps[name].sum(dtype=float), rel=1e-5), name
    assert 15 < np.asarray(coarse.ventricle).sum() * cell / 1e3 < 20
    x = world_of(coarse.grid, coarse.ventricle)[0]
    assert abs((x < 0).sum() - (x > 0).sum()) < 0.15 * (x < 0).sum()
    middle = world_of(coarse.grid, coarse.mask).mean(axis=1)
    np.testing.assert_allclose(middle, world_of(brain[0].grid, maps["mask"]).mean(axis=1), atol=0.5)


def test_a_window_of_the_brain_knows_where_it_came_from(brain):
    window = brain[0].window((30.0, 10.0, 30.0), 20.0)
    assert window.grid.shape == (41, 41, 41)
    assert window.window_start == (108, 124, 82)
    assert window.full_grid == brain[0].grid
    np.testing.assert_array_equal(window.grid.index_of((30, 10, 30)), (20, 20, 20))


def test_double_precision():
    with jax.enable_x64(True):
        tissue = mni152(4.0, dtype=np.float64)
        assert tissue.white.dtype == np.float64
        assert float((tissue.white + tissue.grey).max()) <= 1 + 1e-6


def test_advice_when_nilearn_or_its_maps_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(_atlas, "find_spec", lambda name: None)
    with pytest.raises(GliomaError, match=r'pip install "glioma_pde\[atlas\]"'):
        mni152()
    monkeypatch.setattr(_atlas, "data_folder", lambda: tmp_path)
    with pytest.raises(GliomaError, match=r"mni_icbm152_wm.*upgrade"):
        mni152()


def test_impossible_spacings_are_refused():
    with pytest.raises(GliomaError, match="spacing"):
        mni152(-1.0)
    with pytest.raises(GliomaError, match="cells"):
        mni152(0.01)
