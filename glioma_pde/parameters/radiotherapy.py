"""Parameters of radiotherapy, and of what it does to resistant cells and carriers."""

from __future__ import annotations

from .base import HUGE, Parameter

RADIOTHERAPY: dict[str, Parameter] = {
    "radiotherapy.alpha_per_gy": Parameter(
        "α", "1/Gy", 0.04, 0.0, 1e2, "0.01–0.15; in vitro 9L 0.108, C6 0.129",
        "in-vivo value of glioma models after Rockne et al. 2009, seen second-hand; range: van Leeuwen et al. 2018",
        "linear radiosensitivity of the tumour",
    ),
    "radiotherapy.alpha_beta_gy": Parameter(
        "α/β", "Gy", 10.0, 1e-3, HUGE, "in vitro 9L 2.8, C6 2.8",
        "in-vivo value of glioma models after Rockne et al. 2009, seen second-hand",
        "ratio of linear to quadratic radiosensitivity of the tumour",
    ),
    "resistance.alpha_relative": Parameter(
        "α_r/α", "1", 1.0, 0.0, 1e3, "–", "assumption: as the tumour's",
        "linear radiosensitivity of resistant cells, relative to the tumour's",
    ),
    "resistance.beta_relative": Parameter(
        "β_r/β", "1", 1.0, 0.0, 1e3, "–", "assumption: as the tumour's",
        "quadratic radiosensitivity of resistant cells, relative to the tumour's",
    ),
    "carriers.alpha_per_gy": Parameter(
        "α_s", "1/Gy", 0.0, 0.0, 1e2, "–", "assumption: radiation spares them unless a value is given",
        "linear radiosensitivity of carriers",
    ),
    "carriers.alpha_beta_gy": Parameter(
        "α_s/β_s", "Gy", 10.0, 1e-3, HUGE, "–", "assumption, used with α_s > 0",
        "ratio of linear to quadratic radiosensitivity of carriers",
    ),
}  # fmt: skip
