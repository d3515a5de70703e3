"""Known parameters are found again, and intervals hold what they promise: many simulated data sets, none of them made by the
grid and the time step that fits them. What the data cannot tell is called so."""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug
from glioma_pde.biology.laws import Hill
from glioma_pde.biology.prodrug import Boluses, Courses, Prodrug
from glioma_pde.biology.temozolomide import OralDoses, Temozolomide
from glioma_pde.biology.tumour import Tumour
from glioma_pde.calibrate.data import Measurements
from glioma_pde.calibrate.descent import levenberg_marquardt
from glioma_pde.calibrate.forward import Ball
from glioma_pde.calibrate.noise import Noise
from glioma_pde.calibrate.observation import Fraction, Observation, ThresholdVolume
from glioma_pde.calibrate.optimise import fit
from glioma_pde.calibrate.problem import Free
from glioma_pde.calibrate.study import make_problem
from glioma_pde.calibrate.uncertainty import laplace, profiles, quantiles, verdicts
from glioma_pde.delivery import CarrierDoses, Schedule
from glioma_pde.model import Model
from glioma_pde.tissue import Tissue

pytestmark = pytest.mark.slow

RHO, D, SIGMA = "tumour.proliferation_per_day", "tumour.diffusivity_white_mm2_per_day", "tumour.initial.sigma_mm"
CELL = Tissue.phantom("box", (1,), 1.0)


def rows_of(days, names, values=None, subject="one", arm="all"):
    values = np.ones((len(days), len(names))) if values is None else values
    return [
        {"subject": subject, "arm": arm, "time": t, "observable": n, "value": max(float(values[i, k]), 1e-3)}
        for i, t in enumerate(days)
        for k, n in enumerate(names)
    ]


# -- 200 data sets, the radial model ------------------------------------------------------------------

DAYS = np.arange(10.0, 131.0, 10.0)
TRUTH = {RHO: 0.06, D: 0.12, SIGMA: 4.0, "noise": 0.1}
SETS = 200


def radial_problem(spacing_mm: float, step_days: float):
    tissue = Tissue.radial(round(48 / spacing_mm), spacing_mm)
    model = Model(tissue, [Tumour(0.1, 0.1, 0.05)], ledger=False)
    look = [Observation(n, ThresholdVolume(t, 0.05), "mm3") for n, t in (("t1gd", 0.8), ("flair", 0.16))]
    return make_problem(
        model, Measurements.of(rows_of(DAYS, ["t1gd", "flair"])),
        [Free(RHO, 0.015, 0.25), Free(D, 0.02, 0.4), Free(SIGMA, 1.5, 10.0), Free("noise", 0.02, 0.5)],
        look, [Noise("lognormal", "noise")] * 2, start=Ball(jnp.zeros(1), jnp.asarray(4.0), jnp.asarray(0.9)),
        step_days=step_days,
    )  # fmt: skip


def with_values(problem, y):
    return eqx.tree_at(lambda p: p.table.y, problem, y[None])


@eqx.filter_jit
def fits(problem, z, ys, hold=None):
    """Best scaled vectors, costs, and Fisher covariances of every data set."""

    def one(y):
        mine = with_values(problem, y)
        end = levenberg_marquardt(mine, z, 1e-6, 60, hold)[0]
        s = mine.scaled(end) if hold is None else jnp.where(hold[0], hold[1], mine.scaled(end))
        rows = mine.information_rows(s)
        return s, mine.cost(s), jnp.linalg.inv(rows.T @ rows)

    return jax.vmap(one)(ys)


def test_two_hundred_data_sets_give_their_parameters_back_and_intervals_cover():
    fine, coarse = radial_problem(0.5, 0.23), radial_problem(1.0, 1.0)
    truth = np.asarray(coarse.from_natural(TRUTH))
    at, which = np.asarray(fine.table.at)[0], np.asarray(fine.table.which)[0]
    exact = np.asarray(fine.predict(fine.from_natural(TRUTH)))[0][at, which]
    noise = TRUTH["noise"] * np.random.default_rng(11).standard_normal((SETS, exact.size))
    ys = jnp.asarray(exact * np.exp(noise))
    # not from the truth: the middle of the bounds
    z = coarse.unconstrained(0.5 * (coarse.low + coarse.high))
    s, cost, covariance = (np.asarray(v) for v in fits(coarse, z, ys))
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    error = s - truth
    half, threshold = quantiles(coarse, 0.90)
    covered = {}
    for k, name in enumerate(coarse.names):
        bias, spread = error[:, k].mean(), error[:, k].std()
        inside = np.mean(np.abs(error[:, k]) <= half * sd[:, k])
        mask = jnp.arange(coarse.size) == k
        _, held, _ = fits(coarse, z, ys, (mask, jnp.asarray(truth)))
        # a profile interval holds the truth where the cost rises by less than its threshold
        profile = np.mean(2 * (np.asarray(held) - cost) <= threshold)
        covered[name] = (bias, spread, inside, profile)
        print(f"{name}: bias {bias:+.4f}, spread {spread:.4f}, Laplace {inside:.3f}, profile {profile:.3f}")
    for name in (RHO, D, SIGMA):
        bias, spread, inside, profile = covered[name]
        assert abs(bias) < 0.25 * spread, name
        assert 0.85 <= inside <= 0.95 and 0.85 <= profile <= 0.95, (name, inside, profile)
    # maximum likelihood puts σ low by 3 degrees of freedom of 26, 6 %
    assert covered["noise"][0] == pytest.approx(0.5 * np.log(23 / 26), abs=0.04)


