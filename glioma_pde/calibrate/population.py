"""Populations: each subject has values b of its own, drawn from a normal distribution that is found with them.

    b_i ~ N(μ, diag ω²) in scaled values,    y_i | b_i by the problem's noise

The likelihood of φ = (shared parameters, μ, ln ω) has b integrated out by Laplace's method,

    −ln L(φ) = Σ_i [ c_i(b̂_i) + ½ |(b̂_i − μ)/ω|² + Σ ln ω + ½ ln det H_i ],   H_i = Fisher information of b at b̂_i + 1/ω²,

with b̂_i the mode of subject i. It is minimised by a quasi-Newton method with its gradient, the modes' part included (by
the expected information); see `population_search`.

**Dropout.** Animals leave a study when their *measured* volume exceeds an end point, or for reasons unrelated to it. Given
what was measured until then the leaving says nothing more about b_i (missing at random), so this likelihood is the
right one as it stands if (i) the last measurement, the one over the end point, is among the data, and (ii) subjects have
effects of their own. Means over the animals that are left are not: the fast ones are gone. An animal that left between two
measurements because it was over the end point gets a right-censored row: its volume was above that limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .noise import Standardised
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
        log_likelihood: marginal, of the data, without priors. count: measurements.
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

    def _at(self, b, condition, theta, table: Table, mu, omega):
        """−ln of a subject's joint density at b, its slope and information; the model is differentiated once."""

        def found(b):
            f = self.problem.simulation({**theta, **self.own(b)}, condition)[table.at, table.which]
            return f, f

        by_b, f = jax.jacfwd(found, has_aux=True)(b)

        # σ is held while the information is formed, but not when that is differentiated by φ
        reference = (f, {**theta, **self.own(b)})

        def both(f, b):
            full = {**theta, **self.own(b)}
            e, held = (self.problem.standardise(f, full, table, False, at) for at in (None, reference))
            prior = (b - mu) / omega
            cost = jnp.sum(0.5 * e.error**2 + e.log_sigma - e.constant) + 0.5 * jnp.sum(prior**2)
            return cost, jnp.concatenate([held.error, 2**0.5 * held.log_sigma, prior])

        axes = jnp.eye(b.shape[0], dtype=b.dtype)
        (cost, _), (slope, rows) = jax.vmap(
            lambda along, axis: jax.jvp(both, (f, b), (along, axis)), in_axes=(1, 0), out_axes=((None, None), 0)
        )(by_b, axes)
        return cost, slope, rows @ rows.T

    def _mode(self, b0, given, max_steps: int):
        """Where the density is largest, by damped scoring: until a step promises no gain, or makes none."""

        def going(state):
            _, _, step, slope, _, k, damping = state
            return (k == 0) | ((k < max_steps) & (damping < 1e8) & (-jnp.sum(slope * step) > 1e-10))

        def direction(slope, h, damping):
            return -jnp.linalg.solve(h + damping * jnp.diag(jnp.diag(h)), slope)

        def step(state):
            b, cost, step, slope, h, k, damping = state
            trial = self._at(b + step, *given)
            better = jnp.isfinite(trial[0]) & (trial[0] < cost) & jnp.all(jnp.isfinite(trial[2]))
            b, cost, slope, h = jax.tree.map(
                lambda new, old: jnp.where(better, new, old), (b + step, *trial), (b, cost, slope, h)
            )
            damping = jnp.where(better, jnp.where(damping > 1e-3, 0.1 * damping, 0.0), jnp.maximum(10 * damping, 1e-2))
            return b, cost, direction(slope, h, damping), slope, h, k + 1, damping

        # the first step has length zero: it is there to look
        p, zero = b0.shape[0], jnp.zeros((), b0.dtype)
        first = (b0, zero + jnp.inf, jnp.zeros_like(b0), jnp.zeros_like(b0), jnp.eye(p, dtype=b0.dtype), 0, zero)
        return jax.lax.while_loop(going, step, first)[0]

    def _marginal(self, b0, condition, theta, table, mu, omega, max_steps):
        """Minus log marginal likelihood of a subject, its mode and its precision."""
        held = jax.tree.map(jax.lax.stop_gradient, (theta, mu, omega))
        mode = self._mode(jax.lax.stop_gradient(b0), (condition, held[0], table, held[1], held[2]), max_steps)
        mode = jax.lax.stop_gradient(mode)

        def look(b, _):
            cost, slope, h = self._at(b, condition, theta, table, mu, omega)
            # a Newton step from the mode is zero, but carries the mode's derivative by φ
            newton = mode - jnp.linalg.solve(jax.lax.stop_gradient(h), slope)
            return mode + (newton - jax.lax.stop_gradient(newton)), (cost, h)

        _, (costs, precisions) = jax.lax.scan(look, mode, None, length=2)
        h = precisions[1]
        value = costs[1] + jnp.sum(jnp.log(omega)) + 0.5 * jnp.linalg.slogdet(h)[1]
        return value, (mode, h)

    def marginal(self, phi: Array, b0: Array, max_steps: int = 30):
        """Minus ln L(φ) of every subject, and all modes and precisions."""
        shared, mu, omega = self.split(phi)

        def one(condition, theta, table, b):
            return self._marginal(b, condition, theta, table, mu, omega, max_steps)

        values, (modes, h) = self.problem.conditions.each(one, self.theta(shared), self.problem.table, b0)
        return values - self._log_prior(shared) / values.shape[0], (modes, h)

    def compare(self, phi: Array, b: Array) -> Standardised:
        """Measurements against the predictions of their subjects' own parameters b, ``(S, p)``; shape ``(S, M)``."""
        theta = {**self.theta(self.split(phi)[0]), **jax.vmap(self.own)(b)}
        return self.problem.conditions.each(self.problem.compare_one, theta, self.problem.table)

    def log_prior_at(self, phi: np.ndarray) -> float:
        """Of the shared parameters, up to a constant; zero without priors."""
        return float(self._log_prior(self.split(jnp.asarray(phi, self.problem.low.dtype))[0]))

    def _log_prior(self, shared: Array) -> Array:
        i = np.asarray(self.shared, int)
        return -0.5 * jnp.sum(((shared - self.problem.centre[i]) / self.problem.width[i]) ** 2)


def residuals_of_subjects(population: Population, found: PopulationFit) -> np.ndarray:
    """Standardised residuals at the subjects' modes, ``(S, M)``."""
    dtype = population.problem.low.dtype
    phi, modes = (jnp.asarray(v, dtype) for v in (found.phi, found.subjects.modes))
    return np.asarray(_compare(population, phi, modes).error, float)


@eqx.filter_jit
def _compare(population: Population, phi: Array, modes: Array) -> Standardised:
    return population.compare(phi, modes)


@eqx.filter_jit
def value_and_slope(population: Population, phi: Array, b0: Array):
    """Of every subject. Forward mode: φ is short, and the solver's reverse pass costs more than its few tangents."""

    def both(phi):
        values, rest = population.marginal(phi, b0)
        return values, (values, rest)

    slopes, (values, rest) = jax.jacfwd(both, has_aux=True)(phi)
    return values, slopes, rest


def subjects_given(population: Population, phi: np.ndarray) -> Subjects:
    """Modes and precisions of the problem's subjects in a known population: for subjects that had no part in its fit."""
    dtype = population.problem.low.dtype
    at = jnp.asarray(phi, dtype)
    _, mu, _ = population.split(at)
    b0 = jnp.broadcast_to(mu, (len(population.problem.subjects), len(population.random)))
    modes, h = value_and_slope(population, at, b0)[2]
    return Subjects(np.asarray(modes, float), np.asarray(h, float))
