"""The PDE system as on paper: for each transported field x

    ∂t x = Σ transfers into x − Σ transfers out of x + ∇·(D∇x) − ∇·(v φ(x)),
           and for tumour fields − Σ sensitivity · hazard · x,

with quasi-steady quantities (attractant, drug, …) as functions of the fields. `Model` collects the modules
of `biology`, orders them by what they need of each other, and takes one step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import alone
from .biology.base import SUBSTANCE, TUMOUR, Context, Event, FieldSpec, Flux, Hazard, Module, Transfer, total
from .biology.laws import Additive, Combination
from .numerics.diffusion import diffuse, materialise
from .numerics.elliptic import SOLVED
from .numerics.stepping import SSPRK2, Stepper, add_compensated
from .numerics.taxis import advect
from .parameters import default
from .tissue import SHAPING, Tissue

Ledger = dict[str, tuple[Array, Array]]

_TUMOUR_CELLS = FieldSpec("tumour_cells", "1", "density of all tumour cells, fraction of the carrying capacity")


class Carry(NamedTuple):
    """The whole state of a run; what a checkpoint holds.

    Attributes:
        x: transported fields: densities as fractions of the carrying capacity, concentrations [µM].
        warm: last iterates of the quasi-steady fields; they start the next solve and carry no mass.
        ledger: integrals over space and time of every transfer, event and exposure
            [density · mm³, or µM · mm³ · day], as compensated (sum, remainder) pairs.
        anatomy: the maps of the tissue that events may alter, as they are now; empty where none does.
    """

    x: dict[str, Array]
    warm: dict[str, Array]
    ledger: Ledger
    anatomy: dict[str, Array] = {}  # noqa: RUF012 - never written to


class Model(eqx.Module):
    """Tissue plus modules plus a time step. A pytree: parameters are the leaves of the modules.

    Attributes:
        capacity_cells_per_mm3: K.
        ledger: keep the ledger (two to three extra reductions per stage).
        combination: what several drugs do together.
    """

    tissue: Tissue
    modules: tuple[Module, ...]
    capacity_cells_per_mm3: Array
    stepper: Stepper
    ledger: bool = eqx.field(static=True)
    combination: Combination

    def __init__(
        self,
        tissue: Tissue,
        modules: Sequence[Module],
        capacity_cells_per_mm3: Array | float = default("capacity_cells_per_mm3"),
        stepper: Stepper | None = None,
        ledger: bool = True,
        combination: Combination | None = None,
    ):
        """Order and check the modules.

        Parameters given as Python numbers become arrays of the tissue's precision.

        Raises:
            ValueError: if a module lacks what it needs, or two modules share a field or need each other.
        """
        dtype = tissue.white.dtype
        self.tissue = tissue
        self.modules = _as_arrays(_in_order(modules), dtype)
        self.capacity_cells_per_mm3 = jnp.asarray(capacity_cells_per_mm3, dtype)
        self.stepper = stepper or SSPRK2()
        self.ledger = ledger
        self.combination = combination or Additive()

    # -- names ------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        """The module of that name."""
        for module in self.modules:
            if module.name == name:
                return module
        raise KeyError(f"The model has no module {name!r}; it has {[m.name for m in self.modules]}.")

    def __contains__(self, name: str) -> bool:
        return any(m.name == name for m in self.modules)

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """Transported fields."""
        return tuple(f for m in self.modules for f in m.fields)

    @property
    def tumour(self) -> tuple[str, ...]:
        """Names of the tumour fields."""
        return tuple(f.name for f in self.fields if f.role == TUMOUR)

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the fields of cells."""
        return tuple(f.name for f in self.fields if f.role != SUBSTANCE)

    @property
    def memory(self) -> tuple[FieldSpec, ...]:
        """Quasi-steady fields that start from their last iterate."""
        return tuple(f for m in self.modules for f in m.memory)

    @property
    def outputs(self) -> tuple[FieldSpec, ...]:
        """Every field-shaped quantity worth storing."""
        several = (_TUMOUR_CELLS,) if len(self.tumour) > 1 else ()
        kept = tuple(f for f in self.memory if f.stored)
        return self.fields + kept + several + tuple(f for m in self.modules for f in m.outputs)

    def breakpoints(self) -> tuple[Array, ...]:
        """Times at which rates are not smooth [day]."""
        return tuple(b for m in self.modules for b in m.breakpoints())

    def without_carriers(self) -> Model:
        """The same system while fewer than one carrier is alive: what only carriers bring about is left out.

        It takes and returns the same carry; what the missing modules keep there rests.
        """
        modules = tuple(m for m in (module.without_carriers() for module in self.modules) if m is not None)
        return eqx.tree_at(lambda model: model.modules, self, modules)

    # -- the system -------------------------------------------------------------------------

    def prepare(self) -> dict[str, Any]:
        """Conductances and other anatomy-bound arrays of every module."""
        return {m.name: m.prepare(self.tissue) for m in self.modules}

    def now(self, anatomy: Mapping[str, Array], medium) -> tuple[Model, Any]:
        """The model in the tissue of an instant, and what its modules prepare of it.

        Args:
            anatomy: from the carry. medium: what `prepare` returned, which serves as long as no conductance changes.
        """
        if not anatomy:
            return self, medium
        model = eqx.tree_at(lambda m: m.tissue, self, self.tissue.with_maps(anatomy))
        return model, model.prepare() if anatomy.keys() & set(SHAPING) else medium

    def start(self, initial: Mapping[str, Array], events: Sequence[Event] = ()) -> Carry:
        """The carry at the beginning: fields not given are zero, substances in equilibrium with the cells.

        Args:
            events: what will happen; their entries are added to the ledger.

        Raises:
            ValueError: for a field the model does not have, or one of another shape.
        """
        names = [f.name for f in self.fields]
        dtype, shape = self.tissue.white.dtype, self.tissue.grid.shape
        for name, value in initial.items():
            if name not in names:
                raise ValueError(f"Initial field {name!r} is not in the model, which has {names}.")
            if jnp.shape(value) != shape:
                raise ValueError(f"Initial {name!r} has shape {jnp.shape(value)}, the grid has {shape}.")
        zeros = jnp.zeros(shape, dtype)
        inside = self.tissue.mask
        x = {n: jnp.where(inside, jnp.asarray(initial.get(n, zeros), dtype), 0.0) for n in names}
        zero = jnp.zeros((), dtype)
        at = Context(self.tissue.grid, self.tissue, None, self.capacity_cells_per_mm3, zero, zero, self.tumour)
        for module in self.modules:
            x |= {n: v for n, v in module.at_start(x, at).items() if n not in initial}
        warm = {f.name: zeros for f in self.memory}
        return self.expect(events, Carry(x, warm, dict.fromkeys(self._ledger_names(x, warm), (zero, zero))))

    def expect(self, events: Sequence[Event], carry: Carry) -> Carry:
        """The carry with the ledger entries of ``events`` and the maps that they alter; those it has are kept.

        Raises:
            ValueError: if an event needs a field or a quantity that the model does not have, or a map that the
                tissue does not have.
        """
        for event in events:
            missing = [n for n in event.requires() if not self._has(n, carry, events)]
            if missing:
                raise ValueError(f"{type(event).__name__} need {missing}, which no module of the model provides.")
        carry = carry._replace(anatomy=self._maps(events) | carry.anatomy)
        if not self.ledger:
            return carry
        zero = jnp.zeros((), self.tissue.white.dtype)
        names = {name for event in events for name in event.entries(self)} - set(carry.ledger)
        return carry._replace(ledger=carry.ledger | dict.fromkeys(sorted(names), (zero, zero)))

    def happen(self, event: Event, i: Array, carry: Carry, medium) -> Carry:
        """The carry after the ``i``-th of these events."""
        here, medium = self.now(carry.anatomy, medium)

        def quantities():
            return here.quantities(carry.x, carry.warm, medium, event.day[i], jnp.zeros_like(event.day[i]))

        x, amounts = event.jump(carry.x, here, i, quantities)
        if carry.anatomy:
            maps = event.remodel(carry.x, here, i)
            carry = carry._replace(anatomy={n: maps.get(n, old) for n, old in carry.anatomy.items()})
            if "mask" in maps:  # quasi-steady fields vanish outside it, the guesses of their solvers too
                inside = carry.anatomy["mask"]
                carry = carry._replace(warm={n: jnp.where(inside, v, 0.0) for n, v in carry.warm.items()})
        if not self.ledger:
            return carry._replace(x=x)
        booked = {k: add_compensated(carry.ledger[k], v) for k, v in amounts.items()}
        return carry._replace(x=x, ledger={**carry.ledger, **booked})

    def context(self, module: Module, medium: Mapping[str, Any], t, dt) -> Context:
        return Context(
            self.tissue.grid, self.tissue, medium[module.name], self.capacity_cells_per_mm3, t, dt, self.tumour
        )

    def quantities(self, x, warm, medium, t, dt) -> dict[str, Array]:
        """Shared quantities of all modules at fields ``x``; rates are means over [t, t + dt]."""
        q: dict[str, Array] = dict(warm)
        q["crowding"] = self._crowding(x)
        q["cells"] = sum(x[name] for name in self.cells)  # type: ignore[assignment]
        q |= {"tumour_cells": total_tumour(self, x)} if self.tumour else {}
        for module in self.modules:
            new = module.quantities(x, q, self.context(module, medium, t, dt))
            q |= materialise(new) if new else {}
        return q

    def rates(self, x, warm, medium, t, dt) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
        """dx/dt, the ledger's rates (integrals over space), and the quasi-steady iterates."""
        grid = self.tissue.grid
        q = self.quantities(x, warm, medium, t, dt)
        dx = {name: jnp.zeros_like(value) for name, value in x.items()}
        flows: dict[str, Array] = {}
        for statement in self._statements(x, q, medium, t, dt):
            if isinstance(statement, Transfer):
                if statement.source is not None:
                    dx[statement.source] = dx[statement.source] - statement.rate
                if statement.sink is not None:
                    dx[statement.sink] = dx[statement.sink] + statement.rate
                if self.ledger:
                    flows[statement.name] = grid.integrate(statement.rate)
            else:
                dx[statement.field] = dx[statement.field] + _transport(grid, x[statement.field], statement)
        if self.ledger:
            for module in self.modules:
                exposed = module.exposures(x, q, self.context(module, medium, t, dt))
                flows |= {k: grid.integrate(v) for k, v in exposed.items()}
        return dx, flows, {f.name: lax.stop_gradient(q[f.name]) for f in self.memory}

    def step(self, carry: Carry, medium, t: Array, dt: Array) -> Carry:
        """One time step from t to t + dt; the ledger gets the weights of the stepper, so it closes."""
        return self.steps(carry, medium, lambda k: (t, dt), 1)

    def steps(self, carry: Carry, medium, moment: Callable[[Array], tuple[Array, Array]], count: int) -> Carry:
        """``count`` steps of one length; ``moment(k)`` is when step k begins, and that length."""
        if alone.is_alone(self, medium):
            return alone.steps(self, carry, medium, moment, count)
        return self.steps_of_all(carry, medium, moment, count)

    def steps_of_all(self, carry: Carry, medium, moment: Callable[[Array], tuple[Array, Array]], count: int) -> Carry:
        """The same, whatever the modules are."""
        if count == 1:
            return self._step(carry, medium, *moment(jnp.zeros((), int)))
        return lax.scan(lambda c, k: (self._step(c, medium, *moment(k)), None), carry, jnp.arange(count))[0]

    def _step(self, carry: Carry, medium, t: Array, dt: Array) -> Carry:
        none = {k: jnp.zeros_like(carry.ledger[k][0]) for k in carry.ledger}

        @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(SOLVED))
        def rhs(y, warm):
            dx, flows, new = self.rates(y[0], warm, medium, t, dt)
            return (dx, {**none, **flows}), {**warm, **new}

        (x, flows), warm = self.stepper.step(rhs, (carry.x, none), carry.warm, dt)
        ledger = {**carry.ledger, **{k: add_compensated(carry.ledger[k], v) for k, v in flows.items()}}
        return carry._replace(x=x, warm=warm, ledger=ledger)

    def loss_rates(self, medium) -> dict[str, Array]:
        """Fastest rate [1/day] at which each field can be emptied, diffusion counted by the stepper's reach."""
        zero = jnp.zeros((), self.tissue.white.dtype)
        limits = self._limits(medium)
        hazards = self._bounds(medium, limits)
        limits["drug_hazard"] = sum((h.rate for h in hazards if h.drug), zero)
        bounds = {f.name: (zero, zero) for f in self.fields}
        for module in self.modules:
            at = self.context(module, medium, zero, zero)
            for name, (diffusion, other) in module.loss_bound(at, limits).items():
                if name in bounds:
                    bounds[name] = (bounds[name][0] + diffusion, bounds[name][1] + other)
        for module in self.modules:
            for field in module.fields:
                if field.role == TUMOUR:
                    diffusion, other = bounds[field.name]
                    bounds[field.name] = diffusion, sum((module.sensitivity(h.drug) * h.rate for h in hazards), other)
        return {n: jnp.asarray(d / self.stepper.reach + o, zero.dtype) for n, (d, o) in bounds.items()}

    def loss_rate(self, medium) -> Array:
        """The fastest of the `loss_rates` [1/day]."""
        return jnp.max(jnp.stack(list(self.loss_rates(medium).values())))

    def largest_steps(self) -> dict[str, float]:
        """For each field the longest step [day] at which it stays positive and bounded. Needs concrete parameters."""
        rates = {name: float(rate) for name, rate in jax.device_get(_loss_rates(self, prepare(self))).items()}
        return {name: 1.0 / rate if rate > 0 else float("inf") for name, rate in rates.items()}

    def largest_step(self) -> float:
        """The longest step [day] for which positivity and bounds are guaranteed. Needs concrete parameters."""
        return min(self.largest_steps().values())

    # -- internals --------------------------------------------------------------------------

    def _has(self, name: str, carry: Carry, events: Sequence[Event]) -> bool:
        """Whether there is such a field, shared quantity or map of the tissue."""
        if name in {f.name for f in dataclasses.fields(self.tissue)}:
            return getattr(self.tissue, name) is not None or any(name in e.alters() for e in events)
        given = {"crowding", "cells", "tumour_cells"} if self.tumour else {"crowding", "cells"}
        return name in carry.x or name in given or any(name in m.provides for m in self.modules)

    def _maps(self, events: Sequence[Event]) -> dict[str, Array]:
        """Maps of the tissue that events alter, as far as anything is computed from them, as they are at the start."""
        altered = {name for e in events for name in e.alters()}
        read = {*SHAPING, *(name for e in events for name in e.requires())}
        return {name: self.tissue.map_of(name) for name in sorted(altered & read)}

    def _crowding(self, x) -> Array:
        total = None
        for module in self.modules:
            for name, weight in module.occupies().items():
                part = weight * x[name]
                total = part if total is None else total + part
        return jnp.zeros(self.tissue.grid.shape, self.tissue.white.dtype) if total is None else total

    def _limits(self, medium) -> dict[str, Array]:
        zero = jnp.zeros((), self.tissue.white.dtype)
        limits: dict[str, Array] = {}
        for module in self.modules:
            limits |= module.limits(self.context(module, medium, zero, zero), limits)
        return limits

    def _bounds(self, medium, limits) -> list[Hazard]:
        """Upper bounds of all hazards."""
        zero = jnp.zeros((), self.tissue.white.dtype)
        return [h for m in self.modules for h in m.hazard_bounds(self.context(m, medium, zero, zero), limits)]

    def _statements(self, x, q, medium, t, dt) -> Iterator[Transfer | Flux]:
        """All transfers, those of the hazards included, and all fluxes."""
        at = {m.name: self.context(m, medium, t, dt) for m in self.modules}
        hazards = self._combined([h for m in self.modules for h in m.hazards(x, q, at[m.name])], medium)
        drugs = [h.rate for h in hazards if h.drug]
        q = {**q, "drug_hazard": sum(drugs[1:], drugs[0])} if drugs else q
        for module in self.modules:
            yield from module.transfers(x, q, at[module.name])
            for field in module.fields:
                for hazard in hazards if field.role == TUMOUR else ():
                    name = hazard.name if field.name == "tumour" else f"{hazard.name}_{field.name}"
                    rate = module.sensitivity(hazard.drug) * hazard.rate
                    yield Transfer(name, field.name, None, rate * x[field.name])
            yield from module.fluxes(x, q, at[module.name])

    def _combined(self, hazards: list[Hazard], medium) -> list[Hazard]:
        """The hazards with those of drugs as they act together."""
        drugs = [h for h in hazards if h.drug]
        if len(drugs) < 2:
            return hazards
        largest = {h.name: h.rate for h in self._bounds(medium, self._limits(medium))}
        shares = self.combination.shares([h.rate for h in drugs], [largest[h.name] for h in drugs])
        joint = {h.name: s for h, s in zip(drugs, shares, strict=True)}
        return [h._replace(rate=joint.get(h.name, h.rate)) for h in hazards]

    def _ledger_names(self, x, warm) -> list[str]:
        if not self.ledger:
            return []

        def names(x, warm):
            zero = jnp.zeros((), self.tissue.white.dtype)
            return self.rates(x, warm, self.prepare(), zero, zero)[1]

        return list(jax.eval_shape(names, x, warm))


