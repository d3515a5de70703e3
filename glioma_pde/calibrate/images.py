"""From segmentations to a growing tumour: D_w, ρ, the ratio D_w/D_g and the place where it began, by gradients through
the solver in the brain itself.

A tumour grows from a small seed at x₀ for a time T until the first scan. Its front moves at v = 2√(D_w ρ) and is
λ = √(D_w/ρ) wide, and v, λ and its reach s = v T are what images tell about:

    D_w = ½ v λ,   ρ = ½ v/λ,   T = s/v.

**One time.** With λ, s and x₀ held, every v gives the same image (time only runs faster), so that a single scan tells
D_w/ρ = λ² and x₀, and nothing of D_w and ρ by themselves; the ratio D_w/D_g is then taken as known. **Two times** add v.

A cell's share of a mask is a logistic ramp in logit u, which is nearly linear across a front,

    m = 1/(1 + e^{−(logit u − logit u*)/w}),

so that coarse cells cut by a contour count in part. Cellularity from diffusion is compared with u itself. What is done to
the patient from the first scan on (radiotherapy, operations, drugs, carriers) happens in the model on its days. Starting values: centroid and radii of the masks with the profile of
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

from ..delivery import Schedule
from ..errors import GliomaError
from ..model import Model
from ..tissue import Tissue
from .image_model import LOGS, NAMES, PATCH_MM, Images, ends_of, levenberg, plan_after
from .image_start import first_guess
from .observation import FLAIR, T1GD
from .scans import Scan, check_scans

KNOWN_RATIO = 5.0
"""D_w/D_g (Swanson, Alvord & Murray 2000), where one scan cannot tell it."""


UNTOLD = 100.0
"""A 90 % interval whose ends are so many times apart tells nothing."""


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
    model: Model | None = None,
    schedule: Schedule | None = None,
    step_days: float = math.inf,
) -> ImageFit:
    """Fit the growth from a seed to the images of one or more days.

    Args:
        tissue: where it grows, Cartesian; 3 to 4 mm cells serve for a start.
        thresholds: densities at the contours of T1Gd and FLAIR.
        known_ratio: D_w/D_g where a single time cannot tell it.
        model, schedule: with the treatments from the first scan on, in this tissue and on the scans' days; their parameters
            are taken as they are. Until then its tumour grows alone. By default nothing is done.
        step_days: longest step from the first scan on.

    Raises:
        GliomaError: for scans that say nothing, all at once.
    """
    scans = sorted(scans, key=lambda scan: scan.day)
    treated_from = first_treatment(model, schedule)
    check_scans(tissue, scans, treated_from)
    several = len(scans) > 1
    free = NAMES if several else tuple(n for n in NAMES if n not in ("velocity_mm_per_day", "white_grey_ratio"))
    problem, start = first_guess(
        tissue, scans, thresholds, known_ratio, free, model, schedule or Schedule(), treated_from, step_days
    )
    z, converged = _search(problem, problem.unconstrained(start), max_steps)
    s = problem.scaled(z)
    errors, slope = _slopes(problem, s)
    information = _information(tissue, np.asarray(errors, float), np.asarray(slope, float))
    values, vectors = np.linalg.eigh(information)
    covariance = (vectors / np.maximum(values, 1e-12 * values[-1])) @ vectors.T
    natural = {k: float(v) for k, v in problem.natural(s).items()}
    intervals = _intervals(free, np.asarray(s, float), covariance)
    told = _told(several, intervals, natural, free, np.asarray(s), problem, known_ratio)
    if treated_from < scans[-1].day:
        told.append(
            f"treatments from day {treated_from:g} on have the effects that the model gives them; these are not fitted"
        )
    if not bool(converged):
        told.append(f"the search did not converge within {max_steps} steps: take more before trusting it")
    cost = float(np.sum(np.asarray(errors, float) ** 2))
    return ImageFit(
        problem, np.asarray(s, float), covariance, natural, intervals, told, np.asarray(start, float), cost
    )  # fmt: skip


def first_treatment(model: Model | None, schedule: Schedule | None) -> float:
    """The day on which something is first done, infinite if nothing is."""
    days = [*(e.day for e in (schedule or Schedule()).events), *(() if model is None else model.breakpoints())]
    return min((float(np.min(d)) for d in days if np.size(d)), default=math.inf)


def predict_images(
    fit: ImageFit, days_after_first: Sequence[float], step_days: float = math.inf
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Densities at days after the first scan ``(T, …)``, volumes of both masks ``(T, 2)`` [mm³] and their relative
    standard deviations; treatments go on."""
    problem = fit.problem
    gaps = np.asarray(days_after_first, float)
    if np.any(gaps < 0) or np.any(np.diff(gaps) <= 0):
        raise GliomaError("Days of a prediction must increase, from the first scan's day on.")
    ahead = int(gaps[0] > 0)  # the first scan's day is looked at too, and left out again
    days = float(problem.days[0]) + (np.append(0.0, gaps) if ahead else gaps)
    ends = ends_of(problem.low, problem.high, problem.known, problem.free)
    after = plan_after(problem.model, problem.schedule, days, ends, step_days)
    later = eqx.tree_at(_looked, problem, (jnp.asarray(days, problem.days.dtype), after), is_leaf=lambda v: v is None)
    u, volumes, slope = (np.asarray(v)[ahead:] for v in _later(later, jnp.asarray(fit.s, problem.low.dtype)))
    slope = slope / np.maximum(volumes, 1e-9)[..., None]
    spread = np.sqrt(np.einsum("...i,ij,...j->...", slope, fit.covariance, slope))
    return u, volumes, spread


