"""The full therapy step of a configuration, and the tumour step in the same window to compare it with."""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from glioma_pde.build import Experiment, build
from glioma_pde.config import load
from glioma_pde.delivery import Schedule
from glioma_pde.errors import GliomaError
from glioma_pde.model import Carry, Model
from glioma_pde.numerics import elliptic
from glioma_pde.numerics.stepping import RKL2
from glioma_pde.schedule import STEPS_PER_BLOCK, Plan, make_plan, times
from glioma_pde.solve import block

from .kernels import n_text
from .timing import Case, Effort, compiled, time_in_turn

CONFIG = Path(__file__).parents[1] / "configs" / "brain_stem_cell_therapy.toml"
"""The 1 mm MNI152 brain with tumour, carriers, attractant, prodrug and drug."""

_NEEDED = ("carriers", "attractant", "prodrug", "drug")


def therapy_cases(config: Path, effort: Effort) -> list[Case]:
    """Tumour alone, the full step without and with the ledger: same window, steps and days, in this order.

    Raises:
        GliomaError: no arm of ``config`` has the whole therapy, or none of its observed days lies in the timed part.
    """
    arms = [a for a in load(config).arms if all(getattr(a, n) is not None for n in _NEEDED)]
    if not arms:
        raise GliomaError(f"No arm of {config} has all of {', '.join(_NEEDED)}: there is no therapy to time.")
    experiment = build(arms[0])
    whole = experiment.model
    where = n_text(whole.tissue.grid.shape)
    alone = Model(whole.tissue, [whole["tumour"]], whole.capacity_cells_per_mm3, whole.stepper, ledger=False)
    alone_plan = make_plan(alone, Schedule(), experiment.days.tolist(), experiment.step_days)
    cases = [_case(f"tumour_window_{where}", experiment, alone, Schedule(), alone_plan, effort)]
    for name, ledger in ((f"therapy_{where}", False), (f"therapy_ledger_{where}", True)):
        model = Model(whole.tissue, whole.modules, whole.capacity_cells_per_mm3, whole.stepper, ledger=ledger)
        cases.append(_case(name, experiment, model, experiment.schedule, experiment.plan, effort))
    return time_in_turn(cases, effort.repeats)


def many_intervals(model: Model, schedule: Schedule, plan: Plan, instants, medium, carry: Carry, first, last) -> Carry:
    """The save intervals ``first`` to ``last`` (not included) of a plan, events and all, as `run` takes them."""

    def interval(j, c):
        return lax.fori_loop(0, plan.count[j], lambda b, c: block(model, schedule, plan, instants, medium, c, j, b), c)

    return lax.fori_loop(first, last, interval, carry)


def _case(
    name: str, experiment: Experiment, model: Model, schedule: Schedule, plan: Plan, effort: Effort
) -> tuple[Case, Callable[[], Any]]:
    tissue = model.tissue
    days = np.asarray(experiment.days)
    start, first, last = (jnp.asarray(np.searchsorted(days, d), jnp.int32) for d in (0.0, *effort.days))
    if not int(first) < int(last) < len(days):
        raise GliomaError(
            f"The therapy is timed from day {effort.days[0]:g} to day {effort.days[1]:g}, and the configuration "
            f"observes no such days; lengthen time.end_day or shorten time.observe_every_days."
        )
    instants = times(model, schedule, jnp.asarray(days, tissue.white.dtype))
    fixed = (model, schedule, plan, instants, jax.jit(Model.prepare)(model))
    initial = {"tumour": experiment.initial["tumour"]}
    program, trace_s, compile_s = compiled(many_intervals, *fixed, model.start(initial, schedule.events), start, first)
    # the time before it fills the fields and the first guesses of the elliptic solves
    carry = jax.block_until_ready(program(*fixed, model.start(initial, schedule.events), start, first))
    parts, count = np.asarray(plan.parts), np.asarray(plan.count)
    timed = range(int(first), int(last))
    steps = sum(STEPS_PER_BLOCK * int(np.sum(parts[j, : count[j]] > 0)) for j in timed)
    case = Case(
        name=name,
        shape=tissue.grid.shape,
        cells=int(np.prod(tissue.grid.shape)),
        cells_inside=int(np.asarray(tissue.mask).sum()),
        stages=model.stepper.stages if isinstance(model.stepper, RKL2) else model.stepper.order,
        ledger=model.ledger,
        steps=steps,
        trace_s=trace_s,
        compile_s=compile_s,
    )
    if model.memory and not model.ledger:  # the ledger changes no sweep
        done, cold = count_sweeps(model, (*fixed, carry, first, last))
        case.solves_per_step = {k: len(v) / steps for k, v in done.items()}
        case.sweeps_per_step = {k: sum(v) / steps for k, v in done.items()}
        case.sweeps_cold_per_solve = {k: statistics.fmean(v) for k, v in cold.items()}
        case.passes_per_step = passes(case)
    return case, lambda: program(*fixed, carry, first, last)


