"""Tumour formation by carriers: the clone, the probability of one, what zero events exclude, and runs that outlive the carriers."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import beta, binom

from glioma_pde.assemble import modules_of
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug
from glioma_pde.biology.immune import PrimedImmuneResponse
from glioma_pde.biology.laws import Hill
from glioma_pde.biology.malignancy import Malignancy
from glioma_pde.biology.trail import Trail
from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build
from glioma_pde.config import loads
from glioma_pde.delivery import Schedule
from glioma_pde.errors import ConfigError
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.observe import look
from glioma_pde.risk import event_bound, no_event, transformation_bound
from glioma_pde.run import run
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

ULP = np.finfo(float).eps
TISSUE = Tissue.phantom("box", (12,), 1.0)
SAVES = (0.0, 10.0)


@eqx.filter_jit
def end(model, initial, plan):
    done = solve(model, Schedule(), initial, plan, jnp.asarray(SAVES)).final
    return done, look(model, (), done, model.prepare(), jnp.asarray(10.0), (0.8, 0.16))[0]


def plan_of(model, dt=0.25):
    """Plans of one shape, so that models of the same modules share a program."""
    return replace(make_plan(model, Schedule(), SAVES, dt).padded_to(1, 48), padded=True)


def run_of(modules, initial, dt=0.25):
    model = Model(TISSUE, modules)
    return end(model, initial, plan_of(model, dt))


def test_clone_and_probability_are_those_of_the_linear_equations():
    """Few and evenly spread: s falls by δ + μ, m' = ρ_m m + μ s, and P follows from what has turned malignant."""
    loss, change, growth, s0, t = 0.21, 1e-7, 0.1, 0.02, 10.0
    modules = [Tumour(), Carriers(loss_per_day=loss, taxis=None), Malignancy(change, growth, drug_sensitivity=None)]
    out = loss + change
    exposure = 1e5 * 12.0 * s0 * -np.expm1(-out * t) / out
    m = change * s0 * (np.exp(growth * t) - np.exp(-out * t)) / (growth + out)
    errors = []
    for dt in (0.25, 0.125):
        done, seen = run_of(modules, {"carriers": jnp.full(12, s0)}, dt)
        found = [done.x["malignant"][5], seen["malignant_cells"], seen["carrier_exposure"], seen["p_malignant"]]
        exact = [m, 1e5 * 12.0 * m, exposure, -np.expm1(-change * exposure)]
        errors.append(np.abs(np.array(found) / np.array(exact) - 1.0))
    assert errors[1].max() < 1e-3
    np.testing.assert_allclose(np.log2(np.divide(*errors)), 2.0, atol=0.1)
    assert float(seen["burden_cells"]) == 0.0  # it is no tumour burden


def treated(change=1e-3, sensitivity: float | None = 0.7, *more):
    """Everything that acts on the clone: drug, crowding, motility."""
    return [
        Tumour(proliferation_per_day=0.3),
        Carriers(1.0, 0.5, taxis=None, crowding=0.2),
        Drug(secretion_mol_per_cell_per_day=1e-14, kill=Hill(0.8, 2.0, 1.0)),
        Malignancy(change, 0.4, 1.5, 0.7, sensitivity, one_sided_growth=True),
        *more,
    ]


START = {"tumour": jnp.zeros(12).at[3].set(0.9), "carriers": jnp.zeros(12).at[5].set(1.0)}


def test_the_clone_dies_of_drugs_as_its_sensitivity_says_and_counts_as_crowding():
    model = Model(TISSUE, treated())
    x = {"tumour": jnp.full(12, 0.3), "carriers": jnp.full(12, 0.5), "malignant": jnp.full(12, 0.2)}

    @eqx.filter_jit
    def rates(model, x):
        zero, warm, medium = jnp.zeros(()), {"drug": jnp.zeros(12)}, model.prepare()
        return model.quantities(x, warm, medium, zero, zero), model.rates(x, warm, medium, zero, zero)[0]

    q, dx = rates(model, x)
    assert float(q["crowding"][4]) == pytest.approx(0.3 + 0.2 * 0.5 + 0.2, rel=1e-14)
    assert float(q["tumour_cells"][4]) == 0.3
    c = 1e-14 * 1e5 * 1e12 * 0.5 / 83.0
    kill = 0.7 * 0.8 * c / (2.0 + c)
    assert float(dx["malignant"][4]) == pytest.approx(1e-3 * 0.5 + 0.2 * (0.4 * 0.4 - kill), rel=1e-12)


