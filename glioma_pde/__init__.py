"""Continuum PDE model of brain tumours under stem-cell therapy: the public names.

They are imported when first used, so that ``glioma-pde check`` starts without JAX.
"""

# ruff: noqa: F401
from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .biology.attractant import Attractant
    from .biology.carriers import Carriers
    from .biology.drug import Drug
    from .biology.immune import ConstantClearance, ImmuneResponse, PrimedImmuneResponse, Suppression
    from .biology.laws import (
        Additive,
        Bliss,
        Exponential,
        FluxLimited,
        Gompertz,
        Hill,
        Linear,
        LinearSensing,
        LogarithmicSensing,
        Logistic,
        ReceptorSensing,
    )
    from .biology.malignancy import Malignancy
    from .biology.necrosis import Necrosis
    from .biology.oxygen import Oxygen
    from .biology.prodrug import Boluses, Courses, Prodrug
    from .biology.radiotherapy import Radiotherapy
    from .biology.resistance import Resistance
    from .biology.surgery import Resections, ThresholdResections
    from .biology.temozolomide import OralDoses, Temozolomide
    from .biology.trail import Trail
    from .biology.tumour import Tumour
    from .biology.vasculature import DynamicVasculature, Vasculature
    from .build import build
    from .calibrate.data import Measurements
    from .calibrate.images import fit_images, predict_images
    from .calibrate.noise import Noise
    from .calibrate.observation import Observation
    from .calibrate.optimise import fit, fit_sets
    from .calibrate.population import Population
    from .calibrate.population_search import fit_population
    from .calibrate.predict import predict
    from .calibrate.problem import Free, Problem
    from .calibrate.sample import sample
    from .calibrate.scans import Scan, cellularity_on, shares_on
    from .calibrate.study import make_problem
    from .calibrate.uncertainty import laplace, profiles, verdicts
    from .config import load as load_config
    from .control import make_controlled_plan
    from .delivery import (
        CarrierDoses,
        Intracavity,
        Intracerebral,
        Intranasal,
        Intravenous,
        Intraventricular,
        Route,
        Schedule,
    )
    from .errors import ConfigError, GliomaError
    from .grid import Grid
    from .io.atlas import mni152
    from .io.hdf5 import RunFile
    from .io.nifti import tissue_from_nifti
    from .io.tensors import tensors_from_nifti
    from .model import Model
    from .risk import event_bound, no_event, transformation_bound
    from .run import run
    from .schedule import make_plan, stack
    from .solve import Solution, simulate, solve
    from .tissue import Tissue

__version__ = "0.1.0"

_NAMES = {
    "biology.attractant": ["Attractant"],
    "biology.carriers": ["Carriers"],
    "biology.drug": ["Drug"],
    "biology.immune": ["ConstantClearance", "ImmuneResponse", "PrimedImmuneResponse", "Suppression"],
    "biology.laws": [
        "Logistic", "Gompertz", "Exponential", "Hill", "Linear",
        "LinearSensing", "ReceptorSensing", "LogarithmicSensing", "FluxLimited", "Additive", "Bliss",
    ],
    "biology.malignancy": ["Malignancy"],
    "biology.necrosis": ["Necrosis"],
    "biology.oxygen": ["Oxygen"],
    "biology.prodrug": ["Boluses", "Courses", "Prodrug"],
    "biology.radiotherapy": ["Radiotherapy"],
    "biology.resistance": ["Resistance"],
    "biology.surgery": ["Resections", "ThresholdResections"],
    "biology.temozolomide": ["OralDoses", "Temozolomide"],
    "biology.trail": ["Trail"],
    "biology.tumour": ["Tumour"],
    "biology.vasculature": ["DynamicVasculature", "Vasculature"],
    "build": ["build"],
    "calibrate.data": ["Measurements"],
    "calibrate.images": ["fit_images", "predict_images"],
    "calibrate.noise": ["Noise"],
    "calibrate.observation": ["Observation"],
    "calibrate.optimise": ["fit", "fit_sets"],
    "calibrate.population": ["Population"],
    "calibrate.population_search": ["fit_population"],
    "calibrate.predict": ["predict"],
    "calibrate.problem": ["Free", "Problem"],
    "calibrate.sample": ["sample"],
    "calibrate.scans": ["Scan", "cellularity_on", "shares_on"],
    "calibrate.study": ["make_problem"],
    "calibrate.uncertainty": ["laplace", "profiles", "verdicts"],
    "config": ["load_config"],
    "control": ["make_controlled_plan"],
    "delivery": [
        "CarrierDoses", "Intracavity", "Intracerebral", "Intranasal", "Intravenous", "Intraventricular", "Route",
        "Schedule",
    ],
    "errors": ["ConfigError", "GliomaError"],
    "grid": ["Grid"],
    "io.atlas": ["mni152"],
    "io.hdf5": ["RunFile"],
    "io.nifti": ["tissue_from_nifti"],
    "io.tensors": ["tensors_from_nifti"],
    "model": ["Model"],
    "risk": ["event_bound", "no_event", "transformation_bound"],
    "run": ["run"],
    "schedule": ["make_plan", "stack"],
    "solve": ["Solution", "simulate", "solve"],
    "tissue": ["Tissue"],
}  # fmt: skip
_RENAMED = {"load_config": "load"}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_HOME[name]}", __name__)
    value = getattr(module, _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # An import of the file solve.py would otherwise put the module in the place of the function `solve`.
        if isinstance(value, ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
