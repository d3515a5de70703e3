"""Fits to images from the command line: three days, radiotherapy and an operation between them, ADC maps, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build
from glioma_pde.calibrate.scans import Scan, cellularity_on, check_scans
from glioma_pde.cli import main
from glioma_pde.config.image_loading import load_images
from glioma_pde.errors import ConfigError, GliomaError
from glioma_pde.image_command import _read, _scans
from glioma_pde.io.fit_file import FitFile
from glioma_pde.io.nifti import write_image
from glioma_pde.model import Model
from glioma_pde.solve import simulate
from glioma_pde.tissue import Tissue

CONFIG = """
title = "Three scans"
[tissue]
kind = "phantom"
geometry = "box"
shape = [14, 14, 14]
spacing_mm = 4.0
[tumour]
diffusivity_white_mm2_per_day = 0.3
diffusivity_grey_mm2_per_day = 0.3
proliferation_per_day = 0.04
[radiotherapy]
alpha_per_gy = 0.06
fractions = [{ days = [12.0, 13.0, 14.0, 15.0, 16.0], dose_gy = 3.0 }]
[surgery]
resections = [{ day = 11.0, centre_mm = [2.0, 0.0, 0.0], radius_mm = 14.0, at_threshold = 0.8, removed_fraction = 0.9 }]
[images]
ahead_days = [20.0]
scans = [
  { day = 10.0, t1gd = "t1gd_10.nii", flair = "flair_10.nii", adc = "adc_10.nii" },
  { day = 40.0, t1gd = "t1gd_40.nii", flair = "flair_40.nii" },
  { day = 60.0, t1gd = "t1gd_60.nii", flair = "flair_60.nii" },
]
adc = { unit_mm2_per_s = 1e-6, lowest_mm2_per_s = 0.6e-3, sd = 0.05 }
"""
TRUE = (0.16, 0.16, 0.06)
"""D_w, D_g and ρ."""
AGE, DAYS = 90.0, (10.0, 40.0, 60.0, 80.0)


def patient(tmp_path, config: str):
    """The configuration and its images, of a tumour on cells of half the size and other steps; and its true volumes."""
    (tmp_path / "images.toml").write_text(config)
    study = load_images_of(tmp_path, "tissue.shape=[28, 28, 28]", "tissue.spacing_mm=2.0")
    treated = build(study.arm, initial={})
    tissue = treated.model.tissue
    grown = Tumour(*TRUE)
    seed = 0.8 * np.exp(-sum((tissue.grid.world_mm()[k] - c) ** 2 for k, c in enumerate((2.0, 0.0, 0.0))) / 18.0)
    first = simulate(Model(tissue, [grown], ledger=False), {"tumour": seed}, [0.0, AGE], dt=0.7)["tumour"][-1]
    others = [m for m in treated.model.modules if m.name != "tumour"]
    model = Model(tissue, [grown, *others], ledger=False)
    u = np.asarray(simulate(model, {"tumour": first}, DAYS, treated.schedule, dt=0.7)["tumour"])
    rng = np.random.default_rng(6)
    for day, density in zip(DAYS[:3], u, strict=False):
        for name, threshold in (("t1gd", 0.80), ("flair", 0.16)):
            write_image(tmp_path / f"{name}_{day:g}.nii", density > threshold, tissue.grid.matrix)
    adc = 2500.0 - 1900.0 * (u[0] + 0.05 * rng.standard_normal(u[0].shape))
    write_image(tmp_path / "adc_10.nii", adc, tissue.grid.matrix)
    return 8.0 * np.stack([(u > t).sum(axis=(1, 2, 3)) for t in (0.80, 0.16)], axis=1)


def load_images_of(folder, *sets):
    """Of images that need not be there yet."""
    for name in ("t1gd", "flair", "adc"):
        for day in DAYS[:3]:
            (folder / f"{name}_{day:g}.nii").touch()
    return load_images(folder / "images.toml", sets)


@pytest.mark.slow
def test_three_days_with_treatments_between_them(tmp_path, capsys, monkeypatch):
    folder, volumes = tmp_path, patient(tmp_path, CONFIG)
    monkeypatch.chdir(folder)
    assert main(["check", "images.toml"]) == 0 and "images of 3 days" in capsys.readouterr().out
    assert main(["fit", "images.toml", "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert {p.name for p in (folder / "out").iterdir()} == {"fit.h5", "fit_images.png", "fit_cellularity.png"}
    assert "D_w/D_g is not identifiable from these images" in said  # it is all white
    assert "treatments from day 11 on have the effects that the model gives them" in said and "(predicted)" in said
    file = FitFile("out/fit.h5")
    found = dict(zip(file["parameters"]["name"], file["parameters"]["value"], strict=True))
    assert found["diffusivity_white_mm2_per_day"] == pytest.approx(TRUE[0], rel=0.2)
    assert found["proliferation_per_day"] == pytest.approx(TRUE[2], rel=0.2)
    np.testing.assert_allclose([found[f"{x}_mm"] for x in "xyz"], (2.0, 0.0, 0.0), atol=1.5)
    # of FLAIR; the day after the last scan is predicted
    np.testing.assert_allclose(file["volumes"]["predicted"][:, 1], volumes[:, 1], rtol=0.1)
    # as if nothing had been done the same images tell another growth
    assert main(["fit", "images.toml", "--out", "other", "--set", "radiotherapy.fractions=[{days=[59.0], dose_gy=0.1}]",
                 "--set", "surgery.resections=[{day=59.0, centre_mm=[0,0,0], radius_mm=0.1}]", "--no-figures"]) == 0  # fmt: skip
    other = FitFile("other/fit.h5")["parameters"]
    rate = dict(zip(other["name"], other["value"], strict=True))["proliferation_per_day"]
    assert rate < 0.8 * found["proliferation_per_day"]
    assert main(["plot", "out/fit.h5", "--out", "again"]) == 0
    again, first = (np.asarray(Image.open(folder / d / "fit_images.png"), int) for d in ("again", "out"))
    assert again.shape == first.shape and np.abs(again - first).max() <= 2  # but for the rounding of where labels stand


CARRIERS = """
[carriers]
[attractant]
[prodrug]
courses = [{ start_day = 15.0, end_day = 25.0, dose_mg_per_kg_per_day = 150.0 }]
[drug]
[schedule]
injections = [{ days = [12.0], cells = 4e8, sites_mm = [[2.0, 0.0, 0.0]], sigma_mm = 8.0 }]
"""


@pytest.mark.slow
def test_carriers_and_their_prodrug_between_the_images(tmp_path, capsys, monkeypatch):
    start, end = CONFIG.index("[radiotherapy]"), CONFIG.index("[images]")
    config = CONFIG[:start] + CARRIERS + CONFIG[end:].replace(', adc = "adc_10.nii"', "")
    volumes = patient(tmp_path, config)
    assert volumes[0, 0] > 0 and volumes[1, 0] == 0  # the core that T1Gd shows is gone for a while
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "images.toml", "--out", "out"]) == 0
    assert "treatments from day 12 on have the effects that the model gives them" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"fit.h5", "fit_images.png"}
    file = FitFile("out/fit.h5")
    found = dict(zip(file["parameters"]["name"], file["parameters"]["value"], strict=True))
    assert found["diffusivity_white_mm2_per_day"] == pytest.approx(TRUE[0], rel=0.2)
    assert found["proliferation_per_day"] == pytest.approx(TRUE[2], rel=0.2)
    np.testing.assert_allclose(file["volumes"]["predicted"][:, 1], volumes[:, 1], rtol=0.1)


def test_mistakes_of_a_fit_to_images_are_told_at_once(tmp_path):
    wrong = CONFIG.replace('t1gd = "t1gd_40.nii", ', "").replace("[images]", "[oxygen]\n[fit]\ndata = 'x'\n[images]\n")
    wrong = wrong.replace(
        "proliferation_per_day = 0.04", "initial = { kind = 'nifti', path = 'x' }\ngrowth = 'gomperts'"
    )
    (tmp_path / "images.toml").write_text(wrong.replace("ahead_days = [20.0]", "ahead = [20.0]"))
    with pytest.raises(ConfigError) as error:
        load_images(tmp_path / "images.toml")
    said = "\n".join(error.value.problems)
    for sentence in (
        "fit: stands beside [images]", "oxygen: a fit to images takes no such section", "images.ahead: unknown key; did you mean",
        "tumour.initial: the tumour grows from a seed", "tumour.growth:",
    ):  # fmt: skip
        assert sentence in said
    assert "tumour.initial.path" not in said
    (tmp_path / "images.toml").write_text(CONFIG.replace("day = 40.0", "day = 60.0"))
    with pytest.raises(ConfigError, match="day 60 has several scans"):
        load_images(tmp_path / "images.toml")
    (tmp_path / "images.toml").write_text(CONFIG)
    with pytest.raises(ConfigError) as error:
        load_images(tmp_path / "images.toml")
    assert len(error.value.problems) == 7 and "images.scans[0].adc: there is no image file" in str(error.value)
    with pytest.raises(ConfigError, match="a fit to images needs logistic growth"):
        load_images_of(tmp_path, "tumour.growth=gompertz")
    start, end = CONFIG.index("[surgery]"), CONFIG.index("[images]")
    (tmp_path / "images.toml").write_text(CONFIG[:start] + CONFIG[end:])
    with pytest.raises(ConfigError, match="images need an anatomy of three axes"):
        load_images_of(tmp_path, "tissue.shape=[14, 14]")


def test_treatments_before_the_first_scan_are_told_by_the_check(tmp_path, capsys):
    """Of every kind, wherever their days stand; one on the day itself is none."""
    early = """
