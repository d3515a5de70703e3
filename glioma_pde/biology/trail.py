"""Soluble TRAIL, released by the carriers without any prodrug: killing beyond contact.

    0 = ∇·(D_L∇c_L) + q_L s − λ_L c_L,   tumour cells die at the rate E_L(c_L)

This is the bystander effect of carriers that make TRAIL; its range √(D_L/λ_L) is some 0.2 mm. The bystander effect of
cytosine deaminase is the drug's own field (`drug`), and contact killing is κ_a of the carriers. TRAIL is half gone within
30 minutes, so it is in equilibrium with the carriers.

TRAIL triggers death receptors and is not a drug here: cells resistant to drugs die of it as others do, it induces no
resistance, and it adds to what drugs do. ``counts_as_drug`` makes it one of them in all three respects. The carriers
themselves do not respond to it.
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
from .base import DENSEST, Context, Fields, FieldSpec, Hazard, Module, Observable, Quantities
from .laws import Hill, Kill
from .prodrug import MICROMOLAR_PER_MOL_PER_MM3


class Trail(Module):
    """Concentration c_L of soluble TRAIL [µM].

    Attributes:
        kill: law E_L(c_L).
        counts_as_drug: resistance to drugs protects from it.
        tolerance: relative residual of the quasi-steady solve.
    """

    name: ClassVar[str] = "trail"
    memory: ClassVar = (FieldSpec("trail", "µM", "concentration of soluble TRAIL"),)
    needs: ClassVar = ("tumour", "carriers")
    provides: ClassVar = ("trail", "trail_kill")
    scalars: ClassVar = (
        Observable("trail_peak", "µM", "largest concentration of soluble TRAIL", "max"),
        Observable("trail_kill_mean", "1/day", "kill rate of TRAIL, averaged over tumour cells", "max"),
        Observable("trail_killed_cells", "cells", "tumour cells killed by TRAIL so far", "last"),
    )

    diffusivity_mm2_per_day: Array | float = default("trail.diffusivity_mm2_per_day")
    decay_per_day: Array | float = default("trail.decay_per_day")
    secretion_mol_per_cell_per_day: Array | float = default("trail.secretion_mol_per_cell_per_day")
    kill: Kill = Hill(default("trail.kill.emax_per_day"), default("trail.kill.ic50_uM"), default("trail.kill.hill"))
    counts_as_drug: bool = eqx.field(static=True, default=False)
    tolerance: float = eqx.field(static=True, default=1e-4)

    def prepare(self, tissue: Tissue):
        inside = jnp.asarray(tissue.mask, tissue.white.dtype)
        return uniform_coupling(tissue.grid, self.diffusivity_mm2_per_day, inside, tissue.open_faces())

    def quantities(self, x: Fields, q: Quantities, at: Context):
        source, sink = self._per_density(at) * x["carriers"], jnp.asarray(self.decay_per_day)
        c = solve_quasi_steady(at.grid, at.medium, sink, source, q["trail"], self.tolerance)
        return {"trail": c, "trail_kill": self.kill.rate(c)}

    def hazards(self, x: Fields, q: Quantities, at: Context):
        return (Hazard("trail_kill", q["trail_kill"], drug=self.counts_as_drug),)

    def hazard_bounds(self, at: Context, limits: Mapping[str, Array]):
        largest = self.kill.largest()
        if largest is None:
            largest = self.kill.rate(DENSEST * self._per_density(at) / self.decay_per_day)
        return (Hazard("trail_kill", jnp.asarray(largest), drug=self.counts_as_drug),)

    def look(self, x: Fields, q: Quantities, at: Context, ledger: Mapping[str, Array]):
        u, integrate = q["tumour_cells"], at.grid.integrate
        killed = [ledger[n] for n in ledger if n == "trail_kill" or n.startswith("trail_kill_")]
        out = {
            "trail_peak": jnp.max(q["trail"]),
            "trail_kill_mean": integrate(q["trail_kill"] * u) / jnp.maximum(integrate(u), jnp.finfo(u.dtype).tiny),
        }
        return out | ({"trail_killed_cells": at.capacity * sum(killed)} if killed else {})

    def without_carriers(self):
        return None

    def _per_density(self, at: Context) -> Array:
        """q_L K × 10¹² [µM/day]: release at s = 1."""
        return (self.secretion_mol_per_cell_per_day * MICROMOLAR_PER_MOL_PER_MM3) * at.capacity
