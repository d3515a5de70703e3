"""Gauss–Newton within a trust region, as a solver of optimistix: what starts far from the best parameters arrives in few steps.

The linearised residuals r + Jp are least where (JᵀJ + λ)p = −Jᵀr. Levenberg and Marquardt take λ from the last step's; here it
is that at which |p| is the radius within which the linearisation has proved true (Moré 1978), λ = 0 if Newton's own step is
shorter. The radius is in units of the unconstrained coordinates, in which a step of some units crosses the bounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax import Array

RADIUS = 2.0
"""At the start."""
SHORT = 0.05
"""Of a last step: within it residuals are straight."""
_NEWTON = 12
"""Steps to the length of p, of which each doubles the digits."""


class Bowl(NamedTuple):
    """JᵀJ = V diag(w) Vᵀ, and g = VᵀJᵀr; before: `left` of the bowl before this one, zero if there was none."""

    axes: Array
    w: Array
    g: Array
    before: Array

    @classmethod
    def of(cls, jacobian: Array, residual: Array, before: Array) -> Bowl:
        w, axes = jnp.linalg.eigh(jacobian.T @ jacobian)
        return cls(axes, w, axes.T @ (jacobian.T @ residual), before)

    @property
    def curvature(self) -> Array:
        """w, where rounding has left some of it."""
        tiny = jnp.finfo(self.w.dtype)
        return jnp.maximum(self.w, jnp.maximum(tiny.eps * jnp.max(self.w), tiny.tiny))

    @property
    def left(self) -> Array:
        """Square of the length of Newton's step in standard deviations of the parameters."""
        return jnp.sum(self.g**2 / self.curvature)

    @property
    def left_after(self) -> Array:
        """What that will be after a short step of Newton's, each being shorter than the one before by the same factor."""
        rate = jnp.sqrt(self.left / jnp.maximum(self.before, jnp.finfo(self.w.dtype).tiny))
        short = jnp.sum((self.g / self.curvature) ** 2) < SHORT**2
        return jnp.where(short & (rate < 0.5), self.left * (rate / (1.0 - jnp.minimum(rate, 0.5))) ** 2, jnp.inf)


class NearestStep(optx.AbstractDescent):
    """p of at most a certain length that makes |r + Jp| least."""

    def init(self, y, f_info_struct):
        return Bowl(jnp.zeros((y.size, y.size), y.dtype), jnp.ones_like(y), jnp.zeros_like(y), jnp.zeros((), y.dtype))

    def query(self, y, f_info, state):
        return Bowl.of(f_info.jac.as_matrix(), f_info.residual, state.left)

    def step(self, step_size, state):
        w = state.curvature

        def closer(_, damping):
            """Newton's step towards 1/|p| = 1/radius, whose left side is nearly straight; from below, never beyond."""
            p = state.g / (w + damping)
            square = jnp.maximum(jnp.sum(p * p), jnp.finfo(w.dtype).tiny)
            slope = jnp.maximum(jnp.sum(p * p / (w + damping)), jnp.finfo(w.dtype).tiny)
            return damping + jnp.maximum(jnp.sqrt(square) / step_size - 1.0, 0.0) * square / slope

        damping = jax.lax.fori_loop(0, _NEWTON, closer, jnp.zeros((), w.dtype))
        return -state.axes @ (state.g / (w + damping)), optx.RESULTS.successful


class Radius(optx.AbstractSearch):
    """Doubled after steps to its edge that gain three quarters of what was promised, and a quarter of the step after those
    that gain less than a quarter; steps that gain nothing are not taken."""

    def init(self, y, f_info_struct):
        return jnp.asarray(RADIUS, y.dtype)

    def step(self, first_step, y, y_eval, f_info, f_eval_info, state):
        moved = y_eval - y
        before, after = f_info.as_min(), f_eval_info.as_min()
        promised = before - 0.5 * jnp.sum((f_info.jac.mv(moved) + f_info.residual) ** 2)
        gained, length = before - after, jnp.sqrt(jnp.sum(moved**2))
        # rounding may hide the gain of the last step
        floor = 10.0 * jnp.finfo(before.dtype).eps * before
        good = gained > 0.75 * promised - floor
        poor = ~(gained > 0.25 * promised - floor)
        radius = jnp.where(poor, 0.25 * length, jnp.where(good & (length > 0.9 * state), 2.0 * state, state))
        radius = jnp.where(first_step, state, radius)
        return radius, first_step | (gained > -floor), optx.RESULTS.successful, radius


def _silent(**state: Any) -> None:
    """Says nothing of a step."""


class TrustRegion(optx.AbstractGaussNewton):
    """Stops where Newton's step, or the one to be expected after it, is shorter than ``rtol`` standard deviations of the
    parameters, as the residuals in units of σ tell them, or where parameters and residuals have changed by less than the tolerances. A last step as short as
    `SHORT` is taken without a look."""

    rtol: Any
    atol: Any
    norm: Any = eqx.field(static=True, default=optx.max_norm)
    descent: Any = eqx.field(default_factory=NearestStep)
    search: Any = eqx.field(default_factory=Radius)
    verbose: Any = eqx.field(static=True, default=_silent)

    def terminate(self, fn, y, args, options, state, tags):
        bowl = state.descent_state
        near = (state.num_accepted_steps > 0) & (jnp.minimum(bowl.left, bowl.left_after) < self.rtol**2)
        # steps from where nothing is finite lead nowhere
        lost = (state.num_steps > 0) & ~jnp.all(jnp.isfinite(state.f_info.residual))
        result = optx.RESULTS.where(lost, optx.RESULTS.nonlinear_divergence, state.result)
        return state.terminate | near, result

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        last = state.y_eval - y
        short = jnp.all(jnp.isfinite(last)) & (jnp.max(jnp.abs(last)) < SHORT)
        return jnp.where(short & (result == optx.RESULTS.successful), y + last, y), aux, {}
