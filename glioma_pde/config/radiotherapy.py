"""The section of radiotherapy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, model_validator

from . import regimens
from .base import STRICT, Amounts, Day, Image, Positive, Repeated, Weekday, at_most, parameters

HOTTEST = 10.0
"""Times the prescribed dose; a map with more is most likely in another unit."""


class DoseMap(BaseModel):
    """Dose over the anatomy, from an image in the space of the tissue.

    Attributes:
        prescription: the image's value where the prescribed dose is given: 60 for a plan of 60 Gy in Gy, 1 for doses
            relative to the prescribed one.
    """

    model_config = STRICT

    path: str
    prescription: Positive


class Fractions(Repeated):
    """Fractions of the same dose, or of one dose for each; with a dose map of their own, if one is given."""

    amounts = ("dose_gy",)

    dose_gy: Annotated[Amounts, at_most(1e3, "Gy")]
    dose_map: DoseMap | None = None


class Radiotherapy(parameters("_Radiotherapy", "radiotherapy")):  # type: ignore[misc]
    """Fractions of external beam radiation, by a ``schedule`` with a name, or listed, or both."""

    survival: Literal["linear_quadratic", "rockne"] = "linear_quadratic"
    schedule: regimens.Regimen | None = None
    start_day: Day | None = None
    first_weekday: Weekday | None = None
    dose_map: DoseMap | None = None
    fractions: tuple[Fractions, ...] = ()

    @model_validator(mode="after")
    def _given(self):
        if self.schedule is None and not self.fractions:
            raise ValueError("has no fractions; give schedule = 'stupp' with start_day, or fractions = [...]")
        if (self.schedule is None) != (self.start_day is None):
            raise ValueError("schedule and start_day go together")
        if self.schedule is None and self.first_weekday is not None:
            raise ValueError("first_weekday belongs to schedule; a rule of fractions has its own")
        return self

    def courses(self) -> list[tuple[DoseMap | None, list[tuple[float, float]]]]:
        """For each dose map: (day, dose [Gy]) in order."""
        found: list[tuple[DoseMap | None, list[tuple[float, float]]]] = []
        for map_, rows in self._given_rows():
            same = next((course for course in found if course[0] == map_), None)
            if same is None:
                found.append((map_, rows))
            else:
                same[1].extend(rows)
        return [(map_, sorted(rows)) for map_, rows in found]

    def _given_rows(self) -> Iterator[tuple[DoseMap | None, list[tuple[float, float]]]]:
        if self.schedule is not None and self.start_day is not None:
            yield self.dose_map, regimens.radiotherapy(self.schedule, self.start_day, self.first_weekday or "monday")
        for one in self.fractions:
            yield one.dose_map or self.dose_map, one.each("dose_gy")

    def days(self):
        # a schedule that is known by name may reach beyond the run
        named = [] if self.start_day is None else [("start_day", self.start_day)]
        return named + [(f"fractions[{i}]", max(one.all_days())) for i, one in enumerate(self.fractions)]

    def images(self):
        maps = [
            ("dose_map", self.dose_map),
            *((f"fractions[{i}].dose_map", f.dose_map) for i, f in enumerate(self.fractions)),
        ]
        keys: dict[DoseMap, str] = {}
        for key, map_ in maps:
            if map_ is not None:
                keys.setdefault(map_, f"{key}.path")
        return {
            name: Image(keys[map_], map_.path, map_.prescription, HOTTEST) for map_, name in self.map_names().items()
        }

    def map_names(self) -> dict[DoseMap, str]:
        """A name for each dose map in use."""
        used = [map_ for map_, _ in self.courses() if map_ is not None]
        return {map_: f"dose_map_{k + 1}" if k else "dose_map" for k, map_ in enumerate(used)}

    def rows(self):
        return {self.group(map_): len(rows) for map_, rows in self.courses()}

    def group(self, map_: DoseMap | None) -> str:
        """Of fractions that share a program."""
        return "fractions" if map_ is None else f"fractions:{self.map_names()[map_]}"

    def tables(self):
        rows = sorted((day, dose, k) for k, (_, course) in enumerate(self.courses()) for day, dose in course)
        day, dose, course = zip(*rows, strict=True)
        return {"radiotherapy": {"day": list(day), "dose_gy": list(dose), "course": list(course)}}
