"""Parameters of oxygen, necrosis and vessels."""

from __future__ import annotations

from .base import Parameter

_TO_MATCH = "assumption: brings dense tumour to 5–10 mmHg, where it is measured"

ENVIRONMENT: dict[str, Parameter] = {
    # -- oxygen ---------------------------------------------------------------------------------
    "oxygen.normal_mmHg": Parameter(
        "σ_n", "mmHg", 35.0, 1.0, 200.0, "15 (white matter, Cruickshank & Rampling 1994) – 40",
        "recollected: 30–40 in brain", "oxygen in normal tissue",
    ),
    "oxygen.blood_mmHg": Parameter(
        "σ_b", "mmHg", 60.0, 1.0, 760.0, "40–90", "assumption: between arteries (90) and veins (35)",
        "oxygen in blood, averaged over the vessels that supply",
    ),
    "oxygen.diffusivity_mm2_per_day": Parameter(
        "D_σ", "mm2/day", 170.0, 0.0, 1e6, "130–240", "recollected: 2e-9 m2/s", "diffusivity of oxygen in tissue"
    ),
    "oxygen.consumption_per_day": Parameter(
        "k_t", "1/day", 5e4, 1e-3, 1e9, "–",
        "recollected: 3.5 mL of oxygen per 100 g and min, solubility 1.3 µM/mmHg, at σ_n",
        "consumption of normal tissue, as a rate of first order",
    ),
    "oxygen.tumour_consumption": Parameter(
        "η", "1", 1.0, 0.0, 1e3, "–", "assumption: as much as the tissue around them",
        "consumption of tumour cells at u = 1, relative to normal tissue",
    ),
    "oxygen.growth_half_mmHg": Parameter(
        "K_σ", "mmHg", 5.0, 0.0, 1e3, "–", "assumption", "oxygen at which growth is half of what it could be; 0: no effect"
    ),
    "oxygen.oer_largest": Parameter(
        "m", "1", 3.0, 1.0, 10.0, "2.5–3.5", "recollected: Alper & Howard-Flanders 1956",
        "oxygen enhancement ratio of full oxygenation; 1: no effect",
    ),
    "oxygen.oer_half_mmHg": Parameter(
        "K_O", "mmHg", 3.0, 1e-3, 1e3, "2–4", "recollected: Alper & Howard-Flanders 1956",
        "oxygen at which half of the enhancement is reached",
    ),
    # -- necrosis ---------------------------------------------------------------------------------
    "necrosis.death_per_day": Parameter(
        "κ", "1/day", 0.1, 0.0, 1e3, "–", "assumption", "rate at which tumour cells die without any oxygen"
    ),
    "necrosis.below_mmHg": Parameter(
        "σ_N", "mmHg", 10.0, 1e-3, 1e3, "–",
        "assumption: of a tissue's mean; cells die of lack of oxygen at some 1 mmHg around them",
        "oxygen below which tumour cells die",
    ),
    "necrosis.clearance_per_day": Parameter(
        "c", "1/day", 0.01, 0.0, 1e3, "–", "assumption", "clearance of necrotic cells"
    ),
    # -- vasculature ------------------------------------------------------------------------------
    "vasculature.collapse_per_day": Parameter(
        "ω", "1/day", 0.4, 0.0, 1e3, "–", _TO_MATCH, "rate at which vessels close in the densest tissue"
    ),
    "vasculature.collapse_density": Parameter(
        "N_c", "1", 0.7, 1e-3, 10.0, "–", "assumption: beyond the infiltration zone", "density at which they close half as fast"
    ),
    "vasculature.recovery_per_day": Parameter(
        "μ", "1/day", 0.05, 1e-6, 1e3, "–", _TO_MATCH, "rate at which vessels become those of normal tissue again"
    ),
    "vasculature.leaky_density": Parameter(
        "K_l", "1", 0.5, 1e-3, 10.0, "–", "assumption: between the FLAIR and T1Gd thresholds",
        "tumour density at which half of the old vessels leak",
    ),
    "vasculature.angiogenesis_per_day": Parameter(
        "α", "1/day", 0.05, 0.0, 1e3, "–", "assumption",
        "rate at which missing vessels are replaced by new ones without any oxygen, used with dynamics = 'dynamic'",
    ),
    "vasculature.angiogenesis_below_mmHg": Parameter(
        "σ_a", "mmHg", 20.0, 1e-3, 1e3, "–", "assumption",
        "oxygen below which there is angiogenesis, used with dynamics = 'dynamic'",
    ),
}  # fmt: skip
