"""Sections of a published study: what it reports, how the parameters of its arms were chosen, and what is varied."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..parameters import PARAMETERS
from .base import Day, Line, Paragraph, Section, nearest

ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]
Quantity = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
Value = Annotated[float, Field(ge=-1e15, le=1e15)]
Path = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*(\.[a-zA-Z_][a-zA-Z0-9_]*)*$", max_length=100)]


_DOTTED = re.compile(r"[a-zA-Z_]\w*(\.[a-zA-Z_]\w*)+")


class Measure(Section):
    """A number that comes out of arms.

    ``quantity`` is an observable, taken on ``day``, as its mean over ``between`` or as its ``peak``, or an entry of the
    run's summary. With ``against`` the arm is compared: ``change`` x/y − 1, ``ratio`` x/y, ``difference`` x − y. ``power``
    applies to x/y: 2/3 makes the ratio of areas from that of volumes.
    """

    arm: ArmName
    against: ArmName | None = None
    quantity: Quantity = "burden_cells"
    form: Literal["value", "change", "ratio", "difference"] | None = None
    day: Day | None = None
    between: tuple[Day, Day] | None = None
    peak: bool = False
    power: Annotated[float, Field(gt=0, le=3)] = 1.0

    @model_validator(mode="after")
    def _sense(self):
        if (self.day is not None) + (self.between is not None) + self.peak > 1:
            raise ValueError("give one of day, between and peak")
        if self.between is not None and self.between[0] >= self.between[1]:
            raise ValueError("between must be two days in order")
        if (self.against is None) != (self.kind_of == "value"):
            raise ValueError("against goes with form = 'change', 'ratio' or 'difference'")
        if self.power != 1.0 and self.kind_of not in ("change", "ratio"):
            raise ValueError("power goes with form = 'change' or 'ratio'")
        return self

    @property
    def kind_of(self) -> str:
        """The form, where none is given a change against another arm or the value itself."""
        return self.form or ("value" if self.against is None else "change")

    @property
    def in_time(self) -> bool:
        """Whether it is taken from a course, not from the summary."""
        return self.day is not None or self.between is not None or self.peak

    def compared(self, x: Any, y: Any) -> Any:
        """x, of ``arm``, against y, of ``against``."""
        if self.kind_of == "difference":
            return x - y
        ratio = (x / y) ** self.power
        return ratio - 1.0 if self.kind_of == "change" else ratio

    def last_day(self) -> float:
        return max(self.day or 0.0, *(self.between or (0.0,)))


class Published(Measure):
    """A published number and what it is taken for.

    Attributes:
        kind: ``target``: within [low, high]; ``order_of_magnitude``: within a factor √10; ``at_least``, ``at_most``: a bound.
        role: ``fitted``: parameters were chosen so that it comes out; ``predicted``: nothing was; ``control``: what must
            not happen; ``by construction``: the model leaves no other outcome; ``independent``: another computation of the
            same model, not an experiment.
        note: what was measured, and where the range comes from.
    """

    what: Line
    value: Value
    low: Value | None = None
    high: Value | None = None
    kind: Literal["target", "order_of_magnitude", "at_least", "at_most"] = "target"
    role: Literal["fitted", "predicted", "control", "by construction", "independent"] = "predicted"
    unit: Annotated[str, Field(max_length=20)] = ""
    note: Line = ""

    @model_validator(mode="after")
    def _range(self):
        if self.kind == "target":
            if self.low is None or self.high is None or not self.low <= self.value <= self.high:
                raise ValueError("a target needs low and high around its value")
        elif self.low is not None or self.high is not None:
            raise ValueError("low and high belong to kind = 'target'")
        if self.kind == "order_of_magnitude" and self.value <= 0:
            raise ValueError("an order of magnitude needs a positive value")
        return self

    def range(self) -> tuple[float, float]:
        """What counts as agreement; infinite where it is open."""
        if self.kind == "order_of_magnitude":
            return self.value / 10**0.5, self.value * 10**0.5
        if self.kind == "at_least":
            return self.value, float("inf")
        if self.kind == "at_most":
            return float("-inf"), self.value
        assert self.low is not None and self.high is not None
        return self.low, self.high


class Choice(Section):
    """How a parameter, or something that is none (a dose, a schedule), came by its value.

    Attributes:
        parameter: a path that some arm has, or words.
        end: where it stands in its range, as seen by the treatment.
        outside: it lies outside the range of the literature; ``why`` then says so.
    """

    parameter: Line
    how: Literal["measured", "recollected", "assumed", "fitted"]
    end: Literal["favourable", "middle", "unfavourable"] = "middle"
    outside: bool = False
    why: Line


class Comparison(Section):
    """A study and the figures that it published.

    Attributes:
        fitted, predicted, fails: in words.
        exposure: the observable that the third panel shows.
    """

    citation: Line
    fitted: Paragraph
    predicted: Paragraph
    fails: Paragraph
    exposure: Quantity | None = None
    published: Annotated[tuple[Published, ...], Field(max_length=40)]
    chosen: Annotated[tuple[Choice, ...], Field(max_length=60)]

    @model_validator(mode="after")
    def _some(self):
        if not (self.published and self.chosen):
            raise ValueError(f"{'chosen' if self.published else 'published'} is empty")
        return self


class Factor(Section):
    """A parameter and the range over which it is varied; without one, that of the parameter table."""

    parameter: Path
    low: Value | None = None
    high: Value | None = None
    scale: Literal["linear", "log"] | None = None
    favourable: Literal["low", "high"] | None = None

    @model_validator(mode="after")
    def _known(self):
        if self.parameter not in PARAMETERS:
            raise ValueError(f"parameter: {self.parameter!r} is not in the table{nearest(self.parameter, PARAMETERS)}")
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high go together")
        if self.low is None and PARAMETERS[self.parameter].spread is None:
            raise ValueError(f"low and high are missing; the table gives no range of {self.parameter}")
        low, high = self.range()
        if not low < high:
            raise ValueError(f"low and high must be in order, not {low:g}, {high:g}")
        if self.scale == "log" and low <= 0:
            raise ValueError("scale = 'log' needs a low above zero")
        return self

    def range(self) -> tuple[float, float]:
        spread = PARAMETERS[self.parameter].spread
        if self.low is not None and self.high is not None:
            return self.low, self.high
        assert spread is not None
        return spread

    @property
    def logarithmic(self) -> bool:
        low, high = self.range()
        return self.scale == "log" or (self.scale is None and low > 0 and high / low >= 5.0)


class Sensitivity(Section):
    """What a number that comes out of arms owes to which parameter.

    Attributes:
        trajectories: r of the method of Morris. levels: p of its grid.
        samples: n of Sobol's indices, a power of two: n (k + 2) points for k factors. 0, or a single factor: no indices.
        set: overrides ``section.key=value`` for this analysis alone, such as coarser cells.
    """

    outcome: Measure
    factors: Annotated[tuple[Factor, ...], Field(max_length=60)]
    trajectories: Annotated[int, Field(ge=2, le=1000)] = 20
    levels: Annotated[int, Field(ge=2, le=64)] = 8
    samples: Annotated[int, Field(ge=0, le=2**16)] = 128
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    batch: Annotated[int, Field(ge=1, le=10000)] = 32
    set: tuple[Line, ...] = ()

    @model_validator(mode="after")
    def _once(self):
        names = [f.parameter for f in self.factors]
        if not names:
            raise ValueError("factors is empty")
        if len(set(names)) < len(names):
            raise ValueError("factors names a parameter twice")
        if self.levels % 2:
            raise ValueError("levels must be even")
        if self.samples == 1 or self.samples & (self.samples - 1):
            raise ValueError("samples must be a power of two, or 0")
        if not self.outcome.day:
            raise ValueError("outcome needs a day after 0")
        return self


def across_arms(arms: Sequence[Any]) -> list[str]:
    """Sentences for arms that a comparison names but the file does not have, for days after their ends, and for parameters
    that no arm has."""
    data, names = arms[0], [arm.arm for arm in arms]  # all have the same study
    problems = []
    measures: list[tuple[str, Measure]] = []
    if data.study is not None:
        measures += [(f"study.published[{i}]", row) for i, row in enumerate(data.study.published)]
    if data.sensitivity is not None:
        measures.append(("sensitivity.outcome", data.sensitivity.outcome))
    last = {arm.arm: arm.time.end_day for arm in arms}
    for path, row in measures:
        for key in ("arm", "against"):
            name = getattr(row, key)
            if name is not None and name not in last:
                problems.append(f"{path}.{key}: there is no arm {name!r}{nearest(name, names)}")
            elif name is not None and row.last_day() > last[name]:
                problems.append(f"{path}: day {row.last_day():g} is after the end of arm {name!r}, day {last[name]:g}")
                break
    for i, choice in enumerate(data.study.chosen if data.study is not None else ()):
        path = choice.parameter
        if _DOTTED.fullmatch(path) and all(at(arm, path) is None for arm in arms):
            problems.append(f"study.chosen[{i}].parameter: no arm has {path!r}{nearest(path, PARAMETERS)}")
    return problems


def at(node: Any, path: str) -> Any:
    """What lies at a path of an arm; ``None`` where nothing does."""
    for part in path.split("."):
        node = getattr(node, part, None)
    return node
