"""Radiotherapy: cells survive each fraction, at its exact time, by the linear-quadratic law.

    x ← x S,   S = exp(−αd − βd²),   β = α/(α/β)

or, for tumour fields, in the form of Rockne et al. (2009), in which only cells with room to grow are at risk:

    u ← u (1 − (1 − S)(1 − N_u)₊),   N_u = Σ tumour fields

The dose of a fraction is d = d₀ D(x) f(x): the prescribed dose d₀, a dose map D relative to it (1 without one), and the
dose-modifying factor f of hypoxia, the quantity ``oer_factor`` where a module provides it (1: fully oxic).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..parameters import default
from .base import Event, Observable, total

FORMS = ("linear_quadratic", "rockne")
"""Forms of survival."""


def log_survival(dose_gy: Array, alpha_per_gy: Array | float, beta_per_gy2: Array | float) -> Array:
    """ln S = −αd − βd²."""
    return -(alpha_per_gy + beta_per_gy2 * dose_gy) * dose_gy


def biologically_effective_dose(dose_gy: Array, alpha_beta_gy: Array | float) -> Array:
    """BED = d(1 + d/(α/β)) of one fraction [Gy]; fractions add up. Growth between them is not taken off."""
    return dose_gy * (1.0 + dose_gy / alpha_beta_gy)


class Radiotherapy(Event):
    """Fractions of one course, one row per fraction. A dose of zero is no fraction.

    Radiation kills what `Module.radiosensitivity` of the model's modules names: all tumour fields, and other cells
    where their own module says so (carriers with an α of their own; not a malignant clone).

    Attributes:
        day: ``(E,)`` [day].
        dose_gy: prescribed dose d₀ of each fraction, ``(E,)`` [Gy].
        alpha_per_gy: α of the tumour [1/Gy].
        alpha_beta_gy: α/β of the tumour [Gy].
        dose_map: D(x), dose relative to the prescribed one, of the grid's shape; ``None``: 1 everywhere.
        form: one of `FORMS`. Cells other than the tumour's always follow the first.
    """

    needs: ClassVar = ("tumour",)
    scalars: ClassVar = (
        Observable("radiation_dose", "Gy", "prescribed radiation dose so far", "last"),
        Observable("radiation_bed", "Gy", "biologically effective dose so far", "last"),
        Observable("radiation_dose_tumour", "Gy", "radiation dose so far, mean over the tumour cells there", "last"),
    )

    day: Array
    dose_gy: Array
    alpha_per_gy: Array | float = default("radiotherapy.alpha_per_gy")
    alpha_beta_gy: Array | float = default("radiotherapy.alpha_beta_gy")
    dose_map: Array | None = None
    form: str = eqx.field(static=True, default=FORMS[0])

    def __check_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"form is one of {', '.join(FORMS)}, not {self.form!r}.")

    @classmethod
    def on_days(cls, days: Sequence[float] | Array, dose_gy: Any, **more: Any) -> Radiotherapy:
        """Fractions on each of ``days``, of one dose or one for each [Gy].

        Raises:
            ValueError: if there are none, or a dose or a value of the map is negative or not finite.
        """
        day = jnp.atleast_1d(jnp.asarray(days, float))
        if day.size == 0:
            raise ValueError("Radiotherapy needs at least one fraction.")
        dose = jnp.asarray(dose_gy, float)
        if dose.shape not in ((), day.shape):
            raise ValueError(f"{dose.size} doses do not fit {day.size} fractions.")
        dose = jnp.broadcast_to(dose, day.shape)
        for name, values in (("doses", dose), ("values of the dose map", more.get("dose_map"))):
            if values is None or isinstance(values, jax.core.Tracer):
                continue
            if not np.all(np.isfinite(values)) or np.min(values) < 0:
                raise ValueError(f"Radiation {name} must be finite and not negative.")
        return cls(day, dose, **more)

    def entries(self, model):
        killed = {f"radiation_kill_{name}": (name, -1.0) for name in self._sensitivities(model)}
        return {**killed, "radiation_dose": None, "radiation_bed": None, "radiation_dose_tumour": None}

    def jump(self, x, model, i, quantities=dict):
        integrate, prescribed = model.tissue.grid.integrate, self.dose_gy[i]
        dose = self._dose(model, i)
        tumour = total(x, model.tumour)
        effective = dose
        if any("oer_factor" in module.provides for module in model.modules):
            effective = dose * quantities()["oer_factor"]
        after, amounts = dict(x), {}
        for name, (alpha, beta) in self._sensitivities(model).items():
            log = log_survival(effective, alpha, beta)
            killed = -jnp.expm1(log)
            if self.form == "rockne" and name in model.tumour:
                killed = killed * jnp.maximum(1.0 - tumour, 0.0)
                after[name] = (1.0 - killed) * x[name]
            else:
                after[name] = jnp.exp(log) * x[name]
            amounts[f"radiation_kill_{name}"] = integrate(killed * x[name])
        present = integrate(tumour)
        amounts["radiation_dose"] = prescribed
        amounts["radiation_bed"] = biologically_effective_dose(prescribed, self.alpha_beta_gy)
        amounts["radiation_dose_tumour"] = integrate(dose * tumour) / jnp.where(present > 0, present, 1.0)
        return after, amounts

    def cut(self, cells):
        if self.dose_map is None:
            return self
        return eqx.tree_at(lambda e: e.dose_map, self, self.dose_map[cells])

    def look(self, model, ledger):
        return {o.name: ledger[o.name] for o in self.scalars if o.name in ledger}

    def _dose(self, model: Any, i: Array) -> Array:
        """d₀ D of fraction ``i`` [Gy], a scalar or of the grid's shape."""
        if self.dose_map is None:
            return self.dose_gy[i]
        shape, needed = jnp.shape(self.dose_map), model.tissue.grid.shape
        if shape != needed:
            raise ValueError(f"The dose map has shape {shape}, the grid has {needed}.")
        return self.dose_gy[i] * self.dose_map

    def _sensitivities(self, model: Any) -> dict[str, tuple[Any, Any]]:
        """α [1/Gy] and β [1/Gy²] of each field of cells that radiation kills."""
        own = self.alpha_per_gy, self.alpha_per_gy / self.alpha_beta_gy
        return {name: of for module in model.modules for name, of in module.radiosensitivity(*own).items()}
