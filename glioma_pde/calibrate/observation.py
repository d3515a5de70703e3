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
"""Width w of the ramp, fraction of K: **assumption**. A volume's slope is good to 3 % while u changes by no more than 2.5 w
from cell to cell at the threshold; at 5 w it is up to 40 % off. Wider ramps lead off the volume: at 0.05 by up to 4 %."""


class Quantity(eqx.Module):
    """A number read off the fields."""

    def __call__(self, model: Model, x: Mapping[str, Array]) -> Array:
        raise NotImplementedError

    def signal(self, model: Model, x: Mapping[str, Array], scale: Array | float) -> Array:
        """What an instrument shows of it, less its offset; most are proportional."""
        return scale * self(model, x)


class Burden(Quantity):
    """K ∫u dV [cells]."""

    def __call__(self, model, x):
        return model.capacity_cells_per_mm3 * model.tissue.grid.integrate(total_tumour(model, x))


class Volume(Quantity):
    """∫u dV [mm³]: what the cells would fill at capacity; a calliper volume."""

    def __call__(self, model, x):
        return model.tissue.grid.integrate(total_tumour(model, x))


class Fraction(Quantity):
    """Mean of u over the tissue [1]; with a scale factor a cell index."""

    def __call__(self, model, x):
        return _mean(model, total_tumour(model, x))


class Confluence(Quantity):
    """Share of the area that cells cover [1], ⟨1 − e^{−k u}⟩: at most 1, however many there are.

    Cells lie where they happen to, over each other too, so that what they leave bare is e^{−k u} with k the areas of all
    cells at capacity over the area of the dish: the scale of the observable, k = 1 without one (**assumption**).
    """

    def __call__(self, model, x):
        return self.signal(model, x, 1.0)

    def signal(self, model, x, scale):
        return _mean(model, -jnp.expm1(-scale * total_tumour(model, x)))


def _mean(model: Model, values: Array) -> Array:
    """Over the tissue; ``values`` are zero elsewhere."""
    grid = model.tissue.grid
    return grid.integrate(values) / grid.integrate(model.tissue.mask.astype(model.tissue.white.dtype))


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
    "confluence": (Confluence, "1"),
    "cell_index": (Fraction, "1"),
    "bioluminescence": (Burden, "photons/s"),
    "threshold_volume": (ThresholdVolume, "mm3"),
    "threshold_radius": (ThresholdRadius, "mm"),
    "carriers": (CarrierBurden, "cells"),
}
"""Quantities by the names of a configuration, with their units before any scale factor. Cell index and bioluminescence are
signals: proportional to the mean density and to the cells, by a factor that is never known beforehand."""


class Observation(eqx.Module):
    """An observable: offset + scale · quantity, or of a `Confluence` offset + ⟨1 − e^{−scale · u}⟩.

    Attributes:
        quantity: one of `QUANTITIES`, by name or as an object.
        scale, offset: numbers, or names of parameters (a bioluminescence or cell index is a signal, not cells).
    """

    name: str = eqx.field(static=True)
    quantity: Quantity = eqx.field(converter=lambda q: QUANTITIES[q][0]() if isinstance(q, str) else q)
    unit: str = eqx.field(static=True, default="1")
    scale: str | float = eqx.field(static=True, default=1.0)
    offset: str | float = eqx.field(static=True, default=0.0)

    def __call__(self, model: Model, x: Mapping[str, Array], theta: Mapping[str, Array]) -> Array:
        return value_of(self.offset, theta) + self.quantity.signal(model, x, value_of(self.scale, theta))

    def names(self) -> list[str]:
        """Parameters it reads."""
        return [p for p in (self.scale, self.offset) if isinstance(p, str)]


def value_of(number: str | float, theta: Mapping[str, Array]) -> Array | float:
    """A number, or the parameter of that name."""
    return theta[number] if isinstance(number, str) else number
