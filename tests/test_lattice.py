"""The speed of fronts on a lattice: the formula, its limits, and the solver's own fronts."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from scipy.optimize import minimize_scalar

from glioma_pde.biology.laws import GROWTH
from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build
from glioma_pde.config import loads
from glioma_pde.delivery import Schedule
from glioma_pde.model import Model
from glioma_pde.numerics.lattice import edge_decay, front_speed, relative_spacing, speed_excess
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

WHITE, GREY, RHO, CAPACITY = 0.13, 0.026, 0.025, 1e5
# diffusivity, spacing, by how much the front is too fast, and half a unit of that figure's last digit
CASES = [(WHITE, 1.0, 0.008, 5e-4), (GREY, 1.0, 0.035, 5e-4), (WHITE, 2.0, 0.029, 5e-4), (GREY, 2.0, 0.11, 5e-3)]

run = eqx.filter_jit(solve)


@pytest.mark.parametrize(("D", "h", "excess", "digit"), CASES)
def test_known_figures(D, h, excess, digit):
    assert speed_excess(D, RHO, h) == pytest.approx(excess, abs=digit)
    assert front_speed(D, RHO, h) == pytest.approx(2 * np.sqrt(D * RHO) * (1 + speed_excess(D, RHO, h)), rel=1e-14)


@pytest.mark.parametrize("h", [0.01, 0.5, 3.0, 30.0, 300.0])
def test_it_is_the_minimum_of_the_dispersion_relation(h):
    def speed(decay):
        return (RHO + 4.0 * GREY * np.sinh(0.5 * decay * h) ** 2 / h**2) / decay

    decay = float(edge_decay(GREY, RHO, h))
    found = minimize_scalar(speed, bounds=(0.5 * decay, 2.0 * decay), method="bounded", options={"xatol": 1e-10})
    np.testing.assert_allclose(front_speed(GREY, RHO, h), found.fun, rtol=1e-10)
    np.testing.assert_allclose(decay, found.x, rtol=1e-5)
    assert np.all(front_speed(GREY, RHO, h) <= speed(decay * np.array([0.9, 1.1])))


def test_limits():
    h = np.array([1e-6, 1e-3, 0.05])
    np.testing.assert_allclose(speed_excess(WHITE, RHO, h), h**2 * RHO / (24 * WHITE), rtol=1e-3, atol=1e-15)
    np.testing.assert_allclose(edge_decay(WHITE, RHO, 1e-6), np.sqrt(RHO / WHITE), rtol=1e-9)
    assert np.all(np.diff(speed_excess(WHITE, RHO, [0.1, 0.5, 1.0, 2.0, 4.0])) > 0)
    # nothing grows, nothing moves, neither
    assert speed_excess(WHITE, 0.0, 1.0) == 0.0
    assert front_speed(WHITE, 0.0, 1.0) == 0.0
    assert speed_excess(0.0, RHO, 1.0) == np.inf
    assert front_speed(0.0, RHO, 1.0) == 0.0
    assert speed_excess(0.0, 0.0, 1.0) == 0.0


@pytest.mark.parametrize("bad", [(-1.0, RHO, 1.0), (WHITE, -RHO, 1.0), (WHITE, RHO, 0.0), (np.nan, RHO, 1.0)])
def test_impossible_numbers_are_refused(bad):
    for function in (front_speed, speed_excess, edge_decay):
        with pytest.raises(ValueError, match="spacing"):
            function(*bad)


def measured_excess(spacing: float, growth: str = "logistic", dt: float = 0.01) -> float:
    """Excess of the speed of fronts on cells of h√(ρ₀/D) = ``spacing``, ρ₀ the growth rate ahead of them.

    Measured over ρ₀t = 50 … 200, their transient taken out: Bramson's logarithm and what follows it, or where growth
    has no limit that of e^{ρt} times the heat kernel. In units of cells and of 1/ρ₀, so that all share a program.
    """
    cells, days = 1150, np.arange(0.0, 201.0, 2.0)
    rate = 1.0 / np.log(CAPACITY) if growth == "gompertz" else 1.0
    tissue = Tissue.phantom("box", (cells,), 1.0)
    model = Model(tissue, [Tumour(spacing**-2, spacing**-2, rate, growth=GROWTH[growth]())], CAPACITY, ledger=False)
    start = jnp.where(jnp.arange(cells) < 5.0 / spacing, 1.0, 0.0)
    plan = make_plan(model, Schedule(), days, dt)
    sol = run(model, Schedule(), {"tumour": start}, plan, jnp.asarray(days), problems.save_front)
    late = days >= 50.0
    t, x = days[late], np.asarray(sol.saved)[late] * spacing
    _, decay, spread = problems.pulled_front(spacing, dt)
    transient = -1.5 / decay * np.log(t) - 3.0 / (decay**2 * np.sqrt(spread)) * np.sqrt(np.pi / t)
    if growth == "exponential":
        transient = -0.5 / decay * np.log(t)
    columns = np.stack([t, np.ones_like(t), 1.0 / t], axis=1)
    speed = np.linalg.lstsq(columns, x - transient, rcond=None)[0][0]
    return speed / 2.0 - 1.0


@pytest.mark.parametrize(("D", "h", "excess", "digit"), CASES)
def test_the_solver_runs_at_that_speed(D, h, excess, digit):
    """dt = 0.01/ρ leaves 7e-5 of the speed to the steps."""
    measured = measured_excess(h * np.sqrt(RHO / D))
    # what the steps and the fit's next terms may take from a speed
    assert measured == pytest.approx(float(speed_excess(D, RHO, h)), abs=2e-4)
    assert measured == pytest.approx(excess, abs=digit + 2e-4)


@pytest.mark.parametrize("excess", [0.008, 0.05, 0.3])
def test_the_spacing_of_an_excess(excess):
    assert float(speed_excess(1.0, 1.0, relative_spacing(excess))) == pytest.approx(excess, rel=1e-12)
    with pytest.raises(ValueError, match="positive"):
        relative_spacing(0.0)


MIXTURES = [
    ("logistic", 1.0, 1.0), ("logistic", 0.0, 2.0), ("logistic", 0.5, 1.5), ("logistic", 0.5, 3.0),
    ("exponential", 1.0, 2.0), ("exponential", 0.0, 2.0), ("gompertz", 1.0, 0.5), ("gompertz", 1.0, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("growth", "white", "h"), MIXTURES)
def test_a_run_warns_where_its_fronts_are_too_fast(growth, white, h):
    """… by more than 5 %, as measured on the same lattice."""
    text = f"""
    title = "Fronts"
    capacity_cells_per_mm3 = {CAPACITY}
    [tissue]
    kind = "phantom"
    geometry = "box"
    shape = [40, 40]
    spacing_mm = {h}
    white_fraction = {white}
    [tumour]
    growth = "{growth}"
    proliferation_per_day = {RHO}
    diffusivity_white_mm2_per_day = {WHITE}
    diffusivity_grey_mm2_per_day = {GREY}
    initial = {{ kind = "gaussian", centre_mm = [0.0, 0.0], sigma_mm = 4.0, peak = 0.5 }}
    [time]
    end_day = 1.0
    step_days = 0.01
    """
    with jax.enable_x64(False):
        said = [text for text in build(loads(text, "fronts.toml").arms[0]).warnings if "fronts" in text]
    rate = RHO * (np.log(CAPACITY) if growth == "gompertz" else 1.0)
    D = white * WHITE + (1.0 - white) * GREY
    measured = measured_excess(h * np.sqrt(rate / D), growth, 0.02)
    assert measured == pytest.approx(float(speed_excess(D, rate, h)), abs=3e-3)
    assert bool(said) == (measured > 0.05)
    if said:
        advised = float(said[0].split("spacing_mm of ")[1].split(" mm")[0])
        assert speed_excess(D, rate, advised) < 0.05 < speed_excess(D, rate, advised + 0.02)
        assert f"up to {100 * measured:.0f} %" in said[0]
