"""The model behind a fit to images: from v, λ, D_w/D_g, reach and origin to shares of the cells and their densities; see `images`."""

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
from ..model import Model, total_tumour
from ..schedule import STEPS_PER_BLOCK, Plan, make_plan, tabulate
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
TREATED_FREEDOM = 6.0
"""The same of the velocity where only treated images follow the first ones, so that it is known from nothing."""
SHARE_SD = 0.2
"""How far the share of a cell on a contour lies off: **assumption**; it weighs segmentations against cellularity."""


class Images(eqx.Module):
    """Residuals of the images as a function of scaled parameters.

    The tumour grows from its seed until the first scan, and from then on under the treatments that the model knows.

    Attributes:
        growing: the model until the first scan. first: its plan.
        model, schedule: from then on. after: their plan; ``None`` with one scan.
        days: of the scans, ``(T,)``. shares: ``(T, 2, …)``, T1Gd then FLAIR. used: ``(T, 2)``.
        level: cellularity, and weight: of its errors, ``(T, …)``, zero where it is not known; ``None`` where it never is.
        thresholds: u*, ``(2,)``. low, high: bounds, scaled. known: values of parameters that are not free, by name.
    """

    growing: Model
    first: Plan
    model: Model
    schedule: Schedule
    after: Plan | None
    days: Array
    shares: Array
    used: Array
    level: Array | None
    weight: Array | None
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
        """Tumour cells at every scan, fractions of capacity, ``(T, …)``."""
        p = self.natural(s)
        keys = ("diffusivity_white_mm2_per_day", "diffusivity_grey_mm2_per_day", "proliferation_per_day")
        mine = {f"tumour.{k}": p[k] for k in keys}
        growing = with_parameters(self.growing, mine)
        grid, dtype = growing.tissue.grid, self.low.dtype
        centre = jnp.stack([p[n] for n in NAMES[LOGS : LOGS + grid.ndim]])
        seed = gaussian(grid, centre, jnp.asarray(self.seed_mm, dtype)) * growing.tissue.mask.astype(dtype)
        span = jnp.stack([jnp.zeros((), dtype), p["age_days"]])
        u = solve(growing, Schedule(), {"tumour": _SEED_PEAK * seed}, self.first, span)["tumour"][1]
        if self.after is None:
            return u[None]
        model = with_parameters(self.model, mine)
        return solve(model, self.schedule, {"tumour": u}, self.after, self.days, save=_all_cells).saved

    def predicted(self, u: Array) -> Array:
        """Shares of the masks, ``(T, 2, …)``."""
        level = logit(self.thresholds).reshape(1, -1, *[1] * (u.ndim - 1))
        return jax.nn.sigmoid((logit(u)[:, None] - level) / RAMP)

    def volumes(self, s: Array) -> Array:
        """Of both masks at every scan [mm³], ``(T, 2)``."""
        shares = self.predicted(self.densities(s)) * self.model.tissue.mask[None, None]
        return jax.vmap(jax.vmap(self.model.tissue.grid.integrate))(shares)

    def errors(self, s: Array) -> Array:
        """Predicted less seen shares, zero where nothing was segmented, and of cellularity in such units, ``(T, 2 or 3, …)``."""
        u = self.densities(s)
        shape = (*self.used.shape, *[1] * (self.shares.ndim - 2))
        keep = self.model.tissue.mask[None, None] & self.used.reshape(shape)
        masks = jnp.where(keep, self.predicted(u) - self.shares, 0.0)
        if self.level is None or self.weight is None:
            return masks
        return jnp.concatenate([masks, (self.weight * (u - self.level))[:, None]], axis=1)


def _all_cells(model: Model, carry, medium, day) -> Array:
    return total_tumour(model, carry.x)


def growth_model(tissue: Tissue) -> Model:
    return Model(tissue, [Tumour(0.1, 0.02, 0.025)], ledger=False)


def first_plan(growing: Model, ends: Mapping[str, tuple[float, float]]) -> Plan:
    """Steps enough until the first scan for every parameter within the bounds: this time is s/v, so that its number of
    steps does not depend on v."""
    rate = max(1.0 / _largest_step(growing, 1.0, length) for length in ends["length_mm"])  # per day at v = 1 mm/day
    parts = max(1, math.ceil(ends["size_mm"][1] * rate / STEPS_PER_BLOCK))
    return tabulate([[(0, 1, part, parts, ()) for part in range(parts)]], 0, 2)


def plan_after(
    model: Model, schedule: Schedule, days, ends: Mapping[str, tuple[float, float]], longest: float
) -> Plan | None:
    """Steps enough between the scans, none longer than ``longest`` [day]; ``None`` for a single scan."""
    if len(days) == 1:
        return None
    fastest = ends["velocity_mm_per_day"][1]
    step = min(longest, *(_largest_step(model, fastest, length) for length in ends["length_mm"]))
    # no step is longer than the whole time, however long it may be
    return make_plan(model, schedule, np.asarray(days, float).tolist(), min(step, float(days[-1] - days[0])))


def ends_of(low: Array, high: Array, known: Mapping[str, Array], free: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Bounds of the parameters on logarithmic scales, natural."""
    ends = {n: (math.exp(float(low[k])), math.exp(float(high[k]))) for k, n in enumerate(free) if n in NAMES[:LOGS]}
    return ends | {n: (float(v), float(v)) for n, v in known.items() if n in NAMES[:LOGS]}


def _largest_step(model: Model, velocity: float, length: float) -> float:
    d = jnp.asarray(0.5 * velocity * length)
    tumour = {
        "diffusivity_white_mm2_per_day": d,
        "diffusivity_grey_mm2_per_day": d,
        "proliferation_per_day": jnp.asarray(0.5 * velocity / length),
    }
    return with_parameters(model, {f"tumour.{k}": v for k, v in tumour.items()}).largest_step()


def levenberg(residuals, z: Array, steps: int) -> tuple[Array, Array]:
    """From z: the end, and whether it converged; z itself where the end is not finite."""
    solver: Any = optx.LevenbergMarquardt(rtol=1e-4, atol=1e-4)
    found: Any = optx.least_squares(residuals, solver, z, max_steps=steps, throw=False)
    good = jnp.all(jnp.isfinite(found.value))
    return jnp.where(good, found.value, z), good & (found.result == optx.RESULTS.successful)


def logit(u):
    return jnp.log(jnp.maximum(u, _TINY)) - jnp.log(jnp.maximum(1.0 - u, _TINY))
