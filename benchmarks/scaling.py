"""How cost grows: with cells, steps, fields, patients in a batch and events; memory with steps; sweeps with finer grids.

Compiled calls in single precision, each the median of several, those of one series in turn. Memory is the scratch that
the compiler plans, in copies of all fields ("states"). Sweeps are those that the elliptic solves of the whole therapy
make in one and the same head on finer and finer cells.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from glioma_pde import Attractant, CarrierDoses, Carriers, Drug, Model, Prodrug, Resistance, Schedule, Tissue, Tumour
from glioma_pde.biology.prodrug import Boluses, Courses
from glioma_pde.delivery import gaussian
from glioma_pde.schedule import Plan, make_plan, times
from glioma_pde.solve import solve

from . import handwritten
from .gradients import SPARE_STATES, burden
from .gradients import parts as free_and_fixed
from .kernels import many_steps
from .therapy import count_sweeps
from .timing import compiled, time_call


@dataclass(frozen=True)
class Ladder:
    """What is climbed: the numbers along each axis of the figure."""

    repeats: int
    cells: tuple[int, ...]
    steps: tuple[int, ...]
    fields: tuple[int, ...]
    patients: tuple[int, ...]
    events: tuple[int, ...]
    memory: tuple[int, ...]
    spacings_mm: tuple[float, ...]
    side: int


FULL = Ladder(
    5, (24, 48, 64, 96, 128, 192), (16, 32, 64, 128, 256), (1, 2, 3, 4, 5), (1, 4, 16, 64, 256, 1024),
    (0, 1, 4, 16, 64), (16, 64, 256), (2.0, 1.0, 0.5), 48,
)  # fmt: skip
QUICK = Ladder(2, (8, 12), (2, 4), (1, 4), (1, 2), (0, 2), (4,), (2.0,), 16)


@dataclass
class Point:
    """One point of a series.

    Attributes:
        x: what the series climbs. seconds: of every timed call. more: what else belongs to it, by name.
    """

    x: float
    seconds: list[float] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    def result(self) -> dict[str, Any]:
        """Ready for JSON."""
        timed = {"seconds": self.seconds, "median_s": self.median_s} if self.seconds else {}
        return {"x": self.x} | timed | self.more


Timed = tuple[Point, Callable[[], Any]]


def scaling(quick: bool) -> dict[str, Any]:
    """All series, by name."""
    ladder = QUICK if quick else FULL
    timed = {
        "cells": [_of_cells(n) for n in ladder.cells],
        "by_hand": [p for n in ladder.cells if (p := _by_hand(n))],
        "steps": _of_steps(ladder),
        "fields": [_of_fields(k, ladder.side) for k in ladder.fields],
        "patients": [_of_patients(n) for n in ladder.patients],
        "events": [_of_events(n, ladder.side) for n in ladder.events],
    }
    together = {"cells": ("cells", "by_hand")}
    for name in ("cells", "steps", "fields", "patients", "events"):
        series = [p for one in together.get(name, (name,)) for p in timed[one]]
        for _ in range(ladder.repeats):
            for point, call in series:
                point.seconds.append(time_call(call))
    out = {name: [p.result() for p, _ in series] for name, series in timed.items()}
    out["memory"] = [_memory(steps).result() for steps in ladder.memory]
    out["sweeps"] = [_sweeps(h, ladder.side).result() for h in ladder.spacings_mm]
    return out


def _tumour(n: int) -> tuple[Any, ...]:
    """Arguments of `many_steps` but for the number of steps: a tumour in a head phantom of n³ cells of 1 mm."""
    tissue = Tissue.phantom("head", (n, n, n), 1.0, dtype=jnp.float32)
    model = Model(tissue, [Tumour()], ledger=False)
    carry = model.start({"tumour": 0.9 * gaussian(tissue.grid, jnp.zeros(3, jnp.float32), jnp.float32(0.1 * n))})
    return model, jax.jit(Model.prepare)(model), carry, jnp.float32(min(0.5, model.largest_step()))


def _warm(point: Point, call: Callable[[], Any]) -> Timed:
    """The point and its call, compiled and made once."""
    jax.block_until_ready(call())
    return point, call


def _count(n: int) -> int:
    """Steps of a timed call on n³ cells: as many as take some tenths of a second."""
    return int(np.clip(5e7 / n**3, 4, 400))


def _of_cells(n: int) -> Timed:
    args, steps = _tumour(n), _count(n)
    program = jax.jit(many_steps)
    return _warm(Point(n**3, more={"steps": steps}), lambda: program(*args, steps))


def _by_hand(n: int) -> Timed | None:
    """The same steps by the loop in C."""
    (model, medium, carry, dt), steps = _tumour(n), _count(n)
    rho = float(model["tumour"].proliferation_per_day)
    call = handwritten.growth(
        np.asarray(carry.x["tumour"]), medium["tumour"], rho, float(dt) * steps, steps
    )  # fmt: skip
    return None if call is None else _warm(Point(n**3, more={"steps": steps}), call)


def _of_steps(ladder: Ladder) -> list[Timed]:
    args, program = _tumour(ladder.side), jax.jit(many_steps)
    return [_warm(Point(steps), lambda s=steps: program(*args, s)) for steps in ladder.steps]


ADDED = ("tumour", "carriers", "attractant, taxis", "prodrug, drug", "resistance")


def _therapy(tissue: Tissue, count: int) -> Model:
    """The first ``count`` of what is `ADDED`, which make one to six fields."""
    courses = Courses(jnp.array([0.5]), jnp.array([60.0]), jnp.array([150.0]))
    carriers = Carriers() if count > 2 else Carriers(taxis=None)
    modules = [Tumour(), carriers, Attractant(), (Prodrug(courses, Boluses.none()), Drug()), Resistance()][:count]
    flat = [m for one in modules for m in (one if isinstance(one, tuple) else (one,))]
    return Model(tissue, flat, ledger=False)


def _doses(count: int, days: float, dim: int) -> Schedule:
    """Doses of 1e5 carriers from early on, evenly spread over ``days``, off the whole steps."""
    at = 0.3 + (days - 0.5) * np.arange(count) / max(1, count)
    near = [[-4.0] + [0.0] * (dim - 1), [4.0] + [0.0] * (dim - 1)]
    doses = CarrierDoses.at_sites(at, 1e5, near, sigma_mm=3.0)
    return Schedule((jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), doses),)) if count else Schedule()


def _run(model: Model, schedule: Schedule, days: float, sigma_mm: float = 4.0) -> tuple[Plan, Callable[[], Any]]:
    """The plan of a run, and its compiled call."""
    grid = model.tissue.grid
    u = 0.8 * gaussian(grid, jnp.zeros(grid.ndim, jnp.float32), jnp.float32(sigma_mm))
    saves = jnp.asarray([0.0, days], jnp.float32)
    plan = make_plan(model, schedule, [0.0, days], min(0.5, model.largest_step()))
    arrays, rest = eqx.partition((model, schedule), eqx.is_array)

    def end(arrays, u, plan):
        model, schedule = eqx.combine(arrays, rest)
        return solve(model, schedule, {"tumour": u}, plan, saves).final.x["tumour"]

    program = jax.jit(end)
    return plan, lambda: program(arrays, u, plan)


def _of_fields(count: int, n: int) -> Timed:
    tissue = Tissue.phantom("head", (n, n, n), 1.0, dtype=jnp.float32)
    model = _therapy(tissue, count)
    plan, call = _run(model, Schedule() if count == 1 else _doses(1, 4.0, 3), 4.0)
    there = [*(f.name for f in model.fields), *(f.name for f in model.memory), *(["prodrug"] if count > 3 else [])]
    return _warm(Point(len(there), more={"steps": plan.steps, "fields": there, "added": ADDED[count - 1]}), call)


def _of_patients(count: int) -> Timed:
    """Patients with growth rates of their own in balls of 64 shells, for 120 days."""
    model = Model(Tissue.radial(64, 1.0, dtype=jnp.float32), [Tumour()], ledger=False)
    u = 0.8 * gaussian(model.tissue.grid, jnp.zeros(1, jnp.float32), jnp.float32(5.0))
    days = jnp.asarray([0.0, 120.0], jnp.float32)
    plan = make_plan(model, Schedule(), [0.0, 120.0], min(0.5, model.largest_step()))

    @jax.jit
    def ends(rates, u):
        def one(rate):
            patient = eqx.tree_at(lambda m: m["tumour"].proliferation_per_day, model, rate)
            return solve(patient, Schedule(), {"tumour": u}, plan, days).final.x["tumour"]

        return jax.vmap(one)(rates)

    rates = jnp.linspace(0.01, 0.05, count, dtype=jnp.float32)
    return _warm(Point(count, more={"steps": plan.steps}), lambda: ends(rates, u))


def _of_events(count: int, n: int) -> Timed:
    """Tumour and carriers for 30 days; every dose ends a step where it falls."""
    tissue = Tissue.phantom("head", (n, n, n), 1.0, dtype=jnp.float32)
    plan, call = _run(_therapy(tissue, 2), _doses(count, 30.0, 3), 30.0)
    return _warm(Point(count, more={"steps": plan.steps}), call)


def _memory(steps: int) -> Point:
    """States that a forward run and a reverse pass of the whole therapy hold, in a plane head of 64² cells."""
    tissue = Tissue.phantom("head", (64, 64), 1.0, dtype=jnp.float32)
    model, days = _therapy(tissue, 4), 0.25 * steps
    schedule = _doses(1, days, 2)
    u = 0.8 * gaussian(tissue.grid, jnp.zeros(2, jnp.float32), jnp.float32(4.0))
    plan = make_plan(model, schedule, [0.0, days], 0.25)
    free, fixed = free_and_fixed(model, schedule, {"tumour": u})
    arrays, rest = eqx.partition(fixed, eqx.is_array)

    def value(free, arrays, plan, days):
        return burden(free, eqx.combine(arrays, rest), plan, days)

    args = (free, arrays, plan, jnp.asarray([0.0, days], jnp.float32))
    state = tissue.grid.size * 4 * (len(model.fields) + len(model.memory))
    held = {}
    for name, function in (("forward_states", value), ("reverse_states", jax.grad(value))):
        found = compiled(function, *args)[0].memory_analysis()
        held[name] = math.nan if found is None else found.temp_size_in_bytes / state
    return Point(plan.steps, more=held | {"most_states": 2.0 * math.sqrt(plan.steps) + SPARE_STATES})


def _sweeps(spacing_mm: float, side_mm: float) -> Point:
    """Sweeps per elliptic solve of attractant and drug in two days of the therapy, from the last solution and from none."""
    n = round(side_mm / spacing_mm)
    tissue = Tissue.phantom("head", (n, n, n), spacing_mm, dtype=jnp.float32)
    model, schedule = _therapy(tissue, 4), _doses(1, 2.0, 3)
    days = [0.0, 2.0]
    plan = make_plan(model, schedule, days, min(0.5, model.largest_step()))
    instants = times(model, schedule, jnp.asarray(days, jnp.float32))
    u = 0.8 * gaussian(tissue.grid, jnp.zeros(3, jnp.float32), jnp.float32(max(4.0, spacing_mm)))
    carry = model.start({"tumour": u}, schedule.events)
    ends = (jnp.asarray(0, jnp.int32), jnp.asarray(1, jnp.int32))
    args = (model, schedule, plan, instants, jax.jit(Model.prepare)(model), carry, *ends)
    done, cold = count_sweeps(model, args)
    more: dict[str, Any] = {"cells": n**3, "steps": plan.steps}
    for name in done:
        more |= {f"{name}_warm": statistics.fmean(done[name]), f"{name}_cold": statistics.fmean(cold[name])}
    return Point(spacing_mm, more=more)


def per(series: list[dict[str, Any]], factor: float, unit: Callable[[dict[str, Any]], float]) -> list[float]:
    """Median seconds of each point, times ``factor``, over what ``unit`` says of it."""
    return [factor * p["median_s"] / unit(p) for p in series]


def rates(found: dict[str, Any]) -> dict[str, list[float]]:
    """What the figure and the table show of the timed series."""

    def work(p: dict[str, Any]) -> float:
        return p["x"] * p["steps"]

    return {
        "cells": per(found["cells"], 1e9, work),  # ns per cell and step
        "by_hand": per(found["by_hand"], 1e9, work),
        "steps": per(found["steps"], 1e3, lambda p: p["x"]),  # ms per step
        "fields": per(found["fields"], 1e3, lambda p: p["steps"]),
        "patients": per(found["patients"], 1e6, work),  # µs per patient and step
        "events": per(found["events"], 1e3, lambda p: 1.0),  # ms
    }


def table(found: dict[str, Any]) -> list[str]:
    """The series as lines of text."""
    lines = []

    def column(name: str, key: str) -> list[Any]:
        return [p[key] for p in found[name]]

    def series(title: str, rows: dict[str, list[Any]]) -> None:
        lines.extend(["", title])
        for name, values in rows.items():
            cells = [v if isinstance(v, str) else format(v, ",.0f" if v >= 100 else ".3g") for v in values]
            lines.append(f"  {name:<26}" + "".join(f"{c:>19}" for c in cells))

    rate = rates(found)
    by_hand = {"C and OpenMP, the same": rate["by_hand"]} if found["by_hand"] else {}
    series(
        "tumour step in a head, single precision",
        {"cells": column("cells", "x"), "ns per cell and step": rate["cells"]} | by_hand,
    )
    series("its steps in one call", {"steps": column("steps", "x"), "ms per step": rate["steps"]})
    series(
        "fields",
        {"fields": column("fields", "x"), "added last": column("fields", "added"), "ms per step": rate["fields"]},
    )
    series(
        "patients in a batch, radial, 120 days",
        {"patients": column("patients", "x"), "µs per patient and step": rate["patients"]},
    )
    series(
        "events in 30 days",
        {"events": column("events", "x"), "steps": column("events", "steps"), "ms": rate["events"]},
    )
    held = {kind: column("memory", f"{kind}_states") for kind in ("forward", "reverse", "most")}
    series("states held by the whole therapy", {"steps": column("memory", "x")} | held)
    sweeps = {
        f"{name}, {kind}": column("sweeps", f"{name}_{kind}")
        for name in ("attractant", "drug")
        for kind in ("warm", "cold")
    }
    series("sweeps per elliptic solve", {"spacing [mm]": column("sweeps", "x")} | sweeps)
    return lines[1:]


def draw(found: dict[str, Any], path: Path) -> Path:
    """One panel for each series."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from glioma_pde.plot._style import STYLE, save_figure

    red, black, blue = "#c0392b", "#17202a", "#2471a3"
    rate = rates(found)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.1, 6.2), layout="constrained")
        cells, steps, fields, patients, events, memory, sweeps, *empty = figure.subplots(3, 3).ravel()
        for axes in empty:
            axes.remove()

        def line(
            axes, name: str, ys: list[float], colour: str = red, label: str | None = None, style: str = "-"
        ) -> None:
            xs = [p["x"] for p in found[name]]
            axes.plot(xs, ys, marker="o", ms=3, lw=1, color=colour, label=label, ls=style)

        line(cells, "cells", rate["cells"], label="glioma_pde")
        if found["by_hand"]:
            line(cells, "by_hand", rate["by_hand"], black, "C and OpenMP")
        cells.set(xscale="log", ylim=(0, None), title="Tumour step", xlabel="cells", ylabel="ns per cell and step")
        line(steps, "steps", rate["steps"])
        steps.set(xscale="log", ylim=(0, None), title="Steps", xlabel="steps in one call", ylabel="ms per step")
        line(fields, "fields", rate["fields"])
        fields.set(ylim=(0, None), title="Fields", xlabel="fields", ylabel="ms per step")
        for p, y in zip(found["fields"], rate["fields"], strict=True):
            fields.annotate(f"{p['added']}  ", (p["x"], y), fontsize=5, ha="right", va="bottom")
        fields.margins(x=0.25)
        line(patients, "patients", rate["patients"])
        patients.set(xscale="log", yscale="log", title="Radial patients", xlabel="patients in one call")
        patients.set_ylabel("µs per patient and step")
        line(events, "events", rate["events"])
        events.set(xscale="symlog", ylim=(0, None), title="30 days with doses", xlabel="doses", ylabel="ms")
        for p, y in zip(found["events"], rate["events"], strict=True):
            events.annotate(f"{p['steps']} steps\n", (p["x"], y), fontsize=5, ha="center")
        events.margins(x=0.15, y=0.2)
        for kind, colour, label in (
            ("forward", blue, "forward"),
            ("reverse", red, "reverse"),
            ("most", black, "allowed"),
        ):
            line(memory, "memory", [p[f"{kind}_states"] for p in found["memory"]], colour, label)
        memory.set(xscale="log", ylim=(0, None), title="Memory", xlabel="steps", ylabel="states held")
        for name, colour in (("attractant", red), ("drug", blue)):
            for kind, style in (("cold", "--"), ("warm", "-")):
                ys = [p[f"{name}_{kind}"] for p in found["sweeps"]]
                line(sweeps, "sweeps", ys, colour, f"{name}, {kind}", style)
        sweeps.set(
            xscale="log", ylim=(0, None), title="Elliptic solves", xlabel="spacing [mm]", ylabel="sweeps per solve"
        )
        for axes, name in ((steps, "steps"), (events, "events"), (memory, "memory"), (sweeps, "sweeps")):
            axes.set_xticks([p["x"] for p in found[name]], [f"{p['x']:g}" for p in found[name]])
            axes.minorticks_off()
        for axes in (cells, memory, sweeps):
            axes.legend(frameon=False, fontsize=5.5)
        return save_figure(figure, path)
