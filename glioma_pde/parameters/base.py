"""What is said of one parameter."""

from __future__ import annotations

from dataclasses import dataclass

HUGE = 1e12


@dataclass(frozen=True)
class Parameter:
    """One scalar parameter.

    Attributes:
        low, high: bounds outside which a value is refused; physical limits, wider than any plausible range.
        plausible: what the literature gives, as text for the table.
    """

    symbol: str
    unit: str
    default: float
    low: float
    high: float
    plausible: str
    source: str
    meaning: str
