"""The solver against solutions that were known before it: waves, fronts, kernels and growth laws.

Lengths are counted in cells of one size: a refinement is the same solution, wider, on the same grid, which keeps
one compiled program for all of them.
"""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from glioma_pde.biology.laws import Exponential, Gompertz, Logistic
from glioma_pde.biology.tumour import Tumour
from glioma_pde.delivery import Schedule
from glioma_pde.grid import Grid
from glioma_pde.model import Model
from glioma_pde.numerics.lattice import front_speed
from glioma_pde.numerics.stepping import RKL2, SSPRK2, Euler
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

run = eqx.filter_jit(solve)


def tumour_alone(tissue: Tissue, D, rho, growth=None, stepper=None) -> Model:
    return Model(tissue, [Tumour(D, D, rho, growth=growth or Logistic())], stepper=stepper, ledger=False)


def box(shape: tuple[int, ...], spacing=1.0) -> Tissue:
    """Uniform tissue with one corner at the origin."""
    spacing = np.broadcast_to(spacing, len(shape))
    grid = Grid.cartesian(shape, tuple(spacing), origin_mm=tuple(0.5 * spacing))
    return Tissue.from_arrays(np.ones(shape), np.zeros(shape), grid=grid)


def plans_of(models, days, steps):
    """One plan per model with its number of steps between two days (even), all of one shape."""
    return problems.same_shape(
        [make_plan(m, Schedule(), days, (days[1] - days[0]) / n) for m, n in zip(models, steps, strict=True)]
    )


def final(model, u0, plan, days):
    return np.asarray(run(model, Schedule(), {"tumour": jnp.asarray(u0)}, plan, jnp.asarray(days)).final.x["tumour"])


# -- the formulas themselves ------------------------------------------------------------------------


def test_waves_and_kernels_satisfy_their_equations():
    """Automatic differentiation puts the closed forms into the equations: nothing is left."""
    D, rho = 0.7, 0.3
    rng = np.random.default_rng(1)
    x, t = rng.uniform(-5, 5, 8), rng.uniform(0.5, 4, 8)

    def residual(x, t):
        u = problems.ablowitz_zeppetella
        u_xx = jax.grad(jax.grad(u))(x, t, D, rho)
        here = u(x, t, D, rho)
        return jax.grad(u, 1)(x, t, D, rho) - D * u_xx - rho * here * (1 - here)

    np.testing.assert_allclose(jax.jit(jax.vmap(residual))(x, t), 0.0, atol=1e-13)
    for dim in (1, 2, 3):

        def relative_residual(x, t, dim=dim):
            def u(x, t):
                return problems.growing_kernel(x @ x, t, D, rho, dim)

            return (jax.grad(u, 1)(x, t) - D * jnp.trace(jax.hessian(u)(x, t))) / u(x, t) - rho

        points = rng.uniform(-1, 1, (8, dim))
        np.testing.assert_allclose(jax.jit(jax.vmap(relative_residual))(points, t), 0.0, atol=1e-12)
    r = problems.detectable_radius(2.0, D, 3.0, 1e-2)
    np.testing.assert_allclose(problems.growing_kernel(r**2, 2.0, D, 3.0, 3), 1e-2, rtol=1e-12)


def test_growth_curves_satisfy_their_equations():
    rho, floor = 0.4, 1e-5
    u0, t = (jnp.asarray(v.ravel()) for v in np.meshgrid([1e-7, 1e-4, 0.2, 0.9], [0.05, 1.1, 6.0]))
    along = jax.jit(jax.vmap(jax.value_and_grad(problems.logistic, 1), (0, 0, None)))
    u, slope = along(u0, t, rho)
    np.testing.assert_allclose(slope, rho * u * (1 - u), rtol=1e-12)
    along = jax.jit(jax.vmap(jax.value_and_grad(problems.gompertz, 1), (0, 0, None, None)))
    u, slope = along(u0, t, rho, floor)
    np.testing.assert_allclose(slope, -rho * u * np.log(np.maximum(u, floor)), rtol=1e-11)
    np.testing.assert_allclose(problems.gompertz(u0, 0.0, rho, floor), u0, rtol=1e-14)
    np.testing.assert_allclose(problems.logistic(u0, 0.0, rho), u0, rtol=1e-14)


# -- travelling wave --------------------------------------------------------------------------------

WAVE_DAYS = (0.0, 2.0)
WAVE_CELLS = 576


def wave(width: float):
    """D for which √(6D/ρ) is ``width`` cells (ρ = 1), and the wave as a function of t at the cell centres.

    It starts 22 widths from the left and ends 12 from the right wall: what the walls disturb is below 1e-9.
    """
    D = width**2 / 6.0
    x = np.arange(WAVE_CELLS) + 0.5 - 22.0 * width
    return D, lambda t: np.asarray(problems.ablowitz_zeppetella(x, t, D, 1.0))


