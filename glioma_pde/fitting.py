"""From a checked calibration to the problem that is solved: data, arms, models, free parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .build import anatomy_of, common_shapes, described, placed
from .calibrate.data import Measurements, check
from .calibrate.formula import Formula
from .calibrate.forward import Ball, Batch, Given, Simulation, Start, Uniform, conditions, is_parameter
from .calibrate.noise import Noise
from .calibrate.observation import QUANTITIES, Observation
from .calibrate.problem import Free, Problem, Table, parameter_problems
from .calibrate.study import stable_step
from .config.fit_loading import FitStudy
from .config.messages import nearest
from .delivery import Schedule
from .errors import ConfigError
from .io.measurements import read_table
from .model import Model
from .tissue import Tissue

_FEWEST = 2


@dataclass(frozen=True)
class Arm:
    """What all subjects of an arm share."""

    model: Model
    schedule: Schedule
    start: Start


@dataclass(frozen=True)
class Setup:
    """A calibration with its data.

    Attributes:
        arms: by name, for one growth law. step_days: from `stable_step`.
    """

    study: FitStudy
    data: Measurements
    arms: dict[str, Arm]
    simulation: Simulation
    noises: tuple[Noise, ...]
    free: tuple[Free, ...]
    step_days: float

    def batch(self, arms: Sequence[str], times: Sequence[np.ndarray]) -> tuple[Batch, np.ndarray]:
        """Conditions of subjects of these arms, looked at on these days."""
        rows = [self.arms[a] for a in arms]
        return conditions(
            [r.model for r in rows], [r.schedule for r in rows], [r.start for r in rows], times, self.step_days
        )

    def problem(self) -> Problem:
        """Of all subjects.

        Raises:
            ConfigError: for what is wrong with the parameters, and for arms that differ in more than numbers.
        """
        data = self.data
        arms = [data.arm_of(s) for s in data.subjects]
        try:
            batch, days = self.batch(arms, [data.time[data.subject == s] for s in data.subjects])
            fixed = _fixed(self.study, data)
            return Problem.of(self.simulation, batch, days, data, self.free, self.noises, fixed)
        except ValueError as error:
            raise ConfigError(str(error).split("; "), "calibration") from None

    def law(self, growth: str) -> Setup:
        """The same with another growth law."""
        arms = _arms(self.study, growth, [])  # with the first law all was well
        return replace(self, arms=arms, step_days=_step(self.study, self.data, arms, self.simulation, self.free))


def _fixed(study: FitStudy, data: Measurements) -> dict[str, Any]:
    """A number, or one for each subject."""
    return {
        name: jnp.asarray([_first(data, s) for s in data.subjects]) if value == "first" else float(value)
        for name, value in study.fixed.items()
    }


def _step(
    study: FitStudy, data: Measurements, arms: dict[str, Arm], simulation: Simulation, free: Sequence[Free]
) -> float:
    longest = min(config.time.step_days for config in study.study.arms)
    return stable_step([a.model for a in arms.values()], simulation, free, _fixed(study, data), longest)


def _first(data: Measurements, subject: str) -> float:
    mine = data.where(data.subject == subject)
    return float(mine.value[np.argmin(mine.time)])


def masked(problem: Problem, keep: np.ndarray) -> Problem:
    """The problem with only the measurements that ``keep``, a mask over its table, names: nothing compiles anew."""
    table = problem.table
    used = Table(table.at, table.which, table.y, table.sd, table.censoring, table.used & jnp.asarray(keep))
    return Problem(
        problem.simulation, problem.conditions, used, problem.fixed, problem.index, problem.low, problem.high,
        problem.centre, problem.width, problem.noises, problem.free, problem.names, problem.subjects, problem.arms,
    )  # fmt: skip


def set_up(study: FitStudy) -> Setup:
    """Read the data, build the arms, and check all of it together.

    Raises:
        ConfigError: everything wrong at once: rows of the data by number, names that mean nothing.
        GliomaError: if the data cannot be read.
    """
    if any(arm.numerics.precision == "float64" for arm in study.study.arms):
        jax.config.update("jax_enable_x64", True)
    data = Measurements.parse(read_table(study.data_path), str(study.data_path), [c.arm for c in study.study.arms])
    simulation, noises, problems = _observed(study)
    free = tuple(
        Free(
            name, p.bounds[0], p.bounds[1], p.scale == "log", p.level,
            None if p.prior is None else (p.prior.centre, p.prior.width), p.start, p.population,
        )
        for name, p in study.parameters.items()
    )  # fmt: skip
    growth = study.fit.laws[0] if study.fit.laws else study.study.arms[0].tumour.growth
    arms = _arms(study, growth, problems)
    problems += _unread(study, simulation, noises, arms)
    window = (0.0, max(arm.time.end_day for arm in study.study.arms))
    problems += check(data, simulation.names, noises, list(arms), window, _FEWEST)
    subjects = data.subjects
    problems += _unwanted(study, data, simulation, arms)
    problems += [
        f"fit.hold_out_subjects: the data have no subject {s!r}{nearest(s, subjects)}"
        for s in study.fit.hold_out_subjects
        if s not in subjects
    ]
    if len(simulation.derived) == len(study.derived):
        problems += parameter_problems(simulation, free, noises, study.fixed)
    if problems:
        raise ConfigError(problems, study.study.path)
    step = _step(study, data, arms, simulation, free)
    return Setup(study, data, arms, simulation, noises, free, step)


def set_ups(study: FitStudy) -> dict[str, Setup]:
    """`set_up` of every growth law and model of a calibration, by name.

    Raises:
        ConfigError: everything wrong with any of them.
    """
    problems: list[str] = []
    out: dict[str, Setup] = {}
    for name, one in {"": study, **study.models}.items():
        try:
            found = set_up(one)
        except ConfigError as error:
            problems += [p if not name else f"models.{name}.{p}" for p in error.problems if p not in problems]
            continue
        if name:
            out[name] = found
            continue
        laws = study.fit.laws or (study.study.arms[0].tumour.growth,)
        out |= {law: found if k == 0 else found.law(law) for k, law in enumerate(laws)}
    if problems:
        raise ConfigError(problems, study.study.path)
    return out


def _observed(study: FitStudy) -> tuple[Simulation, tuple[Noise, ...], list[str]]:
    problems: list[str] = []
    observations, noises = [], []
    for name, o in study.observables.items():
        kind, unit = QUANTITIES[o.quantity]
        more = {} if o.threshold is None else {"threshold": o.threshold}
        more |= {} if o.width is None else {"width": o.width}
        observations.append(Observation(name, kind(**more), o.unit or unit, o.scale, o.offset))
        n = o.noise
        noises.append(Noise(n.kind, 1.0 if n.a is None else n.a, 0.0 if n.b is None else n.b, n.degrees))
    derived = []
    for name, text in study.derived.items():
        try:
            derived.append((name, Formula(text)))
        except ValueError as error:
            problems.append(f"derived.{name}: {error}")
    return Simulation(tuple(observations), tuple(derived)), tuple(noises), problems


def _arms(study: FitStudy, growth: str, problems: list[str]) -> dict[str, Arm]:
    configs = [
        c.model_copy(update={"tumour": c.tumour.model_copy(update={"growth": growth})}) for c in study.study.arms
    ]
    shapes = common_shapes(configs)
    arms: dict[str, Arm] = {}
    for config in configs:
        dtype = jnp.dtype(config.numerics.precision)
        if study.fit.geometry == "well_mixed":
            model, schedule = described(config, Tissue.phantom("box", (1,), 1.0, dtype=dtype), shapes, {})
        else:
            model, schedule, _, wrong = placed(config, anatomy_of(config, dtype)[0], shapes)
            problems += [p for p in wrong if p not in problems]
        arms[config.arm] = Arm(model, schedule, _start(study, config, dtype))
    return arms


def _start(study: FitStudy, config: Any, dtype) -> Start:
    if study.fit.geometry == "well_mixed":
        return Uniform(jnp.asarray(0.1, dtype))
    start = config.tumour.initial
    if start.kind != "gaussian":
        raise ConfigError(["tumour.initial: a calibration starts from kind = 'gaussian'"], config.title)
    number: Any = lambda v: None if v is None else jnp.asarray(v, dtype)  # noqa: E731
    return Ball(number(start.centre_mm), number(start.sigma_mm), number(start.peak), number(start.cells))


def _unread(study: FitStudy, simulation: Simulation, noises: Sequence[Noise], arms: dict[str, Arm]) -> list[str]:
    """Parameters that nothing reads: most often a misspelt path."""
    read = {n for o in simulation.observations for n in o.names()} | {n for noise in noises for n in noise.names()}
    read |= {n for _, formula in simulation.derived for n in formula.names()}
    read |= {n for arm in arms.values() for n in arm.start.names if not isinstance(arm.start, Given)}
    problems = []
    for section in ("parameters", "derived", "fixed"):
        for name in getattr(study, section):
            if name not in read and not any(is_parameter(arm.model, name) for arm in arms.values()):
                known = sorted(read | _paths(arms))
                problems.append(f"{section}.{name}: nothing reads this parameter{nearest(name, known)}")
    return problems


def _unwanted(study: FitStudy, data: Measurements, simulation: Simulation, arms: dict[str, Arm]) -> list[str]:
    """Names in [design] that mean nothing."""
    design = study.design
    if design is None:
        return []
    named = [("predict.arm", design.predict.arm, list(arms)), *(("arms", a, list(arms)) for a in design.arms)]
    named += [("predict.observable", design.predict.observable, list(simulation.names))]
    named += [("observables", o, list(simulation.names)) for o in design.observables]
    named += [] if design.subject is None else [("subject", design.subject, list(data.subjects))]
    problems = [
        f"design.{key}: there is no {name!r}{nearest(name, known)}" for key, name, known in named if name not in known
    ]
    last = max(arm.time.end_day for arm in study.study.arms)
    late = [d for d in (*design.on_days, design.predict.day) if d > last]
    problems += [f"design: day {d:g} lies beyond time.end_day = {last:g}" for d in late]
    if design.subject is None and design.predict.arm in arms and design.predict.arm not in set(data.arm):
        problems.append(
            f"design.subject: arm {design.predict.arm!r} has no subject; name the one whose parameters count"
        )
    return problems


def _paths(arms: dict[str, Arm]) -> set[str]:
    from .parameters import PARAMETERS

    return {key for key in PARAMETERS if any(is_parameter(arm.model, key) for arm in arms.values())}
