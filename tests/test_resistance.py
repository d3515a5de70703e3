"""Resistant cells: their equation, and that everything seen of a tumour counts them."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.biology.attractant import Attractant
from glioma_pde.biology.base import Hazard, Module
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug
from glioma_pde.biology.laws import Additive, Bliss
from glioma_pde.biology.prodrug import Boluses, Courses, Prodrug
from glioma_pde.biology.resistance import Resistance
from glioma_pde.biology.tumour import Tumour
from glioma_pde.config import loads
from glioma_pde.delivery import CarrierDoses, Schedule, gaussian
from glioma_pde.errors import ConfigError
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.observe import look
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

ULP = np.finfo(float).eps
LINE = Tissue.phantom("box", (12,), 1.0)
ROD = Tissue.phantom("slab", (40,), 0.5)


class Poison(Module):
    """A drug, and something else, that kill at given rates."""

    name: ClassVar[str] = "poison"
    drug: jax.Array | float = 0.0
    other: jax.Array | float = 0.0

    def hazards(self, x, q, at):
        return (Hazard("poison_kill", self.drug), Hazard("other_kill", self.other, drug=False))

    def hazard_bounds(self, at, limits):
        return self.hazards({}, {}, at)


@eqx.filter_jit
def end(modules, initial, plan, tissue=LINE, saves=(0.0, 6.0)):
    return solve(Model(tissue, modules), Schedule(), initial, plan, jnp.asarray(saves)).final


def plan_for(modules, dt, tissue=LINE, saves=(0.0, 6.0)):
    return make_plan(Model(tissue, modules), Schedule(), saves, dt)


def test_resistance_is_acquired_spontaneously_and_under_drugs():
    """Without growth and motility u and r are sums of exponentials; other hazards kill both alike and induce nothing."""
    spontaneous, induced, omega, drug, other = 0.02, 0.3, 0.1, 0.4, 0.05
    modules = [Tumour(0.0, 0.0, 0.0), Resistance(spontaneous, induced, omega), Poison(drug, other)]
    change = spontaneous + induced * drug
    fast, slow = drug + other + change, omega * drug + other
    u0, r0 = 0.5, 0.1
    t = 6.0
    u = u0 * np.exp(-fast * t)
    r = r0 * np.exp(-slow * t) + change * u0 * (np.exp(-slow * t) - np.exp(-fast * t)) / (fast - slow)
    errors = []
    for dt in (0.1, 0.05):
        x = end(modules, {"tumour": jnp.full(12, u0), "resistant": jnp.full(12, r0)}, plan_for(modules, dt)).x
        errors.append([abs(float(x["tumour"][3]) - u), abs(float(x["resistant"][3]) - r)])
        assert max(errors[-1]) < 1e-3 * dt
    assert np.log2(np.divide(*errors)) == pytest.approx([2.0, 2.0], abs=0.1)


def test_no_transition_is_no_module_at_all():
    u0 = 0.9 * gaussian(ROD.grid, jnp.array([1.0]), jnp.asarray(2.5))
    alone, off = ([Tumour(), Poison(0.1), *more] for more in ([], [Resistance(0.0, 0.0)]))
    plan = plan_for(off, 0.5, ROD)
    bare, with_module = (end(m, {"tumour": u0}, plan, ROD) for m in (alone, off))
    np.testing.assert_allclose(with_module.x["tumour"], bare.x["tumour"], rtol=10 * ULP, atol=0)
    assert not np.any(with_module.x["resistant"])
    for name, value in bare.ledger.items():
        assert float(sum(with_module.ledger[name])) == pytest.approx(float(sum(value)), rel=1e-14)


def treated(*more):
    """The whole therapy, every effect of and on tumour cells on."""
    courses = Courses(jnp.array([0.5]), jnp.array([5.0]), jnp.array([150.0]))
    return [
        Tumour(proliferation_per_day=0.1, one_sided_growth=True),
        Carriers(tumour_kill_per_day=2.0, crowding=0.3, volume_filling=True),
        Attractant(tolerance=1e-12),
        Prodrug(courses, Boluses.none()),
        Drug(uptake_per_day=30.0, tolerance=1e-12),
        *more,
    ]


@eqx.filter_jit
def seen(modules, initial, doses, plan):
    model = Model(ROD, modules)
    done = solve(model, Schedule((doses,)), initial, plan, jnp.array([0.0, 6.0])).final
    return look(model, (doses,), done, model.prepare(), jnp.asarray(5.5), (0.8, 0.16))[0], done


def test_cells_that_are_resistant_by_name_only_change_nothing_that_is_seen():
    """With ω = 1 the sum u + r obeys the tumour's own equation: attractant, uptake, crowding, exposures, volumes."""
    u0 = 0.9 * gaussian(ROD.grid, jnp.array([1.0]), jnp.asarray(2.5))
    doses = CarrierDoses.at_sites([0.0], 2e4, [[3.0], [-2.0]], 1.5)
    bare, split = treated(), treated(Resistance(0.05, 0.5, 1.0))
    plan = make_plan(Model(ROD, bare), Schedule((doses,)), (0.0, 6.0), 0.5)
    one, done = seen(bare, {"tumour": u0}, doses, plan)
    two, parts = seen(split, {"tumour": 0.7 * u0, "resistant": 0.3 * u0}, doses, plan)
    assert float(parts.x["resistant"].max()) > 0.05
    assert one.keys() == two.keys()
    assert one.keys() > {"burden_cells", "flair_volume", "drug_mean_tumour", "drug_exposure_tumour", "rim_density"}
    for name, value in one.items():
        assert float(two[name]) == pytest.approx(float(value), rel=1e-9), name
    np.testing.assert_allclose(
        parts.x["tumour"] + parts.x["resistant"], done.x["tumour"], rtol=0, atol=1e-11 * float(done.x["tumour"].max())
    )


