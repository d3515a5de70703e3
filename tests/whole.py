"""Models with any of the modules and laws at once, in one call: what is to hold whatever is switched on together.

A `Kind` says what is on, a dictionary of parameters gives every number by its name in `TYPICAL`, and an `Arrangement` has
the arrays of a schedule. All three can be drawn by a seed or by hypothesis; of a kind, examples differ in leaves alone.
Lengths in mm, times in days, densities as fractions of K.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from glioma_pde.biology.attractant import Attractant, DynamicAttractant
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug, DynamicDrug
from glioma_pde.biology.immune import ConstantClearance, ImmuneResponse, PrimedImmuneResponse, Suppression
from glioma_pde.biology.laws import (
    COMBINATION,
    GROWTH,
    FluxLimited,
    Hill,
    Linear,
    LinearSensing,
    LogarithmicSensing,
    ReceptorSensing,
)
from glioma_pde.biology.malignancy import Malignancy
from glioma_pde.biology.necrosis import Necrosis
from glioma_pde.biology.oxygen import Oxygen
from glioma_pde.biology.prodrug import Boluses, Courses, DynamicProdrug, Prodrug
from glioma_pde.biology.radiotherapy import Radiotherapy
from glioma_pde.biology.resistance import Resistance
from glioma_pde.biology.surgery import Resections, ThresholdResections
from glioma_pde.biology.temozolomide import OralDoses, Temozolomide
from glioma_pde.biology.trail import Trail
from glioma_pde.biology.tumour import Tumour
from glioma_pde.biology.vasculature import DynamicVasculature, Vasculature
from glioma_pde.delivery import CarrierDoses, Intracavity, Intravenous, Intraventricular, Schedule
from glioma_pde.grid import Grid
from glioma_pde.model import Model
from glioma_pde.numerics.stepping import SSPRK2
from glioma_pde.tissue import Tissue

OFF = "off"


class Kind(NamedTuple):
    """What is on, and by which law."""

    growth: str = "logistic"
    kill: str = "hill"
    sensing: str = "flux_limited"
    filling: bool = False
    crowding: bool = False
    substances: str = "quasi_steady"
    """Attractant, prodrug and drug: also ``dynamic``, or ``held`` (a pool that is never depleted)."""
    resistance: bool = True
    temozolomide: str = "additive"
    radiotherapy: str = "linear_quadratic"
    surgery: str = "open"
    """A ball that stays ``open`` or is ``closed``, or what is tumour ``at_threshold``, which is then closed."""
    immune: str = "primed"
    malignancy: bool = True
    trail: str = "own"
    """Or counted as a ``drug``."""
    environment: str = "dynamic"
    """Oxygen, necrosis, and vessels that are ``dynamic`` or ``quasi_steady``."""
    tensors: str = OFF
    """``followed``, or ``guiding`` carriers as well."""
    route: str = "intracavity"
    """Of the second group of doses; the first is given by needles."""


LEVELS: dict[str, tuple[Any, ...]] = {
    "growth": ("logistic", "gompertz", "exponential"),
    "kill": ("hill", "linear"),
    "sensing": ("flux_limited", "linear", "receptor", "logarithmic"),
    "filling": (False, True),
    "crowding": (False, True),
    "substances": ("quasi_steady", "held", "dynamic"),
    "resistance": (False, True),
    "temozolomide": (OFF, "additive", "bliss"),
    "radiotherapy": (OFF, "linear_quadratic", "rockne"),
    "surgery": ("open", "closed", "at_threshold"),
    "immune": (OFF, "constant", "primed"),
    "malignancy": (False, True),
    "trail": (OFF, "own", "drug"),
    "environment": (OFF, "quasi_steady", "dynamic"),
    "tensors": (OFF, "followed", "guiding"),
    "route": ("intracavity", "intraventricular", "intravenous"),
}

TYPICAL: dict[str, float] = {
    "K": 1e5,
    "D_w": 0.13, "D_g": 0.03, "rho": 0.2,
    "D_sw": 0.05, "D_sg": 0.02, "rho_s": 0.1, "loss": 0.21, "gamma": 0.5, "kappa": 0.3, "h": 0.5, "eps": 0.2,
    "alpha_s": 0.03, "alpha_beta_s": 8.0,
    "speed": 0.27, "length": 1.0, "offset": 0.05, "chi": 0.12, "K_a": 0.8,
    "D_a": 0.5, "lambda_a": 1.7, "beta": 1.7,
    "half_life": 7.0, "volume": 0.78, "available": 0.85, "molar": 129.0, "ratio": 0.75, "k_ex": 4.0, "k_exl": 6.0,
    "vmax": 3e-14, "km": 800.0, "D_p": 0.5,
    "D_c": 0.6, "lambda_c": 8.0, "efflux": 1.0, "effluxl": 5.0, "uptake": 2.0, "q": 5e-16,
    "emax": 0.35, "ic50": 5.0, "n": 1.6, "k": 0.05,
    "mu_0": 0.02, "mu_c": 0.1, "omega": 0.2, "alpha_r": 0.7, "beta_r": 0.8,
    "k_a": 1.8, "cl": 10.0, "v": 30.3, "pi_t": 0.2, "k_x": 0.76, "m_t": 194.15, "bsa": 1.8,
    "emax_t": 0.4, "ic50_t": 5.0, "n_t": 1.4, "k_t": 0.07,
    "alpha": 0.06, "alpha_beta": 10.0, "edge": 1.5, "threshold": 0.3,
    "D_l": 1.4, "lambda_l": 33.0, "q_l": 4e-15, "emax_l": 0.3, "ic50_l": 10.0, "n_l": 1.3,
    "kappa_i": 0.4, "D_i": 0.1, "sigma_i": 0.6, "K_i": 0.02, "d_i": 0.4, "pi_i": 2.0, "x_half": 1e5, "d_m": 0.1,
    "mu_m": 0.05, "rho_m": 0.1, "D_mw": 0.1, "D_mg": 0.04, "eps_m": 0.5,
    "sigma_n": 35.0, "sigma_b": 60.0, "D_o": 170.0, "k_o": 5e4, "eta": 1.5, "K_o": 5.0, "oer": 3.0, "oer_half": 3.0,
    "kappa_n": 0.3, "below_n": 60.0, "c_n": 0.1,
    "collapse": 0.5, "collapse_at": 0.5, "recovery": 0.2, "leaky_at": 0.5, "sprout": 0.3, "sprout_below": 70.0,
    "strength": 0.7, "thickness": 1.5,
}  # fmt: skip
"""Every parameter at a value at which it matters within two days; away from the kinks of the laws."""


def near_typical(rng) -> dict[str, Any]:
    """A patient: every parameter within 15 % of `TYPICAL`."""
    return {name: jnp.asarray(value * rng.uniform(0.85, 1.15)) for name, value in TYPICAL.items()}


def anatomy(grid: Grid, rng, tensors: bool = False) -> Tissue:
    """Rough tissue with missing cells, a ventricle at one end, and a cavity from an operation before that is open."""
    share, mask = rng.uniform(0.1, 0.9, grid.shape), np.ones(grid.shape, bool)
    fluid, cavity = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
    fluid[-1:] = True
    cavity[tuple(slice(n // 2 - 1, n // 2 + 1) for n in grid.shape)] = True
    if grid.ndim > 1:
        mask[(0,) * grid.ndim] = mask[(0, *(n - 1 for n in grid.shape[1:]))] = False
        mask[1, grid.shape[1] // 2] = False
    mask &= ~fluid
    white = np.where(mask, share, 0.0)
    grey = np.where(mask, 1.0 - share, 0.0)
    tissue = Tissue.from_arrays(white, grey, mask=mask, grid=grid, ventricle=fluid, cavity=cavity)
    return tissue.with_tensors(_fibres(grid, rng)) if tensors else tissue


def _fibres(grid: Grid, rng) -> np.ndarray:
    """Tensors whose axis turns slowly through the grid, three times as fast along it as across."""
    x = grid.world_mm()
    angle = 0.15 * x[0] + 0.1 * x[1] + rng.uniform(0, np.pi)
    along = np.stack([np.cos(angle), np.sin(angle)] + [np.zeros(grid.shape)] * (grid.ndim - 2), axis=-1)
    return np.eye(grid.ndim) + 2.0 * along[..., :, None] * along[..., None, :]


Arrangement = dict[str, Any]
"""Arrays of a schedule: days as fractions of the run, and amounts."""


def arrangement(grid: Grid, rng) -> Arrangement:
    """Two of everything: doses, fractions, operations, tablets and windows; one dose falls on a save day."""
    reach = 0.25 * min(n * h for n, h in zip(grid.shape, grid.spacing_mm, strict=True))
    volume = {1: 1.0, 2: 3.0, 3: 8.0}[grid.ndim]
    share = rng.uniform(0.4, 0.6, 2)

    def near(*days):
        return np.asarray(days) + rng.uniform(-0.01, 0.01, len(days))

    out = {
        "start": near(0.22, 0.71), "end": near(0.43, 0.87), "rate": rng.uniform(100, 180, 2),
        "bolus": near(0.36), "mg": rng.uniform(30, 50, 1),
        "tablet": near(0.08, 0.58), "mg_m2": rng.uniform(100, 200, 2),
        "dexa": near(0.27, 0.66), "until": near(0.47, 0.93), "fraction": rng.uniform(0.3, 0.8, 2),
        "fractions": near(0.31, 0.78), "gray": rng.uniform(1.5, 3.0, 2), "map": rng.uniform(0.5, 1.1, grid.shape),
        "cut": near(0.41, 0.82), "centre": rng.uniform(-reach, reach, (2, grid.ndim)),
        "radius": rng.uniform(1.2, 1.8, 2), "margin": rng.uniform(0.2, 0.4, 2), "taken": rng.uniform(0.6, 0.9, 2),
        "dose": np.array([0.13, 0.5]), "cells": 0.2 * volume * rng.uniform(0.8, 1.2, 2),
        "kept": rng.uniform(0.6, 0.8, 2), "back": rng.uniform(0.05, 0.1, 2),
        "site": rng.uniform(-reach, reach, (2, 2, grid.ndim)), "sigma": rng.uniform(1.0, 1.6, (2, 2)),
        "share": np.stack([share, 1.0 - share], axis=1),
        "dose_2": near(0.17, 0.62), "cells_2": 0.1 * volume * rng.uniform(0.8, 1.2, 2),
    }  # fmt: skip
    return {name: jnp.asarray(value) for name, value in out.items()}


def rough_start(tissue: Tissue, rng) -> dict[str, Any]:
    """Positive fields that differ from cell to cell: tumour up to 0.6, carriers up to 0.1."""
    x = tissue.grid.world_mm()
    bump = np.exp(-np.sum((x - rng.uniform(-0.8, -0.4)) ** 2, axis=0) / (2 * 2.5**2))
    return {
        "tumour": jnp.asarray((0.05 + 0.5 * bump) * rng.uniform(0.9, 1.1, tissue.grid.shape)),
        "carriers": jnp.asarray(rng.uniform(0.02, 0.1, tissue.grid.shape)),
    }


def model_of(kind: Kind, p: dict[str, Any], tissue: Tissue, r: Arrangement, days: Any, tolerance: float) -> Model:
    """The model of that kind. ``days``: length of the run, of which the arrangement's days are fractions."""
    strength = None if kind.tensors == OFF else p["strength"]
    modules = [
        Tumour(p["D_w"], p["D_g"], p["rho"], growth=GROWTH[kind.growth](), one_sided_growth=kind.crowding, anisotropy=strength),
        Carriers(
            p["D_sw"], p["D_sg"], p["rho_s"], p["loss"], p["gamma"] if kind.crowding else 0.0, p["kappa"], p["h"], p["eps"],
            p["alpha_s"], p["alpha_beta_s"], taxis=_sensing(kind.sensing, p), volume_filling=kind.filling,
            anisotropy=strength, contact_guidance=kind.tensors == "guiding",
        ),
        *_substances(kind, p, r, days, tolerance),
    ]  # fmt: skip
    if kind.resistance:
        modules.append(Resistance(p["mu_0"], p["mu_c"], p["omega"], p["alpha_r"], p["beta_r"]))
    if kind.temozolomide != OFF:
        rates = (p[n] for n in ("k_a", "cl", "v", "pi_t", "k_x", "m_t", "bsa"))
        kill = Hill(p["emax_t"], p["ic50_t"], p["n_t"]) if kind.kill == "hill" else Linear(p["k_t"])
        modules.append(Temozolomide(OralDoses(days * r["tablet"], r["mg_m2"]), *rates, kill=kill))
    if kind.trail != OFF:
        law = Hill(p["emax_l"], p["ic50_l"], p["n_l"])
        as_drug = kind.trail == "drug"
        modules.append(Trail(p["D_l"], p["lambda_l"], p["q_l"], kill=law, counts_as_drug=as_drug, tolerance=tolerance))
    if kind.immune != OFF:
        windows = Suppression(days * r["dexa"], days * r["until"], r["fraction"])
        rates = [p[n] for n in ("kappa_i", "D_i", "sigma_i", "K_i", "d_i")]
        modules.append({
            "constant": lambda: ConstantClearance(windows, p["kappa_i"]),
            "field": lambda: ImmuneResponse(windows, *rates),
            "primed": lambda: PrimedImmuneResponse(windows, *rates, p["pi_i"], p["x_half"], p["d_m"]),
        }[kind.immune]())  # fmt: skip
    if kind.malignancy:
        rates = (p[n] for n in ("mu_m", "rho_m", "D_mw", "D_mg", "eps_m"))
        modules.append(Malignancy(*rates, one_sided_growth=kind.crowding))
    if kind.environment != OFF:
        modules += _environment(kind, p, tolerance)
    together = None if kind.temozolomide == OFF else COMBINATION[kind.temozolomide]()
    return Model(tissue, modules, p["K"], SSPRK2(), combination=together)