[temozolomide]
doses = [{ days = [9.0, 12.0], dose_mg_per_m2 = 150.0 }]
[carriers]
[attractant]
[schedule]
injections = [{ days = [2.5], cells = 1e6, sites_mm = [[0.0, 0.0, 0.0]], sigma_mm = 3.0 }]
[prodrug]
courses = [{ start_day = 8.0, end_day = 12.0, dose_mg_per_kg_per_day = 150.0 }]
[images]"""
    (tmp_path / "images.toml").write_text(CONFIG.replace("day = 11.0", "day = 9.5").replace("[images]", early))
    for name in ("t1gd", "flair", "adc"):
        for day in DAYS[:3]:
            (tmp_path / f"{name}_{day:g}.nii").touch()
    moved = ["--set", "radiotherapy.fractions=[{days=[12.0, 1.0], dose_gy=2.0}]"]
    assert main(["check", str(tmp_path / "images.toml"), *moved]) == 2
    said = capsys.readouterr().err
    for name, day in (("surgery", 9.5), ("temozolomide", 9), ("schedule", 2.5), ("prodrug", 8), ("radiotherapy", 1)):
        assert f"{name}: something is done on day {day:g}, before the first scan on day 10" in said
    (tmp_path / "images.toml").write_text(CONFIG.replace("day = 11.0", "day = 10.0"))
    assert main(["check", str(tmp_path / "images.toml")]) == 0


SERIES = """[images]
series = { on_days = [10.0, 40.0], t1gd = "t1gd.nii.gz", flair = "flair.nii.gz" }
scans = [{ day = 60.0, t1gd = "t1gd_60.nii", flair = "flair_60.nii" }]
"""


def test_a_series_is_read_as_the_images_of_its_days(tmp_path):
    nib = pytest.importorskip("nibabel")
    matrix, rng = np.diag([4.0, 4.0, 4.0, 1.0]), np.random.default_rng(3)
    text = CONFIG[: CONFIG.index("[images]")] + SERIES
    (tmp_path / "images.toml").write_text(text)
    masks = {name: rng.random((5, 6, 7, 3)) > 0.5 for name in ("t1gd", "flair")}
    for name, mask in masks.items():
        write_image(tmp_path / f"{name}_60.nii", mask[..., 2], matrix)
        nib.save(nib.Nifti1Image(mask[..., :2].astype(np.uint8), matrix), tmp_path / f"{name}.nii.gz")
    study = load_images(tmp_path / "images.toml")
    assert study.images.seen_days() == [60.0, 10.0, 40.0] and (study.images.first_day, study.images.last_day) == (
        10,
        60,
    )
    files = _read(study)
    for name, mask in masks.items():
        for mine, k in zip(files, (2, 0, 1), strict=True):
            np.testing.assert_array_equal(mine[name][0] > 0.5, mask[..., k])
            np.testing.assert_array_equal(mine[name][1], matrix)
    tissue = Tissue.phantom("box", (14, 14, 14), 4.0)
    assert [scan.day for scan in _scans(study, files, tissue)] == [10.0, 40.0, 60.0]
    # a day more than there are volumes; a day twice; nothing at all
    (tmp_path / "images.toml").write_text(text.replace("[10.0, 40.0]", "[10.0, 40.0, 50.0]"))
    with pytest.raises(ConfigError) as error:
        _read(load_images(tmp_path / "images.toml"))
    assert len(error.value.problems) == 2 and "an image with 3 values along its 4th or 5th axis" in str(error.value)
    for old, new, said in (
        ("[10.0, 40.0]", "[10.0, 60.0]", "day 60 has several scans"),
        (SERIES, "[images]\nahead_days = [3.0]\n", "give scans, each with its files, or series"),
        ("t1gd.nii.gz", "no.nii.gz", "images.series.t1gd: there is no image file"),
    ):
        (tmp_path / "images.toml").write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=said):
            load_images(tmp_path / "images.toml")


# -- cellularity ------------------------------------------------------------------------------------------


def test_cellularity_is_linear_in_the_diffusion_of_water_and_known_within_the_lesion():
    tissue = Tissue.phantom("box", (4, 4, 4), 2.0)
    fine = Tissue.phantom("box", (8, 8, 8), 1.0)
    u = np.linspace(0.0, 1.0, 8)[:, None, None] * np.ones((8, 8, 8))
    inside = fine.grid.world_mm()[0] > -1.0
    found = cellularity_on(tissue, 2.5e-3 - 1.9e-3 * u, inside, fine.grid.matrix, 0.6e-3)
    assert np.isnan(found[0]).all()
    # the second cell along x is half inside
    np.testing.assert_allclose(found[1:, 0, 0], [u[3, 0, 0], u[4:6, 0, 0].mean(), u[6:, 0, 0].mean()], atol=1e-12)
    with pytest.raises(GliomaError, match="must be above the lowest"):
        cellularity_on(tissue, u, inside, fine.grid.matrix, 3e-3)


def test_scans_with_treatments_before_them_or_cellularity_nowhere_are_refused():
    tissue = Tissue.phantom("box", (4, 4, 4), 3.0)
    some = np.zeros((4, 4, 4))
    some[1:3, 1:3, 1:3] = 1.0
    with pytest.raises(GliomaError) as error:
        check_scans(tissue, [Scan(5.0, some, some, np.full((4, 4, 4), np.nan), -1.0)], 2.0)
    said = str(error.value)
    assert "day 2: a treatment begins before the first scan, on day 5" in said
    assert "cellularity is known nowhere" in said and "sd must be positive" in said
    check_scans(tissue, [Scan(5.0, some, some, some)], 5.0)
