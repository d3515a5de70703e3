"""Sections of treatments besides the carriers: resistance to drugs, temozolomide, surgery."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from . import regimens
from .base import (
    Amounts,
    Day,
    Fraction,
    Point,
    Positive,
    Repeated,
    Section,
    at_most,
    columns,
    parameters,
    pick,
    with_kind,
)  # fmt: skip


class Resistance(parameters("_Resistance", "resistance")):  # type: ignore[misc]
    pass


class OralDose(Repeated):
    """The same dose each time, or one dose for each."""

    amounts = ("dose_mg_per_m2",)

    dose_mg_per_m2: Annotated[Amounts, at_most(1e4, "mg/m²")]


_K = "temozolomide.kill"
HillKill = pick("HillKill", _K, ("emax_per_day", "ic50_uM", "hill"), kind=(Literal["hill"], ...))
LinearKill = pick("LinearKill", _K, ("rate_per_uM_per_day",), kind=(Literal["linear"], ...))


class Temozolomide(parameters("_Temozolomide", "temozolomide")):  # type: ignore[misc]
    """Doses by mouth, by a ``schedule`` with a name, or listed, or both; ``combination`` says what it does together
    with other drugs."""

    _kinds = model_validator(mode="before")(lambda data: with_kind(data, "kill", "hill"))
    kill: Annotated[HillKill | LinearKill, Field(discriminator="kind")] = HillKill(kind="hill")  # type: ignore[valid-type,call-arg]
    combination: Literal["additive", "bliss"] = "additive"
    schedule: regimens.Regimen | None = None
    start_day: Day | None = None
    doses: tuple[OralDose, ...] = ()

    @model_validator(mode="after")
    def _named(self):
        if (self.schedule is None) != (self.start_day is None):
            raise ValueError("schedule and start_day go together")
        return self

    @model_validator(mode="after")
    def _apart(self):
        elimination = self.clearance_l_per_h / self.volume_l
        rates = sorted((self.absorption_per_h, elimination, self.csf_exchange_per_h))
        if min(rates[1] / rates[0], rates[2] / rates[1]) < 1.01:
            raise ValueError(
                "absorption_per_h, csf_exchange_per_h and clearance_l_per_h/volume_l must differ by 1 % at least"
            )
        return self

    def single_doses(self) -> list[tuple[float, float]]:
        """(day, dose [mg/m²]) in order."""
        rows = [row for dose in self.doses for row in dose.each("dose_mg_per_m2")]
        if self.schedule is not None and self.start_day is not None:
            rows += regimens.temozolomide(self.schedule, self.start_day)
        return sorted(rows)

    def days(self):
        # a schedule that is known by name may reach beyond the run
        named = [] if self.start_day is None else [("start_day", self.start_day)]
        return named + [(f"doses[{i}]", max(dose.all_days())) for i, dose in enumerate(self.doses)]

    def rows(self):
        return {"doses": len(self.single_doses())}

    def tables(self):
        rows = self.single_doses()
        return {"temozolomide": {"day": [d for d, _ in rows], "dose_mg_per_m2": [m for _, m in rows]}} if rows else {}


class Resection(Section):
    """Tissue that is taken out of a ball; with ``at_threshold`` only what is tumour there by the day."""

    day: Day
    centre_mm: Point
    radius_mm: Positive
    margin_mm: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    at_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    removed_fraction: Fraction = 1.0


class Surgery(parameters("_Surgery", "surgery")):  # type: ignore[misc]
    cavity: Literal["open"] = "open"
    resections: Annotated[tuple[Resection, ...], Field(min_length=1)]

    def days(self):
        return [(f"resections[{i}]", r.day) for i, r in enumerate(self.resections)]

    def places(self):
        return [(f"resections[{i}].centre_mm", r.centre_mm) for i, r in enumerate(self.resections)]

    def rows(self):
        return {f"{kind}": len(rows) for kind, rows in self.by_kind().items()}

    def by_kind(self) -> dict[str, list[Resection]]:
        """The resections of balls, and those at a threshold."""
        kinds: dict[str, list[Resection]] = {"balls": [], "thresholds": []}
        for r in self.resections:
            kinds["balls" if r.at_threshold is None else "thresholds"].append(r)
        return {kind: rows for kind, rows in kinds.items() if rows}

    def tables(self):
        table = columns(self.resections, "day", "radius_mm", "margin_mm", "removed_fraction")
        for k, axis in enumerate("xyz"):
            table[f"{axis}_mm"] = [[*r.centre_mm, 0.0, 0.0][k] for r in self.resections]
        thresholds = [r.at_threshold for r in self.resections]
        return {"resections": table | {"threshold": [float("nan") if t is None else t for t in thresholds]}}
