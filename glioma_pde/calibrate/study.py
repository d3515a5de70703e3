"""A problem in one call, from models, measurements and free parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from .problem import Free, Problem


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
        step_days: longest time step; it is shortened where a parameter within its bounds needs that.
        end_day: of the simulated window; the last measurement by default.

    Raises:
        ConfigError: everything wrong with the measurements, by row, with the parameters, and with arms that differ in more
            than numbers.
    """
    data = data if isinstance(data, Measurements) else Measurements.of(data)
    arms = sorted(set(map(str, data.arm)))
    by_arm = dict(models) if isinstance(models, Mapping) else dict.fromkeys(arms, models)
    last = float(data.time.max()) if end_day is None else end_day
    problems = check(data, [o.name for o in observations], noises, list(by_arm), (0.0, last))
    try:
        formulas = tuple((name, Formula(text)) for name, text in (derived or {}).items())
    except ValueError as error:
        problems.append(f"derived: {error}")
    problems += [p for f in free for p in f.problems()]
    if problems:
        raise ConfigError(problems, "problem")
    step = step_days
    for model in by_arm.values():
        for corner in ("low", "high"):
            theta = {f.name: jnp.asarray(getattr(f, corner)) for f in free if is_parameter(model, f.name)}
            step = min(step, with_parameters(model, theta).largest_step())
    mine = [data.arm_of(s) for s in data.subjects]
    untreated = Schedule()
    plans = [(schedules or {}).get(a, untreated) for a in mine]
    times = [data.time[data.subject == s] for s in data.subjects]
    begin = start or Uniform()
    try:
        batch, days = conditions([by_arm[a] for a in mine], plans, [begin] * len(mine), times, step)
        return Problem.of(Simulation(tuple(observations), formulas), batch, np.asarray(days), data, free, noises, fixed)
    except ValueError as error:
        raise ConfigError(str(error).split("; "), "problem") from None