def test_travelling_wave_pointwise_and_order_in_space():
    tissue = box((WAVE_CELLS,))
    widths, steps = (4.0, 8.0, 16.0), (56, 224, 896)  # dt ∝ h²: what is left is the error in space
    problem = [wave(w) for w in widths]
    models = [tumour_alone(tissue, D, 1.0) for D, _ in problem]
    assert WAVE_DAYS[1] / steps[-1] < models[-1].largest_step()
    errors = []
    for model, (_, exact), plan in zip(models, problem, plans_of(models, WAVE_DAYS, steps), strict=True):
        errors.append(np.abs(final(model, exact(0.0), plan, WAVE_DAYS) - exact(WAVE_DAYS[1])).max())
    assert problems.orders(errors)[-1] == pytest.approx(2.0, abs=0.1)
    # The truncation error D h² |u_xxxx|/12 (h = 1; |u_xxxx| ≤ 0.279/w⁴) can grow by (e^{ρt} − 1)/ρ, no more.
    assert errors[-1] < np.expm1(WAVE_DAYS[1]) * (widths[-1] ** 2 / 6.0) * 0.279 / widths[-1] ** 4 / 12.0


@pytest.mark.parametrize(
    ("stepper", "order", "steps"),
    [(Euler(), 1.0, 224), (SSPRK2(), 2.0, 224), (RKL2(stages=5), 2.0, 40)],
    ids=["euler", "ssprk2", "rkl2"],
)
def test_travelling_wave_order_in_time(stepper, order, steps):
    """Each stepper on one grid: the gaps between runs of halved steps fall by 2^order."""
    D, exact = wave(16.0)
    model = tumour_alone(box((WAVE_CELLS,)), D, 1.0, stepper=stepper)
    assert WAVE_DAYS[1] / steps < model.largest_step()
    plans = plans_of([model] * 3, WAVE_DAYS, [steps, 2 * steps, 4 * steps])
    ends = [final(model, exact(0.0), p, WAVE_DAYS) for p in plans]
    gaps = [np.abs(b - a).max() for a, b in itertools.pairwise(ends)]
    assert problems.orders(gaps)[-1] == pytest.approx(order, abs=0.1)


# -- heat kernel times e^{ρt} -------------------------------------------------------------------------

KERNEL_DAYS = (1.0, 2.0)
GROWTH = 0.8


@pytest.mark.parametrize(
    ("kind", "tissue", "widths", "steps"),
    [
        ("radial", Tissue.radial(128, 0.5), (2.5, 5.0, 10.0), (20, 80, 320)),
        ("2-D", box((96, 80), (1.0, 1.2)), (3.5, 7.0, 14.0), (12, 48, 192)),
        ("3-D", box((32, 28, 30), (1.0, 1.2, 1.1)), (2.5, 5.0), (14, 56)),
    ],
    ids=["radial", "2-D", "3-D"],
)
def test_growing_kernel(kind, tissue, widths, steps):
    """A released pulse that spreads and grows; in 2-D and 3-D an octant, its mirror planes being closed walls."""
    grid = tissue.grid
    dim = 3 if kind == "radial" else grid.ndim
    r2 = np.sum(grid.world_mm() ** 2, axis=0)
    diffusivities = [w**2 / (2.0 * KERNEL_DAYS[1]) for w in widths]
    models = [tumour_alone(tissue, D, GROWTH, Exponential()) for D in diffusivities]
    assert 1.0 / steps[-1] < models[-1].largest_step()
    relative = []
    for model, D, plan in zip(models, diffusivities, plans_of(models, KERNEL_DAYS, steps), strict=True):
        start, end = (np.asarray(problems.growing_kernel(r2, t, D, GROWTH, dim)) for t in KERNEL_DAYS)
        # densities have to be modest only for the logistic law: here everything is linear
        u = final(model, start, plan, KERNEL_DAYS)
        relative.append(np.abs(u - end).max() / end.max())
    assert problems.orders(relative)[-1] == pytest.approx(2.0, abs=0.1)
    # At the centre the truncation error of each axis, D h² u_xxxx/12 = D h² u/(4 s⁴) with s² = 2Dt, adds up over
    # time to h²/(8 s²) (t₂/t₁ − 1) of the peak; half as much again is left for higher orders.
    axes = 3 if kind == "radial" else grid.ndim
    assert relative[-1] < 1.5 * axes * (max(grid.spacing_mm) / widths[-1]) ** 2 / 8.0


