"""`run`: the host loop around the same blocks as `solve`, with output, checkpoints and progress.

After each observation interval: finite? → observables → (frame → checkpoint) → progress. One compilation
serves the whole run; nothing calls back from inside it.
"""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import pieces
from .build import Experiment
from .config.size import Size, size_of
from .control import Control
from .errors import GliomaError, Interrupted
from .io._files import require_room
from .io.checkpoint import load_checkpoint, partial_path, previous_path, save_checkpoint
from .io.hdf5 import RunFile, RunWriter
from .ledger import balances, book_row, steady_balances
from .manifest import changes_since, digest, layout
from .model import Carry, Model
from .observe import trends
from .outcome import Course, summarise
from .schedule import times
from .window import CHECK_EVERY_DAYS, Window, inner_box

COMMIT_EVERY_S = 2.0
"""Observables reach the file at least this often, and with every frame."""

RIM_TOLERANCE = 1e-4
"""Tumour density on the window's rim above which a run warns: the front's tail then feels the wall."""


@dataclass(frozen=True)
class Progress:
    """What a progress display needs: arm, day reached, last day, seconds used and expected still."""

    arm: str
    day: float
    end_day: float
    elapsed_s: float
    remaining_s: float


@dataclass(frozen=True)
class Result:
    """A finished arm.

    Attributes:
        more: entries of ``summary`` that modules and events add, with their labels.
        units: of the observables in ``course``.
    """

    arm: str
    path: Path
    course: Course
    summary: dict[str, Any]
    status: str
    warnings: tuple[str, ...]
    elapsed_s: float
    more: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)


def run(
    experiment: Experiment,
    path: str | Path,
    report: Callable[[Progress], None] | None = None,
    config_text: str = "",
    stop: Callable[[], Any] | None = None,
) -> Result:
    """Simulate one arm and write it to ``path``.

    Args:
        report: called after every observation interval.
        config_text: the configuration file's text, kept in the output.
        stop: asked before every observation interval; when it says yes the run saves itself and ends.

    Raises:
        GliomaError: if the disk cannot hold the output, the state stops being finite, or the file cannot be
            written; what was written stays.
        Interrupted: after ``stop``.
    """
    path = Path(path)
    size = output_size(experiment)
    require_room(path, size.file + size.beside)
    grows = experiment.config.numerics.grow_window
    window = Window(inner_box(experiment.model, experiment.initial, experiment.schedule) if grows else None)
    fresh = _Loop(experiment, window, window.cut(_start(experiment)))
    described = layout(experiment, config_text)
    fresh.run_id = described["attributes"]["run_id"]
    with RunWriter.create(path, **described) as writer:
        for old in _checkpoints(path):  # of the run that the new file has replaced
            old.unlink(missing_ok=True)
        return fresh.go(writer, path, 0, report, stop)


def resume(
    experiment: Experiment,
    path: str | Path,
    report: Callable[[Progress], None] | None = None,
    stop: Callable[[], Any] | None = None,
) -> Result:
    """Go on from the checkpoint beside ``path``, bit for bit as if the run had not been interrupted.

    Args:
        report, stop: as for `run`.

    Raises:
        GliomaError: if there is no usable checkpoint, or it belongs to another configuration or run.
        Interrupted: after ``stop``.
    """
    path = Path(path)
    arrays, meta = load_checkpoint(checkpoint_path(path))
    if meta.get("config_sha256") != digest(experiment):
        raise GliomaError(f"The checkpoint beside {path} belongs to another configuration; run it anew.")
    with RunFile(path) as file:
        run_id = file.attrs.get("run_id")
        if changed := changes_since(file.attrs):
            warnings.warn(f"{path} was begun with {changed}: it may not go on bit for bit.", stacklevel=2)
    size, there = output_size(experiment), path.stat().st_size
    require_room(path, max(there, size.file + size.beside - there))  # the file is copied first
    if meta.get("run_id") != run_id:
        raise GliomaError(f"The checkpoint beside {path} belongs to an earlier run of that name; run it anew.")
    try:
        window = Window(None if meta["box"] is None else tuple((int(a), int(b)) for a, b in meta["box"]))
        leaves, structure = jax.tree.flatten(window.cut(_start(experiment)))
        stored = [jnp.asarray(arrays[f"leaf_{i}"]) for i in range(len(leaves))]
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(stored, leaves, strict=True)):
            raise ValueError("its arrays are others")
        control = None if meta["control"] is None else Control(**meta["control"])
        j, start_totals = int(meta["interval"]), meta["start_totals"]
    except (KeyError, TypeError, ValueError) as error:
        raise GliomaError(f"The checkpoint beside {path} does not fit this model ({error}); run it anew.") from error
    loop = _Loop(experiment, window, jax.tree.unflatten(structure, stored), start_totals)
    loop.control = control
    loop.run_id, loop.saved = run_id, j
    loop.recall(path, j)
    with RunWriter.reopen(path, keep_until_day=float(experiment.days[j])) as writer:
        return loop.go(writer, path, j, report, stop)


