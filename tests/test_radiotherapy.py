"""Radiotherapy: published figures, exact survival at exact times, what is spared, schedules, and runs from file to file."""

from __future__ import annotations

import datetime
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import logistic

from glioma_pde.assemble import events_of
from glioma_pde.biology.base import Module
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.laws import Exponential
from glioma_pde.biology.radiotherapy import Radiotherapy, biologically_effective_dose, log_survival
from glioma_pde.biology.resistance import Resistance
from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build, common_shapes
from glioma_pde.config import from_json, loads
from glioma_pde.delivery import Schedule
from glioma_pde.errors import ConfigError, GliomaError
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.io.nifti import write_image
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.repeat import experiment_from_file
from glioma_pde.run import run
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue
from glioma_pde.window import Window

ULP = np.finfo(float).eps
LINE = Tissue.phantom("box", (12,), 1.0)
SAVES = (0.0, 2.0, 4.0)
U0 = jnp.linspace(0.05, 0.7, 12)


class Hypoxia(Module):
    """A given dose-modifying factor."""

    name: ClassVar[str] = "hypoxia"
    provides: ClassVar = ("oer_factor",)
    factor: jax.Array | float = 1.0

    def quantities(self, x, q, at):
        return {"oer_factor": self.factor}


@eqx.filter_jit
def solved(modules, schedule, initial, plan, saves=SAVES):
    return solve(Model(LINE, modules), schedule, initial, plan, jnp.asarray(saves))


def treated(modules, event, initial=None, dt=0.5, saves=SAVES, plan=None):
    schedule = Schedule((event,))
    plan = make_plan(Model(LINE, modules), schedule, saves, dt) if plan is None else plan
    return solved(modules, schedule, {"tumour": U0} if initial is None else initial, plan, saves)


def still(*more):
    """Nothing but radiation changes these tumours."""
    return [Tumour(*map(jnp.asarray, (0.0, 0.0, 0.0))), *more]


# -- the law -----------------------------------------------------------------------------------------


def test_published_figures():
    """S of 1.8 Gy at α = 0.04/Gy, α/β = 10 Gy is 0.919; 34 of them are 61.2 Gy; 30 of 2 Gy have a BED of 72 Gy."""
    assert float(jnp.exp(log_survival(1.8, 0.04, 0.004))) == pytest.approx(0.919, abs=5e-4)
    assert float(30 * biologically_effective_dose(2.0, 10.0)) == pytest.approx(72.0, rel=1e-14)
    for count, dose, total, effective in ((34, 1.8, 61.2, 61.2 * 1.18), (30, 2.0, 60.0, 72.0)):
        event = Radiotherapy.on_days(np.arange(34) / 10, [dose] * count + [0.0] * (34 - count))
        done = treated(still(), event).final
        seen = event.look(None, {name: sum(v) for name, v in done.ledger.items()})
        assert float(seen["radiation_dose"]) == pytest.approx(total, rel=1e-13)
        assert float(seen["radiation_bed"]) == pytest.approx(effective, rel=1e-13)
        assert float(seen["radiation_dose_tumour"]) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("form", ["linear_quadratic", "rockne"])
def test_total_survival_is_exact(form):
    """On whole days and at clock times, one an instant after another."""
    alpha, ratio, doses = 0.3, 3.0, np.array([2.0, 1.8, 3.0, 0.7, 2.0])
    days = [0.0, 0.37, 2.0, 2.37, 2.3701]
    event = Radiotherapy.on_days(days, doses, alpha_per_gy=alpha, alpha_beta_gy=ratio, form=form)
    found = treated(still(), event).final.x["tumour"]
    u = np.asarray(U0)
    for s in np.exp(-alpha * doses * (1 + doses / ratio)):
        u = u * s if form == "linear_quadratic" else u * (1 - (1 - s) * (1 - u))
    np.testing.assert_allclose(found, u, rtol=1e-12)


