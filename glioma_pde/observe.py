"""What a scanner or a cell counter would see: scalars of a state, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from .biology.base import Event, Observable
from .biology.drug import HEALTHY_BELOW
from .grid import Grid
from .model import Carry, Model
from .tissue import Tissue

OBSERVABLES: tuple[Observable, ...] = (
    Observable("burden_cells", "cells", "tumour burden"),
    Observable("t1gd_volume", "mm3", "volume above the T1Gd threshold"),
    Observable("flair_volume", "mm3", "volume above the T2-FLAIR threshold"),
    Observable("t1gd_radius", "mm", "radius of the sphere of the T1Gd volume"),
    Observable("flair_radius", "mm", "radius of the sphere of the FLAIR volume"),
    Observable("tumour_peak", "1", "largest tumour cell density"),
    Observable("rim_density", "1", "largest tumour cell density on the rim of the computed window"),
    Observable("carriers_cells", "cells", "carriers alive"),
    Observable("carriers_in_tumour_cells", "cells", "carriers within the FLAIR contour"),
    Observable("carriers_on_white_cells", "cells", "carriers on white matter"),
    Observable("carriers_peak", "1", "largest carrier density"),
    Observable("carriers_displacement", "mm", "root-mean-square distance of living carriers from the nearest site"),
    Observable("drug_peak", "µM", "largest drug concentration"),
    Observable(
        "drug_peak_tumour", "µM", "largest drug concentration in tissue with tumour density 0.01 and more", "max"
    ),
    Observable("drug_peak_healthy", "µM", "largest drug concentration in healthy tissue", "max"),
    Observable("drug_mean_tumour", "µM", "drug concentration averaged over tumour cells"),
    Observable("drug_exposure_tumour", "µM mm3 day", "drug exposure of tissue with tumour density 0.01 and more"),
    Observable("drug_exposure_healthy", "µM mm3 day", "drug exposure of healthy tissue (tumour density under 0.01)"),
    Observable("prodrug_plasma", "µM", "prodrug in plasma"),
    Observable("growth_rate_per_day", "1/day", "growth rate of the burden over the last 7 days"),
    Observable("front_speed_mm_per_day", "mm/day", "speed of the FLAIR radius over the last 7 days"),
)

TREND_DAYS = 7.0
"""Rates of change are taken over so many days: from day to day, a radius of whole cells would jump."""


def trends(days: Sequence[float], burden: Sequence[float], radius_mm: Sequence[float]) -> dict[str, float]:
    """Growth rate d ln(burden)/dt and speed of a radius, over the last `TREND_DAYS` or since the first day.

    NaN on the first day, and where there is no tumour.
    """
    then = next((i for i in range(len(days) - 2, -1, -1) if days[-1] - days[i] >= TREND_DAYS - 1e-9), 0)
    span = days[-1] - days[then]
    if span <= 0:
        return {"growth_rate_per_day": math.nan, "front_speed_mm_per_day": math.nan}
    alive = burden[then] > 0 and burden[-1] > 0
    return {
        "growth_rate_per_day": math.log(burden[-1] / burden[then]) / span if alive else math.nan,
        "front_speed_mm_per_day": (radius_mm[-1] - radius_mm[then]) / span,
    }


def observables(model: Model, events: Sequence[Event] = ()) -> tuple[Observable, ...]:
    """All scalars that there may be: the table above, and what modules and events add to it."""
    said = [*(m.scalars for m in model.modules), *(e.scalars for e in events)]
    own = {o.name: o for scalars in said for o in scalars}
    return (*OBSERVABLES, *own.values())


def observe(model: Model, carry: Carry, quantities: Mapping[str, Array], t1gd: Any, flair: Any) -> dict[str, Array]:
    """Scalars of one instant; those of absent modules are left out.

    Args:
        quantities: from `Model.quantities` at that instant.
        t1gd, flair: densities at which a scan shows the tumour, fractions of K.
    """
    grid, k = model.tissue.grid, model.capacity_cells_per_mm3
    u = quantities["tumour_cells"]
    total = grid.integrate(u)
    t1gd_volume = grid.integrate((u >= t1gd).astype(u.dtype))
    flair_volume = grid.integrate((u >= flair).astype(u.dtype))
    out = {
        "burden_cells": total * k,
        "t1gd_volume": t1gd_volume,
        "flair_volume": flair_volume,
        "t1gd_radius": equivalent_radius(t1gd_volume),
        "flair_radius": equivalent_radius(flair_volume),
        "tumour_peak": jnp.max(u),
        "rim_density": rim(u, grid.geometry == "radial"),
    }
    if "carriers" in carry.x:
        s = carry.x["carriers"]
        out["carriers_cells"] = grid.integrate(s) * k
        out["carriers_in_tumour_cells"] = grid.integrate(jnp.where(u >= flair, s, 0.0)) * k
        out["carriers_on_white_cells"] = grid.integrate(s * on_white(model.tissue)) * k
        out["carriers_peak"] = jnp.max(s)
    if "drug" in quantities:
        c = quantities["drug"]
        out["drug_peak"] = jnp.max(c)
        out["drug_peak_tumour"] = jnp.max(jnp.where(u < HEALTHY_BELOW, 0.0, c))
        out["drug_peak_healthy"] = jnp.max(jnp.where(u < HEALTHY_BELOW, c, 0.0))
        tiny = jnp.finfo(u.dtype).tiny
        out["drug_mean_tumour"] = grid.integrate(c * u) / jnp.maximum(total, tiny)
        for name in ("drug_exposure_tumour", "drug_exposure_healthy"):
            if name in carry.ledger:
                out[name] = carry.ledger[name][0]
    if "prodrug_plasma" in quantities:
        out["prodrug_plasma"] = quantities["prodrug_plasma"]
    return out


def look(model: Model, events: Sequence[Event], carry: Carry, medium, t, thresholds):
    """Observables of a state, those of modules and events included, and the totals of the transported fields."""
    model, medium = model.now(carry.anatomy, medium)
    instant = jnp.zeros_like(t)
    q = model.quantities(carry.x, carry.warm, medium, t, instant)
    totals = {name: model.tissue.grid.integrate(x) for name, x in carry.x.items()}
    seen = observe(model, carry, q, *thresholds)
    entries = {name: value + rest for name, (value, rest) in carry.ledger.items()}
    for module in model.modules:
        seen |= module.look(carry.x, q, model.context(module, medium, t, instant), entries)
    for event in events:
        seen |= event.look(model, entries)
    seen |= _displacement(model, events, carry, t)
    return seen, totals


def _displacement(model: Model, events: Sequence[Event], carry: Carry, t: Array) -> dict[str, Array]:
    """How far carriers have come, where all of them started from points."""
    found = [event.origins(t) for event in events]
    if "carriers" not in carry.x or None in found or not any(found):
        return {}
    points, given = (jnp.concatenate(parts) for parts in zip(*filter(None, found), strict=True))
    s, grid = carry.x["carriers"], model.tissue.grid
    alive = jnp.any(given) & (grid.integrate(s) * model.capacity_cells_per_mm3 >= 1.0)
    none = jnp.zeros((), s.dtype)
    return {"carriers_displacement": lax.cond(alive, lambda: displacement(grid, s, points, given), lambda: none)}


_AT_ONCE = 8
"""Sites that one pass over the grid takes in."""


def displacement(grid: Grid, s: Array, points_mm: Array, given: Array) -> Array:
    """√(∫ s min_k |x − x_k|² dV / ∫ s dV) [mm] over the sites x_k that are ``given``.

    For one site this is the root mean square of the carriers' displacement from the needle's tip, the spread of the
    deposit included; it grows as √(MSD₀ + 2 d D t) by diffusion and as √(MSD₀ + (v t)²) by drift. Carriers do not
    remember which of several sites they came from: then it is a lower bound, close as long as the clouds keep apart.

    Args:
        s: carrier density, with some carriers in it. points_mm: ``(n, ndim)``. given: ``(n,)``, one of them at least.
    """
    more = -len(points_mm) % _AT_ONCE
    points = jnp.pad(points_mm.astype(s.dtype), ((0, more), (0, 0))).reshape(-1, _AT_ONCE, grid.ndim)
    there = jnp.pad(given, (0, more)).reshape(-1, _AT_ONCE)

    def nearer(nearest, sites):
        for point, given in zip(*sites, strict=True):
            nearest = jnp.where(given, jnp.minimum(nearest, grid.square_distance_mm2(point)), nearest)
        return nearest, None

    nearest, _ = lax.scan(nearer, jnp.full(grid.shape, jnp.inf, s.dtype), (points, there))
    return jnp.sqrt(grid.integrate(s * nearest) / grid.integrate(s))


def on_white(tissue: Tissue) -> Array:
    """Share of the cells at each place that is on white matter: p_white/(p_white + p_grey)."""
    both = tissue.white + tissue.grey
    return jnp.where(both > 0, tissue.white / jnp.where(both > 0, both, 1.0), 0.0)


def equivalent_radius(volume_mm3: Array) -> Array:
    """Radius of the sphere of that volume [mm]."""
    return jnp.cbrt(3.0 * volume_mm3 / (4.0 * jnp.pi))


def rim(u: Array, outer_only: bool = False) -> Array:
    """Largest value on the outermost cells of the array: a window is large enough while this stays negligible."""
    sides = []
    for axis in range(u.ndim):
        last = jnp.max(jnp.take(u, u.shape[axis] - 1, axis=axis))
        sides += [last] if outer_only else [jnp.max(jnp.take(u, 0, axis=axis)), last]
    return jnp.max(jnp.stack(sides))
