"""Parameters of the immune response to the carriers."""

from __future__ import annotations

from .base import Parameter

IMMUNE: dict[str, Parameter] = {
    "immune.clearance_per_day": Parameter(
        "κ_I", "1/day", 0.2, 0.0, 1e4, "–",
        "assumption: a full response doubles the loss of carriers, whose δ_s contains clearance already",
        "clearance of carriers at I = 1 (kind = 'constant': everywhere, at all times)",
    ),
    "immune.diffusivity_mm2_per_day": Parameter(
        "D_I", "mm2/day", 0.1, 0.0, 1e4, "–",
        "recollected: motility of T cells in lymph nodes, 67 µm²/min (Miller et al. 2002), check before quoting",
        "random motility of immune effector cells",
    ),
    "immune.recruitment_per_day": Parameter(
        "σ_I", "1/day", 0.2, 0.0, 1e4, "–", "scale: I* = σ_I/d_I = 1 where carriers are dense, unprimed",
        "recruitment of immune effector cells",
    ),
    "immune.half_saturation": Parameter(
        "K_I", "1", 0.01, 1e-9, 1e3, "–", "assumption: 1000 carriers/mm³", "carrier density of half recruitment"
    ),
    "immune.decay_per_day": Parameter(
        "d_I", "1/day", 0.2, 1e-6, 1e4, "–", "assumption: a response subsides within a week",
        "loss of immune effector cells",
    ),
    "immune.priming": Parameter(
        "π_I", "1", 0.0, 0.0, 1e3, "–",
        "assumption: none; 3 of 15 patients made antibodies under 2–10 doses (Portnow et al. 2021), none under one (Portnow et al. 2017)",
        "largest relative increase of σ_I by earlier exposure",
    ),
    "immune.priming_exposure_cell_days": Parameter(
        "X_½", "cells day", 1.7e8, 1.0, 1e15, "–", "assumption: one dose of 5e7 carriers, 5e7 · 0.71/0.21 per day",
        "exposure to carriers of half the priming",
    ),
    "immune.forgetting_per_day": Parameter(
        "d_M", "1/day", 0.0, 0.0, 1e3, "–", "assumption: memory outlasts the treatment", "loss of immune memory"
    ),
}  # fmt: skip