def test_detectable_radius():
    """r = 2√(Dt) √(ρt − ln[(u*/N₀)(4πDt)^{3/2}]) of a tumour that grows from a point without crowding."""
    D, rho, days = 0.13, 0.025, (30.0, 120.0, 210.0, 300.0)
    cells, detected = 1e5, 1e2  # cells at the start; cells/mm³ that an image shows
    capacity = 1e5
    tissue = Tissue.radial(128, 0.5)
    model = tumour_alone(tissue, D, rho, Exponential())
    r2 = tissue.grid.axis_mm(0) ** 2
    start = cells / capacity * np.asarray(problems.growing_kernel(r2, days[0], D, rho, 3))
    plan = make_plan(model, Schedule(), days, 0.25)
    u = np.asarray(run(model, Schedule(), {"tumour": jnp.asarray(start)}, plan, jnp.asarray(days))["tumour"])
    for day, profile in zip(days[1:], u[1:], strict=True):
        expected = float(problems.detectable_radius(day, D, rho, detected / cells))
        # ln u is linear in r², so that reading the level off loses nothing
        found = np.sqrt(np.interp(-np.log(detected / capacity), -np.log(profile), r2))
        # The lattice speeds an edge that falls as e^{−λr}, λ = r/2Dt, up by Dλ³h²/12.
        steepness = expected / (2.0 * D * day)
        assert abs(found - expected) < day * D * steepness**3 * tissue.grid.spacing_mm[0] ** 2 / 12.0


# -- growth without space -----------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["logistic", "gompertz"])
def test_well_mixed_growth(law):
    """Without gradients u follows its ordinary equation to 1e-8, from below Gompertz's floor of one cell too."""
    capacity, rho, days, steps = 1e5, 0.21, (0.0, 30.0), 96_000
    u0 = jnp.array([0.3 / capacity, 0.9 / capacity, 1e-4, 0.01, 0.2, 0.5, 0.9, 0.999])
    growth, exact = {
        "logistic": (Logistic(), problems.logistic(u0, days[1], rho)),
        "gompertz": (Gompertz(), problems.gompertz(u0, days[1], rho, 1.0 / capacity)),
    }[law]
    tissue = box((8,))
    # no diffusion: eight tumours side by side
    apart = tumour_alone(tissue, 0.0, rho, growth)
    plan = make_plan(apart, Schedule(), days, (days[1] - days[0]) / steps)
    u = final(apart, u0, plan, days)
    np.testing.assert_allclose(u, exact, rtol=1e-8)
    # one tumour everywhere: diffusion has nothing to do
    uniform = tumour_alone(tissue, 0.13, rho, growth)
    np.testing.assert_allclose(final(uniform, jnp.full(8, u0[4]), plan, days), exact[4], rtol=1e-8)


# -- fronts ---------------------------------------------------------------------------------------------

FRONT_DAYS = np.arange(0.0, 401.0, 2.0)


@pytest.mark.parametrize(("geometry", "logarithm"), [("planar", 1.5), ("radial", 2.5)])
def test_fisher_front_lags_by_bramsons_logarithm(geometry, logarithm):
    """x(t) = c t − b ln t + C − a√(π/t) over t = 50 … 400 (D = ρ = 1): b and C are fitted, b within 10 %.

    c is the speed of the scheme itself, from the dispersion relation of its cells (h = 1/4) and steps: a relative
    error of 1e-4 in it would shift b by 2 %. The term in t^(−1/2), with a = 3 on a line (Ebert & van Saarloos 2000)
    and 5 in a ball, retards the front; with the opposite sign b would be off by a fifth.
    """
    spacing, cells, dt = 0.25, 3600, 0.02
    D = spacing**-2
    tissue = Tissue.radial(cells, 1.0) if geometry == "radial" else box((cells,))
    model = tumour_alone(tissue, D, 1.0)
    assert dt < model.largest_step()
    start = jnp.where(jnp.arange(cells) < 5.0 / spacing, 1.0, 0.0)
    plan = make_plan(model, Schedule(), FRONT_DAYS, dt)
    sol = run(model, Schedule(), {"tumour": start}, plan, jnp.asarray(FRONT_DAYS), problems.save_front)
    late = FRONT_DAYS >= 50.0
    t, x = FRONT_DAYS[late], np.asarray(sol.saved)[late] * spacing

    speed, decay, spread = problems.pulled_front(spacing, dt)
    a = {"planar": 3.0, "radial": 5.0}[geometry] / (decay**2 * np.sqrt(spread))
    logs = -np.log(t) / decay
    lag = x - speed * t

    def fit(known, *columns):
        return np.linalg.lstsq(np.stack(columns, axis=1), lag - known, rcond=None)[0][0]

    one, root = np.ones_like(t), np.sqrt(np.pi / t)
    assert fit(-a * root, logs, one) == pytest.approx(logarithm, rel=0.1)
    # what the two-parameter fit is off by is the next term, 1/t
    assert fit(-a * root, logs, one, 1.0 / t) == pytest.approx(logarithm, rel=0.02)
    assert fit(a * root, logs, one) < 0.9 * logarithm


def test_speed_at_which_a_low_grade_front_settles():
    """D = 0.13, ρ = 0.012: 0.079 mm/day, hence 190 days from 15 to 30 mm once the front has its final speed."""
    D, rho = 0.13, 0.012
    assert 2.0 * np.sqrt(D * rho) == pytest.approx(0.079, abs=5e-5)
    for spacing in (1e-3, 0.5, 1.0):  # on the lattice of the default brain it gains 0.4 %
        assert 15.0 / front_speed(D, rho, spacing) == pytest.approx(190.0, abs=1.0)
