"""Directed migration: fluxes, limiter, sensing laws, aggregation."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from glioma_pde.biology.attractant import Attractant
from glioma_pde.biology.base import Module
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.laws import FluxLimited, LinearSensing, LogarithmicSensing, ReceptorSensing, _bounded
from glioma_pde.biology.tumour import Tumour
from glioma_pde.delivery import CarrierDoses, Schedule
from glioma_pde.grid import Grid
from glioma_pde.model import Model
from glioma_pde.numerics.diffusion import shift
from glioma_pde.numerics.elliptic import solve_quasi_steady, uniform_coupling
from glioma_pde.numerics.taxis import (
    _limited,
    advect,
    advection_rate,
    face_speed_factor,
    gradient,
    gradient_magnitude2,
    limited_slope,
)
from glioma_pde.solve import simulate
from glioma_pde.tissue import Tissue


class GivenAttractant(Module):
    """A fixed attractant field."""

    name: ClassVar[str] = "given"
    provides: ClassVar = ("attractant", "attractant_scale")

    values: Array
    scale: Array | float = 1.0

    def quantities(self, x, q, at):
        return {"attractant": self.values, "attractant_scale": jnp.asarray(self.scale)}

    def limits(self, at, limits):
        return {"attractant_scale": jnp.asarray(self.scale)}


class OwnAttractant(Module):
    """Attractant released by the carriers themselves: 0 = D_a ∇²a − λ a + β s (Keller & Segel)."""

    name: ClassVar[str] = "own"
    provides: ClassVar = ("attractant", "attractant_scale")

    diffusivity: Array | float = 1.0
    decay: Array | float = 0.04
    release: Array | float = 1.0

    def prepare(self, tissue):
        inside = jnp.asarray(tissue.mask, tissue.white.dtype)
        return uniform_coupling(tissue.grid, self.diffusivity, inside, tissue.face_average(inside))

    def quantities(self, x, q, at):
        s = x["carriers"]
        a = solve_quasi_steady(at.grid, at.medium, jnp.asarray(self.decay), self.release * s, 0.0 * s, 1e-6)
        return {"attractant": a, "attractant_scale": jnp.ones(())}


def movers(tissue, attractant, taxis, diffusivity=0.0, filling=False):
    carriers = Carriers(diffusivity, diffusivity, loss_per_day=0.0, taxis=taxis, volume_filling=filling)
    return Model(tissue, [carriers, attractant], ledger=False)


@eqx.filter_jit
def march(model, s, steps, dt=None):
    """Carriers after ``steps`` equal steps, of the longest guaranteed length unless given."""
    medium = model.prepare()
    carry = model.start({"carriers": s})
    dt = 1.0 / model.loss_rate(medium) if dt is None else dt

    def step(i, c):
        return model.step(c, medium, i * dt, dt)

    return jax.lax.fori_loop(0, steps, step, carry).x["carriers"]


# -- steady states -------------------------------------------------------------------------------


@eqx.filter_jit
def steady_state(model, s0):
    """Newton's method on ds/dt = 0 with the mass of ``s0``."""
    grid, inside, medium = model.tissue.grid, model.tissue.mask.ravel(), model.prepare()
    total, zero = grid.integrate(s0), jnp.zeros(())

    def residual(s):
        field = s.reshape(grid.shape)
        rate = model.rates({"carriers": field}, {}, medium, zero, zero)[0]["carriers"]
        return jnp.where(inside, rate.ravel() + (grid.integrate(field) / total - 1.0), s)

    def newton(_, s):
        return s - jnp.linalg.solve(jax.jacfwd(residual)(s), residual(s))

    s = jax.lax.fori_loop(0, 6, newton, s0.ravel())
    return s.reshape(grid.shape), jnp.max(jnp.abs(residual(s)))


