"""Parameters of migration along tensors."""

from __future__ import annotations

from .base import Parameter

ANISOTROPY: dict[str, Parameter] = {
    "anisotropy.strength": Parameter(
        "α", "1", 1.0, 0.0, 1.0, "0–1", "1: the tensors as they are given", "T = (1 − α) 1 + α (tensors)"
    ),
    "anisotropy.scaling": Parameter(
        "r", "1", 1.0, 1.0, 1e3, "1–10",
        "1: cells as water; factor of Jbabdi et al. 2005, its form recollected", "increase of the tensors' anisotropy",
    ),
    "anisotropy.largest_ratio": Parameter(
        "–", "1", 10.0, 1.01, 1e4, "white matter 3–10", "assumption; every higher ratio makes links longer and dearer",
        "largest : smallest eigenvalue above which tensors are refused, or limited if repaired",
    ),
}  # fmt: skip
