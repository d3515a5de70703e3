"""Tumour cells that drugs hardly kill.

∂t r = ∇·(D_u∇r) + ρ g(N) r + (μ₀ + μ_c E) u − ω E r,   ∂t u = … − (μ₀ + μ_c E) u,   N = u + r + …

E is what all drugs together do to sensitive cells. Resistant cells move and grow with the parameters of the tumour, and
are counted in everything that is seen of it; carriers kill them by contact as they kill others. Radiation kills them with
α and β of their own, given relative to the tumour's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from jax import Array

from ..parameters import default
from .base import TUMOUR, Context, Fields, FieldSpec, Module, Quantities, Transfer


class Resistance(Module):
    """Density r of resistant tumour cells, as a fraction of the carrying capacity K."""

    name: ClassVar[str] = "resistance"
    fields: ClassVar = (
        FieldSpec("resistant", "1", "resistant tumour cell density, fraction of the carrying capacity", TUMOUR),
    )
    needs: ClassVar = ("tumour",)

    spontaneous_per_day: Array | float = default("resistance.spontaneous_per_day")
    induced: Array | float = default("resistance.induced")
    drug_sensitivity: Array | float = default("resistance.drug_sensitivity")
    alpha_relative: Array | float = default("resistance.alpha_relative")
    beta_relative: Array | float = default("resistance.beta_relative")

    def occupies(self):
        return {"resistant": 1.0}

    def sensitivity(self, drug: bool):
        return self.drug_sensitivity if drug else 1.0

    def radiosensitivity(self, alpha_per_gy, beta_per_gy2):
        return {"resistant": (self.alpha_relative * alpha_per_gy, self.beta_relative * beta_per_gy2)}

    def transfers(self, x: Fields, q: Quantities, at: Context):
        rate = self.spontaneous_per_day + self.induced * q.get("drug_hazard", 0.0)
        return (Transfer("resistance_acquired", "tumour", "resistant", rate * x["tumour"]),)

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        return {"tumour": (0.0, self.spontaneous_per_day + self.induced * limits["drug_hazard"])}
