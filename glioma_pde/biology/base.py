"""What a piece of biology is to the solver.

A module owns its parameters (its leaves), names the fields it adds, and says what it does to them by
*named* transfers (source → sink, a rate field), hazards to tumour cells, fluxes, and shared quantities. It never
returns a net rate: the ledger, the exposures and the step bound are read off the same statements.
An `Event` is what happens at an instant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..grid import Grid
from ..numerics.diffusion import Faces, Links
from ..tissue import Tissue

DENSEST = 2.0
"""Carrier density up to which step bounds hold where a law has no saturation (linear drug kill, direct kill)."""

Box = tuple[Any, Any]
Fields = Mapping[str, Array]
Quantities = Mapping[str, Array]


TUMOUR, CELLS, SUBSTANCE = "tumour", "cells", "substance"
"""Roles of transported fields: cells of the tumour, other cells, and concentrations."""


def refuse_outside(low: float, high: float = math.inf, **values: Any) -> None:
    """Doses and fractions given from Python; what is traced, or stands in for an array, is taken as it is.

    Raises:
        ValueError: naming all values that are not finite or not within [low, high].
    """
    wrong = []
    for name, value in values.items():
        if isinstance(value, jax.core.Tracer) or not isinstance(value, Array | np.ndarray | int | float | list | tuple):
            continue
        found = np.asarray(value, float).ravel()
        bad = found[~((found >= low) & (found <= high) & np.isfinite(found))]
        if bad.size:
            wrong.append(f"{name} {bad[0]:g}")
    if wrong:
        most = f"from {low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more" if low > -math.inf else ""
        raise ValueError(f"Values must be finite{most and ', '}{most}, not {', '.join(wrong)}.")


class FieldSpec(NamedTuple):
    """A quantity on the grid, transported or quasi-steady.

    Attributes:
        role: of a transported field. Fields in the role `TUMOUR` move and grow as the tumour does, die of every
            hazard, and together are what a scan shows and the burden counts. Substances (and what else is no cell) take
            no room.
        everywhere: not confined to where cells are, so that nothing less than the whole tissue can be computed.
        stored: worth keeping in the run file; said of quasi-steady fields.
    """

    name: str
    unit: str
    long_name: str
    role: str = CELLS
    everywhere: bool = False
    stored: bool = True


class Observable(NamedTuple):
    """A scalar time series.

    Attributes:
        outcome: which of its values the summary of a run keeps: ``"last"``, ``"max"``, or none.
    """

    name: str
    unit: str
    long_name: str
    outcome: str = ""


class Transfer(NamedTuple):
    """``rate`` [density/day, or µM/day] leaves ``source`` and enters ``sink``; ``None`` stands for outside the model."""

    name: str
    source: str | None
    sink: str | None
    rate: Array


class Hazard(NamedTuple):
    """Every tumour cell dies at ``rate`` [1/day], times the sensitivity of its field.

    Attributes:
        name: of the ledger entry; entries of tumour fields other than ``tumour`` append theirs.
        rate: a field, or a scalar where it is the same everywhere.
        drug: whether it is a drug's; drugs act together by the model's law of combination.
    """

    name: str
    rate: Array
    drug: bool = True


class Flux(NamedTuple):
    """Transport of a field: −∇·(−D∇x + v φ(x)).

    Attributes:
        g: diffusive conductances [1/day] or ``None``.
        velocity: face speeds [mm/day] or ``None``; ``factor`` from `numerics.taxis.face_speed_factor`.
        occupied: N of the volume-filling law, or ``None``.
    """

    field: str
    g: Faces | Links | None = None
    velocity: Faces | None = None
    factor: Faces | None = None
    occupied: Array | None = None


class Context(NamedTuple):
    """Where and when a module is evaluated.

    Attributes:
        medium: what `Module.prepare` returned for this module.
        capacity: K [cells/mm³].
        t, dt: start and length of the step [day]: fast kinetics enter as means over it.
        tumour: names of the tumour fields.
    """

    grid: Grid
    tissue: Tissue
    medium: Any
    capacity: Array
    t: Array
    dt: Array
    tumour: tuple[str, ...] = ("tumour",)


class Module(eqx.Module):
    """A piece of biology. Override what applies; the defaults do nothing."""

    name: ClassVar[str]
    fields: ClassVar[tuple[FieldSpec, ...]] = ()
    """Transported fields this module adds."""
    memory: ClassVar[tuple[FieldSpec, ...]] = ()
    """Quasi-steady fields it provides; their last iterate starts the next solve."""
    outputs: ClassVar[tuple[FieldSpec, ...]] = ()
    """Further field-shaped quantities worth storing."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields or quantities of other modules without which it cannot work."""
    provides: ClassVar[tuple[str, ...]] = ()
    """Quantities it computes, memory included."""
    uses: ClassVar[tuple[str, ...]] = ()
    """Quantities it reads when some other module provides them."""
    scalars: ClassVar[tuple[Observable, ...]] = ()
    """Time series of its own, from `look`."""

    def occupies(self) -> dict[str, Any]:
        """Weight of each field in the crowding N that limits growth."""
        return {}

    def breakpoints(self) -> tuple[Array, ...]:
        """Times [day] at which its rates are not smooth: steps end there."""
        return ()

    def range_mm(self) -> Array | float:
        """Distance [mm] from its source over which a concentration that it computes falls by 1/e; 0 without one."""
        return 0.0

    def prepare(self, tissue: Tissue) -> Any:
        """Everything that depends on the anatomy only (conductances); computed once."""
        return None

    def at_start(self, x: Fields, at: Context) -> dict[str, Array]:
        """Its own fields at the beginning where none are given, from the given ones ``x``; zero by default."""
        return {}

    def quantities(self, x: Fields, q: Quantities, at: Context) -> dict[str, Array]:
        """Shared quantities; ``q`` holds those of the modules before it and its own last memory."""
        return {}

    def transfers(self, x: Fields, q: Quantities, at: Context) -> tuple[Transfer, ...]:
        return ()

    def hazards(self, x: Fields, q: Quantities, at: Context) -> tuple[Hazard, ...]:
        """What it kills tumour cells with. The sum of the drugs' is the quantity ``drug_hazard`` of `transfers`."""
        return ()

    def sensitivity(self, drug: bool) -> Array | float:
        """Sensitivity of its own tumour fields to hazards, of drugs or other ones."""
        return 1.0

    def radiosensitivity(self, alpha_per_gy: Any, beta_per_gy2: Any) -> dict[str, tuple[Any, Any]]:
        """α [1/Gy] and β [1/Gy²] of its own fields of cells, given those of the tumour; others are spared."""
        return {f.name: (alpha_per_gy, beta_per_gy2) for f in self.fields if f.role == TUMOUR}

    def fluxes(self, x: Fields, q: Quantities, at: Context) -> tuple[Flux, ...]:
        return ()

    def exposures(self, x: Fields, q: Quantities, at: Context) -> dict[str, Array]:
        """Densities whose integral over space and time is kept in the ledger."""
        return {}

    def balance(self) -> dict[str, dict[str, float]]:
        """For each quasi-steady field, those of its `exposures` that its equation makes sum to zero, with their signs."""
        return {}

    def look(self, x: Fields, q: Quantities, at: Context, ledger: Mapping[str, Array]) -> dict[str, Array]:
        """Values of its `scalars` at an instant; ``ledger`` has the entries up to then [density · mm³]."""
        return {}

    def limits(self, at: Context, limits: Mapping[str, Array]) -> dict[str, Array]:
        """Upper bounds of shared quantities that other modules' `loss_bound` may need; ``limits`` has those
        of the modules before it."""
        return {}

    @property
    def is_apart(self) -> bool:
        """Whether it and all other modules have no effect on each other."""
        return False

    def without_carriers(self) -> Module | None:
        """What stands in for this module while fewer than one carrier is alive; ``None``: nothing."""
        return self

    def loss_bound(self, at: Context, limits: Mapping[str, Array]) -> dict[str, tuple[Any, Any]]:
        """Upper bounds [1/day] of the rate at which each field can be emptied: (by diffusion, otherwise).

        Hazards are counted by `hazard_bounds`; ``limits["drug_hazard"]`` bounds the drugs' together.
        """
        return {}

    def hazard_bounds(self, at: Context, limits: Mapping[str, Array]) -> tuple[Hazard, ...]:
        """Upper bounds of its hazards."""
        return ()


