"""Problems whose solution is known in closed form, shared by the tests of exactness and of orders.

Every formula here is itself tested: `test_exact.py` puts the solutions into their equations by automatic
differentiation, `test_orders.py` checks the manufactured sources by finite differences of the fields.
Lengths in mm, times in days, densities as fractions of the carrying capacity.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import minimize_scalar

from glioma_pde.biology.base import Module, Transfer
from glioma_pde.biology.prodrug import Prodrug
from glioma_pde.schedule import Plan, stack

# -- solutions of single equations ---------------------------------------------------------------


def ablowitz_zeppetella(x, t, D, rho):
    """The travelling wave of ∂t u = D u_xx + ρ u(1 − u) at the speed (5/√6)√(Dρ) (1979)."""
    speed = 5.0 / jnp.sqrt(6.0) * jnp.sqrt(D * rho)
    return (1.0 + jnp.exp(jnp.sqrt(rho / (6.0 * D)) * (x - speed * t))) ** -2


def growing_kernel(r2, t, D, rho, dim):
    """e^{ρt} (4πDt)^{−dim/2} exp(−r²/4Dt): one unit released at a point, of ∂t u = D∇²u + ρu."""
    return jnp.exp(rho * t - r2 / (4.0 * D * t)) * (4.0 * jnp.pi * D * t) ** (-0.5 * dim)


def detectable_radius(t, D, rho, threshold):
    """Where `growing_kernel` in three dimensions falls to ``threshold``: 2√(Dt) √(ρt − ln[u*(4πDt)^{3/2}])."""
    return 2.0 * jnp.sqrt(D * t) * jnp.sqrt(rho * t - jnp.log(threshold * (4.0 * jnp.pi * D * t) ** 1.5))


def logistic(u0, t, rho):
    """u' = ρ u(1 − u)."""
    return u0 / (u0 + (1.0 - u0) * jnp.exp(-rho * t))


def gompertz(u0, t, rho, floor):
    """u' = −ρ u ln max(u, floor): exponential up to the floor, then double exponential."""
    wait = jnp.log(jnp.maximum(floor / u0, 1.0)) / (-rho * jnp.log(floor))
    below = u0 * jnp.exp(-rho * t * jnp.log(floor))
    above = jnp.exp(jnp.log(jnp.maximum(u0, floor)) * jnp.exp(-rho * jnp.maximum(t - wait, 0.0)))
    return jnp.where(t < wait, below, above)


# -- pulled fronts ---------------------------------------------------------------------------------


def save_front(model, carry, medium, day):
    """Where the tumour density falls to one half, in cells from the inner wall; for `solve`."""
    u = carry.x["tumour"]
    i = u.shape[0] - 1 - jnp.argmax(u[::-1] >= 0.5)
    # nearly linear in x through a front, and through the flank of what grows without a limit
    ahead = jnp.where(jnp.max(u) < 2.0, jnp.log(u) - jnp.log1p(-jnp.minimum(u, 1.0)), jnp.log(u))
    return i + 0.5 + ahead[i] / (ahead[i] - ahead[i + 1])


def pulled_front(spacing, dt):
    """Speed c, decay λ and spread Ω''/2 at which e^{−λ(x − ct)} is selected by cells and Heun steps (D = ρ = 1).

    A step multiplies e^{−λx} by 1 + z + z²/2 with z = dt ω(λ), ω = 1 + 2(cosh λh − 1)/h²; c = min Ω/λ with
    Ω = ln(1 + z + z²/2)/dt.
    """

    def growth(decay):
        z = dt * (1.0 + 4.0 * np.sinh(0.5 * decay * spacing) ** 2 / spacing**2)
        return np.log1p(z + 0.5 * z * z) / dt

    decay = minimize_scalar(lambda k: growth(k) / k, bounds=(0.2, 2.0), method="bounded", options={"xatol": 1e-9}).x
    e = 1e-3
    spread = 0.5 * (growth(decay + e) - 2.0 * growth(decay) + growth(decay - e)) / e**2
    return growth(decay) / decay, decay, spread


# -- the whole coupled system, manufactured --------------------------------------------------------

# Second zero of tan z = z: sin(zr/R)/r has no slope at r = R, and slopes of both signs before.
_RADIAL_MODE = 7.725251836937707


