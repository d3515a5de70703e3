"""What a number that comes out of arms owes to which parameter: one at a time, by elementary effects, by shares of variance.

All points are solved by `solve` in batches under `jax.vmap`, with one step short enough for every one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .build import Experiment, build, common_shapes
from .calibrate.forward import is_parameter, value_of, with_parameters
from .calibrate.morris import Effects, elementary_effects, summarise_effects, trajectories
from .calibrate.sobol import LEVEL, Indices, indices_of, sobol_points
from .compare import write_rows
from .config import Config, Study
from .config.study import Factor, Measure
from .errors import ConfigError, GliomaError
from .io.fit_file import SENSITIVITY, write_fit
from .manifest import git_revision, versions
from .observe import look
from .parameters import PARAMETERS
from .schedule import make_plan
from .solve import solve

Report = Callable[[str, float], Any]


@dataclass(frozen=True)
class Shares:
    """Sobol's indices of the outcome, and of its logarithm where it has one.

    Attributes:
        scales: ``outcome``, and ``log`` where `logarithm` is not ``None``.
        indices: each ``(scales, k)``.
        points, outcomes: ``(k + 2, n, k)`` in the unit cube and ``(k + 2, n)``.
    """

    scales: tuple[str, ...]
    indices: Indices
    points: np.ndarray
    outcomes: np.ndarray


@dataclass(frozen=True)
class Sensitivities:
    """What was found.

    Attributes:
        base: the outcome with the parameters of the file. base_values: these parameters, ``(k,)``.
        ends: the outcome with one factor at its low and high end, ``(k, 2)``.
        usual: with each favourable factor alone at the default of the parameter table, as far as its range reaches, NaN
            for the others, ``(k,)``.
        all_usual, all_unfavourable: with all favourable factors at these defaults, or at the other ends of their ranges.
        points, outcomes: of the trajectories, ``(r, k + 1, k)`` in the unit cube and ``(r, k + 1)``.
        shares: what was found of the variance, or ``None`` if that was not asked for.
    """

    study: Study
    measure: Measure
    factors: tuple[Factor, ...]
    base: float
    base_values: np.ndarray
    ends: np.ndarray
    usual: np.ndarray
    all_usual: float
    all_unfavourable: float
    points: np.ndarray
    outcomes: np.ndarray
    effects: Effects
    shares: Shares | None
    step_days: float

    @property
    def names(self) -> list[str]:
        return [f.parameter for f in self.factors]


class Outcome:
    """The outcome as a function of the factors' values, many at a time.

    Raises:
        ConfigError: for factors that neither arm has or that differ between them, and quantities that it does not observe.
    """

    def __init__(self, study: Study) -> None:
        section = study.arms[0].sensitivity
        if section is None:
            raise ConfigError(["sensitivity: this section is missing"], study.path)
        self.section, self.measure = section, section.outcome
        self.factors: tuple[Factor, ...] = section.factors
        chosen = {self.measure.arm, self.measure.against or self.measure.arm}
        arms = [arm for arm in study.arms if arm.arm in chosen]
        shapes = common_shapes(arms)
        self.experiments = {arm.arm: _short(build(_without_frames(arm), shapes=shapes), self.measure) for arm in arms}
        names = [f.parameter for f in self.factors]
        models = [e.model for e in self.experiments.values()]
        problems = [
            f"sensitivity.factors: {name} is no parameter of the arms {', '.join(self.experiments)}"
            for name in names
            if not any(is_parameter(model, name) for model in models)
        ]
        for name in names:  # one value is written into both arms
            own = {a: value_of(e.model, name) for a, e in self.experiments.items() if is_parameter(e.model, name)}
            if len(set(own.values())) > 1:
                told = " and ".join(f"{value:.4g} in arm {a!r}" for a, value in own.items())
                problems.append(f"sensitivity.factors: {name} is {told}; it can be varied only where the arms agree")
        if problems:
            raise ConfigError(problems, study.path)
        self.base = np.array([value_of(next(m for m in models if is_parameter(m, n)), n) for n in names])
        self.step_days = math.inf

    def values(self, unit: np.ndarray) -> np.ndarray:
        """Values of the factors at points of the unit cube, ``(n, k)``."""
        out = np.empty_like(unit)
        for k, factor in enumerate(self.factors):
            low, high = factor.range()
            if factor.logarithmic:
                out[:, k] = low * (high / low) ** unit[:, k]
            else:
                out[:, k] = low + (high - low) * unit[:, k]
        return out

    def __call__(self, values: np.ndarray, report: Report = lambda what, share: None) -> np.ndarray:
        """The outcome at each row of ``values``, ``(n,)``."""
        of = dict[str, np.ndarray]()
        for i, (name, experiment) in enumerate(self.experiments.items()):
            share = len(self.experiments)
            of[name] = self._solve(experiment, values, lambda x, i=i, n=share, a=name: report(a, (i + x) / n))  # type: ignore[misc]
        arm = of[self.measure.arm]
        return arm if self.measure.against is None else self.measure.compared(arm, of[self.measure.against])

    def _solve(self, experiment: Experiment, values: np.ndarray, report: Callable[[float], Any]) -> np.ndarray:
        model, events = experiment.model, experiment.schedule.events
        mine = [k for k, f in enumerate(self.factors) if is_parameter(model, f.parameter)]
        names = [self.factors[k].parameter for k in mine]
        # rows that differ only in what this arm does not have are one
        rows, back = np.unique(values[:, mine], axis=0, return_inverse=True)
        step = min(experiment.config.time.step_days, 1.0 / _fastest(model, names, rows, self.section.batch))
        self.step_days = min(self.step_days, step)
        plan = make_plan(model, experiment.schedule, experiment.days.tolist(), step)
        days = jnp.asarray(experiment.days, model.tissue.white.dtype)
        o = experiment.config.outcome
        seen = partial_look(events, (o.t1gd_threshold, o.flair_threshold), self.measure.quantity)

        @eqx.filter_jit
        def batch(model, schedule, initial, theta):
            def one(row):
                other = with_parameters(model, dict(zip(names, row, strict=True)))
                return solve(other, schedule, initial, plan, days, save=seen).saved[-1]

            return jax.vmap(one)(theta)

        size = min(self.section.batch, len(rows))
        found = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            theta = jnp.asarray(padded, model.tissue.white.dtype)
            out = np.asarray(batch(model, experiment.schedule, experiment.initial, theta))
            found.append(out[: len(part)].astype(float))
            report(min(1.0, (start + size) / len(rows)))
        return np.concatenate(found)[back.ravel()]


def partial_look(events: Any, thresholds: Any, quantity: str) -> Callable[..., Any]:
    """What `solve` saves: one observable."""

    def save(model, carry, medium, day):
        seen = look(model, events, carry, medium, day, thresholds)[0]
        if quantity not in seen:
            raise GliomaError(f"sensitivity.outcome.quantity: {quantity} is not observed; there are {', '.join(seen)}.")
        return seen[quantity]

    return save


def _without_frames(arm: Config) -> Config:
    time = arm.time.model_copy(update={"frame_every_days": arm.time.end_day, "frames_days": []})
    return arm.model_copy(update={"time": time})


def _short(experiment: Experiment, measure: Measure) -> Experiment:
    """The arm up to the day that is asked for."""
    return replace(experiment, days=np.array([0.0, float(measure.day or 0.0)]))


def _fastest(model: Any, names: Sequence[str], rows: np.ndarray, size: int) -> float:
    """The fastest loss rate [1/day] of any field at any of the ``rows``, ``size`` at a time."""

    @eqx.filter_jit
    def rates(model, theta):
        def one(row):
            other = with_parameters(model, dict(zip(names, row, strict=True)))
            return other.loss_rate(other.prepare())

        return jnp.max(jax.lax.map(one, theta, batch_size=size))

    return float(rates(model, jnp.asarray(rows, model.tissue.white.dtype)))


def analyse(study: Study, report: Report = lambda what, share: None) -> Sensitivities:
    """One at a time, elementary effects, shares of the variance.

    Raises:
        ConfigError: for a configuration without the section [sensitivity], and what `Outcome` refuses.
        GliomaError: if an outcome is not finite.
    """
    outcome = Outcome(study)
    factors, k = outcome.factors, len(outcome.factors)
    ranges = np.array([f.range() for f in factors])
    usual = np.clip([PARAMETERS[f.parameter].default for f in factors], ranges[:, 0], ranges[:, 1])
    favourable = np.array([f.favourable is not None for f in factors])
    worst = np.array([r[1] if f.favourable == "low" else r[0] for f, r in zip(factors, ranges, strict=True)])
    rows = [outcome.base]
    for i in range(k):
        rows += [_with(outcome.base, i, ranges[i, 0]), _with(outcome.base, i, ranges[i, 1])]
    rows += [_with(outcome.base, i, usual[i]) for i in range(k)]
    rows += [np.where(favourable, usual, outcome.base), np.where(favourable, worst, outcome.base)]
    points = trajectories(k, outcome.section.trajectories, outcome.section.levels, outcome.section.seed)
    samples, seed = outcome.section.samples, outcome.section.seed
    sampled = sobol_points(k, samples, seed) if samples and k > 1 else None
    inside = [outcome.values(x.reshape(-1, k)) for x in (points, sampled) if x is not None]
    found = outcome(np.concatenate([np.array(rows), *inside]), report)
    if not np.all(np.isfinite(found)):
        raise GliomaError(f"{study.path}: the outcome is not finite for {int(np.sum(~np.isfinite(found)))} points.")
    single, screened, rest = np.split(found, np.cumsum([len(rows), points[..., 0].size]))
    screened = screened.reshape(points.shape[:2])
    shares = None if sampled is None else _shares(outcome, sampled, rest.reshape(sampled.shape[:2]))
    return Sensitivities(
        study, outcome.measure, factors, float(single[0]), outcome.base, single[1 : 1 + 2 * k].reshape(k, 2),
        np.where(favourable, single[1 + 2 * k : 1 + 3 * k], np.nan), float(single[-2]), float(single[-1]),
        points, screened, summarise_effects(elementary_effects(points, screened)), shares, outcome.step_days,
    )  # fmt: skip


def _shares(outcome: Outcome, points: np.ndarray, found: np.ndarray) -> Shares:
    scales = {"outcome": found, "log": logarithm(outcome.measure, found)}
    told = {name: values for name, values in scales.items() if values is not None}
    return Shares(tuple(told), indices_of(np.stack(list(told.values())), outcome.section.seed), points, found)


def logarithm(measure: Measure, outcome: np.ndarray) -> np.ndarray | None:
    """ln of the value or of the ratio of arms; none for differences, and where one is not positive."""
    ratio = 1.0 + outcome if measure.kind_of == "change" else outcome
    return None if measure.kind_of == "difference" or np.any(ratio <= 0.0) else np.log(ratio)


def _with(base: np.ndarray, i: int, value: float) -> np.ndarray:
    row = base.copy()
    row[i] = value
    return row


# -- what is left of it ---------------------------------------------------------------------------


def report_text(s: Sensitivities) -> str:
    """The table that is printed."""
    against = f" against {s.measure.against}" if s.measure.against else ""
    what = f"{s.measure.kind_of} of {s.measure.quantity}, {s.measure.arm}{against}, day {s.measure.day:g}"
    rows = [
        ("parameter", "low", "high", "of the file", "at low", "at high", "mu*", "sigma", "favourable", "at default")
    ]
    order = np.argsort(-s.effects.mu_star)
    for k in order:
        factor = s.factors[k]
        low, high = factor.range()
        rows.append((
            factor.parameter, f"{low:.3g}", f"{high:.3g}", f"{s.base_values[k]:.3g}",
            shown(s.measure, s.ends[k, 0]), shown(s.measure, s.ends[k, 1]),
            f"{s.effects.mu_star[k]:.3g}", f"{s.effects.sigma[k]:.3g}", factor.favourable or "–",
            shown(s.measure, s.usual[k]) if np.isfinite(s.usual[k]) else "–",
        ))  # fmt: skip
    quantiles = np.quantile(s.outcomes, [0.05, 0.5, 0.95])
    return "\n".join([
        f"{what}: {shown(s.measure, s.base)} with the parameters of the file", *_aligned(rows),
        f"all favourable parameters at their defaults: {shown(s.measure, s.all_usual)}; "
        f"at the unfavourable ends: {shown(s.measure, s.all_unfavourable)}",
        f"{s.outcomes.size} points of {s.points.shape[0]} trajectories: 5, 50 and 95 % of the outcomes lie below "
        + ", ".join(shown(s.measure, q) for q in quantiles),
        *(_shares_text(s, s.shares) if s.shares else ()),
    ])  # fmt: skip


def _shares_text(s: Sensitivities, shares: Shares) -> list[str]:
    kinds = [(scale, kind) for scale in shares.scales for kind in ("first", "total")]
    names = {"outcome": "", "log": " of the logarithm"}
    rows = [("parameter", *(f"{kind}{names[scale]}" for scale, kind in kinds))]
    for k in np.argsort(-shares.indices.total[0]):
        cells = []
        for scale, kind in kinds:
            value, low, high = (
                getattr(shares.indices, kind + end)[shares.scales.index(scale), k] for end in ("", "_low", "_high")
            )
            cells.append(f"{value:.2f} [{low:.2f}, {high:.2f}]")
        rows.append((s.names[k], *cells))
    n = shares.outcomes.shape[1]
    return [
        f"Sobol's indices, shares of the variance over all ranges, with {100 * LEVEL:.0f} % intervals ({shares.outcomes.size} points, n = {n}):",
        *_aligned(rows),
    ]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def shown(measure: Measure, value: float) -> str:
    return f"{100 * value:+.1f} %" if measure.kind_of == "change" else f"{value:.4g}"


def save(s: Sensitivities, out: Path) -> list[Path]:
    """Write ``sensitivity.h5``, which the figure is drawn from, and ``sensitivity.csv``.

    Raises:
        GliomaError: if they cannot be written.
    """
    ranges = np.array([f.range() for f in s.factors])
    factors = {
        "name": np.asarray(s.names), "symbol": np.asarray([PARAMETERS[n].symbol for n in s.names]),
        "unit": np.asarray([PARAMETERS[n].unit for n in s.names]), "low": ranges[:, 0], "high": ranges[:, 1],
        "base": s.base_values, "at_low": s.ends[:, 0], "at_high": s.ends[:, 1], "at_default": s.usual,
        "favourable": np.asarray([f.favourable or "" for f in s.factors]),
        "logarithmic": np.asarray([f.logarithmic for f in s.factors]),
        **{n: getattr(s.effects, n) for n in Effects._fields},
        **_index_columns(s.shares),
    }  # fmt: skip
    m = s.measure
    attributes = {
        "title": s.study.title, "config_toml": s.study.text, "base": s.base, "all_usual": s.all_usual,
        "all_unfavourable": s.all_unfavourable, "quantity": m.quantity, "form": m.kind_of, "arm": m.arm,
        "against": m.against or "", "day": float(m.day or 0.0), "step_days": s.step_days,
        "label": s.study.label or next(a.label for a in s.study.arms if a.arm == m.arm), "versions": versions(), "git_revision": git_revision(),
    }  # fmt: skip
    groups = {"factors": factors, "morris": {"points": s.points, "outcomes": s.outcomes}}
    if s.shares is not None:
        groups["sobol"] = {"points": s.shares.points, "outcomes": s.shares.outcomes}
        attributes["interval_level"] = LEVEL
    file = write_fit(out / "sensitivity.h5", groups, attributes, kind=SENSITIVITY)
    return [file, write_rows(out / "sensitivity.csv", list(factors), zip(*factors.values(), strict=True))]


def _index_columns(shares: Shares | None) -> dict[str, np.ndarray]:
    """``sobol_first``, ``sobol_first_low`` … of the outcome, ``sobol_log_first`` … of its logarithm."""
    if shares is None:
        return {}
    prefix = {"outcome": "sobol", "log": "sobol_log"}
    named = shares.indices._asdict()
    return {f"{prefix[scale]}_{n}": v[i] for i, scale in enumerate(shares.scales) for n, v in named.items()}
