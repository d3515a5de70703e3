"""Parameters of tumour formation by the transplanted cells."""

from __future__ import annotations

from .base import Parameter

MALIGNANCY: dict[str, Parameter] = {
    "malignancy.transformation_per_day": Parameter(
        "μ_m", "1/day", 0.0, 0.0, 1.0, "≤ 1e-8",
        "no secondary tumours at autopsy (Portnow et al. 2017); the range is an assumption",
        "rate at which carriers become malignant",
    ),
    "malignancy.proliferation_per_day": Parameter(
        "ρ_m", "1/day", 0.025, 0.0, 1e3, "–", "assumption: as the tumour", "proliferation of malignant cells"
    ),
    "malignancy.diffusivity_white_mm2_per_day": Parameter(
        "D_m,w", "mm2/day", 0.13, 0.0, 1e4, "–", "assumption: as the tumour",
        "diffusivity of malignant cells in white matter",
    ),
    "malignancy.diffusivity_grey_mm2_per_day": Parameter(
        "D_m,g", "mm2/day", 0.026, 0.0, 1e4, "–", "assumption: as the tumour",
        "diffusivity of malignant cells in grey matter",
    ),
    "malignancy.drug_sensitivity": Parameter(
        "ε_m", "1", 0.0, 0.0, 1e3, "–", "assumption: as the carriers (ε_c); the worst case",
        "kill rate of malignant cells relative to tumour under the same drugs",
    ),
}  # fmt: skip
