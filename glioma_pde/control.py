"""Time steps within a tolerance.

A block of two steps of length dt is taken again as one step of 2 dt. For a method of order p their difference over
2^p − 1 estimates the error of the two (Richardson). A block of length Δ is accepted while, for every transported field,

    ‖x_fine − x_coarse‖₂ / ((2^p − 1) ‖x‖₂) ≤ tolerance · Δ / T,

T the length of the run and ‖x‖₂ the largest norm of that field so far, and is halved otherwise. The blocks that were
accepted form a `Plan`, so that `solve` replays them: a controlled run is differentiable and can be batched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .biology.base import Observable
from .delivery import Schedule
from .errors import GliomaError
from .model import Carry, Model
from .schedule import STEPS_PER_BLOCK, Plan, make_plan, tabulate, times
from .solve import advance, happenings

_GROW_BELOW = 0.2
"""Blocks are doubled when their error is below this part of what is allowed: for order 2 it then grows by four."""

_MOST_PIECES = 2**14
"""How often a block of the plan may be cut before the tolerance counts as out of reach."""

_NOISE = 16.0
"""Differences of so many units in the last place are rounding, which no shorter step makes smaller."""

SERIES = (
    Observable("steps_taken", "1", "time steps so far"),
    Observable("blocks_rejected", "1", "blocks of steps taken again because of their error"),
    Observable("step_error", "1", "estimated relative error of the time steps so far", "last"),
)
"""What a controlled run tells of its steps."""

Row = tuple[int, int, int, int, tuple[int, ...]]


@dataclass
class Control:
    """The controller's memory from block to block; all of it goes into a checkpoint.

    Attributes:
        tolerance: of the whole run, relative.
        span_days: T.
        length_days: length of block to try next, 0 for as long as the plan allows.
        largest: ‖x‖₂ of each field, the largest so far.
        accepted, rejected: blocks.
        error: sum of the estimates of accepted blocks.
    """

    tolerance: float
    span_days: float
    length_days: float = 0.0
    largest: dict[str, float] = field(default_factory=dict)
    accepted: int = 0
    rejected: int = 0
    error: float = 0.0

    def state(self) -> dict[str, Any]:
        """Plain numbers; ``Control(**state)`` goes on from them."""
        return asdict(self)

    def series(self) -> dict[str, float]:
        """Values of `SERIES`."""
        return {
            "steps_taken": float(STEPS_PER_BLOCK * self.accepted),
            "blocks_rejected": float(self.rejected),
            "step_error": self.error,
        }

    def interval(
        self,
        model: Model,
        schedule: Schedule,
        plan: Plan,
        instants: Array,
        medium,
        carry: Carry,
        j: int,
        only: range | None = None,
    ) -> tuple[Carry, list[Row]]:
        """Compute save interval ``j`` of the ``plan``, its blocks cut as the tolerance demands.

        Args:
            only: some of its blocks instead of all.

        Returns:
            The carry at the end, and the blocks that led there.

        Raises:
            GliomaError: if no step is short enough.
        """
        fixed = model, schedule, plan, instants, medium
        days = np.asarray(instants, float)
        rows: list[Row] = []
        for b in range(int(plan.count[j])) if only is None else only:
            lower, upper, part, parts, events = _block(plan, j, b)
            whole = (days[upper] - days[lower]) / parts
            pieces = 1
            while self.length_days and whole / pieces > self.length_days * (1 + 1e-9):
                pieces *= 2
            k = 0
            while k < pieces:
                piece, taken = whole / pieces, jnp.asarray([j, b, k, pieces])
                after, differences, norms = _attempt(fixed, carry, taken)
                share = self._share(piece, jax.device_get(differences), jax.device_get(norms), model)
                if share > 1.0:
                    self.rejected += 1
                    k, pieces = 2 * k, 2 * pieces
                    self.length_days = whole / pieces
                    if pieces > _MOST_PIECES:
                        raise GliomaError(_out_of_reach(days[lower] + whole * (part + k / pieces), piece))
                    continue
                carry = after
                rows.append(
                    (lower, upper, part * pieces + k, parts * pieces, events if k == 0 else (-1,) * len(events))
                )
                self.accepted += 1
                k += 1
                next_days = 2 * piece if share < _GROW_BELOW else piece
                # a block that the plan itself keeps short says nothing against longer ones
                self.length_days = next_days if pieces > 1 else max(self.length_days, next_days)
                while k % 2 == 0 and pieces > 1 and 2 * whole / pieces <= self.length_days * (1 + 1e-9):
                    k, pieces = k // 2, pieces // 2
        return carry, rows

    def _share(self, length: float, differences: Mapping[str, Any], norms: Mapping[str, Any], model: Model) -> float:
        """The estimate over what is allowed for a block; booked if the block is accepted."""
        largest = {n: max(self.largest.get(n, 0.0), float(v)) for n, v in norms.items()}
        relative = [float(d) / largest[n] if largest[n] > 0 else 0.0 for n, d in differences.items()]
        error = max(relative, default=0.0)
        allowed = self.tolerance * length / self.span_days
        noise = _NOISE * float(jnp.finfo(model.tissue.white.dtype).eps)
        if not np.isfinite(error):
            return 0.0  # the caller's check of finiteness says what happened
        share = error / max(allowed, noise) if error > noise or length > 0 else 0.0
        if share <= 1.0:
            self.largest = largest
            self.error += error
        return share


def _block(plan: Plan, j: int, b: int) -> Row:
    lower, upper, part, parts = (int(a[j, b]) for a in (plan.lower, plan.upper, plan.part, plan.parts))
    return lower, upper, part, parts, tuple(int(e[j, b]) for e in plan.events)


@jax.jit
def _attempt(fixed, carry: Carry, taken: Array):
    """A block by two steps; for each field, ‖difference to one step‖₂ over 2^p − 1 and its own norm."""
    model, schedule, plan, instants, medium = fixed
    j, b, k, pieces = taken
    first = jax.lax.cond(k == 0, lambda c: happenings(model, schedule, plan, medium, c, j, b), lambda c: c, carry)
    lower, upper = instants[plan.lower[j, b]], instants[plan.upper[j, b]]
    part, parts = plan.part[j, b] * pieces + k, plan.parts[j, b] * pieces
    fine = advance(model, medium, first, lower, upper, part, parts)
    coarse = advance(model, medium, first, lower, upper, part, parts, steps=1)

    def norm(x):
        return jnp.sqrt(model.tissue.grid.integrate(x * x))

    scale = STEPS_PER_BLOCK**model.stepper.order - 1
    return fine, {n: norm(x - coarse.x[n]) / scale for n, x in fine.x.items()}, {n: norm(x) for n, x in fine.x.items()}


def _out_of_reach(day: float, length: float) -> str:
    return (
        f"The time steps cannot be made short enough for time.tolerance near day {day:g} (blocks of {length:.2g} days "
        "are not): raise the tolerance, lower numerics.elliptic_tolerance, or set numerics.precision = 'float64'."
    )


class Controlled(NamedTuple):
    """A plan within a tolerance.

    Attributes:
        plan: for `solve`, with the same schedule and save days.
        final: the carry at the end.
        control: blocks accepted and rejected, and the estimated error.
    """

    plan: Plan
    final: Carry
    control: Control


def make_controlled_plan(
    model: Model,
    schedule: Schedule,
    initial: Mapping[str, Array],
    save_days: Sequence[float],
    tolerance: float,
    dt: float | None = None,
) -> Controlled:
    """Run the model once with steps as long as ``tolerance`` allows, and keep them as a plan.

    It costs about one and a half times the steps it finds. Needs concrete (not traced) arguments.

    Args:
        tolerance: relative error of every transported field at the end, about: the sum of local errors, in the
            L² norm over space, against the largest norm that the field had.
        dt: longest step [day]; by default that of `Model.largest_step`, which bounds it in any case.

    Raises:
        ValueError: if the tolerance is not positive.
        GliomaError: if no step is short enough for it.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, not {tolerance}.")
    span = float(save_days[-1]) - float(save_days[0])
    longest = min(model.largest_step(), span / STEPS_PER_BLOCK)
    coarse = make_plan(model, schedule, save_days, longest if dt is None else min(dt, longest))
    days = jnp.asarray(save_days, model.tissue.white.dtype)
    instants = times(model, schedule, days)
    medium = eqx.filter_jit(lambda m: m.prepare())(model)
    carry = model.start(initial, schedule.events)
    control = Control(float(tolerance), span)
    rows = []
    for j in range(coarse.saves - 1):
        carry, row = control.interval(model, schedule, coarse, instants, medium, carry, j)
        rows.append(row)
    return Controlled(tabulate(rows, len(schedule.events), coarse.saves), carry, control)
