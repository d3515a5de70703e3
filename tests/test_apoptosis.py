"""Killing by contact with carriers, and carriers that die of their own drug: exact courses, books, derivatives, absence."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug
from glioma_pde.biology.laws import Linear
from glioma_pde.biology.resistance import Resistance
from glioma_pde.biology.tumour import Tumour
from glioma_pde.config import loads
from glioma_pde.delivery import Schedule
from glioma_pde.errors import ConfigError
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

ULP = np.finfo(float).eps
TISSUE = Tissue.phantom("slab", (16,), 0.5)
SAVES = (0.0, 5.0)
SECRETION = 2e-15
FULL = SECRETION * 1e5 * 1e12 / 83.0  # µM of drug in tissue full of carriers
EVEN = {"tumour": jnp.full(16, 0.5), "carriers": jnp.full(16, 0.3)}
ROUGH = {"tumour": jnp.zeros(16).at[3].set(1.0).at[10].set(0.2), "carriers": jnp.zeros(16).at[5].set(1.0)}


@eqx.filter_jit
def end(model, initial, plan):
    return solve(model, Schedule(), initial, plan, jnp.asarray(SAVES)).final


def plan_of(model, dt):
    return replace(make_plan(model, Schedule(), SAVES, dt).padded_to(1, 64), padded=True)


def run_of(modules, initial, dt=0.25):
    model = Model(TISSUE, modules)
    return end(model, initial, plan_of(model, dt))


def drug(effect=0.2):
    return Drug(secretion_mol_per_cell_per_day=SECRETION, kill=Linear(effect))


def converge(modules, name, exact):
    errors = [abs(float(run_of(modules, EVEN, dt).x[name][8]) / exact - 1.0) for dt in (0.1, 0.05)]
    assert errors[1] < 1e-3
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("saturation", [0.0, 2.5])
def test_survivors_of_contact_are_those_of_the_exposure(saturation):
    """s = s₀ e^(−δt), u' = −κ s/(1 + h s) u: ln u₀/u = κ/(hδ) ln[(1 + h s₀)/(1 + h s)], or κ(s₀ − s)/δ for h = 0."""
    kappa, delta, s0 = 3.0, 0.4, 0.3
    s = s0 * np.exp(-delta * 5.0)
    exposure = np.log((1 + saturation * s0) / (1 + saturation * s)) / saturation if saturation else s0 - s
    carriers = Carriers(
        loss_per_day=delta, taxis=None, tumour_kill_per_day=kappa, tumour_kill_saturation=saturation, drug_sensitivity=None
    )  # fmt: skip
    converge([Tumour(0.0, 0.0, 0.0), carriers], "tumour", 0.5 * np.exp(-kappa * exposure / delta))


def test_resistance_to_drugs_is_none_to_contact():
    carriers = Carriers(loss_per_day=0.0, taxis=None, tumour_kill_per_day=1.0, tumour_kill_saturation=0.0)
    start = EVEN | {"resistant": jnp.full(16, 0.2)}
    done = run_of([Tumour(0.0, 0.0, 0.0), carriers, Resistance(0.0, 1e-3, 0.1)], start)
    left = done.x["resistant"][8] / 0.2
    assert float(left) == pytest.approx(float(done.x["tumour"][8] / 0.5), rel=1e-12)
    assert float(left) == pytest.approx(np.exp(-0.3 * 5.0), rel=2e-3)


def test_carriers_die_of_their_own_drug():
    """E = k c with c = c_full s: s' = −ε k c_full s², so that s = s₀/(1 + ε k c_full s₀ t)."""
    epsilon, effect = 0.5, 0.6
    carriers = Carriers(loss_per_day=0.0, taxis=None, drug_sensitivity=epsilon)
    exact = 0.3 / (1.0 + epsilon * effect * FULL * 0.3 * 5.0)
    assert exact < 0.15
    converge([Tumour(0.0, 0.0, 0.0), carriers, drug(effect)], "carriers", exact)