def test_a_fraction_acts_at_its_clock_time():
    """Logistic growth, a fraction at day 0.37, growth again; and what is saved at that very time is still untouched."""
    modules, rho, saves = [Tumour(*map(jnp.asarray, (0.0, 0.0, 0.8)))], 0.8, (0.0, 0.36, 0.37, 0.38, 4.0)
    event = Radiotherapy.on_days([0.37], 8.0, alpha_per_gy=0.1)
    s = np.exp(-0.1 * 8.0 * 1.8)
    errors = []
    for dt in (0.1, 0.05):
        u = np.asarray(treated(modules, event, dt=dt, saves=saves)["tumour"])
        before = np.stack([logistic(U0, t, rho) for t in saves[:3]])
        after = np.stack([logistic(s * before[2], t, rho) for t in (0.01, 3.63)])
        errors.append(np.abs(u - np.concatenate([before, after])).max())
    assert errors[1] < 2e-4
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.2)
    rounded = logistic(s * U0, 4.0, rho)  # at day 0 it would have been another outcome
    assert float(jnp.abs(rounded - after[1]).max()) > 50 * errors[1]


def after(event, modules, start):
    """Fields and ledger after the first fraction."""
    model = Model(LINE, modules)
    done = model.happen(event, jnp.asarray(0), model.start(start, (event,)), model.prepare())
    return done.x, {name: float(sum(v)) for name, v in done.ledger.items()}


def test_own_sensitivities_and_what_is_spared():
    start = {"tumour": U0, "resistant": 0.3 * U0, "carriers": 0.1 * U0}
    modules = [Tumour(), Resistance(alpha_relative=0.5, beta_relative=0.25), Carriers(taxis=None, alpha_per_gy=None)]
    event = Radiotherapy.on_days([0.5], 3.0, alpha_per_gy=0.2, alpha_beta_gy=4.0)
    x, ledger = after(event, modules, start)
    np.testing.assert_allclose(x["tumour"], U0 * np.exp(-0.2 * 3 - 0.05 * 9), rtol=1e-13)
    np.testing.assert_allclose(x["resistant"], 0.3 * U0 * np.exp(-0.1 * 3 - 0.0125 * 9), rtol=1e-13)
    np.testing.assert_array_equal(x["carriers"], start["carriers"])
    assert {n for n in ledger if "radiation_kill" in n} == {"radiation_kill_tumour", "radiation_kill_resistant"}
    modules[-1] = Carriers(taxis=None, alpha_per_gy=0.3, alpha_beta_gy=2.0)
    rockne = Radiotherapy.on_days([0.5], 3.0, form="rockne")
    for one in (event, rockne):  # the form for tumours does not touch others
        x, ledger = after(one, modules, start)
        np.testing.assert_allclose(x["carriers"], start["carriers"] * np.exp(-0.3 * 3 - 0.15 * 9), rtol=1e-13)
        assert ledger["radiation_kill_carriers"] > 0
    # resistant by name only: the sum follows the law of one field
    both = after(rockne, [Tumour(), Resistance()], {"tumour": 0.7 * U0, "resistant": 0.3 * U0})[0]
    alone = after(rockne, [Tumour()], {"tumour": U0})[0]["tumour"]
    np.testing.assert_allclose(both["tumour"] + both["resistant"], alone, rtol=1e-13)


def test_hypoxia_modifies_the_dose_and_quantities_are_computed_for_it_alone():
    factor = jnp.linspace(1 / 3, 1.0, 12)
    event = Radiotherapy.on_days([0.5], 4.0, alpha_per_gy=0.2)
    found, ledger = after(event, [Tumour(), Hypoxia(factor)], {"tumour": U0})
    np.testing.assert_allclose(found["tumour"], U0 * np.exp(-0.2 * 4 * factor * (1 + 0.4 * factor)), rtol=1e-13)
    assert ledger["radiation_dose_tumour"] == pytest.approx(4.0, rel=1e-13)  # the physical dose

    def unasked():
        raise AssertionError

    event.jump({"tumour": U0}, Model(LINE, [Tumour()]), jnp.asarray(0), unasked)


