"""Which further measurement would narrow a prediction most, from the Fisher information.

A measurement of f with noise σ adds j jᵀ to the information F, j = ∂f/σ; the variance of a prediction g is then
∂gᵀ (F + j jᵀ)⁻¹ ∂g. Everything is linear around the best parameters, so that this ranks measurements, no more.
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
from .problem import Problem


class Sensitivity(NamedTuple):
    """Of every observable at every day of some conditions.

    Attributes:
        value, sigma: prediction and noise, ``(C, T, n)``. slope: of the prediction by scaled parameters, ``(C, T, n, size)``.
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


@eqx.filter_jit
def _sensitivity(problem: Problem, s: Array, batch: Batch, like):
    def values(s):
        theta = {k: v[like] for k, v in problem.theta(s).items()}

        def one(condition, theta):
            f = problem.simulation(theta, condition)
            full = problem.simulation.complete(theta)
            unit = jnp.ones(f.shape[0], f.dtype)
            sigmas = [
                n.sigma(f[:, k], unit, full) * (f[:, k] if n.logarithmic else 1.0) for k, n in enumerate(problem.noises)
            ]
            return f, jnp.stack(sigmas, axis=1)

        return batch.each(one, theta)

    def both(s):
        f, sigma = values(s)
        return f, (f, sigma)

    slope, (f, sigma) = jax.jacfwd(both, has_aux=True)(s)
    return f, sigma, slope


def narrowing(information: np.ndarray, target: np.ndarray, offered: Sensitivity) -> np.ndarray:
    """Standard deviation of a prediction after each single measurement over that before, ``(C, T, n)``.

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
    return np.sqrt(np.maximum(1.0 - cross**2 / (1.0 + own) / before, 0.0))
