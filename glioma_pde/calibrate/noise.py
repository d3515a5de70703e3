"""Noise: how far a measurement y may lie from what the model says, f.

Standardised residual e = (y − f)/σ, or (ln y − ln f)/σ, with

    additive σ = a | proportional σ = b|f| | combined σ² = a² + b²f² | lognormal σ = a, on logarithms

Gaussian, or Student's t with ν degrees of freedom. A censored measurement says only that the value lies below (or above)
the limit that stands in its place. Where the data bring a standard deviation of their own, σ is multiplied by it: a and b
are then relative to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import betainc, gammaln
from jax.scipy.stats import norm

from .observation import value_of

KINDS = ("additive", "proportional", "combined", "lognormal")
LEFT, RIGHT = -1, 1
"""Codes of censoring: the value lies below, or above, the number given."""

_TINY = 1e-300


class Standardised(NamedTuple):
    """Of each measurement, shape of ``y``.

    Attributes:
        error: e, smooth in f and σ; ½ e² is minus its log-density less ln σ, or its whole minus log-probability where
            censored (a root of that).
        log_sigma: ln σ; zero where censored.
        constant: what the log-density has besides −½ e² − ln σ.
    """

    error: Array
    log_sigma: Array
    constant: Array


class Noise(eqx.Module):
    """Of one observable.

    Attributes:
        a, b: numbers or names of parameters; a has the observable's unit (on logarithms: none), b has none.
        degrees: ν of Student's t, or ``None`` for a Gaussian.
    """

    kind: str = eqx.field(static=True, default="lognormal")
    a: str | float = eqx.field(static=True, default=1.0)
    b: str | float = eqx.field(static=True, default=0.0)
    degrees: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"Noise is one of {', '.join(KINDS)}, not {self.kind!r}.")

    @property
    def logarithmic(self) -> bool:
        return self.kind == "lognormal"

    def names(self) -> list[str]:
        """Parameters it reads."""
        used = {"additive": (self.a,), "lognormal": (self.a,), "proportional": (self.b,), "combined": (self.a, self.b)}
        return [p for p in used[self.kind] if isinstance(p, str)]

    def sigma(self, f: Array, sd: Array, theta: Mapping[str, Array]) -> Array:
        """σ at the prediction f; ``sd`` is 1 where the data have none."""
        a, b = value_of(self.a, theta), value_of(self.b, theta)
        if self.kind == "proportional":
            return b * sd * jnp.abs(f)
        if self.kind == "combined":
            return sd * jnp.sqrt(a * a + b * b * f * f)
        return a * sd * jnp.ones_like(f)

    def standardise(
        self,
        y: Array,
        f: Array,
        sd: Array,
        censoring: Array,
        theta: Mapping[str, Array],
        hold: bool = False,
        sigma: Array | None = None,
    ) -> Standardised:
        """Measurements y (or limits) against predictions f, ``(M,)``.

        Args:
            hold: take no derivative of the error through σ. sigma: to be used in the error, in the place of σ at f.
        """
        tiny = _tiny(f)
        whole = jnp.maximum(self.sigma(f, sd, theta), tiny)
        if sigma is None:
            sigma = jax.lax.stop_gradient(whole) if hold else whole
        z, jacobian = self._distance(y, f, jnp.maximum(sigma, tiny))
        seen = censoring == 0
        error = jnp.where(seen, self._pseudo(jnp.where(seen, z, 0.0)), 0.0)
        # P(value < limit) = Φ(z), P(value > limit) = Φ(−z)
        tail = -self._log_cdf(jnp.where(seen, 0.0, -z * censoring))
        error = error + jnp.where(seen, 0.0, jnp.sqrt(2.0 * tail + 1e-12))
        constant = jnp.where(seen, jacobian + self._normaliser(), 0.0)
        return Standardised(error, jnp.where(seen, jnp.log(whole), 0.0), constant)

    def log_density(self, y: Array, f: Array, sigma: Array) -> Array:
        """Of measurements that are not censored; ``sigma`` is their σ (`sigma`)."""
        sigma = jnp.maximum(sigma, _tiny(f))
        z, jacobian = self._distance(y, f, sigma)
        return jacobian + self._normaliser() - 0.5 * self._pseudo(z) ** 2 - jnp.log(sigma)

    def _distance(self, y: Array, f: Array, sigma: Array) -> tuple[Array, Array]:
        """e, and ln de/dy less −ln σ."""
        if not self.logarithmic:
            return (y - f) / sigma, jnp.zeros_like(y)
        good = jnp.log(jnp.where(y > 0, y, 1.0))  # rows of padding; the data are checked
        return (good - jnp.log(jnp.maximum(f, _tiny(f)))) / sigma, -good

    def _pseudo(self, z: Array) -> Array:
        if self.degrees is None:
            return z
        q = z * z / self.degrees
        ratio = jnp.where(q > 1e-8, jnp.log1p(q) / jnp.where(q > 1e-8, q, 1.0), 1.0 - 0.5 * q)
        return z * jnp.sqrt((self.degrees + 1.0) / self.degrees * ratio)

    def _normaliser(self) -> float | Array:
        if self.degrees is None:
            return -0.5 * jnp.log(2.0 * jnp.pi)
        n = self.degrees
        return gammaln(0.5 * (n + 1.0)) - gammaln(0.5 * n) - 0.5 * jnp.log(n * jnp.pi)

    def _log_cdf(self, z: Array) -> Array:
        if self.degrees is None:
            return norm.logcdf(z)
        n = self.degrees
        below = 0.5 * betainc(0.5 * n, 0.5, n / (n + z * z))
        return jnp.log(jnp.where(z < 0, below, 1.0 - below))


def _tiny(f: Array) -> Array:
    return jnp.asarray(_TINY if f.dtype == jnp.float64 else 1e-37, f.dtype)
