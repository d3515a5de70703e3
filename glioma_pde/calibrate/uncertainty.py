"""How well the data determine the parameters: Fisher information and Laplace intervals, profile likelihoods, a verdict
for each parameter, and criteria that compare models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import chi2, norm
from scipy.stats import t as student

from .descent import levenberg_marquardt
from .problem import Problem

FLAT = 1e-12
"""Eigenvalues of the information below so much of the largest one count as this much of it."""
PARTNER = 0.2
"""A parameter takes part in a direction that the data leave open from this share of its largest entry on."""

LOOSE = 3.0
"""A standard deviation, in logarithms, from which on a closed profile is closed by the bounds of its partners."""


class Laplace(NamedTuple):
    """The normal approximation at the best parameters, in scaled values.

    Attributes:
        s: the best parameters. information: expected Fisher information, priors included. covariance: its inverse.
    """

    s: np.ndarray
    information: np.ndarray
    covariance: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations, scaled: relative errors where the scale is logarithmic."""
        return np.sqrt(np.diag(self.covariance))

    def intervals(self, problem: Problem, level: float = 0.95) -> np.ndarray:
        """Natural, ``(size, 2)``."""
        half = quantiles(problem, level)[0] * self.sd
        with np.errstate(over="ignore"):
            ends = [
                np.where(problem.log, np.exp(np.where(problem.log, e, 0)), e) for e in (self.s - half, self.s + half)
            ]
        return np.stack(ends, axis=1)

    def draw(self, problem: Problem, count: int, seed: int = 0) -> np.ndarray:
        """Scaled vectors, ``(count, size)``; those outside the bounds are drawn again, at last put on them."""
        rng = np.random.default_rng(seed)
        low, high = np.asarray(problem.low), np.asarray(problem.high)
        found = rng.multivariate_normal(self.s, self.covariance, count, method="eigh")
        for _ in range(100):
            out = np.any((found < low) | (found > high), axis=1)
            if not out.any():
                break
            found[out] = rng.multivariate_normal(self.s, self.covariance, int(out.sum()), method="eigh")
        return np.clip(found, low, high)


def quantiles(problem: Problem, level: float) -> tuple[float, float]:
    """Half-width of an interval in standard deviations, and threshold of twice the rise of the cost.

    Where σ is estimated from n measurements beside p other parameters, the likelihood's σ² is (n − p)/n of what it should
    be on average, and itself uncertain. Exact for linear models: t √(n/(n − p)) with Student's t of n − p degrees of freedom,
    and n ln(1 + t²/(n − p)); both tend to the normal and to the χ² quantile.
    """
    noise = {n for model in problem.noises for n in model.names()} - set(problem.fixed)
    count = problem.count
    spare = count - sum(name.partition("[")[0] not in noise for name in problem.names)
    if not noise or spare < 1:
        return float(norm.ppf(0.5 + 0.5 * level)), float(chi2.ppf(level, 1))
    quantile = float(student.ppf(0.5 + 0.5 * level, spare))
    return quantile * math.sqrt(count / spare), count * math.log1p(quantile**2 / spare)


def laplace(problem: Problem, s: Array) -> Laplace:
    rows = np.asarray(_rows(problem, jnp.asarray(s)), float)
    information = rows.T @ rows
    values, vectors = np.linalg.eigh(information)
    values = np.maximum(values, FLAT * values[-1])
    return Laplace(np.asarray(s, float), information, (vectors / values) @ vectors.T)


@eqx.filter_jit
def _rows(problem: Problem, s: Array) -> Array:
    return problem.information_rows(s)


