"""Runs side by side, from their files alone: the outcome table, and everything in one tidy table.

The tidy table has a row for each number: run, quantity, unit, day (empty for what belongs to the whole course), value.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import GliomaError
from .io.hdf5 import RunFile
from .outcome import Course

COLUMNS = ("run", "quantity", "unit", "day", "value")

_UNITS = {
    "cells": "cells",
    "day": "day",
    "growth_rate_per_day": "1/day",
    "front_speed_mm_per_day": "mm/day",
    "drug_auc_tumour": "µM day",
    "drug_peak": "µM",
    "exposure": "µM mm3 day",
    "carriers_displacement": "mm",
}


@dataclass(frozen=True)
class Finished:
    """One run as its file tells of it.

    Attributes:
        arm: its name among the runs that are compared.
        units: of its observables.
        labels: of the observables whose outcome the summary keeps.
        levels: burdens of progression and of death [cells].
        compare_days: days that its configuration asks to compare.
    """

    arm: str
    path: Path
    course: Course
    summary: dict[str, Any]
    units: dict[str, str]
    levels: tuple[float, float]
    compare_days: tuple[float, ...]
    more: dict[str, str] = field(default_factory=dict)


def read(paths: Sequence[str | Path]) -> list[Finished]:
    """The runs in the files, with names that tell them apart.

    Raises:
        GliomaError: if a file cannot be read, or its run is not finished.
    """
    found = [_read(Path(path)) for path in paths]
    names = [run.arm for run in found]
    clear = [
        name if names.count(name) == 1 else f"{run.path.parent.name}/{run.path.stem}"
        for name, run in zip(names, found, strict=True)
    ]
    if len(set(clear)) < len(clear):
        clear = [str(run.path) for run in found]
    return [Finished(**{**vars(run), "arm": name}) for name, run in zip(clear, found, strict=True)]


def _read(path: Path) -> Finished:
    with RunFile(path) as file:
        summary = file.summary
        if not summary:
            raise GliomaError(f"{path}: the run is not finished; resume it before it is compared.")
        days = np.asarray(file.observable_days)
        values = {name: np.asarray(file.observable(name)) for name in file.observables}
        attrs = file.attrs
        levels = float(attrs["progression_burden_cells"]), float(attrs["fatal_burden_cells"])
        arm, label = str(attrs.get("arm", path.stem)), str(attrs.get("label", ""))
        about = dict(file.observables)
    compared = tuple(float(n.removeprefix("burden_day")) for n in summary if n.startswith("burden_day"))
    more = {n: f"{q.long_name} [{q.unit}]" for n, q in about.items() if n in summary and n not in _TABLED}
    units = {n: q.unit for n, q in about.items()}
    return Finished(arm, path, Course(arm, label, days, values), summary, units, levels, compared, more)


_TABLED = ("drug_peak", "drug_exposure_tumour", "drug_exposure_healthy", "carriers_displacement")


@dataclass(frozen=True)
class Levels:
    """What `outcome_table` needs to know of a configuration."""

    compare_days: tuple[float, ...]
    progression_cells: float
    fatal_cells: float


def levels(runs: Sequence[Finished]) -> Levels:
    """Days and burdens to compare: the days of the first run, or the last one that all reach."""
    end = min(float(run.course.days[-1]) for run in runs)
    days = tuple(d for d in runs[0].compare_days if d <= end) or (end,)
    return Levels(days, *runs[0].levels)


def rows(runs: Sequence[Any]) -> Iterator[tuple[str, str, str, float | None, Any]]:
    """All numbers of the runs, tidy: outcomes of the whole course first, then the observables of each day."""
    for run in runs:
        units = getattr(run, "units", {})
        for name, value in run.summary.items():
            yield run.arm, name, units.get(name) or _unit(name), None, value
        for name, values in run.course.values.items():
            for day, value in zip(run.course.days, values, strict=True):
                yield run.arm, name, units.get(name, ""), float(day), float(value)


def _unit(name: str) -> str:
    """Unit of an outcome, by the words in its name."""
    if name.startswith(("day_of", "final_day")):
        return "day"
    if name.startswith("burden_day"):
        return "cells"
    return next((unit for word, unit in _UNITS.items() if word in name), "1" if name != "best_response" else "")


def write_csv(runs: Sequence[Any], path: str | Path) -> Path:
    """Write the tidy table; it is there as a whole or not at all.

    Raises:
        GliomaError: if it cannot be written.
    """
    found = (
        (run, name, unit, "" if day is None else f"{day:g}", value if isinstance(value, str) else float(value))
        for run, name, unit, day, value in rows(runs)
    )
    return write_rows(path, COLUMNS, found)


def write_rows(path: str | Path, columns: Sequence[str], found: Iterable[Sequence[Any]]) -> Path:
    """Write a table; numbers that are none are left empty.

    Raises:
        GliomaError: if it cannot be written.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for row in found:
                writer.writerow([_number(float(v)) if isinstance(v, float | np.floating) else v for v in row])
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise GliomaError(f"{path}: the table cannot be written ({error.strerror}).") from None
    return path


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.9g}"
