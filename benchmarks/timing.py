"""Compile once, run often, and say what came out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import jax

from .machine import BYTES_PER_CELL_STEP

FLOAT32 = 4
"""Bytes of a number."""


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        repeats: timed calls per case; the median counts.
        cell_steps: cell-steps per timed call of a tumour case.
        days: the timed part of the therapy [day]; what lies before it warms up.
    """

    repeats: int
    cell_steps: float
    days: tuple[float, float]


FULL = Effort(repeats=7, cell_steps=1.5e8, days=(14.0, 28.0))
QUICK = Effort(repeats=3, cell_steps=1.5e7, days=(2.0, 4.0))


@dataclass
class Case:
    """One line of the table.

    Attributes:
        cells: all cells of the arrays, as the machine works on all of them; cells_inside: those in the mask.
        stages: evaluations of the right-hand side per step.
        seconds: wall time of each timed call of ``steps`` steps.
        trace_s, compile_s: time from Python to StableHLO, and from there to a program.
        solves_per_step, sweeps_per_step: elliptic solves and the Chebyshev sweeps they took, each over half of the cells,
            by field, summed over a step's stages.
        sweeps_cold_per_solve: what one solve without a first guess would take, mean over the same solves.
        passes_per_step: arrays that have to be read or written in a step, by what for.
    """

    name: str
    shape: tuple[int, ...]
    cells: int
    cells_inside: int
    stages: int
    ledger: bool
    steps: int
    trace_s: float
    compile_s: float
    seconds: list[float] = field(default_factory=list)
    solves_per_step: dict[str, float] = field(default_factory=dict)
    sweeps_per_step: dict[str, float] = field(default_factory=dict)
    sweeps_cold_per_solve: dict[str, float] = field(default_factory=dict)
    passes_per_step: dict[str, float] = field(default_factory=dict)

    @property
    def ms_per_step(self) -> float:
        return statistics.median(self.seconds) / self.steps * 1e3

    @property
    def million_cell_steps_per_s(self) -> float:
        return self.cells / self.ms_per_step / 1e3

    def result(self, limit_million_cell_steps_per_s: float) -> dict[str, Any]:
        """The case with its rates, ready for JSON."""
        rate = self.million_cell_steps_per_s
        own = {}
        if self.passes_per_step:
            own["bytes_per_cell_step"] = FLOAT32 * sum(self.passes_per_step.values())
            own["fraction_of_own_copy_limit"] = (
                rate / limit_million_cell_steps_per_s * own["bytes_per_cell_step"] / BYTES_PER_CELL_STEP
            )
        return (
            asdict(self)
            | own
            | {
                "ms_per_step": self.ms_per_step,
                "ms_per_step_best": min(self.seconds) / self.steps * 1e3,
                "million_cell_steps_per_s": rate,
                "million_cell_stages_per_s": rate * self.stages,
                "fraction_of_copy_limit": rate / limit_million_cell_steps_per_s,
            }
        )


def compiled(function: Callable, *args: Any) -> tuple[Callable, float, float]:
    """The program of ``function`` for these arguments, and the seconds to trace and to compile it."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*args)
    middle = time.perf_counter()
    program = lowered.compile()
    return program, middle - start, time.perf_counter() - middle


def time_call(call: Callable[[], Any]) -> float:
    """Wall time of one call, waited for [s]."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def time_in_turn(cases: Sequence[tuple[Case, Callable[[], Any]]], repeats: int) -> list[Case]:
    """The cases with the wall times of their calls, each waited for.

    They take turns, so that what else the machine does falls on all of them and their ratios stay fair.
    """
    for _, call in cases:
        jax.block_until_ready(call())
    for _ in range(repeats):
        for case, call in cases:
            case.seconds.append(time_call(call))
    return [case for case, _ in cases]
