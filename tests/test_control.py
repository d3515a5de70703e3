"""Steps within a tolerance: the error is what was asked for, and the plan is replayed, differentiated, batched, resumed."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covering import CASES, therapy
from test_run import check_same_bits

from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build
from glioma_pde.config import loads
from glioma_pde.control import make_controlled_plan
from glioma_pde.delivery import CarrierDoses, Schedule
from glioma_pde.errors import ConfigError, GliomaError
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.model import Model
from glioma_pde.run import resume, run
from glioma_pde.schedule import STEPS_PER_BLOCK, stack
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

SAVES = [0.0, 1.0, 2.0]
solved = eqx.filter_jit(solve)


@pytest.fixture(scope="module")
def whole():
    """The whole therapy on a line: doses within and at save days, courses, boluses; and its exact course, nearly."""
    t = therapy(CASES["line"])
    exact = make_controlled_plan(t.model, t.schedule, t.initial, SAVES, 4e-9).final.x
    return t, exact


def error(x, exact) -> float:
    return max(float(jnp.linalg.norm(x[n] - exact[n]) / jnp.linalg.norm(exact[n])) for n in exact)


def test_the_error_stays_within_the_tolerance_over_four_decades(whole):
    t, exact = whole
    tolerances = [1e-3, 1e-4, 1e-5, 1e-6, 1e-7]
    found, steps = [], []
    for tolerance in tolerances:
        done = make_controlled_plan(t.model, t.schedule, t.initial, SAVES, tolerance)
        found.append(error(done.final.x, exact))
        steps.append(done.plan.steps)
        assert done.plan.steps == STEPS_PER_BLOCK * done.control.accepted
        assert done.control.error <= tolerance
        # the price of control: one step more for each block, and what is taken again
        assert done.control.rejected <= 0.5 * done.control.accepted
        # the estimate is the error, about
        assert 0.2 < found[-1] / done.control.error < 3.0
    assert all(e <= 5.0 * tolerance for e, tolerance in zip(found, tolerances, strict=True))
    # a second-order method takes √10 more steps for each decade
    assert np.log10(steps[-1] / steps[1]) == pytest.approx(1.5, abs=0.25)


def test_solve_replays_the_plan_bit_for_bit(whole):
    t, _ = whole
    done = make_controlled_plan(t.model, t.schedule, t.initial, SAVES, 1e-4)
    again = solved(t.model, t.schedule, t.initial, done.plan, jnp.asarray(SAVES)).final
    assert all(np.array_equal(again.x[n], done.final.x[n]) for n in again.x)


def light(day: float):
    tissue = Tissue.phantom("box", (12,), 1.0)
    model = Model(tissue, [Tumour(proliferation_per_day=0.3), Carriers(taxis=None, tumour_kill_per_day=4.0)])
    doses = CarrierDoses.at_sites([day, 1.0], 3e5, [[0.5], [-2.0]], 1.5)
    return model, Schedule((doses,)), {"tumour": jnp.linspace(0.1, 0.8, 12)}


@eqx.filter_jit
def burden(growth, day, plan, base):
    model, schedule, initial = base
    model = eqx.tree_at(lambda m: m["tumour"].proliferation_per_day, model, growth)
    schedule = eqx.tree_at(lambda s: s.events[0].day, schedule, jnp.stack([day, jnp.asarray(1.0)]))
    return jnp.sum(solve(model, schedule, initial, plan, jnp.asarray(SAVES)).final.x["tumour"])


def test_a_controlled_run_is_differentiable_by_parameters_and_days():
    base = light(0.37)
    plan = make_controlled_plan(*base, SAVES, 1e-5).plan
    slopes = jax.grad(burden, argnums=(0, 1))(jnp.asarray(0.3), jnp.asarray(0.37), plan, base)
    for k, slope in enumerate(slopes):
        h = np.zeros(2)
        h[k] = 1e-4
        ahead, behind = (burden(*(jnp.asarray([0.3, 0.37]) + sign * h), plan, base) for sign in (1, -1))
        assert float(slope) == pytest.approx(float(ahead - behind) / 2e-4, rel=1e-5)


@pytest.mark.slow
def test_patients_with_different_steps_make_one_batch():
    bases = [light(day) for day in (0.2, 0.83)]
    plans = [
        make_controlled_plan(*base, SAVES, tolerance).plan for base, tolerance in zip(bases, (1e-3, 1e-5), strict=True)
    ]
    assert plans[0].steps != plans[1].steps
    alone = [
        float(burden(jnp.asarray(0.3), jnp.asarray(day), plan, bases[0]))
        for day, plan in zip((0.2, 0.83), plans, strict=True)
    ]
    both = jax.vmap(lambda day, plan: burden(jnp.asarray(0.3), day, plan, bases[0]))(
        jnp.asarray([0.2, 0.83]), stack(plans)
    )
    np.testing.assert_allclose(both, alone, rtol=1e-12)


def test_what_no_step_can_reach_is_said(monkeypatch):
    monkeypatch.setattr("glioma_pde.control._MOST_PIECES", 4)
    with pytest.raises(GliomaError, match=r"cannot be made short enough for time\.tolerance near day 0"):
        make_controlled_plan(*light(0.2), SAVES, 1e-9)
    with pytest.raises(ValueError, match="positive"):
        make_controlled_plan(*light(0.2), SAVES, 0.0)


# -- in a run --------------------------------------------------------------------------------------

BALL = """
[tissue]
kind = "radial"
radius_mm = 8.0
spacing_mm = 0.5
[tumour]
initial = { kind = "gaussian", centre_mm = [0.0], sigma_mm = 1.5, peak = 0.9 }
[carriers]
taxis = { kind = "none" }
tumour_kill_per_day = 3.0
[[schedule.injections]]
days = [1.3, 4.0]
cells = 2e5
sites_mm = [[0.0]]
sigma_mm = 1.5
[numerics]
precision = "float64"
[time]
end_day = 8.0
frame_every_days = 2.0
tolerance = 1e-5
"""


def test_a_controlled_run_tells_its_steps_and_resumes_to_the_same_bits(tmp_path):
    experiment = build(loads(BALL).arms[0])
    one, other = tmp_path / "one.h5", tmp_path / "other.h5"
    run(experiment, one)
    left = iter([False] * 5 + [True])
    with pytest.raises(GliomaError, match="interrupted"):
        run(experiment, other, stop=lambda: next(left))
    resume(experiment, other)
    check_same_bits(one, other)
    with RunFile(one) as file:
        steps, error = file.observable("steps_taken"), file.observable("step_error")
        assert steps[0] == 0
        assert np.all(np.diff(steps) > 0)
        assert 1e-6 < error[-1] <= 1e-5
        assert file.summary["step_error"] == error[-1]
    replay = make_controlled_plan(experiment.model, experiment.schedule, experiment.initial, experiment.days, 1e-5)
    assert replay.plan.steps == steps[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("numerics.precision=float32", "time.tolerance: below 1e-4 needs numerics.precision = 'float64'"),
        ("time.tolerance=0", "time.tolerance: should be greater than or equal to 0.000000000001"),
    ],
)
def test_a_tolerance_out_of_reach_is_a_config_error(change, message):
    with pytest.raises(ConfigError) as caught:
        loads(BALL, sets=[change])
    assert len(caught.value.problems) == 1
    assert message in caught.value.problems[0]


def test_equilibria_have_to_be_finer_than_the_tolerance():
    with pytest.raises(ConfigError, match=r"elliptic_tolerance: must be at most a tenth of time\.tolerance = 0\.0001"):
        loads(BALL + "[attractant]\n", sets=["time.tolerance=1e-4"])
