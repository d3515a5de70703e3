"""Delivery of carriers: events at exact times, with footprints that integrate to one inside the tissue.

    s ← s + N_cells · f · G(x) / K,   ∫ G dV = 1

A route is a rule that turns an event into the footprint G; an event of zero cells is the identity.
"""

from __future__ import annotations

import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from .biology.base import Event
from .grid import Grid
from .tissue import Tissue

# Three-point Gauss–Legendre rule on a cell: keeps footprints positive, and accurate for σ ≥ h/2.
_NODES = 0.5 * math.sqrt(0.6) * np.array([-1.0, 0.0, 1.0])
_WEIGHTS = np.array([5.0, 8.0, 5.0]) / 18.0

NARROWEST = 0.5
"""Smallest σ in units of the spacing that a footprint resolves."""

_REACH_SIGMA = 6.0
"""Deposits beyond so many σ count as nothing when a window is chosen."""


def gaussian(grid: Grid, centre_mm: Array, sigma_mm: Array) -> Array:
    """Cell means of exp(−|x − centre|²/2σ²), field-shaped and positive.

    Args:
        centre_mm: world point, shape ``(ndim,)`` [mm]; on radial grids the centre is the origin.
        sigma_mm: standard deviation, scalar [mm].
    """
    dtype = jnp.result_type(centre_mm, sigma_mm)
    local = grid.local_mm(centre_mm)
    out = jnp.ones((), dtype)
    for k in range(grid.ndim):
        at = 0.0 if grid.geometry == "radial" else local[k]
        h = grid.spacing_mm[k]
        nodes = grid.local_axis(k, dtype)[:, None] + jnp.asarray(_NODES * h, dtype)[None, :]
        z = (nodes - at) / sigma_mm
        weights = jnp.asarray(_WEIGHTS, dtype)[None, :]
        if grid.geometry == "radial":
            weights = weights * nodes * nodes
            weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        profile = jnp.sum(jnp.exp(-0.5 * z * z) * weights, axis=1)
        out = out * jnp.expand_dims(profile, [i for i in range(grid.ndim) if i != k])
    return out


class Intracerebral(eqx.Module):
    """Gaussian deposits at the needle tips; the cells of an event are shared out by ``weight``."""

    def footprint(self, tissue: Tissue, sites_mm: Array, sigma_mm: Array, weight: Array) -> Array:
        """G [1/mm³] with ∫G dV = Σ weight: every deposit is normalised inside the mask.

        A tip outside the mask delivers to the tissue nearest to it; one with no tissue within reach of its
        Gaussian (some 13 σ in float32) makes G NaN.

        Args:
            sites_mm: ``(S, ndim)`` [mm]. sigma_mm: ``(S,)`` [mm]. weight: ``(S,)``.
        """
        inside = jnp.asarray(tissue.mask, sigma_mm.dtype)
        total = jnp.zeros(tissue.grid.shape, sigma_mm.dtype)
        for site, sigma, share in zip(sites_mm, sigma_mm, weight, strict=True):
            g = gaussian(tissue.grid, site, sigma) * inside
            whole = tissue.grid.integrate(g)
            # a padding site may lie out of reach; a site with cells may not, and the result says so by NaN
            total = total + g * (share / jnp.where((whole > 0) | (share > 0), whole, 1.0))
        return total


class CarrierDoses(Event):
    """Repeated doses of carriers along one route, one row per event.

    Attributes:
        day: ``(E,)`` [day].
        cells: cells injected, ``(E,)``.
        retained_fraction: f, the fraction that stays, ``(E,)`` or scalar.
        sites_mm: ``(E, S, ndim)`` [mm]; sigma_mm: ``(E, S)`` [mm].
        weight: share of each site, ``(E, S)``, summing to one; 0 pads events with fewer sites.
    """

    field: ClassVar[str] = "carriers"
    needs: ClassVar = ("carriers",)

    day: Array
    cells: Array
    retained_fraction: Array
    sites_mm: Array
    sigma_mm: Array
    weight: Array
    route: Intracerebral = Intracerebral()

    @classmethod
    def at_sites(cls, days, cells, sites_mm, sigma_mm, retained_fraction=1.0, route=None) -> CarrierDoses:
        """The same dose on each of ``days``, split evenly over ``sites_mm`` (a list of points)."""
        days = jnp.atleast_1d(jnp.asarray(days, float))
        sites = jnp.atleast_2d(jnp.asarray(sites_mm, float))
        events, count = days.shape[0], sites.shape[0]
        return cls(
            day=days,
            cells=jnp.broadcast_to(jnp.asarray(cells, float), (events,)),
            retained_fraction=jnp.broadcast_to(jnp.asarray(retained_fraction, float), (events,)),
            sites_mm=jnp.broadcast_to(sites, (events, *sites.shape)),
            sigma_mm=jnp.broadcast_to(jnp.asarray(sigma_mm, float), (events, count)),
            weight=jnp.full((events, count), 1.0 / count),
            route=route or Intracerebral(),
        )

    def density(self, tissue: Tissue, capacity: Array, i: Array) -> tuple[Array, Array]:
        """Density added by event ``i`` and its exact integral [density · mm³]."""
        amount = self.cells[i] * self.retained_fraction[i] / capacity
        g = self.route.footprint(tissue, self.sites_mm[i], self.sigma_mm[i], self.weight[i])
        return amount * g, amount * jnp.sum(self.weight[i])

    def entries(self, model):
        return {"carrier_delivery": (self.field, 1.0)}

    def jump(self, x, model, i, quantities=dict):
        added, amount = self.density(model.tissue, model.capacity_cells_per_mm3, i)
        return {**x, self.field: x[self.field] + added}, {"carrier_delivery": amount}

    def extent(self, grid: Grid):
        sites = np.asarray(self.sites_mm, float).reshape(-1, grid.ndim)
        reach = _REACH_SIGMA * np.asarray(self.sigma_mm, float).reshape(-1, 1) / np.asarray(grid.spacing_mm)
        index = np.stack([grid.index_of(site) for site in sites])
        return (index - reach).min(axis=0), (index + reach).max(axis=0)


class Schedule(eqx.Module):
    """Everything that happens at an instant; windows of dosing belong to the modules that read them."""

    events: tuple[Event, ...] = ()