# -- samples ---------------------------------------------------------------------------------------------


def test_samples_are_calibrated_and_mixed():
    """Ranks of the true values among the draws are uniform (simulation-based calibration)."""
    pytest.importorskip("blackjax")
    from glioma_pde.calibrate.sample import sample

    days = np.arange(0.0, 31.0, 5.0)
    model = Model(CELL, [Tumour(0.0, 0.0, 0.1)], ledger=False)
    free = [Free(RHO, 0.1, 0.3), Free("capacity", 300.0, 1200.0), Free("noise", 0.05, 0.2)]
    problem = make_problem(
        model, rows_of(days, ["volume"]), free, [Observation("volume", Fraction(), scale="capacity")],
        [Noise("lognormal", "noise")], fixed={"initial": 20.0}, derived={"tumour.initial.fraction": "initial / capacity"},
        step_days=1.0,
    )  # fmt: skip
    rng = np.random.default_rng(5)
    at, low, high = np.asarray(problem.table.at)[0], np.asarray(problem.low), np.asarray(problem.high)
    predict = eqx.filter_jit(lambda s: problem.predict(s))
    ranks, worst, least = [], 0.0, np.inf
    sets, draws = 40, 300
    for k in range(sets):
        s = rng.uniform(low, high)
        y = np.asarray(predict(jnp.asarray(s)))[0, at, 0] * np.exp(np.exp(s[2]) * rng.standard_normal(at.size))
        found = sample(with_values(problem, jnp.asarray(y)), jnp.asarray(0.5 * (low + high)), draws, 300, 2, seed=k)
        worst, least = max(worst, float(found.rhat.max())), min(least, float(found.ess.min()))
        thinned = found.flat[:: max(1, round(2 * draws / max(float(found.ess.min()), 20.0)))]
        ranks.append((thinned < s).mean(axis=0))
    print("R-hat", worst, "ESS", least)
    assert worst < 1.1 and least > 50
    for k, name in enumerate(problem.names):
        count = np.histogram(np.asarray(ranks)[:, k], 5, (0, 1))[0]
        print(name, count)
        assert stats.chisquare(count).pvalue > 0.005, (name, count)


# -- what one dose cannot tell ---------------------------------------------------------------------------


def said_of(problem, starts=4):
    found = fit(problem, starts=starts, max_steps=60, tolerance=1e-6)
    normal = laplace(problem, found.s)
    lines = profiles(problem, found.s, points=6)
    told = verdicts(problem.names, problem.log, normal.s, normal.information, lines)
    return {v.name: v for v in told}, found, {problem.names[p.index]: p for p in lines}


