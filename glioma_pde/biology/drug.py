"""The drug made at the carriers (5-FU), in equilibrium with its sources or on its own time scale, and what it kills.

τ ∂t c = ∇·(D_c∇c) + q s + conversion − (λ_c + k_BBB + k_up u) c,   τ = 0 (`Drug`) or 1 (`DynamicDrug`);
tumour cells die at the rate E(c). Where vessels leak (a module provides ``vessel_leakiness``), k_BBB is higher by the
leakiness times k_BBB,l.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from ..numerics.diffusion import conductances, outflow_rate
from ..numerics.elliptic import solve_quasi_steady, uniform_coupling
from ..parameters import default
from ..tissue import Tissue
from .base import (
    DENSEST,
    SUBSTANCE,
    Context,
    Fields,
    FieldSpec,
    Flux,
    Hazard,
    Module,
    Quantities,
    Transfer,
    soft_zero,
    total,
)
from .laws import Hill, Kill
from .prodrug import MICROMOLAR_PER_MOL_PER_MM3

HEALTHY_BELOW = 0.01
"""Tissue with a tumour density under this counts as healthy in the exposures."""


NEGLIGIBLE = 1e-4
"""A drug that stays under this fraction of the tolerance is none, in units of 1 µM or, if lower, of what has an effect.

