"""Soluble TRAIL: its field and range, what it kills beyond contact, and whether it counts as a drug."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.assemble import modules_of
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug
from glioma_pde.biology.laws import Bliss, Hill, Linear
from glioma_pde.biology.resistance import Resistance
from glioma_pde.biology.trail import Trail
from glioma_pde.biology.tumour import Tumour
from glioma_pde.config import from_json, loads
from glioma_pde.delivery import Schedule
from glioma_pde.errors import ConfigError
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.observe import look
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

ULP = np.finfo(float).eps
TISSUE = Tissue.phantom("slab", (16,), 0.2)
SAVES = (0.0, 5.0)
RANGE = np.sqrt(1.4 / 33.0)
FULL = 4e-18 * 1e5 * 1e12 / 33.0  # µM in tissue full of carriers


@eqx.filter_jit
def end(model, initial, plan):
    done = solve(model, Schedule(), initial, plan, jnp.asarray(SAVES)).final
    return done, look(model, (), done, model.prepare(), jnp.asarray(5.0), (0.8, 0.16))[0]


def plan_of(model, dt=0.25):
    return replace(make_plan(model, Schedule(), SAVES, dt).padded_to(1, 64), padded=True)


def run_of(modules, initial, dt=0.25):
    model = Model(TISSUE, modules)
    return end(model, initial, plan_of(model, dt))


@eqx.filter_jit
def rates(model, x):
    """Shared quantities and rates of change at an instant."""
    zero, warm, medium = jnp.zeros(()), {f.name: jnp.zeros(x["tumour"].shape) for f in model.memory}, model.prepare()
    return model.quantities(x, warm, medium, zero, zero), model.rates(x, warm, medium, zero, zero)[0]


def test_the_range_of_the_bystander_effect_beyond_the_carriers():
    """Carriers fill one half of a long line: ½ e^{−x/ℓ} of the full level outside, the mirror image of it inside."""
    errors = []
    for h in (0.025, 0.0125):
        n = round(8.0 / h)
        tissue = Tissue.phantom("slab", (n,), h)
        at = tissue.grid.axis_mm(0)
        model = Model(tissue, [Tumour(), Carriers(taxis=None), Trail()])
        c = rates(model, {"tumour": jnp.full(n, 0.1), "carriers": jnp.asarray(at < 0, float)})[0]["trail"]
        away = np.exp(-np.abs(at) / RANGE)
        exact = FULL * np.where(at < 0, 1.0 - 0.5 * away, 0.5 * away)
        errors.append(np.abs(np.asarray(c) - exact).max() / FULL)
    assert errors[1] < 3e-4
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)
    assert pytest.approx(0.206, abs=5e-4) == RANGE  # some ten cells


def test_survivors_are_those_of_the_exposure_and_no_prodrug_is_needed():
    """Carriers everywhere at s, falling by δ: u' = −E(c) u with c = c_full s(t)."""
    kill = Hill(0.6, 1e-3, 2.0)
    modules = [Tumour(0.0, 0.0, 0.0), Carriers(loss_per_day=0.4, taxis=None), Trail(kill=kill)]
    t = np.linspace(0.0, 5.0, 2001)
    hazard = np.asarray(kill.rate(jnp.asarray(FULL * 0.3 * np.exp(-0.4 * t))))
    exact = 0.5 * np.exp(-np.trapezoid(hazard, t))
    errors = []
    for dt in (0.1, 0.05):
        done, seen = run_of(modules, {"tumour": jnp.full(16, 0.5), "carriers": jnp.full(16, 0.3)}, dt)
        errors.append(abs(float(done.x["tumour"][8]) / exact - 1.0))
    assert errors[1] < 1e-3
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)
    volume = 16 * 0.2
    assert float(seen["trail_killed_cells"]) == pytest.approx(1e5 * volume * (0.5 - exact), rel=1e-3)
    assert float(seen["trail_kill_mean"]) == pytest.approx(hazard[-1], rel=1e-3)
    assert float(seen["trail_peak"]) == pytest.approx(FULL * 0.3 * np.exp(-2.0), rel=1e-3)


@pytest.mark.parametrize("counts", [False, True])
def test_resistance_protects_from_it_only_where_it_counts_as_a_drug(counts):
    """As a drug it also induces resistance and combines with the others by their law."""
    drug = Drug(secretion_mol_per_cell_per_day=1e-14, kill=Hill(0.4, 2.0, None))
    trail = Trail(kill=Hill(0.6, 1e-3, None), counts_as_drug=counts)
    model = Model(
        TISSUE,
        [Tumour(0.0, 0.0, 0.0), Carriers(taxis=None), drug, trail, Resistance(0.0, 0.5, 0.1)],
        combination=Bliss(),
    )
    x = {"tumour": jnp.full(16, 0.5), "carriers": jnp.full(16, 0.3), "resistant": jnp.full(16, 0.2)}
    dx = rates(model, x)[1]
    c, level = 1e-14 * 1e5 * 1e12 * 0.3 / 83.0, FULL * 0.3
    by_drug, by_trail = 0.4 * c / (2.0 + c), 0.6 * level / (1e-3 + level)
    if counts:
        both = 0.6 * (1.0 - (1.0 - by_drug / 0.6) * (1.0 - by_trail / 0.6))
        sensitive, resistant, induced = both, 0.1 * both, 0.5 * both
    else:
        sensitive, resistant, induced = by_drug + by_trail, 0.1 * by_drug + by_trail, 0.5 * by_drug
    assert float(dx["tumour"][8]) == pytest.approx(-0.5 * (sensitive + induced), rel=1e-9)
    assert float(dx["resistant"][8]) == pytest.approx(0.5 * induced - 0.2 * resistant, rel=1e-9)


