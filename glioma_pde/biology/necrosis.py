"""Necrosis: tumour cells die where there is too little oxygen, and what is left of them takes up room.

∂t u = … − κ H(σ) u,   ∂t n = Σ κ H(σ) u − c n,   N = u + n + …,

over all tumour fields u, with H from 1 without oxygen to 0 at σ_N (`oxygen.hypoxia`). Dead cells stay where they are,
and are counted neither in the burden nor in the volumes that a scan shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from jax import Array

from ..parameters import default
from .base import Context, Fields, FieldSpec, Module, Observable, Quantities, Transfer
from .oxygen import hypoxia

NECROTIC_FROM = 0.5
"""Density of dead cells from which tissue counts as necrotic, fraction of K."""


class Necrosis(Module):
    """Density n of necrotic cells, as a fraction of the carrying capacity K."""

    name: ClassVar[str] = "necrosis"
    fields: ClassVar = (FieldSpec("necrotic", "1", "necrotic cell density, fraction of the carrying capacity"),)
    needs: ClassVar = ("tumour", "oxygen")
    scalars: ClassVar = (
        Observable("necrotic_cells", "cells", "necrotic cells", "last"),
        Observable("necrotic_volume", "mm3", f"volume with a necrotic density of {NECROTIC_FROM:g} and more", "last"),
    )

    death_per_day: Array | float = default("necrosis.death_per_day")
    below_mmHg: Array | float = default("necrosis.below_mmHg")
    clearance_per_day: Array | float = default("necrosis.clearance_per_day")

    def occupies(self):
        return {"necrotic": 1.0}

    def transfers(self, x: Fields, q: Quantities, at: Context):
        rate = self.death_per_day * hypoxia(q["oxygen"], self.below_mmHg)
        names = {field: "necrosis" if field == "tumour" else f"necrosis_{field}" for field in at.tumour}
        return (
            *(Transfer(name, field, "necrotic", rate * x[field]) for field, name in names.items()),
            Transfer("necrosis_clearance", "necrotic", None, self.clearance_per_day * x["necrotic"]),
        )

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        return {**dict.fromkeys(at.tumour, (0.0, self.death_per_day)), "necrotic": (0.0, self.clearance_per_day)}

    def look(self, x: Fields, q: Quantities, at: Context, ledger: Mapping[str, Array]):
        dead = x["necrotic"]
        return {
            "necrotic_cells": at.grid.integrate(dead) * at.capacity,
            "necrotic_volume": at.grid.integrate((dead >= NECROTIC_FROM).astype(dead.dtype)),
        }
