"""`solve`: the pure, differentiable run.

``solve(model, schedule, initial, plan, save_days)`` is a function of arrays: `jax.jit`, `jax.grad` and `jax.vmap`
apply to it with respect to every parameter, initial field, dose amount, day and position. `run` (the host
loop) takes the same blocks one chunk at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from .delivery import Schedule
from .model import Carry, Model
from .schedule import STEPS_PER_BLOCK, Plan, make_plan, times

FEW_BLOCKS = 16
"""Up to so many blocks a reverse pass may hold a carry for each."""


class Solution(eqx.Module):
    """What a run leaves, saved before the events of each save day.

    Attributes:
        days: ``(T,)`` [day].
        saved: whatever ``save`` returned, with a leading axis of length T; by default the transported fields.
        final: the carry after the last day.
    """

    days: Array
    saved: Any
    final: Carry

    def __getitem__(self, name: str) -> Array:
        """Saved values of that name, ``(T, …)``."""
        return self.saved[name]


_recompute = partial(jax.checkpoint, prevent_cse=False)
"""For bodies of a scan, which XLA cannot merge with their first computation."""


def block(model: Model, schedule: Schedule, plan: Plan, instants: Array, medium, carry: Carry, j, b) -> Carry:
    """Block ``b`` of save interval ``j``: its events, then its equal steps; of no length where it is padding."""
    carry = happenings(model, schedule, plan, medium, carry, j, b)
    lower, upper = instants[plan.lower[j, b]], instants[plan.upper[j, b]]
    return advance(model, medium, carry, lower, upper, plan.part[j, b], jnp.maximum(plan.parts[j, b], 1))


def happenings(model: Model, schedule: Schedule, plan: Plan, medium, carry: Carry, j, b) -> Carry:
    """The carry after the events at the start of block ``b`` of save interval ``j``."""
    for group, index in zip(schedule.events, plan.events, strict=True):
        i = index[j, b]

        def happen(c: Carry, group=group, i=i) -> Carry:
            return model.happen(group, i, c, medium)

        carry = lax.cond(i >= 0, happen, lambda c: c, carry)
    return carry


def advance(
    model: Model, medium, carry: Carry, lower: Array, upper: Array, part, parts, steps: int = STEPS_PER_BLOCK
) -> Carry:
    """Equal ``steps`` through the ``part``-th of ``parts`` equal parts of the time from ``lower`` to ``upper``."""
    model, medium = model.now(carry.anatomy, medium)

    return model.steps(carry, medium, lambda k: _moment(lower, upper, part, parts, k, steps), steps)


def _moment(lower: Array, upper: Array, part, parts, k, steps: int = STEPS_PER_BLOCK) -> tuple[Array, Array]:
    """When step ``k`` of the ``part``-th of ``parts`` equal parts of a time begins, and how long it is."""
    n = (parts * steps).astype(lower.dtype)
    done = (part * steps + k).astype(lower.dtype)
    return lower + (upper - lower) * (done / n), (upper - lower) / n


def solve(
    model: Model,
    schedule: Schedule,
    initial: Mapping[str, Array] | Carry,
    plan: Plan,
    save_days: Array | Sequence[float],
    save: Callable[[Model, Carry, Any, Array], Any] | None = None,
) -> Solution:
    """Run the model over the plan.

    Args:
        initial: fields at the first save day (missing ones are zero), or a carry to continue from.
        plan: from `make_plan` for the same schedule, or one of its `stack` under `jax.vmap`.
        save: what to keep at each save day, ``(model, carry, medium, day) → pytree``; by default the
            transported fields.

    Memory of a reverse pass: with N steps in all, about 2 √N carries and the inside of one step, whatever the
    save days are; a gradient then costs six to seven solves. States that ``save`` returns come on top.
    """
    save = save or (lambda model, carry, medium, day: carry.x)
    medium = model.prepare()
    days = jnp.asarray(save_days, model.tissue.white.dtype)
    instants = times(model, schedule, days)
    carry = initial if isinstance(initial, Carry) else model.start(initial)
    carry = model.expect(schedule.events, carry)

    count, width = plan.saves - 1, plan.lower.shape[1]
    intervals, blocks = _groups(count, width)
    rounds = -(-count // intervals), -(-width // blocks)  # groups of intervals, groups of blocks in an interval
    plan = plan.padded_to(rounds[0] * intervals, rounds[1] * blocks)
    days_after = jnp.pad(days[1:], (0, rounds[0] * intervals - count), mode="edge")

    def keep(carry, day):
        here, there = model.now(carry.anatomy, medium)
        return save(here, carry, there, day)

    # Step by step, not block by block: a reverse pass then lays down each carry once.
    @_recompute
    def one_step(carry, jbk):
        j, b, k = jbk
        carry = lax.cond(k == 0, lambda c: happenings(model, schedule, plan, medium, c, j, b), lambda c: c, carry)
        lower, upper = instants[plan.lower[j, b]], instants[plan.upper[j, b]]

        def go(c: Carry) -> Carry:
            here, there = model.now(c.anatomy, medium)
            return here.step(c, there, *_moment(lower, upper, plan.part[j, b], jnp.maximum(plan.parts[j, b], 1), k))

        # Padding is skipped, but only where there is some: XLA on CPU computes the branches of a condition on one core.
        return lax.cond(plan.parts[j, b] > 0, go, lambda c: c, carry) if plan.padded else go(carry), None

    def some_blocks(carry, jg):
        j, g = jg
        b = jnp.repeat(g * blocks + jnp.arange(blocks), STEPS_PER_BLOCK)
        k = jnp.tile(jnp.arange(STEPS_PER_BLOCK), blocks)
        return lax.scan(one_step, carry, (jnp.full(len(b), j), b, k))

    def interval(carry, j):
        run = some_blocks if rounds[1] == 1 else _recompute(some_blocks)
        carry, _ = lax.scan(run, carry, (jnp.full(rounds[1], j), jnp.arange(rounds[1])))
        return carry, jax.checkpoint(keep)(carry, days_after[j])

    def some_intervals(carry, h):
        return lax.scan(interval, carry, h * intervals + jnp.arange(intervals))

    first = keep(carry, days[0])
    run = _recompute(some_intervals) if rounds[0] > 1 and rounds[1] == 1 else some_intervals
    carry, rest = lax.scan(run, carry, jnp.arange(rounds[0]))
    rest = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], rest)
    saved = jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), first, rest)
    return Solution(days, saved, carry)


def _groups(intervals: int, blocks: int) -> tuple[int, int]:
    """How many intervals, and how many blocks of an interval, form one checkpoint.

    A reverse pass holds one carry for each group and one for each step of a group, which is least for √N groups of
    √N steps. Either whole intervals are grouped or the blocks of each.
    """
    if intervals * blocks <= FEW_BLOCKS:
        return intervals, blocks
    ideal = math.sqrt(intervals * blocks / STEPS_PER_BLOCK)
    if ideal >= blocks:
        groups = -(-intervals // max(1, round(ideal / blocks)))
        return -(-intervals // groups), blocks
    return 1, -(-blocks // max(1, round(blocks / ideal)))


def simulate(
    model: Model,
    initial: Mapping[str, Array],
    save_days: Sequence[float],
    schedule: Schedule | None = None,
    dt: float = 0.5,
    save: Callable[[Model, Carry, Any, Array], Any] | None = None,
) -> Solution:
    """Plan and solve in one call, with a step no longer than ``dt`` [day] and than the model allows."""
    schedule = schedule or Schedule()
    plan = make_plan(model, schedule, save_days, min(dt, model.largest_step()))
    return eqx.filter_jit(solve)(model, schedule, initial, plan, jnp.asarray(save_days), save)
