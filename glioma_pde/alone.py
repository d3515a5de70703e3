"""Steps of a tumour that is on its own, taken in one go where a native kernel can:

    ∂t u = ∇·(D_u∇u) + ρ u (1 − u)    or    + ρ u

with the fluxes of isotropic diffusion. Between events that is all there is to many runs: untreated controls, operations
and radiotherapy, growth curves. The kernel passes over the cells of the tissue alone, and takes all stages of several steps
while a slab of them is in the cache. Everything else (derivatives, batches, XLA's own loops) is `Model.steps_of_all`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .biology.base import Module
from .biology.laws import Exponential, Logistic
from .biology.tumour import Tumour
from .numerics import kernels
from .numerics.stepping import SSPRK2, Euler, add_compensated

if TYPE_CHECKING:
    from .model import Carry, Model

_STAGES = {Euler: 1, SSPRK2: 2}
_NUMBERS = (np.ndarray, np.generic, float)


def is_alone(model: Model, medium: dict[str, Any]) -> bool:
    """Whether the tumour's equations are those above: all other modules of ``model`` are apart from it."""
    tumour = _tumour(model)
    if tumour is None or model.tissue.grid.geometry == "radial":
        return False
    plain = type(tumour.growth) in (Logistic, Exponential) and not tumour.one_sided_growth
    g = medium[tumour.name]
    alike = isinstance(g, tuple) and all(face.dtype == model.tissue.white.dtype for face in g)
    return plain and alike and type(model.stepper) in _STAGES


def _tumour(model: Model) -> Tumour | None:
    """The only module that is not apart, if that is a tumour."""
    found = [m for m in model.modules if not m.is_apart]
    return found[0] if len(found) == 1 and type(found[0]) is Tumour else None


def _with(model: Model, modules: Iterable[Module]) -> Model:
    return eqx.tree_at(lambda m: m.modules, model, tuple(modules))


def steps(
    model: Model, carry: Carry, medium: dict[str, Any], moment: Callable[[Any], tuple[Array, Array]], count: int
) -> Carry:
    """`Model.steps` of a model that `is_alone`."""
    tumour = _tumour(model)
    assert tumour is not None
    others = [m for m in model.modules if m is not tumour]
    if others:
        apart = {n: v for n, v in carry.x.items() if n != tumour.name}
        after = _with(model, others).steps_of_all(carry._replace(x=apart), medium, moment, count)
        carry = after._replace(x={n: after.x.get(n, v) for n, v in carry.x.items()})
    t, dt = moment(jnp.zeros((), int))
    everything = _with(model, [tumour]), carry._replace(x={}, warm={}), {tumour.name: medium[tumour.name]}, t
    arrays, rest = eqx.partition(everything, lambda leaf: eqx.is_array(leaf) or isinstance(leaf, _NUMBERS))
    leaves, tree = jax.tree.flatten(arrays)
    static = {"tree": tree, "rest": _Hashed(rest), "count": count}
    u, grown = _steps.bind(carry.x[tumour.name], model.tissue.mask, dt, *leaves, **static)
    ledger = dict(carry.ledger)
    if model.ledger:
        ledger["tumour_growth"] = add_compensated(ledger["tumour_growth"], grown)
    return carry._replace(x={**carry.x, tumour.name: u}, ledger=ledger)


class _Hashed:
    """What is not an array in a tree, as a parameter of a primitive."""

    def __init__(self, tree: Any):
        self.tree = tree
        self.key = tuple(jax.tree.leaves(tree)), jax.tree.structure(tree)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self.key == other.key


def _model(leaves: tuple[Array, ...], tree: Any, rest: _Hashed) -> tuple[Model, Carry, dict[str, Any], Array]:
    return eqx.combine(jax.tree.unflatten(tree, leaves), rest.tree)


def _in_xla(u: Array, inside: Array, dt: Array, *leaves: Array, tree: Any, rest: _Hashed, count: int) -> list[Array]:
    model, carry, medium, t = _model(leaves, tree, rest)
    zero = jnp.zeros((), u.dtype)
    blank = dict.fromkeys(carry.ledger, (zero, zero))
    after = model.steps_of_all(carry._replace(x={"tumour": u}, ledger=blank), medium, lambda k: (t + k * dt, dt), count)
    return [after.x["tumour"], sum(after.ledger["tumour_growth"], zero) if model.ledger else zero]


def _native(u: Array, inside: Array, dt: Array, *leaves: Array, tree: Any, rest: _Hashed, count: int) -> list[Array]:
    model, _, medium, _ = _model(leaves, tree, rest)
    tumour = _tumour(model)
    assert tumour is not None
    results = [kernels.like(u), kernels.like(u), jax.ShapeDtypeStruct((), u.dtype)]
    after, _, grown = kernels.call(
        "grow",
        results,
        u,
        inside,
        jnp.asarray(tumour.proliferation_per_day, u.dtype),
        dt,
        *medium[tumour.name],
        in_place=True,
        count=count,
        stages=_STAGES[type(model.stepper)],
        limited=isinstance(tumour.growth, Logistic),
    )
    return [after, grown * model.tissue.grid.cell_volume_mm3]


_steps = kernels.drop_in(
    "tumour_alone",
    lambda u, *_: [u, jax.core.ShapedArray((), u.dtype)],
    _in_xla,
    _native,
)
