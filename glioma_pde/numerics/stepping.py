"""Time steps y → y + dt·Φ for pytrees, and the bookkeeping that keeps float32 sums sharp.

A right-hand side is ``rhs(y, warm) → (dy/dt, warm)``; ``warm`` holds quasi-steady iterates and is not
differentiated. All schemes are linear in the derivative, so linear invariants (the ledger) hold exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from .diffusion import materialise

SMALL = 1024
"""Numbers of a state up to which going round a loop costs more than a stage."""

Tree = Any
RightHandSide = Callable[[Tree, Tree], tuple[Tree, Tree]]


def combine(*terms: tuple[float | Array, Tree]) -> Tree:
    """Σ wᵢ yᵢ over pytrees."""
    weights = [w for w, _ in terms]
    return jax.tree.map(
        lambda *leaves: sum(w * leaf for w, leaf in zip(weights[1:], leaves[1:], strict=True)) + weights[0] * leaves[0],
        *[y for _, y in terms],
    )


class Stepper(eqx.Module):
    """A one-step method.

    Attributes:
        order: order of accuracy.
        reach: the step is stable while ``dt × (fastest diffusive loss) ≤ reach``; with Euler and SSPRK2
            (reach 1, all losses counted) it is also positive.
    """

    order: ClassVar[int]

    @property
    def reach(self) -> float:
        return 1.0

    def step(self, rhs: RightHandSide, y: Tree, warm: Tree, dt: Array) -> tuple[Tree, Tree]:
        raise NotImplementedError


class Euler(Stepper):
    """Forward Euler: first order, one evaluation; positive while dt × loss ≤ 1."""

    order: ClassVar[int] = 1

    def step(self, rhs, y, warm, dt):
        k, warm = rhs(y, warm)
        return combine((1.0, y), (dt, k)), warm


class SSPRK2(Stepper):
    """Heun's method in the convex form of Shu & Osher (1988): ½y + ½E(E(y)), E an Euler step.

    Second order; inherits positivity and bounds from Euler under the same step (Gottlieb, Shu & Tadmor 2001).
    """

    order: ClassVar[int] = 2

    def step(self, rhs, y, warm, dt):
        def stage(state, share):
            now, warm = state
            k, warm = rhs(now, warm)
            # the second stage as two convex halves, so that rounding cannot break positivity
            return (jax.tree.map(lambda a, b, c: (1.0 - share) * a + share * (b + dt * c), y, now, k), warm), None

        if sum(leaf.size for leaf in jax.tree.leaves(y)) <= SMALL:
            (now, warm), _ = stage((y, warm), 1.0)
            return stage((materialise(now), warm), 0.5)[0]
        # A loop, so that a reverse pass cannot hold the inside of both stages at once, and compiles one.
        shares = jnp.asarray([1.0, 0.5], jax.tree.leaves(y)[0].dtype)
        return jax.lax.scan(stage, (y, warm), shares)[0]


class RKL2(Stepper):
    """Second-order Runge–Kutta–Legendre super step (Meyer, Balsara & Aslam 2014).

    With s stages the stable step is (s² + s − 2)/4 Euler steps: for fine grids, where diffusion alone
    limits the step. Positive (``stages`` odd) only for uniform diffusion in one dimension. Elsewhere rough
    data can undershoot by some 10 % of their maximum in one step at full reach: the polynomial is absolutely
    monotone on less than two Euler steps, whatever s. Use SSPRK2 where positivity has to be certain.
    """

    order: ClassVar[int] = 2
    stages: int = eqx.field(static=True, default=9)

    def __check_init__(self):
        if self.stages < 3 or self.stages % 2 == 0:
            raise ValueError("RKL2 needs an odd number of stages, 3 or more.")

    @property
    def reach(self) -> float:
        s = self.stages
        return (s * s + s - 2) / 4.0

    def step(self, rhs, y, warm, dt):
        s = self.stages
        w1 = 4.0 / (s * s + s - 2)
        b = [1.0 / 3.0] * 3 + [(j * j + j - 2) / (2.0 * j * (j + 1)) for j in range(3, s + 1)]
        k0, warm = rhs(y, warm)
        before, now = y, materialise(combine((1.0, y), (dt * b[1] * w1, k0)))
        for j in range(2, s + 1):
            mu = (2 * j - 1) / j * b[j] / b[j - 1]
            nu = -(j - 1) / j * b[j] / b[j - 2]
            k, warm = rhs(now, warm)
            before, now = (
                now,
                combine(
                    (1.0 - mu - nu, y),
                    (mu, now),
                    (nu, before),
                    (dt * mu * w1, k),
                    (-dt * mu * w1 * (1.0 - b[j - 1]), k0),
                ),
            )
            now = materialise(now)
        return now, warm


def add_compensated(total: tuple[Array, Array], amount: Array) -> tuple[Array, Array]:
    """Add to a (sum, remainder) pair without losing what falls below the sum's last bit (Knuth's two-sum)."""
    value, remainder = total
    amount = amount + remainder
    new = value + amount
    virtual = new - value
    return new, (value - (new - virtual)) + (amount - virtual)
