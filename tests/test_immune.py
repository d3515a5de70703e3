"""Immune response to the carriers: against integrated equations, over repeated doses, and under suppression."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from glioma_pde.assemble import modules_of
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.immune import ConstantClearance, ImmuneResponse, PrimedImmuneResponse, Suppression
from glioma_pde.config import from_json, loads
from glioma_pde.delivery import CarrierDoses, Schedule
from glioma_pde.errors import ConfigError
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

ULP = np.finfo(float).eps
TISSUE = Tissue.phantom("box", (12,), 1.0)
SAVES = (0.0, 7.0, 14.0, 21.0)
K = 1e5


def windows(*rows):
    """Three windows of suppression, without effect where none are given."""
    rows = [*rows, *[(0.0, 0.0, 0.0)] * (3 - len(rows))]
    return Suppression(*jnp.asarray(rows, float).T)


def doses(days=(0.0, 14.0), cells=(1e5, 1e5)):
    return eqx.tree_at(
        lambda d: (d.day, d.cells), CarrierDoses.at_sites([0.0, 0.0], 0.0, [[-1.0]], 1.0),
        (jnp.asarray(days, float), jnp.asarray(cells, float)),
    )  # fmt: skip


NONE = doses((0.0, 0.0), (0.0, 0.0))


@eqx.filter_jit
def _run(model, initial, events, plan):
    return solve(model, Schedule((events,)), initial, plan, jnp.asarray(SAVES))


def run(modules, initial, events, plan):
    """Models of the same modules share a program: their parameters are arrays, and missing fields are given as zeros."""
    model = Model(TISSUE, modules)
    initial = {f.name: initial.get(f.name, jnp.zeros(12)) for f in model.fields}
    return _run(model, initial, events, plan)


def plan_of(modules, dt=0.25, events=NONE):
    plan = make_plan(Model(TISSUE, modules), Schedule((events,)), SAVES, dt)
    return replace(plan.padded_to(3, 48), padded=True)


def uniform(value):
    return {"carriers": jnp.full(12, value)}


# -- equations -------------------------------------------------------------------------------------


def test_what_is_left_of_the_response_in_and_between_windows():
    rows = [(2.0, 5.0, 0.8), (4.0, 6.0, 0.5), (3.0, 3.0, 0.9), (1.0, 8.0, 0.0), (7.0, 8.0, 1.0)]
    w = windows(*rows)
    starts = jnp.array([0.0, 2.0, 4.0, 5.0, 6.0, 7.0])
    left = jax.vmap(w.left)(starts, jnp.array([2.0, 2.0, 1.0, 1.0, 1.0, 1.0]))
    np.testing.assert_allclose(left, [1.0, 0.2, 0.1, 0.5, 1.0, 0.0], atol=2 * ULP)
    # instants belong to what was before them
    np.testing.assert_allclose(jax.vmap(w.left)(starts, jnp.zeros(6)), [1.0, 1.0, 0.2, 0.1, 0.5, 1.0], atol=2 * ULP)
    assert float(Suppression.none().left(jnp.zeros(()), jnp.ones(()))) == 1.0


def test_constant_clearance_removes_what_the_windows_leave():
    loss, clearance = 0.05, 0.1
    modules = [
        Carriers(loss_per_day=loss, taxis=None),
        ConstantClearance(windows((3.3, 9.1, 0.75), (8.0, 16.0, 0.5)), clearance),
    ]
    seen = 21.0 - 0.75 * 4.7 - 0.875 * 1.1 - 0.5 * 6.9
    exact = 0.4 * np.exp(-loss * 21.0 - clearance * seen)
    errors = []
    for dt in (0.5, 0.25):
        s = run(modules, uniform(0.4), NONE, plan_of(modules, dt)).final.x["carriers"]
        errors.append(abs(float(s[4]) / exact - 1.0))
    assert errors[1] < 1e-3
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.3)


RATES = {
    "clearance_per_day": 0.6, "recruitment_per_day": 0.3, "half_saturation": 0.05, "decay_per_day": 0.15,
    "priming": 2.5, "priming_exposure_cell_days": 1.5e6, "forgetting_per_day": 0.02,
}  # fmt: skip


def primed(w=None, **more):
    return PrimedImmuneResponse(windows() if w is None else w, **(RATES | more))


def test_field_and_memory_follow_their_equations():
    """The same everywhere: a system of ordinary differential equations, integrated piecewise between the windows' edges."""
    edges, factor = [0.0, 4.0, 11.0, 21.0], [1.0, 0.3, 1.0]
    volume = float(TISSUE.grid.integrate(jnp.ones(12)))
    state = np.array([0.3, 0.0, 0.0])
    r = RATES

    for start, stop, left in zip(edges[:-1], edges[1:], factor, strict=True):

        def rhs(t, y, left=left):
            s, level, memory = y
            x = K * volume * memory / r["priming_exposure_cell_days"]
            recruited = r["recruitment_per_day"] * left * (1 + r["priming"] * x / (1 + x)) * s / (0.05 + s)
            return [
                -0.1 * s - r["clearance_per_day"] * level * s,
                recruited - r["decay_per_day"] * level,
                s - r["forgetting_per_day"] * memory,
            ]

        state = solve_ivp(rhs, (start, stop), state, rtol=1e-11, atol=1e-13).y[:, -1]
    modules = [Carriers(loss_per_day=0.1, taxis=None), primed(windows((4.0, 11.0, 0.7)))]
    errors = []
    for dt in (0.25, 0.125):
        x = run(modules, uniform(0.3), NONE, plan_of(modules, dt)).final.x
        errors.append(np.abs([float(x[n][7]) for n in ("carriers", "immune", "immune_memory")] / state - 1.0))
    assert np.max(errors[1]) < 5e-3
    np.testing.assert_allclose(np.log2(np.divide(*errors)), 2.0, atol=0.15)


