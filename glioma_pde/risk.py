"""What patients observed without an event say about its probability, and about the rate that it rests on.

For the risk that transplanted cells form a tumour: a run reports the probability P that a carrier has become malignant
(``p_malignant``) and the exposure X [cells day] on which it depends, P = 1 − exp(−μ_m X) (``carrier_exposure``).
An absence of tumours excludes rates only as far as the patients were followed for as long as a clone needs to show.

Clopper & Pearson 1934, *Biometrika* 26, 404–413 (exact limits); Hanley & Lippman-Hand 1983, *JAMA* 249, 1743–1745
(zero events, rule of three).
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def event_bound(events: int, patients: int, confidence: float = 0.95) -> float:
    """One-sided exact (Clopper–Pearson) upper limit of an event's probability: the p at which seeing at most ``events``
    in ``patients`` has the probability 1 − confidence.

    For no event at all it is 1 − (1 − confidence)^{1/n}, which for 95 % and many patients is the rule of three, 3/n.

    Raises:
        ValueError: for counts or a confidence that make no sense.
    """
    if not (0 <= events <= patients and patients > 0):
        raise ValueError(f"{events} events in {patients} patients cannot be.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence:g}.")
    if events == patients:
        return 1.0
    if events == 0:
        return -math.expm1(math.log1p(-confidence) / patients)
    low, high = events / patients, 1.0
    while high - low > 1e-15:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if _at_most(events, patients, middle) > 1.0 - confidence else (low, middle)
    return 0.5 * (low + high)


def no_event(probabilities: Sequence[float]) -> float:
    """Probability that none of these patients has the event."""
    return math.exp(math.fsum(math.log1p(-p) for p in probabilities))


def transformation_bound(exposures_cell_days: Sequence[float], confidence: float = 0.95) -> float:
    """The rate μ_m [1/day] that patients with these exposures, none of whom had an event, exclude.

    They all stay without event with the probability exp(−μ_m ΣX), so that μ_m ≤ −ln(1 − confidence)/ΣX. For equal
    exposures this is `event_bound` put into P = 1 − exp(−μ_m X).

    Raises:
        ValueError: if there is no exposure.
    """
    whole = math.fsum(exposures_cell_days)
    if not whole > 0 or min(exposures_cell_days) < 0:
        raise ValueError("exposures_cell_days must not be negative, and at least one must be positive.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence:g}.")
    return -math.log1p(-confidence) / whole


def _at_most(events: int, patients: int, p: float) -> float:
    """P(X ≤ events) of a binomial count."""
    return math.fsum(math.comb(patients, k) * p**k * (1.0 - p) ** (patients - k) for k in range(events + 1))
