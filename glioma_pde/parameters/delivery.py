"""Parameters of the routes that carriers are given by."""

from __future__ import annotations

from .base import Parameter

OLFACTORY_MM = ((-5.0, 36.0, -24.0), (5.0, 36.0, -24.0))
"""Where intranasal cells are taken to enter the brain: the orbital surface of both gyri recti, above the olfactory
bulbs, in MNI coordinates [mm]. Assumption: read off the MNI152 maps, which do not resolve the bulbs."""

_RAT = "rat C6, Acad Radiol 2025"


def _of(route: str, **rows: Parameter) -> dict[str, Parameter]:
    return {f"schedule.injections[{route}].{name}": row for name, row in rows.items()}


def _retained(default: float, plausible: str, source: str) -> Parameter:
    return Parameter("f", "1", default, 0.0, 1.0, plausible, source, "fraction of the cells that stays in the tissue")


_BACKFLOW = Parameter(
    "b", "1", 0.0, 0.0, 1.0, "–", "assumption: contained in f", "fraction that flows back along the needle"
)

DELIVERY: dict[str, Parameter] = (
    _of(
        "intracerebral",
        retained_fraction=_retained(0.71, "intratumoral 0.71, peritumoral 0.61", f"intratumoral injection, {_RAT}"),
        backflow_fraction=_BACKFLOW,
    )
    | _of(
        "intracavity",
        retained_fraction=_retained(
            0.61, "–", f"peritumoral injection, {_RAT}; its use for the wall of a cavity is an assumption"
        ),
        backflow_fraction=_BACKFLOW,
        thickness_mm=Parameter(
            "w_c", "mm", 2.0, 1e-3, 50.0, "–", "assumption", "thickness of the layer of tissue around a cavity"
        ),
    )
    | _of(
        "intraventricular",
        retained_fraction=_retained(0.1, "–", "assumption: most cells stay in the CSF"),
        backflow_fraction=_BACKFLOW,
        depth_mm=Parameter(
            "w_v", "mm", 1.0, 1e-3, 50.0, "–", "assumption", "depth of the layer under the wall of the ventricles"
        ),
    )
    | _of(
        "intranasal",
        retained_fraction=_retained(0.05, "0.01–0.25", "recollected, check before quoting"),
        delay_h=Parameter(
            "t_n", "h", 12.0, 0.0, 240.0, "6–24",
            "cells in the tumour within 6 h, along olfactory paths within 24 h: Reitz et al. 2012",
            "time from the nose into the brain",
        ),
        sigma_mm=Parameter(
            "σ_n", "mm", 4.0, 1e-3, 50.0, "–", "assumption", "standard deviation of the deposit at the olfactory site"
        ),
    )
    | _of("intravenous", retained_fraction=_retained(0.01, "0–0.02", f"none found after intravenous injection, {_RAT}"))
    | _of("intra_arterial", retained_fraction=_retained(0.30, "–", f"intra-arterial injection, {_RAT}"))
)  # fmt: skip
