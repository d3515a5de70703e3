"""What is said of one parameter."""

from __future__ import annotations

from dataclasses import dataclass
from re import compile as pattern

HUGE = 1e12

_NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
_SPAN = pattern(rf"(×|≤ |D_w/D_g )?({_NUMBER})(?:–({_NUMBER}))?")


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

    @property
    def spread(self) -> tuple[float, float] | None:
        """The first range that ``plausible`` gives: from–to, ×from–to of the default, or ≤ to."""
        for sign, first, last in _SPAN.findall(self.plausible):
            if sign == "≤ ":
                return 0.0, float(first)
            if last and sign != "D_w/D_g ":
                unit = self.default if sign == "×" else 1.0
                return float(first) * unit, float(last) * unit
        return None
