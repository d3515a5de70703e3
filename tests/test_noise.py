"""Noise models against scipy's distributions, and the formulas of derived parameters."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from glioma_pde.calibrate.formula import Formula
from glioma_pde.calibrate.noise import LEFT, RIGHT, Noise
from glioma_pde.calibrate.predict import Ensemble
from glioma_pde.calibrate.problem import Table
from glioma_pde.calibrate.score import concordance, nrmse, score

Y = np.array([0.8, 1.3, 2.9, 4.0])
F = np.array([1.0, 1.1, 3.1, 2.0])
SD = np.array([1.0, 0.5, 1.0, 2.0])
THETA = {"a": jnp.asarray(0.3), "b": jnp.asarray(0.2)}
SIGMA = {
    "additive": 0.3 * SD,
    "proportional": 0.2 * SD * F,
    "combined": SD * np.sqrt(0.09 + 0.04 * F**2),
    "lognormal": 0.3 * SD,
}


def log_densities(noise, y=Y, censoring=None, f=F):
    code = jnp.zeros(len(y), int) if censoring is None else jnp.asarray(censoring)
    e = noise.standardise(jnp.asarray(y), jnp.asarray(f), jnp.asarray(SD), code, THETA)
    return np.asarray(e.constant - 0.5 * e.error**2 - e.log_sigma)


@pytest.mark.parametrize("kind", list(SIGMA))
@pytest.mark.parametrize("degrees", [None, 4.0])
def test_densities_are_those_of_the_distributions(kind, degrees):
    noise = Noise(kind, "a", "b", degrees)
    sigma = SIGMA[kind]
    base = stats.norm if degrees is None else stats.t(degrees)
    z = (np.log(Y) - np.log(F)) / sigma if kind == "lognormal" else (Y - F) / sigma
    exact = base.logpdf(z) - np.log(sigma) - (np.log(Y) if kind == "lognormal" else 0.0)
    np.testing.assert_allclose(log_densities(noise), exact, rtol=1e-12)
    np.testing.assert_allclose(noise.log_density(*map(jnp.asarray, (Y, F, sigma))), exact, rtol=1e-12)
    # a limit stands for all that lies beyond it
    for code, tail in ((LEFT, base.logcdf), (RIGHT, base.logsf)):
        found = log_densities(noise, censoring=np.full(4, code))
        np.testing.assert_allclose(found, tail(z), rtol=1e-8, atol=2e-12)


def test_a_censored_value_far_inside_its_limit_has_a_finite_slope():
    noise = Noise("additive", "a")

    def error(f):
        one = jnp.ones(1)
        return noise.standardise(40.0 * one, f * one, one, jnp.full(1, LEFT), THETA).error[0]

    for f in (-400.0, 0.0, 39.0, 41.0, 80.0):
        assert np.isfinite(jax.grad(error)(f))


def test_holding_sigma_keeps_the_value_and_drops_its_derivative():
    noise = Noise("proportional", b="b")

    def error(f, hold):
        one = jnp.ones(1)
        return noise.standardise(2.0 * one, f * one, one, jnp.zeros(1, int), THETA, hold).error[0]

    assert error(1.5, True) == error(1.5, False)
    assert jax.grad(error)(1.5, True) == pytest.approx(-1 / (0.2 * 1.5))
    assert jax.grad(error)(1.5, False) == pytest.approx(-2.0 / (0.2 * 1.5**2))


def test_formulas_compute_and_refuse():
    speed = Formula("2 * sqrt(tumour.d * rho) - exp(-log(x)) ** 2")
    assert speed.names() == ["tumour.d", "rho", "x"]
    value = speed({"tumour.d": 0.13, "rho": 0.012, "x": 2.0})
    assert float(value) == pytest.approx(2 * np.sqrt(0.13 * 0.012) - 0.25)
    for text in ("__import__('os')", "a.b()", "[1]", "a if b else c", "x +", "'text'", "True", "lambda: 1"):
        with pytest.raises(ValueError, match="formula"):
            Formula(text)


def test_scores_of_known_cases():
    y = np.array([1.0, 2.0, 3.0, 4.0])
    assert concordance(y, y) == pytest.approx(1.0)
    assert concordance(y, y + 1.0) == pytest.approx(2 * 1.25 / (2.5 + 1.0))
    assert nrmse(y, y + 1.0) == pytest.approx(1 / y.std())
    assert score(y, y, y - 1, np.array([2.0, 1.0, 4.0, 5.0])).coverage == 0.75


def test_no_forecast_is_drawn_where_nothing_held_out_has_a_score():
    from glioma_pde.plot._fit_curves import scored

    late = {"data": {"held_out": np.array([0, 1])}, "laws_compared": {"late_ccc": np.array([0.9])}}
    assert [name for _, name, _ in scored(late)] == ["late"]
    # the first measurements of a held-out mouse may be all it has, and those held out may all be censored
    assert not scored({**late, "data": {"held_out": np.array([0, 3])}})
    assert not scored({**late, "laws_compared": {}})
    assert not scored({"data": {}, "laws_compared": {}})


def test_what_was_held_out_is_scored_by_its_own_noise():
    """The density is the mean over draws, of Student's t where the noise is, with σ as the draws have it."""
    from glioma_pde.fit_run import _log_densities

    y, at, which = np.array([1.2, 0.7, 3.0]), np.array([0, 1, 1]), np.array([0, 0, 1])
    one = np.ones(3)
    table = Table(*(jnp.asarray(v[None]) for v in (at, which, y, one, 0 * at, one > 0)))
    problem = SimpleNamespace(table=table, noises=(Noise("additive", "a", degrees=3.0), Noise("lognormal", "b")))
    rng = np.random.default_rng(0)
    values, sigma = rng.uniform(0.5, 2.0, (2, 5, 1, 2, 2))
    f, s = (v[:, 0, at, which] for v in (values, sigma))
    exact = np.where(
        which == 0, stats.t(3.0).pdf((y - f) / s) / s, stats.norm.pdf(np.log(y / f) / s) / s / y
    ).mean(axis=0)  # fmt: skip
    np.testing.assert_allclose(np.exp(_log_densities(problem, Ensemble(values, values, sigma))), exact, rtol=1e-12)