def scaled(grid, cells, inside, signal):
    """The same problem on ``cells`` of the grid's cells per unit of length: lengths scale, so one program serves all.

    Args:
        inside, signal: of the places in units of length, the mask and χa/D_s.

    Returns:
        The model, and exp(χa/D_s) in the mask, of unit mean.
    """
    first = grid.world_mm().reshape(grid.ndim, -1)[:, 0] - 0.5 * np.asarray(grid.spacing_mm)
    places = (grid.world_mm() - first.reshape(-1, *(1,) * grid.ndim)) / cells
    mask, exponent = inside(*places), signal(*places)
    ones = np.ones(grid.shape)
    tissue = Tissue.from_arrays(ones, 0 * ones, grid=grid, mask=mask)
    s = np.where(mask, np.exp(exponent), 0.0)
    volumes = grid.volumes_mm3()
    s *= (volumes * mask).sum() / (volumes * s).sum()
    model = movers(
        tissue, GivenAttractant(jnp.asarray(np.where(mask, exponent, 0.0))), LinearSensing(0.5), diffusivity=0.5
    )
    return model, jnp.asarray(s)


def steady_errors(grid, sizes, inside, signal):
    """Relative L¹ distance of the steady state from a Boltzmann factor."""
    errors = []
    for cells in sizes:
        model, exact = scaled(grid, cells, inside, signal)
        s, residual = steady_state(model, exact)
        assert residual < 1e-10
        errors.append(float(grid.integrate(jnp.abs(s - exact)) / grid.integrate(exact)))
    return np.array(errors)


LINE = Grid.cartesian((256,), 1.0)


@pytest.mark.parametrize(
    ("grid", "signal"), [(LINE, lambda x: 1.5 * x), (Grid.radial(256, 1.0), lambda r: 1.5 * r**2)], ids=["line", "ball"]
)
def test_steady_state_in_one_dimension_is_a_boltzmann_factor(grid, signal):
    errors = steady_errors(grid, (128, 256), lambda x: x < 1.0, signal)
    # from above: the limiter's loss of order beside walls decays as h³
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)
    assert errors[-1] < 1e-5


def test_steady_state_in_a_masked_plane_is_a_boltzmann_factor():
    # a ring, whose staircase walls the attractant crosses at every angle
    def ring(x, y):
        r2 = (x - 0.5) ** 2 + (y - 0.5) ** 2
        return (r2 < 0.46**2) & (r2 > 0.12**2)

    errors = steady_errors(
        Grid.cartesian((32, 32), 1.0),
        (16, 32),
        ring,
        lambda x, y: np.sin(4.8 * (x - 0.5)) + 0.4 * np.cos(4.0 * y - 1.7),
    )
    assert np.log2(errors[0] / errors[1]) > 1.8
    assert errors[-1] < 4e-3


def test_any_start_drifts_to_the_steady_state_and_keeps_its_mass():
    model, exact = scaled(LINE, 24, lambda x: x < 1.0, lambda x: np.cos(np.pi * x))
    start = jnp.zeros(256).at[20].set(24.0)
    s = march(model, start, 4000)
    wanted, _ = steady_state(model, exact)
    np.testing.assert_allclose(s, wanted, rtol=1e-6)
    assert float(jnp.sum(s)) == pytest.approx(24.0, rel=1e-12)


# -- the limiter and the fluxes ------------------------------------------------------------------


def test_slopes_are_second_order_and_within_their_bound():
    errors = []
    for n in (200, 400):
        h = 1.0 / n
        edges = np.arange(n + 1) * h
        means = jnp.asarray(np.diff(np.exp(2.0 * edges)) / (2.0 * h))
        upper = means + 0.5 * limited_slope(means, 0)  # value at the upper face of each cell
        errors.append(np.abs(upper - np.exp(2.0 * edges[1:]))[2:-2].max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)

    s = jnp.asarray(np.random.default_rng(1).random(4000))
    a, b = np.diff(s, prepend=0.0), np.diff(s, append=0.0)
    slope = np.asarray(limited_slope(s, 0))
    assert np.all(np.abs(slope) <= 1.04 * np.minimum(np.abs(a), np.abs(b)) + 1e-15)
    assert np.all(slope[a * b <= 0] == 0)
    # linear data are reproduced
    np.testing.assert_allclose(limited_slope(jnp.arange(1.0, 9.0), 0)[1:-1], 1.0)


