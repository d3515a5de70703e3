"""Cost of a gradient of the whole therapy: reverse mode through `solve`, in forward runs and in states held.

By growth, dose amounts, days and positions, and the initial tumour at once, of the burden on the last day.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from glioma_pde.biology.attractant import Attractant
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug
from glioma_pde.biology.prodrug import Boluses, Courses, Prodrug
from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build
from glioma_pde.config import load
from glioma_pde.delivery import CarrierDoses, Schedule, gaussian
from glioma_pde.model import Model
from glioma_pde.schedule import Plan, make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

from .kernels import n_text
from .timing import Effort, compiled

LARGEST_COST = 6.0
"""Forward runs that a gradient may cost."""

SPARE_STATES = 25
"""States that may be held beyond 2 √(number of steps)."""


@dataclass
class Gradient:
    """One line of the table.

    Attributes:
        steps: of the run. state_bytes: all transported and quasi-steady fields once.
        held_bytes: scratch memory of the compiled gradient, as the compiler plans it.
        forward_s, gradient_s: wall time of each timed call.
    """

    name: str
    shape: tuple[int, ...]
    steps: int
    state_bytes: int
    held_bytes: int
    compile_s: float
    forward_s: list[float] = field(default_factory=list)
    gradient_s: list[float] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Forward runs that the gradient takes: the best of each, which others' work disturbs least."""
        return min(self.gradient_s) / min(self.forward_s)

    @property
    def states(self) -> float:
        return self.held_bytes / self.state_bytes

    @property
    def most_states(self) -> float:
        return 2.0 * math.sqrt(self.steps) + SPARE_STATES

    def result(self) -> dict[str, Any]:
        """Ready for JSON."""
        medians = {f"{k}_s_median": statistics.median(getattr(self, f"{k}_s")) for k in ("forward", "gradient")}
        more = {"cost": self.cost, "most_cost": LARGEST_COST, "states": self.states, "most_states": self.most_states}
        return asdict(self) | medians | more


Start = dict[str, Any]


def burden(free: Any, fixed: Any, plan: Plan, days: Any) -> Any:
    """Tumour cells on the last day; ``free`` has the arrays to differentiate by."""
    model, schedule, initial = eqx.combine(free, fixed)

    def total(model, carry, medium, day):
        return model.tissue.grid.integrate(carry.x["tumour"])

    return model.capacity_cells_per_mm3 * solve(model, schedule, initial, plan, days, save=total).saved[-1]


def parts(model: Model, schedule: Schedule, initial: Start) -> tuple[Any, Any]:
    """What to differentiate by (growth, doses, initial fields), and the rest."""
    whole = (model, schedule, initial)
    doses = [k for k, e in enumerate(schedule.events) if isinstance(e, CarrierDoses)]

    def chosen(t):
        arrays = [t[0]["tumour"].proliferation_per_day, *jax.tree.leaves(t[2])]
        return arrays + [x for k in doses for e in [t[1].events[k]] for x in (e.day, e.cells, e.sites_mm)]

    nothing = jax.tree.map(lambda _: False, whole)
    wanted = eqx.tree_at(chosen, nothing, [True] * len(chosen(whole)))
    return eqx.partition(whole, wanted)


def measured(
    name: str, model: Model, schedule: Schedule, initial: Start, plan: Plan, days: Any, repeats: int
) -> Gradient:
    """Forward run and gradient of one model, timed in turn."""
    free, fixed = parts(model, schedule, initial)
    arrays, rest = eqx.partition(fixed, eqx.is_array)
    args = (free, arrays, plan, days)

    def value(free, arrays, plan, days):
        return burden(free, eqx.combine(arrays, rest), plan, days)

    forward, *_ = compiled(value, *args)
    gradient, trace_s, compile_s = compiled(jax.grad(value), *args)
    held = gradient.memory_analysis()
    shape, size = model.tissue.grid.shape, model.tissue.white.dtype.itemsize
    case = Gradient(
        name=f"{name}_{n_text(shape)}",
        shape=shape,
        steps=plan.steps,
        state_bytes=math.prod(shape) * size * (len(model.fields) + len(model.memory)),
        held_bytes=held.temp_size_in_bytes if held is not None else 0,
        compile_s=trace_s + compile_s,
    )
    calls: list[tuple[Callable[..., Any], list[float]]] = [(forward, case.forward_s), (gradient, case.gradient_s)]
    for program, _ in calls:
        jax.block_until_ready(program(*args))
    for _ in range(repeats):
        for program, seconds in calls:
            start = time.perf_counter()
            jax.block_until_ready(program(*args))
            seconds.append(time.perf_counter() - start)
    return case


def plane(n: int, days: float, repeats: int, dtype=jnp.float32) -> Gradient:
    """The whole therapy in a plane head of ``n``² cells of 1 mm, observed on the last day."""
    tissue = Tissue.phantom("head", (n, n), 1.0, dtype=dtype)
    courses = Courses(jnp.array([1.0, 15.0]), jnp.array([8.0, 22.0]), jnp.array([150.0, 150.0]))
    model = Model(
        tissue, [Tumour(), Carriers(), Attractant(), Prodrug(courses, Boluses.none()), Drug()], ledger=False
    )  # fmt: skip
    doses = CarrierDoses.at_sites([0.5, 14.5], 4e5, [[-5.0, 0.0], [5.0, 0.0]], sigma_mm=2.0)
    schedule = jax.tree.map(lambda a: jnp.asarray(a, dtype), Schedule((doses,)))
    initial = {"tumour": 0.9 * gaussian(tissue.grid, jnp.array([1.0, 0.5], dtype), jnp.asarray(2.5, dtype))}
    saves = [0.0, days]
    plan = make_plan(model, schedule, saves, min(0.5, model.largest_step()))
    return measured("gradient_plane", model, schedule, initial, plan, jnp.asarray(saves, dtype), repeats)


def brain(config: Path, spacing_mm: float, days: float, repeats: int) -> Gradient:
    """The treated arm of a configuration in the brain, on a coarse grid; observed on the last day."""
    arms = [a for a in load(str(config), [f"tissue.spacing_mm={spacing_mm}"]).arms if a.drug is not None]
    experiment = build(arms[0])
    whole = experiment.model
    model = Model(whole.tissue, whole.modules, whole.capacity_cells_per_mm3, whole.stepper, ledger=False)
    saves = [0.0, days]
    plan = make_plan(model, experiment.schedule, saves, experiment.step_days)
    dtype = whole.tissue.white.dtype
    initial = {k: jnp.asarray(v, dtype) for k, v in experiment.initial.items()}
    return measured("gradient_brain", model, experiment.schedule, initial, plan, jnp.asarray(saves, dtype), repeats)


def gradient_cases(config: Path, effort: Effort) -> list[Gradient]:
    """The whole therapy in a plane, and in the brain of ``config`` at 4 mm."""
    days = 4.0 * effort.days[1]
    return [plane(96, days, effort.repeats), brain(config, 4.0, days, effort.repeats)]


def gradient_table(cases: list[dict[str, Any]]) -> list[str]:
    """The result as lines of text."""
    lines = [f"{'gradient':<32}{'steps':>7}{'forward s':>11}{'gradient s':>12}{'cost':>7}{'states':>8}{'allowed':>9}"]
    for c in cases:
        lines.append(
            f"{c['name']:<32}{c['steps']:>7}{min(c['forward_s']):>11.3f}{min(c['gradient_s']):>12.3f}"
            f"{c['cost']:>7.1f}{c['states']:>8.1f}{c['most_states']:>9.1f}"
        )
    return lines
