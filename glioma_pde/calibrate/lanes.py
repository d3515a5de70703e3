"""Many searches at once: rows of a `jax.vmap`, of which none waits for the slowest, on every core."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import cpu_count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

LANES = 8
"""Rows of one `jax.vmap` on a CPU: with many more a core does not get through faster, and more of them idle at the end."""
FEW = 4
"""The same of few items; a third of the items in between."""
SMALL = 4096
"""Cells a row may have for its loop to be left to one core: XLA shares larger arrays out among the cores itself."""

Tree = Any


class Search(NamedTuple):
    """A search that is taken a step at a time, all of it pure functions.

    Attributes:
        begin: item → state, which is never done. step: item, state → state. done: state → bool. end: state → what was found.
    """

    begin: Callable[[Tree], Tree]
    step: Callable[[Tree, Tree], Tree]
    done: Callable[[Tree], Array]
    end: Callable[[Tree], Tree]

    def run(self, item: Tree) -> Tree:
        """What is found from one item."""
        found = jax.lax.while_loop(lambda s: ~self.done(s), lambda s: self.step(item, s), self.begin(item))
        return self.end(found)


def at_once(count: int) -> int:
    """How many of so many items one `jax.vmap` takes: on other devices than a CPU all."""
    return min(LANES, max(FEW, count // 3), count) if jax.default_backend() == "cpu" else count


def in_queue(search: Search, items: Tree) -> Tree:
    """What is found from every item, ``(N, …)``, `at_once` so many: whichever is done makes room for the next."""
    count = len(jax.tree.leaves(items)[0])
    lanes = at_once(count)

    def taken(place: Array) -> Tree:
        # lanes that have run out of items go on with the last one; what they find is dropped
        return jax.tree.map(lambda v: v[jnp.minimum(place, count - 1)], items)

    def turn(carry):
        place, ahead, states, found = carry
        states = jax.vmap(search.step)(taken(place), states)
        over = jax.vmap(search.done)(states)
        at = jnp.where(over, place, count)
        found = jax.tree.map(lambda all_, new: all_.at[at].set(new, mode="drop"), found, jax.vmap(search.end)(states))
        place = jnp.where(over, jnp.minimum(ahead + jnp.cumsum(over) - 1, count), place)
        fresh = jax.vmap(search.begin)(taken(place))
        states = jax.tree.map(lambda new, old: jax.vmap(jnp.where)(over, new, old), fresh, states)
        return place, jnp.minimum(ahead + jnp.sum(over), count), states, found

    place = jnp.arange(lanes)
    states = jax.vmap(search.begin)(taken(place))
    each = jax.eval_shape(jax.vmap(search.end), states)
    found = jax.tree.map(lambda v: jnp.zeros((count, *v.shape[1:]), v.dtype), each)
    first = (place, jnp.asarray(lanes), states, found)
    return jax.lax.while_loop(lambda carry: jnp.any(carry[0] < count), turn, first)[-1]


def on_cores(function: Callable[..., Tree], items: Tree, size: int) -> Tree:
    """``function(items)`` for rows of items, shared out among the cores and put together again.

    Args:
        function: compiled; of rows ``(n, …)`` makes rows ``(n, …)``, each of its own item alone.
        size: cells of one row.
    """
    count = len(jax.tree.leaves(items)[0])
    parts = min(cpu_count(), -(-count // LANES)) if jax.default_backend() == "cpu" and size <= SMALL else 1
    if parts < 2:
        return function(items)
    # equal parts, so that one compilation does for all; rows at their seams may be there twice
    each = -(-count // parts)
    begins = [min(k * each, count - each) for k in range(parts)]
    rows, wide = jax.tree.map(np.asarray, items), jnp.result_type(float) == jnp.float64  # in this thread

    def one(begin: int) -> Tree:
        with jax.enable_x64(wide):
            return jax.tree.map(np.asarray, function(jax.tree.map(lambda v: v[begin : begin + each], rows)))

    with ThreadPoolExecutor(max_workers=parts) as pool:
        found = list(pool.map(one, begins))
    seams = [k * each - begin for k, begin in enumerate(begins)]
    return jax.tree.map(
        lambda *parts: jnp.asarray(np.concatenate([v[k:] for k, v in zip(seams, parts, strict=True)])), *found
    )