# -- profiles --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """Twice the rise of the least cost while one parameter is held.

    Attributes:
        index: of the parameter. values: scaled, increasing, ``(P,)``. rise: 2 (cost − least cost), ``(P,)``.
        path: all parameters along it, scaled, ``(P, size)``.
        low, high: ends of the interval, scaled; infinite where the threshold is not crossed within the bounds.
        threshold: of the rise, at the ends; from `quantiles`. loose: points whose search did not converge, so that
            their rise is an upper bound.
    """

    index: int
    values: np.ndarray
    rise: np.ndarray
    path: np.ndarray
    low: float
    high: float
    threshold: float
    loose: int = 0

    @property
    def closed(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def profiles(
    problem: Problem, s: Array, which: Sequence[int] | None = None, level: float = 0.95, points: int = 10
) -> list[Profile]:
    """Profile likelihoods of the parameters ``which`` (all by default).

    From the best value outwards in both directions, each point starting from the one before. Lines that have not crossed
    the threshold at some three standard deviations go on to the bound.

    Args:
        s: best parameters, scaled.
    """
    which = list(range(problem.size)) if which is None else list(which)
    threshold = quantiles(problem, level)[1]
    s = jnp.asarray(s)
    best = np.asarray(s, float)
    sd = laplace(problem, s).sd
    low, high = np.asarray(problem.low, float), np.asarray(problem.high, float)
    lines = [(k, side) for k in which for side in (-1, 1)]
    room = np.asarray([(best[k] - low[k] if side < 0 else high[k] - best[k]) for k, side in lines])
    span = np.minimum(room, [1.7 * math.sqrt(threshold) * sd[k] for k, _ in lines])
    index = np.asarray([k for k, _ in lines])
    sign = np.asarray([side for _, side in lines])
    near = (1.0 + np.arange(points)) / points
    base = float(_cost(problem, s))

    def run(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ends, costs, converged = _lines(problem, s, jnp.asarray(index), jnp.asarray(targets, s.dtype))
        return np.asarray(ends, float), 2.0 * (np.asarray(costs, float) - base), ~np.asarray(converged)

    targets = best[index][:, None] + (sign * span)[:, None] * near
    path, rise, loose = run(targets)
    open_ = (rise.max(axis=1) < threshold) & (span < room * (1 - 1e-9))
    if open_.any():
        # once more from the best value, to the bound, in growing steps
        far = np.where(open_, room, span)[:, None] * np.maximum(near, 1e-9) ** 2
        more_targets = best[index][:, None] + sign[:, None] * far
        more_path, more_rise, more_loose = run(more_targets)
    out = []
    for k in which:
        mine = [i for i, (j, _) in enumerate(lines) if j == k]
        v, r, p, stopped = [best[k]], [0.0], [best], 0
        for i in mine:
            v += list(targets[i])
            r += list(rise[i])
            p += list(path[i])
            stopped += int(loose[i].sum())
            if open_[i]:
                v += list(more_targets[i])
                r += list(more_rise[i])
                p += list(more_path[i])
                stopped += int(more_loose[i].sum())
        order = np.argsort(v)
        values, rises, paths = np.asarray(v)[order], np.asarray(r)[order], np.asarray(p)[order]
        centre = int(np.flatnonzero(values == best[k])[0])
        ends = [_crossing(values[centre::step], rises[centre::step], threshold, step * math.inf) for step in (-1, 1)]
        out.append(Profile(k, values, rises, paths, ends[0], ends[1], threshold, stopped))
    return out


@eqx.filter_jit
def _cost(problem: Problem, s: Array) -> Array:
    return problem.cost(s)


@eqx.filter_jit
def _lines(problem: Problem, s: Array, index: Array, targets: Array):
    """Best parameters and costs along every line, ``(L, P, size)`` and ``(L, P)``, and where the search converged."""

    def line(k, values):
        mask = jnp.arange(problem.size) == k

        def point(z, value):
            hold = (mask, jnp.where(mask, value, 0.0))
            z, converged, _, _ = levenberg_marquardt(problem, z, 1e-6, 60, hold)
            end = jnp.where(mask, value, problem.scaled(z))
            return z, (end, problem.cost(end), converged)

        return jax.lax.scan(point, problem.unconstrained(s), values)[1]

    return jax.vmap(line)(index, targets)


def _crossing(values: np.ndarray, rise: np.ndarray, threshold: float, otherwise: float) -> float:
    """Where the rise first crosses the threshold, going outwards, if it does; its root is nearly linear."""
    root = np.sqrt(np.maximum(rise, 0.0))
    level = math.sqrt(threshold)
    for i in range(1, len(values)):
        if not math.isfinite(root[i]):
            break
        if root[i] >= level:
            share = (level - root[i - 1]) / (root[i] - root[i - 1])
            return float(values[i - 1] + share * (values[i] - values[i - 1]))
    return otherwise


def curvature_profiles(
    s: np.ndarray, covariance: np.ndarray, low: np.ndarray, high: np.ndarray, threshold: float
) -> list[Profile]:
    """What the profiles would be if the cost were quadratic; open where they leave the bounds.

    Args:
        covariance: scaled; a variance of zero stands for a parameter on its bound.
        threshold: of twice the rise of the cost: the square of half an interval's width in standard deviations.
    """
    out = []
    for k, sd in enumerate(np.sqrt(np.diag(covariance))):
        half = math.sqrt(threshold) * sd
        ends = [s[k] - half if sd > 0 and s[k] - half > low[k] else -math.inf]
        ends += [s[k] + half if sd > 0 and s[k] + half < high[k] else math.inf]
        values = np.linspace(max(low[k], s[k] - 1.5 * half), min(high[k], s[k] + 1.5 * half), 21)
        rise = ((values - s[k]) / sd) ** 2 if sd > 0 else np.zeros(21)
        path = np.broadcast_to(s, (21, len(s)))
        out.append(Profile(k, values, rise, path, ends[0], ends[1], threshold))
    return out


# -- verdicts --------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What the data say of one parameter.

    Attributes:
        kind: ``identifiable``, ``product``, ``ratio``, ``combination``, ``not identifiable``.
        partners: names of the parameters it cannot be told from.
    """

    name: str
    kind: str
    text: str
    partners: tuple[str, ...] = ()