def overlap_scores(predicted: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    """Volume error [%] and Dice coefficient of two masks (bool)."""
    a, b = np.asarray(predicted, bool), np.asarray(observed, bool)
    return {
        "volume_error_percent": 100.0 * abs(int(a.sum()) - int(b.sum())) / max(int(b.sum()), 1),
        "dice": 2.0 * int((a & b).sum()) / max(int(a.sum()) + int(b.sum()), 1),
    }


def _looked(problem: Images):
    return problem.days, problem.after


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


def _information(tissue: Tissue, errors: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Fisher information from the errors ``(T, 2 or 3, …)`` and their slopes, whose scatter is that of the errors left.

    Errors of masks sit on the contours, those of cellularity wherever it is known; each patch counts once.
    """
    size, edge = slope.shape[-1], PATCH_MM / tissue.grid.cell_volume_mm3 ** (1 / 3)
    total = np.zeros((size, size))
    for channels, dimensions in ((slice(0, 2), 2), (slice(2, None), 3)):
        e, rows = errors[:, channels].ravel(), slope[:, channels].reshape(-1, size)
        touched = np.abs(e) + np.abs(rows).sum(axis=1) * 1e-2 > 1e-3
        if touched.any():
            variance = float(np.sum(e**2)) / max(int(touched.sum()) - size, 1) * max(1.0, edge**dimensions)
            total += rows.T @ rows / variance
    return total


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
        with np.errstate(over="ignore"):  # without limit where the images tell nothing
            return float(np.exp(middle - half * sd)), float(np.exp(middle + half * sd))

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
            known = high < UNTOLD * low
            out.append(
                f"{label} = {natural[name]:.3g} [{low:.3g}, {high:.3g}]"
                if known
                else f"{label} is not identifiable from these images"
            )
    else:
        out.append(
            "images of one time tell D_w/ρ and the origin only: D_w, ρ, the age of the tumour and its speed are not "
            f"identifiable; D_w/D_g was taken as {known_ratio:g}"
        )
    span = np.asarray(problem.high - problem.low)
    near = np.minimum(s - np.asarray(problem.low), np.asarray(problem.high) - s) < 1e-2 * span
    out += [f"{name} lies on a bound" for name, at in zip(free, near, strict=True) if at]
    return out
