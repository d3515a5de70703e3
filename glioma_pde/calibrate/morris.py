"""Screening by elementary effects (Morris, Technometrics 33 (1991) 161–174).

Every trajectory starts at a random point of a grid of p levels of the unit cube and changes one factor after the other,
in a random order, by Δ = p/(2(p − 1)). The change of the outcome over that of the factor is an elementary effect; the
mean of its size, μ* (Campolongo, Cariboni & Saltelli, Environ Model Softw 22 (2007) 1509–1518), ranks the factors, and
its standard deviation σ tells of non-linearity and interactions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Effects(NamedTuple):
    """Of each factor, ``(k,)``: mean effect, mean size, standard deviation, and the standard error of the mean size."""

    mu: np.ndarray
    mu_star: np.ndarray
    sigma: np.ndarray
    error: np.ndarray


def trajectories(factors: int, count: int, levels: int, seed: int) -> np.ndarray:
    """Points of ``count`` trajectories, ``(count, factors + 1, factors)`` in the unit cube.

    Args:
        levels: p, even: then each level is as likely as any other.
    """
    if levels < 2 or levels % 2:
        raise ValueError(f"The grid of a trajectory needs an even number of levels, not {levels}.")
    random = np.random.default_rng(seed)
    step = levels / (2.0 * (levels - 1))
    start = random.integers(0, levels // 2, (count, factors)) / (levels - 1)
    upward = random.random((count, factors)) < 0.5
    first = np.where(upward, start, start + step)
    last = np.where(upward, start + step, start)
    place = np.argsort(random.random((count, factors)), axis=1)  # when each factor changes
    changed = np.arange(factors + 1)[None, :, None] > place[:, None, :]
    return np.where(changed, last[:, None, :], first[:, None, :])


def elementary_effects(points: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """The effect of each factor in each trajectory, ``(count, k)``, per unit of the cube.

    Args:
        points: from `trajectories`. outcome: ``(count, k + 1)``.
    """
    change = np.diff(points, axis=1)
    which = np.abs(change).argmax(axis=2)
    size = np.take_along_axis(change, which[..., None], axis=2)[..., 0]
    effects = np.empty(which.shape)
    np.put_along_axis(effects, which, np.diff(outcome, axis=1) / size, axis=1)
    return effects


def summarise_effects(effects: np.ndarray) -> Effects:
    """Statistics over the trajectories."""
    count = effects.shape[0]
    spread = effects.std(axis=0, ddof=1)
    error = np.abs(effects).std(axis=0, ddof=1) / np.sqrt(count)
    return Effects(effects.mean(axis=0), np.abs(effects).mean(axis=0), spread, error)
