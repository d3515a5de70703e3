"""A calibration from its file to its table, HDF5 file and figures; what a reader must know stands in the report."""

from __future__ import annotations

import numpy as np
import pytest

from glioma_pde.config.fit_loading import loads_fit
from glioma_pde.errors import ConfigError
from glioma_pde.fit_command import calibrate
from glioma_pde.fitting import set_up
from glioma_pde.grid import Grid
from glioma_pde.io.fit_file import FitFile
from glioma_pde.io.nifti import write_image

CONFIG = """
title = "Made-up curves"
[fit]
data = "d.csv"
geometry = "well_mixed"
laws = ["exponential"]
starts = 2
draws = 50
profiles = false
hold_out_after_day = 12.0
[tumour]
diffusivity_white_mm2_per_day = 0.0
diffusivity_grey_mm2_per_day = 0.0
[time]
end_day = 40.0
step_days = 4.0
[observables.volume]
quantity = "fraction"
unit = "mm3"
scale = 1e6
noise = { kind = "additive", a = 1.0, degrees = 4.0 }
[parameters]
"tumour.proliferation_per_day" = { bounds = [0.02, 0.5], start = 0.2 }
"tumour.initial.fraction" = { bounds = [1e-5, 1e-3], start = 2e-4 }
"""
RATE = "tumour.proliferation_per_day"


def table(folder, subjects, last, noise, sd):
    """Exponential growth from 100 mm³, with Gaussian errors of 10 %."""
    rng = np.random.default_rng(3)
    rows = ["subject,arm,time,observable,value,sd"]
    for i in range(subjects):
        rate = 0.1 * np.exp(0.2 * rng.standard_normal())
        for t in np.arange(0.0, last + 1.0, 4.0):
            exact = 100.0 * np.exp(rate * t)
            rows.append(f"m{i},run,{t},volume,{exact * np.exp(noise * rng.standard_normal())},{sd(exact)}")
    (folder / "d.csv").write_text("\n".join(rows))


@pytest.mark.slow
def test_a_curve_with_errors_of_its_own(tmp_path):
    table(tmp_path, 1, 20.0, 0.1, lambda exact: 0.1 * exact)
    study = loads_fit(CONFIG, "fit.toml", ["fit.max_steps=60"], tmp_path)
    text, (path,) = calibrate(study, tmp_path, figures=False)
    assert "6 measurements, 1 subject, 1 arm" in text and "late times" in text
    assert "fitted without what is held out: 2 of 2 starts reached the best cost within 0.01" in text
    file = FitFile(path)
    data, law = file["data"], file["laws/exponential"]
    # bands of measurements are as wide as each one's own σ makes them: in 95 % of Student's t with ν = 4, 2.8 σ
    width = (data["high"] - data["low"]) / (2 * data["sd"])
    assert np.all(width > 2.0) and np.all(width < 4.5)
    assert file["laws_compared"]["late_count"][0] == 2 and np.isfinite(file["laws_compared"]["late_log_score"][0])
    rate = list(law["names"]).index(RATE)
    assert law["low"][rate] < 0.1 * np.exp(0.2 * np.random.default_rng(3).standard_normal()) < law["high"][rate]
    assert bool(file.attributes["quadratic"])


def test_a_table_without_arms_serves_a_file_without_them(tmp_path):
    (tmp_path / "d.csv").write_text("subject,time,observable,value,sd\na,0,volume,100,10\na,4,volume,150,10\n")
    setup = set_up(loads_fit(CONFIG, "fit.toml", [], tmp_path))
    assert set(setup.data.arm) == set(setup.arms)
    arms = "arms={one={}, two={time={step_days=2.0}}}"
    with pytest.raises(ConfigError, match="column 'arm' is missing; the configuration has the arms one, two"):
        set_up(loads_fit(CONFIG, "fit.toml", [arms], tmp_path))


@pytest.mark.slow
def test_a_population_from_its_file_to_its_figures(tmp_path):
    table(tmp_path, 6, 24.0, 0.1, lambda exact: "")
    sets = [
        f"parameters={{'{RATE}'={{bounds=[0.02, 0.5], level='subject', population=true, start=0.15}}, s={{bounds=[0.02, 1.0]}}}}",
        "fixed={'tumour.initial.fraction'=1e-4}", "observables.volume.noise={kind='lognormal', a='s'}",
        "fit.hold_out_subjects=['m5']", "fit.given_first=2", "fit.level=0.8",
        "design={predict={arm='run', observable='volume', day=30.0}, on_days=[4.0, 28.0]}",
    ]  # fmt: skip
    study = loads_fit(CONFIG, "fit.toml", sets, tmp_path)
    text, paths = calibrate(study, tmp_path)
    assert "new subjects" in text and "the population's likelihood converged" in text
    assert {p.name for p in paths} >= {"fit.h5", "fit_residuals.png", "fit_forecast.png", "fit_profiles.png"}
    # in units of the noise, whatever the level of the intervals
    residual = FitFile(paths[0])["data"]["residual"]
    assert 0.7 < residual.std() < 1.2
    assert "one further measurement would leave" in text


