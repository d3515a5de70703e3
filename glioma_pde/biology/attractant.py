"""Chemoattractant released by the tumour (CXCL12, VEGF, …), in equilibrium with it or on its own time scale.

τ ∂t a = ∇·(D_a∇a) − λ_a a + β_a u,   τ = 0 (`Attractant`) or 1 (`DynamicAttractant`)
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
from .base import SUBSTANCE, Context, Fields, FieldSpec, Flux, Module, Quantities, Transfer, soft_zero, total

_LABEL = "attractant concentration, fraction of a* unless β_a is set"


class Attractant(Module):
    """Attractant concentration a; inside a full tumour it reaches a* = β_a/λ_a (1 by default).

    Attributes:
        tolerance: relative residual of the quasi-steady solve.
    """

    name: ClassVar[str] = "attractant"
    memory: ClassVar[tuple[FieldSpec, ...]] = (FieldSpec("attractant", "1", _LABEL),)
    needs: ClassVar = ("tumour",)
    provides: ClassVar = ("attractant", "attractant_scale")

    diffusivity_mm2_per_day: Array | float = default("attractant.diffusivity_mm2_per_day")
    decay_per_day: Array | float = default("attractant.decay_per_day")
    release_per_day: Array | float = default("attractant.release_per_day")
    tolerance: float = eqx.field(static=True, default=1e-4)

    def range_mm(self):
        """√(D_a/λ_a)."""
        return jnp.sqrt(jnp.asarray(self.diffusivity_mm2_per_day / self.decay_per_day))

    def prepare(self, tissue: Tissue):
        inside = jnp.asarray(tissue.mask, tissue.white.dtype)
        return uniform_coupling(tissue.grid, self.diffusivity_mm2_per_day, inside, tissue.open_faces())

    def quantities(self, x: Fields, q: Quantities, at: Context):
        source = self.release_per_day * q["tumour_cells"]
        sink = jnp.asarray(self.decay_per_day)
        a = solve_quasi_steady(at.grid, at.medium, sink, source, q["attractant"], self.tolerance)
        return {"attractant": a, "attractant_scale": self._scale()}

    def without_carriers(self):
        return None

    def limits(self, at: Context, limits: Mapping[str, Array]):
        return {"attractant_scale": self._scale()}

    def _scale(self):
        return jnp.asarray(self.release_per_day / self.decay_per_day)


class DynamicAttractant(Attractant):
    """The same as a transported field, which starts in equilibrium with the tumour.

    Steps must be shorter than 1/(2n D_a/h² + λ_a) in n dimensions, for it to stay positive.

    Attributes:
        tolerance: of the equilibrium at the start.
    """

    fields: ClassVar = (FieldSpec("attractant", "1", _LABEL, SUBSTANCE),)
    memory: ClassVar = ()

    def prepare(self, tissue: Tissue):
        return conductances(tissue.grid, [f * self.diffusivity_mm2_per_day for f in tissue.open_faces()])

    def at_start(self, x: Fields, at: Context):
        source = self.release_per_day * total(x, at.tumour)
        medium, sink = super().prepare(at.tissue), jnp.asarray(self.decay_per_day)
        a = solve_quasi_steady(at.grid, medium, sink, source, jnp.zeros_like(source), self.tolerance)
        return {"attractant": soft_zero(a)}

    def quantities(self, x: Fields, q: Quantities, at: Context):
        return {"attractant": x["attractant"], "attractant_scale": self._scale()}

    def transfers(self, x: Fields, q: Quantities, at: Context):
        return (
            Transfer("attractant_release", None, "attractant", self.release_per_day * q["tumour_cells"]),
            Transfer("attractant_decay", "attractant", None, self.decay_per_day * x["attractant"]),
        )

    def fluxes(self, x: Fields, q: Quantities, at: Context):
        return (Flux("attractant", g=at.medium),)

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        return {"attractant": (outflow_rate(at.grid, at.medium), self.decay_per_day)}

    def without_carriers(self):
        return self
