"""What sections of a configuration are made of: types of numbers, fields from the table of parameters."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from ..parameters import PARAMETERS

Point = Annotated[list[float], Field(min_length=1, max_length=3)]
Positive = Annotated[float, Field(gt=0, lt=1e12)]
NonNegative = Annotated[float, Field(ge=0, lt=1e15)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Day = Annotated[float, Field(ge=0, le=1e5)]

LONGEST_TEXT = 500


def text_fault(text: Any) -> str | None:
    """What keeps a value from being a name, a label or a path: none of these survives every file and terminal."""
    if not isinstance(text, str):
        return "must be a string"
    if len(text) > LONGEST_TEXT:
        return f"must have at most {LONGEST_TEXT} characters"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text):
        return "must be one line without control characters"
    return None


def _plain(text: str) -> str:
    if fault := text_fault(text):
        raise ValueError(fault)
    return text


Line = Annotated[str, AfterValidator(_plain)]
"""A name, a label or a path."""

STRICT = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


def with_kind(data: Any, key: str, default: str) -> Any:
    """The table ``data`` with the default ``kind`` of its table ``key`` filled in."""
    if isinstance(data, dict) and isinstance(data.get(key), dict) and "kind" not in data[key]:
        return {**data, key: {"kind": default, **data[key]}}
    return data


class Section(BaseModel):
    """A table of a configuration. Override what applies; paths are relative to the section."""

    model_config = STRICT

    def days(self) -> list[tuple[str, float]]:
        """Days that must come before the end of the run, with their paths."""
        return []

    def places(self) -> list[tuple[str, list[float]]]:
        """Points that must lie in the tissue [mm], with their paths."""
        return []

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


def parameters(name: str, prefix: str) -> type[Section]:
    """A section with one field for each parameter directly under ``prefix``, bounds and default included."""
    fields: dict[str, Any] = {}
    for key, p in PARAMETERS.items():
        head, _, leaf = key.rpartition(".")
        if head == prefix:
            fields[leaf] = (
                Annotated[float, Field(ge=p.low, le=p.high, description=f"{p.meaning} [{p.unit}]")],
                p.default,
            )
    return create_model(name, __base__=Section, **fields)


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


class Repeated(BaseModel):
    """Something on given ``days``, or by the rule ``every``."""

    model_config = STRICT

    days: list[Day] | None = None
    every: Every | None = None

    @model_validator(mode="after")
    def _when(self):
        if (self.days is None) == (self.every is None):
            raise ValueError("give either days = [...] or every = { from_day, days, count }")
        if self.days is not None and not self.days:
            raise ValueError("days is empty")
        return self

    def all_days(self) -> list[float]:
        if self.days is not None:
            return sorted(self.days)
        assert self.every is not None
        return [self.every.from_day + i * self.every.days for i in range(self.every.count)]
