"""Oxygen and necrosis: exact profiles, growth and death as they follow from it, and that no effect is no module."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from glioma_pde.biology.base import Module
from glioma_pde.biology.necrosis import Necrosis
from glioma_pde.biology.oxygen import Oxygen, hypoxia
from glioma_pde.biology.resistance import Resistance
from glioma_pde.biology.tumour import Tumour
from glioma_pde.delivery import Schedule, gaussian
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.observe import look
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

ULP = np.finfo(float).eps
LINE = Tissue.phantom("box", (12,), 1.0)
SAVES = (0.0, 2.0, 6.0)


class Vessels(Module):
    """Vessels of a given density."""

    name: ClassVar[str] = "given_vessels"
    provides: ClassVar = ("vessels",)
    density: jax.Array | float = 1.0

    def quantities(self, x, q, at):
        return {"vessels": jnp.broadcast_to(self.density, at.grid.shape)}


@eqx.filter_jit
def shared(model, u):
    """Shared quantities for a tumour of density ``u`` [fraction of K]."""
    carry = model.start({"tumour": u})
    return model.quantities(carry.x, carry.warm, model.prepare(), jnp.zeros(()), jnp.zeros(()))


@eqx.filter_jit
def end(model, initial, plan):
    """The last carry, and what is seen of it."""
    done = solve(model, Schedule(), initial, plan, jnp.asarray(SAVES)).final
    return done, look(model, (), done, model.prepare(), jnp.asarray(6.0), (0.8, 0.16))[0]


def plan_for(model, dt):
    """Every plan of one shape, so that models which differ in their parameters share a compiled program."""
    plan = make_plan(model, Schedule(), SAVES, dt)
    return replace(plan.padded_to(2, 48), padded=True)


# -- the field -------------------------------------------------------------------------------------


def test_a_sphere_without_vessels_lives_on_its_surroundings():
    """σ = A sinh(r/ℓ)/r inside and σ_n − B e^{−r/ℓ'}/r outside, level and slope continuous: second order."""
    radius, eta = 0.24, 0.5
    oxygen = Oxygen(tumour_consumption=eta)
    k_t, k_v = 5e4, 5e4 * 35.0 / (60.0 - 35.0)
    inner, outer = np.sqrt(170.0 / (k_t * (1.0 + eta))), np.sqrt(170.0 / (k_t + k_v))
    # level: A sinh(R/ℓ)/R = σ_n − B e/R;  slope × R²: A (R cosh/ℓ − sinh) = B e (R/ℓ' + 1)
    s, c = np.sinh(radius / inner), np.cosh(radius / inner)
    lhs = np.array([[s / radius, 1.0 / radius], [radius * c / inner - s, -(radius / outer + 1.0)]])
    a, b = np.linalg.solve(lhs, [35.0, 0.0])
    errors = []
    for n in (100, 300):
        tissue = Tissue.radial(n, 0.6 / n)
        r = tissue.grid.axis_mm(0)
        inside = jnp.asarray(r < radius, float)
        found = np.asarray(shared(Model(tissue, [Tumour(), oxygen, Vessels(1.0 - inside)]), inside)["oxygen"])
        exact = np.where(r < radius, a * np.sinh(r / inner) / r, 35.0 - b * np.exp(-(r - radius) / outer) / r)
        errors.append(np.abs(found - exact).max())
    assert exact.min() < 5.0
    assert errors[-1] < 3e-3 * 35.0
    assert np.log(errors[0] / errors[1]) / np.log(3.0) == pytest.approx(2.0, abs=0.1)


def test_uniform_tissue_and_tissue_without_tumour():
    """Without gradients supply meets consumption; where nothing is changed σ is σ_n exactly, also in more dimensions."""
    tissue = Tissue.phantom("head", (14, 12), 1.0)
    inside = np.asarray(tissue.mask)

    def at(u, vessels=1.0):
        return shared(Model(tissue, [Tumour(), Oxygen(tolerance=1e-10), Vessels(jnp.full((), vessels, float))]), u)

    found = np.asarray(at(jnp.where(tissue.mask, 0.8, 0.0), 0.4)["oxygen"])
    k = 35.0 / 25.0 * 0.4
    np.testing.assert_allclose(found[inside], k * 60.0 / (k + 1.8), rtol=1e-9)
    assert not np.any(found[~inside])
    healthy = at(jnp.zeros(tissue.grid.shape))
    assert np.all(np.asarray(healthy["oxygen"])[inside] == 35.0)
    np.testing.assert_allclose(np.asarray(healthy["growth_factor"])[inside], 1.0, rtol=2 * ULP)
    # tumour in one place changes nothing far away
    far = at(jnp.zeros(tissue.grid.shape).at[7, 6].set(1.0))["oxygen"]
    assert float(far[7, 6]) < 25.0
    assert abs(float(far[3, 6]) - 35.0) < 1e-6


def test_factors_have_the_values_that_their_laws_say():
    oxygen = Oxygen(growth_half_mmHg=5.0, oer_largest=3.0, oer_half_mmHg=3.0)
    levels = jnp.array([0.0, 3.0, 5.0, 35.0, 1e9])
    np.testing.assert_allclose(oxygen.growth_factor(levels)[:4], [0.0, 3 / 7, 4 / 7, 1.0], rtol=1e-14)
    np.testing.assert_allclose(oxygen.oer_factor(levels), [1 / 3, 2 / 3, 18 / 24, 108 / 114, 1.0], rtol=1e-8)
    none = Oxygen(growth_half_mmHg=0.0, oer_largest=1.0)
    assert np.all(none.growth_factor(levels) == 1.0)
    assert np.all(none.oer_factor(levels) == 1.0)
    z = hypoxia(jnp.array([0.0, 5.0, 10.0, 35.0]), 10.0)
    np.testing.assert_array_equal(z, [1.0, 0.5, 0.0, 0.0])


# -- growth and death ------------------------------------------------------------------------------


def model_of(tumour, resistance=(0.0, 0.0), oxygen=None, vessels=1.0, necrosis=(0.0,)):
    vessels = Vessels(jnp.zeros(12) + vessels)
    return Model(LINE, [tumour, Resistance(*resistance), oxygen or Oxygen(), vessels, Necrosis(*necrosis)])


def test_growth_slows_down_with_the_oxygen_that_the_cells_leave():
    """Well mixed: u' = ρ f(σ(u)) u (1 − u), of second order in the step."""

    def rhs(t, u):
        sigma = 1.4 * 60.0 / (1.4 + 1.0 + 4.0 * u)
        return 0.5 * sigma / (sigma + 20.0) * 55.0 / 35.0 * u * (1.0 - u)

    exact = solve_ivp(rhs, (0.0, 6.0), [0.1], rtol=1e-11, atol=1e-13).y[0, -1]
    oxygen = Oxygen(tumour_consumption=4.0, growth_half_mmHg=20.0)
    model = model_of(Tumour(proliferation_per_day=0.5), oxygen=oxygen)
    errors = []
    for dt in (0.1, 0.05):
        u = end(model, {"tumour": jnp.full(12, 0.1), "resistant": jnp.zeros(12)}, plan_for(model, dt))[0].x["tumour"]
        errors.append(abs(float(u[4]) - exact))
    assert errors[1] < 1e-4
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)
    assert exact < 0.9 * 0.1 * np.exp(3.0) / (1.0 + 0.1 * np.expm1(3.0))