class Event(eqx.Module):
    """Things of one sort that happen at instants, one row per event; an event of zeros is the identity.

    Attributes:
        day: ``(E,)`` [day].
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Fields without which it cannot happen."""
    scalars: ClassVar[tuple[Observable, ...]] = ()
    """Time series of its own, from `look`."""

    day: eqx.AbstractVar[Array]

    def entries(self, model: Any) -> dict[str, tuple[str, float] | None]:
        """Its ledger entries: the field each changes and the sign, or ``None`` for one that changes nothing."""
        raise NotImplementedError

    def requires(self) -> tuple[str, ...]:
        """Fields, shared quantities and maps of the tissue without which it cannot happen."""
        return self.needs

    def jump(
        self, x: Fields, model: Any, i: Array, quantities: Callable[[], Quantities] = dict
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Fields after event ``i``, and the amount [density · mm³] of each of its ledger entries.

        Args:
            model: with the tissue as it is just before the event.
            quantities: computes the shared quantities of the model just before the event.
        """
        raise NotImplementedError

    def alters(self) -> tuple[str, ...]:
        """Maps of the tissue that it may change."""
        return ()

    def remodel(self, x: Fields, model: Any, i: Array) -> dict[str, Array]:
        """The maps named by `alters` after event ``i``; ``x`` and ``model`` as they are before it.

        Where it takes cells out of the mask, `jump` must have taken out all that is transported.
        """
        return {}

    def bounds(self, tissue: Tissue) -> Box | None:
        """Corners (lowest and highest indices) of a box with all of the tissue that it may alter."""
        return None

    def extent(self, tissue: Tissue, events: Sequence[Event] = ()) -> Box | None:
        """Corners of a box without which it cannot be computed; ``None``: it adds nothing anywhere.

        Args:
            events: all events of the schedule.
        """
        return None

    def cut(self, cells: Any) -> Event:
        """The same events where only the ``cells`` (slices) of the grid are computed."""
        return self

    def look(self, model: Any, ledger: Mapping[str, Array]) -> dict[str, Array]:
        """Values of its `scalars`, from the ledger's entries up to now [density · mm³]."""
        return {}

    def origins(self, t: Array) -> tuple[Array, Array] | tuple[()] | None:
        """Where carriers start from: points ``(n, ndim)`` [mm], and which of them some were given at before the day
        ``t``, ``(n,)``. ``()``: it gives none; ``None``: from no points."""
        return ()

    def remarks(self, model: Any, ledger: Mapping[str, float]) -> list[str]:
        """What the user should know when a run has ended, from the ledger's entries [density · mm³]."""
        return []


def total(x: Fields, names: Sequence[str]) -> Array:
    """Σ of the fields of these names."""
    first, *more = (x[name] for name in names)
    return sum(more, first)


def soft_zero(x: Array) -> Array:
    """max(x, 0): quasi-steady fields are positive to their solver's tolerance, rate laws need x ≥ 0.

    Its slope at 0 is 1, that of x ≥ 0: the first dose, from no drug at all, has its full derivative.
    """
    return jnp.where(x < 0.0, 0.0, x)
