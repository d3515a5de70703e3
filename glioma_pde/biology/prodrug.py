"""Prodrug (5-FC): plasma kinetics, exchange with the brain, conversion by the carriers' enzyme.

Plasma, one compartment:  P' = Σ (dose rates) F/(V M) − k_e P,  k_e = ln 2 / t½        [µM]
Brain:                    τ ∂t p = τ ∇·(D_p∇p) + k_ex (π P − p) − W p/(K_m + p),   W = V_max K s × 10¹²    [µM/day]
with τ = 0 (`Prodrug`) or 1 (`DynamicProdrug`), or held at p = π P when the pool is taken as inexhaustible
(``depletable = False``).
Each molecule converted is one molecule of drug. Where vessels leak (a module provides ``vessel_leakiness``), k_ex is
higher by the leakiness times k_ex,l.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ..numerics.diffusion import conductances, outflow_rate
from ..parameters import default
from ..tissue import Tissue
from .base import DENSEST, SUBSTANCE, Context, Fields, FieldSpec, Flux, Module, Quantities, Transfer, refuse_outside
from .kinetics import mean_decay, mean_rise

MICROMOLAR_PER_MOL_PER_MM3 = 1e12
"""1 mol/mm³ = 10⁶ mol/L = 10¹² µM."""


class Courses(eqx.Module):
    """Windows of constant dose rate, shapes ``(n,)``: a course of tablets, or an infusion.

    Windows of zero length or zero dose are without effect, which lets patients with fewer courses share a batch.
    """

    start_day: Array
    end_day: Array
    dose_mg_per_kg_per_day: Array

    def __check_init__(self):
        refuse_outside(-math.inf, start_day=self.start_day, end_day=self.end_day)
        refuse_outside(0.0, dose_mg_per_kg_per_day=self.dose_mg_per_kg_per_day)

    @classmethod
    def none(cls) -> Courses:
        empty = jnp.zeros((0,))
        return cls(empty, empty, empty)


class Boluses(eqx.Module):
    """Single doses, absorbed at once, shapes ``(n,)``."""

    day: Array
    dose_mg_per_kg: Array

    def __check_init__(self):
        refuse_outside(-math.inf, day=self.day)
        refuse_outside(0.0, dose_mg_per_kg=self.dose_mg_per_kg)

    @classmethod
    def none(cls) -> Boluses:
        empty = jnp.zeros((0,))
        return cls(empty, empty)


class Prodrug(Module):
    """Prodrug in plasma and brain.

    Attributes:
        depletable: conversion draws on the pool (default) instead of leaving p = π P.
    """

    name: ClassVar[str] = "prodrug"
    provides: ClassVar = ("prodrug", "prodrug_plasma", "conversion")
    outputs: ClassVar[tuple[FieldSpec, ...]] = (FieldSpec("prodrug", "µM", "prodrug concentration in brain"),)
    needs: ClassVar = ("carriers",)
    uses: ClassVar = ("vessel_leakiness",)

    courses: Courses
    boluses: Boluses
    plasma_half_life_h: Array | float = default("prodrug.plasma_half_life_h")
    volume_l_per_kg: Array | float = default("prodrug.volume_l_per_kg")
    bioavailability: Array | float = default("prodrug.bioavailability")
    molar_mass_g_per_mol: Array | float = default("prodrug.molar_mass_g_per_mol")
    brain_plasma_ratio: Array | float = default("prodrug.brain_plasma_ratio")
    exchange_per_day: Array | float = default("prodrug.exchange_per_day")
    vmax_mol_per_cell_per_day: Array | float = default("prodrug.vmax_mol_per_cell_per_day")
    km_uM: Array | float = default("prodrug.km_uM")
    depletable: bool = eqx.field(static=True, default=True)
    leaky_exchange_per_day: Array | float = default("prodrug.leaky_exchange_per_day")

    def breakpoints(self):
        return (self.courses.start_day, self.courses.end_day, self.boluses.day)

    def without_carriers(self):
        return None

    def elimination_per_day(self) -> Array | float:
        return math.log(2.0) * 24.0 / self.plasma_half_life_h

    def plasma(self, t: Array, dt: Array) -> Array:
        """Mean plasma concentration over [t, t + dt] [µM], in closed form; its value at t for dt = 0."""
        k = self.elimination_per_day()
        to_micromolar = 1e3 * self.bioavailability / (self.volume_l_per_kg * self.molar_mass_g_per_mol)
        window, once = self.courses, self.boluses
        level = window.dose_mg_per_kg_per_day / k * mean_rise(t, dt, window.start_day, window.end_day, k)
        left = once.dose_mg_per_kg * mean_decay(t, dt, once.day, k)
        return to_micromolar * (jnp.sum(level) + jnp.sum(left))

    def limits(self, at: Context, limits: Mapping[str, Array]):
        # between break points P moves monotonically towards a level: its maximum lies at one of them
        instants = jnp.concatenate([jnp.ravel(b) for b in self.breakpoints()])
        plasma = jax.vmap(lambda t: self.plasma(t, jnp.zeros_like(t)))(instants)
        supply = self.brain_plasma_ratio * jnp.max(plasma, initial=0.0)
        demand = DENSEST * self._per_density(at)
        p = self._most_in_brain(supply, demand, self.exchange(limits))
        return {"conversion": demand * p / (self.km_uM + p)}

    def _per_density(self, at: Context) -> Array:
        """V_max K × 10¹² [µM/day]: conversion at s = 1 and saturation."""
        return (self.vmax_mol_per_cell_per_day * MICROMOLAR_PER_MOL_PER_MM3) * at.capacity

    def exchange(self, q: Quantities) -> Array | float:
        """k_ex + k_ex,l × leakiness [1/day]; with the limits of shared quantities in ``q`` its upper bound."""
        if "vessel_leakiness" not in q:
            return self.exchange_per_day
        return self.exchange_per_day + self.leaky_exchange_per_day * q["vessel_leakiness"]

    def _in_brain(self, supply: Array, demand: Array, exchange: Array | float) -> Array:
        """p [µM] at πP = ``supply`` [µM], V_max K s × 10¹² = ``demand`` [µM/day] and ``exchange`` [1/day]."""
        if not self.depletable:
            return supply
        # p² + b p − K_m π P = 0; the root of either sign of b without cancellation
        b = self.km_uM + demand / exchange - supply
        root = jnp.sqrt(b * b + 4.0 * self.km_uM * supply)
        return jnp.where(b > 0, 2.0 * self.km_uM * supply / jnp.where(b > 0, b + root, 1.0), 0.5 * (root - b))

    def _most_in_brain(self, supply: Array, demand: Array, exchange: Array | float) -> Array:
        """Upper bound of p [µM] while πP ≤ ``supply``, exchange ≤ ``exchange`` and the conversion is at ``demand``."""
        return self._in_brain(supply, demand, exchange)

    def quantities(self, x: Fields, q: Quantities, at: Context):
        plasma, s = self.plasma(at.t, at.dt), x["carriers"]
        supply = jnp.broadcast_to(self.brain_plasma_ratio * plasma, s.shape)
        demand = self._per_density(at) * s
        p = self._in_brain(supply, demand, self.exchange(q))
        inside = at.tissue.mask
        p = jnp.where(inside, p, 0.0)
        return {"prodrug": p, "prodrug_plasma": plasma, "conversion": demand * p / (self.km_uM + p)}

    def exposures(self, x: Fields, q: Quantities, at: Context):
        entered = q["conversion"]  # an inexhaustible pool is refilled as it is converted
        if self.depletable:
            lacking = self.brain_plasma_ratio * q["prodrug_plasma"] - q["prodrug"]
            entered = jnp.where(at.tissue.mask, self.exchange(q) * lacking, 0.0)
        return {"prodrug_entered": entered, "prodrug_converted": q["conversion"]}

    def balance(self):
        return {"prodrug": {"prodrug_entered": 1.0, "prodrug_converted": -1.0}}


class DynamicProdrug(Prodrug):
    """The same as a transported field, which is not there at the start.

    Steps must be shorter than 1/(2n D_p/h² + k_ex + W/K_m) in n dimensions, for it to stay positive.
    """

    fields: ClassVar = (FieldSpec("prodrug", "µM", "prodrug concentration in brain", SUBSTANCE, everywhere=True),)
    outputs: ClassVar = ()

    diffusivity_mm2_per_day: Array | float = default("prodrug.diffusivity_mm2_per_day")

    def __check_init__(self):
        if not self.depletable:
            raise ValueError("A pool that is never depleted has no dynamics: use Prodrug.")

    def prepare(self, tissue: Tissue):
        return conductances(tissue.grid, [f * self.diffusivity_mm2_per_day for f in tissue.open_faces()])

    def quantities(self, x: Fields, q: Quantities, at: Context):
        p = x["prodrug"]
        demand = self._per_density(at) * x["carriers"]
        return {"prodrug": p, "prodrug_plasma": self.plasma(at.t, at.dt), "conversion": demand * p / (self.km_uM + p)}

    def transfers(self, x: Fields, q: Quantities, at: Context):
        exchange = self.exchange(q)
        supply = exchange * self.brain_plasma_ratio * q["prodrug_plasma"]
        return (
            Transfer("prodrug_supply", None, "prodrug", jnp.where(at.tissue.mask, supply, 0.0)),
            Transfer("prodrug_return", "prodrug", None, exchange * x["prodrug"]),
            Transfer("prodrug_converted", "prodrug", None, q["conversion"]),
        )

    def exposures(self, x: Fields, q: Quantities, at: Context):
        return {}  # transfers here

    def balance(self):
        return {}

    def fluxes(self, x: Fields, q: Quantities, at: Context):
        return (Flux("prodrug", g=at.medium),)

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        lost = self.exchange(limits) + DENSEST * self._per_density(at) / self.km_uM
        return {"prodrug": (outflow_rate(at.grid, at.medium), lost)}

    def _most_in_brain(self, supply: Array, demand: Array, exchange: Array | float):
        return supply  # before any of it is converted

    def without_carriers(self):
        return self
