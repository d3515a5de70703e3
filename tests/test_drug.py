"""Prodrug and drug: plasma kinetics, conversion, mole balance, kill laws."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug, micromolar_per_day
from glioma_pde.biology.laws import Hill, Linear
from glioma_pde.biology.prodrug import Boluses, Courses, Prodrug
from glioma_pde.biology.tumour import Tumour
from glioma_pde.model import Model
from glioma_pde.tissue import Tissue

NO_COURSES = Courses(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))
NO_BOLUSES = Boluses(jnp.zeros(1), jnp.zeros(1))
COURSES = Courses(jnp.array([1.0, 3.25]), jnp.array([2.5, 6.0]), jnp.array([100.0, 40.0]))
BOLUSES = Boluses(jnp.array([2.0]), jnp.array([30.0]))


@eqx.filter_jit
def means(prodrug, t, dt):
    """Mean concentrations over [t, t + dt], for arrays of t and dt."""
    return jax.vmap(prodrug.plasma)(t, dt)


def grid_of(step, last=8.0):
    return jnp.asarray(np.arange(0.0, last, step)), jnp.full(round(last / step), step)


# -- plasma --------------------------------------------------------------------------------------


def runge_kutta(prodrug, nodes, step=1e-3):
    """Means of P between consecutive nodes from P' = input − k P by RK4, with ∫P as a second unknown."""
    k = float(prodrug.elimination_per_day())
    to_uM = 1e3 * 0.85 / (0.78 * 129.09)
    start, end, rate = (np.asarray(a) for a in (COURSES.start_day, COURSES.end_day, COURSES.dose_mg_per_kg_per_day))
    marks = np.unique(np.concatenate([nodes, start, end, np.asarray(BOLUSES.day)]))
    marks = marks[(marks >= nodes[0]) & (marks <= nodes[-1])]
    y, areas = np.zeros(2), {marks[0]: 0.0}
    for a, b in itertools.pairwise(marks):
        y[0] += to_uM * float(np.sum(np.where(np.asarray(BOLUSES.day) == a, np.asarray(BOLUSES.dose_mg_per_kg), 0.0)))
        dose = to_uM * float(np.sum(rate[(start <= a) & (a < end)]))

        def f(y, dose=dose):
            return np.array([dose - k * y[0], y[0]])

        n = max(1, int(np.ceil((b - a) / step)))
        h = (b - a) / n
        for _ in range(n):
            k1 = f(y)
            k2 = f(y + 0.5 * h * k1)
            k3 = f(y + 0.5 * h * k2)
            y = y + h / 6.0 * (k1 + 2 * k2 + 2 * k3 + f(y + h * k3))
        areas[b] = y[1]
    area = np.array([areas[v] for v in nodes])
    return np.diff(area) / np.diff(nodes)


