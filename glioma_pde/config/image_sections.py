"""Section of a fit to images: which images of which day there are, and what is predicted."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, model_validator

from .base import Day, Line, Positive, Section


class ScanFiles(Section):
    """Images of one day, NIfTI: segmentations, whose voxels above 0.5 are inside, and a map of ADC."""

    day: Day
    t1gd: Line | None = None
    flair: Line | None = None
    adc: Line | None = None

    @model_validator(mode="after")
    def _something(self):
        if self.t1gd is None and self.flair is None:
            raise ValueError("give t1gd, flair, or both; adc counts within them")
        return self

    def paths(self) -> dict[str, str]:
        return {n: p for n in ("t1gd", "flair", "adc") if (p := getattr(self, n)) is not None}


class Diffusion(Section):
    """u = (water − ADC)/(water − lowest), in mm²/s, of maps whose values are multiplied by ``unit_mm2_per_s``.

    ``lowest`` is that of all voxels within the segmentations if it is not given.
    """

    unit_mm2_per_s: Positive = 1.0
    water_mm2_per_s: Positive = 2.5e-3
    lowest_mm2_per_s: Positive | None = None
    sd: Annotated[float, Field(gt=0, le=10)] = 0.1

    @model_validator(mode="after")
    def _order(self):
        if self.lowest_mm2_per_s is not None and self.lowest_mm2_per_s >= self.water_mm2_per_s:
            raise ValueError("lowest_mm2_per_s must be below water_mm2_per_s")
        return self


class Images(Section):
    """What was seen, and on which days after the last scan the tumour is predicted."""

    scans: Annotated[tuple[ScanFiles, ...], Field(min_length=1, max_length=50)]
    ahead_days: Annotated[tuple[Positive, ...], Field(max_length=50)] = ()
    adc: Diffusion = Diffusion()
    max_steps: Annotated[int, Field(ge=1, le=1000)] = 40

    @model_validator(mode="after")
    def _order(self):
        days = [scan.day for scan in self.scans]
        if twice := sorted({d for d in days if days.count(d) > 1}):
            raise ValueError(f"day {', '.join(f'{d:g}' for d in twice)} has several scans")
        if list(self.ahead_days) != sorted(set(self.ahead_days)):
            raise ValueError("ahead_days must increase")
        return self

    @property
    def first_day(self) -> float:
        return min(scan.day for scan in self.scans)

    @property
    def last_day(self) -> float:
        return max(scan.day for scan in self.scans)


IMAGE_SECTIONS: dict[str, Any] = {"images": TypeAdapter(Images)}
