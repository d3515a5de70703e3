"""From segmentations to a growing tumour: D_w, ρ, the ratio D_w/D_g and the place where it began, by gradients through
the solver in the brain itself.

A tumour grows from a small seed at x₀ for a time T until the first scan. Its front moves at v = 2√(D_w ρ) and is
λ = √(D_w/ρ) wide, and v, λ and its reach s = v T are what images tell about:

    D_w = ½ v λ,   ρ = ½ v/λ,   T = s/v.

**One time.** With λ, s and x₀ held, every v gives the same image (time only runs faster), so that a single scan tells
D_w/ρ = λ² and x₀, and nothing of D_w and ρ by themselves; the ratio D_w/D_g is then taken as known. **Two times** add v.

A cell's share of a mask is a logistic ramp in logit u, which is nearly linear across a front,

    m = 1/(1 + e^{−(logit u − logit u*)/w}),

so that coarse cells cut by a contour count in part. Starting values: centroid and radii of the masks with the profile of
a pulled front, 1/(1 + e^{x/2λ}) to leading order (Murray 2002, §13.2), refined in a homogeneous sphere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import GliomaError
from ..tissue import Tissue
from .image_model import FREEDOM, KNOWN_VELOCITY, LOGS, NAMES, PATCH_MM, Images, growth_model, levenberg, steps_for
from .image_start import in_a_sphere, wave_start
from .observation import FLAIR, T1GD

KNOWN_RATIO = 5.0
"""D_w/D_g (Swanson, Alvord & Murray 2000), where one scan cannot tell it."""


class Scan(NamedTuple):
    """Segmentations of one day, as the share of every cell that lies inside; ``None`` where there is none."""

    day: float
    t1gd: np.ndarray | None = None
    flair: np.ndarray | None = None


def shares_on(tissue: Tissue, mask: np.ndarray, affine: np.ndarray, split: int = 2) -> np.ndarray:
    """Share of every cell of the tissue that lies in a mask with the place ``affine`` (voxel indices → world mm).

    Every voxel counts by ``split``³ points. Cells that no voxel reaches are empty.
    """
    grid = tissue.grid
    offsets = (np.arange(split) + 0.5) / split - 0.5
    count, inside = np.zeros(grid.size), np.zeros(grid.size)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in mask.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    to_cell = np.linalg.inv(grid.matrix) @ np.asarray(affine, float)
    flat = np.asarray(mask, float).ravel()
    for shift in np.stack(np.meshgrid(offsets, offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 3):
        cell = np.rint((index + shift) @ to_cell[:3, :3].T + to_cell[:3, 3]).astype(int)
        good = np.all((cell >= 0) & (cell < grid.shape), axis=1)
        at = np.ravel_multi_index(tuple(cell[good].T), grid.shape)
        count += np.bincount(at, minlength=grid.size)
        inside += np.bincount(at, flat[good], minlength=grid.size)
    return (inside / np.maximum(count, 1)).reshape(grid.shape)


class ImageFit(NamedTuple):
    """What the images tell.

    Attributes:
        s: free parameters, scaled. covariance: of them. values: natural values by name, derived ones included.
        intervals: 90 % intervals of what the images tell, by name. told: sentences.
        start: where the search began, scaled. cost: sum of squared errors.
    """

    problem: Images
    s: np.ndarray
    covariance: np.ndarray
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    told: list[str]
    start: np.ndarray
    cost: float


def fit_images(
    tissue: Tissue,
    scans: Sequence[Scan],
    thresholds: tuple[float, float] = (T1GD, FLAIR),
    known_ratio: float = KNOWN_RATIO,
    max_steps: int = 40,
) -> ImageFit:
    """Fit the growth from a seed to the masks of one or more days.

    Args:
        tissue: where it grows, Cartesian; 3 to 4 mm cells serve for a start.
        thresholds: densities at the contours of T1Gd and FLAIR.
        known_ratio: D_w/D_g where a single time cannot tell it.

    Raises:
        GliomaError: for scans that say nothing, all at once.
    """
    scans = sorted(scans, key=lambda scan: scan.day)
    _check(tissue, scans)
    several = len({scan.day for scan in scans}) > 1
    free = NAMES if several else tuple(n for n in NAMES if n not in ("velocity_mm_per_day", "white_grey_ratio"))
    problem, start = _problem(tissue, scans, thresholds, known_ratio, free)
    z, converged = _search(problem, problem.unconstrained(start), max_steps)
    s = problem.scaled(z)
    errors, slope = _slopes(problem, s)
    errors, slope = np.asarray(errors, float).ravel(), np.asarray(slope, float).reshape(-1, len(free))
    # errors sit on the contours; each of their patches counts once
    touched = np.abs(errors) + np.abs(slope).sum(axis=1) * 1e-2 > 1e-3
    cells_in_patch = max(1.0, PATCH_MM**2 / tissue.grid.cell_volume_mm3 ** (2 / 3))
    variance = float(np.sum(errors**2)) / max(int(touched.sum()) - len(free), 1) * cells_in_patch
    information = slope.T @ slope / variance
    values, vectors = np.linalg.eigh(information)
    covariance = (vectors / np.maximum(values, 1e-12 * values[-1])) @ vectors.T
    natural = {k: float(v) for k, v in problem.natural(s).items()}
    intervals = _intervals(free, np.asarray(s, float), covariance)
    told = _told(several, intervals, natural, free, np.asarray(s), problem, known_ratio)
    if not bool(converged):
        told.append(f"the search did not converge within {max_steps} steps: take more before trusting it")
    return ImageFit(
        problem, np.asarray(s, float), covariance, natural, intervals, told, np.asarray(start, float), float(np.sum(errors**2))
    )  # fmt: skip


def predict_images(fit: ImageFit, days_after_first: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Densities at days after the first scan ``(T, …)``, volumes of both masks ``(T, 2)`` [mm³] and their relative
    standard deviations."""
    problem = fit.problem
    gaps = np.asarray(days_after_first, float)
    if np.any(gaps < 0) or np.any(np.diff(gaps) <= 0):
        raise GliomaError("Days of a prediction must increase, from the first scan's day on.")
    later = Images(
        problem.model, steps_for(problem.model, gaps, problem.low, problem.high, problem.known, problem.free),
        jnp.asarray(gaps, problem.low.dtype), problem.shares[:1], problem.used[:1], problem.thresholds, problem.low,
        problem.high, problem.known, problem.seed_mm, problem.free,
    )  # fmt: skip
    u, volumes, slope = _later(later, jnp.asarray(fit.s, problem.low.dtype))
    slope = np.asarray(slope) / np.maximum(np.asarray(volumes), 1e-9)[..., None]
    spread = np.sqrt(np.einsum("...i,ij,...j->...", slope, fit.covariance, slope))
    return np.asarray(u), np.asarray(volumes), spread


