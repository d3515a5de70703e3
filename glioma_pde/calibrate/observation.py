"""What is measured of a state, as smooth functions of it.

A threshold volume counts each cell by a logistic ramp, ∫ 1/(1 + e^{−(u − u*)/w}) dV, so that it has a derivative; it
tends to the volume above u* as w → 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ..model import Model, total_tumour
from ..observe import equivalent_radius

T1GD, FLAIR = 0.80, 0.16
"""Densities at which a scan shows the tumour, fractions of K: the defaults of the section [outcome]."""
WIDTH = 0.02
"""Width w of the ramp, fraction of K: **assumption**; a ramp must span the step of u between cells to be smooth."""


class Quantity(eqx.Module):
    """A number read off the fields."""

    def __call__(self, model: Model, x: Mapping[str, Array]) -> Array:
        raise NotImplementedError


class Burden(Quantity):
    """K ∫u dV [cells]."""

    def __call__(self, model, x):
        return model.capacity_cells_per_mm3 * model.tissue.grid.integrate(total_tumour(model, x))


class Volume(Quantity):
    """∫u dV [mm³]: what the cells would fill at capacity; a calliper volume."""

    def __call__(self, model, x):
        return model.tissue.grid.integrate(total_tumour(model, x))


class Fraction(Quantity):
    """Mean of u over the tissue [1]: confluence; with a scale factor cell index or bioluminescence."""

    def __call__(self, model, x):
        grid = model.tissue.grid
        inside = model.tissue.mask.astype(model.tissue.white.dtype)
        return grid.integrate(total_tumour(model, x)) / grid.integrate(inside)


class ThresholdVolume(Quantity):
    """Volume where the density of tumour cells exceeds ``threshold`` [mm³].

    Attributes:
        threshold: u*, fraction of K (`T1GD`, `FLAIR`).
        width: w of the ramp, fraction of K.
    """

    threshold: Array | float = T1GD
    width: Array | float = WIDTH

    def __call__(self, model, x):
        u = total_tumour(model, x)
        inside = model.tissue.mask.astype(u.dtype)
        # the ramp's own value at u = 0 is taken off, so that empty tissue has no volume
        empty = jax.nn.sigmoid(-jnp.asarray(self.threshold, u.dtype) / self.width)
        ramp = jax.nn.sigmoid((u - self.threshold) / self.width)
        return model.tissue.grid.integrate(inside * (ramp - empty) / (1.0 - empty))


class ThresholdRadius(Quantity):
    """Radius of the sphere of that volume [mm]."""

    threshold: Array | float = T1GD
    width: Array | float = WIDTH

    def __call__(self, model, x):
        volume = ThresholdVolume(self.threshold, self.width)(model, x)
        tiny = jnp.finfo(volume.dtype).eps * model.tissue.grid.cell_volume_mm3
        return equivalent_radius(jnp.maximum(volume, tiny))


class CarrierBurden(Quantity):
    """K ∫s dV [cells]."""

    def __call__(self, model, x):
        return model.capacity_cells_per_mm3 * model.tissue.grid.integrate(x["carriers"])


QUANTITIES: dict[str, tuple[type[Quantity], str]] = {
    "burden": (Burden, "cells"),
    "volume": (Volume, "mm3"),
    "fraction": (Fraction, "1"),
    "threshold_volume": (ThresholdVolume, "mm3"),
    "threshold_radius": (ThresholdRadius, "mm"),
    "carriers": (CarrierBurden, "cells"),
}
"""Quantities by the names of a configuration, with their units before any scale factor."""


class Observation(eqx.Module):
    """An observable: offset + scale · quantity.

    Attributes:
        quantity: one of `QUANTITIES`, by name or as an object.
        scale, offset: numbers, or names of parameters (a bioluminescence or cell index is a signal, not cells).
    """

    name: str = eqx.field(static=True)
    quantity: Quantity = eqx.field(converter=lambda q: QUANTITIES[q][0]() if isinstance(q, str) else q)
    unit: str = eqx.field(static=True, default="1")
    scale: str | float = eqx.field(static=True, default=1.0)
    offset: str | float = eqx.field(static=True, default=0.0)

    def signal(self, raw: Array, theta: Mapping[str, Array]) -> Array:
        return value_of(self.offset, theta) + value_of(self.scale, theta) * raw

    def names(self) -> list[str]:
        """Parameters it reads."""
        return [p for p in (self.scale, self.offset) if isinstance(p, str)]


def value_of(number: str | float, theta: Mapping[str, Array]) -> Array | float:
    """A number, or the parameter of that name."""
    return theta[number] if isinstance(number, str) else number