def test_derivatives_given_by_hand_are_those_of_the_formulas():
    a, b = (jax.random.normal(key, 500) for key in jax.random.split(jax.random.key(0)))
    b = b * jnp.logspace(-3, 3, 500)

    def slope(a, b):
        return jnp.where(a * b > 0, a**2 * b**2 * (a + b) / (a**4 + b**4), 0.0)

    for ours, plain, y in ((_limited, slope, b), (_bounded, lambda g, m2: g / jnp.sqrt(1 + m2), b * b)):
        first = [jax.grad(lambda x, y, f=f: f(x, y).sum(), (0, 1)) for f in (ours, plain)]
        second = [jax.jvp(g, (a, y), (y, a))[1] for g in first]
        np.testing.assert_allclose(ours(a, y), plain(a, y), rtol=1e-12)
        np.testing.assert_allclose(first[0](a, y), first[1](a, y), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(*second, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_slopes_survive_tiny_and_huge_values(dtype):
    unit = jnp.asarray([0.0, 1.0, 3.0, 4.0, 4.0, 2.0, 0.0], dtype)
    for scale in (1e-30, 1.0, 1e30):
        np.testing.assert_allclose(limited_slope(scale * unit, 0) / scale, limited_slope(unit, 0), rtol=1e-5)
    assert np.all(np.isfinite(jax.grad(lambda s: limited_slope(s, 0).sum())(jnp.zeros(5, dtype))))


SHAPE = (9, 7)
PLANE = Grid.cartesian(SHAPE, (1.0, 1.5))


def random_planes(count, seed):
    """Densities with empty cells, and winds of all strengths, on planes with holes."""
    rng = np.random.default_rng(seed)
    shape = (count, *SHAPE)
    mask = rng.random(shape) < 0.8
    s = rng.random(shape) * (rng.random(shape) < 0.7) * mask
    return jnp.asarray(mask), jnp.asarray(s), tuple(jnp.asarray(rng.uniform(-1, 1, shape)) for _ in range(2))


def open_faces(mask, like):
    inside = jnp.asarray(mask, like.dtype)
    return tuple(inside * shift(inside, axis, 1) for axis in range(inside.ndim))


def test_a_step_at_its_bound_stays_positive_and_leaks_nothing_without_any_diffusion():
    @jax.jit
    @jax.vmap
    def one(mask, s, winds, full):
        factor = face_speed_factor(PLANE, open_faces(mask, s))
        # the fastest winds allowed, in all directions, or anything below
        winds = tuple(jnp.where(full, jnp.sign(v), v) for v in winds)
        dt = 1.0 / advection_rate(PLANE, factor)
        after = s + dt * advect(PLANE, s, winds, factor)
        return after.min(), jnp.abs(jnp.where(mask, 0.0, after)).max(), after.sum() - s.sum(), after.max()

    low, outside, gain, high = one(*random_planes(4000, 0), jnp.arange(4000) % 2 == 0)
    assert low.min() >= -1e-15
    assert outside.max() == 0.0
    assert np.abs(gain).max() < 1e-13
    assert high.max() > 1.5  # the winds do something


def test_strips_two_cells_wide_empty_no_faster_than_their_bound():
    # a cell at a wall loses through one face only, and that face carries up to 1.52 s
    grid = Grid.cartesian((2,), 1.0)
    factor = face_speed_factor(grid, (jnp.array([0.0, 1.0]),))
    s = jnp.array([1.0, 2.13])
    after = s + advect(grid, s, (jnp.array([0.0, 1.0]),), factor) / advection_rate(grid, factor)
    assert 0.0 <= after[0] < 0.01


def test_radial_steps_at_their_bound_stay_positive():
    grid = Grid.radial(12, 0.5)
    factor = face_speed_factor(grid, (jnp.ones(12).at[0].set(0.0),))

    @jax.jit
    @jax.vmap
    def one(s, wind):
        after = s + advect(grid, s, (wind,), factor) / advection_rate(grid, factor)
        return after.min(), grid.integrate(after) - grid.integrate(s)

    rng = np.random.default_rng(1)
    s = rng.random((2000, 12)) * (rng.random((2000, 12)) < 0.7)
    low, gain = one(jnp.asarray(s), jnp.asarray(np.sign(rng.standard_normal((2000, 12)))))
    assert low.min() >= -1e-15
    assert np.abs(gain).max() < 1e-10


@pytest.mark.parametrize("filling", [False, True])
def test_gradients_through_the_flux_pass_a_taylor_test(filling):
    mask, s, winds = jax.tree.map(lambda a: a[0], random_planes(1, 3))
    factor = face_speed_factor(PLANE, open_faces(mask, s))
    weight, ds = jnp.asarray(np.random.default_rng(4).standard_normal((2, *SHAPE)))

    @jax.jit
    def goal(s):
        return jnp.sum(weight * advect(PLANE, s, winds, factor, 0.8 * s if filling else None))

    slope = jnp.sum(jax.jit(jax.grad(goal))(s) * ds * mask)
    eps = 2.0 ** -np.arange(10, 18)
    # holds at empty cells and at extrema, where slopes are cut to zero
    rest = np.array([goal(s + e * ds * mask) - goal(s) - e * slope for e in eps])
    orders = np.log2(np.abs(rest[:-1] / rest[1:]))
    assert np.all(orders >= 1.95), orders


# -- sensing laws --------------------------------------------------------------------------------

K, OFF, CHI, LENGTH, SPEED = 0.7, 0.05, 0.3, 1.3, 0.4
LAWS = {
    "linear": (LinearSensing(CHI), lambda a, da: CHI * da),
    "receptor": (ReceptorSensing(CHI, K), lambda a, da: CHI * K / (K + a) ** 2 * da),
    "logarithmic": (LogarithmicSensing(CHI, OFF), lambda a, da: CHI / (a + OFF * 2.0) * da),
    "flux_limited": (
        FluxLimited(SPEED, LENGTH, OFF),
        lambda a, da: SPEED * (LENGTH * da / (a + 0.1)) / np.sqrt(1.0 + (LENGTH * da / (a + 0.1)) ** 2),
    ),
}


@pytest.mark.parametrize("law", LAWS)
def test_velocities_are_those_of_the_equations(law):
    sensing, exact = LAWS[law]
    errors = []
    for n in (50, 100):
        grid = Grid.cartesian((n,), 4.0 / n, origin_mm=(2.0 / n,))
        a = 0.2 + 0.15 * np.sin(grid.axis_mm(0))
        slope = gradient(grid, sensing.potential(jnp.asarray(a), jnp.asarray(2.0)), (jnp.ones(n),))
        magnitude2 = gradient_magnitude2(slope)
        v = sensing.velocity(slope[0], magnitude2[0])
        x = grid.axis_mm(0) - 2.0 / n  # lower faces
        errors.append(np.abs(v - exact(0.2 + 0.15 * np.sin(x), 0.15 * np.cos(x)))[1:].max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("law", LAWS)
def test_bounds_of_speed_and_of_potential_differences_hold(law):
    sensing, _ = LAWS[law]
    a = jnp.linspace(0.0, 2.0, 101)  # up to a* = 2
    potential = np.asarray(sensing.potential(a, jnp.asarray(2.0)))
    if sensing.largest_speed is None:
        assert np.ptp(potential) == pytest.approx(float(sensing.largest_step(jnp.asarray(2.0))), rel=1e-12)
    else:
        slopes = tuple(jnp.asarray(10.0 * np.random.default_rng(0).standard_normal((2, 30, 30))))
        for slope, m2 in zip(slopes, gradient_magnitude2(slopes), strict=True):
            assert np.abs(sensing.velocity(slope, m2)).max() <= float(sensing.largest_speed)
    # below zero, where an iterative solve may land, laws stay finite
    assert np.isfinite(sensing.potential(jnp.asarray(-1e-4), jnp.asarray(2.0)))


# -- a travelling pulse --------------------------------------------------------------------------


def test_a_pulse_in_a_steady_gradient_travels_at_the_speed_of_the_law():
    n, trip, sigma = 60, 20.0, 2.0
    tissue = Tissue.phantom("box", (n,), 1.0)
    x = jnp.asarray(tissue.grid.axis_mm(0))
    pulse = jnp.exp(-0.5 * ((x + 15.0) / sigma) ** 2)
    D, v_max = 0.003, 0.27  # cell Péclet number 90 at h = 1 mm

    def travel(steepness):
        speed = v_max * steepness / jnp.sqrt(1.0 + steepness**2)
        # a₀ is out of sight, hence G = ℓ d ln a/dx = steepness everywhere
        attractant = GivenAttractant(jnp.exp(steepness * (x + 30.0)))
        model = movers(tissue, attractant, FluxLimited(v_max, 1.0, 1e-30), diffusivity=D)
        days = trip / speed
        s = march(model, pulse, 400, days / 400)
        centre = jnp.sum(x * s) / jnp.sum(s)
        spread = jnp.sqrt(jnp.sum((x - centre) ** 2 * s) / jnp.sum(s))
        return centre + 15.0, spread, jnp.sum(s) / jnp.sum(pulse), jnp.sqrt(sigma**2 + 2.0 * D * days)

    distance, spread, mass, exact = eqx.filter_jit(jax.vmap(travel))(jnp.array([0.3, 1.0, 3.0]))
    np.testing.assert_allclose(distance, trip, rtol=2e-3)
    np.testing.assert_allclose(mass, 1.0, rtol=1e-13)
    # Exact 2.1 mm. Plain upwind makes it 4.9 mm, a second-order min/max limiter 2.6 mm.
    assert exact[-1] == pytest.approx(2.11, abs=0.01)
    # This limiter, at G = 3: 3.51 mm.
    assert 3.4 < spread[-1] < 3.6
    assert np.all(spread > exact)


# -- aggregation ---------------------------------------------------------------------------------


def test_volume_filling_keeps_carriers_at_or_below_one():
    tissue = Tissue.phantom("head", (24, 20), 1.0)
    x, y = tissue.grid.world_mm()
    a = jnp.asarray(np.exp(-0.05 * ((x - 2.0) ** 2 + y**2)))
    start = jnp.where(tissue.mask, 0.9 * jnp.asarray((x < 3.0), float), 0.0)
    highest = {}
    for filling in (True, False):
        model = movers(tissue, GivenAttractant(a), LinearSensing(3.0), diffusivity=0.01, filling=filling)
        highest[filling] = float(march(model, start, 400).max())
    assert 0.99 < highest[True] <= 1.0 + 4e-16
    assert highest[False] > 5.0


@eqx.filter_jit
def collapse(model, s, steps, dt):
    """The final state, and the highest density on the way."""
    medium = model.prepare()

    def step(i, state):
        carry, peak = state
        carry = model.step(carry, medium, i * dt, dt)
        return carry, jnp.maximum(peak, carry.x["carriers"].max())

    carry, peak = jax.lax.fori_loop(0, steps, step, (model.start({"carriers": s}), s.max()))
    return carry.x["carriers"], peak


def aggregation(number, n, sigma, days, width=20.0):
    """Highest peak relative to the first, last peak and first peak, of a Gaussian with χ β M/(D_s D_a) = number · π.

    D_s = D_a = β = M = 1, on n² cells of a square; mass is conserved and nothing negative.
    """
    h = width / n
    tissue = Tissue.phantom("box", (n, n), h)
    s = jnp.asarray(np.exp(-0.5 * (tissue.grid.world_mm() ** 2).sum(0) / sigma**2))
    s = s / tissue.grid.integrate(s)
    steps = int(days / (h * h / 30.0))
    model = movers(tissue, OwnAttractant(), LinearSensing(number * np.pi), diffusivity=1.0)
    end, peak = collapse(model, s, jnp.asarray(steps), days / steps)
    assert float(tissue.grid.integrate(end)) == pytest.approx(1.0, rel=1e-11)
    assert end.min() >= 0.0
    return float(peak) / float(s.max()), float(end.max()), float(s.max())


def test_keller_segel_is_bounded_below_8_pi_and_collapses_above():
    """Radial data inside a square of 10 σ, attractant range 5 mm: nothing feels the walls in 6 days.

    The time of collapse at 16π is at most σ²/2D = 2 days (second moment).
    """
    coarse, fine = sizes = 29, 51
    peaks = {(number, n): aggregation(number, n, 2.0, 6.0) for n in sizes for number in (6.0, 16.0)}
    # below: it spreads, and refinement changes it by the error of the grid, (h/σ)²/8
    for n in sizes:
        assert peaks[6.0, n][0] < 1.05
    assert peaks[6.0, fine][1] == pytest.approx(peaks[6.0, coarse][1], rel=0.03)
    # above: half of the mass ends in one cell (a little more on a finer grid), and the peak goes as h⁻²
    exponent = np.log(peaks[16.0, fine][1] / peaks[16.0, coarse][1]) / np.log(fine / coarse)
    assert exponent == pytest.approx(2.0, abs=0.15)
    assert peaks[16.0, fine][0] > 50.0


@pytest.mark.slow
def test_the_threshold_of_keller_and_segel_lies_between_7_pi_and_10_pi():
    """σ = 1 mm in a square of 20 mm. At 10π the second moment vanishes after at most 2σ²/D = 2 days without the decay
    of the attractant (range 5 mm)."""
    coarse, fine = sizes = 41, 71
    peaks = {(number, n): aggregation(number, n, 1.0, 4.0) for n in sizes for number in (7.0, 10.0)}
    growth = {k: np.log(peaks[k, fine][1] / peaks[k, coarse][1]) / np.log(fine / coarse) for k in (7.0, 10.0)}
    # below: a short rise, then it spreads
    for n in sizes:
        highest, last, first = peaks[7.0, n]
        assert highest < 1.3
        assert last < 0.7 * first
    assert growth[7.0] < 0.4
    # above: the peak goes as h⁻² and stays
    assert growth[10.0] > 1.5
    highest, last, first = peaks[10.0, fine]
    assert last > 0.9 * highest * first > 3.0 * first


# -- homing --------------------------------------------------------------------------------------


def homing(dtype, range_mm, distance_mm, days):
    """Share of carriers within 7 mm of the middle of a still tumour of 5 mm, after having been put ``distance_mm``
    beyond its edge; none of them dies."""
    tissue = Tissue.phantom("box", (56, 24), 1.0, dtype=dtype)
    x, y = tissue.grid.axis_mm(0)[:, None], tissue.grid.axis_mm(1)
    r = np.hypot(x + 19.0, y)
    u = 1.0 / (1.0 + np.exp((r - 5.0) / 0.5))
    attractant = Attractant(diffusivity_mm2_per_day=1.7 * range_mm**2, decay_per_day=1.7)
    model = Model(tissue, [Tumour(0.0, 0.0, 0.0), Carriers(0.003, 0.003, loss_per_day=0.0), attractant])
    doses = CarrierDoses.at_sites([0.0], 1e5, [[-14.0 + distance_mm, 0.0]], 1.5)
    s = np.asarray(simulate(model, {"tumour": u}, [0.0, days], Schedule((doses,)))["carriers"][-1], float)
    assert s.sum() == pytest.approx(1.0, rel=1e-5 if dtype == jnp.float32 else 1e-12)
    return float((s * (r < 7.0)).sum())


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32], ids=["float64", "float32"])
def test_carriers_come_from_far_where_the_attractant_reaches_far(dtype):
    """With a range of 3 mm, from 15 and 20 mm; with one of 0.3 mm (CXCL12) from nowhere."""
    with jax.enable_x64(dtype == jnp.float64):
        assert homing(dtype, 3.0, 15.0, 300.0) > 0.95
        assert homing(dtype, 3.0, 20.0, 500.0) > 0.8
        assert homing(dtype, 0.3, 15.0, 300.0) < 0.01
