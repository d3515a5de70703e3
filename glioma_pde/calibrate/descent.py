"""Levenberg–Marquardt within a trust region, a step at a time, so that a queue can take many searches (`lanes`).

Where σ is free the search has rounds, each with a reference for ln σ (`Problem.residuals`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax import Array

from .lanes import Search
from .problem import Problem
from .trust_region import TrustRegion

LIFTS = (5.0, 1.0, 0.6)
"""In each round no σ may fall below e^{−lift} of its value at the round's beginning; a small lift makes Gauss–Newton's
Hessian that of Newton (½ would be exact)."""
LOOSE = (1e-2, 1e-4, 0.0)
"""Tolerances of the rounds, where they are larger than the user's."""
_NO_TAGS: frozenset[object] = frozenset()


class Descent(NamedTuple):
    """Where a Levenberg–Marquardt search is.

    Attributes:
        z: where it stands. begun: where its round began.
        round: that it is in. steps: taken in all. taken: in this round.
        reference: ln σ at the beginning of the round. solver: arrays of the solver's state.
        converged: the last round that ended. finite: any round. over: all rounds have ended.
    """

    z: Array
    begun: Array
    round: Array
    steps: Array
    taken: Array
    reference: Array
    solver: Any
    converged: Array
    finite: Array
    over: Array


def levenberg_marquardt(
    problem: Problem, z0: Array, tolerance, max_steps: int, hold: tuple[Array, Array] | None = None
) -> tuple[Array, Array, Array, Array]:
    """From one start: z, whether it converged, its steps, and whether any round was finite; z is the start if none was.

    Args:
        max_steps: of each round.
        hold: mask and scaled values of entries that stay as they are (profiles).
    """
    return descent(problem, tolerance, max_steps, hold).run(z0)


def descent(problem: Problem, tolerance, max_steps: int, hold: tuple[Array, Array] | None = None) -> Search:
    """`levenberg_marquardt` a step at a time."""
    dtype = problem.low.dtype
    mask, values = hold or (jnp.zeros(problem.size, bool), jnp.zeros(problem.size, dtype))
    rounds = len(LIFTS) if problem.free_noise else 1
    lifts = jnp.asarray(LIFTS[:rounds] if problem.free_noise else (1.0,), dtype)
    accuracies = jnp.maximum(tolerance, jnp.asarray(LOOSE[:rounds] if problem.free_noise else (0.0,), dtype))
    reference = jnp.zeros(problem.table.y.shape if problem.free_noise else (), dtype)

    def solver(round_) -> TrustRegion:
        accuracy = accuracies[jnp.minimum(round_, rounds - 1)]
        return TrustRegion(accuracy, accuracy)

    def fresh(z: Array) -> Any:
        args = (problem, reference, lifts[0], mask, values, True)
        r, aux = jax.eval_shape(_residuals, z, args)
        return TrustRegion(0.0, 0.0).init(_residuals, z, args, {}, r, aux, _NO_TAGS)

    # of a state only arrays go through a loop
    static = eqx.filter(
        eqx.filter_eval_shape(fresh, problem.low), lambda v: isinstance(v, jax.ShapeDtypeStruct), inverse=True
    )

    def begin(z0: Array) -> Descent:
        z0 = jnp.where(mask, 0.0, z0)  # which nothing pulls anywhere
        zero, no = jnp.asarray(0), jnp.asarray(False)
        return Descent(z0, z0, zero, zero, zero, reference, eqx.filter(fresh(z0), eqx.is_array), no, no, no)

    def step(_: Any, state: Descent) -> Descent:
        here = solver(state.round)
        lift = lifts[jnp.minimum(state.round, rounds - 1)]
        args = (problem, state.reference, lift, mask, values, state.taken == 0)
        z, now, _ = here.step(_residuals, state.z, args, {}, eqx.combine(state.solver, static), _NO_TAGS)
        stop, result = here.terminate(_residuals, z, args, {}, now, _NO_TAGS)
        taken, going = state.taken + 1, result == optx.RESULTS.successful
        ended = stop | ~going | (taken >= max_steps)
        last = here.postprocess(_residuals, z, now.aux, args, {}, now, _NO_TAGS, result)[0]
        last = jnp.where(stop, last, z)
        good = jnp.all(jnp.isfinite(last))
        rested = jnp.where(good, last, state.begun)
        new = begin(rested)._replace(
            round=state.round + 1, steps=state.steps + 1, converged=good & stop & going, finite=state.finite | good,
            over=state.round + 1 == rounds,
        )  # fmt: skip
        same = state._replace(
            z=z, steps=state.steps + 1, taken=taken, reference=now.aux, solver=eqx.filter(now, eqx.is_array)
        )
        return jax.tree.map(lambda a, b: jnp.where(ended, a, b), new, same)

    return Search(begin, step, lambda d: d.over, lambda d: (d.z, d.converged, d.steps, d.finite))


def first_residuals(problem: Problem, z: Array) -> Array:
    """Those that the search sees when it begins at z, half whose square is the cost but for a constant."""
    mask, reference = jnp.zeros(problem.size, bool), jnp.zeros(problem.table.y.shape, z.dtype)
    return _as_they_stand(z, (problem, reference, LIFTS[0], mask, z, True))[0]


def _as_they_stand(z: Array, args) -> tuple[Array, Array]:
    """Residuals, and ln σ at the beginning of the round."""
    problem, reference, lift, mask, values, first = args
    place = jnp.where(mask, values, problem.scaled(z))
    if problem.free_noise:
        seen = problem.compare(place)
        reference = jax.lax.stop_gradient(jnp.where(first, seen.log_sigma, reference))
        residuals = problem.residuals_of(place, seen, reference, lift)
    else:
        residuals = problem.residuals(place, None, None)
    # the last entries keep z finite where the data say nothing
    return jnp.concatenate([residuals, 1e-6 * z]), reference


_residuals = eqx.filter_custom_jvp(_as_they_stand)


@_residuals.def_jvp
def _(primals, tangents):
    """The whole Jacobian in one forward pass. Linearised as it stands, the solver would keep every step of the model, and go
    through them again for each parameter."""
    z, args = primals

    def both(z):
        r, reference = _as_they_stand(z, args)
        return r, (r, reference)

    jacobian, (r, reference) = jax.jacfwd(both, has_aux=True)(z)
    return (r, reference), (jacobian @ tangents[0], jnp.zeros_like(reference))
