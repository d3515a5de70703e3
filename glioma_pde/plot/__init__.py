"""Figures for print from run files alone: nothing here needs the model, only HDF5 and matplotlib."""

from __future__ import annotations

import multiprocessing
import re
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from matplotlib.figure import Figure

from glioma_pde.errors import GliomaError
from glioma_pde.plot._compare import compare
from glioma_pde.plot._curves import ledger, time_courses
from glioma_pde.plot._data import Arm, names_of, opened
from glioma_pde.plot._movie import animation
from glioma_pde.plot._outcome import outcome
from glioma_pde.plot._panels import FIELDS, choose_days
from glioma_pde.plot._slices import comparison, slices
from glioma_pde.plot._study import page
from glioma_pde.plot._style import save_figure
from glioma_pde.study import Studied

__all__ = [
    "animation", "compare", "comparison", "ledger", "outcome", "page", "plot_compared", "plot_runs", "save_page", "slices",
    "time_courses",
]  # fmt: skip


def plot_runs(
    paths: Sequence[str | Path],
    out_dir: str | Path,
    formats: Sequence[str] = ("png",),
    animation: bool = True,
    jobs: int = 1,
) -> list[Path]:
    """Make every figure that the run files allow.

    ``slices_<arm>`` for each arm, ``comparison``, ``time_courses``, ``outcome``, ``ledger`` and
    ``animation.gif``; those whose data the files lack are left out. Files of runs that are still being
    written are drawn as far as they go.

    Args:
        paths: run files, one for each arm of one scenario.
        out_dir: folder to write into; made if missing.
        formats: file endings that matplotlib knows, e.g. png, pdf, svg.
        animation: also write the GIF.
        jobs: processes that draw side by side. With more than one, a script that calls this needs the guard
            ``if __name__ == "__main__":``, as the processes import it.

    Returns:
        The files written.

    Raises:
        GliomaError: if a file cannot be read or holds no frame, if nothing can be drawn, or if the
            folder cannot be written.
    """
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GliomaError(f"{folder}: the folder cannot be made ({error.strerror}); choose another one.") from error
    with opened(paths) as arms:
        names = [name for name, _ in _applicable(arms)]
        if animation and _has_pictures(arms) and max(len(arm.days) for arm in arms) > 1:
            names.append(_MOVIE)
        if jobs == 1 or len(names) < 2:
            written = [path for name in names for path in _draw(arms, name, folder, formats)]
        else:
            with _processes(jobs) as pool:
                # the longest first, in the order of the figures
                first = sorted(names, key=lambda name: name != _MOVIE)
                tasks = {name: pool.submit(_draw_from_files, paths, name, folder, formats) for name in first}
                try:
                    written = [path for name in names for path in tasks[name].result()]
                except BrokenProcessPool:
                    raise GliomaError(
                        f"{folder}: a process that drew figures has ended; draw them one after the other (jobs = 1)."
                    ) from None
    if not written:
        raise GliomaError(f"{paths[0]}: the file holds neither fields, observables nor a ledger to draw.")
    return written


def plot_compared(paths: Sequence[str | Path], out_dir: str | Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Make the one figure that compares any number of runs, ``compare``.

    Raises:
        GliomaError: if a file cannot be read or the figure cannot be written.
    """
    figure = compare(paths)
    return [save_figure(figure, Path(out_dir) / f"compare.{kind}") for kind in formats]


def save_page(paths: Sequence[str | Path], study: Studied, path: Path) -> Path:
    """Draw the page of a study into a file.

    Raises:
        GliomaError: if a file cannot be read or the figure cannot be written.
    """
    return save_figure(page(paths, study), path)


_animate = animation
_MOVIE = "animation"


def _processes(jobs: int) -> ProcessPoolExecutor:
    # Fresh ones: a copy of a process in which JAX runs threads may hang. Ctrl-C is for the one that waits for them.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), signal.signal, ignore)


def _draw_from_files(paths: Sequence[str | Path], name: str, folder: Path, formats: Sequence[str]) -> list[Path]:
    with opened(paths) as arms:
        return _draw(arms, name, folder, formats)


def _draw(arms: Sequence[Arm], name: str, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write the figure of that name, in each format."""
    if name == _MOVIE:
        return [_animate(arms, folder / f"{name}.gif")]
    figure = dict(_applicable(arms))[name]()
    return [save_figure(figure, folder / f"{name}.{kind}") for kind in formats]


def _has_pictures(arms: Sequence[Arm]) -> bool:
    return any(arm.dimensions in (2, 3) and arm.fields(["tumour"]) for arm in arms)


def _applicable(arms: Sequence[Arm]) -> list[tuple[str, Callable[[], Figure]]]:
    """Names and makers of the figures for which the files have the data."""
    drawn = [arm for arm in arms if arm.fields(FIELDS)]
    days = choose_days(drawn) if drawn else None
    figures: list[tuple[str, Callable[[], Figure]]] = [
        (f"slices_{slug}", lambda arm=arm: slices(arm, days))  # type: ignore[misc]
        for arm, slug in zip(arms, _slugs(names_of(arms)), strict=True)
        if arm in drawn
    ]
    if len(arms) > 1 and _has_pictures(arms):
        figures.append(("comparison", lambda: comparison(arms)))
    burdens = [arm.curve("burden_cells") is not None for arm in arms]
    if any(burdens):
        figures.append(("time_courses", lambda: time_courses(arms)))
    if all(burdens):
        figures.append(("outcome", lambda: outcome(arms)))
    if any(arm.imbalances() for arm in arms):
        figures.append(("ledger", lambda: ledger(arms)))
    return figures


def _slugs(names: Sequence[str]) -> list[str]:
    """File names from names of arms; numbered where only signs told those apart."""
    plain = [re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "run" for name in names]
    return [slug if plain.count(slug) == 1 else f"{slug}_{k + 1}" for k, slug in enumerate(plain)]
