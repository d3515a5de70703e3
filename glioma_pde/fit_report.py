"""What a calibration leaves: the table that is printed, and the groups of its file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .calibrate.population import Population, residuals_of_subjects
from .calibrate.score import Score
from .fit_run import LawResult
from .fitting import Setup
from .io.fit_file import write_fit


def fit_table(results: Sequence[LawResult]) -> str:
    """Parameters of the best model with intervals and verdicts, and the models side by side."""
    best = results[0]
    setup = best.setup
    level = setup.study.fit.level
    rows = [("parameter", "value", f"{100 * level:g} % interval", "verdict")]
    natural = best.natural
    for k, name in enumerate(best.names):
        profile = best.found[k]
        ends = [_natural(best, k, profile.low), _natural(best, k, profile.high)]
        rows.append((name, f"{natural[k]:.4g}", f"[{_end(ends[0])}, {_end(ends[1])}]", best.verdicts[k].text))
    lines = [f"model: {best.law}", *_aligned(rows)]
    lines += ["", *(f"  {note}" for note in best.notes)]
    if len(results) > 1 or best.late or best.mice:
        head = (
            "model",
            "ln L",
            "AICc",
            "BIC",
            "held out",
            "n",
            "CCC",
            "NRMSE",
            "error",
            "90 % interval",
            "ln density",
        )
        table: list[tuple[str, ...]] = [head]
        for r in results:
            first = (r.law, f"{r.criteria.log_likelihood:.1f}", f"{r.criteria.aicc:.1f}", f"{r.criteria.bic:.1f}")
            held = [("late times", r.late), ("new subjects", r.mice)]
            told: list[tuple[str, Score | None]] = [(name, s) for name, s in held if s is not None] or [("–", None)]
            for i, (name, s) in enumerate(told):
                table.append((*(first if i == 0 else ("",) * 4), name, *_score(s)))
        lines += ["", *_aligned(table)]
    if best.design is not None:
        lines += ["", *best.design.lines()]
    return "\n".join(lines)


def _score(s: Score | None) -> tuple[str, ...]:
    if s is None:
        return ("",) * 6
    error = f"{s.error_percent:.0f} %"
    return (f"{s.count}", f"{s.ccc:.2f}", f"{s.nrmse:.2f}", error, f"{100 * s.coverage:.0f} %", f"{s.log_score:.2f}")


def _natural(result: LawResult, k: int, value: float) -> float:
    if not math.isfinite(value):
        return value
    return math.exp(value) if result.log[k] else value


def _end(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "open"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def save_fit(path: str | Path, results: Sequence[LawResult], attributes: dict[str, Any]) -> Path:
    """Write everything that the figures need."""
    best, setup, study = results[0], results[0].setup, results[0].setup.study
    groups: dict[str, dict[str, Any]] = {}
    units: dict[str, str] = {}
    for r in results:
        groups[f"laws/{r.law}"] = {
            "names": np.asarray(r.names), "log": r.log, "scaled": r.s, "covariance": r.covariance, "value": r.natural,
            "low": [_natural(r, k, p.low) for k, p in enumerate(r.found)],
            "high": [_natural(r, k, p.high) for k, p in enumerate(r.found)],
            "verdict": np.asarray([v.text for v in r.verdicts]), "kind": np.asarray([v.kind for v in r.verdicts]),
        }  # fmt: skip
    groups["starts"] = {
        "names": np.asarray(best.problem.names if best.population is None else best.names[: best.starts.s.size]),
        "cost": best.starts.costs, "converged": best.starts.converged, "steps": best.starts.steps,
        "start": best.starts.starts, "end": best.starts.ends,
    }  # fmt: skip
    for k, profile in enumerate(best.found):
        values = np.exp(profile.values) if best.log[k] else profile.values
        groups[f"profiles/{k:03d}"] = {
            "name": np.asarray([best.names[k]]), "value": values, "rise": profile.rise, "threshold": [profile.threshold],
            "best": [best.natural[k]], "log": [bool(best.log[k])],
        }  # fmt: skip
    groups["data"] = _data(setup, best)
    problem = best.problem
    groups["curves"] = {
        "subject": np.asarray(problem.subjects), "arm": np.asarray(problem.arms), "day": best.days,
        "low": best.band[0], "median": best.band[1], "high": best.band[2],
        "observable": np.asarray(setup.simulation.names), "unit": np.asarray([o.unit for o in setup.simulation.observations]),
        "logarithmic": np.asarray([n.logarithmic for n in setup.noises]),
    }  # fmt: skip
    units |= {"curves/day": "day", "data/time": "day"}
    groups["laws_compared"] = _laws(results)
    if best.population is not None:
        random = [n.removeprefix("mean of ") for n in best.names if n.startswith("mean of ")]
        log = [bool(best.log[best.names.index(f"mean of {n}")]) for n in random]
        modes = best.population.subjects.modes
        groups["subjects"] = {
            "subject": np.asarray(problem.subjects), "arm": np.asarray(problem.arms), "names": np.asarray(random),
            "value": np.where(log, np.exp(np.where(log, modes, 0.0)), modes),
        }  # fmt: skip
    fit = study.fit
    attributes = {
        "title": study.study.title, "config_toml": study.study.text, "law": best.law, "level": fit.level,
        "notes": "\n".join(best.notes), "endpoint": fit.endpoint,
        "quadratic": best.population is not None or not fit.profiles, "hold_out_after_day": fit.hold_out_after_day,
        **attributes,
    }  # fmt: skip
    return write_fit(path, groups, attributes, units)


def _data(setup: Setup, best: LawResult) -> dict[str, Any]:
    """Measurements in the order of the problem's table, with predictions."""
    data = setup.data
    order = np.concatenate([np.flatnonzero(data.subject == s) for s in best.problem.subjects])
    rows = data.where(order)
    used = np.asarray(best.problem.table.used)
    if best.population is None:
        residual = np.asarray(best.problem.compare(best.starts.s).error)[used]
    else:
        residual = residuals_of_subjects(Population.of(best.problem), best.population)[used]
    out: dict[str, Any] = {
        "subject": rows.subject, "arm": rows.arm, "observable": rows.observable, "time": rows.time, "value": rows.value,
        "sd": rows.sd, "censoring": rows.censoring, "row": rows.row, "predicted": best.predicted[:, 0],
        "low": best.predicted[:, 1], "high": best.predicted[:, 2], "residual": residual,
    }  # fmt: skip
    if best.held.size:
        out |= {"held_out": best.held, "forecast": best.forecast[:, 0]}
        out |= {"forecast_low": best.forecast[:, 1], "forecast_high": best.forecast[:, 2]}
    return out


def _laws(results: Sequence[LawResult]) -> dict[str, Any]:
    out: dict[str, Any] = {"law": np.asarray([r.law for r in results])}
    out |= {n: [getattr(r.criteria, n) for r in results] for n in ("log_likelihood", "aicc", "bic", "count", "size")}
    for name in ("late", "mice"):
        scores = [getattr(r, name) for r in results]
        if any(s is not None for s in scores):
            for field in Score.__dataclass_fields__:
                out[f"{name}_{field}"] = [math.nan if s is None else getattr(s, field) for s in scores]
    return out
