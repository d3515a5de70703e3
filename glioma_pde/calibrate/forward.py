"""From parameters to what would be measured, by the model and `solve` of every other run.

The well-mixed limit is that model on a single cell, the radial one on shells; nothing here knows which. Each subject has a
`Condition` of its own (its arm's model and schedule, its days); all conditions of a problem have the same shapes, so
that one `jax.vmap` runs them all.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..delivery import Schedule, gaussian
from ..model import Model
from ..schedule import Plan, make_plan
from ..solve import solve
from .formula import Formula
from .observation import Observation

Theta = Mapping[str, Array]

_PAUSE = 1e-3
"""Length [day] of the intervals that pad a subject with fewer measurements than another."""


class Start(eqx.Module):
    """Initial tumour from parameters ``tumour.initial.*``."""

    names: ClassVar[tuple[str, ...]] = ()

    def fields(self, model: Model, theta: Theta) -> dict[str, Array]:
        raise NotImplementedError


class Given(Start):
    """Fields that no parameter changes."""

    x: dict[str, Array] = eqx.field(default_factory=dict)

    def fields(self, model, theta):
        return self.x


class Uniform(Start):
    """u₀ the same everywhere in the tissue: ``tumour.initial.fraction``."""

    fraction: Array | float = 0.1
    names: ClassVar = ("tumour.initial.fraction",)

    def fields(self, model, theta):
        inside = model.tissue.mask.astype(model.tissue.white.dtype)
        return {"tumour": theta.get("tumour.initial.fraction", self.fraction) * inside}


class Ball(Start):
    """u₀ = peak · exp(−|x − centre|²/2σ²), or the same with a number of cells: ``tumour.initial.peak``, ``.cells`` and
    ``.sigma_mm``."""

    centre_mm: Array
    sigma_mm: Array | float
    peak: Array | float | None = None
    cells: Array | float | None = None
    names: ClassVar = ("tumour.initial.peak", "tumour.initial.cells", "tumour.initial.sigma_mm")

    def fields(self, model, theta):
        tissue, dtype = model.tissue, model.tissue.white.dtype
        sigma = jnp.asarray(theta.get("tumour.initial.sigma_mm", self.sigma_mm), dtype)
        shape = gaussian(tissue.grid, jnp.asarray(self.centre_mm, dtype), sigma) * tissue.mask.astype(dtype)
        if self.cells is None:
            return {"tumour": theta.get("tumour.initial.peak", self.peak) * shape}
        amount = theta.get("tumour.initial.cells", self.cells) / model.capacity_cells_per_mm3
        return {"tumour": amount * shape / tissue.grid.integrate(shape)}


class Condition(eqx.Module):
    """What a subject lives through.

    Attributes:
        days: instants at which it is looked at, the start first, ``(T,)`` [day].
    """

    model: Model
    schedule: Schedule
    start: Start
    plan: Plan
    days: Array


class Simulation(eqx.Module):
    """theta, condition → observables, ``(T, n)``.

    Attributes:
        derived: formulas for further parameters, applied in order.
    """

    observations: tuple[Observation, ...]
    derived: tuple[tuple[str, Formula], ...] = eqx.field(static=True, default=())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(o.name for o in self.observations)

    def complete(self, theta: Theta) -> dict[str, Array]:
        """Parameters with the derived ones."""
        full = dict(theta)
        for name, formula in self.derived:
            full[name] = formula(full)
        return full

    def __call__(self, theta: Theta, condition: Condition) -> Array:
        theta = self.complete(theta)
        model = with_parameters(condition.model, theta)

        def look(model, carry, medium, day):
            return jnp.stack([o(model, carry.x, theta) for o in self.observations])

        initial = condition.start.fields(model, theta)
        return solve(model, condition.schedule, initial, condition.plan, condition.days, save=look).saved


def with_parameters(model: Model, theta: Theta) -> Model:
    """The model with the parameters whose names are paths into it, such as ``tumour.proliferation_per_day``."""
    for name, value in theta.items():
        if _owner(model, name) is not None:
            old = _get(model, name)

            def where(m: Model, n: str = name) -> Any:
                return _get(m, n)

            model = eqx.tree_at(where, model, jnp.asarray(value, jnp.result_type(old)))
    return model


def value_of(model: Model, name: str) -> float:
    """The number at the path ``name`` of the model."""
    return float(_get(model, name))


def is_parameter(model: Model, name: str) -> bool:
    """Whether ``name`` is a path to a number of the model."""
    if _owner(model, name) is None:
        return False
    try:
        return eqx.is_array(_get(model, name)) and _get(model, name).ndim == 0
    except AttributeError:
        return False


def _owner(model: Model, name: str) -> Any:
    if name == "capacity_cells_per_mm3":
        return model
    head, _, rest = name.partition(".")
    return model[head] if rest and head in model and not rest.startswith("initial.") else None


def _get(model: Model, name: str) -> Any:
    node, parts = _owner(model, name), name.split(".")
    for part in parts if len(parts) == 1 else parts[1:]:
        node = getattr(node, part)
    return node


class Batch(eqx.Module):
    """Conditions of all subjects; what they share is kept once.

    Attributes:
        leaves: arrays of a condition, with a leading subject axis where ``axes`` says 0.
        count: of subjects. step_days: longest step.
    """

    leaves: tuple[Any, ...]
    axes: tuple[int | None, ...] = eqx.field(static=True)
    tree: Any = eqx.field(static=True)
    count: int = eqx.field(static=True)
    step_days: float = eqx.field(static=True, default=0.5)

    @classmethod
    def of(cls, conditions: Sequence[Condition], step_days: float = 0.5) -> Batch:
        """Raises: ValueError, if the conditions differ in more than numbers."""
        widths = {c.plan.lower.shape[1] for c in conditions}
        # where no block is padding, none has to be told from the others at every step
        some = len(widths) > 1 or any(c.plan.padded for c in conditions)
        plans = {id(c.plan): replace(c.plan.padded_to(c.plan.saves - 1, max(widths)), padded=some) for c in conditions}
        flat: list[tuple[list[Any], Any]] = [jax.tree.flatten(replace(c, plan=plans[id(c.plan)])) for c in conditions]
        first_shapes = [jnp.shape(v) for v in flat[0][0]]
        if any(tree != flat[0][1] or [jnp.shape(v) for v in leaves] != first_shapes for leaves, tree in flat):
            raise ValueError("The conditions of one problem need the same modules, grid, and lengths of schedules.")
        leaves, axes = [], []
        for values in zip(*(leaves for leaves, _ in flat), strict=True):
            first = values[0]
            same = all(v is first for v in values) or all(np.array_equal(v, first) for v in values)
            leaves.append(first if same else jnp.stack([jnp.asarray(v) for v in values]))
            axes.append(None if same else 0)
        return cls(tuple(leaves), tuple(axes), flat[0][1], len(conditions), step_days)

    def each(self, function, *arguments):
        """``function(condition, *arguments)`` for every subject; arguments have a leading subject axis."""

        def one(leaves, *rest):
            return function(jax.tree.unflatten(self.tree, leaves), *rest)

        return jax.vmap(one, in_axes=(list(self.axes), *(0 for _ in arguments)), axis_size=self.count)(
            list(self.leaves), *arguments
        )

    @property
    def dtype(self):
        return jax.tree.unflatten(self.tree, self.leaves).model.tissue.white.dtype

    @property
    def looks(self) -> int:
        """Instants at which each subject is looked at."""
        return jax.tree.unflatten(self.tree, self.leaves).days.shape[-1]

    @property
    def cells(self) -> int:
        """Of all subjects' grids."""
        return self.count * jax.tree.unflatten(self.tree, self.leaves).model.tissue.grid.size

    def split(self) -> list[Condition]:
        """The condition of every subject."""
        return [
            jax.tree.unflatten(
                self.tree, [v if a is None else v[i] for v, a in zip(self.leaves, self.axes, strict=True)]
            )
            for i in range(self.count)
        ]

    def on(self, days: Sequence[float]) -> tuple[Batch, np.ndarray]:
        """The same subjects looked at on other days, and the places of these days among all that are kept, ``(S, T)``."""
        each = self.split()
        wanted = np.asarray(days, float)
        batch, looked = conditions(
            [c.model for c in each], [c.schedule for c in each], [c.start for c in each], [wanted] * self.count, self.step_days
        )  # fmt: skip
        return batch, np.asarray([[int(np.argmin(np.abs(row - d))) for d in wanted] for row in looked])