def test_a_later_dose_is_cleared_faster_only_where_an_earlier_one_has_primed():
    """Two equal doses two weeks apart, the second also to another site than the first."""
    kept = {}
    for name, more in {"naive": {"priming": 0.0}, "primed": {"priming": 5.0}}.items():
        modules = [
            Carriers(taxis=None),
            primed(decay_per_day=1.0, recruitment_per_day=1.0, forgetting_per_day=0.0, **more),
        ]
        both = doses(cells=(2e5, 2e5))
        apart = eqx.tree_at(lambda d: d.sites_mm, both, jnp.array([[[-4.0]], [[4.0]]]))
        for where, events in {"here": both, "elsewhere": apart}.items():
            saved = run(modules, {}, events, plan_of(modules, 0.25, events)).saved["carriers"]
            left = [float(TISSUE.grid.integrate(s)) for s in saved]
            kept[name, where] = left[1] / 2.0, left[3] / (2.0 + left[2])  # a week after either dose
    for where in ("here", "elsewhere"):
        first, second = kept["naive", where]
        assert second == pytest.approx(first, rel=0.05)
        first, second = kept["primed", where]
        assert second < 0.65 * first


def test_the_response_spreads_and_keeps_its_amount():
    modules = [
        Carriers(loss_per_day=0.0, taxis=None),
        ImmuneResponse(windows(), diffusivity_mm2_per_day=0.5, decay_per_day=0.0),
    ]
    start = {"immune": jnp.zeros(12).at[2].set(1.0)}
    level = run(modules, start, NONE, plan_of(modules)).final.x["immune"]
    assert float(TISSUE.grid.integrate(level)) == pytest.approx(1.0, rel=1e-13)
    assert float(level[8]) > 1e-3


# -- strength zero, ledger, positivity, derivatives ------------------------------------------------


