"""Quasi-steady solves: against dense algebra, exact solutions, and finite differences."""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.grid import Grid
from glioma_pde.numerics import elliptic
from glioma_pde.numerics.elliptic import solve_quasi_steady, sweeps_cold, uniform_coupling
from glioma_pde.tissue import Tissue


def tissue_of(grid, mask=None):
    ones = np.ones(grid.shape)
    return Tissue.from_arrays(ones, 0 * ones, grid=grid, mask=ones > 0 if mask is None else mask)


def couple(tissue, diffusivity):
    inside = jnp.asarray(tissue.mask, tissue.white.dtype)
    return uniform_coupling(tissue.grid, diffusivity, inside, tissue.face_average(inside))


@eqx.filter_jit
def solve(tissue, diffusivity, sink, source, guess, tolerance):
    return solve_quasi_steady(tissue.grid, couple(tissue, diffusivity), sink, source, guess, tolerance)


def dense(grid, mask, diffusivity, sink):
    """σV − ∇·D∇ in volumes and areas, cell by cell; the identity outside the mask."""
    index = np.arange(grid.size).reshape(grid.shape)
    volume = grid.volumes_mm3()
    matrix = np.diag(np.where(mask, np.broadcast_to(sink, grid.shape) * volume, 1.0).ravel())
    for cell in np.ndindex(grid.shape):
        for axis in range(grid.ndim):
            if cell[axis] == 0:
                continue
            other = tuple(c - (k == axis) for k, c in enumerate(cell))
            if not (mask[cell] and mask[other]):
                continue
            h = grid.spacing_mm[axis]
            area = 4.0 * math.pi * (cell[0] * h) ** 2 if grid.geometry == "radial" else grid.cell_volume_mm3 / h
            i, j, g = index[cell], index[other], diffusivity * area / h
            matrix[i, i] += g
            matrix[j, j] += g
            matrix[i, j] -= g
            matrix[j, i] -= g
    return matrix


def case(name):
    rng = np.random.default_rng(0)
    grid = {
        "plane": Grid.cartesian((9, 8), (0.7, 1.1)),
        "box": Grid.cartesian((5, 4, 6), (1.0, 0.8, 1.2)),
        "ball": Grid.radial(12, 0.4),
        "line": Grid.cartesian((12,), 0.4),
    }[name]
    mask = np.ones(grid.shape, bool) if name in ("ball",) else rng.random(grid.shape) < 0.8
    sink = 0.5 + rng.random(grid.shape)
    source = np.where(mask, rng.random(grid.shape) < 0.3, 0.0) * rng.random(grid.shape)
    return tissue_of(grid, mask), 3.0, sink, source


@pytest.mark.parametrize("name", ["plane", "box", "ball", "line"])
def test_solution_against_dense_algebra(name):
    tissue, D, sink, source = case(name)
    mask = np.asarray(tissue.mask)
    right = np.where(mask, source * tissue.grid.volumes_mm3(), 0.0)
    exact = np.linalg.solve(dense(tissue.grid, mask, D, sink), right.ravel()).reshape(mask.shape)
    c = np.asarray(solve(tissue, jnp.asarray(D), jnp.asarray(sink), jnp.asarray(source), jnp.zeros(mask.shape), 1e-13))
    np.testing.assert_allclose(c, exact, rtol=0, atol=2e-13 * exact.max())
    assert np.all(c[~mask] == 0)
    assert c.min() >= 0


PLANE = tissue_of(Grid.cartesian((48, 40), 1.0))


def disc(centre, radius):
    x, y = PLANE.grid.world_mm()
    return jnp.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2, float)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
def test_residuals_honour_the_tolerance_and_the_balance_closes_to_it(tolerance):
    D, sink = jnp.asarray(4.4), jnp.asarray(1.7)
    source = disc((5.0, 3.0), 6.0)
    coupling = couple(PLANE, D)
    weight = 1.0 / np.sqrt(1.7 + np.asarray(coupling.rows))
    for guess in (0.0 * source, 0.5 * disc((0.0, 0.0), 9.0)):
        c = solve(PLANE, D, sink, source, guess, tolerance)
        residual = np.asarray(source - coupling.apply(sink, c))
        relative = np.linalg.norm(weight * residual) / np.linalg.norm(weight * np.asarray(source))
        assert relative <= tolerance
        # and not by doing ten times the work: Chebyshev's bound is sharp to a small factor
        assert relative > tolerance / 300
        lost = float(PLANE.grid.integrate(sink * c) - PLANE.grid.integrate(source))
        assert abs(lost) <= tolerance * float(PLANE.grid.integrate(source))


