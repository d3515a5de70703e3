"""A problem in one call, from models, measurements and free parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..delivery import Schedule
from ..errors import ConfigError
from ..model import Model
from .data import Measurements, check
from .formula import Formula
from .forward import Simulation, Start, Uniform, conditions, is_parameter, with_parameters
from .noise import Noise
from .observation import Observation
from .problem import Free, Problem, parameter_problems


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
    """Longest time step [day], at most ``longest``, at which the models are stable with all free parameters at their lower
    bounds, and with all at their upper ones; derived and fixed parameters count.

    Rates grow with the parameters of the models, so that these two corners bound them. Where a formula falls with one free
    parameter and rises with another (a diffusivity from v²/4ρ), its extreme lies at a corner that is not looked at: give
    a shorter step there.
    """
    step = longest
    for corner, end in (("low", np.min), ("high", np.max)):
        ends = {n: jnp.asarray(end(np.asarray(v, float))) for n, v in fixed.items()}
        theta = simulation.complete({**ends, **{f.name: jnp.asarray(getattr(f, corner)) for f in free}})
        for model in models:
            mine = {n: v for n, v in theta.items() if is_parameter(model, n)}
            step = min(step, with_parameters(model, mine).largest_step())
    return float(step)
