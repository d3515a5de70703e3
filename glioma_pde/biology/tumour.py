"""Tumour cells: invasion and growth.

∂t u = ∇·(D_u(x)∇u) + ρ f g(N) u,   D_u = D_w p_white + D_g p_grey   (harmonic means on faces)

and the same for every other tumour field that a module adds (resistant cells). f is 1, or the shared quantity
``growth_factor`` of a module that has a say in it (oxygen).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from ..numerics.diffusion import Faces, conductances, outflow_rate
from ..parameters import default
from ..tissue import Tissue
from .base import TUMOUR, Context, Fields, FieldSpec, Flux, Module, Quantities, Transfer
from .laws import Growth, Logistic


class Tumour(Module):
    """Tumour cell density u, as a fraction of the carrying capacity K.

    Attributes:
        diffusivity_map: D_u(x) [mm²/day] in place of the white/grey rule, shape of the grid.
    """

    name: ClassVar[str] = "tumour"
    fields: ClassVar = (FieldSpec("tumour", "1", "tumour cell density, fraction of the carrying capacity", TUMOUR),)

    diffusivity_white_mm2_per_day: Array | float = default("tumour.diffusivity_white_mm2_per_day")
    diffusivity_grey_mm2_per_day: Array | float = default("tumour.diffusivity_grey_mm2_per_day")
    proliferation_per_day: Array | float = default("tumour.proliferation_per_day")
    diffusivity_map: Array | None = None
    growth: Growth = Logistic()
    one_sided_growth: bool = eqx.field(static=True, default=False)

    def occupies(self):
        return {"tumour": 1.0}

    def prepare(self, tissue: Tissue) -> Faces:
        return face_conductances(
            tissue, self.diffusivity_map, self.diffusivity_white_mm2_per_day, self.diffusivity_grey_mm2_per_day
        )

    def transfers(self, x: Fields, q: Quantities, at: Context):
        rate = self.proliferation_per_day * self.growth.factor(q["crowding"], at.capacity, self.one_sided_growth)
        if "growth_factor" in q:
            rate = rate * q["growth_factor"]
        return tuple(Transfer(f"{n}_growth", None, n, rate * x[n]) for n in at.tumour)

    def fluxes(self, x: Fields, q: Quantities, at: Context):
        return tuple(Flux(name, g=at.medium) for name in at.tumour)

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        # ρ |g| ≤ ρ ln K for Gompertz; a step is monotone in u, which keeps u ≤ 1, while dt ρ ≤ 1
        steepest = 1.0 if isinstance(self.growth, Logistic) else jnp.maximum(jnp.log(at.capacity), 1.0)
        fastest = self.proliferation_per_day * limits.get("growth_factor", 1.0)
        bound = (outflow_rate(at.grid, at.medium), fastest * steepest)
        return dict.fromkeys(at.tumour, bound)


def face_conductances(tissue: Tissue, map_: Array | None, white, grey) -> Faces:
    """Conductances from a diffusivity map, or from white- and grey-matter values [mm²/day]."""
    d = tissue.diffusivity(white, grey) if map_ is None else map_
    return conductances(tissue.grid, tissue.face_average(d))
