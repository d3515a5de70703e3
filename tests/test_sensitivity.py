"""Elementary effects of functions whose effects are known, and an outcome whose dependence is."""

from __future__ import annotations

import csv
import math

import jax
import numpy as np
import pytest

from glioma_pde.calibrate.morris import elementary_effects, summarise_effects, trajectories
from glioma_pde.cli import main
from glioma_pde.config import loads
from glioma_pde.errors import ConfigError
from glioma_pde.io.fit_file import SENSITIVITY, FitFile
from glioma_pde.sensitivity import Outcome


@pytest.mark.parametrize("levels", [2, 4, 8])
def test_trajectories_change_one_factor_at_a_time_by_the_same_step(levels):
    points = trajectories(5, 200, levels, seed=3)
    step = levels / (2.0 * (levels - 1))
    change = np.diff(points, axis=1)
    assert points.shape == (200, 6, 5)
    np.testing.assert_allclose(np.sort(np.abs(change), axis=2)[:, :, :4], 0.0, atol=1e-15)
    np.testing.assert_allclose(np.abs(change).max(axis=2), step)
    np.testing.assert_allclose(np.abs(change).sum(axis=1), step)  # each factor once
    grid = points * (levels - 1)
    np.testing.assert_allclose(grid, np.round(grid), atol=1e-12)
    shares = np.bincount(np.round(grid).astype(int).ravel(), minlength=levels) / grid.size
    np.testing.assert_allclose(shares, 1.0 / levels, atol=0.04)
    assert np.array_equal(points, trajectories(5, 200, levels, seed=3))


def test_effects_of_a_linear_function_are_its_coefficients():
    points = trajectories(4, 10, 8, seed=1)
    slopes = np.array([3.0, -2.0, 0.0, 0.5])
    found = summarise_effects(elementary_effects(points, points @ slopes))
    np.testing.assert_allclose(found.mu, slopes, atol=1e-12)
    np.testing.assert_allclose(found.mu_star, np.abs(slopes), atol=1e-12)
    np.testing.assert_allclose(found.sigma, 0.0, atol=1e-12)


def test_interactions_show_in_sigma_and_signs_in_mu():
    points = trajectories(3, 4000, 8, seed=2)
    x, y, z = np.moveaxis(points, 2, 0)
    found = summarise_effects(elementary_effects(points, x * y + (z - 0.5) ** 2))
    assert found.mu[:2] == pytest.approx(0.5, abs=0.02)  # the mean of the other one
    assert found.sigma[0] == pytest.approx(math.sqrt((8 + 1) / (12 * (8 - 1))), rel=0.03)  # of eight levels
    assert abs(found.mu[2]) < 0.02 < found.mu_star[2]
    assert np.all(found.error < 0.02)


def test_an_odd_grid_is_refused():
    with pytest.raises(ValueError, match="even number of levels"):
        trajectories(3, 4, 5, seed=0)


SMALL = """
title = "Small"
[tissue]
kind = "radial"
radius_mm = 8.0
spacing_mm = 1.0
[tumour]
growth = "exponential"
initial = { kind = "gaussian", centre_mm = [0.0], sigma_mm = 2.0, cells = 1e6 }
[time]
end_day = 6.0
step_days = 0.25
[numerics]
precision = "float64"
[arms.a]
[sensitivity]
outcome = { arm = "a", day = 4.0 }
trajectories = 6
levels = 4
batch = 8
[[sensitivity.factors]]
parameter = "tumour.proliferation_per_day"
low = 0.01
high = 0.1
scale = "linear"
favourable = "low"
[[sensitivity.factors]]
parameter = "tumour.diffusivity_white_mm2_per_day"
"""


def test_the_command_finds_that_growth_alone_matters(tmp_path, capsys):
    """Under exponential growth in a closed sphere the burden is N₀ exp(ρ t), whatever the diffusivity."""
    source = tmp_path / "small.toml"
    source.write_text(SMALL)
    assert main(["sensitivity", str(source), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "tumour.proliferation_per_day" in said
    with (tmp_path / "sensitivity.csv").open(encoding="utf-8") as file:
        rho, diffusivity = csv.DictReader(file)
    assert float(rho["at_low"]) == pytest.approx(1e6 * math.exp(0.04), rel=1e-4)
    assert float(rho["at_high"]) == pytest.approx(1e6 * math.exp(0.4), rel=1e-4)
    assert float(rho["at_default"]) == pytest.approx(1e6 * math.exp(0.1), rel=1e-4)
    assert float(diffusivity["mu_star"]) < 1e-6 * float(rho["mu_star"])
    assert (tmp_path / "sensitivity.png").stat().st_size > 10000
    file = FitFile(tmp_path / "sensitivity.h5", SENSITIVITY)
    assert file["morris"]["points"].shape == (6, 3, 2)
    assert float(file.attributes["all_unfavourable"]) == pytest.approx(1e6 * math.exp(0.4), rel=1e-4)
    (tmp_path / "again").mkdir()
    assert main(["plot", str(tmp_path / "sensitivity.h5"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "sensitivity.png").exists()


def test_factors_that_no_arm_has_are_named(tmp_path, capsys):
    text = SMALL + "[[sensitivity.factors]]\nparameter = 'drug.kill.ic50_uM'\n"
    with jax.enable_x64(True), pytest.raises(ConfigError, match="ic50_uM is no parameter of the arms a"):
        Outcome(loads(text))
    plain = tmp_path / "plain.toml"
    plain.write_text(SMALL.partition("[sensitivity]")[0])
    assert main(["sensitivity", str(plain), "--out", str(tmp_path)]) == 2
    assert "sensitivity: this section is missing" in capsys.readouterr().err


def test_a_factor_in_which_the_arms_differ_is_refused():
    """One value is written into both arms, so that neither would be what the file says."""
    text = SMALL.replace("[arms.a]", "[arms.a]\n[arms.b]\ntumour = { proliferation_per_day = 0.05 }")
    text = text.replace('arm = "a", day', 'arm = "a", against = "b", day')
    with jax.enable_x64(True), pytest.raises(ConfigError) as caught:
        Outcome(loads(text))
    assert caught.value.problems == [
        "sensitivity.factors: tumour.proliferation_per_day is 0.025 in arm 'a' and 0.05 in arm 'b'; "
        "it can be varied only where the arms agree"
    ]
