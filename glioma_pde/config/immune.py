"""The section of the immune response to the carriers."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from .base import Day, Fraction, Section, columns, parameters

_FIELD_ONLY = (
    "diffusivity_mm2_per_day", "recruitment_per_day", "half_saturation", "decay_per_day",
    "priming", "priming_exposure_cell_days", "forgetting_per_day",
)  # fmt: skip


class Suppression(Section):
    """A window of immunosuppression (dexamethasone) that takes away a fraction of the response."""

    start_day: Day
    end_day: Day
    fraction: Fraction

    @model_validator(mode="after")
    def _order(self):
        if self.end_day <= self.start_day:
            raise ValueError("end_day must come after start_day")
        return self


class Immune(parameters("_Immune", "immune")):  # type: ignore[misc]
    """A field of effector cells, or the same clearance everywhere."""

    kind: Literal["field", "constant"] = "field"
    suppression: tuple[Suppression, ...] = ()

    @model_validator(mode="after")
    def _used(self):
        fields = type(self).model_fields
        changed = [key for key in _FIELD_ONLY if getattr(self, key) != fields[key].default]
        if self.kind == "constant" and changed:
            raise ValueError(f"kind = 'constant' has no {', '.join(changed)}")
        return self

    def days(self):
        return [(f"suppression[{i}]", one.start_day) for i, one in enumerate(self.suppression)]

    def rows(self):
        return {"suppression": len(self.suppression)}

    def tables(self):
        table = columns(self.suppression, "start_day", "end_day", "fraction")
        return {"immunosuppression": table} if self.suppression else {}
