"""Parameters of resistance to drugs, temozolomide and surgery."""

from __future__ import annotations

from .base import HUGE, Parameter

TREATMENTS: dict[str, Parameter] = {
    # -- resistance -----------------------------------------------------------------------------
    "resistance.spontaneous_per_day": Parameter(
        "μ₀", "1/day", 1e-6, 0.0, 1e3, "–", "assumption", "rate at which tumour cells become resistant by themselves"
    ),
    "resistance.induced": Parameter(
        "μ_c", "1", 1e-3, 0.0, 1e3, "–", "assumption",
        "cells that become resistant for each that drugs kill (times E: a rate)",
    ),
    "resistance.drug_sensitivity": Parameter(
        "ω", "1", 0.1, 0.0, 1.0, "ω ≪ 1", "assumption", "kill rate of resistant cells relative to tumour under the same drugs"
    ),
    # -- temozolomide -----------------------------------------------------------------------------
    "temozolomide.absorption_per_h": Parameter(
        "k_a", "1/h", 5.8, 1e-3, 1e4, "–", "Ostermann et al. 2004", "absorption of temozolomide"
    ),
    "temozolomide.clearance_l_per_h": Parameter(
        "CL/F", "L/h", 10.0, 1e-3, 1e5, "8.8–11.2 (Jen et al. 2000)", "Ostermann et al. 2004", "apparent clearance"
    ),
    "temozolomide.volume_l": Parameter(
        "V/F", "L", 30.3, 1e-3, 1e5, "–", "Ostermann et al. 2004; half-life ln 2 V/CL = 2.1 h",
        "apparent volume of distribution",
    ),
    "temozolomide.csf_plasma_ratio": Parameter(
        "π_T", "1", 0.20, 0.0, 1e3, "–", "Ostermann et al. 2004, ratio of the areas under the curves",
        "CSF : plasma partition, used for brain tissue",
    ),
    "temozolomide.csf_exchange_per_h": Parameter(
        "k_x", "1/h", 0.76, 1e-3, 1e4, "–", "Ostermann et al. 2004, CSF to plasma", "exchange between CSF and plasma"
    ),
    "temozolomide.molar_mass_g_per_mol": Parameter(
        "M_T", "g/mol", 194.15, 1.0, 1e6, "–", "temozolomide, C6H6N6O2", "molar mass of temozolomide"
    ),
    "temozolomide.body_surface_m2": Parameter(
        "–", "m2", 1.8, 0.01, 10.0, "1.5–2.2", "assumption: an adult", "body surface that doses refer to"
    ),
    "temozolomide.kill.emax_per_day": Parameter(
        "E_max,T", "1/day", 0.35, 0.0, 1e4, "mouse 0.25–0.45, as means over days of dosing",
        "assumption: the mouse value, here reached only while the level is high", "largest kill rate of temozolomide",
    ),
    "temozolomide.kill.ic50_uM": Parameter(
        "IC50_T", "µM", 5.0, 1e-12, HUGE, "–", "assumption: of the order of the highest level in CSF",
        "concentration of half effect",
    ),
    "temozolomide.kill.hill": Parameter("n_T", "1", 1.0, 1.0, 20.0, "–", "assumption", "Hill exponent"),
    "temozolomide.kill.rate_per_uM_per_day": Parameter(
        "k_T", "1/µM/day", 0.07, 0.0, HUGE, "–", "assumption: E_max/IC50", "linear kill rate"
    ),
    # -- surgery ----------------------------------------------------------------------------------
    "surgery.edge_mm": Parameter(
        "w", "mm", 1.0, 1e-6, 1e3, "–", "assumption: of the order of the spacing",
        "width over which a resected ball goes over into untouched tissue",
    ),
}  # fmt: skip
