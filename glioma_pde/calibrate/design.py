"""Which further measurement would narrow a prediction most, from the Fisher information.

A measurement of f with noise σ adds j jᵀ to the information F, j = ∂f/σ; the variance of a prediction g is then
∂gᵀ (F + j jᵀ)⁻¹ ∂g. Everything is linear around the best parameters, so that this ranks measurements, no more. Where
the data have a column ``sd``, the further measurement counts as exact as the median one of its observable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .forward import Batch
from .population import Population
from .problem import Problem


class Sensitivity(NamedTuple):
    """Of every observable at every day of some conditions.

    Attributes:
        value, sigma: prediction and noise in its unit, ``(C, T, n)``. slope: of the prediction by scaled parameters, ``(C, T, n, size)``.
    """

    value: np.ndarray
    sigma: np.ndarray
    slope: np.ndarray


def sensitivity(problem: Problem, s: Array, batch: Batch, like: Sequence[int]) -> Sensitivity:
    """Args:
    batch: conditions that might be measured or predicted (an arm of the study, or one that was never run).
    like: for each of them the subject of the problem whose parameters it has.
    """
    value, sigma, slope = _sensitivity(problem, jnp.asarray(s), batch, np.asarray(like))
    return Sensitivity(np.asarray(value), np.asarray(sigma), np.asarray(slope))


def subject_sensitivity(
    population: Population, phi: np.ndarray, b: np.ndarray, batch: Batch, like: Sequence[int]
) -> Sensitivity:
    """The same by a subject's own parameters b, the population φ being known."""
    dtype = population.problem.low.dtype
    found = _of_subject(population, jnp.asarray(phi, dtype), jnp.asarray(b, dtype), batch, np.asarray(like))
    value, sigma, slope = (np.asarray(v) for v in found)
    return Sensitivity(value, sigma, slope)


@eqx.filter_jit
def _sensitivity(problem: Problem, s: Array, batch: Batch, like):
    return _differentiated(problem, lambda s: {k: v[like] for k, v in problem.theta(s).items()}, s, batch)


@eqx.filter_jit
def _of_subject(population: Population, phi: Array, b: Array, batch: Batch, like):
    fixed = {k: v[like] for k, v in population.theta(population.split(phi)[0]).items()}

    def theta(b):
        return {**fixed, **{k: jnp.broadcast_to(v, like.shape) for k, v in population.own(b).items()}}

    return _differentiated(population.problem, theta, b, batch)


def _differentiated(problem: Problem, theta: Callable, at: Array, batch: Batch):
    sd = problem.usual_sd()

    def values(at):
        def one(condition, theta):
            f = problem.simulation(theta, condition)
            full = problem.simulation.complete(theta)
            sigmas = [
                n.sigma(f[:, k], sd[k], full) * (f[:, k] if n.logarithmic else 1.0)
                for k, n in enumerate(problem.noises)
            ]
            return f, jnp.stack(sigmas, axis=1)

        f, sigma = batch.each(one, theta(at))
        return f, (f, sigma)

    slope, (f, sigma) = jax.jacfwd(values, has_aux=True)(at)
    return f, sigma, slope


def narrowing(information: np.ndarray, target: np.ndarray, offered: Sensitivity) -> tuple[np.ndarray, float]:
    """Standard deviation of a prediction after each single measurement over that before, ``(C, T, n)``, and that before.

    Args:
        information: F of the data at hand, ``(size, size)`` (`uncertainty.laplace`).
        target: slope of the prediction, ``(size,)`` (an entry of a `Sensitivity`, over its value for relative changes).
    """
    values, vectors = np.linalg.eigh(information)
    values = np.maximum(values, 1e-9 * values[-1])
    inverse = (vectors / values) @ vectors.T
    before = target @ inverse @ target
    j = offered.slope / np.maximum(offered.sigma, 1e-300)[..., None]
    cross = j @ (inverse @ target)
    own = np.einsum("...i,ij,...j->...", j, inverse, j)
    return np.sqrt(np.maximum(1.0 - cross**2 / (1.0 + own) / before, 0.0)), float(np.sqrt(before))