@pytest.fixture
def counted(monkeypatch):
    """A solve that also says how many sweeps it took."""
    counts, iterate = [], elliptic._iterate

    def counting(*a):
        c, count = iterate(*a)
        jax.debug.callback(lambda n: counts.append(int(n)), count)
        return c, count

    monkeypatch.setattr(elliptic, "_iterate", counting)
    compiled = eqx.filter_jit(lambda *a: solve_quasi_steady(PLANE.grid, couple(PLANE, a[0]), *a[1:], 1e-6))

    def run(*args):
        counts.clear()
        c = compiled(*args)
        jax.effects_barrier()
        return c, counts[0]

    return run


def test_a_warm_start_saves_sweeps_and_the_solution_itself_takes_none(counted):
    D, sink = jnp.asarray(4.4), jnp.asarray(1.7)
    before, after = disc((0.0, 0.0), 8.0), disc((0.0, 0.0), 8.0) + 0.01 * disc((0.0, 0.0), 4.0)
    start, cold = counted(D, sink, before, jnp.zeros_like(before))
    assert cold == int(sweeps_cold(couple(PLANE, D), sink, 1e-6))
    assert counted(D, sink, after, start)[1] <= cold - 8
    again, none = counted(D, sink, before, start)
    assert none == 0
    np.testing.assert_allclose(again, start, rtol=1e-6)
    # what has grown or faded everywhere alike is foreseen
    grown, count = counted(D, sink, 1.7 * before, start)
    assert count == 0
    np.testing.assert_allclose(grown, 1.7 * np.asarray(start), rtol=1e-6)
    # a guess far from the source is no help, and no hindrance
    same, count = counted(D, sink, before, 100.0 * disc((14.0, 0.0), 2.0))
    assert cold - 4 <= count <= cold
    np.testing.assert_allclose(same, start, atol=2e-6 * float(start.max()))


def test_solutions_are_positive_to_the_tolerance_from_any_guess():
    """Sources and guesses of all sizes; guesses among them that are right but for one cell."""
    tolerance, shape = 1e-4, PLANE.grid.shape

    @eqx.filter_jit
    def lowest(D, sink, source, guess, mask):
        tissue = eqx.tree_at(lambda t: t.mask, PLANE, mask)
        return solve_quasi_steady(PLANE.grid, couple(tissue, D), sink, source * mask, guess * mask, tolerance)

    rng = np.random.default_rng(2)
    zero, worst = jnp.zeros(shape), 0.0
    for trial in range(120):
        D, sink = jnp.asarray(10.0 ** rng.uniform(-2, 2)), jnp.asarray(10.0 ** rng.uniform(-1, 2))
        mask = jnp.asarray(rng.random(shape) < (1.0 if trial % 2 else rng.uniform(0.5, 1.0)))
        source = disc(rng.uniform(-15, 15, 2), rng.uniform(1, 20)) if trial % 3 else zero.at[7, 9].set(1.0)
        exact = lowest(D, sink, source, zero, mask)
        assert exact.min() >= 0.0
        kind = trial % 4
        if kind == 0:
            guess = exact.at[tuple(rng.integers(0, 40, 2))].add(0.1 * exact.max())
        elif kind == 1:
            guess = lowest(D, sink, jnp.roll(source, 1, 0), zero, mask)
        elif kind == 2:
            guess = 6.0 * exact  # a course has ended
        else:
            guess = lowest(D, sink, zero.at[30, 20].set(1.0), zero, mask)
        c = lowest(D, sink, source, guess, mask)
        worst = max(worst, -float(c.min()) / max(float(c.max()), 1e-300))
    assert worst <= tolerance


