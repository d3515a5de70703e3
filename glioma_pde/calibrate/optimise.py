"""Finding the best parameters: many starts at once, and none of them hidden.

Few parameters: Levenberg–Marquardt within a trust region (optimistix) on residuals whose half square is the cost, noise
included. Many: Adam, then L-BFGS (optax). Every start runs until its own tolerance, in `jax.vmap` with others (`in_lanes`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
from jax import Array
from scipy.stats import qmc

from .problem import Problem
from .trust_region import TrustRegion

LANES = 8
"""Starts in one `jax.vmap` on a CPU: with more of them a core does not get through faster, and all wait for the slowest."""
MANY = 40
"""From so many parameters on, L-BFGS is used."""
SAMPLINGS = ("latin_hypercube", "sobol")
LIFTS = (5.0, 1.0, 0.6)
"""In each round no σ may fall below e^{−lift} of its value at the round's beginning; a small lift makes Gauss–Newton's
Hessian that of Newton (½ would be exact)."""
TOLERANCE = {"lm": 1e-4, "lbfgs": 1e-8}
"""By method. Levenberg–Marquardt ends where Newton's step is shorter than 1e-4 standard deviations of the parameters, and takes
it: what is left of the cost is 1e-8 or less."""
LOOSE = (1e-2, 1e-4, 0.0)
"""Tolerances of the rounds, where they are larger than the user's."""


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
    z0 = jax.vmap(problem.unconstrained)(points)
    search = levenberg_marquardt if method == "lm" else quasi_newton
    tolerance = TOLERANCE[method] if tolerance is None else tolerance
    z, converged, steps, finite = _search(problem, z0, search, tolerance, max_steps)
    ends, costs = _costs(problem, z)
    costs = jnp.where(finite & jnp.isfinite(costs), costs, jnp.inf)
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


def in_lanes(function: Callable[..., Any], *arrays: Array) -> Any:
    """`jax.vmap` by `LANES` rows at a time; on other devices than a CPU by all at once."""
    if jax.default_backend() != "cpu":
        return jax.vmap(function)(*arrays)
    return jax.lax.map(lambda row: function(*row), arrays, batch_size=LANES)


@eqx.filter_jit
def _search(problem: Problem, z0: Array, search: Callable, tolerance, max_steps: int):
    return in_lanes(lambda z: search(problem, z, tolerance, max_steps), z0)


@eqx.filter_jit
def _costs(problem: Problem, z: Array):
    ends = jax.vmap(problem.scaled)(z)
    return ends, jax.vmap(problem.cost)(ends)


def levenberg_marquardt(
    problem: Problem, z0: Array, tolerance, max_steps: int, hold: tuple[Array, Array] | None = None
) -> tuple[Array, Array, Array, Array]:
    """From one start: z, whether it converged, its steps, and whether any round was finite; z is the start if none was.

    Args:
        hold: mask and scaled values of entries that stay as they are (profiles).
    """
    mask, values = hold or (jnp.zeros(z0.shape, bool), z0)
    z0 = jnp.where(mask, 0.0, z0)  # which nothing pulls anywhere

    def search(z, round_):
        lift, accuracy = round_
        solver = TrustRegion(accuracy, accuracy)
        place = jnp.where(mask, values, problem.scaled(z))
        reference = jax.lax.stop_gradient(problem.compare(place).log_sigma) if problem.free_noise else jnp.zeros(())
        args = (problem, reference, lift, mask, values)
        found: Any = optx.least_squares(_residuals, solver, z, args=args, max_steps=max_steps, throw=False)
        good = jnp.all(jnp.isfinite(found.value))
        converged = good & (found.result == optx.RESULTS.successful)
        return jnp.where(good, found.value, z), (converged, found.stats["num_steps"], good)

    if not problem.free_noise:
        z, (converged, steps, good) = search(z0, (jnp.asarray(1.0, z0.dtype), jnp.asarray(tolerance, z0.dtype)))
        return z, converged, steps, good
    z, (converged, steps, good) = jax.lax.scan(
        search, z0, (jnp.asarray(LIFTS, z0.dtype), jnp.maximum(tolerance, jnp.asarray(LOOSE, z0.dtype)))
    )
    return z, converged[-1], jnp.sum(steps), jnp.any(good)


def _as_they_stand(z: Array, args) -> Array:
    problem, reference, lift, mask, values = args
    place = jnp.where(mask, values, problem.scaled(z))
    # the last entries keep z finite where the data say nothing
    return jnp.concatenate([problem.residuals(place, reference, lift), 1e-6 * z])


_residuals = eqx.filter_custom_jvp(_as_they_stand)


@_residuals.def_jvp
def _(primals, tangents):
    """The whole Jacobian in one forward pass. Linearised as it stands, the solver would keep every step of the model, and go
    through them again for each parameter."""
    z, args = primals

    def both(z):
        r = _as_they_stand(z, args)
        return r, r

    jacobian, r = jax.jacfwd(both, has_aux=True)(z)
    return r, jacobian @ tangents[0]


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