class Manufactured(eqx.Module):
    """Smooth fields that satisfy all five equations once the sources of `sources` are added.

    The domain is a box with one corner at the origin, or a ball. Every length scales with it, so one
    spacing serves all resolutions: a domain of twice as many cells is the same problem at half the relative
    spacing, in the same compiled program.

    The attractant and the prodrug need no source: u is a mode of the Laplacian plus a constant, and p is
    algebraic in s and P(t).
    """

    law: str = eqx.field(static=True)
    radial: bool = eqx.field(static=True)
    filling: bool = eqx.field(static=True)
    lengths: Array
    """Edges of the box, or the radius of the ball, ``(axes,)``."""

    # tumour and carriers; diffusivities in units of L²/day, speeds of L/day, L the first length
    D_u: float = 0.012
    D_s: float = 0.008
    bump: float = 0.05
    """Part of the carriers that has extrema inside the domain, where taxis is of lower order."""
    rho: float = 0.6
    rho_s: float = 0.3
    loss: float = 0.4
    crowding: float = 0.2
    kappa: float = 0.5
    saturation: float = 1.5
    suicide: float = 0.3
    chi: float = 0.05
    receptor: float = 0.5
    offset: float = 0.05
    speed: float = 0.15
    sensing: float = 0.4
    # attractant
    D_a: float = 0.05
    decay_a: float = 1.7
    release: float = 1.3
    # drug and prodrug
    D_c: float = 0.06
    decay_c: float = 8.0
    efflux: float = 1.0
    uptake: float = 2.0
    secretion: float = 20.0
    """q K s at s = 1 [µM/day]."""
    emax: float = 0.7
    ic50: float = 3.0
    hill: float = 1.5
    dose: float = 100.0
    ratio: float = 0.75
    exchange: float = 6.0
    vmax: float = 900.0
    """V_max K s at s = 1 [µM/day]."""
    km: float = 250.0
    half_life_h: float = 20.0
    molar_mass: float = 129.09
    volume: float = 0.8
    available: float = 0.85

    # -- fields at a point x (as many coordinates as axes; three for the ball) -----------------------

    def _unit(self, x):
        """Coordinates from 0 to 1 along each axis; for the ball r/R, which makes its fields functions of r alone."""
        if self.radial:
            return jnp.sqrt(jnp.sum(x * x, keepdims=True)) / self.lengths
        return x / self.lengths

    def _mode(self, x):
        z = self._unit(x)
        if self.radial:
            return jnp.sin(_RADIAL_MODE * z[0]) / (_RADIAL_MODE * z[0])
        return jnp.prod(jnp.cos(self._waves() * jnp.pi * z))

    def _waves(self):
        """Half waves along each axis: two on a line, so that the wind blows both ways in any dimension."""
        return 2.0 if len(self.lengths) == 1 else 1.0

    def _eigenvalue(self):
        """k² of the mode: −∇²(mode) = k² mode [1/mm²]."""
        if self.radial:
            return (_RADIAL_MODE / self.lengths[0]) ** 2
        return jnp.sum((self._waves() * jnp.pi / self.lengths) ** 2)

    def tumour(self, x, t):
        return 0.35 + 0.15 * self._mode(x) * jnp.cos(1.3 * t)

    def attractant(self, x, t):
        amplitude = 0.15 * jnp.cos(1.3 * t) / (self.decay_a + self.D_a * self.lengths[0] ** 2 * self._eigenvalue())
        return self.release * (0.35 / self.decay_a + amplitude * self._mode(x))

    def carriers(self, x, t):
        z = self._unit(x)
        return 0.25 + 0.08 * jnp.cos(jnp.pi * z[0]) * jnp.sin(1.0 + t) + self.bump * jnp.cos(2.0 * jnp.pi * z[-1])

    def drug(self, x, t):
        z = self._unit(x)
        return 3.0 + jnp.cos(jnp.pi * z[0]) * jnp.exp(-t) - 0.8 * jnp.cos(2.0 * jnp.pi * z[-1]) * jnp.cos(t)

    def plasma(self, t):
        """P(t) [µM] under a constant dose rate since day −1."""
        k = jnp.log(2.0) * 24.0 / self.half_life_h
        return 1e3 * self.available * self.dose / (self.volume * self.molar_mass * k) * -jnp.expm1(-k * (t + 1.0))

    def prodrug(self, x, t):
        """Root of k_ex (π P − p) = W s p/(K_m + p)."""
        supply = self.ratio * self.plasma(t)
        b = self.km + self.vmax * self.carriers(x, t) / self.exchange - supply
        return 0.5 * (jnp.sqrt(b * b + 4.0 * self.km * supply) - b)

    def diffusivities(self, x):
        """D_u and D_s [mm²/day]: neither even at the walls nor alike."""
        z = self._unit(x)
        wave = jnp.cos(jnp.pi * z[0]) if self.radial else jnp.sin(2.0 * z[0] + z[-1])
        scale = self.lengths[0] ** 2
        return self.D_u * (1.0 + 0.4 * wave) * scale, self.D_s * (1.0 - 0.5 * wave * z[0] ** 2) * scale

    def wind(self, x, t):
        """Velocity of taxis [mm/day], from the laws as science states them."""
        L = self.lengths[0]
        a, slope = jax.value_and_grad(self.attractant)(x, t)
        full = self.release / self.decay_a
        if self.law == "none":
            return 0.0 * slope
        if self.law == "linear":
            return self.chi * L**2 * slope
        if self.law == "receptor":
            return self.chi * L**2 * self.receptor / (self.receptor + a) ** 2 * slope
        if self.law == "logarithmic":
            return self.chi * L**2 * slope / (a + self.offset * full)
        G = self.sensing * L * slope / (a + self.offset * full)
        return self.speed * L * G / jnp.sqrt(1.0 + G @ G)

    # -- the sources that make them solutions ---------------------------------------------------------

    def _divergence(self, flux, x):
        return jnp.trace(jax.jacfwd(flux)(x))

    def sources(self, x, t):
        """What to add to ∂t u, ∂t s [1/day] and to the drug's source [µM/day] at a point and an instant."""
        u, s, c, p = self.tumour(x, t), self.carriers(x, t), self.drug(x, t), self.prodrug(x, t)
        N = u + self.crowding * s
        effect = self.emax / (1.0 + (self.ic50 / c) ** self.hill)
        room = 1.0 - (u + s) if self.filling else 1.0 - N

        def spread_u(y):
            return self.diffusivities(y)[0] * jax.grad(self.tumour)(y, t)

        def spread_s(y):
            here = self.carriers(y, t)
            moving = here * (1.0 - here - self.tumour(y, t)) if self.filling else here
            return self.diffusivities(y)[1] * jax.grad(self.carriers)(y, t) - moving * self.wind(y, t)

        def spread_c(y):
            return self.D_c * self.lengths[0] ** 2 * jax.grad(self.drug)(y, t)

        du = self._divergence(spread_u, x) + self.rho * u * (1.0 - N)
        du = du - effect * u - self.kappa * s / (1.0 + self.saturation * s) * u
        ds = self._divergence(spread_s, x) + self.rho_s * s * room - self.loss * s - self.suicide * effect * s
        made = self.secretion * s + self.vmax * s * p / (self.km + p)
        lost = (self.decay_c + self.efflux + self.uptake * u) * c
        return (
            jax.grad(self.tumour, 1)(x, t) - du,
            jax.grad(self.carriers, 1)(x, t) - ds,
            lost - made - self._divergence(spread_c, x),
        )


