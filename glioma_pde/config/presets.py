"""Named sets of parameter values: species × what the carriers carry.

``preset = "human_yeast_cd"`` at the top of a configuration, or of an arm, fills in the values below with the sections they
stand in; whatever the file itself says comes after and prevails. A preset says nothing of anatomy, initial tumour, time
and doses. The mouse presets of cytosine deaminase stand at the best-case ends of the ranges, chosen after the fact so that
an experiment of that size comes out (Aboody et al. 2000); their labels say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Values = dict[str, tuple[Any, str]]


@dataclass(frozen=True)
class Preset:
    """A named set of values.

    Attributes:
        label: of arms that have none of their own.
        values: path → (value, source); paths are those of the table of parameters, or of choices.
    """

    label: str
    values: Values


_HUMAN: Values = {
    "capacity_cells_per_mm3": (1e5, "order used by Rockne et al. 2010"),
    "tumour.diffusivity_white_mm2_per_day": (0.13, "GliomaSolver default (Lipková et al. 2019)"),
    "tumour.diffusivity_grey_mm2_per_day": (0.026, "D_w/D_g = 5, Swanson, Alvord & Murray 2000"),
    "tumour.proliferation_per_day": (0.025, "GliomaSolver default (Lipková et al. 2019)"),
    "carriers.proliferation_per_day": (0.0, "HB1.F3 barely proliferates in vivo, assumption"),
    "carriers.loss_per_day": (0.21, "ln(61/6)/11 from MSC survival in rat C6 (Acad Radiol 2025)"),
}
_MOUSE: Values = {
    "capacity_cells_per_mm3": (1e5, "order used by Rockne et al. 2010"),
    "tumour.diffusivity_white_mm2_per_day": (0.01, "assumption: a circumscribed xenograft, low end of 0.01–1.5"),
    "tumour.diffusivity_grey_mm2_per_day": (0.01, "assumption: the same in all tissue of a rodent"),
    "tumour.proliferation_per_day": (0.21, "Buchauer et al., mice with orthotopic tumours, n = 23"),
}
_MOUSE_NSC: Values = {  # C17.2, co-implanted
    "carriers.proliferation_per_day": (0.2, "assumption: immortalised C17.2 divides; high end of 0–0.3"),
    "carriers.loss_per_day": (0.05, "assumption: best-case end of 0.05–0.5"),
    "carriers.volume_filling": (True, "assumption: dense implants neither grow nor move into full tissue"),
}
_MOUSE_MSC: Values = {
    "carriers.proliferation_per_day": (0.0, "assumption: mesenchymal carriers hardly divide in the brain"),
    "carriers.loss_per_day": (0.21, "ln(61/6)/11 from MSC survival in rat C6 (Acad Radiol 2025)"),
}
_HOMING: Values = {
    "carriers.diffusivity_white_mm2_per_day": (0.02, "7 × that of grey matter, assumption"),
    "carriers.diffusivity_grey_mm2_per_day": (0.003, "200 µm of spontaneous spread in 7 d (Chen et al. 2015)"),
    "carriers.taxis.kind": ("flux_limited", ""),
    "carriers.taxis.speed_mm_per_day": (0.27, "1881 µm in 7 d under CXCL12, Chen et al. 2015"),
    "attractant.range": ("long", "assumption: range √(D_a/λ_a) = 1.6 mm"),
}
_CD: Values = {  # 5-FC → 5-FU
    "prodrug.plasma_half_life_h": (6.0, "flucytosine labels, 3–6 h; 158 mg/kg/day then keep the brain at 0.36 mM"),
    "prodrug.volume_l_per_kg": (0.78, "flucytosine labels"),
    "prodrug.bioavailability": (0.85, "flucytosine labels"),
    "prodrug.brain_plasma_ratio": (0.75, "recollected for 5-FC, check before quoting"),
    "drug.diffusivity_mm2_per_day": (30.0, "D_water/λ², tortuosity 1.6"),
    "drug.decay_per_day": (83.0, "¹⁹F-MRS half-life 12 min (hepatic)"),
    "drug.kill.kind": ("hill", ""),
    "drug.kill.hill": (1.0, "assumption"),
}
_HUMAN_KILL: Values = {
    "drug.kill.emax_per_day": (0.35, "assumption: the mouse temozolomide value"),
    "drug.kill.ic50_uM": (5.0, "recollected for 5-FU in glioma lines, 1–30"),
}
_MOUSE_KILL: Values = {
    "drug.kill.emax_per_day": (0.45, "assumption: best-case end of the mouse temozolomide values 0.25–0.45"),
    "drug.kill.ic50_uM": (1.0, "recollected for 5-FU in glioma lines, best-case end of 1–30"),
}
_BACTERIAL = (17900.0, "recollected for bacterial CD, check before quoting")
_YEAST = (800.0, "recollected for yeast CD, check before quoting; ratio 22 in Kievit et al. 1999")
_VMAX, _KM = "prodrug.vmax_mol_per_cell_per_day", "prodrug.km_uM"
_MOUSE_VMAX = 7.1e-13
_TRAIL: Values = {
    "trail.diffusivity_mm2_per_day": (
        1.4,
        "recollected for albumin in brain (Tao & Nicholson 1996), check before quoting",
    ),
    "trail.decay_per_day": (33.0, "recollected: half-life 30 min, check before quoting"),
    "trail.secretion_mol_per_cell_per_day": (4e-18, "assumption: 0.25 µg of the 60 kDa trimer by 1e6 cells in a day"),
    "trail.kill.kind": ("hill", ""),
    "trail.kill.emax_per_day": (0.35, "assumption: as the drugs"),
    "trail.kill.ic50_uM": (1e-3, "assumption: 60 ng/mL of the trimer"),
    "trail.kill.hill": (1.0, "assumption"),
    "carriers.tumour_kill_per_day": (0.0, "contact killing left out, lest TRAIL be counted twice"),
}

PRESETS: dict[str, Preset] = {
    "human_bacterial_cd": Preset(
        "human scale, exploratory: bacterial-CD carrier of the phase-I trial",
        _HUMAN | _HOMING | _CD | _HUMAN_KILL | {
            _KM: _BACTERIAL, _VMAX: (3.35e-13, "q = 6.6e-15 mol/cell/day at 0.36 mM, from Portnow et al. 2017 C_ss"),
        },
    ),
    "human_yeast_cd": Preset(
        "human scale, exploratory: hypothetical yeast-CD carrier; not a phase-I prediction",
        _HUMAN | _HOMING | _CD | _HUMAN_KILL | {
            _KM: _YEAST, _VMAX: (3.22e-13, "q = 1.0e-13 mol/cell/day at 0.36 mM: V_max of bacterial CD, rounded"),
        },
    ),
    "human_trail": Preset(
        "human scale, exploratory: hypothetical TRAIL-secreting carrier", _HUMAN | _HOMING | _TRAIL
    ),
    "mouse_bacterial_cd": Preset(
        "mouse scale, best-case ends of ranges, post hoc: bacterial-CD neural stem cells",
        _MOUSE | _MOUSE_NSC | _HOMING | _CD | _MOUSE_KILL | {
            _KM: _BACTERIAL,
            _VMAX: (_MOUSE_VMAX, "q = 1.4e-14 mol/cell/day at 0.36 mM, best case within 1e-15–6.6e-14, assumption"),
        },
    ),
    "mouse_yeast_cd": Preset(
        "mouse scale, best-case ends of ranges, post hoc: hypothetical yeast-CD neural stem cells",
        _MOUSE | _MOUSE_NSC | _HOMING | _CD | _MOUSE_KILL | {
            _KM: _YEAST,
            _VMAX: (_MOUSE_VMAX, "assumption: as bacterial CD in the mouse; q = 2.2e-13 mol/cell/day at 0.36 mM"),
        },
    ),
    "mouse_trail": Preset(
        "mouse scale, exploratory: TRAIL-secreting mesenchymal stem cells", _MOUSE | _MOUSE_MSC | _HOMING | _TRAIL
    ),
}  # fmt: skip
"""In rodents the kinetics of the prodrug are those of man, for want of others: give the dose that makes the level."""


def tables(name: str) -> dict[str, Any]:
    """The preset as nested tables of a configuration, new at each call."""
    out: dict[str, Any] = {}
    for path, (value, _) in PRESETS[name].values.items():
        *parts, leaf = path.split(".")
        table = out
        for part in parts:
            table = table.setdefault(part, {})
        table[leaf] = value
    return out


def source_of(name: str | None, path: str, value: Any) -> str:
    """The source of a value that comes from a preset; empty where it does not."""
    preset = PRESETS.get(name or "")
    known, source = (None, "") if preset is None else preset.values.get(path, (None, ""))
    return source if known == value else ""