@jax.jit
def prepare(model: Model) -> dict[str, Any]:
    """What every module prepares of the anatomy, compiled once for the checks before a run and the run itself."""
    return model.prepare()


@jax.jit
def _loss_rates(model: Model, medium) -> dict[str, Array]:
    return model.loss_rates(medium)


def total_tumour(model: Model, x: Mapping[str, Array]) -> Array:
    """Density of all tumour cells."""
    return total(x, model.tumour)


def _transport(grid, value: Array, flux: Flux) -> Array:
    """−∇·(−D∇x + v φ(x)) [1/day]."""
    out = jnp.zeros_like(value) if flux.g is None else diffuse(grid, value, flux.g)
    if flux.velocity is None or flux.factor is None:
        return out
    return out + advect(grid, value, flux.velocity, flux.factor, flux.occupied)


def _as_arrays(tree, dtype):
    """Python numbers among the leaves become arrays; real arrays take the model's precision."""

    def convert(leaf):
        if isinstance(leaf, bool):
            return leaf
        if isinstance(leaf, int | float):
            return jnp.asarray(np.asarray(leaf, dtype), dtype)
        if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(leaf, dtype)
        return leaf

    return jax.tree.map(convert, tree)


def _in_order(modules: Sequence[Module]) -> tuple[Module, ...]:
    """Modules sorted so that every quantity is computed before it is read."""
    fields = [f.name for m in modules for f in m.fields]
    if len(set(fields)) != len(fields) or len({m.name for m in modules}) != len(modules):
        raise ValueError(f"Two modules share a name or a field: {[m.name for m in modules]}.")
    provided = {q for m in modules for q in m.provides}
    for m in modules:
        missing = [n for n in m.needs if n not in provided and n not in fields]
        if missing:
            raise ValueError(f"Module {m.name!r} needs {missing}, which no module of the model provides.")
    waiting, done, known = list(modules), [], set(fields) | {"crowding", "cells", "tumour_cells"}
    while waiting:
        ready = [
            m for m in waiting
            if all(n in known or n in m.provides for n in m.needs)
            and all(n in known or n not in provided or n in m.provides for n in m.uses)
        ]  # fmt: skip
        if not ready:
            raise ValueError(f"Modules {[m.name for m in waiting]} need each other's quantities in a circle.")
        done += ready
        known |= {q for m in ready for q in m.provides}
        waiting = [m for m in waiting if m not in ready]
    return tuple(done)
