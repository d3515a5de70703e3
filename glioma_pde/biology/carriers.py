"""Stem-cell carriers: random motility, taxis towards the tumour, loss, and direct killing.

∂t s = ∇·(D_s(x)∇s − v(a) φ(s)) + ρ_s s(1 − N)₊ − δ_s s − ε_c E(c) s,
and tumour cells die at the rate κ_a s/(1 + h s).  φ(s) = s, or s (1 − N_cells)₊ with volume filling, where N_cells
counts all cells with weight one. With the tissue's tensors T, D_s becomes D_s T, and contact guidance turns the sensed
gradient ∇Φ into T∇Φ: v = v(T∇Φ), so that carriers follow fibres and no speed exceeds the law's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from ..numerics.diffusion import materialise, outflow_rate
from ..numerics.links import guide
from ..numerics.taxis import advection_rate, face_speed_factor, gradient, gradient_magnitude2, guided, stretch
from ..parameters import default
from ..tissue import Tissue
from .base import DENSEST, Context, Fields, FieldSpec, Flux, Hazard, Module, Quantities, Transfer, soft_zero
from .laws import FluxLimited, Sensing
from .tumour import motility


class Carriers(Module):
    """Carrier density s, as a fraction of the carrying capacity K.

    Attributes:
        taxis: sensing law, or ``None`` for random motility alone.
        anisotropy: α in T = (1 - α) 1 + α (the tissue's tensors), 0 to 1; ``None``: isotropic.
        contact_guidance: taxis follows T as well.
        volume_filling: carriers neither move nor grow into full tissue; keeps carriers alone ≤ 1.

    Growth that exceeds the loss ends at N = 1: with a crowding under one half, and without volume filling, carriers can
    outgrow `DENSEST`, for which the longest step is made, and nothing is guaranteed any more. Configurations refuse it.

    Rates that are ``None`` are switched off: their transfers are neither computed nor kept in the ledger.
    """

    name: ClassVar[str] = "carriers"
    fields: ClassVar = (FieldSpec("carriers", "1", "stem-cell carrier density, fraction of the carrying capacity"),)
    uses: ClassVar = ("attractant", "attractant_scale", "kill_rate", "cells")

    diffusivity_white_mm2_per_day: Array | float = default("carriers.diffusivity_white_mm2_per_day")
    diffusivity_grey_mm2_per_day: Array | float = default("carriers.diffusivity_grey_mm2_per_day")
    proliferation_per_day: Array | float | None = default("carriers.proliferation_per_day")
    loss_per_day: Array | float = default("carriers.loss_per_day")
    crowding: Array | float = default("carriers.crowding")
    tumour_kill_per_day: Array | float | None = default("carriers.tumour_kill_per_day")
    tumour_kill_saturation: Array | float = default("carriers.tumour_kill_saturation")
    drug_sensitivity: Array | float | None = default("carriers.drug_sensitivity")
    alpha_per_gy: Array | float | None = default("carriers.alpha_per_gy")
    alpha_beta_gy: Array | float = default("carriers.alpha_beta_gy")
    diffusivity_map: Array | None = None
    anisotropy: Array | float | None = None
    taxis: Sensing | None = FluxLimited()
    volume_filling: bool = eqx.field(static=True, default=False)
    contact_guidance: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.contact_guidance and self.anisotropy is None:
            raise ValueError("Contact guidance follows the tensors of the tissue, so it needs an anisotropy.")

    def occupies(self):
        return {"carriers": self.crowding}

    def prepare(self, tissue: Tissue):
        g = motility(
            tissue,
            self.diffusivity_map,
            self.diffusivity_white_mm2_per_day,
            self.diffusivity_grey_mm2_per_day,
            self.anisotropy,
        )
        open_faces = tissue.open_faces()
        medium: dict[str, Any] = {"g": g, "open": open_faces, "factor": face_speed_factor(tissue.grid, open_faces)}
        if self.contact_guidance and self.anisotropy is not None:
            medium["tensor"] = guide(tissue, self.anisotropy)
        return medium

    def transfers(self, x: Fields, q: Quantities, at: Context):
        s = x["carriers"]
        crowding = q["cells"] if self.volume_filling else q["crowding"]
        out = [Transfer("carrier_loss", "carriers", None, self.loss_per_day * s)]
        if self.proliferation_per_day is not None:
            growth = self.proliferation_per_day * s * soft_zero(1.0 - crowding)
            out.append(Transfer("carrier_growth", None, "carriers", growth))
        if self.drug_sensitivity is not None and "kill_rate" in q:
            out.append(Transfer("carrier_suicide", "carriers", None, self.drug_sensitivity * q["kill_rate"] * s))
        return tuple(out)

    def hazards(self, x: Fields, q: Quantities, at: Context):
        if self.tumour_kill_per_day is None:
            return ()
        s = x["carriers"]
        kill = self.tumour_kill_per_day * s / (1.0 + self.tumour_kill_saturation * s)
        return (Hazard("carrier_kill", kill, drug=False),)

    def radiosensitivity(self, alpha_per_gy, beta_per_gy2):
        own = self.alpha_per_gy
        return {} if own is None else {"carriers": (own, own / self.alpha_beta_gy)}

    def fluxes(self, x: Fields, q: Quantities, at: Context):
        g, open_faces, factor = at.medium["g"], at.medium["open"], at.medium["factor"]
        if self.taxis is None or "attractant" not in q:
            return (Flux("carriers", g=g),)
        velocity = self._velocity(q["attractant"], q["attractant_scale"], open_faces, at)
        occupied = q["cells"] if self.volume_filling else None
        return (Flux("carriers", g=g, velocity=velocity, factor=factor, occupied=occupied),)

    def _velocity(self, a: Array, scale: Array, open_faces, at: Context):
        assert self.taxis is not None
        potential = materialise(self.taxis.potential(a, scale))
        slope = materialise(gradient(at.grid, potential, open_faces))
        limited = self.taxis.largest_speed is not None
        if self.contact_guidance:
            slope, squares = guided(slope, at.medium["tensor"])
            return materialise(tuple(self.taxis.velocity(s, m2) for s, m2 in zip(slope, squares, strict=True)))
        magnitude2 = gradient_magnitude2(slope) if limited else (None,) * len(slope)
        return materialise(tuple(self.taxis.velocity(s, m2) for s, m2 in zip(slope, magnitude2, strict=True)))

    def loss_bound(self, at: Context, limits: Mapping[str, Array]):
        rate = self.loss_per_day + (0.0 if self.proliferation_per_day is None else self.proliferation_per_day)
        if self.taxis is not None and "attractant_scale" in limits:
            speed = self.taxis.largest_speed
            if speed is None:
                largest = self.taxis.largest_step(limits["attractant_scale"])
                assert largest is not None  # a sensing law bounds its speed or its step
                speed = largest / min(at.grid.spacing_mm)
                if self.contact_guidance:
                    speed = speed * stretch(at.medium["tensor"], at.grid.ndim)
            rate = rate + speed * advection_rate(at.grid, at.medium["factor"])
        if self.drug_sensitivity is not None:
            rate = rate + self.drug_sensitivity * limits.get("kill_rate", 0.0)
        return {"carriers": (outflow_rate(at.grid, at.medium["g"]), rate)}

    def hazard_bounds(self, at: Context, limits: Mapping[str, Array]):
        if self.tumour_kill_per_day is None:
            return ()
        kill = DENSEST * self.tumour_kill_per_day / (1.0 + DENSEST * self.tumour_kill_saturation)
        return (Hazard("carrier_kill", jnp.asarray(kill), drug=False),)

    def without_carriers(self):
        return Remnant(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})


class Remnant(Carriers):
    """What is left of the carriers when less than one cell is: it fades in place and takes up no room."""

    @property
    def is_apart(self):
        return self.proliferation_per_day is None and self.tumour_kill_per_day is None

    def occupies(self):
        return {}

    def fluxes(self, x: Fields, q: Quantities, at: Context):
        return ()
