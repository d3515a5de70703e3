"""Growth, kill, combination and sensing laws: small objects with one equation each."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..parameters import default
from .base import soft_zero

# -- growth: the factor g of the rate ρ g(N) u --------------------------------------------------


class Logistic(eqx.Module):
    """g = 1 − N; with carriers in N (γ_s > 0) g = (1 − N)₊, so that crowding never kills."""

    def factor(self, crowding: Array, capacity: Array, one_sided: bool) -> Array:
        free = 1.0 - crowding
        return soft_zero(free) if one_sided else free


class Gompertz(eqx.Module):
    """g = −ln N with N floored at one cell per mm³ (the front's speed goes as √ln of that floor)."""

    def factor(self, crowding: Array, capacity: Array, one_sided: bool) -> Array:
        free = -jnp.log(jnp.maximum(crowding, 1.0 / capacity))
        return soft_zero(free) if one_sided else free


class Exponential(eqx.Module):
    """g = 1."""

    def factor(self, crowding: Array, capacity: Array, one_sided: bool) -> Array:
        return jnp.ones_like(crowding)


# -- kill: the rate E(c) [1/day] ----------------------------------------------------------------


class Hill(eqx.Module):
    """E = E_max cⁿ/(IC50ⁿ + cⁿ), n ≥ 1; ``hill = None`` stands for n = 1 and spares the power."""

    emax_per_day: Array | float = default("drug.kill.emax_per_day")
    ic50_uM: Array | float = default("drug.kill.ic50_uM")
    hill: Array | float | None = default("drug.kill.hill")

    def rate(self, c: Array) -> Array:
        dose = soft_zero(c) / self.ic50_uM
        if self.hill is None:
            return self.emax_per_day * dose / (1.0 + dose)
        above = dose > 1.0
        # the ratio that is below one, so that no power overflows in float32
        ratio = jnp.where(above, 1.0 / jnp.where(above, dose, 1.0), dose) ** self.hill
        return self.emax_per_day * jnp.where(above, 1.0, ratio) / (1.0 + ratio)

    def largest(self) -> Array | float | None:
        return self.emax_per_day

    def effective_uM(self) -> Array | float:
        """A concentration [µM] with an effect: that of half of E_max."""
        return self.ic50_uM


class Linear(eqx.Module):
    """E = k c."""

    rate_per_uM_per_day: Array | float = default("drug.kill.rate_per_uM_per_day")

    def rate(self, c: Array) -> Array:
        return self.rate_per_uM_per_day * soft_zero(c)

    def largest(self) -> Array | float | None:
        return None

    def effective_uM(self) -> Array | float:
        """A concentration [µM] with an effect: that of E = 1/day."""
        return jnp.divide(1.0, self.rate_per_uM_per_day)


# -- combination: what several drugs with rates E_i [1/day] do together -----------------------------


class Additive(eqx.Module):
    """E = Σ E_i: the drugs kill independently, so that the fractions of cells that survive multiply."""

    def shares(self, rates: Sequence[Array], largest: Sequence[Array]) -> list[Array]:
        """The part of E that is due to each drug. ``largest``: upper bounds of the rates."""
        return list(rates)


class Bliss(eqx.Module):
    """E = E_m [1 − Π(1 − E_i/E_m)]: Bliss independence of effects relative to E_m, the most that any of the drugs
    can do; together they do not exceed it.

    E_m is the largest of the drugs' upper bounds (E_max of the Hill law).
    """

    def shares(self, rates: Sequence[Array], largest: Sequence[Array]) -> list[Array]:
        """The part of E that is due to each drug: E_i ∫₀¹ Π_{j≠i}(1 − t E_j/E_m) dt, which sum to E.

        The integral of a polynomial of degree n − 1, by a Gauss–Legendre rule that is exact for it.
        """
        if len(rates) < 2:
            return list(rates)
        most = functools.reduce(jnp.maximum, largest)
        effects = [r / jnp.where(most > 0, most, 1.0) for r in rates]
        nodes, weights = np.polynomial.legendre.leggauss(len(rates) // 2 + 1)
        shares = []
        for i, rate in enumerate(rates):
            others = [e for j, e in enumerate(effects) if j != i]
            terms = [
                0.5 * w * math.prod(1.0 - 0.5 * (1.0 + z) * e for e in others)
                for z, w in zip(nodes.tolist(), weights.tolist(), strict=True)
            ]
            shares.append(rate * sum(terms))
        return shares


# -- sensing: the potential Φ(a) whose gradient guides the carriers -------------------------------


class LinearSensing(eqx.Module):
    """v = χ ∇a."""

    sensitivity_mm2_per_day: Array | float = default("carriers.taxis.sensitivity_mm2_per_day")

    def potential(self, a: Array, scale: Array) -> Array:
        return self.sensitivity_mm2_per_day * a

    def velocity(self, slope: Array, magnitude2: Array | None) -> Array:
        return slope

    def largest_step(self, scale: Array) -> Array | None:
        """Largest difference of Φ between two cells, for 0 ≤ a ≤ a*."""
        return self.sensitivity_mm2_per_day * scale

    largest_speed = None


class ReceptorSensing(eqx.Module):
    """v = χ K_a/(K_a + a)² ∇a, the gradient of χ a/(K_a + a)."""

    sensitivity_mm2_per_day: Array | float = default("carriers.taxis.sensitivity_mm2_per_day")
    receptor_constant: Array | float = default("carriers.taxis.receptor_constant")

    def potential(self, a: Array, scale: Array) -> Array:
        a = soft_zero(a)
        return self.sensitivity_mm2_per_day * a / (self.receptor_constant + a)

    def velocity(self, slope: Array, magnitude2: Array | None) -> Array:
        return slope

    def largest_step(self, scale: Array) -> Array | None:
        return self.sensitivity_mm2_per_day * scale / (self.receptor_constant + scale)

    largest_speed = None


class LogarithmicSensing(eqx.Module):
    """v = χ ∇ ln(a + a₀), a₀ = offset × a*."""

    sensitivity_mm2_per_day: Array | float = default("carriers.taxis.sensitivity_mm2_per_day")
    offset_relative: Array | float = default("carriers.taxis.offset_relative")

    def potential(self, a: Array, scale: Array) -> Array:
        return self.sensitivity_mm2_per_day * jnp.log(soft_zero(a) / scale + self.offset_relative)

    def velocity(self, slope: Array, magnitude2: Array | None) -> Array:
        return slope

    def largest_step(self, scale: Array) -> Array | None:
        return self.sensitivity_mm2_per_day * jnp.log1p(1.0 / self.offset_relative)

    largest_speed = None


@jax.custom_jvp
def _bounded(slope: Array, magnitude2: Array) -> Array:
    """G/√(1 + |G|²)."""
    return slope / jnp.sqrt(1.0 + magnitude2)


@_bounded.defjvp
def _bounded_jvp(primals, tangents):
    """With its two derivatives themselves, which are all that a reverse pass then keeps."""
    slope, magnitude2 = primals
    root = jax.lax.rsqrt(1.0 + magnitude2)
    return _bounded(slope, magnitude2), root * tangents[0] - (0.5 * slope * root * root * root) * tangents[1]


class FluxLimited(eqx.Module):
    """v = v_max G/√(1 + |G|²), G = ℓ ∇ ln(a + a₀), a₀ = offset × a*: a speed that experiments report."""

    speed_mm_per_day: Array | float = default("carriers.taxis.speed_mm_per_day")
    sensing_length_mm: Array | float = default("carriers.taxis.sensing_length_mm")
    offset_relative: Array | float = default("carriers.taxis.offset_relative")

    def potential(self, a: Array, scale: Array) -> Array:
        return self.sensing_length_mm * jnp.log(soft_zero(a) / scale + self.offset_relative)

    def velocity(self, slope: Array, magnitude2: Array | None) -> Array:
        assert magnitude2 is not None
        return self.speed_mm_per_day * _bounded(slope, magnitude2)

    def largest_step(self, scale: Array) -> Array | None:
        return None

    @property
    def largest_speed(self):
        return self.speed_mm_per_day


Growth = Logistic | Gompertz | Exponential
GROWTH: dict[str, type[Growth]] = {"logistic": Logistic, "gompertz": Gompertz, "exponential": Exponential}
KILL = {"hill": Hill, "linear": Linear}
COMBINATION = {"additive": Additive, "bliss": Bliss}
SENSING = {
    "linear": LinearSensing,
    "receptor": ReceptorSensing,
    "logarithmic": LogarithmicSensing,
    "flux_limited": FluxLimited,
}
Kill = Hill | Linear
Combination = Additive | Bliss
Sensing = LinearSensing | ReceptorSensing | LogarithmicSensing | FluxLimited
