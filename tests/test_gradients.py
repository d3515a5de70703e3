"""Derivatives of a whole treated run, batches of patients, and runs without treatment."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.biology.attractant import Attractant
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug
from glioma_pde.biology.laws import FluxLimited, Hill
from glioma_pde.biology.prodrug import Boluses, Courses, Prodrug
from glioma_pde.biology.tumour import Tumour
from glioma_pde.delivery import CarrierDoses, Schedule, gaussian
from glioma_pde.model import Model
from glioma_pde.schedule import make_plan, stack
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

TISSUE = Tissue.phantom("head", (20, 18), 1.0)
SAVES = (0.0, 8.0, 16.0)
TOLERANCE = 1e-13

THETA = {
    "D_w": 0.13, "rho": 0.05, "speed": 0.27, "loss": 0.21,
    "cells": np.array([4e5, 2e5]), "day": np.array([0.7, 8.0]),  # the second one is a save day
    "site": np.array([[[3.1, 0.3], [-2.2, 1.4]], [[0.4, 2.3], [1.2, -3.1]]]),
    "sigma": np.array([[1.5, 1.5], [2.0, 1.0]]),
    "start": np.array([1.2, 7.3]), "end": np.array([4.6, 12.1]), "rate": np.array([150.0, 120.0]),
    "ic50": 5.0, "n": 1.6, "emax": 0.35,
}  # fmt: skip
THETA = {name: jnp.asarray(np.asarray(value, float)) for name, value in THETA.items()}


def build(theta):
    courses = Courses(theta["start"], theta["end"], theta["rate"])
    modules = [
        Tumour(theta["D_w"], 0.2 * theta["D_w"], theta["rho"]),
        Carriers(loss_per_day=theta["loss"], drug_sensitivity=0.1, taxis=FluxLimited(theta["speed"])),
        Attractant(tolerance=TOLERANCE),
        Prodrug(courses, Boluses(jnp.zeros(1), jnp.zeros(1))),
        Drug(kill=Hill(theta["emax"], theta["ic50"], theta["n"]), tolerance=TOLERANCE),
    ]
    doses = CarrierDoses(
        theta["day"], theta["cells"], jnp.full(2, 0.71), theta["site"], theta["sigma"], jnp.full((2, 2), 0.5)
    )
    return Model(TISSUE, modules), Schedule((doses,))


def plan_of(theta):
    return make_plan(*build(theta), SAVES, 0.5)


START = 0.9 * gaussian(TISSUE.grid, jnp.array([1.0, 0.5]), jnp.asarray(2.5))


def final(theta, plan):
    model, schedule = build(theta)
    return solve(model, schedule, {"tumour": START}, plan, jnp.asarray(SAVES)).final


full = eqx.filter_jit(final)
slopes_of = eqx.filter_jit(jax.grad(lambda theta, plan: TISSUE.grid.integrate(final(theta, plan).x["tumour"])))


def burden(theta, plan):
    return float(TISSUE.grid.integrate(full(theta, plan).x["tumour"]))


def dot(a, b):
    return sum(float(jnp.vdot(x, y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def entries():
    for name, value in THETA.items():
        for index in np.ndindex(value.shape):
            yield pytest.param(name, index, id=f"{name}{list(index) or ''}")


@pytest.fixture(scope="module")
def plan():
    return plan_of(THETA)


@pytest.fixture(scope="module")
def slopes(plan):
    return slopes_of(THETA, plan)


@pytest.mark.parametrize(("name", "index"), list(entries()))
def test_the_gradient_of_the_burden_agrees_with_central_differences(plan, slopes, name, index):
    """For diffusivity, growth, doses, needle positions and widths, event days, course edges and the drug's law."""
    value = float(THETA[name][index])
    h = 1e-4 * max(abs(value), 1.0) if name in ("day", "start", "end", "site") else 1e-4 * value

    def moved(by):
        return burden(THETA | {name: THETA[name].at[index].add(by)}, plan)

    if name == "day" and value in SAVES:  # the plan has the dose after the save: look ahead only
        difference = (4.0 * moved(h) - moved(2 * h) - 3.0 * moved(0.0)) / (2 * h)
    else:
        difference = (moved(h) - moved(-h)) / (2 * h)
    found = float(slopes[name][index])
    assert found != 0.0
    # the truncation error of the difference is of the order h² = 1e-8
    assert found == pytest.approx(difference, rel=1e-6)


