"""The compiled pieces of a run: blocks of steps, and looks at the state between them.

One compilation of each serves all arms of one shape.
"""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from .model import Carry, Model
from .model import prepare as prepare
from .observe import look, rim
from .solve import block
from .window import GROW_AT, GROW_AT_RELATIVE


@jax.jit
def advance(fixed, carry: Carry, j, first, last):
    model, schedule, plan, instants, medium = fixed

    def one(b, carry):
        return block(model, schedule, plan, instants, medium, carry, j, b)

    return lax.fori_loop(first, last, one, carry)


@partial(jax.jit, static_argnums=1)
def at_rim(carry: Carry, cells: tuple[str, ...], memory: dict[str, Array]):
    """Whether anything has come to the rim of the window."""
    dense = [rim(carry.x[name]) > GROW_AT for name in cells]
    substances = [v for name, v in carry.x.items() if name not in cells]
    far = [rim(v) > GROW_AT_RELATIVE * jnp.max(v) for v in (*substances, *memory.values())]
    return jnp.any(jnp.stack(dense + far))


@eqx.filter_jit
def fields(model: Model, carry: Carry, medium, t):
    """The fields worth storing, and the quasi-steady ones in equilibrium with the state."""
    model, medium = model.now(carry.anatomy, medium)
    q = model.quantities(carry.x, carry.warm, medium, t, jnp.zeros_like(t))
    return {f.name: carry.x[f.name] if f.name in carry.x else q[f.name] for f in (*model.outputs, *model.memory)}


# Apart from `fields`: what no observable needs (the attractant) is then not solved for.
look_at = eqx.filter_jit(look)
