"""Temozolomide by mouth: plasma, cerebrospinal fluid, and the rate at which it kills tumour cells.

Gut A, plasma P and CSF C of one dose, by one-compartment kinetics (Ostermann et al. 2004):

    A' = −k_a A,   P' = k_a A/V − k_e P,   C' = k_x (π P − C),   k_e = CL/V

so that P and C are sums of exponentials, ∫C dt = π ∫P dt, and the half-life is ln 2 V/CL. C stands for the level in
brain, the same everywhere; what the CSF takes from plasma is neglected. Tumour cells die at the rate E(C).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..parameters import default
from .base import Context, Fields, Hazard, Module, Observable, Quantities, refuse_outside
from .kinetics import mean_decay
from .laws import Hill, Kill, Linear

# Gauss–Legendre nodes and weights on [0, 1], squared towards the start of a step, where a dose is absorbed.
_Z, _W = np.polynomial.legendre.leggauss(24)
_NODES = (0.5 * (1.0 + _Z)) ** 2
_WEIGHTS = 0.5 * _W * (1.0 + _Z)


class OralDoses(eqx.Module):
    """Single doses, shapes ``(n,)``. Doses of zero are without effect."""

    day: Array
    dose_mg_per_m2: Array

    def __check_init__(self):
        refuse_outside(-math.inf, day=self.day)
        refuse_outside(0.0, dose_mg_per_m2=self.dose_mg_per_m2)

    @classmethod
    def none(cls) -> OralDoses:
        empty = jnp.zeros((0,))
        return cls(empty, empty)


class Temozolomide(Module):
    """Temozolomide in plasma and CSF [µM].

    The three rates k_a, k_x and k_e must differ.

    Attributes:
        kill: law E(C). Its mean over a step is taken over the course of C, not at the mean of C.
    """

    name: ClassVar[str] = "temozolomide"
    needs: ClassVar = ("tumour",)
    provides: ClassVar = ("temozolomide_kill",)
    scalars: ClassVar = (
        Observable("temozolomide_plasma", "µM", "temozolomide in plasma"),
        Observable("temozolomide_csf", "µM", "temozolomide in cerebrospinal fluid"),
    )

    doses: OralDoses
    absorption_per_h: Array | float = default("temozolomide.absorption_per_h")
    clearance_l_per_h: Array | float = default("temozolomide.clearance_l_per_h")
    volume_l: Array | float = default("temozolomide.volume_l")
    csf_plasma_ratio: Array | float = default("temozolomide.csf_plasma_ratio")
    csf_exchange_per_h: Array | float = default("temozolomide.csf_exchange_per_h")
    molar_mass_g_per_mol: Array | float = default("temozolomide.molar_mass_g_per_mol")
    body_surface_m2: Array | float = default("temozolomide.body_surface_m2")
    kill: Kill = Hill(
        default("temozolomide.kill.emax_per_day"),
        default("temozolomide.kill.ic50_uM"),
        default("temozolomide.kill.hill"),
    )

    def breakpoints(self):
        return (self.doses.day,)

    def plasma(self, t: Array, dt: Array) -> Array:
        """Mean plasma concentration over [t, t + dt] [µM], in closed form; its value at t for dt = 0."""
        a, e, _ = self._rates()
        return self._mean(t, dt, ((a, a / (e - a)), (e, a / (a - e))))

    def csf(self, t: Array, dt: Array) -> Array:
        """Mean concentration in CSF over [t, t + dt] [µM], in closed form; its value at t for dt = 0."""
        return self._mean(t, dt, self._csf_terms())

    def kill_rate(self, t: Array, dt: Array) -> Array:
        """Mean of E(C) over [t, t + dt] [1/day]; exact for the linear law, by quadrature for others."""
        if isinstance(self.kill, Linear):
            return self.kill.rate(self.csf(t, dt))
        dtype = jnp.result_type(t, self.doses.day)
        since = (t - self.doses.day)[None, :] + dt * jnp.asarray(_NODES, dtype)[:, None]
        given = since > 0
        left = sum(w * jnp.exp(-rate * jnp.where(given, since, 0.0)) for rate, w in self._csf_terms())
        c = jnp.sum(jnp.where(given, self._level()[None, :] * left, 0.0), axis=1)
        return jnp.sum(jnp.asarray(_WEIGHTS, dtype) * self.kill.rate(c))

    def quantities(self, x: Fields, q: Quantities, at: Context):
        return {"temozolomide_kill": self.kill_rate(at.t, at.dt)}

    def hazards(self, x: Fields, q: Quantities, at: Context):
        return (Hazard("temozolomide_kill", q["temozolomide_kill"]),)

    def hazard_bounds(self, at: Context, limits: Mapping[str, Array]):
        largest = self.kill.largest()
        if largest is None:
            # absorbed at once, the doses would reach more: a delay that all of them share only smooths the level
            zero, (_, e, _) = jnp.zeros_like(at.t), self._rates()
            levels = jax.vmap(lambda t: jnp.sum(self._level() * mean_decay(t, zero, self.doses.day, e)))
            largest = self.kill.rate(self.csf_plasma_ratio * jnp.max(levels(self.doses.day), initial=0.0))
        return (Hazard("temozolomide_kill", jnp.asarray(largest)),)

    def look(self, x: Fields, q: Quantities, at: Context, ledger: Mapping[str, Array]):
        return {"temozolomide_plasma": self.plasma(at.t, at.dt), "temozolomide_csf": self.csf(at.t, at.dt)}

    def _rates(self) -> tuple[Array, Array, Array]:
        """k_a, k_e and k_x [1/day]."""
        a, e, x = self.absorption_per_h, self.clearance_l_per_h / self.volume_l, self.csf_exchange_per_h
        return jnp.asarray(24.0 * a), jnp.asarray(24.0 * e), jnp.asarray(24.0 * x)

    def _level(self) -> Array:
        """Plasma concentration if each dose were there at once [µM], ``(n,)``."""
        to_micromolar = 1e3 * self.body_surface_m2 / (self.volume_l * self.molar_mass_g_per_mol)
        return to_micromolar * self.doses.dose_mg_per_m2

    def _csf_terms(self) -> tuple[tuple[Array, Array], ...]:
        """(rate, weight) of the exponentials that C of a unit level consists of."""
        a, e, x = self._rates()
        scale = self.csf_plasma_ratio * x * a
        below = ((a, (e - a) * (x - a)), (e, (a - e) * (x - e)), (x, (a - x) * (e - x)))
        return tuple((rate, scale / product) for rate, product in below)

    def _mean(self, t: Array, dt: Array, terms: tuple[tuple[Array, Array], ...]) -> Array:
        return jnp.sum(self._level() * sum(w * mean_decay(t, dt, self.doses.day, rate) for rate, w in terms))
