"""The tumour step alone, with a diffusivity that varies from cell to cell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from glioma_pde.biology.tumour import Tumour
from glioma_pde.delivery import gaussian
from glioma_pde.model import Carry, Model
from glioma_pde.numerics.stepping import SSPRK2, Euler, Stepper
from glioma_pde.schedule import STEPS_PER_BLOCK
from glioma_pde.tissue import Tissue

from .timing import Case, Effort, compiled, time_in_turn

STEPPERS: dict[str, tuple[Stepper, int, int]] = {
    "euler": (Euler(), 1, 1),
    "ssprk2": (SSPRK2(), 2, STEPS_PER_BLOCK),
    "ssprk2_eight": (SSPRK2(), 2, 8),
}
"""Stepper, its evaluations of the right-hand side per step, and the steps that are taken at once: one, as runs do, or
as many as the cache gains from."""


def tumour_cases(n: int, effort: Effort) -> list[Case]:
    """One case per stepper on the head phantom of ``n``³ cells of 1 mm, float32, no ledger."""
    tissue = Tissue.phantom("head", (n, n, n), 1.0, dtype=jnp.float32)
    return time_in_turn([_tumour_case(name, tissue, effort) for name in STEPPERS], effort.repeats)


def many_steps(model: Model, medium, carry: Carry, dt, steps, at_once: int = STEPS_PER_BLOCK) -> Carry:
    """``steps`` steps from day 0, ``at_once`` of them in one call, and what is left one by one.

    The model is an argument, since XLA would fold constants away.
    """

    def some(count):
        return lambda i, c: model.steps(c, medium, lambda k: ((i + k) * dt, dt), count)

    whole = steps // at_once
    carry = lax.fori_loop(0, whole, lambda i, c: some(at_once)(i * at_once, c), carry)
    return carry if at_once == 1 else lax.fori_loop(whole * at_once, steps, some(1), carry)


def _tumour_case(name: str, tissue: Tissue, effort: Effort) -> tuple[Case, Callable[[], Any]]:
    stepper, stages, at_once = STEPPERS[name]
    model = Model(tissue, [Tumour()], stepper=stepper, ledger=False)
    grid = tissue.grid
    medium = jax.jit(Model.prepare)(model)
    sigma = jnp.asarray(0.1 * grid.shape[0], jnp.float32)
    carry = model.start({"tumour": 0.9 * gaussian(grid, jnp.zeros(3, jnp.float32), sigma)})
    dt = jnp.asarray(min(0.5, model.largest_step()), jnp.float32)
    cells = int(np.prod(grid.shape))
    steps = at_once * int(np.clip(effort.cell_steps / (cells * stages * at_once), 3, 200))
    args = (model, medium, carry, dt, jnp.asarray(steps, jnp.int32))
    program, trace_s, compile_s = compiled(partial(many_steps, at_once=at_once), *args)
    case = Case(
        name=f"tumour_{name}_{n_text(grid.shape)}",
        shape=grid.shape,
        cells=cells,
        cells_inside=int(np.asarray(tissue.mask).sum()),
        stages=stages,
        ledger=False,
        steps=steps,
        trace_s=trace_s,
        compile_s=compile_s,
    )
    return case, lambda: program(*args)


def n_text(shape: tuple[int, ...]) -> str:
    """``128`` for a cube, ``121x119x110`` for another box."""
    return str(shape[0]) if len(set(shape)) == 1 else "x".join(map(str, shape))