def test_no_source_is_exactly_no_concentration():
    guess = jnp.ones(PLANE.grid.shape)
    c = solve(PLANE, jnp.asarray(4.4), jnp.asarray(1.7), 0.0 * guess, guess, 1e-6)
    assert np.all(np.asarray(c) == 0)
    slope = jax.grad(lambda b: solve(PLANE, jnp.asarray(4.4), jnp.asarray(1.7), b, guess, 1e-6)[20, 20])(0.0 * guess)
    assert np.all(np.isfinite(slope))
    assert slope[20, 20] > 0


def test_what_is_negligible_is_zero_and_keeps_its_derivative():
    sink, bump = 2.0 + disc((3.0, 0.0), 5.0), disc((0.0, 0.0), 4.0)
    guess = 1e-9 * disc((0.0, 0.0), 9.0)

    def at(height, negligible):
        coupling = couple(PLANE, 3.0)
        return solve_quasi_steady(PLANE.grid, coupling, sink, height * bump, guess, 1e-10, negligible)

    both = jax.jit(lambda height, negligible: (at(height, negligible), jax.jacfwd(at)(height, negligible)))
    exact, _ = both(1.0, 0.0)
    highest, level = float(exact.max()), 1e-8
    for height in (1e-3, 1e-7, 1e-9, 1e-11, 1e-30):
        c, slope = both(height, level)
        # never wrong by more than the level, whichever way it was taken
        assert np.abs(c - height * exact).max() <= max(level, 1e-9 * height)
        if height * highest > level:
            assert c.max() > 0.5 * height * highest
        if height < 0.1 * level:
            assert np.all(c == 0.0)
        np.testing.assert_allclose(slope, exact, rtol=1e-7, atol=1e-9 * highest)


def test_a_source_that_collapses_leaves_no_trace_of_the_old_solution():
    source = disc((0.0, 0.0), 6.0)
    start = solve(PLANE, jnp.asarray(30.0), jnp.asarray(83.0), source, 0.0 * source, 1e-6)
    c = solve(PLANE, jnp.asarray(30.0), jnp.asarray(83.0), 1e-28 * source, start, 1e-6)
    np.testing.assert_allclose(c, 1e-28 * start, atol=2e-6 * 1e-28 * float(start.max()))


# -- derivatives ---------------------------------------------------------------------------------

TOL = 1e-13


def goal(parameters, tissue, weight):
    D, sink, source = parameters
    c = solve_quasi_steady(tissue.grid, couple(tissue, D), sink, source, jnp.zeros(tissue.grid.shape), TOL)
    return jnp.sum(weight * c**2)


@pytest.mark.parametrize("name", ["plane", "ball"])
def test_derivatives_forward_reverse_and_second_order(name):
    tissue, D, sink, source = case(name)
    shape, mask = tissue.grid.shape, jnp.asarray(tissue.mask)
    rng = np.random.default_rng(5)
    weight = jnp.asarray(rng.standard_normal(shape))
    at = (jnp.asarray(D), jnp.asarray(sink), jnp.asarray(source))
    along = (jnp.asarray(0.7), jnp.asarray(rng.standard_normal(shape)), jnp.asarray(rng.standard_normal(shape)) * mask)

    def add(e):
        return jax.tree.map(lambda a, d: a + e * d, at, along)

    def dot(a, b):
        return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    f = eqx.filter_jit(partial(goal, tissue=tissue, weight=weight))
    slope = eqx.filter_jit(jax.grad(f))
    h = 1e-4
    central = (f(add(h)) - f(add(-h))) / (2 * h)
    reverse = dot(slope(at), along)
    forward = jax.jit(lambda: jax.jvp(f, (at,), (along,))[1])()
    np.testing.assert_allclose(forward, reverse, rtol=1e-11)
    np.testing.assert_allclose(central, reverse, rtol=1e-6)

    # forward over reverse, against differences of the gradient
    curved = jax.jit(lambda: jax.jvp(slope, (at,), (along,))[1])()
    ahead, behind = slope(add(h)), slope(add(-h))
    for c, a, b in zip(curved, ahead, behind, strict=True):
        np.testing.assert_allclose(c, (a - b) / (2 * h), rtol=1e-5, atol=1e-6 * float(jnp.abs(c).max()))


