"""Response of a tumour on scans, as a trial would report it.

By the volumetric criteria of RANO 2.0 (Wen et al. 2023): against the volume before treatment a complete response is
its disappearance and a partial response a loss of 65 % or more; progression is a growth of 40 % or more over the
smallest volume so far. Responses count once a scan at least four weeks later confirms them. What the criteria say of
steroids, new lesions and the patient's state is not in the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PARTIAL = -0.65
"""Change against baseline of a partial response (Wen et al. 2023)."""

PROGRESSION = 0.40
"""Change against the smallest volume of progression (Wen et al. 2023)."""

MEASURABLE_MM3 = 524.0
"""Volume of a sphere of 10 mm diameter, the smallest lesion that counts as measurable (Wen et al. 2023)."""

CATEGORIES = {
    "CR": "complete response",
    "PR": "partial response",
    "SD": "stable disease",
    "PD": "progressive disease",
    "NE": "not evaluable",
}


@dataclass(frozen=True)
class Response:
    """What the scans of one course say.

    Attributes:
        days: of the scans [day]; categories: of each scan, the first one being the baseline (``SD``).
        best: best confirmed response, a key of `CATEGORIES`.
        progression_day: first day of a progression that the next scan confirms, or that is seen on the last scan;
            ``inf`` if there is none.
    """

    days: tuple[float, ...]
    categories: tuple[str, ...]
    best: str
    progression_day: float


def rano(days: Sequence[float], volumes_mm3: Sequence[float], confirm_days: float = 28.0) -> Response:
    """Categories of each scan, confirmed best response and day of progression.

    Args:
        days: of the scans, increasing; the first one is the baseline.
        volumes_mm3: tumour volume on each [mm³].
        confirm_days: how much later a scan must be to confirm a response or a progression.

    Raises:
        ValueError: if there are no scans, or days and volumes do not match.
    """
    t, v = np.asarray(days, float), np.asarray(volumes_mm3, float)
    if t.ndim != 1 or t.shape != v.shape or t.size == 0 or np.any(np.diff(t) <= 0):
        raise ValueError("Scans need increasing days and one volume each.")
    base = float(v[0])
    if base < MEASURABLE_MM3:
        return Response(tuple(t), ("NE",) * t.size, "NE", float("inf"))
    categories = ["SD"]
    smallest = base
    for volume in v[1:]:
        # a residue too small to be measured that grows is no progression before it is measurable again
        grown = volume >= (1.0 + PROGRESSION) * smallest and volume >= MEASURABLE_MM3
        if grown:
            categories.append("PD")
        elif volume == 0:
            categories.append("CR")
        else:
            categories.append("PR" if volume <= (1.0 + PARTIAL) * base else "SD")
        smallest = min(smallest, float(volume))
    first = _progression(t, categories, confirm_days)
    seen = [c for day, c in zip(t, categories, strict=True) if day < first]
    best = next((c for c in ("CR", "PR") if _confirmed(t, categories, c, first, confirm_days)), None)
    if best is None:
        best = "SD" if len(seen) > 1 else ("PD" if np.isfinite(first) else "SD")
    return Response(tuple(t), tuple(categories), best, first)


def _progression(days: np.ndarray, categories: list[str], confirm_days: float) -> float:
    """Progression that some later scan confirms with no other category in between, or that has no later scan."""
    for i, category in enumerate(categories):
        if category != "PD":
            continue
        for day, later in zip(days[i + 1 :], categories[i + 1 :], strict=True):
            if later != "PD":
                break
            if day - days[i] >= confirm_days - 1e-9:
                return float(days[i])
        else:
            return float(days[i])
    return float("inf")


def _confirmed(days: np.ndarray, categories: list[str], wanted: str, before: float, confirm_days: float) -> bool:
    """Whether a category, or a better one, is met again at least ``confirm_days`` later and before a progression."""
    good = ("CR",) if wanted == "CR" else ("CR", "PR")
    found = [day for day, c in zip(days, categories, strict=True) if c in good and day < before]
    return any(b - a >= confirm_days - 1e-9 for a in found for b in found)
