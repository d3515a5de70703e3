"""Temozolomide: kinetics against published figures and an integrator, its mean effect over a step, and whole runs."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from glioma_pde.biology.laws import Hill, Linear
from glioma_pde.biology.radiotherapy import Radiotherapy
from glioma_pde.biology.temozolomide import OralDoses, Temozolomide
from glioma_pde.biology.tumour import Tumour
from glioma_pde.config import loads
from glioma_pde.config.regimens import radiotherapy, temozolomide
from glioma_pde.delivery import Schedule
from glioma_pde.errors import ConfigError
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

ULP = np.finfo(float).eps
TISSUE = Tissue.phantom("box", (12,), 1.0)
DAYS, DOSES = np.array([0.0, 1.0, 1.3]), np.array([200.0, 150.0, 75.0])


def drug_of(days=DAYS, doses=DOSES, **more):
    return Temozolomide(OralDoses(jnp.asarray(days, float), jnp.asarray(doses, float)), **more)


@eqx.filter_jit
def levels(drug, t, dt):
    """Plasma, CSF and kill rate at many instants, or over many steps."""
    return jax.vmap(lambda t, dt: (drug.plasma(t, dt), drug.csf(t, dt), drug.kill_rate(t, dt)))(t, dt)


def instants(drug, t):
    return [np.asarray(v) for v in levels(drug, jnp.asarray(t), jnp.zeros(len(t)))]


# -- kinetics --------------------------------------------------------------------------------------


def test_published_half_life_and_csf_exposure():
    """Half-life 2.1 h; area under the CSF curve 0.20 of that under the plasma curve (Ostermann et al. 2004)."""
    one = drug_of([0.0], [200.0])
    hours = np.array([16.0, 18.1])
    plasma, csf, _ = instants(one, hours / 24.0)
    half_life = (hours[1] - hours[0]) * np.log(2.0) / np.log(plasma[0] / plasma[1])
    assert half_life == pytest.approx(2.10, abs=0.005)
    whole = [float(v[0]) for v in levels(one, jnp.zeros(1), jnp.full(1, 60.0))[:2]]
    assert whole[1] / whole[0] == pytest.approx(0.20, abs=0.005)
    # the area under the plasma curve is dose/clearance
    assert 60.0 * 24.0 * whole[0] == pytest.approx(200.0 * 1.8 / 10.0 * 1e3 / 194.15, rel=1e-9)
    # highest levels, in the places that the rates say
    t = np.linspace(0.0, 0.5, 5001)
    plasma, csf, _ = instants(one, t)
    assert 24.0 * t[plasma.argmax()] == pytest.approx(np.log(5.8 / 0.33) / (5.8 - 0.33), abs=0.01)
    assert 2.0 < 24.0 * t[csf.argmax()] < 2.6


def test_levels_are_those_of_the_differential_equations():
    drug = drug_of()
    a, e, x = 5.8 * 24, 10.0 / 30.3 * 24, 0.76 * 24
    unit = 1e3 * 1.8 / (30.3 * 194.15)

    def rhs(t, y):
        return [-a * y[0], a * y[0] - e * y[1], x * (0.2 * y[1] - y[2]), y[1], y[2]]

    state, edges, found = np.zeros(5), [*DAYS, 2.5], {}
    for start, stop, dose in zip(edges[:-1], edges[1:], DOSES, strict=True):
        state[0] += unit * dose
        at = np.linspace(start, stop, 7)[1:]
        path = solve_ivp(rhs, (start, stop), state, t_eval=at, rtol=1e-11, atol=1e-12, method="LSODA").y
        found |= {t: path[1:, i] for i, t in enumerate(at)}
        state = path[:, -1].copy()
    t = np.array(list(found))
    exact = np.array(list(found.values())).T
    scale = exact[:2].max(axis=1)[:, None]
    plasma, csf, _ = instants(drug, t)
    np.testing.assert_allclose([plasma, csf] / scale, exact[:2] / scale, atol=2e-9)
    # means over steps, a dose inside of one of them included
    means = np.array(levels(drug, jnp.asarray(t[:-1]), jnp.asarray(np.diff(t)))[:2])
    np.testing.assert_allclose(means / scale, np.diff(exact[2:]) / np.diff(t) / scale, atol=1e-8)


def test_nothing_before_the_first_dose_and_never_less_than_nothing():
    drug = drug_of()
    assert all(np.all(v == 0) for v in instants(drug, [-3.0, -1e-9]))
    assert all(float(v[0]) == 0 for v in levels(drug, jnp.array([-2.0]), jnp.array([1.5])))
    t = np.concatenate([np.geomspace(1e-7, 3.0, 200), 1.0 + np.geomspace(1e-7, 0.2, 50)])
    plasma, csf, kill = instants(drug, np.sort(t))
    assert min(plasma.min(), csf.min() + 1e-14 * csf.max(), kill.min()) >= 0
    with jax.enable_x64(False):
        low = drug_of(DAYS.astype(np.float32), DOSES.astype(np.float32))
        values = levels(low, jnp.asarray(np.sort(t), jnp.float32), jnp.full(t.size, 0.25, jnp.float32))
    assert all(v.dtype == jnp.float32 and float(v.min()) >= -1e-5 * float(v.max()) for v in values)


@pytest.mark.parametrize(("kill", "tolerance"), [(Hill(0.35, 5.0, 1.0), 1e-6), (Hill(2.0, 1.0, 3.0), 1e-4)])
@pytest.mark.parametrize("dt", [0.05, 0.5])
def test_the_effect_over_a_step_is_its_mean_over_the_course_of_the_level(kill, tolerance, dt):
    drug = drug_of(kill=kill)
    starts = np.array([0.0, 0.4, 1.3, 1.8])
    found = np.asarray(levels(drug, jnp.asarray(starts), jnp.full(4, dt))[2])
    fine = (np.arange(4000) + 0.5) / 4000 * dt
    exact = [np.asarray(kill.rate(jnp.asarray(instants(drug, s + fine)[1]))).mean() for s in starts]
    np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance * float(kill.emax_per_day))
    at_mean = np.asarray(kill.rate(levels(drug, jnp.asarray(starts), jnp.full(4, dt))[1]))
    assert dt < 0.1 or np.abs(at_mean - exact).max() > 10 * tolerance  # which is not the effect of the mean


def test_the_linear_law_is_exact():
    drug = drug_of(kill=Linear(0.07))
    _, csf, kill = levels(drug, jnp.array([0.0, 1.3]), jnp.array([0.5, 0.5]))
    np.testing.assert_allclose(kill, 0.07 * csf, rtol=1e-15)
    # and bounded by the level of doses absorbed at once
    most = float(
        drug.hazard_bounds(
            Model(TISSUE, [Tumour()]).context(Tumour(), {"tumour": None}, jnp.zeros(()), jnp.zeros(())), {}
        )[0].rate
    )
    peak = 0.07 * instants(drug, np.linspace(0, 2, 4001))[1].max()
    assert peak < most < 5 * peak


# -- whole runs ------------------------------------------------------------------------------------

SAVES = (0.0, 1.0, 3.0)


@eqx.filter_jit
def end(modules, plan):
    model = Model(TISSUE, modules)
    return solve(model, Schedule(), {"tumour": jnp.linspace(0.1, 0.9, 12)}, plan, jnp.asarray(SAVES)).final


def plan_of(modules, dt=0.25):
    return make_plan(Model(TISSUE, modules), Schedule(), SAVES, dt)


def test_without_growth_the_survivors_are_those_of_the_whole_exposure():
    """u falls by exp(−∫E dt), whatever the step: E enters as its mean."""
    drug = drug_of(kill=Linear(0.3))
    total = float(levels(drug, jnp.zeros(1), jnp.full(1, 3.0))[2][0]) * 3.0
    errors = []
    for dt in (0.04, 0.02):
        x = end([Tumour(0.0, 0.0, 0.0), drug], plan_of([Tumour(), drug], dt)).x["tumour"]
        errors.append(abs(float(x[5]) / np.linspace(0.1, 0.9, 12)[5] - np.exp(-total)))
    assert total > 0.3
    assert errors[0] < 1e-3
    assert np.log2(errors[0] / errors[1]) > 1.7


def test_no_dose_is_no_module_at_all():
    # doses on save days, so that the steps are the same
    off = drug_of([0.0, 1.0], [0.0, 0.0])
    plan = plan_of([Tumour(), off])
    np.testing.assert_allclose(
        end([Tumour(), off], plan).x["tumour"], end([Tumour()], plan).x["tumour"], rtol=10 * ULP, atol=0
    )


def test_the_ledger_closes_and_the_step_bound_counts_the_drug():
    drug = drug_of(kill=Hill(4.0, 0.1, 1.0))
    modules = [Tumour(proliferation_per_day=0.5), drug]
    model = Model(TISSUE, modules)
    alone = Model(TISSUE, modules[:1])
    assert 1 / model.largest_step() == pytest.approx(1 / alone.largest_step() + 4.0, rel=1e-12)
    after = end(modules, plan_of(modules, model.largest_step()))
    assert float(after.x["tumour"].min()) >= 0
    start = jnp.linspace(0.1, 0.9, 12)
    signs = balances(model)["tumour"]
    assert signs == {"tumour_growth": 1.0, "temozolomide_kill": -1.0}
    booked = sum(sign * float(sum(after.ledger[name])) for name, sign in signs.items())
    assert float(TISSUE.grid.integrate(after.x["tumour"] - start)) == pytest.approx(booked, abs=1e-13)


def test_the_taylor_remainder_is_of_second_order():
    """In doses, their days (one of them a save day), kinetics and the law of the kill."""
    theta = {
        "day": jnp.array([0.0, 1.0, 1.3]), "dose": jnp.asarray(DOSES), "rates": jnp.array([5.8, 10.0, 30.3, 0.2, 0.76]),
        "law": jnp.array([2.0, 3.0, 1.5]),
    }  # fmt: skip

    def modules(theta):
        kill = Hill(*theta["law"])
        return [Tumour(), Temozolomide(OralDoses(theta["day"], theta["dose"]), *theta["rates"], kill=kill)]

    plan = plan_of(modules(theta))

    def goal(theta, plan):
        return jnp.sum(end(modules(theta), plan).x["tumour"])

    value, slope = jax.jit(jax.value_and_grad(goal))(theta, plan)
    along = {
        "day": jnp.array([0.05, 0.08, -0.06]), "dose": jnp.array([50.0, -40.0, 20.0]),
        "rates": jnp.array([1.0, -2.0, 4.0, 0.05, -0.1]), "law": jnp.array([0.3, -0.5, 0.2]),
    }  # fmt: skip
    assert all(np.all(np.asarray(v) != 0) for v in jax.tree.leaves(slope))
    total = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(along), strict=True))
    eps = 2.0 ** -np.arange(2, 8)
    rest = [float(goal(jax.tree.map(lambda t, d, e=e: t + e * d, theta, along), plan) - value) - e * total for e in eps]
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
[temozolomide]
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("doses = [{ days = [1.0, 4.0], dose_mg_per_m2 = 200 }]", "temozolomide.doses[0]: day 4 is not before"),
        ("doses = [{ dose_mg_per_m2 = 200 }]", "temozolomide.doses[0]: give either days"),
        ("csf_exchange_per_h = 5.8", "temozolomide: absorption_per_h, csf_exchange_per_h"),
        ("schedule = 'stupp'", "temozolomide: schedule and start_day go together"),
        ("schedule = 'stup'\nstart_day = 1", "temozolomide.schedule: should be 'stupp' (it is 'stup')"),
        ("schedule = 'stupp'\nstart_day = 4", "temozolomide.start_day: day 4 is not before time.end_day = 4"),
        ("doses = [{ days = [1.0], dose_mg_per_m2 = 2e4 }]", "dose_mg_per_m2: should be less than or equal to 10000"),
        ("combination = 'blis'", "temozolomide.combination: should be 'additive' or 'bliss'"),
        ("kill = { kind = 'linear', hill = 2.0 }", "temozolomide.kill.hill: unknown key"),
    ],
)
def test_wrong_sections_are_told_in_one_sentence(line, message):
    with pytest.raises(ConfigError) as error:
        loads(TEXT + line)
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]


def test_doses_by_rule_and_by_list_come_in_order():
    rule = "doses = [{ every = { from_day = 0.5, days = 1, count = 2 }, dose_mg_per_m2 = 75 }, "
    section = loads(TEXT + rule + "{ days = [1.0], dose_mg_per_m2 = 200 }]").arms[0].temozolomide
    assert section.single_doses() == [(0.5, 75.0), (1.0, 200.0), (1.5, 75.0)]
    assert section.tables()["temozolomide"]["day"] == [0.5, 1.0, 1.5]


STUPP = """
[temozolomide]
schedule = "stupp"
start_day = 3.0
[radiotherapy]
schedule = "stupp"
start_day = 3.0
"""


def test_the_stupp_schedule_by_name():
    """75 mg/m² on 42 days with 30 fractions, four weeks without, six cycles of 5 days in 28 at 150, then 200 mg/m²."""
    arm = loads(TEXT.replace("[temozolomide]\n", STUPP)).arms[0]
    rows = arm.temozolomide.single_doses()
    assert len(rows) == 42 + 6 * 5
    assert rows[:42] == [(3.0 + i, 75.0) for i in range(42)]
    for cycle in range(6):
        first, dose = 3.0 + 70 + 28 * cycle, 150.0 if cycle == 0 else 200.0
        assert rows[42 + 5 * cycle : 47 + 5 * cycle] == [(first + i, dose) for i in range(5)]
    fractions = arm.radiotherapy.courses()[0][1]
    assert len(fractions) == 30
    assert fractions[-1] == (3.0 + 39, 2.0)  # from the first Monday to the last Friday
    assert fractions[-1][0] < rows[41][0]
    # further doses come on top
    more = loads(TEXT + "schedule = 'stupp'\nstart_day = 3\ndoses = [{ days = [1.0], dose_mg_per_m2 = 9 }]").arms[0]
    assert more.temozolomide.single_doses()[:2] == [(1.0, 9.0), (3.0, 75.0)]


@pytest.mark.parametrize(("start", "more"), [(3.0, 30 * 2), (3.37, 72 * 2)])
def test_daily_doses_cost_few_steps(start, more):
    """Two for each instant of the schedule off the days of observation; two for each fraction that falls on one, which
    its derivative by the day needs."""
    rows = temozolomide("stupp", start)
    drug = drug_of(*np.array(rows).T)
    fractions = Radiotherapy.on_days(*np.array(radiotherapy("stupp", start, "monday")).T)
    model = Model(TISSUE, [Tumour(), drug])
    plan = make_plan(model, Schedule((fractions,)), np.arange(241.0), 0.5)
    assert len(rows) == 72
    assert plan.steps == 240 * 2 + more


def test_many_doses_are_one_program():
    """What is compiled does not grow with their number."""
    sizes = []
    for count in (3, 72):
        modules = [Tumour(), drug_of(np.arange(count) / 72.0, np.full(count, 75.0))]
        step = jax.make_jaxpr(lambda u, m=modules: Model(TISSUE, m).step(*_carry(m, u)).x)(jnp.full(12, 0.5))
        sizes.append(len(str(step).splitlines()))
    assert sizes[0] == sizes[1]


def _carry(modules, u):
    model = Model(TISSUE, modules)
    return model.start({"tumour": u}), model.prepare(), jnp.zeros(()), jnp.asarray(0.5)