def test_means_agree_with_the_integrated_equation_whatever_the_steps_cut():
    prodrug = Prodrug(COURSES, BOLUSES)
    # steps that end on every edge, steps that end on none, and one long step over everything
    for nodes in (
        np.arange(0.0, 8.01, 0.25),
        np.array([0.0, 0.9, 1.7, 2.2, 3.0, 4.4, 5.9, 7.1, 8.0]),
        np.array([0.0, 8.0]),
    ):
        found = means(prodrug, jnp.asarray(nodes[:-1]), jnp.asarray(np.diff(nodes)))
        np.testing.assert_allclose(found, runge_kutta(prodrug, nodes), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("half_life_h", [0.12, 4.5, 400.0])
def test_means_are_continuous_in_the_step_and_tend_to_the_value(half_life_h):
    prodrug = Prodrug(COURSES, BOLUSES, half_life_h)
    t = jnp.asarray([0.5, 1.0, 1.2, 2.0, 2.4, 2.5, 3.0, 4.0, 6.0, 7.5])
    value = np.asarray(means(prodrug, t, 0.0 * t))
    k = float(prodrug.elimination_per_day())
    for dt in (1e-3, 1e-6, 1e-9):
        near = np.asarray(means(prodrug, t, dt + 0.0 * t))
        # |P'| ≤ k P_max + input
        assert np.abs(near - value).max() <= dt * (k * 400.0 + 2000.0)
    # means add up: a step is the mean of its halves
    whole, first, second = (
        means(prodrug, a, b) for a, b in ((t, 0.2 + 0 * t), (t, 0.1 + 0 * t), (t + 0.1, 0.1 + 0 * t))
    )
    np.testing.assert_allclose(whole, 0.5 * (first + second), rtol=1e-12, atol=1e-12 * float(value.max()))


def test_concentrations_superpose_and_scale_with_dose():
    t, dt = grid_of(0.25)
    both = means(Prodrug(COURSES, BOLUSES), t, dt)
    apart = means(Prodrug(COURSES, NO_BOLUSES), t, dt) + means(Prodrug(NO_COURSES, BOLUSES), t, dt)
    np.testing.assert_allclose(both, apart, rtol=1e-13)
    twice = means(
        Prodrug(
            eqx.tree_at(lambda c: c.dose_mg_per_kg_per_day, COURSES, 2 * COURSES.dose_mg_per_kg_per_day), NO_BOLUSES
        ),
        t,
        dt,
    )
    np.testing.assert_allclose(twice, 2 * means(Prodrug(COURSES, NO_BOLUSES), t, dt), rtol=1e-13)
    # one course equals its two halves
    halves = Courses(jnp.array([1.0, 1.7]), jnp.array([1.7, 2.5]), jnp.array([100.0, 100.0]))
    whole = Courses(jnp.array([1.0, 0.0]), jnp.array([2.5, 0.0]), jnp.array([100.0, 0.0]))
    np.testing.assert_allclose(
        means(Prodrug(halves, NO_BOLUSES), t, dt), means(Prodrug(whole, NO_BOLUSES), t, dt), rtol=1e-12
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_nothing_before_the_first_dose_and_never_below_zero(dtype):
    def cast(tree):
        return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)

    t, dt = cast(grid_of(0.1))
    for half_life in (0.05, 4.5, 1e4):
        p = means(Prodrug(cast(COURSES), cast(BOLUSES), jnp.asarray(half_life, dtype)), t, dt)
        assert np.all(np.asarray(p)[:9] == 0.0)
        assert p.min() >= 0.0
        assert p.dtype == dtype


def test_long_courses_reach_the_textbook_steady_state():
    courses = Courses(jnp.zeros(1), jnp.array([100.0]), jnp.array([150.0]))
    level = float(Prodrug(courses, NO_BOLUSES).plasma(jnp.asarray(50.0), jnp.asarray(0.5)))
    # F·dose/(V M k), with k = ln 2/4.5 h
    assert level == pytest.approx(0.85 * 150.0 / (0.78 * 129.09) * 1e3 / (np.log(2) * 24 / 4.5), rel=1e-12)
    # and a bolus starts from F·dose/(V M)
    bolus = Prodrug(NO_COURSES, Boluses(jnp.array([1.0]), jnp.array([30.0])))
    assert float(bolus.plasma(jnp.asarray(1.0), jnp.asarray(0.0))) == pytest.approx(
        0.85 * 30e3 / (0.78 * 129.09), rel=1e-12
    )


def test_edges_of_courses_are_differentiable_also_where_a_step_ends_on_them():
    @jax.jit
    def area(edge):
        courses = Courses(jnp.array([0.0, 2.0]) + edge, jnp.array([0.0, 5.0]), jnp.array([0.0, 100.0]))
        t, dt = grid_of(0.5)
        return jnp.sum(dt * jax.vmap(Prodrug(courses, NO_BOLUSES).plasma)(t, dt))

    edge = jnp.asarray(0.0)  # day 2 is a step's end
    central = (area(edge + 1e-5) - area(edge - 1e-5)) / 2e-5
    assert float(jax.jit(jax.grad(area))(edge)) == pytest.approx(float(central), rel=1e-6)


# -- brain ---------------------------------------------------------------------------------------


def model(dtype=None, carriers=True, **prodrug):
    tissue = Tissue.phantom("head", (16, 14), 1.0, dtype=dtype)
    parts = {"courses": Courses(jnp.zeros(1), jnp.array([20.0]), jnp.array([150.0])), "boluses": NO_BOLUSES} | prodrug
    drug = Drug(efflux_per_day=3.0, uptake_per_day=20.0, secretion_mol_per_cell_per_day=1e-15, tolerance=1e-12)
    return Model(tissue, [Tumour(), Carriers(taxis=None), Prodrug(**parts), drug])


def fields(m):
    inside = m.tissue.mask
    rng = np.random.default_rng(0)
    tumour, carriers = rng.random(inside.shape), rng.random(inside.shape) ** 8
    return {"tumour": jnp.asarray(tumour * inside), "carriers": jnp.asarray(carriers * inside)}


@eqx.filter_jit
def quantities(m, x, t=1.25, dt=0.5):
    warm = {"drug": jnp.zeros(m.tissue.grid.shape, m.tissue.white.dtype)}
    return m.quantities(x, warm, m.prepare(), jnp.asarray(t), jnp.asarray(dt))


def test_prodrug_that_enters_the_brain_is_converted_mole_for_mole():
    m = model()
    q = quantities(m, fields(m))
    prodrug, inside = m["prodrug"], np.asarray(m.tissue.mask)
    entering = prodrug.exchange_per_day * (prodrug.brain_plasma_ratio * q["prodrug_plasma"] - q["prodrug"])
    scale = float(prodrug.exchange_per_day * prodrug.brain_plasma_ratio * q["prodrug_plasma"])
    np.testing.assert_allclose(np.asarray(entering)[inside], np.asarray(q["conversion"])[inside], atol=1e-12 * scale)
    # conversion obeys Michaelis and Menten: V_max K s p/(K_m + p)
    rate = 3.2e-13 * 1e5 * 1e12 * fields(m)["carriers"] * q["prodrug"] / (800.0 + q["prodrug"])
    np.testing.assert_allclose(q["conversion"], rate, rtol=1e-12)
    assert np.all(np.asarray(q["prodrug"])[~inside] == 0)


def test_drug_released_equals_drug_lost():
    m = model()
    x = fields(m)
    q = quantities(m, x)
    integrate = m.tissue.grid.integrate
    released = integrate(q["drug_source"])
    lost = integrate((83.0 + 3.0 + 20.0 * x["tumour"]) * q["drug"])  # decay, efflux, uptake
    assert float(lost) == pytest.approx(float(released), rel=1e-11)
    # released by the carriers themselves, and from the prodrug
    own = integrate(x["carriers"]) * micromolar_per_day(1e-15, 1e5)
    assert float(released) == pytest.approx(float(own + integrate(q["conversion"])), rel=1e-12)


def test_moles_agree_over_a_whole_run_by_the_ledger():
    m = model()

    @eqx.filter_jit
    def run(m):
        medium = m.prepare()

        def step(i, c):
            return m.step(c, medium, i * 0.5, jnp.asarray(0.5))

        return jax.lax.fori_loop(0, 8, step, m.start(fields(m)))

    end = run(m)
    amount = {name: float(sum(pair)) for name, pair in end.ledger.items()}
    exposure = amount["drug_exposure_tumour"] + amount["drug_exposure_healthy"]
    assert amount["drug_decay"] == pytest.approx((83.0 + 3.0) * exposure, rel=1e-12)
    assert amount["drug_uptake"] > 0.01 * amount["drug_decay"]
    assert amount["drug_released"] == pytest.approx(amount["drug_decay"] + amount["drug_uptake"], rel=1e-11)
    # every molecule of prodrug that enters becomes one of drug, beside those that the carriers release by themselves
    assert amount["prodrug_entered"] == pytest.approx(amount["prodrug_converted"], rel=1e-11)
    assert 0 < amount["prodrug_converted"] < amount["drug_released"]


def test_few_carriers_leave_the_prodrug_at_its_partition():
    m = model()
    x = fields(m) | {"carriers": jnp.asarray(1e-9 * np.asarray(m.tissue.mask))}
    q = quantities(m, x)
    supply = float(m["prodrug"].brain_plasma_ratio * q["prodrug_plasma"])
    inside = np.asarray(m.tissue.mask)
    np.testing.assert_allclose(np.asarray(q["prodrug"])[inside], supply, rtol=1e-8)
    held = quantities(model(depletable=False), fields(m))
    np.testing.assert_allclose(np.asarray(held["prodrug"])[inside], supply, rtol=1e-14)


def test_conversion_never_exceeds_what_the_plasma_supplies():
    supplies, converted = [], []
    for vmax in (1e-13, 1e-11, 1e-7, 1e-3):
        m = model(vmax_mol_per_cell_per_day=jnp.asarray(vmax))
        x = fields(m) | {"carriers": jnp.asarray(1.0 * np.asarray(m.tissue.mask))}
        q = quantities(m, x)
        supplies.append(float(17.0 * 0.75 * q["prodrug_plasma"]))
        converted.append(float(q["conversion"].max()))
        assert q["prodrug"].min() >= 0
    assert np.all(np.diff(converted) > 0)
    assert np.all(np.array(converted) <= np.array(supplies) * (1 + 1e-12))
    assert converted[-1] == pytest.approx(supplies[-1], rel=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_no_prodrug_and_no_release_is_exactly_no_drug(dtype):
    m = model(dtype, courses=Courses(jnp.array([5.0]), jnp.array([9.0]), jnp.array([150.0])))
    m = eqx.tree_at(lambda m: m["drug"].secretion_mol_per_cell_per_day, m, jnp.zeros((), dtype))
    x = {k: v.astype(dtype) for k, v in fields(m).items()}
    q = quantities(m, x, jnp.asarray(1.0, dtype), jnp.asarray(0.5, dtype))
    for name in ("prodrug", "conversion", "drug", "kill_rate"):
        assert np.all(np.asarray(q[name]) == 0), name


def test_a_prodrug_that_has_left_makes_no_drug():
    """10 days after a course 1e-13 µM is left, which no solve is worth; the drug before that is not touched."""
    course = Courses(jnp.zeros(1), jnp.array([2.0]), jnp.array([150.0]))
    tissue = model().tissue
    ours, exact = (
        Model(tissue, [Tumour(), Carriers(taxis=None), Prodrug(course, NO_BOLUSES), Drug(tolerance=tolerance)])
        for tolerance in (1e-4, 1e-12)
    )
    for day, level in ((3.0, None), (12.0, 0.0)):
        q, r = (quantities(m, fields(m), jnp.asarray(day), jnp.asarray(0.5)) for m in (ours, exact))
        assert r["drug"].max() > 0.0
        assert np.abs(q["drug"] - r["drug"]).max() <= max(1e-8, 1e-3 * float(r["drug"].max()))
        if level is not None:
            assert np.all(q["drug"] == level)


def test_source_strength_follows_the_stated_scale():
    # science: c ≈ q K s × 10¹²/λ_c is 1.2 s µM at q = 1e-15, 120 s µM at 1e-13
    assert micromolar_per_day(1e-15, 1e5) / 83.0 == pytest.approx(1.2, rel=0.01)
    assert micromolar_per_day(1e-13, 1e5) / 83.0 == pytest.approx(120.0, rel=0.01)


# -- bounds that the step relies on ----------------------------------------------------------------


@pytest.mark.parametrize("depletable", [True, False])
def test_the_bound_on_conversion_is_reached_at_twice_the_carrying_capacity_and_not_passed(depletable):
    m = model(courses=COURSES, boluses=BOLUSES, depletable=depletable)

    @eqx.filter_jit
    def both(m, days):
        at = m.context(m["prodrug"], {"prodrug": None}, jnp.zeros(()), jnp.zeros(()))
        dense = {"carriers": jnp.full(m.tissue.grid.shape, 2.0)}

        def found(t):
            return m["prodrug"].quantities(dense, {}, at._replace(t=t))["conversion"].max()

        return m["prodrug"].limits(at, {})["conversion"], jax.lax.map(found, days)

    bound, found = both(m, jnp.arange(0.0, 7.0, 0.05))
    assert 0.99 * bound < found.max() <= bound * (1 + 1e-12)


# -- kill laws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_hill_law_from_below_zero_to_far_beyond_saturation(dtype):
    @jax.jit
    def evaluate(n, c):
        def rate(n, c):
            return Hill(jnp.asarray(0.35, dtype), jnp.asarray(5.0, dtype), n).rate(c)

        by_exponent = jax.grad(lambda n: jnp.sum(rate(n, c)))(n)
        return rate(n, c), jax.vmap(jax.grad(rate, 1), (None, 0))(n, c), by_exponent

    c = jnp.asarray([-1e-3, 0.0, 5.0, 5e6, 1e30], dtype)
    for n in (1.0, 2.5, 20.0):
        rates, slopes, by_exponent = evaluate(jnp.asarray(n, dtype), c)
        np.testing.assert_allclose(rates, [0.0, 0.0, 0.175, 0.35, 0.35], rtol=2e-6)
        assert np.all(np.isfinite(slopes))
        assert np.isfinite(by_exponent)
    moderate = jnp.asarray([0.5, 4.0, 6.0, 50.0], dtype)
    np.testing.assert_allclose(
        Hill(0.35, 5.0, 2.5).rate(moderate), 0.35 * moderate**2.5 / (5.0**2.5 + moderate**2.5), rtol=1e-5
    )


def test_the_first_drug_has_its_full_effect():
    # the derivative at c = 0 is that of c ≥ 0, not half of it
    assert float(jax.grad(Hill(0.35, 5.0, 1.0).rate)(jnp.asarray(0.0))) == pytest.approx(0.07, rel=1e-12)
    assert float(jax.grad(Linear(0.07).rate)(jnp.asarray(0.0))) == pytest.approx(0.07, rel=1e-12)