def test_the_ledger_closes_and_nothing_turns_negative_at_the_longest_step():
    modules = [Tumour(3.0, 3.0, 1.0), Resistance(2.0, 3.0, 0.5), Poison(1.5, 0.7)]
    model = Model(LINE, modules)
    start = {"tumour": jnp.zeros(12).at[3].set(1.0), "resistant": jnp.zeros(12).at[8].set(0.5)}
    # u loses ρ + D + E + other + μ₀ + μ_c E at most
    assert 1.0 / model.largest_step() == pytest.approx(1.0 + 6.0 + 1.5 + 0.7 + 2.0 + 4.5, rel=1e-12)
    after = end(modules, start, plan_for(modules, model.largest_step()))
    entries = balances(model)
    assert set(entries["resistant"]) == {
        "resistant_growth", "resistance_acquired", "poison_kill_resistant", "other_kill_resistant",
    }  # fmt: skip
    for field, signs in entries.items():
        assert float(after.x[field].min()) >= 0.0
        gained = float(LINE.grid.integrate(after.x[field]) - LINE.grid.integrate(start[field]))
        booked = sum(sign * float(sum(after.ledger[name])) for name, sign in signs.items())
        assert gained == pytest.approx(booked, abs=1e-13)


def test_the_taylor_remainder_is_of_second_order():
    def goal(theta, plan):
        modules = [Tumour(proliferation_per_day=theta[3]), Resistance(*theta[:3]), Poison(theta[4])]
        x = end(modules, {"tumour": jnp.linspace(0.1, 0.7, 12)}, plan).x
        return jnp.sum(x["resistant"] ** 2) + jnp.sum(x["tumour"])

    theta, along = jnp.array([0.02, 0.3, 0.1, 0.05, 0.4]), jnp.array([0.01, -0.1, 0.05, 0.02, 0.1])
    plan = plan_for([Tumour()], 0.5)
    value, slope = jax.jit(jax.value_and_grad(goal))(theta, plan)
    eps = 2.0 ** -np.arange(2, 8)
    rest = [float(goal(theta + e * along, plan) - value - e * (slope @ along)) for e in eps]
    assert np.all(np.log2(np.abs(np.divide(rest[:-1], rest[1:]))) >= 1.95)


# -- several drugs ---------------------------------------------------------------------------------


def test_drugs_together_by_either_law():
    rates, largest = [jnp.asarray(v) for v in (0.1, 0.25, 0.0, 0.3)], [jnp.asarray(v) for v in (0.2, 0.4, 0.1, 0.3)]
    assert Additive().shares(rates, largest) == rates
    shares = Bliss().shares(rates, largest)
    expected = 0.4 * (1.0 - np.prod([1.0 - float(r) / 0.4 for r in rates]))
    assert float(sum(shares)) == pytest.approx(expected, rel=1e-14)
    assert all(0.0 <= float(s) <= float(r) for s, r in zip(shares, rates, strict=True))
    assert float(shares[2]) == 0.0
    # one drug alone, or beside one that does nothing, is itself
    assert Bliss().shares(rates[:1], largest[:1]) == rates[:1]
    assert float(Bliss().shares([rates[1], jnp.zeros(())], largest[:2])[0]) == float(rates[1])
    # two: what they have in common is shared equally
    a, b = Bliss().shares([jnp.asarray(0.1), jnp.asarray(0.2)], [jnp.asarray(0.4), jnp.asarray(0.2)])
    assert (float(a), float(b)) == pytest.approx((0.1 * 0.75, 0.2 * 0.875), rel=1e-14)
    assert [float(s) for s in Bliss().shares([jnp.zeros(())] * 2, [jnp.zeros(())] * 2)] == [0.0, 0.0]


class Second(Poison):
    name: ClassVar[str] = "second"

    def hazards(self, x, q, at):
        return (Hazard("second_kill", self.drug),)


@pytest.mark.parametrize("law", [Additive(), Bliss()])
def test_two_drugs_kill_and_induce_as_their_law_says(law):
    modules = [Tumour(0.0, 0.0, 0.0), Resistance(0.0, 0.5, 0.1), Poison(0.2, 0.1), Second(0.4)]
    model = Model(LINE, modules, combination=law)
    x = {"tumour": jnp.full(12, 0.5), "resistant": jnp.full(12, 0.2)}
    dx = model.rates(x, {}, model.prepare(), jnp.zeros(()), jnp.zeros(()))[0]
    together = 0.6 if isinstance(law, Additive) else 0.4 * (1.0 - 0.5 * 0.0)
    assert float(dx["tumour"][0]) == pytest.approx(-0.5 * (together + 0.1 + 0.5 * together), rel=1e-14)
    assert float(dx["resistant"][0]) == pytest.approx(0.5 * 0.5 * together - 0.2 * (0.1 * together + 0.1), rel=1e-13)


# -- configuration ---------------------------------------------------------------------------------

TEXT = """
[tissue]
kind = "phantom"
shape = [24, 20]
[tumour]
initial = { kind = "gaussian", centre_mm = [5.0, 3.0], sigma_mm = 1.5, peak = 0.9 }
[time]
end_day = 4.0
[resistance]
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("drug_sensitivity = 1.5", "resistance.drug_sensitivity: should be less than or equal to 1"),
        ("induced = -1", "resistance.induced: should be greater than or equal to 0"),
        ("inducd = 0.1", "resistance.inducd: unknown key; did you mean 'induced'?"),
    ],
)
def test_wrong_sections_are_told_in_one_sentence(line, message):
    with pytest.raises(ConfigError) as error:
        loads(TEXT + line)
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]
