"""The model behind a fit to images: from v, λ, D_w/D_g, reach and origin to shares of the cells; see `images`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax import Array

from ..biology.tumour import Tumour
from ..delivery import Schedule, gaussian
from ..model import Model
from ..schedule import STEPS_PER_BLOCK, Plan, tabulate
from ..solve import solve
from ..tissue import Tissue
from .forward import with_parameters

NAMES = ("velocity_mm_per_day", "length_mm", "white_grey_ratio", "size_mm", "x_mm", "y_mm", "z_mm")
"""v, λ, D_w/D_g, s and x₀; the first four on logarithmic scales."""
LOGS = 4
RAMP = 0.3
"""w, in logit u: **assumption**; a front changes logit u by h/2λ from cell to cell."""
PATCH_MM = 6.0
"""Size [mm] of the patches of a contour whose errors are independent: **assumption** (raters shift whole stretches)."""
KNOWN_VELOCITY = 0.1
"""v [mm/day] that stands in where one scan cannot tell it."""
_SEED_PEAK, _TINY = 0.5, 1e-12
FREEDOM = 2.5
"""Bounds are the starting values over, and times, this number; of the ratio 1 to 30, of the place ± 15 mm."""


class Images(eqx.Module):
    """Residuals of the masks as a function of scaled parameters.

    Attributes:
        gaps: days since the first scan, ``(T,)``. shares: ``(T, 2, …)``, T1Gd then FLAIR. used: ``(T, 2)``.
        thresholds: u*, ``(2,)``. low, high: bounds, scaled. known: values of parameters that are not free, by name.
    """

    model: Model
    plan: Plan
    gaps: Array
    shares: Array
    used: Array
    thresholds: Array
    low: Array
    high: Array
    known: dict[str, Array]
    seed_mm: float = eqx.field(static=True)
    free: tuple[str, ...] = eqx.field(static=True)

    def scaled(self, z: Array) -> Array:
        return self.low + (self.high - self.low) * jax.nn.sigmoid(z)

    def unconstrained(self, s: Array) -> Array:
        p = jnp.clip((s - self.low) / (self.high - self.low), 1e-4, 1 - 1e-4)
        return jnp.log(p) - jnp.log1p(-p)

    def natural(self, s: Array) -> dict[str, Array]:
        """v, λ, ratio, s and x₀, and what follows: D_w, D_g, ρ, T."""
        logs = set(NAMES[:LOGS])
        p = {**self.known, **{n: jnp.exp(s[k]) if n in logs else s[k] for k, n in enumerate(self.free)}}
        v, length = p["velocity_mm_per_day"], p["length_mm"]
        d = 0.5 * v * length
        return p | {
            "diffusivity_white_mm2_per_day": d, "diffusivity_grey_mm2_per_day": d / p["white_grey_ratio"],
            "proliferation_per_day": 0.5 * v / length, "age_days": p["size_mm"] / v,
        }  # fmt: skip

    def densities(self, s: Array) -> Array:
        """u at every scan, ``(T, …)``."""
        p = self.natural(s)
        keys = ("diffusivity_white_mm2_per_day", "diffusivity_grey_mm2_per_day", "proliferation_per_day")
        model = with_parameters(self.model, {f"tumour.{k}": p[k] for k in keys})
        grid, dtype = model.tissue.grid, self.low.dtype
        centre = jnp.stack([p[n] for n in NAMES[LOGS : LOGS + grid.ndim]])
        seed = gaussian(grid, centre, jnp.asarray(self.seed_mm, dtype)) * model.tissue.mask.astype(dtype)
        days = jnp.concatenate([jnp.zeros(1, dtype), p["age_days"] + self.gaps])
        return solve(model, Schedule(), {"tumour": _SEED_PEAK * seed}, self.plan, days)["tumour"][1:]

    def predicted(self, u: Array) -> Array:
        """Shares of the masks, ``(T, 2, …)``."""
        level = logit(self.thresholds).reshape(1, -1, *[1] * (u.ndim - 1))
        return jax.nn.sigmoid((logit(u)[:, None] - level) / RAMP)

    def volumes(self, s: Array) -> Array:
        """Of both masks at every scan [mm³], ``(T, 2)``."""
        shares = self.predicted(self.densities(s)) * self.model.tissue.mask[None, None]
        return jax.vmap(jax.vmap(self.model.tissue.grid.integrate))(shares)

    def errors(self, s: Array) -> Array:
        """Predicted less seen shares, zero where nothing was segmented, ``(T, 2, …)``."""
        shape = (*self.used.shape, *[1] * (self.shares.ndim - 2))
        keep = self.model.tissue.mask[None, None] & self.used.reshape(shape)
        return jnp.where(keep, self.predicted(self.densities(s)) - self.shares, 0.0)


def growth_model(tissue: Tissue) -> Model:
    return Model(tissue, [Tumour(0.1, 0.02, 0.025)], ledger=False)


def steps_for(model: Model, gaps, low: Array, high: Array, known: Mapping[str, Array], free: Sequence[str]) -> Plan:
    """Steps enough for every parameter within the bounds: the time to the first scan is s/v, so that its number of steps
    does not depend on v."""
    ends = {n: (math.exp(float(low[k])), math.exp(float(high[k]))) for k, n in enumerate(free) if n in NAMES[:LOGS]}
    ends |= {n: (float(v), float(v)) for n, v in known.items() if n in NAMES[:LOGS]}
    rate = 0.0  # of losses, per day at v = 1 mm/day
    for length in ends["length_mm"]:
        d = jnp.asarray(0.5 * length)
        tumour = {
            "diffusivity_white_mm2_per_day": d,
            "diffusivity_grey_mm2_per_day": d,
            "proliferation_per_day": 0.25 / d,
        }
        rate = max(rate, 1.0 / with_parameters(model, {f"tumour.{k}": v for k, v in tumour.items()}).largest_step())
    spans = [ends["size_mm"][1], *(np.diff(gaps, prepend=0.0)[1:] * ends["velocity_mm_per_day"][1])]
    if gaps[0] > 0:
        spans[0] += gaps[0] * ends["velocity_mm_per_day"][1]
    rows = []
    for j, span in enumerate(spans):
        parts = max(1, math.ceil(span * rate / STEPS_PER_BLOCK))
        rows.append([(j, j + 1, part, parts, ()) for part in range(parts)])
    return tabulate(rows, 0, len(spans) + 1)


def levenberg(residuals, z: Array, steps: int) -> tuple[Array, Array]:
    """From z: the end, and whether it converged; z itself where the end is not finite."""
    solver: Any = optx.LevenbergMarquardt(rtol=1e-4, atol=1e-4)
    found: Any = optx.least_squares(residuals, solver, z, max_steps=steps, throw=False)
    good = jnp.all(jnp.isfinite(found.value))
    return jnp.where(good, found.value, z), good & (found.result == optx.RESULTS.successful)


def logit(u):
    return jnp.log(jnp.maximum(u, _TINY)) - jnp.log(jnp.maximum(1.0 - u, _TINY))