RESECTION = "{ resections = [{ day = 1.0, centre_mm = [0.0, 0.0], radius_mm = 1.0 }] }"
DOSES = "{ fractions = [{ dose_gy = 2.0, days = [1.0] }], dose_map = { path = 'plan.nii.gz', prescription = 1.0 } }"


@pytest.mark.parametrize(
    ("line", "where"),
    [
        (f"surgery = {RESECTION}", "surgery"),
        (f"arms.run.surgery = {RESECTION}", "arms.run.surgery"),
        (f"radiotherapy = {DOSES}", "radiotherapy.dose_map"),
        ("anisotropy = { tensors = 'a.nii', order = 'fsl', axes = 'fsl', carriers = false }", "anisotropy"),
        (
            "schedule.injections = [{ days = [0.0], cells = 1e5, sites_mm = [[0.0, 0.0]], sigma_mm = 1.0 }]\n"
            "carriers.taxis = { kind = 'none' }",
            "schedule",
        ),
    ],
)
def test_what_says_where_is_refused_of_a_site_without_places(line, where):
    with pytest.raises(ConfigError) as error:
        loads_fit(f"{line}\n{CONFIG}")
    sentence = "a well-mixed site has no places; leave it out, or set fit.geometry = 'configured'"
    assert error.value.problems == [f"{where}: {sentence}"]


PLACED = """
[tissue]
kind = "phantom"
geometry = "box"
shape = [7, 6, 5]
spacing_mm = 1.0
"""


def test_images_and_places_of_a_configured_anatomy_are_read_and_checked(tmp_path):
    table(tmp_path, 1, 20.0, 0.1, lambda exact: 0.1 * exact)
    grid = Grid.cartesian((7, 6, 5), 1.0)
    dose = 0.5 + np.arange(210.0).reshape(7, 6, 5) / 210.0
    write_image(tmp_path / "plan.nii.gz", dose, grid.matrix)
    text = f"radiotherapy = {DOSES}\n{CONFIG}{PLACED}".replace("well_mixed", "configured").replace(
        'quantity = "fraction"', 'quantity = "volume"'
    )
    text = text.replace(
        "[tumour]\n", "[tumour]\ninitial = { kind = 'gaussian', centre_mm = [0, 0, 0], sigma_mm = 1.5, peak = 0.8 }\n"
    )
    text = text.replace('"tumour.initial.fraction" = { bounds = [1e-5, 1e-3], start = 2e-4 }\n', "")
    found = set_up(loads_fit(text, "fit.toml", [], tmp_path))
    (course,) = found.arms["run"].schedule.events
    np.testing.assert_allclose(course.dose_map, dose, rtol=1e-6)

    write_image(tmp_path / "plan.nii.gz", dose, grid.matrix @ np.diag([-1.0, 1.0, 1.0, 1.0]))
    sites = "carriers.taxis.kind = 'none'\nschedule.injections = [{ days = [0.0], cells = 1e9, sites_mm = [[0, 0, 0]], sigma_mm = 1.0 }]\n"
    with pytest.raises(ConfigError) as error:
        set_up(loads_fit(sites + text, "fit.toml", [], tmp_path))
    image, dense = error.value.problems
    assert (
        image
        == "radiotherapy.dose_map.path: plan.nii.gz is not in the space of the tissue (another affine); resample it first"
    )
    assert "cells reach" in dense and "of the carrying capacity" in dense


def test_signals_that_are_not_cells_need_a_scale(tmp_path):
    (tmp_path / "d.csv").write_text("subject,time,observable,value,sd\na,0,volume,0.1,0.1\na,4,volume,0.2,0.1\n")
    for kind in ("cell_index", "bioluminescence"):
        with pytest.raises(ConfigError, match=f"{kind} is a signal, not cells: give scale"):
            loads_fit(CONFIG.replace("scale = 1e6\n", "").replace('"fraction"', f'"{kind}"'), "fit.toml", [], tmp_path)
    sets = ["observables.volume.quantity='confluence'", "observables.volume.scale='cover'"]
    problem = set_up(loads_fit(CONFIG + "cover = { bounds = [0.5, 20.0] }\n", "fit.toml", sets, tmp_path)).problem()
    at = {RATE: 0.1, "tumour.initial.fraction": 1e-4}
    low, high = (problem.predict(problem.from_natural(at | {"cover": c}))[0, 0, 0] for c in (1.0, 10.0))
    assert float(high / low) == pytest.approx(10.0, rel=1e-3)
