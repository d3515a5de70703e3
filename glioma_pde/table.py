"""The short outcome table that a run prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .outcome import disagrees, response

if TYPE_CHECKING:
    from .compare import Finished
    from .run import Result


_ABOVE = ("drug_peak_tumour", "drug_peak_healthy")
"""Outcomes of observables that have a place of their own in the table."""


def outcome_table(results: Sequence[Result] | Sequence[Finished], outcome: Any) -> str:
    """Rows of outcomes, one column per arm; the first arm is the reference of every comparison.

    Volumes whose response differs from the burden's by more than 20 percentage points carry a ``!``.
    """
    first = results[0].course
    compare = [d for d in outcome.compare_days if d <= first.days[-1]]
    rows: list[tuple[str, list[str]]] = []

    def row(label: str, cell) -> None:
        cells = [cell(r) for r in results]
        if any(c != "" for c in cells):
            rows.append((label, cells))

    row("burden at start [cells]", lambda r: _number(r.course.at("burden_cells", 0.0)))
    for day in compare:
        row(f"burden, day {day:g} [cells]", lambda r, d=day: _number(r.course.at("burden_cells", d)))
        if len(results) > 1:
            row(f"  against {results[0].arm}", lambda r, d=day: _change(r, first, "burden_cells", d))
        for name, label in (("t1gd_volume", "T1Gd volume"), ("flair_volume", "FLAIR volume")):
            row(f"  {label} [mL]", lambda r, d=day, n=name: _volume(r, first, n, d))
        for name, label in (("carriers_cells", "alive"), ("carriers_in_tumour_cells", "within FLAIR contour")):
            row(f"  carriers {label} [cells]", lambda r, d=day, n=name: _count(r, n, d))
    for key, level in (("progression", outcome.progression_cells), ("fatal", outcome.fatal_cells)):
        name = f"day_of_{key}_burden"
        row(f"day of {level:.2g} cells", lambda r, n=name: _day(r.summary[n], r))
        if len(results) > 1:
            row("  days gained", lambda r, n=name: _gain(r, results[0], n))
    row("carriers, most alive [cells]", lambda r: _number(r.summary.get("carriers_peak_cells")))
    row("  time spent within FLAIR contour", lambda r: _percent(r.summary.get("carriers_fraction_in_tumour")))
    row("  distance from the nearest site, rms [mm]", lambda r: _short(r.summary.get("carriers_displacement")))
    row("drug, highest [µM]", lambda r: _short(r.summary.get("drug_peak")))
    row("  highest in tumour tissue [µM]", lambda r: _short(r.summary.get("drug_peak_tumour")))
    row("  highest in healthy tissue [µM]", lambda r: _short(r.summary.get("drug_peak_healthy")))
    row("  mean over tumour cells [µM day]", lambda r: _short(r.summary.get("drug_auc_tumour")))
    row("  exposure, tumour [µM mm³ day]", lambda r: _number(r.summary.get("drug_exposure_tumour")))
    row("  exposure, healthy [µM mm³ day]", lambda r: _number(r.summary.get("drug_exposure_healthy")))
    row("  therapeutic index (tumour : healthy)", lambda r: _short(r.summary.get("therapeutic_index")))
    row("best response on scans (RANO volume)", lambda r: str(r.summary.get("best_response", "")))
    row("day of progression on scans", lambda r: _day(r.summary["day_of_progression_on_scans"], r))
    for name, label in {k: v for r in results for k, v in r.more.items() if k not in _ABOVE}.items():
        row(label, lambda r, n=name: _short(r.summary.get(n)))
    row("tumour density on window's rim", lambda r: f"{r.summary['largest_rim_density']:.1e}")

    heads = [r.arm for r in results]
    left = max(len(label) for label, _ in rows)
    widths = [max(len(h), *(len(c[i]) for _, c in rows)) for i, h in enumerate(heads)]
    lines = [" " * left + "".join(f"  {h:>{w}}" for h, w in zip(heads, widths, strict=True))]
    lines += [
        f"{label:<{left}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=True)) for label, cells in rows
    ]
    if any("!" in c for _, cells in rows for c in cells):
        lines.append("! this volume responds differently from the burden by more than 20 percentage points")
    lines += [f"{r.arm}: {r.course.label}" for r in results if r.course.label not in ("", r.arm)]
    return "\n".join(lines)


def _change(result: Any, reference: Any, name: str, day: float) -> str:
    if result.course is reference:
        return ""
    value = response(result.course, reference, name, day)
    if not math.isfinite(value):
        return "–"
    flag = "!" if name in disagrees(result.course, reference, day) else ""
    return f"{flag}{100 * value:+.1f} %"


def _volume(result: Any, reference: Any, name: str, day: float) -> str:
    """Millilitres, with the change against the reference in brackets."""
    change = _change(result, reference, name, day)
    return f"{result.course.at(name, day) / 1e3:.2f}" + (f" ({change})" if change else "")


def _count(result: Any, name: str, day: float) -> str:
    if name not in result.course:
        return ""
    cells = result.course.at(name, day)
    return _number(cells) if cells >= 1 else "0"


def _day(value: float, result: Any) -> str:
    return f"{value:.0f}" if math.isfinite(value) else f"> {result.course.days[-1]:.0f}"


def _gain(result: Any, reference: Any, name: str) -> str:
    if result is reference:
        return ""
    ours, theirs = result.summary[name], reference.summary[name]
    if not math.isfinite(theirs):
        return "–"
    return f"{ours - theirs:+.1f}" if math.isfinite(ours) else f"> {result.course.days[-1] - theirs:.0f}"


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3g}"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{100 * value:.0f} %"