def test_necrosis_is_exponential_where_oxygen_is_constant():
    """u' = −κHu, n' = κHu − cn, and the same for every other tumour field."""
    vessels, kappa, clearance = 0.1, 0.6, 0.2
    sigma = 1.4 * vessels * 60.0 / (1.4 * vessels + 1.0)
    z = 1.0 - sigma / 12.0
    rate = kappa * z * z * (3.0 - 2.0 * z)
    oxygen = Oxygen(tumour_consumption=0.0)
    model = model_of(Tumour(0.0, 0.0, 0.0), (0.0, 0.0), oxygen, vessels, (kappa, 12.0, clearance))
    u0, r0, t = 0.5, 0.2, 6.0
    dead = rate * (u0 + r0) * (np.exp(-rate * t) - np.exp(-clearance * t)) / (clearance - rate)
    errors = []
    for dt in (0.1, 0.05):
        x = end(model, {"tumour": jnp.full(12, u0), "resistant": jnp.full(12, r0)}, plan_for(model, dt))[0].x
        found = [float(x[n][5]) for n in ("tumour", "resistant", "necrotic")]
        errors.append(np.abs(np.subtract(found, [u0 * np.exp(-rate * t), r0 * np.exp(-rate * t), dead])))
    assert rate > 0.1
    assert errors[0].max() < 1e-3
    np.testing.assert_allclose(np.log2(np.divide(*errors)), 2.0, atol=0.15)


