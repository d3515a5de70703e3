"""Outcomes of a run, from its time courses: burdens at chosen days, times to events, responses, exposures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .response import CATEGORIES, Response, rano

DISAGREEMENT = 0.20
"""Burden and a thresholded volume disagree when their responses differ by more than this."""


@dataclass(frozen=True)
class Course:
    """Observables of one arm over time.

    Attributes:
        days: ``(n,)`` [day]; values: name → ``(n,)``.
    """

    arm: str
    label: str
    days: np.ndarray
    values: dict[str, np.ndarray]

    @classmethod
    def from_rows(cls, arm: str, label: str, rows: list[tuple[float, dict[str, float]]]) -> Course:
        days = np.asarray([d for d, _ in rows])
        return cls(arm, label, days, {k: np.asarray([v[k] for _, v in rows]) for k in rows[0][1]})

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def at(self, name: str, day: float) -> float:
        """The value on a day, interpolated; NaN outside the course."""
        if not self.days[0] <= day <= self.days[-1]:
            return float("nan")
        return float(np.interp(day, self.days, self.values[name]))

    def day_of(self, name: str, level: float) -> float:
        """First day on which a value reaches ``level`` from below, log-linear in between; inf if never."""
        v = self.values[name]
        above = np.flatnonzero(v >= level)
        if above.size == 0:
            return float("inf")
        i = int(above[0])
        if i == 0:
            return float(self.days[0])
        a, b = np.log(max(v[i - 1], 1e-300)), np.log(v[i])
        return float(self.days[i - 1] + (np.log(level) - a) / (b - a) * (self.days[i] - self.days[i - 1]))


def scans(course: Course, outcome: Any) -> Response:
    """Response on scans of the T1Gd volume every ``scan_every_days``, from the first day on."""
    first, last = float(course.days[0]), float(course.days[-1])
    days = np.arange(first, last + 1e-9, outcome.scan_every_days)
    # volumes are those of the last observation before a scan: between two of them they are not known
    index = np.searchsorted(course.days, days + 1e-9, side="right") - 1
    return rano(days.tolist(), course.values["t1gd_volume"][index].tolist(), outcome.confirm_days)


def summarise(course: Course, outcome: Any, kept: Iterable[tuple[str, str]] = ()) -> dict[str, Any]:
    """Outcome numbers of one arm.

    Args:
        outcome: has the thresholds of the configuration.
        kept: further series, with which of their values to keep: ``"last"`` or ``"max"``.
    """
    response = scans(course, outcome)
    out: dict[str, Any] = {
        "final_day": float(course.days[-1]),
        "final_burden_cells": float(course.values["burden_cells"][-1]),
        "day_of_progression_burden": course.day_of("burden_cells", outcome.progression_cells),
        "day_of_fatal_burden": course.day_of("burden_cells", outcome.fatal_cells),
        "largest_rim_density": float(course.values["rim_density"].max()),
        "best_response": f"{response.best} ({CATEGORIES[response.best]})",
        "day_of_progression_on_scans": response.progression_day,
        "day_of_smallest_burden": float(course.days[int(np.argmin(course.values["burden_cells"]))]),
    }
    for name in ("growth_rate_per_day", "front_speed_mm_per_day"):
        if name in course:
            out[f"final_{name}"] = float(course.values[name][-1])
    for day in (d for d in outcome.compare_days if d <= course.days[-1]):
        out[f"burden_day{day:g}"] = course.at("burden_cells", day)
    if "drug_mean_tumour" in course:
        mean = course.values["drug_mean_tumour"]
        out["drug_auc_tumour"] = float(np.trapezoid(mean, course.days))
        out["drug_peak"] = float(course.values["drug_peak"].max())
    if "drug_exposure_tumour" in course:
        tumour = float(course.values["drug_exposure_tumour"][-1])
        healthy = float(course.values["drug_exposure_healthy"][-1])
        out["drug_exposure_tumour"], out["drug_exposure_healthy"] = tumour, healthy
        out["therapeutic_index"] = tumour / healthy if healthy > 0 else float("inf")
    if "carriers_cells" in course:
        out["carriers_peak_cells"] = float(course.values["carriers_cells"].max())
        inside = np.trapezoid(course.values["carriers_in_tumour_cells"], course.days)
        alive = np.trapezoid(course.values["carriers_cells"], course.days)
        out["carriers_fraction_in_tumour"] = float(inside / alive) if alive > 0 else float("nan")
    if "carriers_displacement" in course:
        alive = course.values["carriers_cells"]
        square = np.trapezoid(alive * course.values["carriers_displacement"] ** 2, course.days)
        total = np.trapezoid(alive, course.days)
        out["carriers_displacement"] = float(np.sqrt(square / total)) if total > 0 else float("nan")
    for name, which in kept:
        if which and name in course:
            values = course.values[name]
            out[name] = float(values.max() if which == "max" else values[-1])
    return out


def response(course: Course, reference: Course, name: str, day: float) -> float:
    """Relative change of a value against the reference arm on the same day; NaN where the reference is zero."""
    base = reference.at(name, day)
    return course.at(name, day) / base - 1.0 if base > 0 else float("nan")


def disagrees(course: Course, reference: Course, day: float) -> list[str]:
    """Thresholded volumes whose response differs from the burden's by more than `DISAGREEMENT`."""
    burden = response(course, reference, "burden_cells", day)
    out = []
    for name in ("t1gd_volume", "flair_volume"):
        seen = response(course, reference, name, day)
        if np.isfinite(seen) and np.isfinite(burden) and abs(seen - burden) > DISAGREEMENT:
            out.append(name)
    return out
