"""Parameters of soluble TRAIL."""

from __future__ import annotations

from .base import HUGE, Parameter

TRAIL: dict[str, Parameter] = {
    "trail.diffusivity_mm2_per_day": Parameter(
        "D_L", "mm2/day", 1.4, 0.0, 1e6, "–",
        "recollected: albumin, of the size of the trimer, 1.6e-7 cm²/s in brain (Tao & Nicholson 1996), check before quoting",
        "diffusivity of soluble TRAIL in brain",
    ),
    "trail.decay_per_day": Parameter(
        "λ_L", "1/day", 33.0, 1e-9, 1e8, "–", "recollected: half-life 30 min, check before quoting", "loss of TRAIL"
    ),
    "trail.secretion_mol_per_cell_per_day": Parameter(
        "q_L", "mol/cell/day", 4e-18, 0.0, 1.0, "–",
        "assumption: 0.25 µg of the 60 kDa trimer by 1e6 cells in a day", "release by each carrier",
    ),
    "trail.kill.emax_per_day": Parameter(
        "E_max,L", "1/day", 0.35, 0.0, 1e4, "–", "assumption: as the drugs", "largest kill rate of TRAIL"
    ),
    "trail.kill.ic50_uM": Parameter(
        "IC50_L", "µM", 1e-3, 1e-12, HUGE, "–", "assumption: 60 ng/mL of the trimer", "concentration of half effect"
    ),
    "trail.kill.hill": Parameter("n_L", "1", 1.0, 1.0, 20.0, "–", "assumption", "Hill exponent"),
    "trail.kill.rate_per_uM_per_day": Parameter(
        "k_L", "1/µM/day", 350.0, 0.0, HUGE, "–", "assumption: E_max/IC50", "linear kill rate"
    ),
}  # fmt: skip
