"""The search for a population: a quasi-Newton descent with the gradient of the marginal likelihood, whose first Hessian is the
sum of the outer products of the subjects' gradients (Berndt et al. 1974); see `population`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import qmc

from ..errors import GliomaError
from .optimise import Fit
from .population import Population, PopulationFit, Subjects, value_and_slope


def fit_population(
    population: Population,
    start: np.ndarray | None = None,
    spread: float | np.ndarray = 0.3,
    tolerance: float = 1e-5,
    max_steps: int = 100,
    progress: Callable[[int, float], Any] | None = None,
    start_modes: np.ndarray | None = None,
) -> PopulationFit:
    """Best φ from one start.

    Args:
        start: shared parameters and means, scaled; by default the parameters' own starts, or the middle of the bounds.
        spread: ω at the start, a number or one for each.
        tolerance: of the cost, relative.
        progress: called with the number of evaluations and the cost.
        start_modes: of the subjects; at the start's means by default.

    Raises:
        GliomaError: if the likelihood is not finite at the start.
    """
    phi = _with_spread(population, _own_start(population) if start is None else np.asarray(start, float), spread)
    look = _Look(population, progress)
    found = _descend(look, phi, look.first_modes(phi, start_modes), population.bounds(), tolerance, max_steps)
    return _finished(population, look, found)


def search_population(
    population: Population,
    starts: int = 3,
    seed: int = 0,
    tolerance: float = 1e-5,
    max_steps: int = 100,
    progress: Callable[[int, float], Any] | None = None,
) -> tuple[PopulationFit, Fit]:
    """Best φ of several starts: the user's own, then points of a Latin hypercube in the middle half of the bounds.

    Raises:
        GliomaError: if the likelihood is finite at no start.
    """
    limits, look = population.bounds(), _Look(population, progress)
    many = len(limits) - len(population.random)
    unit = qmc.LatinHypercube(many, rng=seed).random(starts)
    points = limits[:many, 0] + (0.25 + 0.5 * unit) * (limits[:many, 1] - limits[:many, 0])
    points[0] = _own_start(population)
    begun, ends = [], []
    for point in points:
        phi = _with_spread(population, point, 0.3)
        begun.append(phi)
        ends.append(_descend(look, phi, look.first_modes(phi, None), limits, tolerance, max_steps))
    costs = np.asarray([end[1] for end in ends])
    best = int(np.argmin(costs))
    tried = Fit(
        jnp.asarray(ends[best][0]), jnp.asarray(costs[best]), jnp.asarray(np.stack(begun)),
        jnp.asarray(np.stack([end[0] for end in ends])), jnp.asarray(costs),
        jnp.asarray([end[3] for end in ends]), jnp.asarray([end[4] for end in ends]), "quasi-newton",
        # a descent stops while it still promises so much
        max(0.01, 2.0 * tolerance * (1.0 + abs(float(costs[best])))),
    )  # fmt: skip
    return _finished(population, look, ends[best]), tried


def _own_start(population: Population) -> np.ndarray:
    limits = population.bounds()
    many = len(limits) - len(population.random)
    by_name = {f.name: f for f in population.problem.free}
    names = [*(population.problem.names[i].partition("[")[0] for i in population.shared), *population.random]
    middle = limits[:many].mean(axis=1)
    own = [by_name[n] for n in names]
    return np.asarray([m if f.start is None else float(f.scale(f.start)) for m, f in zip(middle, own, strict=True)])


def _with_spread(population: Population, point: np.ndarray, spread: float | np.ndarray) -> np.ndarray:
    p = len(population.random)
    limits = population.bounds()[: len(point)]
    return np.concatenate([np.clip(point, limits[:, 0], limits[:, 1]), np.log(np.broadcast_to(spread, p))])


class _Look:
    """φ and starting modes → cost, gradients of the subjects ``(S, size)``, modes."""

    def __init__(self, population: Population, progress: Callable[[int, float], Any] | None) -> None:
        self.population, self.progress, self.count = population, progress, 0
        self.dtype = population.problem.low.dtype

    def first_modes(self, phi: np.ndarray, modes: np.ndarray | None) -> Array:
        p, q = len(self.population.random), len(self.population.shared)
        shape = (len(self.population.problem.subjects), p)
        return jnp.asarray(np.broadcast_to(phi[q : q + p], shape) if modes is None else modes, self.dtype)

    def __call__(self, phi: np.ndarray, modes: Array) -> tuple[float, np.ndarray, Array]:
        values, slopes, (modes, _) = value_and_slope(self.population, jnp.asarray(phi, self.dtype), modes)
        value, slopes = float(jnp.sum(values)), np.asarray(slopes, float)
        self.count += 1
        if self.progress is not None:
            self.progress(self.count, value)
        good = np.isfinite(value) and np.all(np.isfinite(slopes)) and bool(jnp.all(jnp.isfinite(modes)))
        return (value if good else np.inf), slopes, modes


def _finished(population: Population, look: _Look, found) -> PopulationFit:
    phi, value, modes, converged, _ = found
    if not np.isfinite(value):
        raise GliomaError("The population's likelihood is not finite at its start; narrow the bounds.")
    covariance = _covariance(lambda x: look(x, modes)[1].sum(axis=0), phi, population.bounds())
    modes, h = value_and_slope(population, jnp.asarray(phi, look.dtype), modes)[2]
    return PopulationFit(
        population.names, phi, covariance, Subjects(np.asarray(modes, float), np.asarray(h, float)),
        -value - population.log_prior_at(phi), population.problem.count, converged,
    )  # fmt: skip


def _descend(evaluate: Callable, x: np.ndarray, modes: Array, limits: np.ndarray, tolerance: float, max_steps: int):
    """Quasi-Newton descent within bounds: x, the value, the modes there, whether it converged, and its steps.

    Trial points start their modes from those of the best point, so that a bad one leaves nothing behind.

    Args:
        evaluate: x, modes → value, gradients of the subjects ``(S, size)``, modes.
    """
    value, slopes, modes = evaluate(x, modes)
    slope = slopes.sum(axis=0)
    hessian = slopes.T @ slopes + 1e-2 * np.eye(len(x))
    radius = 0.5
    for k in range(max_steps):
        if not np.isfinite(value):
            break
        low, high = limits[:, 0] - x, limits[:, 1] - x
        free = ~(((low > -1e-9) & (slope > 0)) | ((high < 1e-9) & (slope < 0)))
        step = np.zeros_like(x)
        step[free] = -np.linalg.solve(hessian[np.ix_(free, free)], slope[free])
        # Newton's decrement: what the model of the cost promises
        if -0.5 * slope @ step < tolerance * (1.0 + abs(value)):
            return x, value, modes, True, k
        step *= min(1.0, radius / np.abs(step).max())
        step = np.clip(step, low, high)
        trial, trial_slopes, trial_modes = evaluate(x + step, modes)
        promised = slope @ step + 0.5 * step @ hessian @ step
        gained = trial - value
        if not gained < 0:
            radius = 0.3 * float(np.abs(step).max())
            if radius < 1e-7:
                return x, value, modes, False, k
        elif gained < 0.5 * promised:
            radius = max(radius, 2.0 * float(np.abs(step).max()))
        if np.isfinite(trial):
            hessian = _updated(hessian, step, trial_slopes.sum(axis=0) - slope)
        if gained < 0:
            x, value, modes, slope = x + step, trial, trial_modes, trial_slopes.sum(axis=0)
    return x, value, modes, False, max_steps


def _updated(hessian: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """BFGS, damped so that the Hessian stays positive definite (Powell 1978)."""
    moved = hessian @ step
    curvature, along = step @ moved, step @ change
    if curvature <= 0:
        return hessian
    if along < 0.2 * curvature:
        share = 0.8 * curvature / (curvature - along)
        change = share * change + (1.0 - share) * moved
    return hessian - np.outer(moved, moved) / curvature + np.outer(change, change) / (step @ change)


def _covariance(slope, phi: np.ndarray, limits: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Inverse curvature by differences of the gradient; entries on a bound have none."""
    inside = (phi - limits[:, 0] > 2 * step) & (limits[:, 1] - phi > 2 * step)
    here, rows = slope(phi), []
    for k in np.flatnonzero(inside):
        move = np.zeros_like(phi)
        move[k] = step
        rows.append((slope(phi + move) - here)[inside] / step)
    covariance = np.zeros((len(phi), len(phi)))
    if rows:
        curvature = np.asarray(rows)
        values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
        values = np.maximum(values, 1e-6 * max(values[-1], 1e-300))
        covariance[np.ix_(inside, inside)] = (vectors / values) @ vectors.T
    return covariance
