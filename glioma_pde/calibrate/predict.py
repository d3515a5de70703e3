"""Predictions with bands: of the observable itself, and of a measurement of it.

Where the data have a column ``sd``, a further measurement counts as exact as the median one of its observable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .forward import Batch
from .population import Population, PopulationFit, Subjects, subjects_given
from .problem import Problem


class Ensemble(NamedTuple):
    """Draws of every subject's observables.

    Attributes:
        values: ``(draws, S, T, n)``. measured: the same with noise. sigma: σ of the noise, ``sd`` included, on logarithms
            for log-normal noise.
    """

    values: np.ndarray
    measured: np.ndarray
    sigma: np.ndarray

    def band(self, level: float = 0.90, of_measurements: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower end, median and upper end, each ``(S, T, n)``."""
        source = self.measured if of_measurements else self.values
        ends = np.nanquantile(source, [0.5 - 0.5 * level, 0.5, 0.5 + 0.5 * level], axis=0)
        return ends[0], ends[1], ends[2]


def predict(problem: Problem, draws: np.ndarray, days: Sequence[float], seed: int = 0) -> Ensemble:
    """Observables of every subject on ``days``, for scaled vectors ``(draws, size)`` of a posterior (`Laplace.draw`,
    `Samples.flat`)."""
    batch, places = problem.conditions.on(days)
    found = predict_conditions(problem, batch, draws, seed)
    rows = np.arange(len(places))[:, None]
    return Ensemble(*(v[:, rows, places] for v in found))


def predict_conditions(
    problem: Problem, batch: Batch, draws: np.ndarray, seed: int = 0, sd: Array | None = None
) -> Ensemble:
    """The same at the days of ``batch``.

    Args:
        sd: of the measurements, anything that broadcasts to ``(S, T, n)``, such as `Problem.sd_of_data`; by default the
            usual one.
    """
    sd = problem.usual_sd() if sd is None else sd
    values, sigma = _predict(problem, batch, jnp.asarray(draws, problem.low.dtype), _spread(problem, batch, sd))
    return _with_noise(problem, np.asarray(values, float), np.asarray(sigma, float), seed)


@eqx.filter_jit
def _predict(problem: Problem, batch: Batch, draws: Array, sd: Array):
    def one(s):
        theta = problem.theta(s)
        values = batch.each(lambda c, th: problem.simulation(th, c), theta)
        return values, _sigmas(problem, values, sd, theta)

    return jax.lax.map(one, draws)


def _spread(problem: Problem, batch: Batch, sd: Array) -> Array:
    return jnp.broadcast_to(sd, (batch.count, batch.looks, len(problem.noises)))


def predict_population(
    population: Population,
    fitted: PopulationFit,
    batch: Batch,
    count: int = 200,
    seed: int = 0,
    refits: int = 5,
    sd: Array | None = None,
) -> Ensemble:
    """For the population's subjects, whether they had part in the fit or not.

    The best φ and each of ``refits`` − 1 draws of it have modes and precisions of their own; b is drawn from them.

    Args:
        sd: of the measurements, as in `predict_conditions`.
    """
    rng = np.random.default_rng(seed)
    limits = population.bounds()
    parts = []
    sd = _spread(population.problem, batch, population.problem.usual_sd() if sd is None else sd)
    each = -(-count // refits)
    for r in range(refits):
        phi = fitted.phi
        if r:
            phi = np.clip(
                rng.multivariate_normal(fitted.phi, fitted.covariance, method="eigh"), limits[:, 0], limits[:, 1]
            )
        here = subjects_given(population, phi)
        b = draw_subjects(here, each, rng)
        dtype = population.problem.low.dtype
        values, sigma = _predict_population(population, batch, jnp.asarray(phi, dtype), jnp.asarray(b, dtype), sd)
        parts.append((np.asarray(values, float), np.asarray(sigma, float)))
    values, sigma = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    return _with_noise(population.problem, values, sigma, seed + 1)


def draw_subjects(subjects: Subjects, count: int, rng: np.random.Generator) -> np.ndarray:
    """``(count, S, p)``, from the normal approximation of each subject's posterior."""
    normal = rng.standard_normal((count, *subjects.modes.shape))
    lower = np.linalg.cholesky(subjects.precisions)
    return subjects.modes + np.linalg.solve(np.swapaxes(lower, 1, 2)[None], normal[..., None])[..., 0]


@eqx.filter_jit
def _predict_population(population: Population, batch: Batch, phi: Array, b: Array, sd: Array):
    shared, _, _ = population.split(phi)
    problem = population.problem

    def one(b):
        theta = {**population.theta(shared), **jax.vmap(population.own)(b)}
        values = batch.each(lambda c, th: problem.simulation(th, c), theta)
        return values, _sigmas(problem, values, sd, theta)

    return jax.lax.map(one, b)


def _sigmas(problem: Problem, values: Array, sd: Array, theta) -> Array:
    full = jax.vmap(problem.simulation.complete)(theta)

    def one(values, sd, theta):
        return jnp.stack([n.sigma(values[:, k], sd[:, k], theta) for k, n in enumerate(problem.noises)], axis=1)

    return jax.vmap(one)(values, sd, full)


def _with_noise(problem: Problem, values: np.ndarray, sigma: np.ndarray, seed: int) -> Ensemble:
    rng = np.random.default_rng(seed)
    measured = np.empty_like(values)
    for k, noise in enumerate(problem.noises):
        shape = values[..., k].shape
        e = rng.standard_normal(shape) if noise.degrees is None else rng.standard_t(noise.degrees, shape)
        e = e * sigma[..., k]
        measured[..., k] = values[..., k] * np.exp(e) if noise.logarithmic else values[..., k] + e
    return Ensemble(values, measured, sigma)