def test_a_dose_map_is_relative_to_the_prescribed_dose_and_cut_with_the_window():
    tissue = Tissue.phantom("head", (20, 18), 1.0)
    map_ = jnp.asarray(np.random.default_rng(2).random(tissue.grid.shape))
    event = Radiotherapy.on_days([1.0], 6.0, alpha_per_gy=0.2, dose_map=map_)
    model, x = Model(tissue, [Tumour()]), {"tumour": 0.5 * tissue.mask}
    whole, amounts = event.jump(x, model, jnp.asarray(0))
    np.testing.assert_allclose(whole["tumour"], x["tumour"] * np.exp(-1.2 * map_ * (1 + 0.6 * map_)), rtol=1e-13)
    assert float(amounts["radiation_dose_tumour"]) == pytest.approx(6.0 * float(map_[tissue.mask].mean()), rel=1e-12)
    assert float(amounts["radiation_dose"]) == 6.0
    window = Window(((3, 17), (2, 15)))
    small = window.schedule(Schedule((event,))).events[0]
    cut, _ = small.jump({"tumour": x["tumour"][window.slices]}, window.model(model), jnp.asarray(0))
    np.testing.assert_array_equal(cut["tumour"], whole["tumour"][window.slices])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 2.0), "at least one fraction"),
        (([1.0, 2.0], [2.0, -1.0]), "doses must be finite and not negative"),
        (([1.0], np.nan), "doses must be finite and not negative"),
        (([1.0, 2.0], [2.0, 2.0, 2.0]), "3 doses do not fit 2 fractions"),
    ],
)
def test_impossible_courses_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Radiotherapy.on_days(*arguments)


def test_impossible_maps_and_forms_are_refused():
    with pytest.raises(ValueError, match="values of the dose map must be finite"):
        Radiotherapy.on_days([1.0], 2.0, dose_map=-jnp.ones(12))
    with pytest.raises(ValueError, match="form is one of linear_quadratic, rockne, not 'lq'"):
        Radiotherapy.on_days([1.0], 2.0, form="lq")
    with pytest.raises(ValueError, match=r"dose map has shape \(11,\), the grid has \(12,\)"):
        treated(still(), Radiotherapy.on_days([1.0], 2.0, dose_map=jnp.ones(11)))
    with pytest.raises(ValueError, match=r"Radiotherapy need \['tumour'\]"):
        Model(LINE, [Carriers(taxis=None)]).start({}, (Radiotherapy.on_days([1.0], 2.0),))


# -- in a run ----------------------------------------------------------------------------------------


def growing(*more):
    return [
        Tumour(*map(jnp.asarray, (0.2, 0.1, 0.5))), Resistance(*map(jnp.asarray, (0.05, 0.0, 0.1, 0.4, 0.7))),
        Carriers(taxis=None, loss_per_day=jnp.asarray(0.1), alpha_per_gy=jnp.asarray(0.1)), *more,
    ]  # fmt: skip


def test_the_ledger_closes_and_nothing_turns_negative():
    start = {"tumour": jnp.zeros(12).at[3].set(1.0).at[7].set(0.2), "carriers": 0.1 * U0}
    model = Model(LINE, growing())
    for dose in (2.0, 100.0):
        for form in ("linear_quadratic", "rockne"):
            event = Radiotherapy.on_days([0.0, 0.37, 2.0, 2.0], dose, alpha_per_gy=0.2, form=form)
            done = treated(growing(), event, start, dt=model.largest_step()).final
            for field, signs in balances(model, (event,)).items():
                assert signs[f"radiation_kill_{field}"] == -1.0
                assert float(done.x[field].min()) >= 0
                gained = float(LINE.grid.integrate(done.x[field] - start.get(field, jnp.zeros(12))))
                booked = sum(sign * float(sum(done.ledger[name])) for name, sign in signs.items())
                assert gained == pytest.approx(booked, abs=1e-12)