def _sensing(name: str, p):
    return {
        "flux_limited": lambda: FluxLimited(p["speed"], p["length"], p["offset"]),
        "linear": lambda: LinearSensing(p["chi"]),
        "receptor": lambda: ReceptorSensing(p["chi"], p["K_a"]),
        "logarithmic": lambda: LogarithmicSensing(p["chi"], p["offset"]),
    }[name]()


def _substances(kind: Kind, p, r, days, tolerance):
    """Attractant, prodrug and drug."""
    doses = Courses(days * r["start"], days * r["end"], r["rate"]), Boluses(days * r["bolus"], r["mg"])
    plasma = [p[n] for n in ("half_life", "volume", "available", "molar", "ratio", "k_ex", "vmax", "km")]
    loss = [p[n] for n in ("D_c", "lambda_c", "efflux", "uptake", "q")]
    kill = Hill(p["emax"], p["ic50"], p["n"]) if kind.kill == "hill" else Linear(p["k"])
    scent = p["D_a"], p["lambda_a"], p["beta"]
    leaky = {"leaky_exchange_per_day": p["k_exl"]}, {"leaky_efflux_per_day": p["effluxl"]}
    if kind.substances == "dynamic":
        return [
            DynamicAttractant(*scent, tolerance=tolerance),
            DynamicProdrug(*doses, *plasma, **leaky[0], diffusivity_mm2_per_day=p["D_p"]),
            DynamicDrug(*loss, kill=kill, tolerance=tolerance, **leaky[1]),
        ]
    return [
        Attractant(*scent, tolerance=tolerance),
        Prodrug(*doses, *plasma, depletable=kind.substances != "held", **leaky[0]),
        Drug(*loss, kill=kill, tolerance=tolerance, **leaky[1]),
    ]