def output_size(experiment: Experiment) -> Size:
    """What the run will take on the disk, about."""
    model = experiment.model
    cells, width = model.tissue.grid.size, model.tissue.white.dtype.itemsize
    frames = len(experiment.frames) + experiment.initial_given
    voxels = 0 if experiment.background is None else experiment.background[0].size
    tensors = model.tissue.tensors
    maps = len(experiment.images) + (0 if tensors is None else len(tensors.components))
    return size_of(cells, len(model.outputs), frames, len(experiment.days), width, voxels, maps)


def _start(experiment: Experiment) -> Carry:
    return experiment.model.start(experiment.initial, experiment.schedule.events)


def checkpoint_path(path: str | Path) -> Path:
    """Where the checkpoint of a run file lies."""
    return Path(path).with_suffix(".checkpoint")


def _checkpoints(path: Path) -> tuple[Path, ...]:
    """Every file that checkpoints of the run at ``path`` may have left."""
    newest = checkpoint_path(path)
    return newest, previous_path(newest), partial_path(newest)


class _Loop:
    def __init__(
        self, experiment: Experiment, window: Window, carry: Carry, start_totals: dict[str, float] | None = None
    ):
        self.experiment = experiment
        events = experiment.schedule.events
        self.signs = balances(experiment.model, events) if experiment.model.ledger else {}
        self.steady = steady_balances(experiment.model) if experiment.model.ledger else {}
        self.eventful = np.zeros(len(experiment.days) - 1, bool)  # intervals in which the plan has an event
        for happening in experiment.plan.events:
            self.eventful |= (np.asarray(happening) >= 0).any(axis=1)
        self.start_totals = start_totals
        self.run_id: str | None = None
        self.saved: int | None = None  # the interval of the newest checkpoint
        self.rows: list[tuple[float, dict[str, float]]] = []
        self.pending: list[tuple[float, dict[str, float], dict[str, float]]] = []
        self.committed = time.perf_counter()
        self.rim = 0.0
        days, tolerance = experiment.days, experiment.config.time.tolerance
        self.control = None if tolerance is None else Control(tolerance, float(days[-1] - days[0]))
        self._enter(window, carry)

    def _enter(self, window: Window, carry: Carry) -> None:
        """Compute on ``window`` from now on; ``carry`` is the state there."""
        experiment = self.experiment
        self.window, self.carry = window, carry
        self.model = window.model(experiment.model)
        self.schedule = window.schedule(experiment.schedule)
        self.medium = self._whole_medium if window.box is None else pieces.prepare(self.model)
        self.idle_model = self.model.without_carriers()
        days = jnp.asarray(experiment.days, self.model.tissue.white.dtype)
        self.instants = times(self.model, self.schedule, days)
        self.clock = np.asarray(self.instants)

    def _model_for(self, j: int) -> Model:
        """The model of interval ``j``: what carriers bring about is left out while hardly any is alive."""
        experiment = self.experiment
        least = experiment.config.numerics.idle_below_cells
        if "carriers" not in self.model or self.rows[-1][1]["carriers_cells"] >= least:
            return self.model
        return self.model if self.eventful[j] else self.idle_model

    def _parts(self, j: int) -> Iterator[tuple[int, int]]:
        """Blocks of interval ``j``, from and to, that are taken in one go: as many as fit between looks at the rim."""
        plan = self.experiment.plan
        count = int(plan.count[j])
        lower, upper, parts = (np.asarray(table)[j, :count] for table in (plan.lower, plan.upper, plan.parts))
        ends = np.cumsum((self.clock[upper] - self.clock[lower]) / np.maximum(parts, 1))
        first = 0
        while first < count:
            if self.window.box is None:
                last = count
            else:
                begun = ends[first - 1] if first else 0.0
                within = np.searchsorted(ends, begun + CHECK_EVERY_DAYS * (1 + 1e-6), side="right")
                last = max(first + 1, int(within))
            yield first, last
            first = last

    def _grow(self, begin: bool) -> None:
        """Go on with the whole window when something has come to the rim of the inner one.

        Args:
            begin: nothing has been computed yet, quasi-steady fields neither.
        """
        if self.window.box is None:
            return
        memory = self.carry.warm
        if begin:
            found = self._fields(self.experiment.days[0])
            memory = {f.name: found[f.name][self.window.slices] for f in self.model.memory}
        if bool(pieces.at_rim(self.carry, self.model.cells, memory)):
            self._enter(Window(None), self.window.restore(self.carry, self.experiment.model.tissue))

    def recall(self, path: Path, last: int) -> None:
        """Take over the observables that the interrupted run committed.

        Raises:
            GliomaError: if the file lacks something that was in it when the checkpoint was written.
        """
        days = self.experiment.days
        framed = [float(days[i]) for i in sorted(self.experiment.frames) if i <= last]
        with RunFile(path) as file:
            if not set(framed) <= set(file.days.tolist()) or not set(days[: last + 1]) <= set(file.observable_days):
                raise GliomaError(f"{path} lacks days that its checkpoint goes on from; run it anew.")
            names = [*file.observables]
            columns = {name: file.observable(name) for name in names}
            for i, day in enumerate(file.observable_days):
                if day <= self.experiment.days[last]:
                    self.rows.append((float(day), {name: float(columns[name][i]) for name in names}))
        self.rim = max((v["rim_density"] for _, v in self.rows), default=0.0)

    def go(self, writer: RunWriter, path: Path, first: int, report, stop=None) -> Result:
        experiment, config = self.experiment, self.experiment.config
        days = experiment.days
        began = time.perf_counter()
        warm_start: tuple[float, float] | None = None
        if self.saved is None:
            self._record(writer, path, 0)
        for j in range(first, len(days) - 1):
            if self._reached_limit():  # asked before the step: a run that was killed as it ended may be resumed here
                break
            if stop is not None and stop():
                self._leave(writer, path, j)
            for start, end in self._parts(j):
                self._grow(begin=j == 0 and start == 0)
                fixed = (self._model_for(j), self.schedule, experiment.plan, self.instants, self.medium)
                if self.control is None:
                    self.carry = pieces.advance(fixed, self.carry, *map(jnp.asarray, (j, start, end)))
                else:
                    self.carry, _ = self.control.interval(*fixed, self.carry, j, range(start, end))
            self._record(writer, path, j + 1)
            now = time.perf_counter()
            if warm_start is None:  # the first interval compiled
                warm_start = (days[j + 1], now)
            if report is not None:
                speed = (now - warm_start[1]) / max(days[j + 1] - warm_start[0], 1e-9)
                report(Progress(config.arm, days[j + 1], days[-1], now - began, speed * (days[-1] - days[j + 1])))
        return self._finish(writer, path, self._reached_limit() or "finished", time.perf_counter() - began)

    def _reached_limit(self) -> str:
        """The status of a run that ends here because its burden has reached the limit, else nothing."""
        (day, seen), limit = self.rows[-1], self.experiment.config.time.stop_at_cells
        if limit is None or seen["burden_cells"] < limit:
            return ""
        return f"stopped: burden reached {limit:.3g} cells on day {day:g}"

    def _record(self, writer: RunWriter, path: Path, j: int) -> None:
        experiment, config = self.experiment, self.experiment.config
        day = float(experiment.days[j])
        seen, totals = jax.device_get(self._look(day))
        values = {k: float(v) for k, v in seen.items()}
        values |= {} if self.control is None else self.control.series()
        limit = config.time.stop_at_cells
        fields = None
        if j in experiment.frames or (limit is not None and values["burden_cells"] >= limit):
            fields = self._frame(day)
        if not all(np.isfinite(v).all() for v in (*values.values(), *totals.values(), *(fields or {}).values())):
            self._commit(writer)
            raise GliomaError(
                f"Arm {config.arm!r}: a field stopped being finite by day {day:g} (NaN or overflow). "
                f"Frames up to then are in {path}, and `glioma-pde resume {shlex.quote(str(path))}` goes on from the last. "
                "Look for extreme parameters, or set numerics.precision = 'float64'."
            )
        self.rows.append((day, values))
        values |= self._trends()
        self.pending.append((day, values, self._ledger_row(totals)))
        self.rim = max(self.rim, values["rim_density"])
        if fields is not None:
            self._commit(writer)
            writer.append_frame(day, fields)
            self._save(path, j)
        elif time.perf_counter() - self.committed > COMMIT_EVERY_S:
            self._commit(writer)

    def _look(self, day: float):
        outcome = self.experiment.config.outcome
        thresholds = (outcome.t1gd_threshold, outcome.flair_threshold)
        return pieces.look_at(self.model, self.schedule.events, self.carry, self.medium, self._at(day), thresholds)

    def _trends(self) -> dict[str, float]:
        """Rates of change up to the last row."""
        days, rows = [d for d, _ in self.rows], [row for _, row in self.rows]
        return trends(days, [row["burden_cells"] for row in rows], [row["flair_radius"] for row in rows])

    def _save(self, path: Path, j: int) -> None:
        """Write the checkpoint of the state after interval ``j``; what the run file holds of it is on the disk."""
        leaves = jax.tree.leaves(self.carry)
        save_checkpoint(
            checkpoint_path(path),
            {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)},
            {
                "interval": j,
                "run_id": self.run_id,
                "config_sha256": digest(self.experiment),
                "start_totals": self.start_totals,
                "box": self.window.box,
                "control": None if self.control is None else self.control.state(),
            },
        )
        self.saved = j

    def _leave(self, writer: RunWriter, path: Path, j: int) -> NoReturn:
        """End after interval ``j`` with nothing lost."""
        if self.saved != j:
            self._commit(writer)
            writer.sync()
            self._save(path, j)
        day, end = self.experiment.days[j], self.experiment.days[-1]
        raise Interrupted(
            f"Arm {self.experiment.config.arm!r} was interrupted after day {day:g} of {end:g}; {path} is saved."
        )

    def _frame(self, day: float) -> dict[str, np.ndarray]:
        found = self._fields(day)
        return {f.name: np.asarray(found[f.name]) for f in self.model.outputs}

    def _fields(self, day: float) -> dict[str, Array]:
        """Fields on the whole grid, for some of them fill the brain."""
        model, carry, medium = self.model, self.carry, self.medium
        if self.window.box is not None:
            model, medium = self.experiment.model, self._whole_medium
            carry = self.window.restore(carry, model.tissue)
        return pieces.fields(model, carry, medium, self._at(day))

    @cached_property
    def _whole_medium(self) -> dict[str, Any]:
        """What the modules prepare of the whole grid."""
        return pieces.prepare(self.experiment.model)

    def _at(self, day: float):
        return jnp.asarray(day, self.model.tissue.white.dtype)

    def _commit(self, writer: RunWriter) -> None:
        """Write the observables that have come together; one row at a time would cost more than computing it."""
        if self.pending:
            days = np.asarray([d for d, _, _ in self.pending])
            seen, ledger = [row for _, row, _ in self.pending], [row for _, _, row in self.pending]
            writer.append_observables(days, _columns(seen), _columns(ledger))
        self.pending = []
        self.committed = time.perf_counter()

    def _ledger_row(self, totals) -> dict[str, float]:
        if not self.experiment.model.ledger:
            return {}
        k = float(self.experiment.model.capacity_cells_per_mm3)
        total = {name: float(v) for name, v in totals.items()}
        if self.start_totals is None:
            self.start_totals = total
        entry = {name: float(v[0]) + float(v[1]) for name, v in self.carry.ledger.items()}
        unit = {name: k if name in self.model.cells else 1.0 for name in total}
        return book_row(self.signs, self.steady, self.start_totals, total, entry, unit)

    def _finish(self, writer: RunWriter, path: Path, status: str, elapsed: float) -> Result:
        self._commit(writer)
        config = self.experiment.config
        course = Course.from_rows(config.arm, config.label, self.rows)
        kept = [o for o in self.experiment.observables if o.outcome and o.name in course]
        summary = summarise(course, config.outcome, [(o.name, o.outcome) for o in kept])
        writer.finish(status, summary)
        for old in _checkpoints(path):
            old.unlink(missing_ok=True)
        notes = list(self.experiment.warnings)
        if self.rim > RIM_TOLERANCE:
            notes.append(
                f"the tumour reached the rim of the computed window (density {self.rim:.2g}); "
                "enlarge tissue.window.half_width_mm"
            )
        entries = {name: float(v[0]) + float(v[1]) for name, v in self.carry.ledger.items()}
        said = [text for e in self.experiment.schedule.events for text in e.remarks(self.model, entries)]
        notes += dict.fromkeys(said)
        more = {o.name: o.long_name if o.unit == "1" else f"{o.long_name} [{o.unit}]" for o in kept}
        units = {o.name: o.unit for o in self.experiment.observables}
        return Result(config.arm, path, course, summary, status, tuple(notes), elapsed, more, units)


def _columns(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {k: np.asarray([row[k] for row in rows]) for k in rows[0]}
