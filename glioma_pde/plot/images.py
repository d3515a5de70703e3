"""Predicted and observed contours of a fit to images, on the anatomy, and cellularity, from its file alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from glioma_pde.calibrate.score import concordance
from glioma_pde.errors import GliomaError
from glioma_pde.io.fit_file import FitFile
from glioma_pde.plot._fit_curves import sheet
from glioma_pde.plot._style import DASH, FAINT, PALETTE, STYLE, letter, save_figure

_NAMES = ("T1Gd", "FLAIR")
_MOST = 8
"""Days that a figure has room for."""
_COLOURS = (PALETTE[0], PALETTE[1])


def image_groups(tissue: Any, scans: Sequence[Any], fit: Any, days: Sequence[float], densities: Any) -> dict[str, Any]:
    """What the figure needs, for `io.fit_file.write_fit`.

    Args:
        tissue, scans, fit: of `calibrate.images.fit_images`. days: of the predicted ``densities``, ``(T, …)``.
    """
    background = np.asarray(tissue.white + 0.6 * tissue.grey)
    empty = np.full(tissue.grid.shape, np.nan)
    masks = [[empty if m is None else np.asarray(m) for m in (s.t1gd, s.flair)] for s in scans]
    cells = [
        (scan.day, seen, found)
        for scan in scans
        if scan.cellularity is not None
        for inside in [np.isfinite(scan.cellularity) & np.asarray(tissue.mask)]
        for seen, found in zip(scan.cellularity[inside], densities[list(days).index(scan.day)][inside], strict=True)
    ]
    more = (
        {"cellularity": dict(zip(("day", "seen", "predicted"), np.asarray(cells, float).T, strict=True))}
        if cells
        else {}
    )
    return more | {
        "images": {
            "background": background * np.asarray(tissue.mask), "matrix": tissue.grid.matrix, "day": np.asarray(days, float),
            "density": np.asarray(densities, float), "seen_day": np.asarray([s.day for s in scans], float),
            "seen": np.asarray(masks, float), "threshold": np.asarray(fit.problem.thresholds, float),
        },
        "parameters": {
            "name": np.asarray(list(fit.values)), "value": list(fit.values.values()),
            "low": [fit.intervals.get(n, (np.nan, np.nan))[0] for n in fit.values],
            "high": [fit.intervals.get(n, (np.nan, np.nan))[1] for n in fit.values],
            "covariance": fit.covariance, "told": np.asarray(fit.told),
        },
    }  # fmt: skip


def plot_images(path: str | Path, out_dir: str | Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Axial, coronal and sagittal slices through the tumour for each day: predicted contours, and observed ones; and
    cellularity, predicted against observed, where it was seen.

    Raises:
        GliomaError: if the file cannot be read, holds no images, or the folder cannot be written.
    """
    file, folder = FitFile(path), Path(out_dir)
    if "images" not in file:
        raise GliomaError(f"{path}: the file holds no fit to images.")
    written: list[Path] = []
    for name, group, draw in (("fit_images", "images", contours), ("fit_cellularity", "cellularity", cellularity)):
        if group in file:
            with rc_context(STYLE):
                figure = draw(file)
            written += [save_figure(figure, folder / f"{name}.{kind}") for kind in formats]
    return written