def test_one_dose_does_not_tell_the_largest_effect_from_the_potency():
    """One level of temozolomide, before saturation: K, IC50 and E_max are not identifiable one by one; ρ is."""
    days = np.arange(0.0, 25.0, 3.0)

    def site(dose):
        doses = OralDoses(jnp.arange(5.0) + 3.0, jnp.full(5, dose))
        return Model(CELL, [Tumour(0.0, 0.0, 0.1), Temozolomide(doses, kill=Hill(0.3, 3.0, None))], ledger=False)

    emax, ic50 = "temozolomide.kill.emax_per_day", "temozolomide.kill.ic50_uM"
    make = partial(
        make_problem, {"control": site(0.0), "treated": site(150.0)},
        free=[Free(RHO, 0.02, 0.3), Free(emax, 0.03, 5.0), Free(ic50, 0.1, 150.0), Free("capacity", 1.5e3, 1e6)],
        observations=[Observation("volume", Fraction(), scale="capacity")], noises=[Noise("lognormal", 0.05)],
        fixed={"initial": 50.0}, derived={"tumour.initial.fraction": "initial / capacity"}, step_days=1.0,
    )  # fmt: skip
    rows = [r for arm in ("control", "treated") for r in rows_of(days, ["volume"], subject=arm, arm=arm)]
    blank = make(Measurements.of(rows))
    truth = blank.from_natural({RHO: 0.1, emax: 1.2, ic50: 30.0, "capacity": 2e4})
    exact = np.asarray(blank.predict(truth))
    at, rng = np.asarray(blank.table.at), np.random.default_rng(1)
    for i, subject in enumerate(blank.subjects):
        mine = [r for r in rows if r["subject"] == subject]
        for r, value in zip(mine, exact[i, at[i], 0], strict=True):
            r["value"] = value * np.exp(0.05 * rng.standard_normal())
    verdict, _, _ = said_of(make(Measurements.of(rows)))
    assert verdict[RHO].kind == "identifiable"
    assert all(verdict[n].kind != "identifiable" for n in (emax, ic50, "capacity"))
    assert ic50 in verdict[emax].partners or emax in verdict[ic50].partners


# -- four arms -------------------------------------------------------------------------------------------


def test_four_arms_tell_direct_killing_from_the_drug_but_not_release_from_potency():
    """Control, carriers alone, prodrug alone, both: κ_a and ρ are found; of release and IC50 only the ratio, as the drug is
    never seen."""
    days = np.arange(0.0, 22.0, 3.0)
    arms = {"control": (0.0, 0.0), "carriers": (2e4, 0.0), "prodrug": (0.0, 150.0), "both": (2e4, 150.0)}
    kill, vmax, ic50, emax = (
        "carriers.tumour_kill_per_day", "prodrug.vmax_mol_per_cell_per_day", "drug.kill.ic50_uM", "drug.kill.emax_per_day",
    )  # fmt: skip

    def site(dose):
        course = Courses(jnp.asarray([3.0]), jnp.asarray([10.0]), jnp.asarray([dose]))
        modules = [
            Tumour(0.0, 0.0, 0.1), Carriers(0.0, 0.0, taxis=None, tumour_kill_per_day=0.4, loss_per_day=0.1),
            Prodrug(course, Boluses.none(), depletable=False), Drug(kill=Hill(0.4, 5.0, None)),
        ]  # fmt: skip
        return Model(CELL, modules, ledger=False)

    schedules = {a: Schedule((CarrierDoses.at_sites([1.0], cells, [[0.0]], 1.0),)) for a, (cells, _) in arms.items()}
    make = partial(
        make_problem, {a: site(dose) for a, (_, dose) in arms.items()},
        free=[Free(RHO, 0.03, 0.4), Free(kill, 0.05, 3.0), Free(vmax, 1e-15, 1e-10), Free(ic50, 0.05, 500.0),
              Free(emax, 0.1, 2.0)],
        observations=[Observation("volume", Fraction(), scale=1000.0)], noises=[Noise("lognormal", 0.05)],
        schedules=schedules, fixed={"tumour.initial.fraction": 0.05}, step_days=1.0,
    )  # fmt: skip
    subjects = [(f"{a}-{i}", a) for a in arms for i in range(2)]
    rows = [r for s, a in subjects for r in rows_of(days, ["volume"], subject=s, arm=a)]
    blank = make(Measurements.of(rows))
    true = {RHO: 0.12, kill: 0.5, vmax: 3e-13, ic50: 3.0, emax: 0.5}
    exact = np.asarray(blank.predict(blank.from_natural(true)))
    at, rng = np.asarray(blank.table.at), np.random.default_rng(2)
    for i, subject in enumerate(blank.subjects):
        for r, value in zip((r for r in rows if r["subject"] == subject), exact[i, at[i], 0], strict=True):
            r["value"] = value * np.exp(0.05 * rng.standard_normal())
    problem = make(Measurements.of(rows))
    verdict, found, lines = said_of(problem)
    for v in verdict.values():
        print(v.name, v.text)
    best = dict(zip(problem.names, np.asarray(problem.natural(found.s)), strict=True))
    print(best)
    for name in (RHO, kill):
        assert verdict[name].kind == "identifiable"
        assert lines[name].low < np.log(true[name]) < lines[name].high
    assert verdict[vmax].kind == verdict[ic50].kind == "ratio"
    assert verdict[vmax].partners == (ic50,) and verdict[ic50].partners == (vmax,)
    assert best[vmax] / best[ic50] == pytest.approx(true[vmax] / true[ic50], rel=0.5)