def test_radiation_never_makes_cells_where_a_tumour_is_beyond_capacity():
    event = Radiotherapy.on_days([0.0], 4.0, form="rockne")
    x = {"tumour": jnp.linspace(0.0, 2.0, 12)}
    after, amounts = event.jump(x, Model(LINE, [Tumour(growth=Exponential())]), jnp.asarray(0))
    assert np.all(np.asarray(after["tumour"]) <= np.asarray(x["tumour"]))
    np.testing.assert_array_equal(after["tumour"][6:], x["tumour"][6:])
    assert float(amounts["radiation_kill_tumour"]) > 0


def test_no_dose_is_no_fraction():
    event = Radiotherapy.on_days([0.0, 0.37, 2.0], 0.0)
    plan = make_plan(Model(LINE, growing()), Schedule((event,)), SAVES, 0.5)
    never = eqx.tree_at(lambda p: p.events, plan, tuple(-jnp.ones_like(e) for e in plan.events))
    start = {"tumour": U0, "carriers": 0.1 * U0}
    bare, done = (treated(growing(), event, start, plan=p).final for p in (never, plan))
    for name in done.x:
        np.testing.assert_allclose(done.x[name], bare.x[name], rtol=10 * ULP, atol=0)
    assert all(float(sum(v)) == 0 for n, v in done.ledger.items() if n.startswith("radiation"))


@pytest.mark.parametrize("form", ["rockne", pytest.param("linear_quadratic", marks=pytest.mark.slow)])
def test_the_taylor_remainder_is_of_second_order(form):
    """In days (one of them a save day), doses, their map, and every radiosensitivity."""
    theta = {
        "day": jnp.array([0.37, 2.0]), "dose": jnp.array([3.0, 2.0]), "alpha": jnp.asarray(0.15),
        "ratio": jnp.asarray(5.0), "map": jnp.linspace(0.5, 1.0, 12), "oer": jnp.linspace(0.5, 1.0, 12)[::-1],
        "resistant": jnp.array([0.4, 0.7]), "carriers": jnp.array([0.2, 4.0]),
    }  # fmt: skip
    scale = {"day": 0.1, "dose": 0.5, "alpha": 0.05, "ratio": 1.0, "map": 0.2, "oer": 0.2, "resistant": 0.1, "carriers": 0.05}  # fmt: skip
    rng = np.random.default_rng(3)
    along = {n: scale[n] * jnp.asarray(rng.uniform(0.3, 1.0, np.shape(v))) for n, v in theta.items()}

    def parts(theta):
        event = Radiotherapy(theta["day"], theta["dose"], theta["alpha"], theta["ratio"], theta["map"], form)
        modules = [
            Tumour(proliferation_per_day=0.3), Hypoxia(theta["oer"]), Resistance(0.05, 0.0, 0.1, *theta["resistant"]),
            Carriers(taxis=None, alpha_per_gy=theta["carriers"][0], alpha_beta_gy=theta["carriers"][1]),
        ]  # fmt: skip
        return Model(LINE, modules), Schedule((event,))

    plan = make_plan(*parts(theta), SAVES, 0.5)

    @jax.jit
    def goal(theta):
        x = solve(*parts(theta), {"tumour": U0, "carriers": 0.1 * U0}, plan, jnp.asarray(SAVES)).final.x
        return jnp.sum(x["tumour"] ** 2) + jnp.sum(x["resistant"]) + jnp.sum(x["carriers"])

    value, slope = jax.jit(jax.value_and_grad(goal))(theta)
    assert all(np.all(np.asarray(v) != 0) for v in slope.values())
    total = sum(float(jnp.vdot(slope[n], along[n])) for n in theta)
    eps = 2.0 ** -np.arange(3, 9)
    rest = [float(goal({n: theta[n] + e * along[n] for n in theta}) - value) - e * total for e in eps]
    orders = np.log2(np.abs(np.divide(rest[:-1], rest[1:])))
    assert np.all(orders >= 1.95), orders


# -- schedules ---------------------------------------------------------------------------------------