def test_no_effect_is_no_module_at_all():
    carriers = Carriers(taxis=None)
    off = [
        ConstantClearance(windows((7.0, 14.0, 0.5)), 0.0),
        primed(clearance_per_day=0.0),
        ConstantClearance(windows((7.0, 14.0, 1.0), (0.0, 7.0, 1.0), (14.0, 21.0, 1.0)), 3.0),  # all suppressed
    ]
    events = doses()
    plan = plan_of([carriers], 0.25, events)
    bare = run([carriers], {}, events, plan).final
    for module in off:
        other = run([carriers, module], {}, events, plan_of([carriers, module], 0.25, events)).final
        np.testing.assert_allclose(other.x["carriers"], bare.x["carriers"], rtol=10 * ULP, atol=0)
        for name, value in bare.ledger.items():
            assert float(sum(other.ledger[name])) == pytest.approx(float(sum(value)), rel=1e-14)


def test_no_priming_is_the_plain_response():
    rates = {k: v for k, v in RATES.items() if k not in ("priming", "priming_exposure_cell_days", "forgetting_per_day")}
    plain = ImmuneResponse(windows((3.0, 9.0, 0.6)), **rates)
    events = doses()
    runs = [
        run([Carriers(taxis=None), m], {}, events, plan_of([Carriers(taxis=None), m], 0.25, events)).final.x
        for m in (plain, primed(windows((3.0, 9.0, 0.6)), priming=0.0))
    ]
    for name in ("carriers", "immune"):
        np.testing.assert_allclose(runs[1][name], runs[0][name], rtol=10 * ULP, atol=0)
    assert float(runs[1]["immune_memory"].max()) > 0


@pytest.mark.parametrize(
    "module",
    [ConstantClearance(windows(), 4.0), primed(clearance_per_day=1.0, diffusivity_mm2_per_day=2.0)],
    ids=["constant", "field"],
)
def test_the_ledger_closes_and_nothing_turns_negative_at_the_longest_step(module):
    modules = [Carriers(2.0, 1.0, taxis=None), module]
    model = Model(TISSUE, modules)
    alone = Model(TISSUE, modules[:1]).largest_steps()["carriers"]
    most = 4.0 if len(module.fields) == 0 else 1.0 * 3.5 * RATES["recruitment_per_day"] / RATES["decay_per_day"]
    assert 1 / model.largest_steps()["carriers"] == pytest.approx(1 / alone + most, rel=1e-12)
    start = {"carriers": jnp.zeros(12).at[5].set(1.0)}
    start |= {"immune": jnp.zeros(12).at[5].set(7.0)} if module.fields else {}
    events = doses((0.0, 7.3))
    after = run(modules, start, events, plan_of(modules, model.largest_step(), events)).final
    entries = balances(model, (events,))
    assert "carrier_clearance" in entries["carriers"]
    for field, signs in entries.items():
        assert float(after.x[field].min()) >= 0.0
        gained = float(TISSUE.grid.integrate(after.x[field]) - TISSUE.grid.integrate(start.get(field, jnp.zeros(12))))
        booked = [sign * float(sum(after.ledger[name])) for name, sign in signs.items()]
        assert gained == pytest.approx(sum(booked), abs=1e-13 * max(1.0, *np.abs(booked)))
    zero, booked = jnp.zeros(()), {name: sum(pair) for name, pair in after.ledger.items()}
    seen = model["immune"].look(after.x, {}, model.context(module, model.prepare(), zero, zero), booked)
    assert set(seen) == {o.name for o in module.scalars}
    assert float(seen["immune_cleared_cells"]) == pytest.approx(K * float(booked["carrier_clearance"]))
    if module.fields:
        assert 1.0 < float(seen["immune_priming"]) < 3.5


