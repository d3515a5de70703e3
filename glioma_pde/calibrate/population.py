"""Populations: each subject has values b of its own, drawn from a normal distribution that is found with them.

    b_i ~ N(μ, diag ω²) in scaled values,    y_i | b_i by the problem's noise

The likelihood of φ = (shared parameters, μ, ln ω) has b integrated out by Laplace's method,

    −ln L(φ) = Σ_i [ c_i(b̂_i) + ½ |(b̂_i − μ)/ω|² + Σ ln ω + ½ ln det H_i ],   H_i = Fisher information of b at b̂_i + 1/ω²,

with b̂_i the mode of subject i. It is minimised by L-BFGS-B (scipy) with the exact gradient, the modes' part included.

**Dropout.** Animals leave a study when their *measured* volume exceeds an end point, or for reasons unrelated to it. Given
what was measured until then the leaving says nothing more about b_i (missing at random), so this likelihood is the
right one as it stands if (i) the last measurement, the one over the end point, is among the data, and (ii) subjects have
effects of their own. Means over the animals that are left are not: the fast ones are gone. An animal that left between two
measurements because it was over the end point gets a right-censored row: its volume was above that limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax import Array
from scipy.optimize import minimize

from .problem import Problem, Table

NARROWEST, WIDEST = 0.01, 3.0
"""Bounds of ω, scaled: of relative differences between subjects where scales are logarithmic (**assumption**)."""


class Subjects(NamedTuple):
    """Modes b̂, ``(S, p)``, and precisions H, ``(S, p, p)``, scaled."""

    modes: np.ndarray
    precisions: np.ndarray


@dataclass(frozen=True)
class PopulationFit:
    """What was found.

    Attributes:
        names: of φ: shared parameters, ``mean of NAME``, ``spread of NAME``.
        phi: best values, scaled. covariance: of φ, from the curvature of the marginal likelihood.
        log_likelihood: marginal, of the data. count: measurements.
        converged: by tolerance.
    """

    names: tuple[str, ...]
    phi: np.ndarray
    covariance: np.ndarray
    subjects: Subjects
    log_likelihood: float
    count: int
    converged: bool

    @property
    def sd(self) -> np.ndarray:
        return np.sqrt(np.diag(self.covariance))


class Population(eqx.Module):
    """A problem some of whose parameters have a population distribution.

    Attributes:
        shared: places of the other parameters in the problem's vector, ``(q,)``.
    """

    problem: Problem
    shared: tuple[int, ...] = eqx.field(static=True)
    random: tuple[str, ...] = eqx.field(static=True)

    @classmethod
    def of(cls, problem: Problem) -> Population:
        """Raises: ValueError, if no parameter has a population, or a subject has one of its own without it."""
        random = tuple(f.name for f in problem.free if f.population)
        alone = [f.name for f in problem.free if f.level == "subject" and not f.population]
        if not random or alone:
            text = f"{', '.join(alone)}: give it population = true, or a shared level" if alone else "no population"
            raise ValueError(f"A population fit needs all parameters of subjects to have a population; {text}.")
        shared = [i for i, n in enumerate(problem.names) if n.partition("[")[0] not in random]
        return cls(problem, tuple(shared), random)

    @property
    def names(self) -> tuple[str, ...]:
        means = [f"mean of {n}" for n in self.random]
        return (*(self.problem.names[i] for i in self.shared), *means, *(f"spread of {n}" for n in self.random))

    def split(self, phi: Array) -> tuple[Array, Array, Array]:
        """Shared parameters, μ and ω."""
        q, p = len(self.shared), len(self.random)
        return phi[:q], phi[q : q + p], jnp.exp(phi[q + p :])

    def bounds(self) -> np.ndarray:
        """Of φ, ``(size, 2)``."""
        low, high = np.asarray(self.problem.low), np.asarray(self.problem.high)
        first = [self.problem.names.index(f"{n}[{self.problem.subjects[0]}]") for n in self.random]
        rows = [(low[i], high[i]) for i in (*self.shared, *first)]
        return np.asarray([*rows, *[(np.log(NARROWEST), np.log(WIDEST))] * len(self.random)], float)

    @property
    def log(self) -> np.ndarray:
        """Which entries of φ are logarithms, ``(size,)``; spreads are."""
        by_name = {f.name: f.log for f in self.problem.free}
        names = [*(self.problem.names[i].partition("[")[0] for i in self.shared), *self.random]
        return np.asarray([by_name[n] for n in names] + [True] * len(self.random))

    def pooled(self) -> Problem:
        """All subjects as if they had the same values: its fit is where the population's starts."""
        problem, first = self.problem, self.problem.subjects[0]
        keep = [*self.shared, *(problem.names.index(f"{n}[{first}]") for n in self.random)]
        names = (*(problem.names[i] for i in self.shared), *self.random)
        index = np.asarray(problem.index).copy()
        for k, f in enumerate(problem.free):
            if f.population:
                index[k] = names.index(f.name)
            else:
                index[k] = [names.index(problem.names[i]) for i in index[k]]
        free = tuple(f._replace(level="shared", population=False) if f.population else f for f in problem.free)
        at = np.asarray(keep)
        return Problem(
            problem.simulation, problem.conditions, problem.table, problem.fixed, jnp.asarray(index), problem.low[at],
            problem.high[at], problem.centre[at], problem.width[at], problem.noises, free, names, problem.subjects,
            problem.arms,
        )  # fmt: skip

    def theta(self, shared: Array) -> dict[str, Array]:
        """Parameters that are not a subject's own, one value for each subject."""
        s = jnp.zeros(self.problem.size, shared.dtype).at[np.asarray(self.shared, int)].set(shared)
        return {k: v for k, v in self.problem.theta(s).items() if k not in self.random}

    def own(self, b: Array) -> dict[str, Array]:
        """Natural values of a subject's own parameters."""
        by_name = {f.name: f.log for f in self.problem.free}
        return {n: jnp.exp(b[k]) if by_name[n] else b[k] for k, n in enumerate(self.random)}

    # -- one subject ------------------------------------------------------------------------

    def _rows(self, b, condition, theta, table: Table, mu, omega, hold: bool):
        e = self.problem.compare_one(condition, {**theta, **self.own(b)}, table, hold)
        return e, (b - mu) / omega

    def _mode(self, b0, condition, theta, table, mu, omega, max_steps):
        reference = self._rows(b0, condition, theta, table, mu, omega, False)[0].log_sigma

        def residuals(b, _):
            e, prior = self._rows(b, condition, theta, table, mu, omega, False)
            roots = jnp.where(table.used, jnp.sqrt(2.0 * (e.log_sigma - reference + 5.0)), 0.0)
            return jnp.concatenate([e.error, roots, prior])

        solver: Any = optx.LevenbergMarquardt(rtol=1e-7, atol=1e-7)
        found = optx.least_squares(residuals, solver, b0, max_steps=max_steps, throw=False).value
        return jnp.where(jnp.all(jnp.isfinite(found)), found, b0)

    def _marginal(self, b0, condition, theta, table, mu, omega, max_steps):
        """Minus log marginal likelihood of a subject, its mode and its precision."""
        held = jax.tree.map(jax.lax.stop_gradient, (theta, mu, omega))
        mode = self._mode(jax.lax.stop_gradient(b0), condition, held[0], table, held[1], held[2], max_steps)
        mode = jax.lax.stop_gradient(mode)

        def cost(b):
            e, prior = self._rows(b, condition, theta, table, mu, omega, False)
            return jnp.sum(0.5 * e.error**2 + e.log_sigma - e.constant) + 0.5 * jnp.sum(prior**2)

        def information(b):
            def rows(b):
                e, prior = self._rows(b, condition, theta, table, mu, omega, True)
                return jnp.concatenate([e.error, 2**0.5 * e.log_sigma, prior])

            j = jax.jacfwd(rows)(b)
            return j.T @ j

        # a Newton step from the mode is zero, but carries the mode's derivative by φ
        curvature = jax.lax.stop_gradient(information(mode))
        b = mode - jnp.linalg.solve(curvature, jax.jacfwd(cost)(mode))
        b = mode + (b - jax.lax.stop_gradient(b))
        h = information(b)
        value = cost(b) + jnp.sum(jnp.log(omega)) + 0.5 * jnp.linalg.slogdet(h)[1]
        return value, (mode, h)

    def marginal(self, phi: Array, b0: Array, max_steps: int = 30):
        """Minus ln L(φ), and modes and precisions of all subjects."""
        shared, mu, omega = self.split(phi)

        def one(condition, theta, table, b):
            return self._marginal(b, condition, theta, table, mu, omega, max_steps)

        values, (modes, h) = self.problem.conditions.each(one, self.theta(shared), self.problem.table, b0)
        return jnp.sum(values) - self._log_prior(shared), (modes, h)

    def _log_prior(self, shared: Array) -> Array:
        i = np.asarray(self.shared, int)
        return -0.5 * jnp.sum(((shared - self.problem.centre[i]) / self.problem.width[i]) ** 2)