TEXT = """
[tissue]
kind = "phantom"
geometry = "sphere"
shape = [14, 12, 10]
[tumour]
proliferation_per_day = 0.1
initial = { kind = "gaussian", centre_mm = [1.0, 0.0, 0.0], sigma_mm = 1.5, peak = 0.9 }
[time]
end_day = 4.0
frame_every_days = 2.0
"""
SPHERE = 'kind = "phantom"\ngeometry = "sphere"\nshape = [14, 12, 10]\n'
LONG = TEXT.replace("end_day = 4.0", "end_day = 100.0")


def section(lines, text=LONG):
    return loads(f"{text}[radiotherapy]\n{lines}").arms[0].radiotherapy


WEEK = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


@pytest.mark.parametrize("weekday", WEEK)
def test_thirty_fractions_on_weekdays_skip_the_weekends_from_any_day_of_the_week(weekday):
    rule = f"weekdays = {{ from_day = 3.37, count = 30, first_weekday = '{weekday}' }}"
    rows = section(f"fractions = [{{ dose_gy = 2.0, {rule} }}]").courses()[0][1]
    monday = datetime.datetime(2024, 1, 1)
    start = monday + datetime.timedelta(days=WEEK.index(weekday))
    dates = [start + datetime.timedelta(days=k) for k in range(60)]
    expected = [(d - start).days + 3.37 for d in dates if d.weekday() < 5][:30]
    assert [day for day, _ in rows] == pytest.approx(expected, abs=1e-12)
    assert {dose for _, dose in rows} == {2.0}
    by_name = section(f"schedule = 'stupp'\nstart_day = 3.37\nfirst_weekday = '{weekday}'")
    assert by_name.courses()[0][1] == rows
    assert sum(dose for _, dose in rows) == 60.0


def test_lists_and_other_rules():
    lines = """fractions = [
      { days = [9.5, 8.0], dose_gy = [3.0, 4.0] },
      { every = { from_day = 20, days = 2, count = 2 }, dose_gy = 5.0 },
      { weekdays = { from_day = 30, count = 5, on = ["monday", "friday"], hours = [14, 8] }, dose_gy = 1.2 },
    ]"""
    rows = section(lines).courses()[0][1]
    assert rows[:4] == [(8.0, 4.0), (9.5, 3.0), (20.0, 5.0), (22.0, 5.0)]
    hours = [30 + 8 / 24, 30 + 14 / 24, 34 + 8 / 24, 34 + 14 / 24, 37 + 8 / 24]
    assert [day for day, _ in rows[4:]] == pytest.approx(hours, abs=1e-12)
    table = section(lines).tables()["radiotherapy"]
    assert table["day"] == [day for day, _ in rows]
    assert from_json(loads(f"{LONG}[radiotherapy]\n{lines}").arms[0].to_json()).radiotherapy == section(lines)


