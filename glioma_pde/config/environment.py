"""Sections of the micro-environment: oxygen, necrosis, vessels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from ..parameters import PARAMETERS
from .base import parameters


class Oxygen(parameters("_Oxygen", "oxygen")):  # type: ignore[misc]
    @model_validator(mode="after")
    def _supply(self):
        if self.blood_mmHg <= self.normal_mmHg:
            raise ValueError("blood_mmHg must be above normal_mmHg, or nothing supplies the tissue")
        return self


class Necrosis(parameters("_Necrosis", "necrosis")):  # type: ignore[misc]
    pass


_WITH_DYNAMICS = ("angiogenesis_per_day", "angiogenesis_below_mmHg")


class Vasculature(parameters("_Vasculature", "vasculature")):  # type: ignore[misc]
    dynamics: Literal["quasi_steady", "dynamic"] = "quasi_steady"

    @model_validator(mode="after")
    def _angiogenesis(self):
        for name in _WITH_DYNAMICS if self.dynamics == "quasi_steady" else ():
            if getattr(self, name) != PARAMETERS[f"vasculature.{name}"].default:
                raise ValueError(f"{name} is used with dynamics = 'dynamic' only")
        return self


def oxygen_rules(parsed: Mapping[str, Any], present: set[str]) -> list[str]:
    """Sentences for what does not go together."""
    problems = []
    if "necrosis" in present and "oxygen" not in present:
        problems.append("necrosis: needs the section [oxygen] (cells die of its lack)")
    oxygen, necrosis, vessels = (parsed.get(name) for name in ("oxygen", "necrosis", "vasculature"))
    if vessels is not None and vessels.dynamics == "dynamic" and "oxygen" not in present:
        problems.append("vasculature.dynamics: 'dynamic' needs the section [oxygen] (angiogenesis follows its lack)")
    if oxygen is not None and necrosis is not None and necrosis.below_mmHg >= oxygen.normal_mmHg:
        problems.append(
            f"necrosis.below_mmHg: must be under oxygen.normal_mmHg = {oxygen.normal_mmHg:g}, or tumour cells die in "
            "normal tissue"
        )
    return problems
