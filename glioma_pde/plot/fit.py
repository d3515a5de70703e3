"""Figures of a calibration from its file alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from glioma_pde.io.fit_file import FitFile
from glioma_pde.plot._fit_curves import curves, forecast, residuals, scored
from glioma_pde.plot._fit_parameters import corner, profile_lines, waterfall
from glioma_pde.plot._style import STYLE, save_figure

__all__ = ["plot_fit"]

_FIGURES: dict[str, tuple[str, Callable[[FitFile], Figure]]] = {
    "fit_curves": ("curves", curves),
    "fit_waterfall": ("starts", waterfall),
    "fit_profiles": ("profiles/000", profile_lines),
    "fit_corner": ("starts", corner),
    "fit_residuals": ("data", residuals),
    "fit_forecast": ("data", forecast),
}


def plot_fit(path: str | Path, out_dir: str | Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Data with bands, waterfall of the starts, profiles, corner plot, residuals, and forecasts of what was held out.

    Returns:
        The files written; figures whose data the file lacks are left out.

    Raises:
        GliomaError: if the file cannot be read or the folder cannot be written.
    """
    file, folder = FitFile(path), Path(out_dir)
    written: list[Path] = []
    for name, (group, draw) in _FIGURES.items():
        if group not in file or (name == "fit_forecast" and not scored(file)):
            continue
        with rc_context(STYLE):
            figure = draw(file)
        written += [save_figure(figure, folder / f"{name}.{kind}") for kind in formats]
    return written
