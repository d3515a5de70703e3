"""Vessels: their equations, what leaks through them, and the whole micro-environment from a configuration to a file."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from glioma_pde.biology.attractant import Attractant
from glioma_pde.biology.base import Module
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug, DynamicDrug
from glioma_pde.biology.necrosis import Necrosis
from glioma_pde.biology.oxygen import Oxygen
from glioma_pde.biology.prodrug import Boluses, Courses, DynamicProdrug, Prodrug
from glioma_pde.biology.resistance import Resistance
from glioma_pde.biology.tumour import Tumour
from glioma_pde.biology.vasculature import DynamicVasculature, Vasculature
from glioma_pde.build import build
from glioma_pde.config import loads
from glioma_pde.delivery import Schedule, gaussian
from glioma_pde.errors import ConfigError
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.run import _Loop, run
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue
from glioma_pde.window import GROW_AT, inner_box

ULP = np.finfo(float).eps
LINE = Tissue.phantom("box", (12,), 1.0)
SPREAD = 0.95 * gaussian(LINE.grid, jnp.array([0.5]), jnp.asarray(2.0))
SAVES = (0.0, 2.0, 6.0)


class Air(Module):
    """Oxygen of a given level [mmHg]."""

    name: ClassVar[str] = "air"
    provides: ClassVar = ("oxygen",)
    level: jax.Array | float = 35.0

    def quantities(self, x, q, at):
        return {"oxygen": jnp.broadcast_to(self.level, at.grid.shape)}


@eqx.filter_jit
def end(model, initial, plan):
    return solve(model, Schedule(), initial, plan, jnp.asarray(SAVES)).final


def plan_for(model, dt):
    plan = make_plan(model, Schedule(), SAVES, dt)
    return replace(plan.padded_to(2, 64), padded=True)


@eqx.filter_jit
def shared(model, x):
    carry = model.start(x)
    return model.quantities(carry.x, carry.warm, model.prepare(), jnp.full((), 1.0), jnp.zeros(()))


# -- the vessels -----------------------------------------------------------------------------------


def test_vessels_follow_their_equations():
    """In a tumour that does not change, at a given oxygen: linear equations, integrated independently."""
    u, level = np.array([0.0, 0.3, 0.7, 1.0]), 8.0
    omega, n_c, mu, k_l, alpha, below = 0.4, 0.6, 0.05, 0.5, 0.3, 20.0
    closing = omega * u**4 / (n_c**4 + u**4)
    z = 1.0 - level / below
    sprouting = alpha * z * z * (3.0 - 2.0 * z) * u**2 / (k_l**2 + u**2)

    def rhs(t, y):
        m, a = y.reshape(2, 4)
        return np.concatenate([closing * (1 - m) - (mu + sprouting) * m, sprouting * m - (closing + mu) * a])

    # it starts at the equilibrium without angiogenesis
    start = np.concatenate([closing / (closing + mu), np.zeros(4)])
    exact = solve_ivp(rhs, (0.0, 6.0), start, rtol=1e-11, atol=1e-13).y[:, -1].reshape(2, 4)
    tissue = Tissue.phantom("box", (4,), 1.0)
    vessels = DynamicVasculature(omega, n_c, mu, k_l, alpha, below)
    model = Model(tissue, [Tumour(0.0, 0.0, 0.0), vessels, Air(level)])
    errors = []
    for dt in (0.2, 0.1):
        x = end(model, {"tumour": jnp.asarray(u)}, plan_for(model, dt)).x
        errors.append(np.abs(np.array([x["vessels_missing"], x["vessels_new"]]) - exact).max())
    assert exact[1].max() > 0.1
    assert errors[1] < 1e-3
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)
    q = shared(model, x)
    m, a = x["vessels_missing"], x["vessels_new"]
    np.testing.assert_allclose(q["vessels"], 1.0 - m, rtol=1e-14)
    np.testing.assert_allclose(q["vessel_leakiness"], a + u**2 / (0.25 + u**2) * (1.0 - m - a), rtol=1e-13)
    assert float(q["vessels"][0]) == 1.0
    assert float(q["vessel_leakiness"][0]) == 0.0


def test_at_rest_they_are_where_slow_changes_would_leave_them():
    model = Model(LINE, [Tumour(), Vasculature(0.4, 0.7, 0.05, 0.5)])
    q = shared(model, {"tumour": SPREAD})
    u = np.asarray(SPREAD)
    closing = 0.4 * u**4 / (0.7**4 + u**4)
    np.testing.assert_allclose(q["vessels"], 0.05 / (closing + 0.05), rtol=1e-13)
    np.testing.assert_allclose(q["vessel_leakiness"], q["vessels"] * u**2 / (0.25 + u**2), rtol=1e-13)


def environment(rates, oxygen=(35.0, 60.0, 170.0, 5e4, 3.0, 8.0), necrosis=(0.5, 15.0, 0.1), tumour=()):
    return Model(LINE, [Tumour(*tumour), Oxygen(*oxygen), Necrosis(*necrosis), DynamicVasculature(*rates)])


def test_no_vessel_closes_and_no_cell_breathes_and_nothing_is_different():
    still = environment((0.0, 0.7, 0.05, 0.5, 0.05, 20.0), oxygen=(35.0, 60.0, 170.0, 5e4, 0.0, 8.0))
    plan = plan_for(still, 0.5)
    start = {"tumour": SPREAD}
    done, bare = end(still, start, plan), end(Model(LINE, [Tumour()]), start, plan)
    np.testing.assert_allclose(done.x["tumour"], bare.x["tumour"], rtol=10 * ULP, atol=0)
    assert not any(np.any(done.x[n]) for n in ("necrotic", "vessels_missing", "vessels_new"))


def test_the_ledger_closes_and_all_parts_stay_parts_at_the_longest_step():
    model = environment((3.0, 0.4, 0.5, 0.3, 2.0, 25.0), necrosis=(1.0, 15.0, 0.1), tumour=(1.0, 0.5, 0.5))
    longest = model.largest_steps()
    assert 1.0 / longest["vessels_missing"] == pytest.approx(2.5, rel=1e-12)
    assert 1.0 / longest["vessels_new"] == pytest.approx(3.5, rel=1e-12)
    random = np.random.default_rng(3)
    missing, part = random.random(12), random.random(12)
    start = {"tumour": random.random(12) * (random.random(12) < 0.5), "vessels_missing": missing}
    start |= {"vessels_new": part * (1.0 - missing)}
    start = {n: jnp.asarray(v) for n, v in start.items()}
    after = end(model, start, plan_for(model, model.largest_step()))
    m, a = after.x["vessels_missing"], after.x["vessels_new"]
    assert float(jnp.minimum(m, a).min()) >= 0.0
    assert float((m + a).max()) <= 1.0
    entries = balances(model)
    assert entries["vessels_new"] == {"vessel_regression": -1.0, "vessel_maturation": -1.0, "angiogenesis": 1.0}
    assert float(sum(after.ledger["angiogenesis"])) > 0.1
    for field, signs in entries.items():
        assert float(after.x[field].min()) >= 0.0
        gained = float(LINE.grid.integrate(after.x[field])) - float(
            LINE.grid.integrate(start.get(field, jnp.zeros(12)))
        )
        booked = sum(sign * float(sum(after.ledger[name])) for name, sign in signs.items())
        assert gained == pytest.approx(booked, abs=1e-13)


@pytest.mark.slow
def test_the_taylor_remainder_is_of_second_order():
    """In every parameter of vessels, oxygen and necrosis, and in the initial tumour."""
    theta = {
        "rates": jnp.array([0.4, 0.7, 0.05, 0.5, 0.2, 30.0]),
        "oxygen": jnp.array([35.0, 60.0, 170.0, 5e4, 3.0, 8.0, 3.0, 3.0]),
        "necrosis": jnp.array([0.5, 18.0, 0.1]),
        "tumour": SPREAD,
    }
    along = {
        "rates": jnp.array([0.1, -0.05, 0.02, 0.05, 0.05, 2.0]),
        "oxygen": jnp.array([1.0, 3.0, 40.0, 2e4, 0.3, -1.0, 0.4, 0.5]),
        "necrosis": jnp.array([0.1, 1.0, -0.02]),
        "tumour": 0.03 * SPREAD,
    }

    @jax.jit
    def goal(theta, plan):
        model = environment(theta["rates"], theta["oxygen"], theta["necrosis"])
        done = end(model, {"tumour": theta["tumour"]}, plan)
        q = model.quantities(done.x, done.warm, model.prepare(), jnp.zeros(()), jnp.zeros(()))
        return jnp.sum(done.x["tumour"] ** 2 + done.x["necrotic"] + q["oer_factor"] + q["vessel_leakiness"])

    plan = make_plan(environment(theta["rates"]), Schedule(), SAVES, 0.5)
    value, slope = jax.jit(jax.value_and_grad(goal))(theta, plan)
    assert all(np.all(np.asarray(v) != 0) for v in jax.tree.leaves(slope))
    total = sum(float(jnp.vdot(slope[n], along[n])) for n in theta)
    eps = 2.0 ** -np.arange(3, 9)
    rest = [float(goal({n: theta[n] + e * along[n] for n in theta}, plan) - value) - e * total for e in eps]
    orders = np.log2(np.abs(np.divide(rest[:-1], rest[1:])))
    assert np.all(orders >= 1.95), orders


# -- what leaks ------------------------------------------------------------------------------------


RATES = jnp.array([17.0, 300.0, 2.0, 300.0])


def therapy(prodrug, drug, rates=RATES):
    """``rates``: exchange and efflux behind intact vessels and, further, behind leaky ones."""
    courses = Courses(jnp.array([0.0]), jnp.array([5.0]), jnp.array([150.0]))
    exchange = {"exchange_per_day": rates[0], "leaky_exchange_per_day": rates[1]}
    efflux = {"efflux_per_day": rates[2], "leaky_efflux_per_day": rates[3]}
    return [Tumour(), Carriers(taxis=None), prodrug(courses, Boluses.none(), **exchange), drug(**efflux)]


def test_prodrug_and_drug_pass_where_vessels_leak():
    """Less depletion and more loss: both pools against the balance at each cell, and their derivatives."""
    s = jnp.linspace(0.0, 0.3, 12)
    start = {"tumour": jnp.full(12, 0.6), "carriers": s}

    @jax.jit
    def levels(rates):
        model = Model(LINE, [*therapy(Prodrug, Drug, rates), Vasculature()])
        q = shared(model, start)
        return q["prodrug"], q["drug"], q["conversion"], q["prodrug_plasma"], q["vessel_leakiness"]

    p, c, conversion, plasma, leak = levels(RATES)
    assert 0.05 < float(leak.max()) <= 1.0
    exchange = 17.0 + 300.0 * leak
    np.testing.assert_allclose(exchange * (0.75 * plasma - p), conversion, rtol=1e-9, atol=1e-9)
    # made and lost balance over the whole tissue
    lost = 83.0 + 2.0 + 300.0 * leak
    assert float(jnp.sum(conversion)) == pytest.approx(float(jnp.sum(lost * c)), rel=1e-9)
    # without strength there is no difference at all
    bare = shared(Model(LINE, therapy(Prodrug, Drug)), start)
    off = levels(RATES.at[1].set(0.0).at[3].set(0.0))
    for value, name in zip(off, ("prodrug", "drug", "conversion"), strict=False):
        np.testing.assert_allclose(value, bare[name], rtol=10 * ULP, atol=0)
    slope = jax.jit(jax.grad(lambda r: jnp.sum(levels(r)[1])))(RATES)
    eps = 1e-3
    for k in range(4):
        step = float(RATES[k]) * eps
        pair = [float(jnp.sum(levels(RATES.at[k].add(sign * step))[1])) for sign in (1.0, -1.0)]
        assert float(slope[k]) == pytest.approx((pair[0] - pair[1]) / (2 * step), rel=1e-4)


def test_bounds_count_what_leaks_and_transported_pools_lose_it():
    bare, leaky = (Model(LINE, [*therapy(DynamicProdrug, DynamicDrug), *more]) for more in ([], [Vasculature()]))
    for name in ("prodrug", "drug"):
        rates = [1.0 / model.largest_steps()[name] for model in (bare, leaky)]
        assert rates[1] - rates[0] == pytest.approx(300.0, rel=1e-10)
    start = {"tumour": jnp.full(12, 0.6), "carriers": jnp.full(12, 0.1)}
    start |= {"prodrug": jnp.full(12, 50.0), "drug": jnp.full(12, 2.0)}

    @eqx.filter_jit
    def rates(model):
        carry = model.start(start)
        return model.rates(carry.x, carry.warm, model.prepare(), jnp.full((), 1.0), jnp.zeros(()))

    dx, flows, _ = rates(leaky)
    q = shared(leaky, start)
    exchange = 17.0 + 300.0 * float(q["vessel_leakiness"][0])
    gained = exchange * (0.75 * float(q["prodrug_plasma"]) - 50.0) - float(q["conversion"][0])
    assert float(dx["prodrug"][4]) == pytest.approx(gained, rel=1e-12)
    lost = (83.0 + 2.0 + 300.0 * float(q["vessel_leakiness"][0])) * 2.0
    assert float(dx["drug"][4]) == pytest.approx(float(q["conversion"][0]) - lost, rel=1e-12)
    assert float(flows["drug_decay"]) == pytest.approx(12.0 * lost, rel=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_modules_find_their_order(reverse):
    modules = [
        *therapy(Prodrug, Drug), Attractant(), Necrosis(), Oxygen(), Resistance(), DynamicVasculature(),
    ]  # fmt: skip
    model = Model(LINE, modules[::-1] if reverse else modules)
    names = [m.name for m in model.modules]
    for earlier, later in (
        ("vasculature", "oxygen"),
        ("vasculature", "prodrug"),
        ("vasculature", "drug"),
        ("oxygen", "necrosis"),
    ):
        assert names.index(earlier) < names.index(later)
    # oxygen and vessels go on while no carrier is alive
    kept = [m.name for m in model.without_carriers().modules]
    assert set(names) - set(kept) == {"prodrug", "drug", "attractant"}
    with pytest.raises(ValueError, match=r"'necrosis' needs \['oxygen'\]"):
        Model(LINE, [Tumour(), Necrosis()])


# -- from the configuration to the file ----------------------------------------------------------------

TEXT = """
[tissue]
kind = "phantom"
geometry = "head"
shape = [36, 30]
spacing_mm = 3.0
[tumour]
diffusivity_white_mm2_per_day = 0.5
proliferation_per_day = 0.1
initial = { kind = "gaussian", centre_mm = [24.0, 1.5], sigma_mm = 3.0, peak = 0.9 }
[time]
end_day = 6.0
frame_every_days = 6.0
observe_every_days = 0.5
[numerics]
precision = "float64"
elliptic_tolerance = 1e-10
[oxygen]
tumour_consumption = 2.0
[necrosis]
[vasculature]
dynamics = "dynamic"
"""
FADING = """
[carriers]
taxis = { kind = "none" }
loss_per_day = 15.0
[schedule]
injections = [{ days = [0.0], cells = 1e3, sites_mm = [[24.0, 1.5]], sigma_mm = 4.0 }]
"""


def contents(path):
    with RunFile(path) as file:
        out = {f"{n} {i}": file.field(n, index=i) for n in file.fields for i in range(len(file.days))}
        units = {n: f.unit for n, f in file.fields.items()}
        return out | {n: file.observable(n) for n in file.observables} | {
            n: file.ledger(n) for n in file.ledger_columns
        }, units


def test_a_run_stores_it_all_also_beyond_its_window(tmp_path):
    experiment = build(loads(TEXT).arms[0])
    assert inner_box(experiment.model, experiment.initial, experiment.schedule) is not None
    result = run(experiment, tmp_path / "a.h5")
    found, units = contents(tmp_path / "a.h5")
    names = ["tumour", "necrotic", "vessels_missing", "vessels_new", "vessels", "vessel_leakiness"]
    assert units == {**dict.fromkeys(names, "1"), "oxygen": "mmHg"}
    assert max(np.abs(v).max() for n, v in found.items() if n.endswith("imbalance")) < 1e-12
    inside = np.asarray(experiment.model.tissue.mask)
    for name, healthy in (("oxygen", 35.0), ("vessels", 1.0)):
        values = found[f"{name} 1"]
        assert values[inside].min() < 0.5 * healthy
        assert np.mean(values[inside] == healthy) > 0.5
        assert not np.any(values[~inside])
    assert 3.0 < found["oxygen_lowest"][-1] < 15.0
    assert found["oxygen_lowest"][-1] < found["oxygen_mean_tumour"][-1] < 35.0
    assert found["necrotic_cells"][-1] > 0
    assert {"hypoxic_fraction", "oxygen_mean_tumour", "necrotic_cells", "necrotic_volume"} <= set(result.more)


@pytest.mark.slow
@pytest.mark.parametrize("diffusivity", [0.5, 16.0], ids=["stays", "grows"])
def test_neither_window_nor_idling_changes_anything(tmp_path, monkeypatch, diffusivity):
    """Oxygen fills the brain, what is solved for does not: a small window, which may grow, gives the same."""
    entered, enter = [], _Loop._enter
    monkeypatch.setattr(_Loop, "_enter", lambda self, *more: (entered.append(more[0].box), enter(self, *more)))
    found = []
    for sets in ([], ["numerics.grow_window=false", "numerics.idle_below_cells=0"]):
        sets = [*sets, f"tumour.diffusivity_white_mm2_per_day={diffusivity}"]
        path = tmp_path / f"{len(found)}.h5"
        run(build(loads(TEXT + FADING, "x.toml", sets).arms[0]), path)
        found.append(contents(path)[0])
    a, b = found
    assert [box is None for box in entered] == ([False, True, True] if diffusivity > 1 else [False, True])
    assert a.keys() == b.keys()
    assert a["carriers_total"][-1] < 1.0 < a["carrier_delivery"][-1]
    for name in a.keys() - {"rim_density"} - {n for n in a if n.endswith("imbalance")}:
        top = max(float(np.abs(b[name]).max()), 1e-12)
        # the window cuts off tails of the tumour that are thinner than the density at which it grows
        atol = GROW_AT if name.startswith("tumour ") and diffusivity > 1 else 1e-6
        np.testing.assert_allclose(a[name] / top, b[name] / top, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tumour_consumption = 2.0", "blood_mmHg = 30.0", "oxygen: blood_mmHg must be above normal_mmHg"),
        ("tumour_consumption = 2.0", "oer_largest = 0.5", "oxygen.oer_largest: should be greater than or equal to 1"),
        ("tumour_consumption = 2.0", "normal = 2.0", "oxygen.normal: unknown key; did you mean 'normal_mmHg'?"),
        ("[necrosis]", "[necrosis]\nbelow_mmHg = 40.0", "necrosis.below_mmHg: must be under oxygen.normal_mmHg = 35"),
        ('"dynamic"', '"static"', "vasculature.dynamics: should be 'quasi_steady' or 'dynamic'"),
        ('dynamics = "dynamic"', "angiogenesis_per_day = 0.2", "vasculature: angiogenesis_per_day is used with dynamics"),
    ],
)  # fmt: skip
def test_wrong_sections_are_told_in_one_sentence(old, new, message):
    with pytest.raises(ConfigError) as error:
        loads(TEXT.replace(old, new))
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]


def test_what_needs_oxygen_says_so():
    with pytest.raises(ConfigError) as error:
        loads(TEXT.replace("[oxygen]\ntumour_consumption = 2.0\n", ""))
    assert [p.split(" (")[0] for p in error.value.problems] == [
        "necrosis: needs the section [oxygen]",
        "vasculature.dynamics: 'dynamic' needs the section [oxygen]",
    ]
    arm = loads(TEXT.replace('[vasculature]\ndynamics = "dynamic"', "[vasculature]")).arms[0]
    assert [type(m) for m in build(arm).model.modules if m.name == "vasculature"] == [Vasculature]
