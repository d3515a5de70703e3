"""A study against the figures that it published: what comes out of its arms, and whether it lies in the range.

Reads finished runs and the section [study]; runs nothing.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .compare import write_rows
from .errors import GliomaError
from .outcome import Course

if TYPE_CHECKING:
    from .config.study import Comparison, Measure, Published

IN, OUT, UNKNOWN = "in range", "out of range", "not evaluable"
_KINDS = {"at_least": "at least", "at_most": "at most"}


@dataclass(frozen=True)
class Compared:
    """A published number and ours.

    Attributes:
        form: ``value``, ``change``, ``ratio`` or ``difference``; changes are shown in per cent.
        low, high: what counts as agreement, infinite where it is open.
        text: the range as the table shows it.
        since: the end of the run where the number was not reached by then.
    """

    study: str
    what: str
    form: str
    unit: str
    kind: str
    role: str
    published: float
    low: float
    high: float
    ours: float
    verdict: str
    text: str
    note: str
    since: float = math.nan

    @property
    def shown(self) -> str:
        """Ours, as the table shows it."""
        if math.isinf(self.ours) and math.isfinite(self.since):
            return f"> {shown(self, self.since)}"
        return shown(self, self.ours)


@dataclass(frozen=True)
class Chosen:
    """A parameter of a study, with its value where it is one of the table of parameters."""

    parameter: str
    value: str
    how: str
    end: str
    outside: bool
    why: str


@dataclass(frozen=True)
class Studied:
    """A study with everything that its page and table say."""

    name: str
    title: str
    label: str
    citation: str
    fitted: str
    predicted: str
    fails: str
    exposure: str | None
    rows: tuple[Compared, ...]
    chosen: tuple[Chosen, ...]


def studied(name: str, runs: Sequence[Any], arms: Sequence[Any], title: str, label: str = "") -> Studied:
    """Compare finished runs with what was published.

    Args:
        runs: results or files of all arms. arms: their configurations, which have the section [study].
        label: what the whole study is: its scale, and what it can claim.

    Raises:
        GliomaError: for a quantity that a run does not have.
    """
    section: Comparison = arms[0].study
    by_name = {run.arm: run for run in runs}
    rows = tuple(_compare(name, row, by_name) for row in section.published)
    main = next(arm for arm in arms if arm.arm == section.published[0].arm)
    chosen = tuple(
        Chosen(c.parameter, _first_value([main, *arms], c.parameter), c.how, c.end, c.outside, c.why)
        for c in section.chosen
    )
    return Studied(
        name, title, label, section.citation, section.fitted, section.predicted, section.fails, section.exposure,
        rows, chosen,
    )  # fmt: skip


def _first_value(arms: Sequence[Any], path: str) -> str:
    """Of the first arm that has it."""
    return next((value for arm in arms if (value := value_of(arm, path))), "")


def value_of(arm: Any, path: str) -> str:
    """A parameter of an arm with its unit; empty for what is none."""
    from .config.study import at
    from .parameters import PARAMETERS

    node = at(arm, path)
    if isinstance(node, bool) or not isinstance(node, int | float):
        return ""
    unit = (
        PARAMETERS[path].unit if path in PARAMETERS else {"mm": "mm", "cells": "cells"}.get(path.rpartition("_")[2], "")
    )
    return f"{node:.3g} {'' if unit == '1' else unit}".strip()


def measure(m: Measure, runs: dict[str, Any]) -> float:
    """The number that a measure stands for.

    Raises:
        GliomaError: for a quantity that a run does not have.
    """
    x = _one(m, runs[m.arm])
    if m.against is None:
        return x
    y = _one(m, runs[m.against])
    sensible = math.isfinite(y) if m.kind_of == "difference" else y > 0
    return m.compared(x, y) if sensible else math.nan


def _one(m: Measure, run: Any) -> float:
    course: Course = run.course
    if not m.in_time:
        if m.quantity not in run.summary or isinstance(run.summary[m.quantity], str):
            numbers = [n for n, v in run.summary.items() if not isinstance(v, str)]
            raise GliomaError(
                f"study: the summary of {run.arm} has no number {m.quantity}; it has {', '.join(numbers)}."
            )
        return float(run.summary[m.quantity])
    if m.quantity not in course:
        raise GliomaError(f"study: {run.arm} does not observe {m.quantity}; it observes {', '.join(course.values)}.")
    if m.peak:
        return float(np.nanmax(course.values[m.quantity]))
    if m.day is not None:
        return course.at(m.quantity, m.day)
    assert m.between is not None
    a, b = m.between
    inner = course.days[(course.days > a) & (course.days < b)]
    days = np.concatenate([[a], inner, [b]])
    return float(np.trapezoid([course.at(m.quantity, d) for d in days], days) / (b - a))


def _compare(study: str, row: Published, runs: dict[str, Any]) -> Compared:
    ours = measure(row, runs)
    low, high = row.range()
    verdict = UNKNOWN if math.isnan(ours) else IN if low <= ours <= high else OUT
    since = float(runs[row.arm].course.days[-1])
    if row.against is not None:
        since -= _one(row, runs[row.against]) if row.kind_of == "difference" else math.nan
    blank = Compared(
        study,
        row.what,
        row.kind_of,
        row.unit,
        row.kind,
        row.role,
        row.value,
        low,
        high,
        ours,
        verdict,
        "",
        row.note,
        since,
    )
    if row.kind == "target":
        ends = ", ".join(shown(blank, v).removesuffix(row.unit).strip() for v in (low, high))
        text = f"{shown(blank, row.value)} [{ends}]"
    elif row.kind == "order_of_magnitude":
        text = f"{shown(blank, row.value)} ×/÷ √10"
    else:
        text = f"{_KINDS[row.kind]} {shown(blank, row.value)}"
    return Compared(**{**vars(blank), "text": text})


def shown(row: Compared, value: float) -> str:
    """A number of this row, with its unit."""
    if math.isnan(value):
        return "–"
    if row.form == "change":
        return f"{100 * value:+.0f} %".replace("-", "−").replace("+0 %", "0 %").replace("−0 %", "0 %")
    size = abs(value)
    text = f"{value:.2e}" if size >= 1e4 else f"{float(f'{value:.3g}'):.0f}" if size >= 1e3 else f"{value:.3g}"
    return f"{text} {row.unit}".strip().replace("-", "−")


# -- words ----------------------------------------------------------------------------------------


def study_text(s: Studied) -> str:
    """The table that is printed."""
    rows = [("", "published", "ours", "", "")]
    rows += [(r.what, r.text, r.shown, r.verdict, r.role) for r in s.rows]
    chosen = [("parameter", "value", "how", "end", "")]
    chosen += [(c.parameter, c.value, c.how, c.end + (", outside" if c.outside else ""), c.why) for c in s.chosen]
    words = [f"{head}: {text}" for head, text in (("fitted", s.fitted), ("predicted", s.predicted), ("fails", s.fails))]
    told = [textwrap.fill(text, 118, initial_indent="  ", subsequent_indent="    ") for text in (s.citation, *words)]
    label = [f"  {s.label}"] if s.label else []
    return "\n".join([s.title, *label, told[0], *_aligned(rows), "", *_aligned(chosen), "", *told[1:]])


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown(studies: Sequence[Studied]) -> str:
    """All studies in one table, as the README has it."""
    lines = ["| study | | published | ours | | |", "|---|---|---|---|---|---|"]
    for s in studies:
        for i, r in enumerate(s.rows):
            head = s.title.partition(":")[0] if i == 0 else ""
            verdict = f"**{r.verdict}**" if r.verdict != IN else r.verdict
            lines.append(f"| {head} | {r.what} | {r.text} | {r.shown} | {verdict} | {r.role} |")
    return "\n".join(lines)


_COLUMNS = ("study", "what", "role", "kind", "form", "unit", "published", "low", "high", "ours", "verdict", "note")


def save_table(studies: Sequence[Studied], path: str | Path) -> Path:
    """Write all comparisons as CSV.

    Raises:
        GliomaError: if it cannot be written.
    """
    found = ([getattr(r, name) for name in _COLUMNS] for s in studies for r in s.rows)
    return write_rows(path, _COLUMNS, found)


def save_choices(studies: Sequence[Studied], path: str | Path) -> Path:
    """Write how the parameters were chosen, as CSV.

    Raises:
        GliomaError: if it cannot be written.
    """
    names = ("parameter", "value", "how", "end", "outside", "why")
    found = ([s.name, *(getattr(c, name) for name in names)] for s in studies for c in s.chosen)
    return write_rows(path, ("study", *names), found)