def test_the_adjoint_is_the_transpose():
    """⟨J v, w⟩ = ⟨v, Jᵀ w⟩ to 1e-11 for the map (D, σ, b) → c."""
    tissue, D, sink, source = case("plane")
    rng = np.random.default_rng(6)
    shape, mask = tissue.grid.shape, jnp.asarray(tissue.mask)

    @jax.jit
    def both(at, v, w):
        def f(D, sink, source):
            return solve_quasi_steady(tissue.grid, couple(tissue, D), sink, source, jnp.zeros(shape), TOL)

        return jnp.vdot(jax.jvp(f, at, v)[1], w), sum(
            jnp.vdot(a, b) for a, b in zip(v, jax.vjp(f, *at)[1](w), strict=True)
        )

    at = (jnp.asarray(D), jnp.asarray(sink), jnp.asarray(source))
    for _ in range(5):
        v = (jnp.asarray(rng.standard_normal()), *(jnp.asarray(rng.standard_normal(shape)) * mask for _ in range(2)))
        left, right = both(at, v, jnp.asarray(rng.standard_normal(shape)))
        assert abs(left - right) <= 1e-11 * abs(left)


def test_a_batch_equals_a_loop():
    tissue, _D, sink, source = case("plane")
    sources = jnp.stack([factor * jnp.asarray(source) for factor in (1.0, 0.0, 7.0)])
    diffusivities = jnp.array([0.1, 3.0, 40.0])

    def f(D, b):
        return solve_quasi_steady(
            tissue.grid, couple(tissue, D), jnp.asarray(sink), b, jnp.zeros(tissue.grid.shape), 1e-12
        )

    batch = jax.jit(jax.vmap(f))(diffusivities, sources)
    slopes = jax.jit(jax.vmap(jax.grad(lambda D, b: jnp.sum(f(D, b) ** 2))))(diffusivities, sources)
    one, one_slope = jax.jit(f), jax.jit(jax.grad(lambda D, b: jnp.sum(f(D, b) ** 2)))
    for k in range(3):
        np.testing.assert_allclose(batch[k], one(diffusivities[k], sources[k]), rtol=1e-13, atol=1e-300)
        np.testing.assert_allclose(slopes[k], one_slope(diffusivities[k], sources[k]), rtol=1e-11, atol=1e-300)


# -- point release -------------------------------------------------------------------------------


def point(r, D, decay):
    """1/(4πDr) e^{−r/ℓ}, ℓ = √(D/λ): unit release at the origin of free space."""
    return np.exp(-r / math.sqrt(D / decay)) / (4.0 * math.pi * D * r)


def test_point_release_in_a_ball_decays_as_exp_over_r():
    D, decay, errors = 30.0, 83.0, []
    for n in (60, 120):
        tissue = Tissue.radial(n, 9.0 / n)  # h = 0.15 and 0.075 mm, R = 15 ℓ
        source = jnp.zeros(n).at[0].set(1.0 / tissue.grid.volumes_mm3()[0])
        c = solve(tissue, jnp.asarray(D), jnp.asarray(decay), source, jnp.zeros(n), 1e-10)
        r = tissue.grid.axis_mm(0)
        used = (r > 0.5) & (r < 4.0)
        errors.append(np.abs(np.asarray(c)[used] / point(r[used], D, decay) - 1.0).max())
    assert errors[0] < 0.02
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)


def test_point_release_in_a_box_decays_as_exp_over_r():
    D, decay, h, n = 30.0, 83.0, 0.15, 33  # half-width 2.5 mm, 4 ℓ
    tissue = tissue_of(Grid.cartesian((n, n, n), h))
    source = jnp.zeros((n, n, n)).at[16, 16, 16].set(h**-3)
    c = np.asarray(solve(tissue, jnp.asarray(D), jnp.asarray(decay), source, jnp.zeros((n, n, n)), 1e-4))
    r = np.sqrt((tissue.grid.world_mm() ** 2).sum(0))
    near = (r > 5 * h) & (r < 1.5)  # five cells from the source to 1.6 ℓ from the wall
    assert np.abs(c[near] / point(r[near], D, decay) - 1.0).max() < (1 / 5) ** 2  # the lattice's (h/r)²