def conditions(
    models: Sequence[Model],
    schedules: Sequence[Schedule],
    starts: Sequence[Start],
    times: Sequence[np.ndarray],
    step_days: float,
    first_day: float = 0.0,
) -> tuple[Batch, np.ndarray]:
    """A condition for each subject, and the days at which each is looked at, ``(S, T)``.

    Args:
        models, schedules, starts: of each subject's arm.
        times: days of its measurements.
        step_days: longest step; the caller sees to it that the models' bounds hold for all parameters.

    Raises:
        ValueError: if the arms differ in more than numbers.
    """
    stride = _stride(times, first_day)
    days = []
    for t, model, schedule in zip(times, models, schedules, strict=True):
        # an event within an interval would cut it into shorter steps, for every subject
        inner = [*(e.day for e in schedule.events), *model.breakpoints()]
        cuts = np.concatenate([[first_day], t, *(np.asarray(i, float).ravel() for i in inner)])
        cuts = cuts[(cuts >= first_day) & (cuts <= t.max())]
        days.append(_split(np.unique(np.round(cuts, 9)), stride))
    longest = max(2, *(len(d) for d in days))
    padded = [np.append(d, d[-1] + _PAUSE * np.arange(1, longest - len(d) + 1)) for d in days]
    made: dict[tuple[int, int, int, bytes], Condition] = {}
    out = []
    for model, schedule, start, d in zip(models, schedules, starts, padded, strict=True):
        key = (id(model), id(schedule), id(start), d.tobytes())
        if key not in made:
            plan = make_plan(model, schedule, d.tolist(), step_days)
            made[key] = Condition(model, schedule, start, plan, jnp.asarray(d, model.tissue.white.dtype))
        out.append(made[key])
    return Batch.of(out, step_days), np.stack(padded)


def _stride(times: Sequence[np.ndarray], first_day: float) -> float:
    """Usual time between measurements: all intervals of a batch take the steps of the longest, so no interval may be
    much longer than the others."""
    gaps = np.concatenate([np.diff(np.unique(np.append(first_day, t))) for t in times])
    return 1.01 * float(np.median(gaps[gaps > 0])) if np.any(gaps > 0) else np.inf


def _split(days: np.ndarray, stride: float) -> np.ndarray:
    parts = [days[:1]]
    for a, b in itertools.pairwise(days):
        parts.append(np.linspace(a, b, 1 + max(1, int(np.ceil((b - a) / stride - 1e-9))))[1:])
    return np.concatenate(parts)
