"""Arms that run together: all of them built first, then one after the other, and what is left to do when interrupted."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from rich.progress import BarColumn, Progress, TextColumn

from . import signals
from .build import Experiment, anatomy_of, build, common_shapes
from .config import Config
from .config.size import LARGE
from .errors import ConfigError, GliomaError, Interrupted
from .io._files import in_units
from .io.hdf5 import RunFile
from .run import Progress as Reached
from .run import Result, checkpoint_path, output_size, resume, run
from .tissue import Tissue


def build_all(arms: Sequence[Config], where: str = "configuration") -> list[Experiment]:
    """`build` of arms that run together; an anatomy that they share is made once.

    Raises:
        ConfigError: for everything wrong in any arm, with the arm's name unless it is wrong in all.
    """
    shapes = common_shapes(arms)
    made: dict[tuple[str, ...], tuple[Tissue, Any]] = {}
    experiments = []
    wrong: dict[str, list[str]] = {}
    for arm in arms:
        directions = "" if arm.anisotropy is None else arm.anisotropy.model_dump_json()
        key = (arm.tissue.model_dump_json(), directions, arm.numerics.precision)
        try:
            if key not in made:
                made[key] = anatomy_of(arm, jnp.dtype(arm.numerics.precision))
            experiments.append(replace(build(arm, made[key][0], shapes=shapes), background=made[key][1]))
        except ConfigError as error:
            wrong[arm.arm] = error.problems
    if wrong:
        shared = [p for p in next(iter(wrong.values())) if all(p in wrong.get(arm.arm, ()) for arm in arms)]
        own = [f"arms.{name}.{p}" for name, problems in wrong.items() for p in problems if p not in shared]
        raise ConfigError([*shared, *own], where)
    return experiments


def run_all(
    experiments: list[Experiment],
    out: Path,
    text: str,
    figures: bool,
    again: Callable[[list[str]], list[str]] | None,
    conclude: Callable[[list[Result], Config, Path, bool], None],
    jobs: int = 1,
) -> None:
    """Run arms into ``out``, and show what came of them.

    Args:
        text: of the configuration.
        again: the command line that runs the named arms; without it the caller says how to go on.
        conclude: shows the results, of the first arm's ``outcome`` and ``output``, with figures or without.
        jobs: arms that run side by side.

    Raises:
        Interrupted: naming what is left to do, with the command for it.
        GliomaError: of the first arm that fails; arms beside it are saved as they stand.
    """
    first = experiments[0].config
    figures = figures and first.output.figures
    left = [e.config.arm for e in experiments]
    paths = [out / f"{name}.h5" for name in left]
    results: list[Result] = []
    try:
        if min(jobs, len(experiments)) > 1:
            late = _side_by_side(experiments, paths, text, jobs, left, results)
            if late is not None and (left or figures):
                raise signals.Terminated if late == signal.SIGTERM else KeyboardInterrupt
        else:
            for experiment, path in zip(experiments, paths, strict=True):
                try:
                    result, late = with_progress(experiment, path, text)
                except Interrupted:
                    left.pop(0)  # the message has the command for it
                    raise
                left.pop(0)
                results.append(result)
                if late is not None and (left or figures):
                    raise signals.Terminated if late == signal.SIGTERM else KeyboardInterrupt
        conclude(results, first, out, figures)
    except (Interrupted, KeyboardInterrupt) as error:
        done = f"after arm {results[-1].arm!r}, which is complete" if results else "before the first arm"
        lines = [str(error) or f"Interrupted {done}."]
        if left and again is not None:
            lines.append(f"The arms after it, {', '.join(left)}: {shlex.join(again(left))}")
        if figures:
            lines.append(f"The figures then: {shlex.join(['glioma-pde', 'plot', *map(str, paths), '--out', str(out)])}")
        stopped = Interrupted("\n".join(lines))
        stopped.exit_code = error.exit_code if isinstance(error, Interrupted) else signals.code_of(error)
        raise stopped from None


def with_progress(experiment: Experiment, path: Path, text: str | None) -> tuple[Result, int | None]:
    """Run (or, without a text, resume) one arm under a progress bar.

    Returns:
        What came of it, and the signal that came too late to interrupt it, if any.
    """
    _note(experiment)
    with _bars() as bars, signals.asking() as stop:
        try:
            result = _under_bar(bars, experiment, path, text, stop)
        except (Interrupted, KeyboardInterrupt) as error:
            interrupted = Interrupted(_how_to_go_on(experiment, path, error))
            interrupted.exit_code = signals.exit_code(stop.signal)
            raise interrupted from None
    _say(experiment, result)
    return result, stop.signal


def _side_by_side(
    experiments: list[Experiment], paths: list[Path], text: str, jobs: int, left: list[str], results: list[Result]
) -> int | None:
    """Run ``jobs`` arms at a time.

    Args:
        left: becomes the names of those that were not begun.
        results: becomes what came of those that are complete, in their order.

    Returns:
        The signal that came too late to interrupt any of them, if one did.
    """
    found: dict[int, Result] = {}
    interrupted: list[str] = []
    failed: list[Exception] = []
    for experiment in experiments:
        _note(experiment)
    with _bars() as bars, signals.asking() as stop:

        def one(i: int) -> None:
            if stop() or failed:
                return
            left.remove(experiments[i].config.arm)
            try:
                found[i] = _under_bar(bars, experiments[i], paths[i], text, lambda: stop() or bool(failed))
            except Interrupted as error:
                interrupted.append(_how_to_go_on(experiments[i], paths[i], error))
            except Exception as error:
                failed.append(error)

        # A second signal cannot end a thread; all of them are on their way to save and leave.
        with ThreadPoolExecutor(jobs) as pool, contextlib.suppress(KeyboardInterrupt):
            for task in [pool.submit(one, i) for i in range(len(experiments))]:
                task.result()
    for i in sorted(found):
        results.append(found[i])
        _say(experiments[i], found[i])
    if failed:
        if isinstance(failed[0], GliomaError) and interrupted:
            raise GliomaError("\n".join([str(failed[0]), *interrupted]))
        raise failed[0]
    if interrupted:
        error = Interrupted("\n".join(interrupted))
        error.exit_code = signals.exit_code(stop.signal)
        raise error
    return stop.signal


def _bars() -> Progress:
    columns = (TextColumn("  {task.description:<12}"), BarColumn(), TextColumn("{task.fields[state]}"))
    return Progress(*columns, transient=not sys.stdout.isatty())


def _note(experiment: Experiment) -> None:
    """Say what is known of a run before it starts."""
    arm = experiment.config.arm
    size = output_size(experiment).file
    if size > LARGE:
        print(f"  {arm}: note: the output will take about {in_units(size)} (an estimate; fields are compressed)")
    for warning in experiment.warnings:
        print(f"  {arm}: note: {warning}")


def _say(experiment: Experiment, result: Result) -> None:
    """Say how a run ended."""
    for warning in result.warnings[len(experiment.warnings) :]:
        print(f"  {result.arm}: warning: {warning}")
    if not sys.stdout.isatty():
        print(f"  {result.arm}: {result.status}, {result.elapsed_s:.0f} s")


def _under_bar(
    bars: Progress, experiment: Experiment, path: Path, text: str | None, stop: Callable[[], bool]
) -> Result:
    task = bars.add_task(experiment.config.arm, total=float(experiment.days[-1]), state="compiling")

    def report(p: Reached) -> None:
        bars.update(task, completed=p.day, state=f"day {p.day:g} of {p.end_day:g}, {p.remaining_s:.0f} s left")

    result = resume(experiment, path, report, stop) if text is None else run(experiment, path, report, text, stop)
    bars.update(task, state=f"day {result.course.days[-1]:g} in {result.elapsed_s:.0f} s")
    return result


def _how_to_go_on(experiment: Experiment, path: Path, error: Interrupted | KeyboardInterrupt) -> str:
    arm = experiment.config.arm
    what = str(error) or f"Arm {arm!r} was interrupted."
    if checkpoint_path(path).exists():
        return f"{what} Go on with: glioma-pde resume {shlex.quote(str(path))}"
    if is_complete(path):
        return f"{what} It is complete: {path}"
    return f"{what} Nothing was saved; run it again: {arm}"


def is_complete(path: Path, arm: Config | None = None) -> bool:
    """Whether a run file was finished, and is one of this very arm if one is given."""
    try:
        with RunFile(path) as file:
            return file.attrs["status"] != "running" and (arm is None or file.config_json == arm.to_json())
    except GliomaError:
        return False
