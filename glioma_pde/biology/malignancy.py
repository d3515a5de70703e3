"""Tumour formation by the transplanted cells: carriers that turn malignant, and the clone they found.

    ∂t m = ∇·(D_m∇m) + ρ_m m (1 − N) + μ_m s − ε_m E m,   carriers lose μ_m s,   N = … + m

E is what all drugs together do to tumour cells. The clone is reported by itself and is no part of the tumour burden;
it grows on after the carriers are gone. m is an expectation: while ∫m is less than a cell it is the mean over many
patients most of whom have no clone at all, and the probability that a malignant cell has arisen by the time t is

    P = 1 − exp(−∫₀ᵗ∫ μ_m K s dV dt),

transformations being independent and rare. It counts cells that turn malignant, whether or not their clone survives.
`risk` has the statistics of patients who were observed without such an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from ..numerics.diffusion import outflow_rate
from ..parameters import default
from ..tissue import Tissue
from .base import Context, Fields, FieldSpec, Flux, Module, Observable, Quantities, Transfer, soft_zero
from .tumour import face_conductances


class Malignancy(Module):
    """Density m of malignant cells that come from carriers, as a fraction of the carrying capacity K.

    Attributes:
        drug_sensitivity: ε_m, or ``None``: drugs do nothing to the clone, and nothing is computed of it.
        one_sided_growth: growth is never negative, for models where carriers count in N.
    """

    name: ClassVar[str] = "malignancy"
    fields: ClassVar = (
        FieldSpec("malignant", "1", "malignant cells from carriers, fraction of the carrying capacity"),
    )
    needs: ClassVar = ("carriers",)
    scalars: ClassVar = (
        Observable("malignant_cells", "cells", "malignant cells from carriers, expected", "last"),
        Observable("p_malignant", "1", "probability that a carrier has become malignant", "last"),
        Observable("carrier_exposure", "cells day", "carriers alive, summed over time", "last"),
    )

    transformation_per_day: Array | float = default("malignancy.transformation_per_day")
    proliferation_per_day: Array | float = default("malignancy.proliferation_per_day")
    diffusivity_white_mm2_per_day: Array | float = default("malignancy.diffusivity_white_mm2_per_day")
    diffusivity_grey_mm2_per_day: Array | float = default("malignancy.diffusivity_grey_mm2_per_day")
    drug_sensitivity: Array | float | None = default("malignancy.drug_sensitivity")
    one_sided_growth: bool = eqx.field(static=True, default=False)

    def occupies(self):
        return {"malignant": 1.0}

    def prepare(self, tissue: Tissue):
        return face_conductances(tissue, None, self.diffusivity_white_mm2_per_day, self.diffusivity_grey_mm2_per_day)

    def transfers(self, x: Fields, q: Quantities, at: Context):
        m = x["malignant"]
        free = 1.0 - q["crowding"]
        free = soft_zero(free) if self.one_sided_growth else free
        out = [
            Transfer("transformation", "carriers", "malignant", self.transformation_per_day * x["carriers"]),
            Transfer("malignant_growth", None, "malignant", self.proliferation_per_day * m * free),
        ]
        if self.drug_sensitivity is not None and "drug_hazard" in q:
            killed = self.drug_sensitivity * q["drug_hazard"] * m
            out.append(Transfer("malignant_kill", "malignant", None, killed))
        return tuple(out)

    def fluxes(self, x: Fields, q: Quantities, at: Context):
        return (Flux("malignant", g=at.medium),)

    def exposures(self, x: Fields, q: Quantities, at: Context):
        return {"carrier_exposure": x["carriers"]}

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        # ρ_m |1 − N| ≤ ρ_m while N ≤ 2
        kill = 0.0 if self.drug_sensitivity is None else self.drug_sensitivity * limits["drug_hazard"]
        return {
            "carriers": (0.0, self.transformation_per_day),
            "malignant": (outflow_rate(at.grid, at.medium), self.proliferation_per_day + kill),
        }

    def look(self, x: Fields, q: Quantities, at: Context, ledger: Mapping[str, Array]):
        out = {"malignant_cells": at.capacity * at.grid.integrate(x["malignant"])}
        if "transformation" in ledger:
            out["p_malignant"] = -jnp.expm1(-at.capacity * ledger["transformation"])
            out["carrier_exposure"] = at.capacity * ledger["carrier_exposure"]
        return out