def test_carriers_and_temozolomide_follow_the_same_rules():
    more = """[carriers]
taxis = { kind = "none" }
[[schedule.injections]]
every = { from_day = 1, days = 14, count = 4 }
cells = [1e3, 2e3, 3e3, 4e3]
sites_mm = [[0.0]]
sigma_mm = 1.0
[temozolomide]
doses = [{ weekdays = { from_day = 5, count = 3, first_weekday = "friday" }, dose_mg_per_m2 = [75, 75, 100] }]
"""
    ball = LONG.replace(SPHERE, 'kind = "radial"\nradius_mm = 8\nspacing_mm = 1\n').replace("[1.0, 0.0, 0.0]", "[0.0]")
    arm = loads(ball + more).arms[0]
    assert arm.temozolomide.single_doses() == [(5.0, 75.0), (8.0, 75.0), (9.0, 100.0)]
    doses = next(iter(events_of(arm, np.float32, {"schedule.injections[0]": 5})))
    assert doses.day.tolist() == [1.0, 15.0, 29.0, 43.0, -1.0]
    assert doses.cells.tolist() == [1e3, 2e3, 3e3, 4e3, 0.0]
    assert arm.schedule.tables()["injections"]["cells"] == [1e3, 2e3, 3e3, 4e3]
    crowded = loads(ball + more.replace("3e3", "9e6")).arms[0]
    with jax.enable_x64(False), pytest.raises(ConfigError, match=r"9e\+06 cells reach"):
        build(crowded)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "radiotherapy: has no fractions; give schedule"),
        ("fractions = []", "radiotherapy: has no fractions; give schedule"),
        ("schedule = 'stupp'", "radiotherapy: schedule and start_day go together"),
        ("schedule = 'stup'\nstart_day = 1", "radiotherapy.schedule: should be 'stupp' (it is 'stup')"),
        ("schedule = 'stupp'\nstart_day = 100", "radiotherapy.start_day: day 100 is not before time.end_day = 100"),
        ("fractions = [{ dose_gy = 2, days = [] }]", "radiotherapy.fractions[0]: days is empty"),
        ("fractions = [{ dose_gy = 2 }]", "radiotherapy.fractions[0]: give either days = [...], or every"),
        ("fractions = [{ dose_gy = -2, days = [1] }]", "fractions[0].dose_gy: should be greater than or equal to 0"),
        ("fractions = [{ dose_gy = [2, -1], days = [1, 2] }]", "fractions[0].dose_gy[1]: should be greater than"),
        ("fractions = [{ dose_gy = [2], days = [1, 2] }]", "fractions[0]: dose_gy lists 1 amounts for 2 times"),
        ("fractions = [{ dose_gy = 2e3, days = [1] }]", "fractions[0].dose_gy: should be less than or equal to 1000 Gy"),
        ("fractions = [{ dose_gy = inf, days = [1] }]", "fractions[0].dose_gy: should be"),
        ("fractions = [{ dose_gy = 2, weekdays = { count = 99 } }]", "fractions[0]: day 136 is not before"),
        ("fractions = [{ dose_gy = 2, weekdays = { count = 9, on = ['mon'] } }]", "weekdays.on[0]: should be 'monday'"),
        ("fractions = [{ dose_gy = 2, weekdays = { count = 9, hours = [6, 6] } }]", "hours names a time twice"),
        ("survival = 'lq'\nfractions = [{ dose_gy = 2, days = [1] }]", "survival: should be 'linear_quadratic' or"),
        ("fractions = [{ dose_gy = 2, days = [1], dose_map = { path = 'a.nii' } }]", "dose_map.prescription: is missing"),
        ("alpha_beta_gy = 0\nfractions = [{ dose_gy = 2, days = [1] }]", "radiotherapy.alpha_beta_gy: should be"),
        ("first_weekday = 'monday'\nfractions = [{ dose_gy = 2, days = [1] }]", "first_weekday belongs to schedule"),
    ],
)  # fmt: skip
def test_wrong_sections_are_told_in_one_sentence(lines, message):
    with pytest.raises(ConfigError) as error:
        section(lines)
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]


# -- from the configuration to the file ----------------------------------------------------------------

TREATED = """
[resistance]
alpha_relative = 0.5
[radiotherapy]
alpha_per_gy = 0.2
dose_map = { path = "plan.nii.gz", prescription = 60.0 }
fractions = [
  { dose_gy = [2.0, 3.0], days = [0.37, 1.0] },
  { dose_gy = 4.0, days = [2.0], dose_map = { path = "boost.nii.gz", prescription = 1.0 } },
]
[arms.treated]
[arms.uniform]
[arms.uniform.radiotherapy]
fractions = [{ dose_gy = 2.0, days = [1.0] }]
"""


@pytest.fixture
def folder(tmp_path):
    grid = Tissue.phantom("sphere", (14, 12, 10), 1.0).grid
    x = np.linspace(0.0, 1.0, 14)[:, None, None] * np.ones(grid.shape)
    write_image(tmp_path / "plan.nii.gz", 60.0 * x, grid.matrix)
    write_image(tmp_path / "boost.nii.gz", 1.0 - x, grid.matrix)
    return tmp_path