def _environment(kind: Kind, p, tolerance):
    oxygen = (p[n] for n in ("sigma_n", "sigma_b", "D_o", "k_o", "eta", "K_o", "oer", "oer_half"))
    vessels = [p[n] for n in ("collapse", "collapse_at", "recovery", "leaky_at")]
    moving = kind.environment == "dynamic"
    return [
        Oxygen(*oxygen, tolerance=tolerance),
        Necrosis(p["kappa_n"], p["below_n"], p["c_n"]),
        DynamicVasculature(*vessels, p["sprout"], p["sprout_below"]) if moving else Vasculature(*vessels),
    ]


def schedule_of(kind: Kind, p: dict[str, Any], r: Arrangement, days: Any) -> Schedule:
    """Operations, fractions, doses by needles and doses along the kind's route, in this order."""
    events: list[Any] = [_surgery(kind, p, r, days)]
    if kind.radiotherapy != OFF:
        events.append(
            Radiotherapy(days * r["fractions"], r["gray"], p["alpha"], p["alpha_beta"], r["map"], kind.radiotherapy)
        )
    events.append(
        CarrierDoses(
            days * r["dose"], r["cells"] * p["K"], r["kept"], r["site"], r["sigma"], r["share"],
            backflow_fraction=r["back"],
        )
    )  # fmt: skip
    route = {
        "intracavity": lambda: Intracavity(p["thickness"]),
        "intraventricular": lambda: Intraventricular(p["thickness"]),
        "intravenous": lambda: Intravenous("tumour_cells" if kind.environment == OFF else "vessel_leakiness"),
    }[kind.route]()
    second = CarrierDoses.along(route, days * r["dose_2"], r["cells_2"] * p["K"])
    events.append(second)
    return Schedule(tuple(events))


def _surgery(kind: Kind, p, r, days) -> Resections:
    rows = days * r["cut"], r["centre"], r["radius"], r["margin"], r["taken"], p["edge"]
    if kind.surgery == "at_threshold":
        return ThresholdResections(*rows, closed=True, threshold=jnp.broadcast_to(p["threshold"], r["cut"].shape))
    return Resections(*rows, closed=kind.surgery == "closed")