5-FC leaves plasma as an exponential and would otherwise ask for solves at 1e-20 µM for a month after each course.
"""


class Drug(Module):
    """Drug concentration c [µM].

    Attributes:
        kill: law E(c).
        tolerance: relative residual of the quasi-steady solve; times `NEGLIGIBLE` also the level that counts as none.
    """

    name: ClassVar[str] = "drug"
    memory: ClassVar[tuple[FieldSpec, ...]] = (FieldSpec("drug", "µM", "drug concentration"),)
    needs: ClassVar = ("tumour", "carriers")
    uses: ClassVar = ("conversion", "vessel_leakiness")
    provides: ClassVar = ("drug", "kill_rate", "drug_source")

    diffusivity_mm2_per_day: Array | float = default("drug.diffusivity_mm2_per_day")
    decay_per_day: Array | float = default("drug.decay_per_day")
    efflux_per_day: Array | float = default("drug.efflux_per_day")
    uptake_per_day: Array | float = default("drug.uptake_per_day")
    secretion_mol_per_cell_per_day: Array | float = default("drug.secretion_mol_per_cell_per_day")
    kill: Kill = Hill()
    tolerance: float = eqx.field(static=True, default=1e-4)
    leaky_efflux_per_day: Array | float = default("drug.leaky_efflux_per_day")

    def range_mm(self):
        """√(D_c/(λ_c + k_BBB)), outside the tumour."""
        return jnp.sqrt(jnp.asarray(self.diffusivity_mm2_per_day / (self.decay_per_day + self.efflux_per_day)))

    def prepare(self, tissue: Tissue):
        inside = jnp.asarray(tissue.mask, tissue.white.dtype)
        return uniform_coupling(tissue.grid, self.diffusivity_mm2_per_day, inside, tissue.open_faces())

    def sink(self, q: Quantities) -> Array:
        """λ_c + k_BBB + k_up u [1/day]."""
        return self._lost_anywhere(q) + self.uptake_per_day * q["tumour_cells"]

    def _lost_anywhere(self, q: Quantities) -> Array | float:
        """λ_c + k_BBB [1/day]; with the limits of shared quantities in ``q`` its upper bound."""
        lost = self.decay_per_day + self.efflux_per_day
        if "vessel_leakiness" not in q:
            return lost
        return lost + self.leaky_efflux_per_day * q["vessel_leakiness"]

    def quantities(self, x: Fields, q: Quantities, at: Context):
        source = self._per_density(at) * x["carriers"] + q.get("conversion", 0.0)
        least = (self.tolerance * NEGLIGIBLE) * jnp.minimum(self.kill.effective_uM(), 1.0)
        c = solve_quasi_steady(at.grid, at.medium, self.sink(q), source, q["drug"], self.tolerance, least)
        return {"drug": c, "kill_rate": self.kill.rate(c), "drug_source": source}

    def _per_density(self, at: Context) -> Array:
        """q K × 10¹² [µM/day]: release at s = 1."""
        return (self.secretion_mol_per_cell_per_day * MICROMOLAR_PER_MOL_PER_MM3) * at.capacity

    def hazards(self, x: Fields, q: Quantities, at: Context):
        return (Hazard("drug_kill", q["kill_rate"]),)

    def exposures(self, x: Fields, q: Quantities, at: Context):
        c, u = q["drug"], q["tumour_cells"]
        return {
            "drug_exposure_tumour": jnp.where(u < HEALTHY_BELOW, 0.0, c),
            "drug_exposure_healthy": jnp.where(u < HEALTHY_BELOW, c, 0.0),
            "drug_released": q["drug_source"],
            "drug_decay": self._lost_anywhere(q) * c,
            "drug_uptake": self.uptake_per_day * u * c,
        }

    def balance(self):
        return {"drug": {"drug_released": 1.0, "drug_decay": -1.0, "drug_uptake": -1.0}}

    def without_carriers(self):
        return None

    def limits(self, at: Context, limits: Mapping[str, Array]):
        largest = self.kill.largest()
        if largest is None:
            # the level in tissue full of carriers, each releasing at full speed
            full = DENSEST * self._per_density(at) + limits.get("conversion", 0.0)
            largest = self.kill.rate(full / (self.decay_per_day + self.efflux_per_day))
        return {"kill_rate": jnp.asarray(largest)}

    def hazard_bounds(self, at: Context, limits: Mapping[str, Array]):
        return (Hazard("drug_kill", limits["kill_rate"]),)


class DynamicDrug(Drug):
    """The same as a transported field, which starts in equilibrium with what the carriers release by themselves
    (behind vessels that do not leak).

    Steps must be shorter than 1/(2n D_c/h² + λ_c + k_BBB + k_up u) in n dimensions, for it to stay positive.

    Attributes:
        tolerance: of the equilibrium at the start.
    """

    fields: ClassVar = (FieldSpec("drug", "µM", "drug concentration", SUBSTANCE),)
    memory: ClassVar = ()

    def prepare(self, tissue: Tissue):
        return conductances(tissue.grid, [f * self.diffusivity_mm2_per_day for f in tissue.open_faces()])

    def at_start(self, x: Fields, at: Context):
        source = self._per_density(at) * x["carriers"]
        medium, sink = super().prepare(at.tissue), self.sink({"tumour_cells": total(x, at.tumour)})
        c = solve_quasi_steady(at.grid, medium, sink, source, jnp.zeros_like(source), self.tolerance)
        return {"drug": soft_zero(c)}

    def quantities(self, x: Fields, q: Quantities, at: Context):
        source = self._per_density(at) * x["carriers"] + q.get("conversion", 0.0)
        return {"drug": x["drug"], "kill_rate": self.kill.rate(x["drug"]), "drug_source": source}

    def transfers(self, x: Fields, q: Quantities, at: Context):
        c = x["drug"]
        return (
            Transfer("drug_released", None, "drug", q["drug_source"]),
            Transfer("drug_decay", "drug", None, self._lost_anywhere(q) * c),
            Transfer("drug_uptake", "drug", None, self.uptake_per_day * q["tumour_cells"] * c),
        )

    def fluxes(self, x: Fields, q: Quantities, at: Context):
        return (Flux("drug", g=at.medium),)

    def exposures(self, x: Fields, q: Quantities, at: Context):
        transferred = super().balance()["drug"]
        return {n: v for n, v in super().exposures(x, q, at).items() if n not in transferred}

    def balance(self):
        return {}

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        lost = self._lost_anywhere(limits) + DENSEST * self.uptake_per_day
        return {"drug": (outflow_rate(at.grid, at.medium), lost)}

    def without_carriers(self):
        return self


def micromolar_per_day(mol_per_cell_per_day: float, capacity: float, s: float = 1.0) -> float:
    """Source strength q K s × 10¹² [µM/day] of carriers at density s."""
    return mol_per_cell_per_day * capacity * MICROMOLAR_PER_MOL_PER_MM3 * s
