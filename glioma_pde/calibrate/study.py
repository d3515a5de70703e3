"""A problem in one call, from models, measurements and free parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import qmc

from ..delivery import Schedule
from ..errors import ConfigError
from ..model import Model
from .data import Measurements, check
from .formula import Formula
from .forward import Simulation, Start, Uniform, conditions, is_parameter, with_parameters
from .noise import Noise
from .observation import Observation
from .problem import Free, Problem, parameter_problems

LOOKS = 32
"""Points within the bounds at which `stable_step` looks."""


def make_problem(
    models: Model | Mapping[str, Model],
    data: Measurements | Sequence[Mapping[str, Any]],
    free: Sequence[Free],
    observations: Sequence[Observation],
    noises: Sequence[Noise],
    start: Start | None = None,
    schedules: Mapping[str, Schedule] | None = None,
    derived: Mapping[str, str] | None = None,
    fixed: Mapping[str, Any] | None = None,
    step_days: float = 0.5,
    end_day: float | None = None,
) -> Problem:
    """The problem of all subjects of ``data``.

    Args:
        models: of each arm by name, or one for all.
        schedules: by arm, empty for those left out. All arms of a problem need schedules of the same shapes: where some are
            treated, the others get the same events with amounts of zero.
        data: a table, or its rows as dictionaries.
        noises: of each observation.
        start: initial tumour; by default uniform, with the parameter ``tumour.initial.fraction``.
        derived: formulas of further parameters. fixed: values, or one for each subject.
        step_days: longest time step; it is shortened by `stable_step`.
        end_day: the latest that a measurement may have; by default that of the last one. Nothing is simulated beyond these.

    Raises:
        ConfigError: everything wrong with the measurements, by row, with the parameters, and with arms that differ in more
            than numbers.
    """
    data = data if isinstance(data, Measurements) else Measurements.of(data)
    arms = sorted(set(map(str, data.arm)))
    by_arm = dict(models) if isinstance(models, Mapping) else dict.fromkeys(arms, models)
    last = float(data.time.max()) if end_day is None else end_day
    problems = check(data, [o.name for o in observations], noises, list(by_arm), (0.0, last))
    formulas: tuple[tuple[str, Formula], ...] = ()
    try:
        formulas = tuple((name, Formula(text)) for name, text in (derived or {}).items())
    except ValueError as error:
        problems.append(f"derived: {error}")
    simulation = Simulation(tuple(observations), formulas)
    if len(formulas) == len(derived or {}):
        problems += parameter_problems(simulation, free, noises, fixed or {})
    if problems:
        raise ConfigError(problems, "problem")
    step = stable_step(by_arm.values(), simulation, free, fixed or {}, step_days)
    mine = [data.arm_of(s) for s in data.subjects]
    untreated = Schedule()
    plans = [(schedules or {}).get(a, untreated) for a in mine]
    times = [data.time[data.subject == s] for s in data.subjects]
    begin = start or Uniform()
    try:
        batch, days = conditions([by_arm[a] for a in mine], plans, [begin] * len(mine), times, step)
        return Problem.of(simulation, batch, np.asarray(days), data, free, noises, fixed)
    except ValueError as error:
        raise ConfigError(str(error).split("; "), "problem") from None


def stable_step(
    models: Collection[Model], simulation: Simulation, free: Sequence[Free], fixed: Mapping[str, Any], longest: float
) -> float:
    """Longest time step [day], at most ``longest``, at which the models are stable wherever in their bounds the free
    parameters are; derived and fixed parameters count.

    The fastest loss grows or falls with each parameter, and through a formula of several it grows with some and falls with
    others (a diffusivity v²/4ρ). The corner where it is largest is therefore looked for: from the lower ends, the upper
    ones, and the corner next to the worst of `LOOKS` points within, to the worst neighbour along an edge until none
    is worse. Those points count too, in case a formula has its largest value between the ends.

    Raises:
        ConfigError: if a formula makes a loss infinite within the bounds.
    """
    ends = [(f.low, f.high) for f in free] + [(float(np.min(v)), float(np.max(v))) for v in fixed.values()]
    low, high = np.asarray(ends, float).reshape(-1, 2).T
    names = (*(f.name for f in free), *fixed)
    points = low + (high - low) * qmc.Sobol(max(1, len(names)), rng=0).random(LOOKS)[:, : len(names)]
    edges = np.eye(len(names), dtype=bool)
    step = longest
    for model in models:
        seen = _losses(model, simulation, names, points)
        worst = float(np.max(seen))
        nearest = points[np.argmax(seen)] > 0.5 * (low + high)
        for corner in (np.zeros(len(names), bool), np.ones(len(names), bool), nearest):
            before = -np.inf
            while True:
                around = np.concatenate([corner[None], corner[None] ^ edges])
                rates = _losses(model, simulation, names, np.where(around, high, low))
                if not np.max(rates) > before:
                    break
                before, corner = float(np.max(rates)), around[np.argmax(rates)]
            worst = max(worst, before)
        if not np.isfinite(worst):
            text = (
                "parameters: somewhere within their bounds a loss is infinite; narrow those that a formula divides by"
            )
            raise ConfigError([text], "problem")
        step = min(step, 1.0 / worst if worst > 0 else np.inf)
    return float(step)


def _losses(model: Model, simulation: Simulation, names: Sequence[str], values: np.ndarray) -> np.ndarray:
    """The fastest loss [1/day] at each row of natural values; zero where a formula has no value."""
    rates = np.asarray(_mapped_losses(model, simulation, tuple(names), jnp.asarray(values)), float)
    return np.where(np.isnan(rates), 0.0, rates)


@eqx.filter_jit
def _mapped_losses(model: Model, simulation: Simulation, names: tuple[str, ...], values: Array) -> Array:
    def one(row):
        theta = simulation.complete({n: row[k] for k, n in enumerate(names)})
        mine = {n: v for n, v in theta.items() if is_parameter(model, n)}
        there = with_parameters(model, mine)
        infinite = jnp.any(jnp.isinf(jnp.stack([jnp.zeros(()), *mine.values()])))
        return jnp.where(infinite, jnp.inf, there.loss_rate(there.prepare()))

    return jax.lax.map(one, values)