START = {"tumour": jnp.zeros(16).at[3].set(1.0).at[10].set(0.2), "carriers": jnp.zeros(16).at[5].set(1.0)}


def test_the_ledger_closes_and_nothing_turns_negative_at_the_longest_step():
    kill = Linear(400.0)
    modules = [Tumour(0.05, 0.05, 0.5), Carriers(0.05, 0.05, taxis=None), Trail(kill=kill), Resistance(0.1)]
    model, alone = Model(TISSUE, modules), Model(TISSUE, [*modules[:2], modules[3]])
    for law, most in ((kill, 400.0 * 2.0 * FULL), (Hill(6.0, 1e-4, 1.0), 6.0)):  # carriers up to a density of 2
        bound = eqx.tree_at(lambda m: m["trail"].kill, model, law).largest_steps()["tumour"]
        assert 1 / bound == pytest.approx(1 / alone.largest_steps()["tumour"] + most, rel=1e-12)
    done, seen = run_of(modules, START, model.largest_step())
    entries = balances(model)
    assert "trail_kill" in entries["tumour"]
    assert "trail_kill_resistant" in entries["resistant"]
    for field, signs in entries.items():
        assert float(done.x[field].min()) >= 0.0
        gained = float(TISSUE.grid.integrate(done.x[field] - START.get(field, 0.0)))
        booked = sum(sign * float(sum(done.ledger[name])) for name, sign in signs.items())
        assert gained == pytest.approx(booked, abs=1e-13)
    killed = sum(float(sum(done.ledger[n])) for n in ("trail_kill", "trail_kill_resistant"))
    assert float(seen["trail_killed_cells"]) == pytest.approx(1e5 * killed, rel=1e-12)


def test_no_release_and_no_effect_are_no_module_at_all():
    bare = run_of([Tumour(), Carriers(taxis=None)], START)[0]
    for off in (Trail(secretion_mol_per_cell_per_day=0.0), Trail(kill=Hill(0.0, 1e-3, 1.0))):
        done = run_of([Tumour(), Carriers(taxis=None), off], START)[0]
        for name, value in bare.x.items():
            np.testing.assert_allclose(done.x[name], value, rtol=10 * ULP, atol=0)


def test_the_taylor_remainder_is_of_second_order():
    theta = {"field": jnp.array([1.4, 33.0, 4.0]), "law": jnp.array([0.6, 1.0, 1.5]), "s": START["carriers"] + 0.1}
    along = {
        "field": jnp.array([0.3, -3.0, 1.0]), "law": jnp.array([0.2, -0.1, 0.1]), "s": 0.1 * jnp.cos(jnp.arange(16.0)),
    }  # fmt: skip

    def goal(theta):
        spread, decay, release = theta["field"]
        emax, ic50, hill = theta["law"]
        trail = Trail(spread, decay, 1e-18 * release, Hill(emax, 1e-3 * ic50, hill))
        model = Model(TISSUE, [Tumour(0.05, 0.05, 0.1), Carriers(0.01, 0.01, taxis=None), trail])
        start = START | {"carriers": theta["s"]}
        return jnp.sum(solve(model, Schedule(), start, plan, jnp.asarray(SAVES)).final.x["tumour"])

    plan = plan_of(Model(TISSUE, [Tumour(), Carriers(taxis=None)]))
    derived = jax.jit(jax.value_and_grad(goal))
    value, slope = derived(theta)
    assert all(np.all(np.asarray(v) != 0) for v in jax.tree.leaves(slope))
    total = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(along), strict=True))
    eps = 2.0 ** -np.arange(2, 8)
    moved = [jax.tree.map(lambda t, d, e=e: t + e * d, theta, along) for e in eps]
    rest = [float(derived(t)[0] - value) - e * total for t, e in zip(moved, eps, strict=True)]
    orders = np.log2(np.abs(np.divide(rest[:-1], rest[1:])))
    assert np.all(orders >= 1.95), orders


# -- configuration ---------------------------------------------------------------------------------

TEXT = """
[tissue]
kind = "phantom"
shape = [24, 20]
[tumour]
initial = { kind = "gaussian", centre_mm = [5.0, 3.0], sigma_mm = 1.5, peak = 0.9 }
[time]
end_day = 4.0
[carriers]
taxis = { kind = "none" }
[trail]
"""


@pytest.mark.parametrize(
    ("line", "law", "counts"),
    [("", Hill, False), ("counts_as_drug = true\nkill = { kind = 'linear', rate_per_uM_per_day = 9.0 }", Linear, True)],
)
def test_the_section_makes_its_module(line, law, counts):
    arm = loads(TEXT + line).arms[0]
    assert from_json(arm.to_json()) == arm
    module = next(m for m in modules_of(arm, jnp.float64, {}) if m.name == "trail")
    assert (type(module.kill), module.counts_as_drug) == (law, counts)
    assert module.tolerance == arm.numerics.elliptic_tolerance


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("decay_per_day = 0", "trail.decay_per_day: should be greater than or equal to"),
        ("kill = { kind = 'hill', rate_per_uM_per_day = 1.0 }", "trail.kill.rate_per_uM_per_day: unknown key"),
        ("secretion_mol_per_cell = 1e-18", "did you mean 'secretion_mol_per_cell_per_day'?"),
        ("counts_as_drug = 'perhaps'", "trail.counts_as_drug: should be a valid boolean"),
    ],
)
def test_wrong_sections_are_told_in_one_sentence(line, message):
    with pytest.raises(ConfigError) as error:
        loads(TEXT + line)
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]


def test_release_needs_carriers():
    with pytest.raises(ConfigError, match=r"trail: needs the section \[carriers\]"):
        loads(TEXT.replace('[carriers]\ntaxis = { kind = "none" }\n', ""))