@eqx.filter_jit
def _value_and_slope(population: Population, phi: Array, b0: Array):
    """Forward mode: φ is short, and the solver's reverse pass costs more than its few tangents."""

    def both(phi):
        value, rest = population.marginal(phi, b0)
        return value, (value, rest)

    slope, (value, rest) = jax.jacfwd(both, has_aux=True)(phi)
    return value, slope, rest


@eqx.filter_jit
def _modes(population: Population, phi: Array, b0: Array):
    return population.marginal(phi, b0, 60)[1]


def subjects_given(population: Population, phi: np.ndarray) -> Subjects:
    """Modes and precisions of the problem's subjects in a known population: for subjects that had no part in its fit."""
    dtype = population.problem.low.dtype
    at = jnp.asarray(phi, dtype)
    _, mu, _ = population.split(at)
    b0 = jnp.broadcast_to(mu, (len(population.problem.subjects), len(population.random)))
    modes, h = _modes(population, at, b0)
    return Subjects(np.asarray(modes, float), np.asarray(h, float))


def fit_population(
    population: Population,
    start: np.ndarray | None = None,
    spread: float = 0.3,
    tolerance: float = 1e-8,
    max_steps: int = 200,
    progress: Callable[[int, float], Any] | None = None,
    start_modes: np.ndarray | None = None,
) -> PopulationFit:
    """Best φ from one start.

    Args:
        start: shared parameters and means, scaled; the middle of the bounds by default.
        spread: ω at the start. progress: called with the number of evaluations and the cost.
        start_modes: of the subjects; at the start's means by default.
    """
    problem, dtype = population.problem, population.problem.low.dtype
    limits = population.bounds()
    p, q = len(population.random), len(population.shared)
    first = limits[: q + p].mean(axis=1) if start is None else np.asarray(start, float)
    phi = np.concatenate([np.clip(first, limits[: q + p, 0], limits[: q + p, 1]), np.full(p, np.log(spread))])
    modes = np.broadcast_to(phi[q : q + p], (len(problem.subjects), p)) if start_modes is None else start_modes
    state: dict[str, Any] = {"modes": jnp.asarray(modes, dtype), "count": 0}

    def evaluate(phi):
        value, slope, (modes, _) = _value_and_slope(population, jnp.asarray(phi, dtype), state["modes"])
        if np.isfinite(float(value)):
            state["modes"] = modes
        state["count"] += 1
        if progress is not None:
            progress(state["count"], float(value))
        good = np.isfinite(float(value)) and np.all(np.isfinite(slope))
        return (float(value), np.asarray(slope, float)) if good else (1e10, np.zeros(len(phi)))

    options = {"maxiter": max_steps, "ftol": tolerance * 1e-2, "gtol": 1e-4, "maxls": 30}
    found = minimize(evaluate, phi, jac=True, method="L-BFGS-B", bounds=limits, options=options)
    phi = found.x
    covariance = _covariance(lambda x: evaluate(x)[1], phi, limits)
    modes, h = _modes(population, jnp.asarray(phi, dtype), state["modes"])
    return PopulationFit(
        population.names, phi, covariance, Subjects(np.asarray(modes, float), np.asarray(h, float)),
        -float(found.fun), problem.count, bool(found.success),
    )  # fmt: skip


def _covariance(slope, phi: np.ndarray, limits: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Inverse curvature by central differences of the gradient; entries on a bound have none."""
    inside = (phi - limits[:, 0] > 2 * step) & (limits[:, 1] - phi > 2 * step)
    rows = []
    for k in np.flatnonzero(inside):
        move = np.zeros_like(phi)
        move[k] = step
        rows.append((slope(phi + move) - slope(phi - move))[inside] / (2 * step))
    covariance = np.zeros((len(phi), len(phi)))
    if rows:
        curvature = np.asarray(rows)
        values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
        values = np.maximum(values, 1e-6 * max(values[-1], 1e-300))
        covariance[np.ix_(inside, inside)] = (vectors / values) @ vectors.T
    return covariance