def test_the_ledger_closes_and_nothing_turns_negative_at_the_longest_step():
    carriers = Carriers(
        0.05, 0.05, taxis=None, loss_per_day=0.2, tumour_kill_per_day=8.0, tumour_kill_saturation=0.5, drug_sensitivity=0.7
    )  # fmt: skip
    modules = [Tumour(0.05, 0.05, 0.5), carriers, drug()]
    model = Model(TISSUE, modules)
    gentle = Model(TISSUE, [Tumour(0.05, 0.05, 0.5), Carriers(0.05, 0.05, taxis=None, loss_per_day=0.2), drug()])
    # carriers up to a density of 2
    most = 8.0 * 2.0 / (1.0 + 0.5 * 2.0)
    assert 1 / model.largest_steps()["tumour"] == pytest.approx(1 / gentle.largest_steps()["tumour"] + most, rel=1e-12)
    assert model.largest_steps()["carriers"] < gentle.largest_steps()["carriers"]
    done = run_of(modules, ROUGH, model.largest_step())
    entries = balances(model)
    assert "carrier_kill" in entries["tumour"] and "carrier_suicide" in entries["carriers"]
    for name in ("carrier_kill", "carrier_suicide"):
        assert float(sum(done.ledger[name])) > 1e-3
    for field, signs in entries.items():
        assert float(done.x[field].min()) >= 0.0
        gained = float(TISSUE.grid.integrate(done.x[field] - ROUGH[field]))
        booked = sum(sign * float(sum(done.ledger[name])) for name, sign in signs.items())
        assert gained == pytest.approx(booked, abs=1e-13)


def test_no_strength_is_no_effect_at_all():
    absent = Carriers(taxis=None, tumour_kill_per_day=None, drug_sensitivity=None)
    zero = Carriers(taxis=None, tumour_kill_per_day=0.0, drug_sensitivity=0.0)
    bare, done = (run_of([Tumour(), carriers, drug()], ROUGH) for carriers in (absent, zero))
    for name, value in bare.x.items():
        np.testing.assert_allclose(done.x[name], value, rtol=10 * ULP, atol=0)
    assert float(sum(done.ledger["carrier_kill"])) == 0.0 == float(sum(done.ledger["carrier_suicide"]))


def test_the_taylor_remainder_is_of_second_order():
    theta = {"rates": jnp.array([2.0, 0.8, 0.4]), "s": ROUGH["carriers"] + 0.1}
    along = {"rates": jnp.array([0.3, -0.1, 0.1]), "s": 0.1 * jnp.cos(jnp.arange(16.0))}

    def goal(theta):
        kappa, h, epsilon = theta["rates"]
        carriers = Carriers(
            0.01, 0.01, taxis=None, tumour_kill_per_day=kappa, tumour_kill_saturation=h, drug_sensitivity=epsilon
        )  # fmt: skip
        model = Model(TISSUE, [Tumour(0.05, 0.05, 0.1), carriers, drug()])
        return jnp.sum(
            solve(model, Schedule(), ROUGH | {"carriers": theta["s"]}, plan, jnp.asarray(SAVES)).final.x["tumour"]
        )

    plan = plan_of(Model(TISSUE, [Tumour(), Carriers(taxis=None)]), 0.25)
    derived = jax.jit(jax.value_and_grad(goal))
    value, slope = derived(theta)
    assert all(np.all(np.asarray(v) != 0) for v in jax.tree.leaves(slope))
    total = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(along), strict=True))
    eps = 2.0 ** -np.arange(1, 7)
    moved = [jax.tree.map(lambda t, d, e=e: t + e * d, theta, along) for e in eps]
    rest = [float(derived(t)[0] - value) - e * total for t, e in zip(moved, eps, strict=True)]
    orders = np.log2(np.abs(np.divide(rest[:-1], rest[1:])))
    assert np.all(orders >= 1.95), orders


BASE = """
[tissue]
kind = "radial"
radius_mm = 9.0
spacing_mm = 1.0
[tumour]
initial = { kind = "gaussian", centre_mm = [0.0], sigma_mm = 2.0, peak = 0.8 }
[time]
end_day = 4.0
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tumour_kill_per_day = -1.0", "carriers.tumour_kill_per_day: should be greater than or equal to 0"),
        ("tumour_kill_saturation = -0.5", "carriers.tumour_kill_saturation: should be greater than or equal to 0"),
        ("drug_sensitivity = -0.1", "carriers.drug_sensitivity: should be greater than or equal to 0"),
        ("tumour_kill = 1.0", "carriers.tumour_kill: unknown key; did you mean 'tumour_kill_per_day'?"),
    ],
)
def test_wrong_rates_are_told_in_one_sentence(line, message):
    with pytest.raises(ConfigError) as error:
        loads(f"{BASE}[carriers]\ntaxis = {{ kind = 'none' }}\n{line}\n")
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]
