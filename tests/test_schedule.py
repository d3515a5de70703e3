"""Plans: blocks of equal steps that end on every instant, and what runs on them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.prodrug import Boluses, Courses, Prodrug
from glioma_pde.delivery import CarrierDoses, Schedule
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.schedule import STEPS_PER_BLOCK, make_plan, stack, times
from glioma_pde.solve import simulate, solve
from glioma_pde.tissue import Tissue

TISSUE = Tissue.phantom("box", (12,), 1.0)
LOSS = 0.3


def model_of(start=(), end=(), bolus=()):
    courses = Courses(jnp.asarray(start, float), jnp.asarray(end, float), jnp.ones(len(start)))
    boluses = Boluses(jnp.asarray(bolus, float), jnp.ones(len(bolus)))
    return Model(TISSUE, [Carriers(loss_per_day=LOSS, taxis=None), Prodrug(courses, boluses)])


def doses_on(days, cells=1e5):
    return CarrierDoses.at_sites(days, cells, [[0.5], [-2.0]], 1.5)


def rows_of(plan, instants):
    """For each row, its blocks in use as (lower, upper, part, parts, events)."""
    for j in range(plan.saves - 1):
        yield [
            (
                float(instants[plan.lower[j, b]]), float(instants[plan.upper[j, b]]),
                int(plan.part[j, b]), int(plan.parts[j, b]), [int(e[j, b]) for e in plan.events],
            )
            for b in range(int(plan.count[j]))
        ]  # fmt: skip


def check_plan(model, schedule, saves, dt):
    plan = make_plan(model, schedule, saves, dt)
    instants = np.asarray(times(model, schedule, jnp.asarray(saves)))
    nodes, given_out, steps = set(), [], 0
    for j, row in enumerate(rows_of(plan, instants)):
        now, expected = saves[j], 0
        for lower, upper, part, parts, due in row:
            given_out += [(g, i, lower) for g, i in enumerate(due) if i >= 0]
            assert lower == pytest.approx(now, abs=2e-9 * max(1.0, saves[-1]))
            if parts == 0:
                continue
            assert part == expected
            assert (upper - lower) / (parts * STEPS_PER_BLOCK) <= dt * (1 + 1e-9)
            steps += STEPS_PER_BLOCK
            expected = (part + 1) % parts
            nodes.add(lower)
            if expected == 0:
                now = upper
                nodes.add(upper)
        assert expected == 0
        assert now == saves[j + 1]
    assert plan.steps == steps
    # every instant within the run is a block's edge, and every event within it happens once, at its time
    nodes = np.array(sorted(nodes))
    for instant in instants:
        if saves[0] <= instant <= saves[-1]:
            assert np.abs(nodes - instant).min() <= 2e-9 * max(1.0, saves[-1])
    wanted = [
        (g, i, day)
        for g, group in enumerate(schedule.events)
        for i, day in enumerate(np.asarray(group.day))
        if saves[0] <= day < saves[-1]
    ]
    assert sorted((g, i) for g, i, _ in given_out) == sorted((g, i) for g, i, _ in wanted)
    at = {(g, i): day for g, i, day in given_out}
    for g, i, day in wanted:
        assert at[g, i] == pytest.approx(day, abs=2e-9 * max(1.0, saves[-1]))
    return plan


# Fixed sizes, so that nothing compiles anew: what an example does not use lies far beyond the run.
DAYS = st.one_of(st.integers(-2, 12).map(float), st.floats(-2.0, 12.0).map(lambda v: round(v, 6)), st.just(1e3))


@settings(deadline=None, derandomize=True, database=None, max_examples=100)
@given(
    groups=st.tuples(*[st.lists(DAYS, min_size=4, max_size=4)] * 2),
    windows=st.tuples(*[st.tuples(DAYS, DAYS).map(sorted)] * 2),
    boluses=st.tuples(DAYS, DAYS),
    saves=st.lists(st.integers(0, 10_000), min_size=4, max_size=4, unique=True).map(
        lambda v: [1e-3 * i for i in sorted(v)]
    ),
    dt=st.floats(0.1, 3.0),
)
def test_blocks_end_on_every_instant_and_events_happen_once(groups, windows, boluses, saves, dt):
    model = model_of([w[0] for w in windows], [w[1] for w in windows], boluses)
    check_plan(model, Schedule(tuple(doses_on(g) for g in groups)), saves, dt)


def test_blocks_are_few():
    # 30 days in one interval at dt 0.5: 30 blocks; an event and a course's two edges cut it
    assert check_plan(model_of(), Schedule(), [0.0, 30.0], 0.5).steps == 60
    plan = check_plan(model_of([3.2], [17.7]), Schedule((doses_on([9.1]),)), [0.0, 30.0], 0.5)
    assert plan.steps <= 60 + 4 * STEPS_PER_BLOCK


def test_instants_that_agree_to_rounding_are_one():
    plan = check_plan(
        model_of([3.0 + 1e-12], [5.0]), Schedule((doses_on([3.0, 3.0 - 1e-12]),)), [0.0, 3.0 + 2e-12, 8.0], 1.0
    )
    assert plan.steps == STEPS_PER_BLOCK * (5 + 2)  # two of the blocks have no length


def test_a_day_kept_in_single_precision_is_the_day_meant():
    """2.3 becomes 2.29999995: its dose still comes after the save of that day, in a short run as in a long one."""
    model = Model(Tissue.phantom("box", (12,), 1.0, dtype=jnp.float32), [Carriers(loss_per_day=LOSS, taxis=None)])
    schedule = Schedule((jax.tree.map(lambda a: a.astype(jnp.float32), doses_on([2.3])),))
    for end in (4.0, 400.0):
        plan = make_plan(model, schedule, [0.0, 2.3, end], end)
        assert [np.asarray(row).max() for row in plan.events[0]] == [-1, 0]
        assert plan.steps == 3 * STEPS_PER_BLOCK  # one block to the dose, none of length, one after it


def test_an_event_between_two_instants_that_are_told_apart_happens_once():
    gap = 0.6e-9  # each is one with its neighbour, yet the first and the last are two
    model, schedule = model_of(bolus=[0.5 + 2 * gap]), Schedule((doses_on([0.5, 0.5 + gap]),))
    given_out = np.asarray(make_plan(model, schedule, [0.0, 1.0], 0.5).events[0])
    assert sorted(given_out[given_out >= 0].tolist()) == [0, 1]


@pytest.mark.parametrize("saves", [[0.0], [0.0, 0.0], [1.0, 0.5], [0.0, np.inf], [[0.0, 1.0]]])
def test_impossible_save_days_are_refused(saves):
    with pytest.raises(ValueError, match="save_days"):
        make_plan(model_of(), Schedule(), saves, 0.5)


def test_impossible_steps_are_refused():
    with pytest.raises(ValueError, match=r"dt = 1e-09 makes more than \d+ blocks"):
        make_plan(model_of(), Schedule(), [0.0, 1.0], 1e-9)
    with pytest.raises(ValueError, match="dt"):
        make_plan(model_of(), Schedule(), [0.0, 1.0], 0.0)


# -- runs ----------------------------------------------------------------------------------------

run = eqx.filter_jit(solve)


def amounts(solution):
    """Carriers at the save days, in units of one dose of 1e5 cells."""
    return np.asarray(jax.vmap(TISSUE.grid.integrate)(solution["carriers"]))


def decays(days, saves):
    """Doses that decay at `LOSS`, seen just before the events of each save day."""
    age = np.asarray(saves)[:, None] - np.asarray(days)[None, :]
    return np.where(age > 0, np.exp(-LOSS * age), 0.0).sum(1)


def test_doses_arrive_at_their_exact_times():
    saves = np.array([0.0, 2.0, 3.5, 9.0])
    days = [0.0, 1.234, 2.0, 3.5, 3.5, 7.77, 9.0, 11.0, -1.0]
    model, schedule = model_of(), Schedule((doses_on(days),))
    solution = simulate(model, {}, saves, schedule, dt=0.02)
    # The steps err by (δ dt)² δT/6. A save day shows the state before its own events; the run holds no
    # events before day 0 or from day 9 on.
    np.testing.assert_allclose(
        amounts(solution), decays([d for d in days if 0 <= d < 9.0], saves), rtol=2e-5, atol=1e-14
    )
    assert amounts(solution)[0] == 0.0
    assert float(sum(solution.final.ledger["carrier_delivery"])) == pytest.approx(6.0, rel=1e-13)


def test_two_events_at_one_instant_are_their_sum():
    saves = np.array([0.0, 4.0])
    model, far = model_of(), 100.0
    twice = Schedule((doses_on([1.3, 1.3, 0.0]),))
    once = Schedule((doses_on([1.3, far, 0.0], jnp.array([2e5, 0.0, 1e5])),))
    groups = Schedule((doses_on([1.3, far, 0.0]), doses_on([1.3])))
    results = [run(model, s, {}, make_plan(model, s, saves, 0.5), jnp.asarray(saves)) for s in (twice, once, groups)]
    for other in results[1:]:
        np.testing.assert_allclose(results[0].final.x["carriers"], other.final.x["carriers"], rtol=1e-14)
    # each can move by itself: a block of no length lies between them, and one between day 0 and its dose
    plan = make_plan(model, twice, saves, 0.5)
    instants = times(model, twice, jnp.asarray(saves))
    assert int((instants[plan.lower] == instants[plan.upper])[plan.parts > 0].sum()) == 2


def test_padding_changes_nothing():
    saves = np.array([0.0, 2.0, 6.0])
    model = model_of([1.0], [3.0])
    schedules = [Schedule((doses_on([0.5, 1.5]),)), Schedule((doses_on([3.3, 50.0]),))]
    plans = [make_plan(model, s, saves, step) for s, step in zip(schedules, (0.5, 0.25), strict=True)]
    assert plans[0].lower.shape[1] < plans[1].lower.shape[1]
    together = stack(plans)
    for k, (schedule, plan) in enumerate(zip(schedules, plans, strict=True)):
        padded = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        short = run(model, schedule, {}, plan, jnp.asarray(saves))
        long = run(model, schedule, {}, padded, jnp.asarray(saves))
        assert np.array_equal(short["carriers"], long["carriers"])
        for name in short.final.ledger:
            assert np.array_equal(short.final.ledger[name], long.final.ledger[name])
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *schedules)
    seen = eqx.filter_jit(jax.vmap(lambda s, p: solve(model, s, {}, p, jnp.asarray(saves))["carriers"]))(
        batch, together
    )
    np.testing.assert_allclose(
        seen[1], run(model, schedules[1], {}, plans[1], jnp.asarray(saves))["carriers"], rtol=1e-13, atol=1e-16
    )


def test_plans_of_one_batch_must_match():
    model = model_of()
    one, two = make_plan(model, Schedule(), [0.0, 1.0], 0.5), make_plan(model, Schedule(), [0.0, 1.0, 2.0], 0.5)
    with pytest.raises(ValueError, match="batch"):
        stack([one, two])


def test_a_run_continues_from_its_carry_to_the_same_end():
    model, schedule = model_of(), Schedule((doses_on([0.5, 4.0, 6.2]),))
    whole = simulate(model, {}, [0.0, 4.0, 8.0], schedule)
    first = simulate(model, {}, [0.0, 4.0], schedule)
    second = simulate(model, first.final, [4.0, 8.0], schedule)  # the dose of day 4 belongs to the second part
    assert np.array_equal(whole.final.x["carriers"], second.final.x["carriers"])
    for name in whole.final.ledger:
        assert np.array_equal(whole.final.ledger[name], second.final.ledger[name]), name


def test_the_ledger_of_a_run_explains_every_field():
    doses = doses_on([1.1, 2.2])
    solution = simulate(model_of(), {"carriers": jnp.full(12, 0.25)}, [0.0, 5.0], Schedule((doses,)))
    for field, entries in balances(model_of(), (doses,)).items():
        explained = sum(sign * float(sum(solution.final.ledger[name])) for name, sign in entries.items())
        gained = float(TISSUE.grid.integrate(solution.final.x[field])) - 3.0
        assert gained == pytest.approx(explained, abs=1e-13 * 5.0)


def test_the_day_of_a_dose_has_a_derivative():
    model, saves = model_of(), np.array([0.0, 4.0])
    plan = make_plan(model, Schedule((doses_on([1.3]),)), saves, 0.05)
    total = jax.jit(lambda day: TISSUE.grid.integrate(
        solve(model, Schedule((doses_on(day[None]),)), {}, plan, jnp.asarray(saves)).final.x["carriers"]
    ))  # fmt: skip
    slope = float(jax.jit(jax.grad(total))(jnp.asarray(1.3)))
    # d/dt₀ of e^{−δ(T − t₀)}, to the step's error (δ dt)²
    assert slope == pytest.approx(LOSS * np.exp(-LOSS * 2.7), rel=1e-3)