def overlap_scores(predicted: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    """Volume error [%] and Dice coefficient of two masks (bool)."""
    a, b = np.asarray(predicted, bool), np.asarray(observed, bool)
    return {
        "volume_error_percent": 100.0 * abs(int(a.sum()) - int(b.sum())) / max(int(b.sum()), 1),
        "dice": 2.0 * int((a & b).sum()) / max(int(a.sum()) + int(b.sum()), 1),
    }


# -- where to begin ------------------------------------------------------------------------------------


def _check(tissue: Tissue, scans: Sequence[Scan]) -> None:
    problems = []
    if tissue.grid.geometry == "radial":
        problems.append("images need a Cartesian tissue")
    for scan in scans:
        for name in ("t1gd", "flair"):
            share = getattr(scan, name)
            if share is None:
                continue
            if share.shape != tissue.grid.shape:
                problems.append(f"day {scan.day:g}: {name} has the shape {share.shape}, the tissue {tissue.grid.shape}")
            elif share.min() < 0 or share.max() > 1:
                problems.append(f"day {scan.day:g}: {name} must hold shares from 0 to 1")
    days = [scan.day for scan in scans]
    problems += [f"day {d:g} has {days.count(d)} scans" for d in sorted(set(days)) if days.count(d) > 1]
    good = [s for s in scans if all(m is not None and m.max() > 0 for m in (s.t1gd, s.flair))]
    if not good:
        problems.append(
            "no day has both T1Gd and FLAIR masks that are not empty: their distance tells the width of the front"
        )
    if not problems and all(_radius(tissue, m) is None for m in (scans[0].t1gd, scans[0].flair)):
        problems.append(
            f"day {scans[0].day:g}: the first day has no mask that is not empty in the tissue; leave it out"
        )
    if problems:
        raise GliomaError("; ".join(problems) + ".")


def _radius(tissue: Tissue, share: np.ndarray | None) -> float | None:
    if share is None or share.max() <= 0:
        return None
    volume = float(tissue.grid.integrate(jnp.asarray(share * np.asarray(tissue.mask))))
    return (3.0 * volume / (4.0 * math.pi)) ** (1 / 3) if volume > 0 else None


def _problem(tissue: Tissue, scans, thresholds, known_ratio: float, free: tuple[str, ...]) -> tuple[Images, Array]:
    dtype, seed = tissue.white.dtype, 0.75 * max(tissue.grid.spacing_mm)
    radii = [(scan.day, _radius(tissue, scan.t1gd), _radius(tissue, scan.flair)) for scan in scans]
    velocity, length, size = wave_start(radii, thresholds)
    velocity, length, size = in_a_sphere(radii, thresholds, velocity, length, size, seed)
    core = next(s.t1gd for s in scans if s.t1gd is not None and s.t1gd.max() > 0)
    world, mask = tissue.grid.world_mm(), np.asarray(tissue.mask)
    weight = core * mask
    origin = (world * weight).reshape(3, -1).sum(axis=1) / weight.sum()
    # what is seen is an average of white and grey matter: the sphere's D is that of the region
    edge = next(s.flair for s in scans if s.flair is not None and s.flair.max() > 0) * mask
    mean = float((edge * np.asarray(tissue.white + tissue.grey / known_ratio)).sum() / edge.sum())
    root = math.sqrt(max(mean, 0.05))
    start = {
        "velocity_mm_per_day": (velocity or KNOWN_VELOCITY) / root, "length_mm": length / root,
        "white_grey_ratio": known_ratio, "size_mm": size / root, "x_mm": origin[0], "y_mm": origin[1], "z_mm": origin[2],
    }  # fmt: skip
    s, low, high = [], [], []
    for name in free:
        logarithmic = name in NAMES[:LOGS]
        at, reach = (math.log(start[name]), math.log(FREEDOM)) if logarithmic else (float(start[name]), 15.0)
        ends = (0.0, math.log(30.0)) if name == "white_grey_ratio" else (at - reach, at + reach)
        s.append(at)
        low.append(ends[0])
        high.append(ends[1])
    known = {n: jnp.asarray(v, dtype) for n, v in start.items() if n not in free}
    lows, highs = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
    model = growth_model(tissue)
    gaps = np.asarray([scan.day - scans[0].day for scan in scans], float)
    empty = np.zeros(tissue.grid.shape)
    masks = np.stack([[empty if m is None else m for m in (s.t1gd, s.flair)] for s in scans])
    used = jnp.asarray([[s.t1gd is not None, s.flair is not None] for s in scans])
    plan = steps_for(model, gaps, lows, highs, known, free)
    problem = Images(
        model, plan, jnp.asarray(gaps, dtype), jnp.asarray(masks, dtype), used, jnp.asarray(thresholds, dtype), lows, highs,
        known, seed, free,
    )  # fmt: skip
    return problem, jnp.asarray(s, dtype)


# -- the search ---------------------------------------------------------------------------------------


@eqx.filter_jit
def _search(problem: Images, z: Array, steps: int) -> tuple[Array, Array]:
    def residuals(z, _):
        return jnp.concatenate([problem.errors(problem.scaled(z)).ravel(), 1e-3 * z])

    return levenberg(residuals, z, steps)


@eqx.filter_jit
def _slopes(problem: Images, s: Array):
    def both(s):
        e = problem.errors(s)
        return e, e

    slope, errors = jax.jacfwd(both, has_aux=True)(s)
    return errors, slope


@eqx.filter_jit
def _later(problem: Images, s: Array):
    volumes = problem.volumes(s)
    return problem.densities(s), volumes, jax.jacfwd(problem.volumes)(s)


# -- what is told ----------------------------------------------------------------------------------------


def _intervals(free: tuple[str, ...], s: np.ndarray, covariance: np.ndarray) -> dict[str, tuple[float, float]]:
    """90 %, of the parameters and of D_w, ρ and D_w/ρ where they are known."""
    at = {n: k for k, n in enumerate(free)}
    half = 1.6449

    def log_of(weights: Mapping[str, float], add: float) -> tuple[float, float]:
        w = np.zeros(len(free))
        for name, value in weights.items():
            w[at[name]] = value
        middle, sd = float(w @ s) + add, math.sqrt(w @ covariance @ w)
        return math.exp(middle - half * sd), math.exp(middle + half * sd)

    out = {}
    for name, k in at.items():
        sd = math.sqrt(covariance[k, k])
        out[name] = log_of({name: 1.0}, 0.0) if name in NAMES[:LOGS] else (s[k] - half * sd, s[k] + half * sd)
    out["diffusivity_over_proliferation_mm2"] = log_of({"length_mm": 2.0}, 0.0)
    if "velocity_mm_per_day" in at:
        v, length = "velocity_mm_per_day", "length_mm"
        out["diffusivity_white_mm2_per_day"] = log_of({v: 1.0, length: 1.0}, -math.log(2))
        out["proliferation_per_day"] = log_of({v: 1.0, length: -1.0}, -math.log(2))
    return out


def _told(several: bool, intervals, natural, free, s, problem: Images, known_ratio: float) -> list[str]:
    low, high = intervals["diffusivity_over_proliferation_mm2"]
    out = [f"D_w/ρ = {natural['length_mm'] ** 2:.3g} mm² [{low:.3g}, {high:.3g}]"]
    place = ", ".join(f"{natural[n]:.1f}" for n in NAMES[LOGS:])
    out.append(f"origin ({place}) mm")
    if several:
        for name, label in (
            ("diffusivity_white_mm2_per_day", "D_w"),
            ("proliferation_per_day", "ρ"),
            ("white_grey_ratio", "D_w/D_g"),
        ):
            low, high = intervals[name]
            out.append(f"{label} = {natural[name]:.3g} [{low:.3g}, {high:.3g}]")
    else:
        out.append(
            "images of one time tell D_w/ρ and the origin only: D_w, ρ, the age of the tumour and its speed are not "
            f"identifiable; D_w/D_g was taken as {known_ratio:g}"
        )
    span = np.asarray(problem.high - problem.low)
    near = np.minimum(s - np.asarray(problem.low), np.asarray(problem.high) - s) < 1e-2 * span
    out += [f"{name} lies on a bound" for name, at in zip(free, near, strict=True) if at]
    return out