STAGE = {
    "tumour: density, three conductances, kill rate, out": 6.0,
    "carriers: density, three each of conductances, velocities and factors, out": 11.0,
    "velocity: attractant, three open faces, out": 7.0,
    "prodrug: carriers, out": 2.0,
    "source of the drug: carriers, prodrug, out": 3.0,
}
"""Arrays that a stage has to read or write, each once, if all that can be fused is."""
SOLVE, SWEEP = 7.0, 2.5
"""The same of what goes before and after the sweeps of an elliptic solve (source, guess, row sums, mask; out: scaled source,
weight, solution) and of each sweep over half of the cells (source, weight, the neighbours' iterate, its own, out)."""


def passes(case: Case) -> dict[str, float]:
    """Arrays that a step of the therapy has to read or write, by what for."""
    by_stage = {what: case.stages * count for what, count in STAGE.items()}
    return by_stage | {
        "mean of the stages: what the step began with": 2.0,
        "set-up of solves": SOLVE * sum(case.solves_per_step.values()),
        "sweeps": SWEEP * sum(case.sweeps_per_step.values()),
    }


def count_sweeps(model: Model, args: tuple) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Sweeps of every elliptic solve in `many_intervals` of ``args``, and of the same solves from a cold start.

    By module name. A run of its own, outside all timing: the solver reports what it does from inside.
    """
    done: dict[str, list[int]] = defaultdict(list)
    cold: dict[str, list[int]] = defaultdict(list)
    with _reporting(model, done, cold):
        jax.block_until_ready(jax.jit(lambda *a: many_intervals(*a))(*args))
        jax.effects_barrier()
    return dict(done), dict(cold)


@contextmanager
def _reporting(model: Model, done: dict[str, list[int]], cold: dict[str, list[int]]) -> Iterator[None]:
    """Within it, whatever is traced tells its sweeps to ``done`` and ``cold``."""
    names: list[str] = []
    solve, iterate = elliptic.solve_quasi_steady, elliptic._iterate

    def tell(book: dict[str, list[int]], count: Any) -> None:
        name = names[-1]
        jax.debug.callback(lambda n: book[name].append(int(n)), count)

    def counted(*args):
        c, count = iterate(*args)
        tell(done, count)
        return c, count

    def of(name: str):
        def named(grid, coupling, sink, source, guess, tolerance, *more):
            names.append(name)
            tell(cold, elliptic.sweeps_cold(coupling, sink, tolerance))
            try:
                return solve(grid, coupling, sink, source, guess, tolerance, *more)
            finally:
                names.pop()

        return named

    with ExitStack() as stack:
        stack.enter_context(patch.object(elliptic, "_iterate", counted))
        for module in model.modules:
            home = sys.modules[type(module).__module__]
            if hasattr(home, "solve_quasi_steady"):
                stack.enter_context(patch.object(home, "solve_quasi_steady", of(module.name)))
        yield
