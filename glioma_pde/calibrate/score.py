"""How good predictions are: agreement, error, and whether intervals cover what they promise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """Of predictions against measurements.

    Attributes:
        ccc: Lin's concordance correlation coefficient.
        nrmse: root mean square error over the standard deviation of the measurements.
        error_percent: median of |predicted − observed|/observed.
        coverage: share of the measurements within their interval.
        log_score: mean log predictive density; larger is better.
        count: of measurements.
    """

    ccc: float
    nrmse: float
    error_percent: float
    coverage: float
    log_score: float
    count: int


def score(observed, predicted, low, high, log_density=None) -> Score:
    """All arguments ``(M,)``, of measurements that are not censored."""
    y, f = np.asarray(observed, float), np.asarray(predicted, float)
    inside = (y >= np.asarray(low)) & (y <= np.asarray(high))
    error = np.median(np.abs(f - y) / np.maximum(np.abs(y), 1e-300))
    log_score = float("nan") if log_density is None else float(np.mean(log_density))
    return Score(concordance(y, f), nrmse(y, f), 100.0 * float(error), float(inside.mean()), log_score, len(y))


def concordance(y: np.ndarray, f: np.ndarray) -> float:
    """2 cov(y, f)/(var y + var f + (mean y − mean f)²) (Lin 1989)."""
    y, f = np.asarray(y, float), np.asarray(f, float)
    bottom = y.var() + f.var() + (y.mean() - f.mean()) ** 2
    return float(2.0 * np.mean((y - y.mean()) * (f - f.mean())) / bottom) if bottom > 0 else float("nan")


def nrmse(y: np.ndarray, f: np.ndarray) -> float:
    y, f = np.asarray(y, float), np.asarray(f, float)
    return float(np.sqrt(np.mean((y - f) ** 2)) / y.std()) if y.std() > 0 else float("nan")
