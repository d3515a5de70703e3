"""Immune response to the carriers: a field of effector cells, or a constant rate of clearance.

    ∂t I = ∇·(D_I∇I) + σ_I (1 − f(t)) P(X) s/(K_I + s) − d_I I,   carriers lose κ_I I s         (`ImmuneResponse`)
    carriers lose κ_I (1 − f(t)) s                                                           (`ConstantClearance`)

I is relative: 1 is what dense carriers call up in a patient who never had any. f(t) is the part of the response that
immunosuppression (dexamethasone) takes away. Earlier exposure primes it (`PrimedImmuneResponse`):

    ∂t M = s − d_M M,   X = K ∫M dV  [cells day],   P(X) = 1 + π_I X/(X_½ + X)

Memory is systemic: a dose at one site primes the response at any other. X is the exposure to all carriers so far, which
grows over the days that a dose lives; so the first dose meets an unprimed patient and later ones what it left behind,
without any counting of doses. That makes it smooth in amounts, days and sites, and a dose of zero cells nothing.
M is kept as a field only because its integral obeys Ẋ = K∫s dV − d_M X exactly and it is empty where carriers never were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from ..numerics.diffusion import conductances, outflow_rate
from ..parameters import default
from ..tissue import Tissue
from .base import SUBSTANCE, Context, Fields, FieldSpec, Flux, Module, Observable, Quantities, Transfer, refuse_outside


class Suppression(eqx.Module):
    """Windows in which a fraction of the response is taken away, shapes ``(n,)``; where they overlap, what they leave
    multiplies. Windows of zero length or fraction are without effect.

    Moved across the instant of a dose an edge makes a kink; where both coincide, derivatives are those of the mean of both sides.
    """

    start_day: Array
    end_day: Array
    fraction: Array

    def __check_init__(self):
        refuse_outside(-math.inf, start_day=self.start_day, end_day=self.end_day)
        refuse_outside(0.0, 1.0, fraction=self.fraction)

    @classmethod
    def none(cls) -> Suppression:
        empty = jnp.zeros((0,))
        return cls(empty, empty, empty)

    def left(self, t: Array, dt: Array) -> Array:
        """1 − f: mean over [t, t + dt] of each window's remainder, multiplied; for dt = 0 just before t.

        Steps end on the edges of all windows, so the product of means is the mean of the product.
        """
        length = jnp.where(dt > 0, dt, 1.0)
        within = (jnp.clip(self.end_day - t, 0.0, dt) - jnp.clip(self.start_day - t, 0.0, dt)) / length
        before = ((self.start_day < t) & (t <= self.end_day)).astype(within.dtype)
        return jnp.prod(1.0 - self.fraction * jnp.where(dt > 0, within, before))


class ConstantClearance(Module):
    """Carriers are cleared at the same rate everywhere."""

    name: ClassVar[str] = "immune"
    needs: ClassVar = ("carriers",)
    scalars: ClassVar[tuple[Observable, ...]] = (
        Observable("immune_cleared_cells", "cells", "carriers cleared by the immune system so far", "last"),
    )

    suppression: Suppression = eqx.field(default_factory=Suppression.none)
    clearance_per_day: Array | float = default("immune.clearance_per_day")

    def breakpoints(self):
        return (self.suppression.start_day, self.suppression.end_day)

    def transfers(self, x: Fields, q: Quantities, at: Context) -> tuple[Transfer, ...]:
        rate = self.clearance_per_day * self.suppression.left(at.t, at.dt)
        return (Transfer("carrier_clearance", "carriers", None, rate * x["carriers"]),)

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        return {"carriers": (0.0, self.clearance_per_day)}

    def look(self, x: Fields, q: Quantities, at: Context, ledger: Mapping[str, Array]):
        cleared = ledger.get("carrier_clearance")
        return {} if cleared is None else {"immune_cleared_cells": at.capacity * cleared}


class ImmuneResponse(ConstantClearance):
    """Immune effector cells I where carriers are, relative to the full response of an unprimed patient.

    The step bound takes it that I starts at no more than (1 + π_I) σ_I/d_I.
    """

    fields: ClassVar[tuple[FieldSpec, ...]] = (
        FieldSpec("immune", "1", "immune effector cells, relative to a full unprimed response", SUBSTANCE),
    )
    scalars: ClassVar = (
        *ConstantClearance.scalars,
        Observable("immune_peak", "1", "largest density of immune effector cells", "max"),
    )

    diffusivity_mm2_per_day: Array | float = default("immune.diffusivity_mm2_per_day")
    recruitment_per_day: Array | float = default("immune.recruitment_per_day")
    half_saturation: Array | float = default("immune.half_saturation")
    decay_per_day: Array | float = default("immune.decay_per_day")

    def prepare(self, tissue: Tissue):
        return conductances(tissue.grid, [f * self.diffusivity_mm2_per_day for f in tissue.open_faces()])

    def primed(self, x: Fields, at: Context) -> Array | float:
        """P, by which recruitment is increased."""
        return 1.0

    def most_primed(self) -> Array | float:
        """Upper bound of P."""
        return 1.0

    def transfers(self, x: Fields, q: Quantities, at: Context):
        s, level = x["carriers"], x["immune"]
        strength = self.recruitment_per_day * self.suppression.left(at.t, at.dt) * self.primed(x, at)
        return (
            Transfer("immune_recruitment", None, "immune", strength * s / (self.half_saturation + s)),
            Transfer("immune_decay", "immune", None, self.decay_per_day * level),
            Transfer("carrier_clearance", "carriers", None, self.clearance_per_day * level * s),
        )

    def fluxes(self, x: Fields, q: Quantities, at: Context):
        return (Flux("immune", g=at.medium),)

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        full = self.most_primed() * self.recruitment_per_day / self.decay_per_day
        return {
            "carriers": (0.0, self.clearance_per_day * full),
            "immune": (outflow_rate(at.grid, at.medium), self.decay_per_day),
        }

    def look(self, x: Fields, q: Quantities, at: Context, ledger: Mapping[str, Array]):
        return super().look(x, q, at, ledger) | {"immune_peak": jnp.max(x["immune"])}


class PrimedImmuneResponse(ImmuneResponse):
    """The same with a memory of all exposure to carriers [day]."""

    fields: ClassVar = (
        *ImmuneResponse.fields,
        FieldSpec("immune_memory", "day", "exposure to carriers that is remembered", SUBSTANCE),
    )
    scalars: ClassVar = (
        *ImmuneResponse.scalars,
        Observable("immune_priming", "1", "factor by which earlier exposure increases the response", "max"),
    )

    priming: Array | float = default("immune.priming")
    priming_exposure_cell_days: Array | float = default("immune.priming_exposure_cell_days")
    forgetting_per_day: Array | float = default("immune.forgetting_per_day")

    def primed(self, x: Fields, at: Context):
        exposure = at.grid.integrate(x["immune_memory"]) * (at.capacity / self.priming_exposure_cell_days)
        return 1.0 + self.priming * exposure / (1.0 + exposure)

    def most_primed(self):
        return 1.0 + self.priming

    def transfers(self, x: Fields, q: Quantities, at: Context):
        return (
            *super().transfers(x, q, at),
            Transfer("immune_exposure", None, "immune_memory", x["carriers"]),
            Transfer("immune_forgotten", "immune_memory", None, self.forgetting_per_day * x["immune_memory"]),
        )

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        return {**super().loss_bound(at, limits), "immune_memory": (0.0, self.forgetting_per_day)}

    def look(self, x: Fields, q: Quantities, at: Context, ledger: Mapping[str, Array]):
        return super().look(x, q, at, ledger) | {"immune_priming": self.primed(x, at)}
