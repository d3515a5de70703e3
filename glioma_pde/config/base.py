"""What sections of a configuration are made of: types of numbers, fields from the table of parameters."""

from __future__ import annotations

import difflib
import functools
import itertools
import sys
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)  # fmt: skip
from pydantic_core import PydanticKnownError

from ..parameters import PARAMETERS

Point = Annotated[list[float], Field(min_length=1, max_length=3)]
Positive = Annotated[float, Field(gt=0, lt=1e12)]
NonNegative = Annotated[float, Field(ge=0, lt=1e15)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Day = Annotated[float, Field(ge=0, le=1e5)]

MOST_ROWS = 10_000
"""Doses or events of one list, all repeats counted."""

LONGEST_TEXT, LONGEST_PARAGRAPH = 500, 2000


def text_fault(text: Any, longest: int = LONGEST_TEXT) -> str | None:
    """What keeps a value from being a name, a label or a path: none of these survives every file and terminal."""
    if not isinstance(text, str):
        return "must be a string"
    if len(text) > longest:
        return f"must have at most {longest} characters"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text):
        return "must be one line without control characters"
    return None


def _plain(text: str, longest: int = LONGEST_TEXT) -> str:
    if fault := text_fault(text, longest):
        raise ValueError(fault)
    return text


Line = Annotated[str, AfterValidator(_plain)]
"""A name, a label or a path."""

Paragraph = Annotated[str, AfterValidator(lambda text: _plain(text, LONGEST_PARAGRAPH))]
"""Sentences that are wrapped where they are shown."""

_LISTED: TypeAdapter[list[float]] = TypeAdapter(
    list[Annotated[float, Field(ge=0, lt=1e15, allow_inf_nan=False)]],
)


def _one_or_each(value: Any) -> float | list[float]:
    if isinstance(value, list | tuple):
        return _LISTED.validate_python(value)
    try:
        return _LISTED.validate_python([value])[0]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise PydanticKnownError(first["type"], first.get("ctx")) from None  # type: ignore[arg-type]


Amounts = Annotated[float | list[float], PlainValidator(_one_or_each)]
"""The same amount each time, or a list with one for each time; see `Repeated.amounts`."""


def at_most(most: float, unit: str) -> AfterValidator:
    """A bound for `Amounts`."""

    def check(amounts: float | list[float]) -> float | list[float]:
        if max(amounts if isinstance(amounts, list) else [amounts], default=0.0) > most:
            raise ValueError(f"should be less than or equal to {most:g} {unit}")
        return amounts

    return AfterValidator(check)


STRICT = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


def with_kind(data: Any, key: str, default: str) -> Any:
    """The table ``data`` with the default ``kind`` of its table ``key`` filled in."""
    if isinstance(data, dict) and isinstance(data.get(key), dict) and "kind" not in data[key]:
        return {**data, key: {"kind": default, **data[key]}}
    return data


class Image(NamedTuple):
    """An image in the space of the tissue that a section reads. What counts is its values over ``scale``.

    Attributes:
        key: path in the section, for messages.
        high: largest that these may be; the least is 0.
    """

    key: str
    path: str
    scale: float
    high: float


class Section(BaseModel):
    """A table of a configuration. Override what applies; paths are relative to the section."""

    model_config = STRICT

    def days(self) -> list[tuple[str, float]]:
        """Days that must come before the end of the run, with their paths."""
        return []

    def places(self) -> list[tuple[str, list[float]]]:
        """Points that must lie in the tissue [mm], with their paths."""
        return []

    def images(self) -> dict[str, Image]:
        """Images it reads, under plain names."""
        return {}

    def files(self) -> dict[str, str]:
        """Files it reads, by their keys in the section."""
        return {image.key: image.path for image in self.images().values()}

    def aligned(self) -> dict[str, str]:
        """Those of its files that must have the voxels of the tissue."""
        return self.files()

    def stored(self) -> tuple[str, ...]:
        """Fields that it adds to every stored frame."""
        return ()

    def rows(self) -> dict[str, int]:
        """Lengths of its lists of doses or events: arms of equal lengths share one compiled program."""
        return {}

    def tables(self) -> dict[str, dict[str, list[Any]]]:
        """What is given when, as named tables of columns, for the run file."""
        return {}


def columns(rows: Iterable[Any], *names: str) -> dict[str, list[Any]]:
    """Attributes of the rows, as columns."""
    rows = list(rows)
    return {n: [getattr(row, n) for row in rows] for n in names}