def test_no_effect_is_no_module_at_all():
    """K_σ = 0: growth as if there were no oxygen. κ = 0: no cell dies. Normal tissue: the factors are 1 all along."""
    off = model_of(Tumour(), oxygen=Oxygen(growth_half_mmHg=0.0))
    healthy = model_of(Tumour(), oxygen=Oxygen(tumour_consumption=0.0), necrosis=(0.1,))
    alone = Model(LINE, [Tumour(), Resistance(0.0, 0.0)])
    start = {"tumour": 0.95 * gaussian(LINE.grid, jnp.array([0.5]), jnp.asarray(2.0)), "resistant": jnp.zeros(12)}
    plan = plan_for(off, 0.5)
    bare = end(alone, start, plan)[0]
    for model in (off, healthy):
        done, seen = end(model, start, plan)
        np.testing.assert_allclose(done.x["tumour"], bare.x["tumour"], rtol=10 * ULP, atol=0)
        assert not np.any(done.x["necrotic"])
        growth = [float(sum(carry.ledger["tumour_growth"])) for carry in (done, bare)]
        assert growth[0] == pytest.approx(growth[1], rel=1e-14)
    assert float(seen["oxygen_lowest"]) == 35.0
    assert float(seen["oxygen_mean_tumour"]) == pytest.approx(35.0, rel=1e-14)
    assert float(seen["hypoxic_fraction"]) == 0.0


def test_the_ledger_closes_and_nothing_turns_negative_at_the_longest_step():
    oxygen, vessels = Oxygen(tumour_consumption=8.0), jnp.linspace(0.0, 0.5, 12)
    model = model_of(Tumour(2.0, 1.0, 0.5), (0.01, 0.0), oxygen, vessels, (2.0, 20.0, 0.3))
    longest = model.largest_steps()
    # u loses ρ, 2 D/h², μ₀ and κ at most
    assert 1.0 / longest["tumour"] == pytest.approx(0.5 + 4.0 + 0.01 + 2.0, rel=1e-12)
    assert 1.0 / longest["necrotic"] == pytest.approx(0.3, rel=1e-12)
    start = {"tumour": jnp.zeros(12).at[2].set(1.0).at[9].set(0.6), "resistant": jnp.zeros(12).at[5].set(0.5)}
    after, seen = end(model, start, plan_for(model, model.largest_step()))
    entries = balances(model)
    assert entries["necrotic"] == {"necrosis": 1.0, "necrosis_resistant": 1.0, "necrosis_clearance": -1.0}
    assert float(sum(after.ledger["necrosis"])) > 0.3
    for field, signs in entries.items():
        assert float(after.x[field].min()) >= 0.0
        gained = float(LINE.grid.integrate(after.x[field])) - float(
            LINE.grid.integrate(start.get(field, jnp.zeros(12)))
        )
        booked = sum(sign * float(sum(after.ledger[name])) for name, sign in signs.items())
        assert gained == pytest.approx(booked, abs=1e-13)
    # what is seen of it: the dead are not counted among the living
    both, dead = np.asarray(after.x["tumour"] + after.x["resistant"]), np.asarray(after.x["necrotic"])
    k = 35.0 / 25.0 * np.linspace(0.0, 0.5, 12)
    # at 1 mm hardly anything comes from the neighbours
    near = k * 60.0 / (k + 1.0 + 8.0 * both)
    assert float(seen["oxygen_mean_tumour"]) == pytest.approx((near * both).sum() / both.sum(), rel=0.05)
    assert float(seen["oxygen_lowest"]) == pytest.approx(near.min(), abs=0.1)
    assert float(seen["hypoxic_fraction"]) == pytest.approx(both[near < 10.0].sum() / both.sum(), rel=1e-12)
    assert float(seen["necrotic_cells"]) == pytest.approx(1e5 * dead.sum(), rel=1e-12)
    assert float(seen["necrotic_volume"]) == (dead >= 0.5).sum()
    assert float(seen["burden_cells"]) == pytest.approx(1e5 * both.sum(), rel=1e-12)
    assert 0.0 < float(seen["hypoxic_fraction"]) < 1.0
