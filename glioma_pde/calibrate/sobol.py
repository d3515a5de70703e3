"""Shares of the variance of an outcome (Sobol, Math Comput Simul 55 (2001) 271–280), by the estimators of SciPy.

The outcome y depends on independent factors xᵢ, uniform in the unit cube. Of the variance of y

    Sᵢ  = Var(E(y | xᵢ)) / Var(y)          goes with factor i alone (first order),
    S_Tᵢ = E(Var(y | x₋ᵢ)) / Var(y)        would be left if all the others were known (total).

Both come from n (k + 2) points: two independent samples A and B of n points, and for every factor A with its column taken
from B (Saltelli et al., Comput Phys Commun 181 (2010) 259–270). Intervals are those between percentiles of a bootstrap
over the n points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, qmc, sobol_indices

LEVEL, RESAMPLES = 0.95, 1000


class Indices(NamedTuple):
    """First-order and total indices, ``(..., k)``, and the ends of their intervals."""

    first: np.ndarray
    first_low: np.ndarray
    first_high: np.ndarray
    total: np.ndarray
    total_low: np.ndarray
    total_high: np.ndarray


def sobol_points(factors: int, samples: int, seed: int) -> np.ndarray:
    """Points in the unit cube, ``(k + 2, n, k)``: A, B, and A with each column taken from B.

    Args:
        samples: n, a power of two: then the points of a Sobol sequence, from which A and B come, are balanced.
    """
    if samples < 2 or samples & (samples - 1):
        raise ValueError(f"The points of a Sobol sequence are balanced for powers of two, not {samples}.")
    both = qmc.Sobol(2 * factors, rng=np.random.default_rng(seed), bits=64).random(samples)
    a, b = both[:, :factors], both[:, factors:]
    mixed = np.repeat(a[None], factors, axis=0)
    for i in range(factors):
        mixed[i, :, i] = b[:, i]
    return np.concatenate([[a, b], mixed])


def indices_of(outcomes: np.ndarray, seed: int, level: float = LEVEL, resamples: int = RESAMPLES) -> Indices:
    """Indices of one outcome, or of several, from its values at `sobol_points`.

    Args:
        outcomes: ``(s, k + 2, n)``, finite; k at least 2.
        level, resamples: of the bootstrap.
    """

    def found(which: np.ndarray) -> np.ndarray:
        part = outcomes[..., which]
        values = {"f_A": part[:, 0], "f_B": part[:, 1], "f_AB": np.moveaxis(part[:, 2:], 1, 0)}
        result = sobol_indices(func=values, n=len(which))
        shape = outcomes.shape[0], outcomes.shape[1] - 2
        return np.stack([result.first_order.reshape(shape), result.total_order.reshape(shape)])

    n = outcomes.shape[2]
    every = np.arange(n)
    random = np.random.default_rng([seed, 1])
    told = bootstrap(
        (every,), found, vectorized=False, n_resamples=resamples, confidence_level=level, method="percentile", rng=random
    ).confidence_interval  # fmt: skip
    (first, total), low, high = found(every), told.low, told.high
    return Indices(first, low[0], high[0], total, low[1], high[1])