class Forcing(Module):
    """Adds the sources of a `Manufactured` problem to tumour and carriers, as means over the step (midpoint).

    Attributes:
        points: cell centres as the problem's coordinates, ``(cells, coordinates)``.
    """

    name: ClassVar[str] = "forcing"
    needs: ClassVar = ("tumour", "carriers")

    problem: Manufactured
    points: Array

    def transfers(self, x, q, at):
        u, s = (at_cells(f, at.tissue) for f in _sources(self.problem, self.points, at)[:2])
        return (Transfer("forcing_u", None, "tumour", u), Transfer("forcing_s", None, "carriers", s))


class ForcedProdrug(Prodrug):
    """The prodrug as it is, and the drug's manufactured source on top of its conversion."""

    problem: Manufactured | None = None
    points: Array | None = None

    def quantities(self, x, q, at):
        out = super().quantities(x, q, at)
        extra = at_cells(_sources(self.problem, self.points, at)[2], at.tissue)
        return {**out, "conversion": out["conversion"] + extra}


def _sources(problem, points, at):
    return jax.vmap(problem.sources, (0, None))(points, at.t + 0.5 * at.dt)


def at_cells(flat: Array, tissue) -> Array:
    """A value per point as a field that vanishes outside the mask."""
    return jnp.where(tissue.mask, flat.reshape(tissue.grid.shape), 0.0)


# -- observed orders --------------------------------------------------------------------------------


def orders(errors, ratio: float = 2.0) -> np.ndarray:
    """Observed orders between successive refinements by ``ratio``."""
    errors = np.asarray(errors, dtype=float)
    return np.log(errors[:-1] / errors[1:]) / np.log(ratio)


def refine(plan: Plan) -> Plan:
    """The same intervals cut into twice as many blocks: every step is halved exactly."""

    def twice(first, second):
        return jnp.stack([first, second], axis=-1).reshape(first.shape[0], -1)

    return Plan(
        lower=twice(plan.lower, plan.lower),
        upper=twice(plan.upper, plan.upper),
        part=twice(2 * plan.part, 2 * plan.part + 1),
        parts=twice(2 * plan.parts, 2 * plan.parts),
        events=tuple(twice(e, jnp.full_like(e, -1)) for e in plan.events),
        count=2 * plan.count,
        saves=plan.saves,
    )


def same_shape(plans: list[Plan]) -> list[Plan]:
    """The plans padded with empty blocks to one shape, so that they share a compiled program."""
    batch = stack(plans)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in range(len(plans))]
