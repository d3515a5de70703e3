"""What a configuration may say: one pydantic model for each section, and the arm that holds them all.

Ranges and defaults of parameters come from `parameters.PARAMETERS`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from ..parameters import PARAMETERS, default
from .anisotropy import Anisotropy
from .base import (
    Day,
    Fraction,
    Line,
    Point,
    Positive,
    Section,
    columns,
    parameters,
    pick,
    with_kind,
)
from .delivery import Schedule
from .environment import Necrosis, Oxygen, Vasculature
from .immune import Immune
from .malignancy import Malignancy
from .radiotherapy import Radiotherapy
from .study import Comparison, Sensitivity
from .trail import Trail
from .treatments import Resistance, Surgery, Temozolomide

# -- anatomy --------------------------------------------------------------------------------------


class Window(Section):
    """The part of the brain that is computed."""

    centre_mm: Annotated[list[float], Field(min_length=2, max_length=3)]
    half_width_mm: Positive


class AtlasTissue(Section):
    kind: Literal["mni152"]
    spacing_mm: Annotated[float, Field(ge=0.2, le=10)] = 1.0
    window: Window | None = None


class NiftiTissue(Section):
    kind: Literal["nifti"]
    white: Line
    grey: Line
    csf: Line | None = None
    mask: Line | None = None
    background: Line | None = None
    cavity: Line | None = None
    ventricle_seeds_mm: list[Annotated[list[float], Field(min_length=3, max_length=3)]] = Field(default_factory=list)
    scale: Positive = 1.0
    spacing_mm: Annotated[float, Field(ge=0.02, le=10)] | None = None
    window: Window | None = None

    @model_validator(mode="after")
    def _fluid(self):
        if self.ventricle_seeds_mm and self.csf is None:
            raise ValueError("ventricle_seeds_mm needs the map csf, in which the ventricles are found")
        return self


class PhantomTissue(Section):
    kind: Literal["phantom"]
    geometry: Literal["box", "sphere", "slab", "head", "bundle"] = "head"
    shape: Annotated[list[Annotated[int, Field(ge=4, le=1024)]], Field(min_length=2, max_length=3)]
    spacing_mm: Positive = 1.0
    white_fraction: Fraction = 1.0

    @model_validator(mode="after")
    def _size(self):
        if math.prod(self.shape) > 1e9:
            raise ValueError(f"shape {self.shape} has more than 10⁹ cells")
        return self


class RadialTissue(Section):
    kind: Literal["radial"]
    radius_mm: Positive
    spacing_mm: Positive
    white_fraction: Fraction = 1.0

    @model_validator(mode="after")
    def _size(self):
        if not 4 <= self.radius_mm / self.spacing_mm <= 1e6:
            raise ValueError("radius_mm over spacing_mm must give between 4 and 10⁶ shells")
        return self


# -- biology --------------------------------------------------------------------------------------


class GaussianInitial(Section):
    """u₀ = peak · exp(−|x − centre|²/2σ²); give the peak or the number of cells."""

    kind: Literal["gaussian"]
    centre_mm: Point
    sigma_mm: Positive
    peak: Annotated[float, Field(gt=0, le=1)] | None = None
    cells: Positive | None = None

    @model_validator(mode="after")
    def _one(self):
        if (self.peak is None) == (self.cells is None):
            raise ValueError("give either peak (fraction of capacity) or cells")
        return self


class NiftiInitial(Section):
    """Tumour density from an image in the space of the tissue."""

    kind: Literal["nifti"]
    path: Line


_Tumour = parameters("_Tumour", "tumour")
_Carriers = parameters("_Carriers", "carriers")


class Tumour(_Tumour):  # type: ignore[misc,valid-type]
    growth: Literal["logistic", "gompertz", "exponential"] = "logistic"
    initial: Annotated[GaussianInitial | NiftiInitial, Field(discriminator="kind")]

    def files(self):
        return {"initial.path": self.initial.path} if self.initial.kind == "nifti" else {}

    def stored(self):
        return ("tumour",)

    def places(self):
        return [("initial.centre_mm", self.initial.centre_mm)] if self.initial.kind == "gaussian" else []


_T = "carriers.taxis"
NoTaxis = pick("NoTaxis", _T, (), kind=(Literal["none"], ...))
LinearTaxis = pick("LinearTaxis", _T, ("sensitivity_mm2_per_day",), kind=(Literal["linear"], ...))
ReceptorTaxis = pick(
    "ReceptorTaxis", _T, ("sensitivity_mm2_per_day", "receptor_constant"), kind=(Literal["receptor"], ...)
)
LogarithmicTaxis = pick(
    "LogarithmicTaxis", _T, ("sensitivity_mm2_per_day", "offset_relative"), kind=(Literal["logarithmic"], ...)
)
FluxLimitedTaxis = pick(
    "FluxLimitedTaxis",
    _T,
    ("speed_mm_per_day", "sensing_length_mm", "offset_relative"),
    kind=(Literal["flux_limited"], ...),
)
Taxis = Annotated[
    NoTaxis | LinearTaxis | ReceptorTaxis | LogarithmicTaxis | FluxLimitedTaxis,  # type: ignore[valid-type]
    Field(discriminator="kind"),
]


class Carriers(_Carriers):  # type: ignore[misc,valid-type]
    _kinds = model_validator(mode="before")(lambda data: with_kind(data, "taxis", "flux_limited"))
    taxis: Taxis = FluxLimitedTaxis(kind="flux_limited")  # type: ignore[call-arg]
    volume_filling: bool = False

    def stored(self):
        return ("carriers",)


Dynamics = Literal["quasi_steady", "dynamic"]
"""A substance in equilibrium with what makes it, or on its own time scale."""


class Attractant(parameters("_Attractant", "attractant")):  # type: ignore[misc]
    dynamics: Dynamics = "quasi_steady"
    range: Literal["long", "short"] | None = None
    range_mm: Annotated[float, Field(gt=0, le=100)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = "diffusivity_mm2_per_day" in data
        if data.get("range") == "short":
            data = {"diffusivity_mm2_per_day": 1.5, "decay_per_day": 17.0, "release_per_day": 17.0} | data
        reach, decay = data.get("range_mm"), data.get("decay_per_day", default("attractant.decay_per_day"))
        if not given and isinstance(reach, int | float) and isinstance(decay, int | float):
            data = data | {"diffusivity_mm2_per_day": reach**2 * decay}
        return data

    @model_validator(mode="after")
    def _one_range(self):
        spread = math.sqrt(self.diffusivity_mm2_per_day / self.decay_per_day) if self.decay_per_day > 0 else 0.0
        if self.range_mm is not None and not math.isclose(spread, self.range_mm, rel_tol=1e-6):
            raise ValueError(
                f"range_mm = {self.range_mm:g} contradicts √(diffusivity_mm2_per_day/decay_per_day) = {spread:.3g} mm; "
                "leave out one of them"
            )
        return self

    def stored(self):
        return ("attractant",)


class Course(Section):
    """A course of prodrug at a constant dose rate."""

    start_day: Day
    end_day: Day
    dose_mg_per_kg_per_day: Annotated[float, Field(ge=0, le=1e4)]

    @model_validator(mode="after")
    def _order(self):
        if self.end_day <= self.start_day:
            raise ValueError("end_day must come after start_day")
        return self


class Bolus(Section):
    """A single dose of prodrug, absorbed at once."""

    day: Day
    dose_mg_per_kg: Annotated[float, Field(ge=0, le=1e4)]


class Prodrug(parameters("_Prodrug", "prodrug")):  # type: ignore[misc]
    dynamics: Dynamics = "quasi_steady"
    depletable: bool = True
    courses: tuple[Course, ...] = ()
    boluses: tuple[Bolus, ...] = ()

    @model_validator(mode="after")
    def _pool(self):
        if self.dynamics == "dynamic" and not self.depletable:
            raise ValueError("dynamics = 'dynamic' needs depletable = true")
        usual = PARAMETERS["prodrug.diffusivity_mm2_per_day"].default
        if self.dynamics == "quasi_steady" and self.diffusivity_mm2_per_day != usual:
            raise ValueError("diffusivity_mm2_per_day is used with dynamics = 'dynamic' only")
        return self

    def stored(self):
        return ("prodrug",)

    def days(self):
        starts = [(f"courses[{i}]", c.start_day) for i, c in enumerate(self.courses)]
        return starts + [(f"boluses[{i}]", b.day) for i, b in enumerate(self.boluses)]

    def rows(self):
        return {"courses": len(self.courses), "boluses": len(self.boluses)}

    def tables(self):
        courses = columns(self.courses, "start_day", "end_day", "dose_mg_per_kg_per_day")
        boluses = columns(self.boluses, "day", "dose_mg_per_kg")
        return ({"prodrug": courses} if self.courses else {}) | ({"prodrug_boluses": boluses} if self.boluses else {})


HillKill = pick("HillKill", "drug.kill", ("emax_per_day", "ic50_uM", "hill"), kind=(Literal["hill"], ...))
LinearKill = pick("LinearKill", "drug.kill", ("rate_per_uM_per_day",), kind=(Literal["linear"], ...))


class Drug(parameters("_Drug", "drug")):  # type: ignore[misc]
    dynamics: Dynamics = "quasi_steady"
    _kinds = model_validator(mode="before")(lambda data: with_kind(data, "kill", "hill"))
    kill: Annotated[HillKill | LinearKill, Field(discriminator="kind")] = HillKill(kind="hill")  # type: ignore[valid-type,call-arg]

    def stored(self):
        return ("drug",)


# -- time, output ---------------------------------------------------------------------------


MOST_STEPS = 1e7
"""Time steps of a run; their plan takes some hundred bytes for each."""


class Time(Section):
    end_day: Annotated[float, Field(gt=0, le=1e5)]
    step_days: Annotated[float, Field(gt=0, le=100)] = 0.5
    tolerance: Annotated[float, Field(ge=1e-12, le=0.1)] | None = None
    frame_every_days: Positive = 7.0
    frames_days: list[Day] = Field(default_factory=list)
    observe_every_days: Positive = 1.0
    stop_at_cells: Positive | None = None

    @model_validator(mode="after")
    def _count(self):
        if self.end_day / self.step_days > MOST_STEPS:
            raise ValueError("more than 10⁷ time steps: lengthen step_days")
        if self.end_day / min(self.observe_every_days, self.frame_every_days) > 1e6:
            raise ValueError("more than 10⁶ observations: lengthen observe_every_days or frame_every_days")
        return self


class Numerics(Section):
    precision: Literal["float32", "float64"] = "float32"
    stepper: Literal["ssprk2", "euler", "rkl2"] = "ssprk2"
    stages: Annotated[int, Field(ge=3, le=99)] = 9
    elliptic_tolerance: Annotated[float, Field(ge=1e-13, le=1e-2)] = 1e-4
    ledger: bool = True
    grow_window: bool = True
    idle_below_cells: Annotated[float, Field(ge=0, le=1e6)] = 1.0

    @model_validator(mode="after")
    def _odd(self):
        if self.stepper == "rkl2" and self.stages % 2 == 0:
            raise ValueError("stages must be odd")
        if self.precision == "float32" and self.elliptic_tolerance < 1e-6:
            raise ValueError("elliptic_tolerance below 1e-6 needs precision = 'float64'")
        return self


class Outcome(Section):
    """Thresholds of what a scanner shows, and burdens that end a course."""

    t1gd_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.80
    flair_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.16
    progression_cells: Positive = 3e9
    fatal_cells: Positive = 9e9
    compare_days: list[Day] = Field(default_factory=list)
    scan_every_days: Annotated[float, Field(ge=1, le=1e4)] = 28.0
    confirm_days: Annotated[float, Field(ge=0, le=1e4)] = 28.0


class Output(Section):
    directory: Line | None = None
    xdmf: bool = False
    figures: bool = True
    animation: bool = True


_TISSUE: TypeAdapter[Any] = TypeAdapter(
    Annotated[AtlasTissue | NiftiTissue | PhantomTissue | RadialTissue, Field(discriminator="kind")]
)
SECTIONS: dict[str, Any] = {
    "tissue": _TISSUE,
    "tumour": TypeAdapter(Tumour),
    "carriers": TypeAdapter(Carriers),
    "attractant": TypeAdapter(Attractant),
    "prodrug": TypeAdapter(Prodrug),
    "drug": TypeAdapter(Drug),
    "trail": TypeAdapter(Trail),
    "immune": TypeAdapter(Immune),
    "malignancy": TypeAdapter(Malignancy),
    "resistance": TypeAdapter(Resistance),
    "temozolomide": TypeAdapter(Temozolomide),
    "surgery": TypeAdapter(Surgery),
    "radiotherapy": TypeAdapter(Radiotherapy),
    "oxygen": TypeAdapter(Oxygen),
    "necrosis": TypeAdapter(Necrosis),
    "vasculature": TypeAdapter(Vasculature),
    "anisotropy": TypeAdapter(Anisotropy),
    "schedule": TypeAdapter(Schedule),
    "time": TypeAdapter(Time),
    "numerics": TypeAdapter(Numerics),
    "outcome": TypeAdapter(Outcome),
    "output": TypeAdapter(Output),
    "study": TypeAdapter(Comparison),
    "sensitivity": TypeAdapter(Sensitivity),
}

REQUIRED = ("tissue", "tumour", "time")
DEFAULTED = ("schedule", "numerics", "outcome", "output")
ABOUT = ("study", "sensitivity")
"""Sections that say what a configuration is for; they change no run."""
BIOLOGY = tuple(n for n in SECTIONS if n not in (*REQUIRED, *DEFAULTED, *ABOUT) or n == "tumour")
"""Sections that switch a module on."""

CAPACITY = PARAMETERS["capacity_cells_per_mm3"]


class Config(BaseModel):
    """One arm, complete and checked. ``None`` sections are modules that are off."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    title: str
    label: str = ""
    arm: str = "run"
    preset: str | None = None
    capacity_cells_per_mm3: float = CAPACITY.default
    tissue: Any
    tumour: Any
    carriers: Any = None
    attractant: Any = None
    prodrug: Any = None
    drug: Any = None
    trail: Any = None
    immune: Any = None
    malignancy: Any = None
    resistance: Any = None
    temozolomide: Any = None
    surgery: Any = None
    radiotherapy: Any = None
    oxygen: Any = None
    necrosis: Any = None
    vasculature: Any = None
    anisotropy: Any = None
    schedule: Any
    time: Any
    numerics: Any
    outcome: Any
    output: Any
    study: Any = None
    sensitivity: Any = None
    folder: str = "."

    def to_json(self) -> str:
        """The resolved arm, readable by `from_json`."""
        return self.model_dump_json(exclude={"folder"}, exclude_none=True)


class Study(BaseModel):
    """All arms of a file, in its order.

    Attributes:
        label: that of the file; arms may have labels of their own.
    """

    model_config = ConfigDict(frozen=True)

    title: str
    label: str = ""
    arms: list[Config]
    text: str
    path: str
