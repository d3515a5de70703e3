"""Where a fit to images begins: the profile of a front, refined in a homogeneous sphere; see `images`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..tissue import Tissue
from .image_model import FREEDOM, KNOWN_VELOCITY, NAMES, Images, growth_model, levenberg, steps_for


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
    gaps = np.asarray([row[0] - radii[0][0] for row in radii], float)
    known = {n: jnp.asarray(v, dtype) for n, v in start.items() if n not in names}
    known |= {"white_grey_ratio": jnp.asarray(1.0, dtype), "x_mm": jnp.zeros((), dtype)}
    plan = steps_for(model, gaps, at - freedom, at + freedom, known, names)
    seen = np.asarray([[np.nan if r is None else r for r in row[1:]] for row in radii])
    shares = jnp.zeros((len(gaps), 2, *tissue.grid.shape), dtype)
    problem = Images(
        model, plan, jnp.asarray(gaps, dtype), shares, jnp.asarray(~np.isnan(seen)), jnp.asarray(thresholds, dtype),
        at - freedom, at + freedom, known, seed_mm, names,
    )  # fmt: skip
    z = _search_radii(problem, problem.unconstrained(at), jnp.asarray(np.nan_to_num(seen), dtype))
    p = problem.natural(problem.scaled(z))
    found = [float(p[n]) for n in ("velocity_mm_per_day", "length_mm", "size_mm")]
    if not np.all(np.isfinite(found)):
        return velocity, length, size
    return (found[0] if velocity is not None else None), found[1], found[2]


@eqx.filter_jit
def _search_radii(problem: Images, z: Array, seen: Array) -> Array:
    def residuals(z, _):
        found = (3.0 * problem.volumes(problem.scaled(z)) / (4.0 * jnp.pi) + 1e-6) ** (1 / 3)
        return jnp.concatenate([jnp.where(problem.used, found - seen, 0.0).ravel(), 1e-3 * z])

    return levenberg(residuals, z, 40)[0]
