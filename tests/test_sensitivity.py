"""Elementary effects of functions whose effects are known, and an outcome whose dependence is."""

from __future__ import annotations

import csv
import math

import jax
import numpy as np
import pytest

from glioma_pde.calibrate.morris import elementary_effects, summarise_effects, trajectories
from glioma_pde.calibrate.sobol import indices_of, sobol_points
from glioma_pde.cli import main
from glioma_pde.config import loads
from glioma_pde.config.study import Measure
from glioma_pde.errors import ConfigError
from glioma_pde.io.fit_file import SENSITIVITY, FitFile
from glioma_pde.sensitivity import Outcome, logarithm


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


def test_points_of_an_index_differ_in_its_factor_alone():
    points = sobol_points(4, 64, seed=5)
    a, b, *mixed = points
    assert points.shape == (6, 64, 4)
    for i, one in enumerate(mixed):
        np.testing.assert_array_equal(one[:, i], b[:, i])
        np.testing.assert_array_equal(np.delete(one, i, axis=1), np.delete(a, i, axis=1))
    # each column of A and of B has one point in every 64th
    for column in np.concatenate([a, b], axis=1).T:
        assert sorted(np.floor(64 * column)) == list(range(64))
    assert np.array_equal(points, sobol_points(4, 64, seed=5))
    assert not np.array_equal(points, sobol_points(4, 64, seed=6))
    with pytest.raises(ValueError, match="powers of two, not 48"):
        sobol_points(4, 48, seed=0)


def test_indices_of_the_ishigami_function_are_the_exact_ones():
    """y = sin x₁ + a sin² x₂ + b x₃⁴ sin x₁ on (−π, π)³ (Ishigami & Homma 1990)."""
    a, b, p = 7.0, 0.1, math.pi
    x, y, z = np.moveaxis(p * (2.0 * sobol_points(3, 4096, seed=1) - 1.0), 2, 0)
    of_x = 0.5 * (1.0 + b * p**4 / 5.0) ** 2
    of_y, of_xz = a**2 / 8.0, b**2 * p**8 * (1.0 / 18.0 - 1.0 / 50.0)
    variance = of_x + of_y + of_xz
    found = indices_of((np.sin(x) + a * np.sin(y) ** 2 + b * z**4 * np.sin(x))[None], seed=1)
    exact_first = np.array([of_x, of_y, 0.0]) / variance
    exact_total = np.array([of_x + of_xz, of_y, of_xz]) / variance
    np.testing.assert_allclose(found.first[0], exact_first, atol=0.02)
    np.testing.assert_allclose(found.total[0], exact_total, atol=0.02)
    assert np.all((found.first_low[0] < exact_first) & (exact_first < found.first_high[0]))
    assert np.all((found.total_low[0] < exact_total) & (exact_total < found.total_high[0]))
    assert np.all(found.total_high - found.total_low < 0.12)


def test_without_interactions_first_and_total_are_the_same_and_make_up_the_whole():
    points = sobol_points(3, 1024, seed=2)
    linear = points @ np.array([3.0, -2.0, 0.0])
    found = indices_of(np.stack([linear, np.exp(linear)]), seed=2, resamples=100)
    exact = np.array([9.0, 4.0, 0.0]) / 13.0
    np.testing.assert_allclose(found.first[0], exact, atol=0.01)
    np.testing.assert_allclose(found.total[0], exact, atol=0.01)
    assert np.all(found.total[1, :2] > found.first[1, :2] + 0.02)  # a product
    for value in found:
        assert value.shape == (2, 3) and abs(value[0, 2]) < 1e-12  # no share, and certainly so


def test_intervals_hold_the_exact_index_as_often_as_they_say():
    exact = np.array([9.0, 4.0, 1.0]) / 14.0
    held = np.zeros((2, 3))
    for seed in range(60):
        outcome = sobol_points(3, 128, seed) @ np.array([3.0, -2.0, 1.0])
        found = indices_of(outcome[None], seed, level=0.8, resamples=60)
        held += [
            (found.first_low[0] <= exact) & (exact <= found.first_high[0]),
            (found.total_low[0] <= exact) & (exact <= found.total_high[0]),
        ]
    assert np.all(held >= 42), held


def test_a_logarithm_is_that_of_the_ratio_and_there_is_none_of_a_difference():
    change = Measure(arm="a", against="b")
    np.testing.assert_allclose(logarithm(change, np.array([-0.5, 1.0])), np.log([0.5, 2.0]))
    np.testing.assert_allclose(logarithm(Measure(arm="a"), np.array([3.0])), np.log([3.0]))
    assert logarithm(change, np.array([-0.5, -1.0])) is None
    assert logarithm(Measure(arm="a", against="b", form="difference"), np.array([3.0])) is None


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
samples = 64
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
    assert "(256 points, n = 64)" in said
    with (tmp_path / "sensitivity.csv").open(encoding="utf-8") as file:
        rho, diffusivity = csv.DictReader(file)
    assert float(rho["at_low"]) == pytest.approx(1e6 * math.exp(0.04), rel=1e-4)
    assert float(rho["at_high"]) == pytest.approx(1e6 * math.exp(0.4), rel=1e-4)
    assert float(rho["at_default"]) == pytest.approx(1e6 * math.exp(0.1), rel=1e-4)
    assert float(diffusivity["mu_star"]) < 1e-6 * float(rho["mu_star"])
    for scale in ("sobol", "sobol_log"):  # ln N = ln N₀ + ρ t
        assert float(rho[f"{scale}_first"]) == pytest.approx(1.0, abs=0.1)
        assert float(rho[f"{scale}_total"]) == pytest.approx(1.0, abs=0.1)
        assert float(rho[f"{scale}_total_low"]) < float(rho[f"{scale}_total"]) < float(rho[f"{scale}_total_high"])
        assert 0.0 <= float(diffusivity[f"{scale}_total"]) < 1e-10
    assert (tmp_path / "sensitivity.png").stat().st_size > 10000
    file = FitFile(tmp_path / "sensitivity.h5", SENSITIVITY)
    assert file["morris"]["points"].shape == (6, 3, 2)
    of = 0.01 + 0.09 * file["sobol"]["points"][..., 0]
    np.testing.assert_allclose(file["sobol"]["outcomes"], 1e6 * np.exp(4.0 * of), rtol=1e-4)
    assert float(file.attributes["interval_level"]) == 0.95
    assert float(file.attributes["all_unfavourable"]) == pytest.approx(1e6 * math.exp(0.4), rel=1e-4)
    (tmp_path / "again").mkdir()
    assert main(["plot", str(tmp_path / "sensitivity.h5"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "sensitivity.png").exists()


@pytest.mark.parametrize("change", ["samples", "factors"])
def test_without_samples_or_with_one_factor_there_are_no_shares(tmp_path, capsys, change):
    source = tmp_path / "small.toml"
    one = SMALL.rpartition("[[sensitivity.factors]]")[0]
    source.write_text(SMALL.replace("samples = 64", "samples = 0") if change == "samples" else one)
    assert main(["sensitivity", str(source), "--out", str(tmp_path)]) == 0
    assert "Sobol" not in capsys.readouterr().out
    file = FitFile(tmp_path / "sensitivity.h5", SENSITIVITY)
    assert "sobol" not in file and not [name for name in file["factors"] if "sobol" in name]
    assert (tmp_path / "sensitivity.png").exists()


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