def verdicts(
    names: Sequence[str], log: np.ndarray, s: np.ndarray, information: np.ndarray, found: Sequence[Profile]
) -> list[Verdict]:
    """For each profiled parameter.

    Args:
        names, log, s: of all parameters: names, which are logarithmic, best values. information: of the scaled values.

    One with a closed profile is identifiable, unless the information leaves it open and only bounds of others close it. For
    the others the eigenvector of the Fisher information, in logarithms of the parameters, that adds most to its variance
    tells with what it trades.
    """
    size = np.where(log, 1.0, np.maximum(np.abs(s), 1e-300))
    information = information * size[:, None] * size
    values, vectors = np.linalg.eigh(information)
    values = np.maximum(values, FLAT * values[-1])
    out = []
    for profile in found:
        k = profile.index
        name = names[k]
        if profile.closed and np.sum(vectors[k] ** 2 / values) < LOOSE**2:
            out.append(Verdict(name, "identifiable", "identifiable"))
            continue
        v = vectors[:, int(np.argmax(vectors[k] ** 2 / values))]
        v = v / v[k]
        others = [j for j in np.argsort(-np.abs(v)) if j != k and abs(v[j]) > PARTNER * np.abs(v).max()]
        partners = tuple(names[j] for j in others)
        if not others:
            side = (
                "" if not (math.isfinite(profile.low) or math.isfinite(profile.high)) else _one_sided(log[k], profile)
            )
            out.append(Verdict(name, "not identifiable", f"not identifiable from these data{side}"))
        elif len(others) == 1:
            power = -1.0 / v[others[0]]
            kind = "product" if abs(power - 1) < 0.25 else "ratio" if abs(power + 1) < 0.25 else "combination"
            what = {"product": f"{name} · {partners[0]}", "ratio": f"{name} / {partners[0]}"}.get(
                kind, f"{name} · ({partners[0]})^{power:.2g}"
            )
            out.append(Verdict(name, kind, f"identifiable only in the {kind} {what}", partners))
        else:
            terms = ", ".join(f"{names[j]} ({v[j]:+.2g})" for j in others)
            text = f"identifiable only in combination with {terms} (change of their logarithms with its own)"
            out.append(Verdict(name, "combination", text, partners))
    return out


def _one_sided(log: bool, profile: Profile) -> str:
    def shown(s: float) -> str:
        return f"{math.exp(s) if log else s:.3g}"

    if math.isfinite(profile.low):
        return f" beyond being above {shown(profile.low)}"
    return f" beyond being below {shown(profile.high)}"


# -- models against each other -----------------------------------------------------------------------


@dataclass(frozen=True)
class Criteria:
    """Smaller is better. ``count`` measurements, ``size`` parameters."""

    log_likelihood: float
    aicc: float
    bic: float
    count: int
    size: int


def criteria(log_likelihood: float, count: int, size: int) -> Criteria:
    """AICc = 2k − 2 ln L + 2k(k + 1)/(n − k − 1), infinite for n ≤ k + 1; BIC = k ln n − 2 ln L."""
    correction = 2.0 * size * (size + 1) / (count - size - 1) if count > size + 1 else math.inf
    return Criteria(
        log_likelihood, 2.0 * size - 2.0 * log_likelihood + correction,
        size * math.log(count) - 2.0 * log_likelihood, count, size,
    )  # fmt: skip
