"""Schedules known by name, as (day, dose) from the first day on.

``stupp`` is that of Stupp et al. 2005 as labels of temozolomide give it: 30 fractions of 2 Gy on weekdays; 75 mg/m² daily
for 42 days; after four weeks without, six cycles of 28 days with doses on the first five, 150 mg/m² in the first cycle
and 200 mg/m² in the others.
"""

from __future__ import annotations

from typing import Literal

from .base import Weekday, Weekdays

Regimen = Literal["stupp"]

_FRACTIONS, _FRACTION_GY = 30, 2.0
_CONCOMITANT_DAYS, _CONCOMITANT = 42, 75.0
_BREAK_DAYS, _CYCLE_DAYS, _DOSES_OF_A_CYCLE = 28, 28, 5
_CYCLES = (150.0, 200.0, 200.0, 200.0, 200.0, 200.0)


def radiotherapy(regimen: Regimen, start_day: float, first_weekday: Weekday) -> list[tuple[float, float]]:
    """(day, dose [Gy]); ``start_day`` is a ``first_weekday``."""
    rule = Weekdays(from_day=start_day, count=_FRACTIONS, first_weekday=first_weekday)
    return [(day, _FRACTION_GY) for day in rule.all_days()]


def temozolomide(regimen: Regimen, start_day: float) -> list[tuple[float, float]]:
    """(day, dose [mg/m²])."""
    doses = [(start_day + i, _CONCOMITANT) for i in range(_CONCOMITANT_DAYS)]
    for cycle, dose in enumerate(_CYCLES):
        first = start_day + _CONCOMITANT_DAYS + _BREAK_DAYS + cycle * _CYCLE_DAYS
        doses += [(first + i, dose) for i in range(_DOSES_OF_A_CYCLE)]
    return doses