def test_the_taylor_remainder_is_of_second_order():
    """In rates, in doses and their days (one of them a save day), and in windows of suppression."""
    theta = {
        "rates": jnp.array([*RATES.values(), 0.1]) / jnp.array([1, 1, 1, 1, 1, 1e6, 1, 1]),
        "windows": jnp.array([[2.0, 9.5, 0.7], [13.0, 17.0, 0.4], [16.0, 19.0, 0.2]]),
        "days": jnp.array([0.5, 14.0]), "cells": jnp.array([1.0, 1.5]),
    }  # fmt: skip

    def modules(theta):
        *rates, diffusivity = theta["rates"]
        named = dict(zip(RATES, rates, strict=True))
        named["priming_exposure_cell_days"] *= 1e6
        return [Carriers(taxis=None), PrimedImmuneResponse(
            Suppression(*theta["windows"].T), **named, diffusivity_mm2_per_day=diffusivity)]  # fmt: skip

    def goal(theta, plan):
        end = run(modules(theta), {}, doses(theta["days"], 1e5 * theta["cells"]), plan).final.x
        return jnp.sum(end["carriers"]) * 10 + jnp.sum(end["immune"] ** 2)

    plan = plan_of(modules(theta), 0.5, doses(theta["days"]))
    derived = jax.jit(jax.value_and_grad(goal))
    value, slope = derived(theta, plan)
    along = {
        "rates": jnp.array([0.1, -0.05, 0.004, 0.03, 0.5, -0.3, 0.01, 0.05]),
        "windows": jnp.array([[0.1, -0.2, 0.1], [0.1, 0.2, -0.1], [-0.1, 0.1, 0.1]]),
        "days": jnp.array([0.1, -0.1]), "cells": jnp.array([0.2, -0.3]),
    }  # fmt: skip
    assert all(np.all(np.asarray(v) != 0) for v in jax.tree.leaves(slope))
    total = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(along), strict=True))
    eps = 2.0 ** -np.arange(2, 8)
    moved = [jax.tree.map(lambda t, d, e=e: t + e * d, theta, along) for e in eps]
    rest = [float(derived(t, plan)[0] - value) - e * total for t, e in zip(moved, eps, strict=True)]
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
[immune]
"""
WINDOW = "suppression = [{ start_day = 1.0, end_day = 3.0, fraction = 0.5 }]\n"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("", ImmuneResponse),
        ("priming = 2.0", PrimedImmuneResponse),
        ("kind = 'constant'\nclearance_per_day = 0.1", ConstantClearance),
    ],
)
def test_sections_make_the_module_they_name(line, kind):
    arm = loads(TEXT + WINDOW + line).arms[0]
    assert from_json(arm.to_json()) == arm
    module = next(m for m in modules_of(arm, jnp.float64, {"immune.suppression": 3}) if m.name == "immune")
    assert type(module) is kind
    np.testing.assert_array_equal(module.suppression.fraction, [0.5, 0.0, 0.0])
    assert arm.immune.rows() == {"suppression": 1}
    assert arm.immune.tables()["immunosuppression"]["end_day"] == [3.0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("kind = 'constant'\npriming = 2.0", "immune: kind = 'constant' has no priming"),
        ("kind = 'felid'", "immune.kind: should be 'field' or 'constant'"),
        ("decay_per_day = 0.0", "immune.decay_per_day: should be greater than or equal to 0.000001"),
        (WINDOW.replace("3.0", "0.5"), "immune.suppression[0]: end_day must come after start_day"),
        (WINDOW.replace("0.5 }", "1.5 }"), "immune.suppression[0].fraction: should be less than or equal to 1"),
        (WINDOW.replace("1.0", "4.0").replace("3.0", "6.0"), "immune.suppression[0]: day 4 is not before"),
        ("supression = []", "immune.supression: unknown key; did you mean 'suppression'?"),
    ],
)
def test_wrong_sections_are_told_in_one_sentence(line, message):
    with pytest.raises(ConfigError) as error:
        loads(TEXT + line)
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]


def test_a_response_needs_carriers():
    with pytest.raises(ConfigError, match=r"immune: needs the section \[carriers\]"):
        loads(TEXT.replace('[carriers]\ntaxis = { kind = "none" }\n', ""))
