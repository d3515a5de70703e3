"""Where a fit to images begins: the profile of a front, refined in a homogeneous sphere; see `images`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..delivery import Schedule
from ..model import Model
from ..tissue import Tissue
from .image_model import (
    FREEDOM,
    KNOWN_VELOCITY,
    LOGS,
    NAMES,
    SHARE_SD,
    TREATED_FREEDOM,
    Images,
    ends_of,
    first_plan,
    growth_model,
    levenberg,
    plan_after,
)
from .scans import Scan, radius_of


def wave_start(radii: Sequence[tuple[float, float | None, float | None]], thresholds: tuple[float, float]):
    """Velocity (``None`` from one time), length and size from radii (day, T1Gd, FLAIR) [mm], by the profile of a front."""
    apart = math.log(thresholds[0] / (1 - thresholds[0])) - math.log(thresholds[1] / (1 - thresholds[1]))
    both = [(t, a, b) for t, a, b in radii if a is not None and b is not None and b > a]
    length = float(np.median([(b - a) / (2.0 * apart) for _, a, b in both])) if both else 1.0
    moved = []
    for k in (1, 2):
        seen = [(r[0], r[k]) for r in radii if r[k] is not None]
        if len(seen) > 1:
            moved.append((seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0]))  # type: ignore[operator]
    velocity = max(float(np.mean(moved)), 0.005) if moved else None
    first = radii[0]
    middle = float(np.mean([r for r in first[1:] if r is not None]))
    # a spherical front lags behind its planar speed: some five lengths until it is a front at all
    return velocity, max(length, 0.2), middle + 5.0 * length


def in_a_sphere(radii, thresholds, velocity: float | None, length: float, size: float, seed_mm: float):
    """The same three numbers refined by the radial model, whose fronts have their true lag and width."""
    largest = max(r for row in radii for r in row[1:] if r is not None)
    spacing = min(max(0.5, length / 2.5), seed_mm)
    tissue = Tissue.radial(max(24, int((largest + 10.0 * length) / spacing)), spacing)
    dtype = tissue.white.dtype
    model = growth_model(tissue)
    names = (*NAMES[:2], "size_mm") if velocity is not None else ("length_mm", "size_mm")
    start = {"velocity_mm_per_day": velocity or KNOWN_VELOCITY, "length_mm": length, "size_mm": size}
    at = jnp.asarray([math.log(start[n]) for n in names], dtype)
    freedom = math.log(FREEDOM)
    days = np.asarray([row[0] for row in radii], float)
    known = {n: jnp.asarray(v, dtype) for n, v in start.items() if n not in names}
    known |= {"white_grey_ratio": jnp.asarray(1.0, dtype), "x_mm": jnp.zeros((), dtype)}
    ends = ends_of(at - freedom, at + freedom, known, names)
    seen = np.asarray([[np.nan if r is None else r for r in row[1:]] for row in radii])
    shares = jnp.zeros((len(days), 2, *tissue.grid.shape), dtype)
    problem = Images(
        model, first_plan(model, ends), model, Schedule(), plan_after(model, Schedule(), days, ends, math.inf),
        jnp.asarray(days, dtype), shares, jnp.asarray(~np.isnan(seen)), None, None, jnp.asarray(thresholds, dtype),
        at - freedom, at + freedom, known, seed_mm, names,
    )  # fmt: skip
    z = _search_radii(problem, problem.unconstrained(at), jnp.asarray(np.nan_to_num(seen), dtype))
    p = problem.natural(problem.scaled(z))
    found = [float(p[n]) for n in ("velocity_mm_per_day", "length_mm", "size_mm")]
    if not np.all(np.isfinite(found)):
        return velocity, length, size
    return (found[0] if velocity is not None else None), found[1], found[2]


def first_guess(
    tissue: Tissue,
    scans: Sequence[Scan],
    thresholds: tuple[float, float],
    known_ratio: float,
    free: tuple[str, ...],
    model: Model | None,
    schedule: Schedule,
    treated_from: float,
    step_days: float,
) -> tuple[Images, Array]:
    """The problem, and where its search begins, scaled.

    How fast the contours move tells the velocity as long as nothing is done; after that it begins from the parameters of the
    model, with more freedom.
    """
    dtype, seed = tissue.white.dtype, 0.75 * max(tissue.grid.spacing_mm)
    radii = [(scan.day, radius_of(tissue, scan.t1gd), radius_of(tissue, scan.flair)) for scan in scans]
    alone = [row for row in radii if row[0] <= treated_from]
    velocity, length, size = wave_start(alone, thresholds)
    velocity, length, size = in_a_sphere(alone, thresholds, velocity, length, size, seed)
    world, mask = tissue.grid.world_mm(), np.asarray(tissue.mask)
    core = next(s.t1gd for s in scans if s.t1gd is not None and s.t1gd.max() > 0)
    weight = core * mask
    origin = (world * weight).reshape(3, -1).sum(axis=1) / weight.sum()
    # what is seen is an average of white and grey matter: the sphere's D is that of the region
    edge = next(s.flair for s in scans if s.flair is not None and s.flair.max() > 0) * mask
    mean = float((edge * np.asarray(tissue.white + tissue.grey / known_ratio)).sum() / edge.sum())
    root, freedom = math.sqrt(max(mean, 0.05)), FREEDOM
    if velocity is None and model is not None:
        tumour = model["tumour"]
        d, rho = float(tumour.diffusivity_white_mm2_per_day), float(tumour.proliferation_per_day)
        velocity, freedom = 2.0 * math.sqrt(d * rho) * root, TREATED_FREEDOM
    start = {
        "velocity_mm_per_day": (velocity or KNOWN_VELOCITY) / root, "length_mm": length / root,
        "white_grey_ratio": known_ratio, "size_mm": size / root, "x_mm": origin[0], "y_mm": origin[1], "z_mm": origin[2],
    }  # fmt: skip
    s, low, high = [], [], []
    for name in free:
        reach = math.log(freedom if name == "velocity_mm_per_day" else FREEDOM)
        at, reach = (math.log(start[name]), reach) if name in NAMES[:LOGS] else (float(start[name]), 15.0)
        ends = (0.0, math.log(30.0)) if name == "white_grey_ratio" else (at - reach, at + reach)
        s.append(at)
        low.append(ends[0])
        high.append(ends[1])
    known = {n: jnp.asarray(v, dtype) for n, v in start.items() if n not in free}
    lows, highs = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
    whole = model or growth_model(tissue)
    growing = Model(tissue, [whole["tumour"]], whole.capacity_cells_per_mm3, whole.stepper, ledger=False)
    bounds = ends_of(lows, highs, known, free)
    days = np.asarray([scan.day for scan in scans], float)
    empty = np.zeros(tissue.grid.shape)
    masks = np.stack([[empty if m is None else m for m in (s.t1gd, s.flair)] for s in scans])
    used = jnp.asarray([[s.t1gd is not None, s.flair is not None] for s in scans])
    level, weight = _cellularities(scans, mask, dtype)
    problem = Images(
        growing, first_plan(growing, bounds), whole, schedule, plan_after(whole, schedule, days, bounds, step_days),
        jnp.asarray(days, dtype), jnp.asarray(masks, dtype), used, level, weight, jnp.asarray(thresholds, dtype), lows, highs,
        known, seed, free,
    )  # fmt: skip
    return problem, jnp.asarray(s, dtype)


def _cellularities(scans: Sequence[Scan], mask: np.ndarray, dtype) -> tuple[Array | None, Array | None]:
    """Of all scans, zero where they are not known, and the weights of their errors."""
    if all(scan.cellularity is None for scan in scans):
        return None, None
    maps = np.stack([np.full(mask.shape, np.nan) if s.cellularity is None else s.cellularity for s in scans])
    known = np.isfinite(maps) & mask
    sd = np.asarray([s.sd for s in scans]).reshape(-1, *[1] * mask.ndim)
    return jnp.asarray(np.where(known, maps, 0.0), dtype), jnp.asarray(np.where(known, SHARE_SD / sd, 0.0), dtype)


@eqx.filter_jit
def _search_radii(problem: Images, z: Array, seen: Array) -> Array:
    def residuals(z, _):
        found = (3.0 * problem.volumes(problem.scaled(z)) / (4.0 * jnp.pi) + 1e-6) ** (1 / 3)
        return jnp.concatenate([jnp.where(problem.used, found - seen, 0.0).ravel(), 1e-3 * z])

    return levenberg(residuals, z, 40)[0]
