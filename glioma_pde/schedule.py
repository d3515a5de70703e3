"""Time: from a schedule to a table of blocks of equal steps.

Integers are structure, times stay traced. A `Plan` says which time (by index) each block starts from and
into how many parts an interval is cut; the times themselves are gathered from the schedule when the plan
is used, so a solution can be differentiated by the day of a dose, and patients with different
schedules share one table shape.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .delivery import Schedule
from .model import Model

STEPS_PER_BLOCK = 2

MOST_BLOCKS = 10**7
"""Of one plan, whose table would not fit into memory otherwise."""


class Plan(eqx.Module):
    """Structure of a run; arrays of integers, shapes ``(saves - 1, blocks)`` unless said otherwise.

    Attributes:
        lower, upper: indices into `times` of the interval a block lies in.
        part, parts: the block is the ``part``-th of ``parts`` equal blocks; ``parts = 0`` marks padding.
        events: for each event group, the event applied before the block, or −1.
        count: blocks in use in each row, ``(saves - 1,)``.
        saves: number of save times.
        padded: whether some row has blocks that do nothing.
    """

    lower: Array
    upper: Array
    part: Array
    parts: Array
    events: tuple[Array, ...]
    count: Array
    saves: int = eqx.field(static=True)
    padded: bool = eqx.field(static=True, default=True)

    @property
    def steps(self) -> int:
        """Time steps of the whole run."""
        return int(np.sum(np.asarray(self.parts) > 0)) * STEPS_PER_BLOCK

    def padded_to(self, intervals: int, blocks: int) -> Plan:
        """The same plan in tables of that size, or larger than these; what is added has no steps."""
        more = [(0, max(0, new - old)) for new, old in zip((intervals, blocks), self.lower.shape, strict=True)]

        def pad(array, fill):
            return jnp.pad(array, more, constant_values=fill)

        return Plan(
            pad(self.lower, 0), pad(self.upper, 0), pad(self.part, 0), pad(self.parts, 0),
            tuple(pad(e, -1) for e in self.events), jnp.pad(self.count, more[:1]), self.saves, self.padded,
        )  # fmt: skip


def times(model: Model, schedule: Schedule, save_days: Array) -> Array:
    """All instants a plan may refer to: save days, event days, break points, in this order."""
    save_days = jnp.asarray(save_days)
    parts = [save_days, *(e.day for e in schedule.events), *model.breakpoints()]
    return _joined(parts, save_days.dtype)


@partial(jax.jit, static_argnums=1)
def _joined(parts: Sequence[Array], dtype) -> Array:
    """All in one row; one program, where what calls it is not compiled itself."""
    return jnp.concatenate([jnp.asarray(p, dtype).ravel() for p in parts])


def make_plan(model: Model, schedule: Schedule, save_days: Sequence[float], dt: float) -> Plan:
    """Cut the time between the first and the last save day into blocks that end on every instant.

    Needs concrete (not traced) times. Events before the first save day or from the last one on are left out.

    Args:
        save_days: increasing [day]; the state is saved before the events of the same instant.
        dt: longest step [day]; `Model.largest_step` bounds it.
    """
    saves = np.asarray(save_days, dtype=float)
    if saves.ndim != 1 or saves.size < 2 or np.any(np.diff(saves) <= 0) or not np.all(np.isfinite(saves)):
        raise ValueError("save_days needs at least two increasing, finite days.")
    if not dt > 0:
        raise ValueError(f"dt must be positive, not {dt}.")
    if (saves[-1] - saves[0]) / (dt * STEPS_PER_BLOCK) > MOST_BLOCKS:
        raise ValueError(f"dt = {dt:g} makes more than {MOST_BLOCKS} blocks of {STEPS_PER_BLOCK} steps; lengthen it.")
    groups = [np.asarray(e.day, dtype=float) for e in schedule.events]
    instants = np.concatenate([saves, *groups, *(np.asarray(b, float).ravel() for b in model.breakpoints())])
    resolution = _resolution(model, schedule) * max(1.0, float(np.abs(saves).max()))

    offset = saves.size + np.cumsum([0, *(g.size for g in groups)])
    none = [-1] * len(groups)

    rows = []
    for j in range(saves.size - 1):
        a, b = saves[j], saves[j + 1]
        inner = [i for i in range(saves.size, instants.size) if a - resolution <= instants[i] < b - resolution]
        nodes, together = [j], [[j]]
        for i in sorted(inner, key=lambda i: instants[i]):
            if instants[i] > instants[nodes[-1]] + resolution:
                nodes.append(i)
                together.append([i])
            else:
                together[-1].append(i)
        nodes.append(j + 1)
        row = []
        for (lower, upper), here in zip(itertools.pairwise(nodes), together, strict=True):
            length = instants[upper] - instants[lower]
            parts = max(1, int(np.ceil(length / (dt * STEPS_PER_BLOCK) - 1e-9)))
            # Several instants may coincide, yet each may move by itself: a block of length zero between them, as
            # long as none does, carries the derivative.
            events, start = none, lower
            for i in (i for i in here if saves.size <= i < offset[-1]):
                if i != start:
                    ahead = instants[i] >= instants[start]
                    row.append((start, i if ahead else start, 0, 1, events))
                    start = i if ahead else start
                g = int(np.searchsorted(offset, i, side="right")) - 1
                events = [i - offset[g] if other == g else -1 for other in range(len(groups))]
            for part in range(parts):
                row.append((start, upper, part, parts, events if part == 0 else none))
        rows.append(row)

    return tabulate(rows, len(groups), int(saves.size))


def tabulate(rows: Sequence[Sequence[tuple[int, int, int, int, Sequence[int]]]], groups: int, saves: int) -> Plan:
    """A plan from its blocks (lower, upper, part, parts, events), one row per save interval."""
    width = max(len(r) for r in rows)

    def integers(values):  # made by NumPy: JAX would compile a program for each shape
        return jnp.asarray(np.asarray(values, np.int32), np.int32)

    def table(pick, fill):
        return integers([[pick(b) for b in r] + [fill] * (width - len(r)) for r in rows])

    return Plan(
        lower=table(lambda b: b[0], 0),
        upper=table(lambda b: b[1], 0),
        part=table(lambda b: b[2], 0),
        parts=table(lambda b: b[3], 0),
        events=tuple(table(lambda b, g=g: b[4][g], -1) for g in range(groups)),
        count=integers([len(r) for r in rows]),
        saves=saves,
        padded=any(len(r) < width for r in rows),
    )


def _resolution(model: Model, schedule: Schedule) -> float:
    """Instants closer than this, relative to the largest, are one: a day kept in single precision is the day meant."""
    kept = [model.tissue.white.dtype, *(jnp.result_type(e.day) for e in schedule.events)]
    return max(1e-9, *(2.0 * float(jnp.finfo(d).eps) for d in kept if jnp.issubdtype(d, jnp.floating)))


def stack(plans: Sequence[Plan]) -> Plan:
    """One plan with a leading batch axis for `jax.vmap`: shorter tables are padded with blocks that do nothing."""
    if len({p.saves for p in plans}) != 1 or len({len(p.events) for p in plans}) != 1:
        raise ValueError("Plans of one batch need the same number of save days and of event groups.")
    width = max(p.lower.shape[1] for p in plans)
    padded = [replace(p.padded_to(p.saves - 1, width), padded=True) for p in plans]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *padded)
