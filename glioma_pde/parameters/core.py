"""Parameters of the core model."""

from __future__ import annotations

from .base import HUGE, Parameter

CORE: dict[str, Parameter] = {
    # -- tissue and tumour ----------------------------------------------------------------------
    "capacity_cells_per_mm3": Parameter(
        "K", "cells/mm3", 1e5, 1.0, 1e9, "1e5–1e6", "order used by Rockne et al. 2010", "carrying capacity"
    ),
    "tumour.diffusivity_white_mm2_per_day": Parameter(
        "D_w", "mm2/day", 0.13, 0.0, 1e4, "0.01–1.5", "GliomaSolver default (Lipková et al. 2019)",
        "tumour diffusivity in white matter (Swanson's 0.13 is the grey-matter value of a faster tumour)",
    ),
    "tumour.diffusivity_grey_mm2_per_day": Parameter(
        "D_g", "mm2/day", 0.026, 0.0, 1e4, "D_w/D_g 2–100", "D_w/D_g = 5, Swanson, Alvord & Murray 2000",
        "tumour diffusivity in grey matter",
    ),
    "tumour.proliferation_per_day": Parameter(
        "ρ", "1/day", 0.025, 0.0, 1e3, "0.001–0.2; mouse 0.157–0.249",
        "GliomaSolver default (Lipková et al. 2019)", "net proliferation rate",
    ),
    # -- carriers -------------------------------------------------------------------------------
    "carriers.diffusivity_white_mm2_per_day": Parameter(
        "D_s,w", "mm2/day", 0.02, 0.0, 1e4, "0.001–0.05", "7 × that of grey matter, assumption",
        "random motility of carriers in white matter",
    ),
    "carriers.diffusivity_grey_mm2_per_day": Parameter(
        "D_s,g", "mm2/day", 0.003, 0.0, 1e4, "0.001–0.05", "200 µm of spontaneous spread in 7 d (Chen et al. 2015) as 200²/(2·7) µm²/d; its use for grey matter is an assumption",
        "random motility of carriers in grey matter",
    ),
    "carriers.proliferation_per_day": Parameter(
        "ρ_s", "1/day", 0.0, 0.0, 1e3, "0–0.3", "HB1.F3 barely proliferates in vivo, assumption",
        "carrier proliferation",
    ),
    "carriers.loss_per_day": Parameter(
        "δ_s", "1/day", 0.21, 0.0, 1e3, "0.05–0.5", "ln(61/6)/11 from MSC survival in rat C6 (Acad Radiol 2025)",
        "death and clearance of carriers",
    ),
    "carriers.crowding": Parameter(
        "γ_s", "1", 0.0, 0.0, 1.0, "0–1", "assumption: injected cells do not crowd the tumour",
        "weight of carriers in the crowding N",
    ),
    "carriers.tumour_kill_per_day": Parameter(
        "κ_a", "1/day", 0.0, 0.0, 1e4, "–", "assumption", "direct killing of tumour by carriers (TRAIL) per unit s"
    ),
    "carriers.tumour_kill_saturation": Parameter(
        "h", "1", 0.0, 0.0, 1e6, "–", "assumption", "saturation of direct killing, κ_a s/(1 + h s)"
    ),
    "carriers.drug_sensitivity": Parameter(
        "ε_c", "1", 0.0, 0.0, 1e3, "–", "assumption", "kill rate of carriers relative to tumour in the same drug"
    ),
    "carriers.taxis.speed_mm_per_day": Parameter(
        "v_max", "mm/day", 0.27, 0.0, 1e4, "0.05–2.5", "1881 µm in 7 d under CXCL12, Chen et al. 2015",
        "largest speed of flux-limited taxis",
    ),
    "carriers.taxis.sensing_length_mm": Parameter(
        "ℓ", "mm", 1.0, 1e-6, 1e3, "–", "assumption", "length over which carriers compare concentrations"
    ),
    "carriers.taxis.offset_relative": Parameter(
        "a₀/a*", "1", 1e-3, 1e-12, 1e3, "–", "assumption", "detection floor of logarithmic sensing"
    ),
    "carriers.taxis.sensitivity_mm2_per_day": Parameter(
        "χ", "mm2/day", 0.1, 0.0, 1e6, "–", "assumption",
        "chemotactic sensitivity per unit of sensed signal (linear: per unit a; receptor, logarithmic: of order D_s)",
    ),
    "carriers.taxis.receptor_constant": Parameter(
        "K_a", "units of a", 1.0, 1e-12, HUGE, "–", "assumption", "dissociation constant of receptor sensing"
    ),
    # -- attractant -----------------------------------------------------------------------------
    "attractant.diffusivity_mm2_per_day": Parameter(
        "D_a", "mm2/day", 4.4, 0.0, 1e6, "short range (SDF-1): 1.5", "assumption: range √(D_a/λ_a) = 1.6 mm",
        "attractant diffusivity",
    ),
    "attractant.decay_per_day": Parameter(
        "λ_a", "1/day", 1.7, 1e-9, 1e6, "short range (SDF-1): 17", "assumption: range √(D_a/λ_a) = 1.6 mm",
        "attractant decay",
    ),
    "attractant.release_per_day": Parameter(
        "β_a", "units of a/day", 1.7, 0.0, HUGE, "–", "scale: a* = β_a/λ_a = 1 inside a full tumour",
        "attractant release by the tumour",
    ),
    # -- prodrug --------------------------------------------------------------------------------
    "prodrug.plasma_half_life_h": Parameter(
        "t½", "h", 4.5, 1e-3, 1e5, "3–6", "flucytosine labels", "plasma half-life of the prodrug (5-FC)"
    ),
    "prodrug.volume_l_per_kg": Parameter(
        "V", "L/kg", 0.78, 1e-3, 1e4, "0.65–0.91", "flucytosine labels", "volume of distribution"
    ),
    "prodrug.bioavailability": Parameter(
        "F", "1", 0.85, 0.0, 1.0, "0.8–0.9", "flucytosine labels", "absorbed fraction of an oral dose"
    ),
    "prodrug.molar_mass_g_per_mol": Parameter(
        "M", "g/mol", 129.09, 1.0, 1e6, "–", "flucytosine, C4H4FN3O", "molar mass of the prodrug"
    ),
    "prodrug.brain_plasma_ratio": Parameter(
        "π", "1", 0.75, 0.0, 1e3, "–", "recollected for 5-FC, check before quoting", "brain : plasma partition"
    ),
    "prodrug.exchange_per_day": Parameter(
        "k_ex", "1/day", 17.0, 1e-9, 1e6, "–", "assumption: plasma–brain half-time 1 h",
        "exchange between plasma and brain",
    ),
    "prodrug.leaky_exchange_per_day": Parameter(
        "k_ex,l", "1/day", 300.0, 0.0, 1e6, "–",
        "assumption: K_trans of 0.05 1/min in enhancing glioma (recollected) at a leakiness of 0.25",
        "further exchange where all vessels leak, used with [vasculature]",
    ),
    "prodrug.diffusivity_mm2_per_day": Parameter(
        "D_p", "mm2/day", 30.0, 0.0, 1e6, "10–60", "assumption: that of 5-FU, a molecule of the same size",
        "prodrug diffusivity in brain, used with dynamics = 'dynamic'",
    ),
    "prodrug.vmax_mol_per_cell_per_day": Parameter(
        "V_max", "mol/cell/day", 3.2e-13, 0.0, 1.0, "×0.1–10",
        "from q = 6.6e-15 (bacterial CD, Portnow et al. 2017 C_ss) at p = 0.36 mM", "conversion per living carrier"
    ),
    "prodrug.km_uM": Parameter(
        "K_m", "µM", 800.0, 1e-9, HUGE, "bacterial CD 17900, yeast CD 800",
        "recollected; ratio 22 in Kievit et al. 1999", "Michaelis constant of the carriers' enzyme",
    ),
    # -- drug -----------------------------------------------------------------------------------
    "drug.diffusivity_mm2_per_day": Parameter(
        "D_c", "mm2/day", 30.0, 0.0, 1e6, "10–60", "D_water/λ², tortuosity 1.6", "drug diffusivity (5-FU)"
    ),
    "drug.decay_per_day": Parameter(
        "λ_c", "1/day", 83.0, 1e-9, 1e8, "59–200", "¹⁹F-MRS half-life 12 min (hepatic)", "drug loss"
    ),
    "drug.efflux_per_day": Parameter(
        "k_BBB", "1/day", 0.0, 0.0, 1e8, "–", "assumption: contained in λ_c", "loss through the blood–brain barrier"
    ),
    "drug.leaky_efflux_per_day": Parameter(
        "k_BBB,l", "1/day", 300.0, 0.0, 1e8, "–", "assumption: that of the prodrug, a molecule of the same size",
        "further loss where all vessels leak, used with [vasculature]",
    ),
    "drug.uptake_per_day": Parameter(
        "k_up", "1/day", 0.0, 0.0, 1e8, "–", "assumption", "uptake by tumour cells per unit u"
    ),
    "drug.secretion_mol_per_cell_per_day": Parameter(
        "q", "mol/cell/day", 0.0, 0.0, 1.0, "–", "off unless carriers release the drug themselves",
        "release by each carrier without a prodrug",
    ),
    "drug.kill.emax_per_day": Parameter(
        "E_max", "1/day", 0.35, 0.0, 1e4, "mouse TMZ 0.25–0.45",
        "assumption: the mouse temozolomide value", "largest kill rate",
    ),
    "drug.kill.ic50_uM": Parameter("IC50", "µM", 5.0, 1e-12, HUGE, "1–30", "recollected for 5-FU in glioma lines",
        "concentration of half effect"),
    "drug.kill.hill": Parameter("n", "1", 1.0, 1.0, 20.0, "–", "assumption", "Hill exponent"),
    "drug.kill.rate_per_uM_per_day": Parameter(
        "k", "1/µM/day", 0.07, 0.0, HUGE, "–", "assumption: E_max/IC50", "linear kill rate"
    ),
}  # fmt: skip
