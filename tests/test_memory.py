"""What a reverse pass holds at once: some 2 √N states for N steps, however the save days lie."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.biology.attractant import Attractant
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug
from glioma_pde.biology.prodrug import Boluses, Courses, Prodrug
from glioma_pde.biology.tumour import Tumour
from glioma_pde.delivery import CarrierDoses, Schedule, gaussian
from glioma_pde.model import Model
from glioma_pde.schedule import make_plan
from glioma_pde.solve import _groups, solve
from glioma_pde.tissue import Tissue

TISSUE = Tissue.phantom("head", (96, 96), 1.0)
START = 0.9 * gaussian(TISSUE.grid, jnp.array([1.0, 0.5]), jnp.asarray(2.5))


def states_held(model: Model, schedule: Schedule, intervals: int, days: float) -> tuple[float, int]:
    """Scratch memory of a compiled gradient in states (all the arrays of a carry), and the number of steps."""
    saves = np.linspace(0.0, days, intervals + 1)
    plan = make_plan(model, schedule, saves, 0.5)

    def burden(rho, plan):
        changed = eqx.tree_at(lambda m: m["tumour"].proliferation_per_day, model, rho)
        solution = solve(
            changed, schedule, {"tumour": START}, plan, jnp.asarray(saves),
            save=lambda m, carry, medium, day: m.tissue.grid.integrate(carry.x["tumour"]),
        )  # fmt: skip
        return solution.saved[-1]

    compiled = jax.jit(jax.grad(burden)).lower(jnp.asarray(0.03), plan).compile()
    one = START.nbytes * (len(model.fields) + len(model.memory))
    return compiled.memory_analysis().temp_size_in_bytes / one, plan.steps


@pytest.mark.parametrize(("intervals", "days"), [(1, 115.0), (115, 115.0), (10, 500.0)])
def test_a_gradient_holds_two_roots_of_its_steps(intervals, days):
    held, steps = states_held(Model(TISSUE, [Tumour()], ledger=False), Schedule(), intervals, days)
    assert steps >= 230
    assert held <= 2 * np.sqrt(steps) + 25


@pytest.mark.slow
def test_so_does_that_of_the_whole_therapy():
    courses = Courses(jnp.array([1.0]), jnp.array([8.0]), jnp.array([150.0]))
    model = Model(TISSUE, [Tumour(), Carriers(), Attractant(), Prodrug(courses, Boluses.none()), Drug()])
    doses = CarrierDoses.at_sites([0.5], 4e5, [[-5.0, 0.0], [5.0, 0.0]], sigma_mm=2.0)
    held, steps = states_held(model, Schedule((doses,)), 1, 115.0)
    assert held <= 2 * np.sqrt(steps) + 25


@pytest.mark.parametrize(
    ("intervals", "blocks"), [(1, 1), (1, 17), (17, 1), (3, 40), (40, 3), (360, 1), (1, 1009), (31, 33)]
)
def test_groups_cover_all_blocks_with_few_to_spare(intervals, blocks):
    some, few = _groups(intervals, blocks)
    rounds = -(-intervals // some), -(-blocks // few)
    assert some == 1 or few == blocks  # whole intervals, or the blocks of each
    spare = rounds[0] * some * rounds[1] * few / (intervals * blocks) - 1
    assert 0 <= spare <= 0.2
    held = rounds[0] * rounds[1] + 2 * some * few
    assert held <= max(2 * np.sqrt(2 * intervals * blocks) + max(some, few) + 2, 33)
