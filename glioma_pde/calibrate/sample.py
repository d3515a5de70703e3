"""Samples of the posterior by the no-U-turn sampler (blackjax, an extra of this package), for up to some ten parameters."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import GliomaError
from .problem import Problem

ENOUGH, MIXED = 400, 1.01
"""Effective draws and R̂ from which on quantiles can be trusted (Vehtari et al. 2021)."""


class Samples(NamedTuple):
    """Draws of all chains.

    Attributes:
        s: scaled, ``(chains, draws, size)``. rhat, ess: of each parameter. divergent: number of divergent steps.
    """

    s: np.ndarray
    rhat: np.ndarray
    ess: np.ndarray
    divergent: int

    @property
    def flat(self) -> np.ndarray:
        """All draws, ``(chains · draws, size)``."""
        return self.s.reshape(-1, self.s.shape[-1])

    def report(self, problem: Problem) -> list[str]:
        """What speaks against trusting them."""
        out = []
        for name, rhat, ess in zip(problem.names, self.rhat, self.ess, strict=True):
            if not rhat < MIXED or not ess >= ENOUGH:
                out.append(f"{name}: R̂ = {rhat:.3f}, {ess:.0f} effective draws; take more or reparameterise")
        if self.divergent:
            out.append(f"{self.divergent} steps diverged: the posterior has a corner that the chains do not enter")
        return out


def sample(problem: Problem, s: Array, draws: int = 1000, warmup: int = 500, chains: int = 4, seed: int = 0) -> Samples:
    """Chains from points scattered around ``s`` (the best parameters, scaled).

    Raises:
        GliomaError: if blackjax is not installed.
    """
    try:
        import blackjax
    except ImportError:
        raise GliomaError("Sampling needs blackjax: pip install 'glioma_pde[sample]'.") from None
    keys = jax.random.split(jax.random.key(seed), chains)
    starts = problem.unconstrained(jnp.asarray(s))

    found, divergent = _chains(problem, starts, keys, draws, warmup)
    rhat = blackjax.diagnostics.potential_scale_reduction(found)
    ess = blackjax.diagnostics.effective_sample_size(found)
    return Samples(np.asarray(found), np.asarray(rhat), np.asarray(ess), int(divergent))


@eqx.filter_jit
def _chains(problem: Problem, starts: Array, keys: Array, draws: int, warmup: int):
    import blackjax

    density = _forward_mode(lambda z: problem.log_density(z))

    def chain(key):
        scatter, adapt, go = jax.random.split(key, 3)
        z = starts + 0.1 * jax.random.normal(scatter, starts.shape, starts.dtype)
        adaptation = blackjax.window_adaptation(blackjax.nuts, density)
        (state, tuned), _ = adaptation.run(adapt, z, num_steps=warmup)
        step = blackjax.nuts(density, **tuned).step

        def one(state, key):
            state, info = step(key, state)
            return state, (state.position, info.is_divergent)

        return jax.lax.scan(one, state, jax.random.split(go, draws))[1]

    z, divergent = jax.vmap(chain)(keys)
    return jax.vmap(jax.vmap(problem.scaled))(z), jnp.sum(divergent)


def _forward_mode(function):
    """The function with its gradient in forward mode: for few parameters cheaper than the solver's reverse pass."""

    @jax.custom_vjp
    def wrapped(z):
        return function(z)

    def forward(z):
        def both(z):
            value = function(z)
            return value, value

        slope, value = jax.jacfwd(both, has_aux=True)(z)
        return value, slope

    wrapped.defvjp(forward, lambda slope, by: (by * slope,))
    return wrapped
