"""Delivery of carriers: events at exact times, with footprints that integrate to one inside the tissue.

    s ← s + N (1 − b) f · G(x) / K,   ∫ G dV = 1

N cells are given, the fraction b flows back along the needle, and f of the rest stays. A route (`routes`) turns an event
into the footprint G; an event of zero cells is the identity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .biology.base import Event, Fields, Observable, refuse_outside
from .parameters.delivery import OLFACTORY_MM
from .routes import NARROWEST, Intracavity, Intracerebral, Intranasal, Intravenous, Intraventricular, Route, gaussian
from .tissue import Tissue

__all__ = [
    "NARROWEST", "CarrierDoses", "Intracavity", "Intracerebral", "Intranasal", "Intravenous", "Intraventricular",
    "Route", "Schedule", "gaussian",
]  # fmt: skip


def _maths(*values: Any) -> tuple[Any, Any]:
    """What to compute with ``values``: JAX if any of them is traced, else NumPy, which compiles nothing; and JAX's
    own floating type."""
    traced = any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(values))
    return jnp if traced else np, jnp.result_type(float)


class CarrierDoses(Event):
    """Repeated doses of carriers along one route, one row per event.

    Attributes:
        day: ``(E,)`` [day].
        cells: cells given, ``(E,)``.
        retained_fraction: f, the fraction that stays, ``(E,)`` or scalar.
        sites_mm: ``(E, S, ndim)`` [mm]; sigma_mm: ``(E, S)`` [mm]. Routes without sites do not read them.
        weight: share of each site, ``(E, S)``, summing to one; 0 pads events with fewer sites.
        backflow_fraction: b, the fraction that flows back along the needle, ``(E,)`` or scalar.
    """

    field: ClassVar[str] = "carriers"
    needs: ClassVar = ("carriers",)
    scalars: ClassVar = (
        Observable("carriers_given_cells", "cells", "carriers given so far", "last"),
        Observable("carriers_delivered_cells", "cells", "carriers that stayed in the tissue when given", "last"),
        Observable("carriers_backflow_cells", "cells", "carriers lost by backflow along the needle"),
    )

    day: Array
    cells: Array
    retained_fraction: Array
    sites_mm: Array
    sigma_mm: Array
    weight: Array
    route: Route = Intracerebral()
    backflow_fraction: Array | float = 0.0

    @classmethod
    def at_sites(
        cls, days, cells, sites_mm, sigma_mm, retained_fraction=1.0, route=None, backflow_fraction=0.0
    ) -> CarrierDoses:
        """A dose on each of ``days``, split evenly over ``sites_mm`` (a list of points).

        Raises:
            ValueError: for what `along` refuses, and widths below zero.
        """
        refuse_outside(0.0, sigma_mm=sigma_mm)
        xp, real = _maths(sites_mm, sigma_mm)
        sites = xp.atleast_2d(xp.asarray(sites_mm, real))
        count = sites.shape[0]
        doses = cls.along(route or Intracerebral(), days, cells, retained_fraction, backflow_fraction)
        events = doses.day.shape[0]
        placed = (
            jnp.asarray(xp.broadcast_to(sites, (events, *sites.shape)), real),
            jnp.asarray(xp.broadcast_to(xp.asarray(sigma_mm, real), (events, count)), real),
            jnp.asarray(np.full((events, count), 1.0 / count, real), real),
        )
        return eqx.tree_at(lambda d: (d.sites_mm, d.sigma_mm, d.weight), doses, placed)

    @classmethod
    def intranasal(cls, days, cells, delay_h, sigma_mm, sites_mm=OLFACTORY_MM, retained_fraction=1.0) -> CarrierDoses:
        """Doses into the nose, which are in the brain after ``delay_h`` [h]; by default at its place in MNI152."""
        arrival = jnp.asarray(days, float) + jnp.asarray(delay_h, float) / 24.0
        return cls.at_sites(arrival, cells, sites_mm, sigma_mm, retained_fraction, Intranasal())

    @classmethod
    def along(cls, route: Route, days, cells, retained_fraction=1.0, backflow_fraction=0.0) -> CarrierDoses:
        """A dose on each of ``days`` along a route without sites.

        Raises:
            ValueError: for numbers of cells that are negative, fractions outside [0, 1], and what is not finite.
        """
        refuse_outside(-math.inf, days=days)
        refuse_outside(0.0, cells=cells)
        refuse_outside(0.0, 1.0, retained_fraction=retained_fraction, backflow_fraction=backflow_fraction)
        xp, real = _maths(days, cells, retained_fraction, backflow_fraction)
        days = xp.atleast_1d(xp.asarray(days, real))
        events = days.shape[0]

        def column(value):
            return jnp.asarray(xp.broadcast_to(xp.asarray(value, real), (events,)), real)

        return cls(
            day=jnp.asarray(days, real),
            cells=column(cells),
            retained_fraction=column(retained_fraction),
            sites_mm=jnp.asarray(np.zeros((events, 1, 0), real), real),
            sigma_mm=jnp.asarray(np.zeros((events, 1), real), real),
            weight=jnp.asarray(np.ones((events, 1), real), real),
            route=route,
            backflow_fraction=column(backflow_fraction),
        )

    def density(
        self, tissue: Tissue, capacity: Array, i: Array, x: Fields | None = None, quantities=dict
    ) -> tuple[Array, Array]:
        """Density added by event ``i`` and its exact integral [density · mm³], 0 if there is no place for it."""
        amount = self._row(self.cells, i) * self._kept(i) / capacity
        g = self.route.footprint(tissue, self.sites_mm[i], self.sigma_mm[i], self.weight[i], x, quantities)
        return amount * g, amount * jnp.where(jnp.any(g != 0), jnp.sum(self.weight[i]), 0.0)

    def entries(self, model):
        """What was given is what was delivered, what flowed back, what did not stay, and what found no place."""
        lost = ("carrier_given", "carrier_backflow", "carrier_not_retained", "carrier_unplaced")
        return {"carrier_delivery": (self.field, 1.0), **dict.fromkeys(lost)}

    def requires(self):
        return (*self.needs, *self.route.requires())

    def jump(self, x, model, i, quantities=dict):
        capacity = model.capacity_cells_per_mm3
        added, amount = self.density(model.tissue, capacity, i, x, quantities)
        given = self._row(self.cells, i) * jnp.sum(self.weight[i]) / capacity
        back = given * self._row(self.backflow_fraction, i)
        stays = self._row(self.retained_fraction, i) * (given - back)
        amounts = {
            "carrier_delivery": amount,
            "carrier_given": given,
            "carrier_backflow": back,
            "carrier_not_retained": given - back - stays,
            "carrier_unplaced": jnp.where(jnp.any(added != 0), 0.0, stays),
        }
        return {**x, self.field: x[self.field] + added}, amounts

    def extent(self, tissue: Tissue, events: Sequence[Event] = ()):
        sites, sigma = (np.asarray(a, float) for a in (self.sites_mm, self.sigma_mm))
        return self.route.extent(tissue, sites, sigma, events)

    def look(self, model, ledger):
        if "carrier_given" not in ledger:
            return {}
        named = {"given": "given", "delivered": "delivery", "backflow": "backflow"}
        return {f"carriers_{n}_cells": ledger[f"carrier_{e}"] * model.capacity_cells_per_mm3 for n, e in named.items()}

    def origins(self, t):
        events, sites, dim = self.sites_mm.shape
        if dim == 0:
            return None
        given = (self.day < t) & (jnp.broadcast_to(self.cells, self.day.shape) > 0)
        return self.sites_mm.reshape(events * sites, dim), (given[:, None] & (self.weight > 0)).reshape(-1)

    def remarks(self, model, ledger):
        cells = ledger.get("carrier_unplaced", 0.0) * float(model.capacity_cells_per_mm3)
        if cells <= 1e-5 * ledger.get("carrier_given", 0.0) * float(model.capacity_cells_per_mm3):
            return []
        return [
            f"{cells:.3g} carriers found no place: no cavity, ventricle wall or leaky vessel was there on their day"
        ]

    def _row(self, column: Any, i: Array) -> Array:
        return jnp.broadcast_to(jnp.asarray(column, self.cells.dtype), self.day.shape)[i]

    def _kept(self, i: Array) -> Array:
        """(1 − b) f."""
        return (1.0 - self._row(self.backflow_fraction, i)) * self._row(self.retained_fraction, i)


class Schedule(eqx.Module):
    """Everything that happens at an instant; windows of dosing belong to the modules that read them."""

    events: tuple[Event, ...] = ()
