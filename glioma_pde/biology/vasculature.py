"""Vessels: those that crowding closes, those that hypoxia brings about, and how leaky they are.

Of the vessels of normal tissue (density 1) a part m is missing, a part a is new, and 1 − m − a are as they were:

∂t m = ω C(N) (1 − m) − [μ + α B(u) H(σ)] m,   C = N⁴/(N_c⁴ + N⁴)      collapse, recovery, angiogenesis
∂t a = α B(u) H(σ) m − [ω C(N) + μ] a,          B = u²/(K_l² + u²)

V = 1 − m supplies oxygen (`oxygen`); H is 1 without oxygen and 0 at σ_a; u is the density of all tumour cells. New
vessels leak, and so do old ones among tumour cells:

leakiness = a + B(u) (1 − m − a),

the permeability relative to that of tissue full of leaky vessels; 0 behind an intact barrier. `Vasculature` holds m at
its equilibrium without angiogenesis, `DynamicVasculature` follows the equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from ..parameters import default
from .base import SUBSTANCE, Context, Fields, FieldSpec, Module, Observable, Quantities, Transfer, total
from .oxygen import hypoxia


class Vasculature(Module):
    """Density of open vessels relative to normal tissue, and their leakiness; both follow the cells at once."""

    name: ClassVar[str] = "vasculature"
    needs: ClassVar = ("tumour",)
    provides: ClassVar = ("vessels", "vessel_leakiness")
    outputs: ClassVar[tuple[FieldSpec, ...]] = (
        FieldSpec("vessels", "1", "density of open vessels, relative to normal tissue"),
        FieldSpec("vessel_leakiness", "1", "permeability of vessels, relative to tissue full of leaky ones"),
    )
    scalars: ClassVar = (
        Observable("vessels_mean_tumour", "1", "relative density of open vessels, averaged over tumour cells"),
        Observable("leakiness_mean_tumour", "1", "leakiness of vessels, averaged over tumour cells"),
    )

    collapse_per_day: Array | float = default("vasculature.collapse_per_day")
    collapse_density: Array | float = default("vasculature.collapse_density")
    recovery_per_day: Array | float = default("vasculature.recovery_per_day")
    leaky_density: Array | float = default("vasculature.leaky_density")

    def collapse(self, crowding: Array) -> Array:
        """ω C(N) [1/day]."""
        fourth = (crowding / self.collapse_density) ** 4
        return self.collapse_per_day * fourth / (1.0 + fourth)

    def among_tumour(self, tumour_cells: Array) -> Array:
        """B(u)."""
        square = (tumour_cells / self.leaky_density) ** 2
        return square / (1.0 + square)

    def at_rest(self, crowding: Array) -> Array:
        """m in equilibrium with the cells, without angiogenesis."""
        closing = self.collapse(crowding)
        return closing / (closing + self.recovery_per_day)

    def quantities(self, x: Fields, q: Quantities, at: Context):
        return self._shared(self.at_rest(q["crowding"]), jnp.zeros_like(q["crowding"]), q, at)

    def _shared(self, missing: Array, new: Array, q: Quantities, at: Context) -> dict[str, Array]:
        leaky = new + self.among_tumour(q["tumour_cells"]) * (1.0 - missing - new)
        inside = at.tissue.mask
        return {
            "vessels": jnp.where(inside, 1.0 - missing, 0.0),
            "vessel_leakiness": jnp.where(inside, leaky, 0.0),
        }

    def limits(self, at: Context, limits: Mapping[str, Array]):
        return {"vessel_leakiness": jnp.ones(())}

    def look(self, x: Fields, q: Quantities, at: Context, ledger: Mapping[str, Array]):
        u = q["tumour_cells"]
        cells = jnp.maximum(at.grid.integrate(u), jnp.finfo(u.dtype).tiny)
        return {
            "vessels_mean_tumour": at.grid.integrate(q["vessels"] * u) / cells,
            "leakiness_mean_tumour": at.grid.integrate(q["vessel_leakiness"] * u) / cells,
        }


class DynamicVasculature(Vasculature):
    """The same on its own time scale, with angiogenesis; it starts at rest in the given tumour, with nothing new.

    Without a module that provides oxygen there is no angiogenesis.
    """

    fields: ClassVar = (
        FieldSpec("vessels_missing", "1", "density of vessels that normal tissue has more", SUBSTANCE),
        FieldSpec("vessels_new", "1", "density of new vessels, relative to normal tissue", SUBSTANCE),
    )

    angiogenesis_per_day: Array | float = default("vasculature.angiogenesis_per_day")
    angiogenesis_below_mmHg: Array | float = default("vasculature.angiogenesis_below_mmHg")

    def at_start(self, x: Fields, at: Context):
        return {"vessels_missing": self.at_rest(total(x, at.tumour))}

    def quantities(self, x: Fields, q: Quantities, at: Context):
        return self._shared(x["vessels_missing"], x["vessels_new"], q, at)

    def transfers(self, x: Fields, q: Quantities, at: Context):
        missing, new = x["vessels_missing"], x["vessels_new"]
        closing = self.collapse(q["crowding"])
        lost = Transfer("vessel_collapse", None, "vessels_missing", closing * (1.0 - missing - new))
        gone = (
            Transfer("vessel_regression", "vessels_new", "vessels_missing", closing * new),
            Transfer("vessel_recovery", "vessels_missing", None, self.recovery_per_day * missing),
            Transfer("vessel_maturation", "vessels_new", None, self.recovery_per_day * new),
        )
        if "oxygen" not in q:
            return (lost, *gone)
        wanted = self.among_tumour(q["tumour_cells"]) * hypoxia(q["oxygen"], self.angiogenesis_below_mmHg)
        sprouting = self.angiogenesis_per_day * wanted * missing
        return (lost, *gone, Transfer("angiogenesis", "vessels_missing", "vessels_new", sprouting))

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        return {
            "vessels_missing": (0.0, self.recovery_per_day + self.angiogenesis_per_day),
            "vessels_new": (0.0, self.collapse_per_day + self.recovery_per_day),
        }
