"""Steps of a tumour that is on its own, which a native kernel takes whole:

    ∂t u = ∇·(D_u∇u) + ρ u (1 − u)    or    + ρ u

with the fluxes of isotropic diffusion. Between events that is all there is to many runs: untreated controls, operations
and radiotherapy, growth curves. The kernel passes over the cells of the tissue alone, and takes all stages of several steps
while a slab of them is in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from .biology.base import Module
from .biology.laws import Exponential, Logistic
from .biology.tumour import Tumour
from .numerics import kernels
from .numerics.diffusion import net_diffusion
from .numerics.stepping import SSPRK2, Euler, Stepper, add_compensated

if TYPE_CHECKING:
    from .model import Carry, Model

_STEPPERS: dict[int, Stepper] = {1: Euler(), 2: SSPRK2()}
"""By their number of stages."""


def is_alone(model: Model, medium: dict[str, Any]) -> bool:
    """Whether the tumour's equations are those above: all other modules of ``model`` are apart from it."""
    tumour = _tumour(model)
    if tumour is None or model.tissue.grid.geometry == "radial":
        return False
    plain = type(tumour.growth) in (Logistic, Exponential) and not tumour.one_sided_growth
    g = medium[tumour.name]
    alike = isinstance(g, tuple) and all(face.dtype == model.tissue.white.dtype for face in g)
    return plain and alike and type(model.stepper) in map(type, _STEPPERS.values())


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
    u = carry.x[tumour.name]
    _, dt = moment(jnp.zeros((), int))
    numbers = (jnp.asarray(v, u.dtype) for v in (tumour.proliferation_per_day, dt))
    kind = {"stages": _stages(model), "limited": isinstance(tumour.growth, Logistic), "count": count}
    u, grown = _grow.bind(u, jnp.asarray(model.tissue.mask), *numbers, *medium[tumour.name], **kind)
    ledger = dict(carry.ledger)
    if model.ledger:
        amount = grown * model.tissue.grid.cell_volume_mm3
        ledger["tumour_growth"] = add_compensated(ledger["tumour_growth"], amount)
    return carry._replace(x={**carry.x, tumour.name: u}, ledger=ledger)


def _stages(model: Model) -> int:
    return next(n for n, stepper in _STEPPERS.items() if type(stepper) is type(model.stepper))


def _in_xla(
    u: Array, inside: Array, rate: Array, dt: Array, *g: Array, stages: int, limited: bool, count: int
) -> list[Array]:
    """The density after ``count`` steps, and the sum over the cells of what has grown."""

    @jax.checkpoint
    def rhs(y, warm):
        u = y[0]
        gain = rate * u * (1.0 - u) if limited else rate * u
        grown = gain
        for _ in range(u.ndim):  # axis by axis, which keeps float32 sums sharp
            grown = grown.sum(axis=-1)
        return (net_diffusion(u, g) + gain, grown), warm

    def one(y, _):
        return _STEPPERS[stages].step(rhs, y, {}, dt)[0], None

    start = u, jnp.zeros((), u.dtype)
    return list(one(start, None)[0] if count == 1 else lax.scan(one, start, length=count)[0])


def _native(u: Array, *rest: Array, **kind: int | bool) -> list[Array]:
    results = [kernels.like(u), kernels.like(u), jax.ShapeDtypeStruct((), u.dtype)]
    after, _, grown = kernels.call("grow", results, u, *rest, in_place=True, **kind)
    return [after, grown]


_grow = kernels.drop_in("growth", lambda u, *_: [u, jax.core.ShapedArray((), u.dtype)], _in_xla, _native)