def test_the_taylor_remainder_is_of_second_order(plan, slopes):
    rng = np.random.default_rng(3)
    scale = {"day": 0.1, "start": 0.1, "end": 0.1, "site": 0.5}
    along = {k: jnp.asarray(scale.get(k, 0.2 * v) * rng.uniform(-1, 1, v.shape)) for k, v in THETA.items()}
    base, slope = burden(THETA, plan), dot(slopes, along)
    eps = 2.0 ** -np.arange(2, 9)
    rest = [burden(jax.tree.map(lambda a, d, e=e: a + e * d, THETA, along), plan) - base - e * slope for e in eps]
    orders = np.log2(np.abs(np.array(rest[:-1]) / np.array(rest[1:])))
    assert np.all(orders >= 1.95), orders


def patients(count):
    """Patients who differ in every parameter, event day and course."""
    rng = np.random.default_rng(11)
    for _ in range(count):
        day = np.array([rng.uniform(0, 3), rng.uniform(5, 12)])
        yield {k: jnp.asarray(v * rng.uniform(0.8, 1.25, v.shape)) for k, v in THETA.items()} | {
            "day": jnp.asarray(day),
            "start": jnp.asarray(day + 1.0),
            "end": jnp.asarray(day + np.array([rng.uniform(2, 4), rng.uniform(2, 4)])),
        }


def test_eight_patients_in_a_batch_equal_a_loop():
    thetas = list(patients(8))
    plans = [plan_of(theta) for theta in thetas]
    assert len({p.lower.shape[1] for p in plans}) > 1  # they do need different tables
    plans = stack(plans)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *thetas)
    together = eqx.filter_jit(jax.vmap(final))(batch, plans)
    for k, theta in enumerate(thetas):
        one = full(theta, jax.tree.map(lambda leaf, k=k: leaf[k], plans))
        for field, value in one.x.items():
            most = float(jnp.abs(value).max())
            np.testing.assert_allclose(together.x[field][k], value, rtol=0, atol=1e-12 * most)
        for name, (total, rest) in one.ledger.items():
            assert float(sum(x[k] for x in together.ledger[name])) == pytest.approx(float(total + rest), rel=1e-12)


# -- no treatment --------------------------------------------------------------------------------


def test_a_dose_of_nothing_is_no_treatment_to_the_last_bit(plan):
    nothing = full(THETA | {"cells": jnp.zeros(2)}, plan)
    untreated = full(THETA, eqx.tree_at(lambda p: p.events, plan, tuple(-jnp.ones_like(e) for e in plan.events)))
    for name in nothing.x:
        assert np.array_equal(nothing.x[name], untreated.x[name]), name
    assert np.all(np.asarray(nothing.x["carriers"]) == 0)
    # and it is what the tumour does alone
    model, _schedule = build(THETA)
    alone = Model(TISSUE, [model["tumour"]])
    u = eqx.filter_jit(solve)(
        alone, Schedule(), {"tumour": START}, make_plan(alone, Schedule(), SAVES, 0.5), jnp.asarray(SAVES)
    )
    # its plan has other steps: equal to the error of the step, dt² here
    assert float(TISSUE.grid.integrate(u.final.x["tumour"])) == pytest.approx(
        float(TISSUE.grid.integrate(nothing.x["tumour"])), rel=1e-4
    )


def test_the_gradient_at_no_dose_is_that_of_the_first_cells(plan):
    # without taxis: the limiter, which is homogeneous of degree one, has no derivative where s = 0 everywhere
    none = THETA | {"cells": jnp.zeros(2), "n": jnp.ones(()), "speed": jnp.zeros(())}
    slope = slopes_of(none, plan)["cells"]
    h = 1.0  # cell, of 1e5 in a cubic millimetre
    for k in range(2):
        ahead = (burden(none | {"cells": jnp.zeros(2).at[k].set(h)}, plan) - burden(none, plan)) / h
        assert ahead < 0
        assert float(slope[k]) == pytest.approx(ahead, rel=1e-3)