def test_the_ledger_closes_and_nothing_turns_negative_at_the_longest_step():
    modules = treated(0.3)
    model = Model(TISSUE, modules)
    without = Model(TISSUE, modules[:3]).largest_steps()["carriers"]
    bounds = model.largest_steps()
    assert 1 / bounds["carriers"] == pytest.approx(1 / without + 0.3, rel=1e-12)
    assert 1 / bounds["malignant"] == pytest.approx(2 * 1.5 + 0.4 + 0.7 * 0.8, rel=1e-12)
    done, seen = run_of(modules, START, model.largest_step())
    entries = balances(model)
    assert entries["malignant"] == {"transformation": 1.0, "malignant_growth": 1.0, "malignant_kill": -1.0}
    for field, signs in entries.items():
        assert float(done.x[field].min()) >= 0.0
        gained = float(TISSUE.grid.integrate(done.x[field]) - jnp.sum(START.get(field, jnp.zeros(12))))
        booked = [sign * float(sum(done.ledger[name])) for name, sign in signs.items()]
        assert gained == pytest.approx(sum(booked), abs=1e-13 * max(1.0, *np.abs(booked)))
    assert 0.999 < float(seen["p_malignant"]) <= 1.0


def test_no_transformation_is_no_module_at_all():
    """Its exposure to carriers is still there, for what zero events exclude."""
    bare = run_of(treated()[:3], START)[0]
    done, seen = run_of(treated(0.0), START)
    for name, value in bare.x.items():
        np.testing.assert_allclose(done.x[name], value, rtol=10 * ULP, atol=0)
    assert not np.any(done.x["malignant"])
    assert float(seen["p_malignant"]) == 0.0
    assert float(seen["carrier_exposure"]) > 1e5


def test_the_taylor_remainder_is_of_second_order():
    theta = {"clone": jnp.array([0.05, 0.4, 1.5, 0.7, 0.7]), "s": START["carriers"] + 0.1}
    along = {"clone": jnp.array([0.02, -0.1, 0.3, 0.2, -0.3]), "s": 0.1 * jnp.cos(jnp.arange(12.0))}

    def goal(theta):
        change, growth, white, grey, sensitivity = theta["clone"]
        modules = treated()
        modules[3] = Malignancy(change, growth, white, grey, sensitivity, one_sided_growth=True)
        done, seen = end(Model(MIXED, modules), START | {"carriers": theta["s"]}, plan)
        return jnp.sum(done.x["malignant"] ** 2) + 1e-5 * seen["malignant_cells"] + jnp.sum(done.x["tumour"])

    share = np.linspace(0.2, 0.8, 12)
    MIXED = Tissue.from_arrays(share, 1.0 - share, spacing_mm=1.0)
    plan = plan_of(Model(MIXED, treated()))
    derived = jax.jit(jax.value_and_grad(goal))
    value, slope = derived(theta)
    assert all(np.all(np.asarray(v) != 0) for v in jax.tree.leaves(slope))
    total = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(along), strict=True))
    eps = 2.0 ** -np.arange(2, 8)
    moved = [jax.tree.map(lambda t, d, e=e: t + e * d, theta, along) for e in eps]
    rest = [float(derived(t)[0] - value) - e * total for t, e in zip(moved, eps, strict=True)]
    orders = np.log2(np.abs(np.divide(rest[:-1], rest[1:])))
    assert np.all(orders >= 1.95), orders


# -- what zero events say --------------------------------------------------------------------------


@pytest.mark.parametrize(("events", "patients"), [(0, 1), (0, 15), (0, 300), (1, 15), (3, 15), (14, 15)])
def test_bounds_of_a_probability_are_those_of_clopper_and_pearson(events, patients):
    bound = event_bound(events, patients)
    assert bound == pytest.approx(beta.ppf(0.95, events + 1, patients - events), rel=1e-12)
    assert binom.cdf(events, patients, bound) == pytest.approx(0.05, rel=1e-10)
    assert event_bound(events, patients, 0.5) < bound


def test_zero_events_and_the_rule_of_three():
    assert event_bound(0, 15) == pytest.approx(1.0 - 0.05 ** (1 / 15), rel=1e-14)
    assert event_bound(0, 15) == pytest.approx(0.181, abs=5e-4)
    assert event_bound(0, 1000) == pytest.approx(3.0 / 1000, rel=4e-3)
    assert event_bound(15, 15) == 1.0
    assert no_event([event_bound(0, 15)] * 15) == pytest.approx(0.05, rel=1e-12)


def test_the_excluded_transformation_rate_is_that_of_the_excluded_probability():
    exposure = 1.7e8  # one dose of 5e7 carriers, 0.71 of them kept, living 1/0.21 days
    rate = transformation_bound([exposure] * 15)
    assert -np.expm1(-rate * exposure) == pytest.approx(event_bound(0, 15), rel=1e-12)
    assert rate == pytest.approx(1.17e-9, rel=5e-3)
    assert transformation_bound([exposure, 3 * exposure]) == pytest.approx(-np.log(0.05) / (4 * exposure), rel=1e-12)


@pytest.mark.parametrize("wrong", [lambda: event_bound(2, 1), lambda: event_bound(0, 0), lambda: event_bound(0, 3, 1.0),
                                   lambda: transformation_bound([0.0]), lambda: transformation_bound([1.0], 0.0)])  # fmt: skip
