"""Section of a fit to images: which images of which day there are, and what is predicted."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, model_validator

from .base import Day, Line, Positive, Section


class Files(Section):
    """Images, NIfTI: segmentations, whose voxels above 0.5 are inside, and a map of ADC."""

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


class ScanFiles(Files):
    """Those of one day."""

    day: Day


class Series(Files):
    """The same of several days: images of four axes, with a volume for each of ``on_days`` in their order."""

    on_days: Annotated[tuple[Day, ...], Field(min_length=2, max_length=50)]


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

    scans: Annotated[tuple[ScanFiles, ...], Field(max_length=50)] = ()
    series: Series | None = None
    ahead_days: Annotated[tuple[Positive, ...], Field(max_length=50)] = ()
    adc: Diffusion = Diffusion()
    max_steps: Annotated[int, Field(ge=1, le=1000)] = 40

    @model_validator(mode="after")
    def _order(self):
        days = self.seen_days()
        if not days:
            raise ValueError("give scans, each with its files, or series, files with a volume for each day")
        if twice := sorted({d for d in days if days.count(d) > 1}):
            raise ValueError(f"day {', '.join(f'{d:g}' for d in twice)} has several scans")
        if list(self.ahead_days) != sorted(set(self.ahead_days)):
            raise ValueError("ahead_days must increase")
        return self

    def seen_days(self) -> list[float]:
        """Of the scans, then of the series."""
        return [scan.day for scan in self.scans] + ([] if self.series is None else list(self.series.on_days))

    def files(self) -> dict[str, str]:
        """By their keys in the section."""
        named = {f"scans[{i}].{n}": p for i, scan in enumerate(self.scans) for n, p in scan.paths().items()}
        return named | ({} if self.series is None else {f"series.{n}": p for n, p in self.series.paths().items()})

    @property
    def first_day(self) -> float:
        return min(self.seen_days())

    @property
    def last_day(self) -> float:
        return max(self.seen_days())


IMAGE_SECTIONS: dict[str, Any] = {"images": TypeAdapter(Images)}
