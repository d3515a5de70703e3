"""Finding the best parameters: many starts at once, and none of them hidden.

Few parameters: Levenberg–Marquardt within a trust region (optimistix) on residuals whose half square is the cost, noise
included. Many: Adam, then L-BFGS (optax). Every start runs until its own tolerance, in `jax.vmap` with others (`lanes`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from scipy.stats import qmc

from .descent import descent, first_residuals
from .lanes import Search, at_once, in_queue, on_cores
from .problem import Problem
from .trust_region import RADIUS, Bowl, NearestStep

MANY = 40
"""From so many parameters on, L-BFGS is used."""
SAMPLINGS = ("latin_hypercube", "sobol")
TOLERANCE = {"lm": 1e-4, "lbfgs": 1e-8}
"""By method. Levenberg–Marquardt ends where Newton's step is shorter than 1e-4 standard deviations of the parameters, and takes
it: what is left of the cost is 1e-8 or less."""


class Fit(NamedTuple):
    """What a multistart found.

    Attributes:
        s: best parameters, scaled. cost: minus log-posterior there (minus log-likelihood without priors).
        starts, ends: scaled, ``(N, size)``. costs: ``(N,)``, infinite for starts that failed.
        converged: by tolerance, ``(N,)``. steps: ``(N,)``.
        method: ``"lm"`` or ``"lbfgs"``; of a population ``"quasi-newton"``. within: costs so close count as equal.
    """

    s: Array
    cost: Array
    starts: Array
    ends: Array
    costs: Array
    converged: Array
    steps: Array
    method: str
    within: float = 0.01

    def reached(self) -> str:
        """How often the best cost was found."""
        return f"{self._best()} of {len(self.costs)} starts reached the best cost within {self.within:.2g}"

    def _best(self) -> int:
        return int(np.sum(np.asarray(self.costs) < float(self.cost) + self.within))

    def report(self, problem: Problem) -> list[str]:
        """What the user should know before trusting the fit."""
        return [*self.told(), *on_bounds(problem.names, self.s, problem.low, problem.high)]

    def told(self) -> list[str]:
        """Of the starts."""
        costs = np.asarray(self.costs)
        failed = int(np.sum(~np.isfinite(costs)))
        loose = int(np.sum(np.isfinite(costs) & ~np.asarray(self.converged)))
        out = [self.reached()]
        if failed:
            out.append(f"{failed} of {len(costs)} starts failed: the model was not finite on their way")
        if loose:
            out.append(f"{loose} of {len(costs)} starts did not converge, most often for want of steps")
        if self._best() == 1 and len(costs) > 1:
            out.append("only one start reached the best cost: take more starts before trusting it")
        return out


def on_bounds(names: Sequence[str], s, low, high) -> list[str]:
    """One sentence for every parameter on a bound; all arguments scaled."""
    s, low, high = (np.asarray(v, float) for v in (s, low, high))
    near = np.minimum(s - low, high - s) < 1e-3 * (high - low)
    return [f"{n} lies on a bound" for n, at in zip(names, near, strict=True) if at]


def fit(
    problem: Problem,
    starts: int = 32,
    seed: int = 0,
    method: str | None = None,
    sampling: str = "latin_hypercube",
    tolerance: float | None = None,
    max_steps: int = 200,
) -> Fit:
    """Best parameters from ``starts`` starting points within the bounds, and the given start where there is one.

    Args:
        method: ``"lm"`` or ``"lbfgs"``; by the number of parameters if not given.
        tolerance: at which a start stops: with ``"lm"`` what `trust_region.TrustRegion` says, else the relative change of the
            parameters; by default `TOLERANCE`.
    """
    method = method or ("lm" if problem.size < MANY else "lbfgs")
    points = starting_points(problem, starts, seed, sampling)
    search = _descend if method == "lm" else _warm_and_descend
    tolerance = TOLERANCE[method] if tolerance is None else tolerance
    ends, costs, converged, steps = on_cores(
        lambda s: search(problem, s, tolerance, max_steps), points, problem.conditions.cells
    )
    best = int(jnp.argmin(costs))
    return Fit(ends[best], costs[best], points, ends, costs, converged, steps, method)


def starting_points(problem: Problem, count: int, seed: int, sampling: str = "latin_hypercube") -> Array:
    """Scaled vectors that fill the bounds evenly, ``(count, size)``; the first is the user's own where one is given."""
    if sampling not in SAMPLINGS:
        raise ValueError(f"Starts are drawn by {' or '.join(SAMPLINGS)}, not {sampling!r}.")
    draw = {"latin_hypercube": qmc.LatinHypercube, "sobol": qmc.Sobol}[sampling](problem.size, rng=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Sobol sets are most even at powers of two
        unit = draw.random(count)
    low, high = np.asarray(problem.low), np.asarray(problem.high)
    points = low + (high - low) * unit
    own = {f.name: f.start for f in problem.free if f.start is not None}
    if own:
        given = np.asarray(problem.from_natural(own))
        points[0] = np.where(np.isnan(given), 0.5 * (low + high), given)
    return jnp.asarray(points, problem.low.dtype)


@eqx.filter_jit
def _descend(problem: Problem, points: Array, tolerance, max_steps: int):
    """From every start, scaled: the end, scaled, its cost, infinite where nothing was finite, whether it converged, and steps."""
    z = jax.vmap(problem.unconstrained)(points)
    return _looked_at(problem, *in_queue(descent(problem, tolerance, max_steps), z))


@eqx.filter_jit
def _warm_and_descend(problem: Problem, points: Array, tolerance, max_steps: int):
    """The same by `quasi_newton`."""

    def one(point):
        return quasi_newton(problem, problem.unconstrained(point), tolerance, max_steps)

    return _looked_at(problem, *jax.lax.map(one, points, batch_size=at_once(len(points))))


def _looked_at(problem: Problem, z: Array, converged: Array, steps: Array, finite: Array):
    ends = jax.vmap(problem.scaled)(z)
    costs = jax.lax.map(problem.cost, ends, batch_size=at_once(len(ends)))
    return ends, jnp.where(finite & jnp.isfinite(costs), costs, jnp.inf), converged, steps


class Sets(NamedTuple):
    """One problem fitted to many sets of measurements.

    Attributes:
        ends: best parameters, scaled, ``(N, size)``. costs: ``(N,)``, infinite for searches that failed.
        converged: by tolerance, ``(N,)``. steps: ``(N,)``.
    """

    ends: Array
    costs: Array
    converged: Array
    steps: Array


def fit_sets(
    problem: Problem,
    values: Array,
    start: Array | None = None,
    tolerance: float = TOLERANCE["lm"],
    max_steps: int = 200,
) -> Sets:
    """Best parameters of each of many sets of measurements by one search each: mice, or simulated data.

    Args:
        values: in the places of ``problem.table.y``, ``(N, S, M)``.
        start: scaled; the middle of the bounds by default. Several sets start a step away from where the fit to their
            medians ends: the model is differentiated there once for all of them.
    """
    z = problem.unconstrained(0.5 * (problem.low + problem.high) if start is None else jnp.asarray(start))[None]
    values = jnp.asarray(values, problem.low.dtype)
    if len(values) > 1:
        middle = jnp.median(values, axis=0)[None]
        z = _a_step_away(problem, _each_set(problem, (middle, z), tolerance, max_steps)[0][0], values)
    return Sets(
        *on_cores(lambda sets: _each_set(problem, sets, tolerance, max_steps), (values, z), problem.conditions.cells)
    )


def _with_values(problem: Problem, y: Array) -> Problem:
    return eqx.tree_at(lambda p: p.table.y, problem, y)


@eqx.filter_jit
def _each_set(problem: Problem, sets: tuple[Array, Array], tolerance, max_steps: int):
    """Of measurements and starts z: ends, scaled, costs, whether they converged, and steps."""

    def search(item) -> Search:
        return descent(_with_values(problem, item[0]), tolerance, max_steps)

    def cost(item) -> Array:
        return _with_values(problem, item[0]).cost(item[1])

    any_ = descent(problem, tolerance, max_steps)
    mine = Search(
        lambda item: search(item).begin(item[1]), lambda item, state: search(item).step(item[1], state), any_.done, any_.end
    )  # fmt: skip
    z, converged, steps, finite = in_queue(mine, sets)
    ends = jax.vmap(problem.scaled)(z)
    costs = jax.lax.map(cost, (sets[0], ends), batch_size=at_once(len(ends)))
    return ends, jnp.where(finite & jnp.isfinite(costs), costs, jnp.inf), converged, steps


@eqx.filter_jit
def _a_step_away(problem: Problem, s: Array, values: Array) -> Array:
    """z of every set, a step of Gauss and Newton's from ``s``."""
    z = problem.unconstrained(s)

    def one(y):
        def both(z):
            r = first_residuals(_with_values(problem, y), z)
            return r, r

        jacobian, r = jax.jacfwd(both, has_aux=True)(z)
        step, _ = NearestStep().step(jnp.asarray(RADIUS, z.dtype), Bowl.of(jacobian, r, jnp.zeros((), z.dtype)))
        return jnp.where(jnp.all(jnp.isfinite(step)), z + step, z)

    return jax.vmap(one)(values)


def quasi_newton(
    problem: Problem, z0: Array, tolerance, max_steps: int, warm: int = 100
) -> tuple[Array, Array, Array, Array]:
    """Adam, then L-BFGS with a zoom line search, from one start: z, whether it converged, its steps, and whether z is
    finite."""

    def cost(z):
        return problem.cost(problem.scaled(z))

    adam = optax.adam(0.05)

    def warming(state, _):
        z, memory = state
        slope = jax.grad(cost)(z)
        slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
        change, memory = adam.update(slope, memory, z)
        return (optax.apply_updates(z, change), memory), None

    (z, _), _ = jax.lax.scan(warming, (z0, adam.init(z0)), None, length=warm)
    lbfgs = optax.lbfgs()
    value_and_slope = optax.value_and_grad_from_state(cost)

    def going(state):
        _, _, change, k = state
        return (k < max_steps) & (change > tolerance)

    def step(state):
        z, memory, _, k = state
        value, slope = value_and_slope(z, state=memory)
        update, memory = lbfgs.update(slope, memory, z, value=value, grad=slope, value_fn=cost)
        moved = jnp.max(jnp.abs(update)) / (1.0 + jnp.max(jnp.abs(z)))
        return optax.apply_updates(z, update), memory, moved, k + 1

    z, _, change, k = jax.lax.while_loop(going, step, (z, lbfgs.init(z), jnp.inf, 0))
    return z, change <= tolerance, jnp.asarray(warm + k), jnp.all(jnp.isfinite(z))