def contents(path):
    with RunFile(path) as file:
        out = {f"{n} {i}": file.field(n, index=i) for n in file.fields for i in range(len(file.days))}
        out |= {n: file.observable(n) for n in file.observables} | {n: file.ledger(n) for n in file.ledger_columns}
        return out | {n: file.tissue(n) for n in file.tissue_names}


def test_dose_maps_run_from_images_to_the_file_and_again_from_it(folder):
    with jax.enable_x64(False):
        study = loads(TEXT + TREATED, folder=folder)
        shapes = common_shapes(study.arms)
        assert shapes == {"radiotherapy.fractions:dose_map": 2, "radiotherapy.fractions:dose_map_2": 1}
        experiment = build(study.arms[0], shapes=shapes)
        plan, boost = experiment.schedule.events
        mask = np.asarray(experiment.model.tissue.mask)
        x = np.linspace(0.0, 1.0, 14)[:, None, None] * mask
        np.testing.assert_allclose(plan.dose_map, x, atol=1e-6)
        np.testing.assert_allclose(boost.dose_map, mask - x, atol=1e-6)
        result = run(experiment, folder / "a.h5")
        with RunFile(folder / "a.h5") as file:
            days, dose = file.observable_days, file.observable("radiation_dose")
            np.testing.assert_allclose(
                dose, np.select([days > 2.0, days > 1.0, days > 0.37], [9.0, 5.0, 2.0]), rtol=1e-6
            )
            assert file.observable("radiation_bed")[-1] == pytest.approx(2 * 1.2 + 3 * 1.3 + 4 * 1.4, rel=1e-6)
            assert 2.0 < file.observable("radiation_dose_tumour")[-1] < 7.0
            for name in ("tumour", "resistant"):
                assert np.abs(file.ledger(f"{name}_imbalance")).max() < 2e-6
                assert file.ledger(f"radiation_kill_{name}")[-1] > 0
            assert list(file.schedule("radiotherapy")["dose_gy"]) == [2.0, 3.0, 4.0]
            assert list(file.schedule("radiotherapy")["course"]) == [0, 0, 1]
        assert result.summary["radiation_dose"] == dose[-1]
        # the images are in the file: it can be repeated without them
        for image in folder.glob("*.nii.gz"):
            image.unlink()
        run(experiment_from_file(folder / "a.h5"), folder / "b.h5")
    expected, found = contents(folder / "a.h5"), contents(folder / "b.h5")
    assert found.keys() == expected.keys() > {"radiotherapy_dose_map", "radiotherapy_dose_map_2"}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[1:], "dose_map.path: plan.nii.gz is not in the space of the tissue (shape (13, 12, 10) against"),
        (lambda x: x - 1.0, "dose_map.path: plan.nii.gz has negative values, down to -1"),
        (lambda x: 60.0 * x, "dose_map.path: plan.nii.gz reaches"),
        (lambda x: 0.0 * x, "dose_map.path: plan.nii.gz is zero everywhere in the computed tissue"),
    ],
)
def test_impossible_dose_maps_are_told_in_one_sentence(folder, change, message):
    grid = Tissue.phantom("sphere", (14, 12, 10), 1.0).grid
    x = 60.0 * np.linspace(0.0, 1.0, 14)[:, None, None] * np.ones(grid.shape)
    write_image(folder / "plan.nii.gz", change(x), grid.matrix)
    with jax.enable_x64(False), pytest.raises(ConfigError) as error:
        build(loads(TEXT + TREATED, folder=folder).arms[0])
    assert len(error.value.problems) == 1
    assert f"radiotherapy.{message}" in error.value.problems[0]


def test_a_missing_dose_map_is_told(folder):
    (folder / "boost.nii.gz").unlink()
    with jax.enable_x64(False), pytest.raises(GliomaError, match="There is no image file"):
        build(loads(TEXT + TREATED, folder=folder).arms[0])
