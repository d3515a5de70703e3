"""A calibration from its configuration to its file and figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .config.fit_loading import FitStudy
from .fit_report import fit_table, save_fit
from .fit_run import run_fit
from .fitting import set_ups
from .manifest import git_revision, versions


def calibrate(
    study: FitStudy, out: Path, figures: bool = True, report: Callable[[str, float], Any] | None = None
) -> tuple[str, list[Path]]:
    """Fit, write ``fit.h5`` and draw: the table, and the files written.

    Raises:
        ConfigError: for what is wrong with the data or the parameters, all at once.
        GliomaError: if no start of the fit leads anywhere, or a file cannot be written.
    """
    setups = set_ups(study)
    setup = next(iter(setups.values()))
    results = run_fit(setups, report)
    attributes = {"versions": versions(), "git_revision": git_revision()}
    paths = [save_fit(out / "fit.h5", results, attributes)]
    if figures:
        from .plot.fit import plot_fit

        paths += plot_fit(paths[0], out)
    subjects, arms = len(setup.data.subjects), len(set(map(str, setup.data.arm)))
    head = f"{len(setup.data)} measurements, {subjects} subject{'s' if subjects > 1 else ''}, {arms} arm{'s' if arms > 1 else ''}"
    return f"{head}\n{fit_table(results)}", paths
