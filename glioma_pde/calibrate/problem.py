"""The problem: which parameters are free, what was measured, and how likely that is.

Three coordinates of one vector: *natural* values; *scaled* ones (logarithms where the scale is logarithmic), in which
intervals and Fisher information are taken; and *unconstrained* ones z, a logistic map of the bounds, in which optimisers
and samplers move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .data import Measurements
from .forward import Batch, Simulation
from .noise import Noise, Standardised

LEVELS = ("shared", "arm", "subject")


class Free(NamedTuple):
    """A parameter to be found.

    Attributes:
        name: a path into the model, or any name that an observation, noise or formula reads.
        low, high: bounds, natural.
        log: whether its scale is logarithmic.
        level: one value for all, for each arm, or for each subject.
        prior: centre (natural) and standard deviation (scaled) of a normal prior on the scaled value; not together with
            a population.
        population: subjects' scaled values come from a normal distribution whose mean and width are found too.
    """

    name: str
    low: float
    high: float
    log: bool = True
    level: str = "shared"
    prior: tuple[float, float] | None = None
    start: float | None = None
    population: bool = False

    def problems(self) -> list[str]:
        """What is wrong with it, one sentence each."""
        out = []
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            out.append(f"{self.name}: bounds must be finite and in order, not [{self.low:g}, {self.high:g}]")
        elif self.log and self.low <= 0:
            out.append(f"{self.name}: a logarithmic scale needs a positive lower bound, not {self.low:g}")
        elif self.start is not None and not self.low < self.start < self.high:
            out.append(f"{self.name}: the start {self.start:g} lies outside its bounds [{self.low:g}, {self.high:g}]")
        if self.level not in LEVELS:
            out.append(f"{self.name}: level is {self.level!r}, not one of {', '.join(LEVELS)}")
        if self.population and self.level != "subject":
            out.append(f"{self.name}: a population distribution needs level = 'subject'")
        if self.population and self.prior is not None:
            out.append(f"{self.name}: takes no prior beside its population distribution")
        if self.prior is not None and (self.prior[1] <= 0 or (self.log and self.prior[0] <= 0)):
            out.append(f"{self.name}: a prior needs a positive width, and a positive centre on a logarithmic scale")
        return out

    def scale(self, value):
        return np.log(value) if self.log else np.asarray(value, float)


def parameter_problems(
    simulation: Simulation, free: Sequence[Free], noises: Sequence[Noise], fixed: Mapping[str, Any]
) -> list[str]:
    """What is wrong with the parameters, one sentence each."""
    problems = [p for f in free for p in f.problems()]
    told = [f.name for f in free] + list(fixed)
    problems += [f"{n}: is given twice" for n in sorted({n for n in told if told.count(n) > 1})]
    needed = {n for noise in noises for n in noise.names()} | {n for o in simulation.observations for n in o.names()}
    known, derived = set(told), {name for name, _ in simulation.derived}
    for name, formula in simulation.derived:
        read = set(formula.names())
        early = sorted((read - known) & derived)
        problems += [
            f"derived.{name}: reads {n}, which is not known before; formulas apply in their order" for n in early
        ]
        needed |= read - derived
        known.add(name)
    return problems + [f"{n}: is used, but neither free nor fixed" for n in sorted(needed - known)]


class Table(eqx.Module):
    """Measurements of each subject, padded to the same number, ``(S, M)``.

    Attributes:
        at: index into the subject's days. which: index of the observable. used: False for padding.
    """

    at: Array
    which: Array
    y: Array
    sd: Array
    censoring: Array
    used: Array

    @classmethod
    def of(cls, data: Measurements, subjects: Sequence[str], observables: Sequence[str], days: np.ndarray, dtype):
        most = max(int((data.subject == s).sum()) for s in subjects)
        shape = (len(subjects), most)
        at, which, code = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        y, sd, used = np.ones(shape), np.ones(shape), np.zeros(shape, bool)
        for i, subject in enumerate(subjects):
            mine = data.where(data.subject == subject)
            n = len(mine)
            at[i, :n] = [int(np.argmin(np.abs(days[i] - t))) for t in mine.time]
            which[i, :n] = [list(observables).index(o) for o in mine.observable]
            y[i, :n], code[i, :n], used[i, :n] = mine.value, mine.censoring, True
            sd[i, :n] = np.where(np.isnan(mine.sd), 1.0, mine.sd)
        return cls(
            jnp.asarray(at), jnp.asarray(which), jnp.asarray(y, dtype), jnp.asarray(sd, dtype), jnp.asarray(code),
            jnp.asarray(used),
        )  # fmt: skip


class Problem(eqx.Module):
    """Everything that a fit needs, as arrays.

    Attributes:
        free: parameters to be found. index: ``(len(free), S)``, places of each subject's values in the vector.
        names: of the vector's entries, ``name`` or ``name[subject or arm]``.
        low, high: bounds, scaled. centre, width: of the normal priors, scaled; the width is infinite without one.
        fixed: parameters that are not found, one value for each subject.
    """

    simulation: Simulation
    conditions: Batch
    table: Table
    fixed: dict[str, Array]
    index: Array
    low: Array
    high: Array
    centre: Array
    width: Array
    noises: tuple[Noise, ...]
    free: tuple[Free, ...] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    subjects: tuple[str, ...] = eqx.field(static=True)
    arms: tuple[str, ...] = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        simulation: Simulation,
        batch: Batch,
        days: np.ndarray,
        data: Measurements,
        free: Sequence[Free],
        noises: Sequence[Noise],
        fixed: Mapping[str, Any] | None = None,
    ) -> Problem:
        """For the subjects of ``data``, in their order there; ``batch`` and ``days`` from `forward.conditions`.

        Raises:
            ValueError: naming everything wrong with the parameters.
        """
        subjects = data.subjects
        arms = tuple(data.arm_of(s) for s in subjects)
        problems = parameter_problems(simulation, free, noises, fixed or {})
        if problems:
            raise ValueError("; ".join(problems))
        names: list[str] = []
        index = np.zeros((len(free), len(subjects)), np.int32)
        order = [f for f in free if f.level == "shared"] + [f for f in free if f.level != "shared"]
        for k, f in enumerate(order):
            groups = {"shared": ("",) * len(subjects), "arm": arms, "subject": subjects}[f.level]
            for i, group in enumerate(groups):
                label = f"{f.name}[{group}]" if group else f.name
                if label not in names:
                    names.append(label)
                index[k, i] = names.index(label)
        owner = {names[j]: f for f, row in zip(order, index, strict=True) for j in row}
        of = [owner[n] for n in names]
        dtype = batch.dtype
        prior = [(float(f.scale(f.prior[0])), f.prior[1]) if f.prior else (0.0, np.inf) for f in of]
        spread = {k: jnp.broadcast_to(jnp.asarray(v, dtype), (len(subjects),)) for k, v in (fixed or {}).items()}
        return cls(
            simulation, batch, Table.of(data, subjects, simulation.names, days, dtype), spread, jnp.asarray(index),
            jnp.asarray([float(f.scale(f.low)) for f in of], dtype),
            jnp.asarray([float(f.scale(f.high)) for f in of], dtype),
            jnp.asarray([p[0] for p in prior], dtype), jnp.asarray([p[1] for p in prior], dtype),
            tuple(noises), tuple(order), tuple(names), subjects, arms,
        )  # fmt: skip

    @property
    def free_noise(self) -> bool:
        """Whether any σ depends on parameters or predictions; otherwise the squared errors alone are the cost."""
        fixed = set(self.fixed)
        return any(n.kind in ("proportional", "combined") or set(n.names()) - fixed for n in self.noises)

    # -- coordinates ------------------------------------------------------------------------

    @property
    def size(self) -> int:
        return len(self.names)

    @property
    def log(self) -> np.ndarray:
        """Which entries are logarithmic, ``(size,)``."""
        by_name = {f.name: f.log for f in self.free}
        return np.asarray([by_name[n.partition("[")[0]] for n in self.names])

    def scaled(self, z: Array) -> Array:
        return self.low + (self.high - self.low) * jax.nn.sigmoid(z)

    def unconstrained(self, s: Array) -> Array:
        """Of scaled values within the bounds; those on a bound are moved in by 1e-6 of the range."""
        p = jnp.clip((s - self.low) / (self.high - self.low), 1e-6, 1.0 - 1e-6)
        return jnp.log(p) - jnp.log1p(-p)

    def natural(self, s: Array) -> Array:
        return jnp.where(self.log, jnp.exp(jnp.where(self.log, s, 0.0)), s)

    def from_natural(self, values: Mapping[str, float]) -> Array:
        """The scaled vector of natural values by name."""
        v = np.asarray([values.get(n, values.get(n.partition("[")[0], np.nan)) for n in self.names])
        with np.errstate(invalid="ignore"):
            return jnp.asarray(np.where(self.log, np.log(np.where(self.log, v, 1.0)), v), self.low.dtype)

    def theta(self, s: Array) -> dict[str, Array]:
        """Natural values by name, one for each subject, ``(S,)``; fixed ones included."""
        values = self.natural(s)
        return {**self.fixed, **{f.name: values[self.index[k]] for k, f in enumerate(self.free)}}

    # -- the likelihood ---------------------------------------------------------------------

    def predict(self, s: Array) -> Array:
        """Observables of every subject at its days, ``(S, T, n)``."""
        return self.conditions.each(lambda c, theta: self.simulation(theta, c), self.theta(s))

    def compare(self, s: Array, hold: bool = False) -> Standardised:
        """Measurements against predictions, ``(S, M)``; zeros in the padding.

        Args:
            hold: take no derivative of the errors through σ.
        """
        return self.conditions.each(
            lambda c, theta, table: self.compare_one(c, theta, table, hold), self.theta(s), self.table
        )

    def compare_one(self, condition, theta, table: Table, hold: bool = False) -> Standardised:
        """For one subject."""
        found = self.simulation(theta, condition)[table.at, table.which]
        return self.standardise(found, theta, table, hold)

    def standardise(self, f: Array, theta, table: Table, hold: bool = False, reference=None) -> Standardised:
        """Measurements of one subject against their predictions f, ``(M,)``.

        Args:
            reference: prediction and theta from which σ in the errors is taken, instead of f and theta.
        """
        theta = self.simulation.complete(theta)
        sigmas: list[Array | None] = [None] * len(self.noises)
        if reference is not None:
            there = self.simulation.complete(reference[1])
            sigmas = [n.sigma(reference[0], table.sd, there) for n in self.noises]
        parts = [
            n.standardise(table.y, f, table.sd, table.censoring, theta, hold, sigma)
            for n, sigma in zip(self.noises, sigmas, strict=True)
        ]
        mine = [table.used & (table.which == k) for k in range(len(parts))]
        return jax.tree.map(
            lambda *leaves: sum(jnp.where(m, leaf, 0.0) for m, leaf in zip(mine, leaves, strict=True)), *parts
        )

    def log_likelihoods(self, s: Array) -> Array:
        """Of every measurement, ``(S, M)``."""
        e = self.compare(s)
        return e.constant - 0.5 * e.error**2 - e.log_sigma

    def log_prior(self, s: Array) -> Array:
        """Up to a constant; zero without priors (they are flat between the bounds)."""
        return -0.5 * jnp.sum(((s - self.centre) / self.width) ** 2)

    def cost(self, s: Array) -> Array:
        """Minus log-likelihood minus log-prior."""
        return -jnp.sum(self.log_likelihoods(s)) - self.log_prior(s)

    def log_density(self, z: Array) -> Array:
        """Of the posterior, as a function of the unconstrained vector: with the volume of the map from z."""
        volume = jnp.sum(jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z))
        return -self.cost(self.scaled(z)) + volume

    def residuals(self, s: Array, reference: Array, lift: Array) -> Array:
        """r with ½|r|² = cost + a constant that does not depend on ``s``.

        ln σ − ``reference`` + ``lift`` enters by its root, which exists while no σ falls below e^{−lift} of its
        reference. Without free noise parameters these entries are constant.
        """
        return self.residuals_of(s, self.compare(s), reference, lift)

    def residuals_of(self, s: Array, e: Standardised, reference: Array, lift: Array) -> Array:
        """The same, of measurements already compared."""
        if not self.free_noise:
            return jnp.concatenate([e.error.ravel(), (s - self.centre) / self.width])
        inside = e.log_sigma - reference + lift
        roots = jnp.where(self.table.used & (self.table.censoring == 0), jnp.sqrt(2.0 * inside), 0.0)
        return jnp.concatenate([e.error.ravel(), roots.ravel(), (s - self.centre) / self.width])

    def information_rows(self, s: Array) -> Array:
        """J with JᵀJ the expected Fisher information in scaled values (priors included), ``(rows, size)``.

        For a normal with mean f and width σ it is (∂f/σ)(∂f/σ)ᵀ + 2 ∂ln σ ∂ln σᵀ. Student's t and censored measurements
        enter by Gauss and Newton's approximation of their own log-densities instead of an expectation.
        """

        def rows(s):
            e = self.compare(s, hold=True)
            return jnp.concatenate([e.error.ravel(), 2**0.5 * e.log_sigma.ravel(), (s - self.centre) / self.width])

        return jax.jacfwd(rows)(s)

    # -- the data -----------------------------------------------------------------------------

    def usual_sd(self) -> Array:
        """Of each observable the median ``sd`` of its measurements in use, 1 where there are none, ``(n,)``."""
        table = self.table
        mine = table.used[None] & (table.which[None] == jnp.arange(len(self.noises))[:, None, None])
        middle = jnp.nanmedian(jnp.where(mine, table.sd[None], jnp.nan), axis=(1, 2))
        return jnp.where(jnp.isnan(middle), 1.0, middle)

    def sd_of_data(self) -> Array:
        """The ``sd`` of every measurement in use at its place among the predictions, the usual one elsewhere, ``(S, T, n)``."""
        shape = (len(self.subjects), self.conditions.looks, len(self.noises))
        at, which = (
            jnp.where(self.table.used, v, shape[k + 1]) for k, v in enumerate((self.table.at, self.table.which))
        )
        rows = jnp.arange(shape[0])[:, None]
        whole = jnp.broadcast_to(self.usual_sd(), shape)
        return whole.at[rows, at, which].set(self.table.sd, mode="drop")

    @property
    def count(self) -> int:
        """Measurements in use."""
        return int(np.asarray(self.table.used).sum())
