"""Measurements in long form, one row each, and everything that may be wrong with them, with row numbers.

Columns, with PEtab's names for the same things in brackets: ``subject``, ``arm`` [simulationConditionId] (not needed where
there is one alone), ``time`` [time], ``observable`` [observableId], ``value`` [measurement], and optionally ``sd``
[noiseParameters] and ``censoring`` (``left``: the value lies below the number given, ``right``: above it). Lines that begin
with ``#`` are comments.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ConfigError
from .noise import LEFT, RIGHT, Noise

_COLUMNS = {
    "subject": ("subject",),
    "arm": ("arm", "simulationConditionId"),
    "time": ("time", "time_days"),
    "observable": ("observable", "observableId"),
    "value": ("value", "measurement"),
    "sd": ("sd", "noiseParameters"),
    "censoring": ("censoring",),
}
_CENSORING = {"": 0, "none": 0, "left": LEFT, "right": RIGHT}
_MOST = 40  # problems that are told one by one


@dataclass(frozen=True)
class Measurements:
    """The table, sorted by subject, observable and time.

    Attributes:
        subject, arm, observable: names, ``(M,)``.
        time: [day]. value: in the observable's unit.
        sd: NaN where none is given. censoring: 0, or `noise.LEFT`, `noise.RIGHT`.
        row: of the file, from 1 for its first line.
    """

    subject: np.ndarray
    arm: np.ndarray
    time: np.ndarray
    observable: np.ndarray
    value: np.ndarray
    sd: np.ndarray
    censoring: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    @property
    def subjects(self) -> tuple[str, ...]:
        """In the order of the file."""
        first = {str(s): r for s, r in sorted(zip(self.subject, self.row, strict=True), key=lambda p: -p[1])}
        return tuple(sorted(first, key=lambda s: first[s]))

    def arm_of(self, subject: str) -> str:
        return str(self.arm[self.subject == subject][0])

    def where(self, keep: np.ndarray) -> Measurements:
        """The rows that ``keep``, a boolean mask, names."""
        return replace(self, **{n: getattr(self, n)[keep] for n in self.__dataclass_fields__})

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]], numbers: Sequence[int] | None = None) -> Measurements:
        """From rows with the keys of this module's columns.

        Raises:
            ConfigError: naming every row that cannot be read.
        """
        problems: list[str] = []
        found: dict[str, list] = {name: [] for name in cls.__dataclass_fields__}
        for k, row in enumerate(rows):
            number = numbers[k] if numbers is not None else k + 1
            parsed = _parse(row, number, problems)
            if parsed is not None:
                for name, item in parsed.items():
                    found[name].append(item)
        if not rows:
            problems.append("the table holds no measurement")
        if problems:
            raise ConfigError(_first(problems), "measurements")
        table = cls(**{n: np.asarray(v) for n, v in found.items()})
        return table.where(np.lexsort((table.time, table.observable, table.subject)))

    @classmethod
    def parse(cls, text: str, where: str = "measurements", arms: Sequence[str] = ()) -> Measurements:
        """From the text of a CSV file.

        Args:
            arms: that the subjects may be in; where there is one alone, the table needs no column that names it.

        Raises:
            ConfigError: naming every column that is missing and every row that cannot be read.
        """
        lines = text.splitlines()
        kept = [(k + 1, line) for k, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
        reader = csv.reader((line for _, line in kept), strict=True)
        table, numbers, begun = [], [], 0
        try:
            for cells in reader:
                table.append(cells)
                numbers.append(kept[begun][0])
                begun = reader.line_num
        except csv.Error as error:
            text = f"row {kept[begun][0]}: cannot be read as CSV ({error}); is a quotation mark without its partner?"
            raise ConfigError([text], where) from None
        if not table:
            raise ConfigError(["the file holds no table"], where)
        head = [h.strip().lstrip("\ufeff") for h in table[0]]
        columns = {ours: next((head.index(n) for n in names if n in head), None) for ours, names in _COLUMNS.items()}
        missing = [n for n in ("subject", "time", "observable", "value") if columns[n] is None]
        unknown = [h for h in head if not any(h in names for names in _COLUMNS.values())]
        problems = [f"column {n!r} is missing" for n in missing]
        if columns["arm"] is None and len(arms) > 1:
            problems.append(f"column 'arm' is missing; the configuration has the arms {', '.join(arms)}")
        problems += [f"column {h!r} is unknown; known are {', '.join(_COLUMNS)}" for h in unknown]
        problems += [
            f"row {number}: has {len(row)} cells, the head has {len(head)}"
            for number, row in zip(numbers[1:], table[1:], strict=True)
            if len(row) != len(head)
        ]
        if problems:
            raise ConfigError(_first(problems), where)
        same = {"arm": arms[0]} if columns["arm"] is None and arms else {}
        rows = [same | {n: row[i] for n, i in columns.items() if i is not None} for row in table[1:]]
        try:
            return cls.of(rows, numbers[1:])
        except ConfigError as error:
            raise ConfigError(error.problems, where) from None


def check(
    data: Measurements,
    observables: Sequence[str],
    noises: Sequence[Noise],
    arms: Sequence[str],
    window: tuple[float, float],
    fewest: int = 2,
) -> list[str]:
    """One sentence for everything that makes the measurements useless for a fit.

    Args:
        noises: of each observable.
        window: first and last day that a measurement may have.
        fewest: measurements that a subject needs.
    """
    problems: list[tuple[int, str]] = []
    noise = dict(zip(observables, noises, strict=True))
    for i, row in enumerate(data.row):
        name, arm, time, value = str(data.observable[i]), str(data.arm[i]), data.time[i], data.value[i]
        if name not in noise:
            problems.append((row, f"row {row}: unknown observable {name!r}; known are {', '.join(observables)}"))
        elif noise[name].logarithmic and value <= 0:
            text = f"row {row}: {name} is {value:g}, but log-normal noise needs a positive value; "
            problems.append((row, text + "give the detection limit with censoring = left"))
        elif noise[name].kind == "proportional" and value == 0:
            problems.append((row, f"row {row}: {name} is 0, at which proportional noise vanishes; use combined noise"))
        if arm not in arms:
            problems.append((row, f"row {row}: unknown arm {arm!r}; the configuration has {', '.join(arms)}"))
        if not window[0] <= time <= window[1]:
            text = f"row {row}: day {time:g} lies outside the simulated days {window[0]:g} to {window[1]:g}"
            problems.append((row, text))
    keys = list(zip(data.subject, data.observable, data.time, strict=True))
    for key, count in Counter(keys).items():
        if count > 1:
            rows = [int(r) for r, k in zip(data.row, keys, strict=True) if k == key]
            text = f"rows {', '.join(map(str, rows))}: subject {str(key[0])!r} has {count} values of {key[1]} on day {key[2]:g}"
            problems.append((rows[0], text))
    for subject in data.subjects:
        mine = data.subject == subject
        if mine.sum() < fewest:
            listed = ", ".join(str(r) for r in data.row[mine])
            text = f"row{'s' if mine.sum() > 1 else ''} {listed}: subject {str(subject)!r} has {mine.sum()} measurement"
            text += f"{'s' if mine.sum() > 1 else ''}; at least {fewest} are needed"
            problems.append((int(data.row[mine][0]), text))
        if len(set(data.arm[mine])) > 1:
            listed = ", ".join(str(r) for r in data.row[mine])
            text = (
                f"rows {listed}: subject {str(subject)!r} is in arms {', '.join(sorted(set(map(str, data.arm[mine]))))}"
            )
            problems.append((int(data.row[mine][0]), text))
    return [text for _, text in sorted(problems, key=lambda p: p[0])]


def _parse(row: Mapping[str, object], number: int, problems: list[str]) -> dict[str, object] | None:
    out: dict[str, object] = {"row": number}
    before = len(problems)
    for name in ("subject", "arm", "observable"):
        text = str(row.get(name, "all" if name == "arm" else "")).strip()
        if not text:
            problems.append(f"row {number}: {name} is empty")
        out[name] = text
    for name in ("time", "value", "sd"):
        text = str(row.get(name, "")).strip()
        if name == "sd" and text.lower() in ("", "nan", "na"):
            out[name] = np.nan
            continue
        try:
            number_ = float(text)
        except ValueError:
            number_ = np.nan
        if not np.isfinite(number_):
            problems.append(f"row {number}: {name} must be a finite number, not {text!r}")
        elif name == "sd" and number_ <= 0:
            problems.append(f"row {number}: sd must be positive, not {text}")
        out[name] = number_
    code = str(row.get("censoring", "")).strip().lower()
    if code not in _CENSORING:
        problems.append(f"row {number}: censoring is {code!r}, not left, right or empty")
    out["censoring"] = _CENSORING.get(code, 0)
    return out if len(problems) == before else None


def _first(problems: list[str]) -> list[str]:
    rest = len(problems) - _MOST
    return problems if rest <= 0 else [*problems[:_MOST], f"and {rest} more"]
