"""Sections of a calibration: what is measured, what is free, what is done with it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from .base import Day, Line, Positive, Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$", max_length=100)]
Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Law = Literal["logistic", "gompertz", "exponential"]


class Fit(Section):
    """What is fitted to what, and how.

    ``geometry``: ``well_mixed`` is a single cell, which needs no [tissue] and no tumour.initial; ``configured`` is the
    tissue of the file. A population has a search of its own: of the keys that say how, it reads ``starts`` and ``seed``.
    """

    data: Line
    geometry: Literal["well_mixed", "configured"] = "configured"
    starts: Annotated[int, Field(ge=1, le=10000)] = 16
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    sampling: Literal["latin_hypercube", "sobol"] = "latin_hypercube"
    method: Literal["auto", "lm", "lbfgs"] = "auto"
    tolerance: Annotated[float, Field(ge=1e-14, le=1e-2)] | None = None
    max_steps: Annotated[int, Field(ge=1, le=100000)] = 100
    level: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    profiles: bool = True
    draws: Annotated[int, Field(ge=10, le=100000)] = 200
    laws: tuple[Law, ...] = ()
    hold_out_after_day: Day | None = None
    hold_out_subjects: tuple[Line, ...] = ()
    given_first: Annotated[int, Field(ge=0, le=1000)] = 4
    endpoint: Positive | None = None

    @model_validator(mode="after")
    def _once(self):
        if len(set(self.laws)) != len(self.laws):
            raise ValueError("laws names one law twice")
        return self


class Noise(Section):
    """σ = a | b|f| | √(a² + b²f²) | a, on logarithms; a and b are numbers or names of parameters."""

    kind: Literal["additive", "proportional", "combined", "lognormal"] = "lognormal"
    a: Positive | Name | None = None
    b: Positive | Name | None = None
    degrees: Annotated[float, Field(ge=1, le=1e6)] | None = None

    @model_validator(mode="after")
    def _used(self):
        used = {"additive": "a", "lognormal": "a", "proportional": "b", "combined": "ab"}[self.kind]
        for name in "ab":
            if (getattr(self, name) is not None) != (name in used):
                raise ValueError(f"noise of kind {self.kind} takes {' and '.join(used)}")
        return self


class Observable(Section):
    """offset + scale · quantity; of confluence offset + ⟨1 − e^{−scale · u}⟩."""

    quantity: Literal[
        "burden", "volume", "fraction", "confluence", "cell_index", "bioluminescence", "threshold_volume",
        "threshold_radius", "carriers",
    ]  # fmt: skip
    unit: Line | None = None
    scale: Number | Name = 1.0
    offset: Number | Name = 0.0
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    width: Annotated[float, Field(gt=0, le=1)] | None = None
    noise: Noise

    @model_validator(mode="after")
    def _threshold(self):
        if (self.threshold is not None) != self.quantity.startswith("threshold"):
            raise ValueError("threshold belongs to the quantities threshold_volume and threshold_radius, which need it")
        return self

    @model_validator(mode="after")
    def _signal(self):
        if self.quantity in ("cell_index", "bioluminescence") and "scale" not in self.model_fields_set:
            raise ValueError(
                f"{self.quantity} is a signal, not cells: give scale, best as the name of a free parameter"
            )
        return self


class Prior(Section):
    """A normal distribution of the parameter, or of its logarithm (natural) where the scale is logarithmic."""

    centre: Number
    width: Positive


class FreeParameter(Section):
    bounds: tuple[Number, Number]
    scale: Literal["log", "linear"] = "log"
    level: Literal["shared", "arm", "subject"] = "shared"
    population: bool = False
    prior: Prior | None = None
    start: Number | None = None

    @model_validator(mode="after")
    def _sense(self):
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"bounds must be in order, not [{low:g}, {high:g}]")
        if self.scale == "log" and low <= 0:
            raise ValueError(f"a logarithmic scale needs a positive lower bound, not {low:g}")
        if self.start is not None and not low < self.start < high:
            raise ValueError(f"the start {self.start:g} lies outside the bounds [{low:g}, {high:g}]")
        if self.population and self.level != "subject":
            raise ValueError("a population distribution needs level = 'subject'")
        if self.population and self.prior is not None:
            raise ValueError("a parameter with a population distribution takes no prior")
        if self.prior is not None and self.scale == "log" and self.prior.centre <= 0:
            raise ValueError("a prior on a logarithmic scale needs a positive centre")
        return self


class Wanted(Section):
    """A prediction: an observable in an arm on a day."""

    arm: Line
    observable: Name
    day: Day


class Design(Section):
    """Which further measurement would narrow a prediction most.

    ``subject``: whose parameters count; by default the first one of the data in the prediction's arm. ``on_days``, ``arms``
    and ``observables``: what could be measured; by default every arm and observable.
    """

    predict: Wanted
    on_days: Annotated[tuple[Day, ...], Field(min_length=1, max_length=200)]
    subject: Line | None = None
    arms: tuple[Line, ...] = ()
    observables: tuple[Name, ...] = ()


FIT_SECTIONS: dict[str, Any] = {
    "fit": TypeAdapter(Fit),
    "observables": TypeAdapter(Annotated[dict[Name, Observable], Field(min_length=1, max_length=50)]),
    "parameters": TypeAdapter(Annotated[dict[Name, FreeParameter], Field(min_length=1, max_length=200)]),
    "derived": TypeAdapter(Annotated[dict[Name, Line], Field(max_length=200)]),
    "design": TypeAdapter(Design),
    "fixed": TypeAdapter(Annotated[dict[Name, Number | Literal["first"]], Field(max_length=200)]),
}
"""``fixed`` parameters have a number, or ``"first"``: each subject's first measurement."""