def test_bounds_refuse_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match=r"cannot be|confidence|exposures"):
        wrong()


# -- configurations and runs -----------------------------------------------------------------------

TEXT = """
[tissue]
kind = "radial"
radius_mm = 8.0
spacing_mm = 0.5
[tumour]
initial = { kind = "gaussian", centre_mm = [0.0], sigma_mm = 1.5, peak = 0.1 }
[time]
end_day = 60.0
observe_every_days = 5.0
frame_every_days = 60.0
[carriers]
taxis = { kind = "none" }
loss_per_day = 1.0
[immune]
priming = 1.0
[malignancy]
transformation_per_day = 1e-5
proliferation_per_day = 0.1
[trail]
[[schedule.injections]]
days = [0.0]
cells = 1e6
sites_mm = [[0.0]]
sigma_mm = 1.5
[numerics]
precision = "float64"
grow_window = false
"""


def test_without_carriers_the_clone_grows_and_the_memory_stays():
    """What stands in for the model while fewer than one carrier is alive takes the same step where none is."""
    model = Model(TISSUE, [Tumour(), Carriers(taxis=None), PrimedImmuneResponse(priming=1.0), Malignancy(), Trail()])
    alone = model.without_carriers()
    assert {"immune", "malignancy"} <= {m.name for m in alone.modules}
    assert "trail" not in alone
    bump = jnp.exp(-(jnp.arange(12.0) ** 2) / 20.0)
    start = model.start({"tumour": 0.3 * bump, "malignant": 0.2 * bump, "immune": bump, "immune_memory": 0.5 * bump})

    @eqx.filter_jit
    def step(model, carry):
        return model.step(carry, model.prepare(), jnp.zeros(()), jnp.asarray(0.1))

    full, idle = (step(m, start) for m in (model, alone))
    for name, value in full.x.items():
        np.testing.assert_allclose(idle.x[name], value, rtol=10 * ULP, atol=0, err_msg=name)
    assert float(jnp.sum(full.x["malignant"]) / jnp.sum(start.x["malignant"])) > 1.001
    np.testing.assert_array_equal(full.x["immune_memory"], start.x["immune_memory"])


@pytest.mark.slow
def test_clone_and_memory_outlive_the_carriers(tmp_path):
    """While fewer than one carrier is alive a run leaves out what only carriers bring about; these two are none of it."""
    results = {}
    for name, idle in {"idle": 1e4, "busy": 0.0}.items():
        arm = loads(TEXT, sets=[f"numerics.idle_below_cells={idle}"]).arms[0]
        results[name] = run(build(arm), tmp_path / f"{name}.h5")
    idle, busy = (results[n].course for n in ("idle", "busy"))
    assert float(idle.values["carriers_cells"][1]) < 1e4
    for name in ("malignant_cells", "p_malignant", "immune_priming", "immune_peak", "carrier_exposure", "burden_cells"):
        np.testing.assert_allclose(idle.values[name], busy.values[name], rtol=2e-3, err_msg=name)
    grown = busy.at("malignant_cells", 60.0) / busy.at("malignant_cells", 20.0)
    assert np.log(grown) / 40.0 == pytest.approx(0.1, rel=0.1)
    assert busy.at("immune_priming", 60.0) == pytest.approx(busy.at("immune_priming", 10.0), rel=1e-2)
    summary = results["idle"].summary
    assert {"malignant_cells", "p_malignant", "carrier_exposure", "trail_killed_cells"} <= set(summary)
    assert "probability that a carrier has become malignant" in results["idle"].more["p_malignant"]
    assert summary["trail_killed_cells"] > 0


@pytest.mark.parametrize(("crowding", "sensitivity"), [(0.0, 0.0), (0.5, 0.3)])
def test_the_section_makes_its_module(crowding, sensitivity):
    sets = [f"carriers.crowding={crowding}", f"malignancy.drug_sensitivity={sensitivity}"]
    arm = loads(TEXT, sets=sets).arms[0]
    module = next(m for m in modules_of(arm, jnp.float64, {}) if m.name == "malignancy")
    assert module.one_sided_growth is (crowding > 0)
    assert module.drug_sensitivity == (sensitivity or None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("malignancy.transformation_per_day=-1", "malignancy.transformation_per_day: should be greater than or equal"),
        ("malignancy.transformtion_per_day=1e-9", "did you mean 'transformation_per_day'?"),
        ("malignancy.drug_sensitivity=high", "malignancy.drug_sensitivity: should be a valid number"),
    ],
)
def test_wrong_sections_are_told_in_one_sentence(line, message):
    with pytest.raises(ConfigError) as error:
        loads(TEXT, sets=[line])
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]


def test_a_clone_needs_carriers():
    text = "".join(TEXT.partition("[carriers]")[::2]).replace('taxis = { kind = "none" }\nloss_per_day = 1.0\n', "")
    with pytest.raises(ConfigError, match=r"malignancy: needs the section \[carriers\]"):
        loads(text)
