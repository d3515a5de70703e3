"""Oxygen in tissue, in equilibrium with vessels and cells, and what it does to growth and to radiation.

0 = ∇·(D_σ∇σ) + k_v V (σ_b − σ) − k_t (1 + η u) σ,   k_v = k_t σ_n/(σ_b − σ_n)

with u the density of all tumour cells and V that of vessels (1 in normal tissue, where σ = σ_n). Solved for is the
deficit δ = σ_n − σ, which is nowhere but where tumour is:

−∇·(D_σ∇δ) + [k_v V + k_t (1 + η u)] δ = k_t σ_n (1 − V + η u)

Consumption of first order lets tissue without supply of its own live on its surroundings for √(D_σ/k_t) = 0.06 mm: on a
grid of 1 mm σ is the mean over a tissue with its vessels, not the level at a cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from ..numerics.elliptic import solve_quasi_steady, uniform_coupling
from ..parameters import default
from ..tissue import Tissue
from .base import Context, Fields, FieldSpec, Module, Observable, Quantities, soft_zero

HYPOXIC_MMHG = 10.0
"""Cells under this count as hypoxic in the observables [mmHg]."""


class Oxygen(Module):
    """Partial pressure σ of oxygen [mmHg].

    It provides for others

    - ``growth_factor``: σ (σ_n + K_σ)/((σ + K_σ) σ_n), by which tumour cells grow more slowly; 1 in normal tissue.
    - ``oer_factor``: (m σ + K_O)/(m (σ + K_O)), from 1/m without oxygen to 1 at full oxygenation: the factor by which
      a dose of radiation counts as less (Alper & Howard-Flanders 1956; normal tissue has 0.95).

    Attributes:
        tolerance: relative residual of the quasi-steady solve.
    """

    name: ClassVar[str] = "oxygen"
    memory: ClassVar = (FieldSpec("oxygen_deficit", "mmHg", "oxygen that normal tissue has more", stored=False),)
    outputs: ClassVar = (FieldSpec("oxygen", "mmHg", "partial pressure of oxygen"),)
    needs: ClassVar = ("tumour",)
    uses: ClassVar = ("vessels",)
    provides: ClassVar = ("oxygen", "oxygen_deficit", "growth_factor", "oer_factor")
    scalars: ClassVar = (
        Observable("oxygen_mean_tumour", "mmHg", "oxygen averaged over tumour cells", "last"),
        Observable("oxygen_lowest", "mmHg", "lowest oxygen in the tissue"),
        Observable("hypoxic_fraction", "1", f"fraction of tumour cells under {HYPOXIC_MMHG:g} mmHg", "max"),
    )

    normal_mmHg: Array | float = default("oxygen.normal_mmHg")
    blood_mmHg: Array | float = default("oxygen.blood_mmHg")
    diffusivity_mm2_per_day: Array | float = default("oxygen.diffusivity_mm2_per_day")
    consumption_per_day: Array | float = default("oxygen.consumption_per_day")
    tumour_consumption: Array | float = default("oxygen.tumour_consumption")
    growth_half_mmHg: Array | float = default("oxygen.growth_half_mmHg")
    oer_largest: Array | float = default("oxygen.oer_largest")
    oer_half_mmHg: Array | float = default("oxygen.oer_half_mmHg")
    tolerance: float = eqx.field(static=True, default=1e-4)

    def prepare(self, tissue: Tissue):
        inside = jnp.asarray(tissue.mask, tissue.white.dtype)
        return uniform_coupling(tissue.grid, self.diffusivity_mm2_per_day, inside, tissue.open_faces())

    def supply_per_day(self) -> Array | float:
        """k_v [1/day], which keeps normal tissue at σ_n."""
        return self.consumption_per_day * self.normal_mmHg / (self.blood_mmHg - self.normal_mmHg)

    def quantities(self, x: Fields, q: Quantities, at: Context):
        extra, vessels = self.tumour_consumption * q["tumour_cells"], q.get("vessels", 1.0)
        sink = self.supply_per_day() * vessels + self.consumption_per_day * (1.0 + extra)
        lacking = jnp.where(at.tissue.mask, 1.0 - vessels + extra, 0.0)
        source = self.consumption_per_day * self.normal_mmHg * lacking
        deficit = solve_quasi_steady(at.grid, at.medium, sink, source, q["oxygen_deficit"], self.tolerance)
        oxygen = jnp.where(at.tissue.mask, soft_zero(self.normal_mmHg - soft_zero(deficit)), 0.0)
        return {
            "oxygen_deficit": deficit,
            "oxygen": oxygen,
            "growth_factor": self.growth_factor(oxygen),
            "oer_factor": self.oer_factor(oxygen),
        }

    def growth_factor(self, oxygen: Array) -> Array:
        """Speed of growth at ``oxygen`` [mmHg], relative to that in normal tissue."""
        half, normal = self.growth_half_mmHg, self.normal_mmHg
        level = oxygen + half
        # neither oxygen nor a half-saturation: a factor without strength is 1
        return jnp.where(level > 0, oxygen, 1.0) / jnp.where(level > 0, level, 1.0) * ((normal + half) / normal)

    def oer_factor(self, oxygen: Array) -> Array:
        """Effect of a dose at ``oxygen`` [mmHg], relative to that at full oxygenation."""
        half, largest = self.oer_half_mmHg, self.oer_largest
        return (largest * oxygen + half) / (oxygen + half) / largest

    def limits(self, at: Context, limits: Mapping[str, Array]):
        return {"growth_factor": jnp.ones(())}

    def look(self, x: Fields, q: Quantities, at: Context, ledger: Mapping[str, Array]):
        u, oxygen, mask = q["tumour_cells"], q["oxygen"], at.tissue.mask
        cells = jnp.maximum(at.grid.integrate(u), jnp.finfo(u.dtype).tiny)
        return {
            "oxygen_mean_tumour": at.grid.integrate(oxygen * u) / cells,
            "oxygen_lowest": jnp.min(jnp.where(mask, oxygen, jnp.inf)),
            "hypoxic_fraction": at.grid.integrate(jnp.where(oxygen < HYPOXIC_MMHG, u, 0.0)) / cells,
        }


def hypoxia(oxygen: Array, below_mmHg: Array | float) -> Array:
    """From 1 without oxygen to exactly 0 at ``below_mmHg`` and more, by a cubic with slope 0 at both ends."""
    lacking = jnp.clip(1.0 - oxygen / below_mmHg, 0.0, 1.0)
    return lacking * lacking * (3.0 - 2.0 * lacking)