def contours(file: FitFile) -> Figure:
    images = file["images"]
    u, days, seen, seen_days = images["density"], images["day"], images["seen"], images["seen_day"]
    background, thresholds, matrix = images["background"], images["threshold"], images["matrix"]
    centre = np.rint([np.average(np.arange(n), weights=u[-1].sum(axis=_others(k))) for k, n in enumerate(u.shape[1:])])
    planes = ((2, "axial"), (1, "coronal"), (0, "sagittal"))
    shown = np.unique(np.rint(np.linspace(0, len(days) - 1, min(len(days), _MOST))).astype(int))
    some = f" ({len(shown)} of {len(days)} days)" if len(shown) < len(days) else ""
    page = sheet(
        file, 58.0 * len(shown) + 4.0, f"Predicted and observed contours on the anatomy{some}",
        f"Solid: contours of the fitted model where the density is {thresholds[0]:.2g} (T1Gd) and {thresholds[1]:.2g} (FLAIR) of "
        "the carrying capacity; dashed: contours that were segmented. Grey: white and grey matter. Lengths in mm, "
        "+x is the subject's right, +y anterior, +z superior.",
    )  # fmt: skip
    key = [Line2D([], [], color=c, label=f"{n}, model") for n, c in zip(_NAMES, _COLOURS, strict=True)]
    key += [
        Line2D([], [], color=c, linestyle=DASH, label=f"{n}, segmented") for n, c in zip(_NAMES, _COLOURS, strict=True)
    ]
    page.constrain(key)
    axes = page.figure.subplots(len(shown), 3, squeeze=False)
    for i, (at, day) in enumerate(zip(shown, days[shown], strict=True)):
        match = np.flatnonzero(np.abs(seen_days - day) < 1e-6)
        for j, (normal, name) in enumerate(planes):
            a = axes[i, j]
            across, up = [k for k in range(3) if k != normal]
            cut: Any = tuple(int(centre[k]) if k == normal else slice(None) for k in range(3))
            x = matrix[across, across] * np.arange(u.shape[1 + across]) + matrix[across, 3]
            y = matrix[up, up] * np.arange(u.shape[1 + up]) + matrix[up, 3]
            a.pcolormesh(
                x, y, background[cut].T, cmap="Greys_r", vmin=0.0, vmax=1.6, shading="nearest", rasterized=True
            )
            for k, colour in enumerate(_COLOURS):
                a.contour(x, y, u[at][cut].T, levels=[thresholds[k]], colors=[colour], linewidths=1.2)
                if match.size and np.nanmax(seen[match[0], k][cut]) > 0.5:
                    shares = seen[match[0], k][cut].T
                    a.contour(x, y, shares, levels=[0.5], colors=[colour], linewidths=1.0, linestyles=[DASH])
            a.set_aspect("equal")
            what = "fitted" if match.size else "predicted"
            letter(a, 3 * i + j, f"{name}, day {day:g} ({what})")
            a.set_xlabel("xyz"[across] + " [mm]")
            a.set_ylabel("xyz"[up] + " [mm]")
    return page.figure


def cellularity(file: FitFile) -> Figure:
    """Observed against predicted, a panel for each day."""
    seen, found, day = (file["cellularity"][n] for n in ("seen", "predicted", "day"))
    days = np.unique(day)[:_MOST]
    rows = -(-len(days) // 3)
    page = sheet(
        file, 62.0 * rows + 4.0, "Cellularity from the diffusion of water and the fitted model",
        "A point for each cell of the grid that lies within the lesion; densities in fractions of the carrying "
        "capacity. CCC: concordance correlation coefficient.",
    )  # fmt: skip
    page.constrain([Line2D([], [], color=FAINT, label="the same")])
    axes = page.figure.subplots(rows, 3, squeeze=False, sharex=True, sharey=True).ravel()
    for a in axes[len(days) :]:
        a.set_visible(False)
    for k, (one, a) in enumerate(zip(days, axes, strict=False)):
        mine = day == one
        a.axline((0.0, 0.0), slope=1.0, color=FAINT, linewidth=0.9)
        a.plot(found[mine], seen[mine], ".", color=PALETTE[0], markersize=2.5, alpha=0.5, rasterized=True)
        letter(a, k, f"day {one:g}, CCC {concordance(seen[mine], found[mine]):.2f}")
        a.set_aspect("equal")
        a.set_xlabel("model [1]")
        a.set_ylabel("from ADC [1]")
        a.tick_params(labelbottom=True, labelleft=True)
    return page.figure


def _others(k: int) -> tuple[int, ...]:
    return tuple(j for j in range(3) if j != k)