def parameters(name: str, prefix: str, base: type[Any] = Section) -> type[Any]:
    """A section with one field for each parameter directly under ``prefix``, bounds and default included.

    Args:
        base: what it has besides.
    """
    fields: dict[str, Any] = {}
    for key, p in PARAMETERS.items():
        head, _, leaf = key.rpartition(".")
        if head == prefix:
            fields[leaf] = (
                Annotated[float, Field(ge=p.low, le=p.high, description=f"{p.meaning} [{p.unit}]")],
                p.default,
            )
    return create_model(name, __base__=base, **fields)


def pick(name: str, prefix: str, leaves: Iterable[str], **extra: Any) -> type[Section]:
    """A section with some of the parameters under ``prefix``."""
    whole = parameters(name, prefix)
    fields: dict[str, Any] = {k: (f.annotation, f) for k, f in whole.model_fields.items() if k in set(leaves)}
    where = sys._getframe(1).f_globals["__name__"]  # pickle looks a class up in the module that names it
    return create_model(name, __base__=Section, __module__=where, **extra, **fields)


class Every(BaseModel):
    """A rule for repeats: ``count`` times, ``days`` apart, from ``from_day`` on."""

    model_config = STRICT

    from_day: Day = 0.0
    days: Positive
    count: Annotated[int, Field(ge=1, le=1000)]

    def all_days(self) -> list[float]:
        return [self.from_day + i * self.days for i in range(self.count)]


Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
WEEK: tuple[Weekday, ...] = get_args(Weekday)


class Weekdays(BaseModel):
    """A rule for repeats: ``count`` times on certain days of the week, from the first of them that is not before
    ``from_day``.

    Attributes:
        first_weekday: which day of the week ``from_day`` is.
        on: the days of the week; weekends are skipped by default.
        hours: times on each of these days, after that of ``from_day`` [h]; several for several times a day.
    """

    model_config = STRICT

    from_day: Day = 0.0
    count: Annotated[int, Field(ge=1, le=1000)]
    first_weekday: Weekday = "monday"
    on: Annotated[list[Weekday], Field(min_length=1)] = list(WEEK[:5])
    hours: Annotated[list[Annotated[float, Field(ge=0, lt=24)]], Field(min_length=1)] = [0.0]

    @model_validator(mode="after")
    def _once(self):
        if len(set(self.hours)) < len(self.hours):
            raise ValueError("hours names a time twice")
        return self

    def all_days(self) -> list[float]:
        first = WEEK.index(self.first_weekday)
        days = (k for k in itertools.count() if WEEK[(first + k) % 7] in self.on)
        times = (self.from_day + k + hour / 24.0 for k in days for hour in sorted(self.hours))
        return list(itertools.islice(times, self.count))


class Repeated(BaseModel):
    """Something on given ``days``, or by one of the rules ``every`` and ``weekdays``.

    Attributes:
        amounts: names of the attributes that may be a list with one amount for each time.
    """

    model_config = STRICT
    amounts: ClassVar[tuple[str, ...]] = ()

    days: list[Day] | None = None
    every: Every | None = None
    weekdays: Weekdays | None = None

    @model_validator(mode="after")
    def _when(self):
        if sum(rule is not None for rule in (self.days, self.every, self.weekdays)) != 1:
            raise ValueError(
                "give either days = [...], or every = { from_day, days, count }, or weekdays = { from_day, count }"
            )
        if self.days is not None and not self.days:
            raise ValueError("days is empty")
        for name in self.amounts:
            given, times = getattr(self, name), len(self._days())
            if isinstance(given, list) and len(given) != times:
                raise ValueError(f"{name} lists {len(given)} amounts for {times} times")
        return self

    def _days(self) -> list[float]:
        """In the order in which they are given."""
        rule = self.every or self.weekdays
        return list(self.days or ()) if rule is None else rule.all_days()

    def all_days(self) -> list[float]:
        return sorted(self._days())

    def each(self, name: str) -> list[tuple[float, float]]:
        """(day, amount) in the order of the days; ``name`` is one of the `amounts`."""
        days, given = self._days(), getattr(self, name)
        listed = given if isinstance(given, list) else [given] * len(days)
        return sorted(zip(days, listed, strict=True))


def nearest(word: str, known: Iterable[str]) -> str:
    """What was probably meant by a misspelt word, as the end of a sentence."""
    return _nearest(word[:100], tuple(known))


@functools.lru_cache(maxsize=10_000)
def _nearest(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if known and len(known) <= 16 else ""
