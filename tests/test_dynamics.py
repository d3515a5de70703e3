"""Substances on their own time scale: exact solutions, the quasi-steady limit, positivity, and runs.

Whole runs of them are compared with another integrator in `test_agreement.py`, derivatives in `test_derivatives.py`.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from covering import CASES, SAVES, anatomy, therapy
from test_config import TREATED, only

from glioma_pde.biology.attractant import Attractant, DynamicAttractant
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug, DynamicDrug, micromolar_per_day
from glioma_pde.biology.laws import Hill
from glioma_pde.biology.prodrug import Boluses, Courses, DynamicProdrug, Prodrug
from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build
from glioma_pde.config import loads
from glioma_pde.delivery import Schedule
from glioma_pde.grid import Grid
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.run import run
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

GRID = Grid.cartesian((6, 5), (1.0, 0.8))
K = 1e5


def still(**rates) -> tuple:
    """Tumour and carriers that stay as they are."""
    return (
        Tumour(0.0, 0.0, 0.0),
        Carriers(0.0, 0.0, None, 0.0, tumour_kill_per_day=None, drug_sensitivity=None, taxis=None, **rates),
    )


def errors_of(modules, exact, dts=(0.02, 0.01, 0.005)):
    """Largest errors at day 1 of a homogeneous problem, for each step."""
    white = jnp.ones(GRID.shape)
    tissue = Tissue.from_arrays(white, 0.0 * white, grid=GRID)
    model = Model(tissue, modules, K)
    full = {"tumour": 0.4 * white, "carriers": 0.2 * white}
    initial = full | {name: value * white for name, (value, _) in exact.items()}
    go, found = eqx.filter_jit(solve), []
    for dt in dts:
        x = go(
            model, Schedule(), initial, make_plan(model, Schedule(), [0.0, 1.0], dt), jnp.asarray([0.0, 1.0])
        ).final.x
        found.append({name: float(np.abs(x[name] - end).max() / abs(end)) for name, (_, end) in exact.items()})
    return {name: [f[name] for f in found] for name in exact}


def test_relaxation_is_exponential_and_of_second_order():
    release, decay = 1.3, 1.7
    level = release * 0.4 / decay
    attractant = (0.1, level + (0.1 - level) * np.exp(-decay))
    lost = 2.0 + 0.5 + 1.5 * 0.4
    made = micromolar_per_day(1e-16, K, 0.2) / lost
    drug = (3.0, made + (3.0 - made) * np.exp(-lost))
    # an infusion since day −2 and nothing converted: P has a level and a rest, p follows with k_ex
    k, ke, dose = 4.0, np.log(2.0) * 24 / 6.0, 100.0
    unit = 1e3 * 0.85 / (0.78 * 129.09)
    top, at0 = unit * dose / ke, unit * dose / ke * -np.expm1(-2 * ke)
    force = 0.75 * k * (at0 - top) / (k - ke)
    p = 0.75 * top + force * np.exp(-ke) + (10.0 - 0.75 * top - force) * np.exp(-k)
    modules = [
        *still(),
        DynamicAttractant(0.3, decay, release),
        DynamicDrug(0.3, 2.0, 0.5, 1.5, 1e-16, kill=Hill(0.0, 5.0)),
        DynamicProdrug(
            Courses(jnp.asarray([-2.0]), jnp.asarray([5.0]), jnp.asarray([dose])), Boluses.none(), 6.0, 0.78, 0.85, 129.09,
            0.75, k, 0.0, 800.0, diffusivity_mm2_per_day=0.5,
        ),
    ]  # fmt: skip
    found = errors_of(modules, {"attractant": attractant, "drug": drug, "prodrug": (10.0, p)})
    for name, errors in found.items():
        assert errors[-1] < 1e-3, name
        np.testing.assert_allclose(problems.orders(errors), 2.0, atol=0.1, err_msg=name)


def quick(factor, dynamic):
    """Substances ``factor`` times as fast, at the same levels."""
    courses = Courses(jnp.asarray([0.3]), jnp.asarray([1.4]), jnp.asarray([150.0]))
    plasma = (6.0, 0.78, 0.85, 129.09, 0.75)
    f = factor
    a, p, c = (0.4 * f, 1.7 * f, 1.7 * f), (*plasma, 4.0 * f, 1e-13 * f, 800.0), (0.4 * f, 6.0 * f, 0.0, f, 2e-15 * f)
    kill = Hill(0.4, 5.0)
    if not dynamic:
        # as many rates as factors: the equilibria are the same, but for the conversion per day
        return (
            Attractant(*a, tolerance=1e-13),
            Prodrug(courses, Boluses.none(), *p),
            Drug(*c, kill=kill, tolerance=1e-13),
        )
    return (
        DynamicAttractant(*a, tolerance=1e-13),
        DynamicProdrug(courses, Boluses.none(), *p, diffusivity_mm2_per_day=0.0),
        DynamicDrug(*c, kill=kill, tolerance=1e-13),
    )


@pytest.mark.slow
def test_fast_substances_are_those_in_equilibrium():
    rng = np.random.default_rng(2)
    grid = Grid.radial(10, 0.8)
    tissue = anatomy(grid, rng)
    days = np.array([0.0, 0.7, 1.5])
    initial = {"tumour": jnp.linspace(0.5, 0.1, 10), "carriers": jnp.linspace(0.05, 0.2, 10)}

    def burden(factor, dynamic, dt=0.05):
        modules = [Tumour(0.1, 0.1, 0.3), Carriers(loss_per_day=0.2, drug_sensitivity=None), *quick(factor, dynamic)]
        model = Model(tissue, modules, K)
        plan = make_plan(model, Schedule(), days, min(dt, model.largest_step()))
        u = eqx.filter_jit(solve)(model, Schedule(), initial, plan, jnp.asarray(days)).final.x["tumour"]
        return float(grid.integrate(u))

    lag = [abs(burden(f, True) / burden(f, False, 0.01) - 1.0) for f in (2.0, 8.0, 32.0)]
    assert lag[0] > 1e-3  # what the equilibrium neglects
    np.testing.assert_allclose(np.log2(np.divide(lag[:-1], lag[1:])), 2.0, atol=0.35)


def test_nothing_becomes_negative_at_the_largest_step_and_every_ledger_closes():
    case = CASES["line-dynamic"]
    for grid in ("plane", "ball"):
        t = therapy(case._replace(grid=grid, filling=True), seed=4)
        rng = np.random.default_rng(1)
        shape = t.model.tissue.grid.shape
        rough = {
            f.name: (rng.random(shape) < 0.3)
            * rng.uniform(0.0, {"tumour": 0.6, "carriers": 0.3}.get(f.name, 50.0), shape)
            for f in t.model.fields
        }
        plan = make_plan(t.model, t.schedule, SAVES, t.model.largest_step())
        saved, final = (
            lambda s: (s.saved, s.final)
        )(eqx.filter_jit(solve)(t.model, t.schedule, rough, plan, jnp.asarray(SAVES)))  # fmt: skip
        for name, values in saved.items():
            assert float(values.min()) >= -1e-15 * float(values.max()), name
            assert float(jnp.abs(jnp.where(t.model.tissue.mask, 0.0, values)).max()) == 0.0
        entry = {name: float(a + b) for name, (a, b) in final.ledger.items()}
        for name, signs in balances(t.model, t.schedule.events).items():
            total = [float(t.model.tissue.grid.integrate(saved[name][k])) for k in (0, -1)]
            change = sum(sign * entry[e] for e, sign in signs.items())
            scale = max(*total, *(abs(entry[e]) for e in signs))
            assert abs(total[1] - total[0] - change) <= 1e-13 * scale, name
        assert entry["prodrug_converted"] > 0
        assert entry["drug_uptake"] > 0


def test_substances_take_no_room():
    t = therapy(CASES["line-dynamic"])
    assert t.model.cells == ("tumour", "carriers")
    x = {
        f.name: jnp.full(t.model.tissue.grid.shape, 7.0 if f.name in ("drug", "prodrug") else 0.25)
        for f in t.model.fields
    }
    zero = jnp.zeros(())
    q = jax.jit(lambda x: t.model.quantities(x, {}, t.model.prepare(), zero, zero))(x)
    np.testing.assert_array_equal(q["cells"], 0.5)


DYNAMIC = ["attractant.dynamics=dynamic", "prodrug.dynamics=dynamic", "drug.dynamics=dynamic"]
SLOW = ["drug.diffusivity_mm2_per_day=0.5", "attractant.diffusivity_mm2_per_day=0.5"]


@pytest.mark.slow
def test_a_run_stores_them_as_fields_with_their_own_units(tmp_path):
    course = "\n[[prodrug.courses]]\nstart_day = 1.0\nend_day = 3.0\ndose_mg_per_kg_per_day = 100.0\n"
    sets = [
        *DYNAMIC,
        *SLOW,
        "prodrug.diffusivity_mm2_per_day=0.5",
        "numerics.precision=float64",
        "drug.decay_per_day=10",
    ]
    experiment = build(loads(TREATED + course, "x.toml", sets).arms[0])
    assert any("time step shortened" in w and "dynamics = 'quasi_steady'" in w for w in experiment.warnings)
    run(experiment, tmp_path / "a.h5")
    with RunFile(tmp_path / "a.h5") as file:
        assert file.fields["drug"].unit == file.fields["prodrug"].unit == "µM"
        columns = file.ledger_columns
        assert columns["drug_total"].unit == columns["prodrug_converted"].unit == "µM mm3"
        assert columns["attractant_release"].unit == "mm3"
        assert columns["carriers_total"].unit == columns["drug_kill"].unit == "cells"
        for name in ("tumour", "carriers", "attractant", "prodrug", "drug"):
            assert np.abs(file.ledger(f"{name}_imbalance")).max() < 1e-12
        # µM mm³ as such, not times cells per mm³
        spacing = np.prod(experiment.model.tissue.grid.spacing_mm)
        drug = file.field("drug", index=-1)
        assert drug.max() > 0
        assert file.ledger("drug_total")[-1] == pytest.approx(drug.sum() * spacing, rel=1e-6)


def test_impossible_dynamics_are_named():
    assert "depletable" in only(TREATED, ["prodrug.dynamics=dynamic", "prodrug.depletable=false"])
    assert "dynamics = 'dynamic' only" in only(TREATED, ["prodrug.diffusivity_mm2_per_day=3.0"])
    assert "drug.dynamics" in only(TREATED, ["drug.dynamics=fast"])
    with pytest.raises(ValueError, match="no dynamics"):
        DynamicProdrug(Courses.none(), Boluses.none(), depletable=False)
