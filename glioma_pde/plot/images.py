"""Predicted and observed contours of a fit to images, on the anatomy, from its file alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from glioma_pde.errors import GliomaError
from glioma_pde.io.fit_file import FitFile
from glioma_pde.plot._fit_curves import sheet
from glioma_pde.plot._style import DASH, PALETTE, STYLE, letter, save_figure

_NAMES = ("T1Gd", "FLAIR")
_COLOURS = (PALETTE[0], PALETTE[1])


def image_groups(tissue: Any, scans: Sequence[Any], fit: Any, days: Sequence[float], densities: Any) -> dict[str, Any]:
    """What the figure needs, for `io.fit_file.write_fit`.

    Args:
        tissue, scans, fit: of `calibrate.images.fit_images`. days: of the predicted ``densities``, ``(T, …)``.
    """
    background = np.asarray(tissue.white + 0.6 * tissue.grey)
    empty = np.full(tissue.grid.shape, np.nan)
    masks = [[empty if m is None else np.asarray(m) for m in (s.t1gd, s.flair)] for s in scans]
    return {
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
    """Axial, coronal and sagittal slices through the tumour for each day: predicted contours, and observed ones.

    Raises:
        GliomaError: if the file cannot be read, holds no images, or the folder cannot be written.
    """
    file, folder = FitFile(path), Path(out_dir)
    if "images" not in file:
        raise GliomaError(f"{path}: the file holds no fit to images.")
    with rc_context(STYLE):
        figure = contours(file)
    return [save_figure(figure, folder / f"fit_images.{kind}") for kind in formats]


def contours(file: FitFile) -> Figure:
    images = file["images"]
    u, days, seen, seen_days = images["density"], images["day"], images["seen"], images["seen_day"]
    background, thresholds, matrix = images["background"], images["threshold"], images["matrix"]
    centre = np.rint([np.average(np.arange(n), weights=u[-1].sum(axis=_others(k))) for k, n in enumerate(u.shape[1:])])
    planes = ((2, "axial"), (1, "coronal"), (0, "sagittal"))
    page = sheet(
        file, 58.0 * len(days) + 4.0, "Predicted and observed contours on the anatomy",
        f"Solid: contours of the fitted model where the density is {thresholds[0]:.2g} (T1Gd) and {thresholds[1]:.2g} (FLAIR) of "
        "the carrying capacity; dashed: contours that were segmented. Grey: white and grey matter. Lengths in mm, "
        "+x is the subject's right, +y anterior, +z superior.",
    )  # fmt: skip
    key = [Line2D([], [], color=c, label=f"{n}, model") for n, c in zip(_NAMES, _COLOURS, strict=True)]
    key += [
        Line2D([], [], color=c, linestyle=DASH, label=f"{n}, segmented") for n, c in zip(_NAMES, _COLOURS, strict=True)
    ]
    page.constrain(key)
    axes = page.figure.subplots(len(days), 3, squeeze=False)
    for i, day in enumerate(days):
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
                a.contour(x, y, u[i][cut].T, levels=[thresholds[k]], colors=[colour], linewidths=1.2)
                if match.size and np.nanmax(seen[match[0], k][cut]) > 0.5:
                    shares = seen[match[0], k][cut].T
                    a.contour(x, y, shares, levels=[0.5], colors=[colour], linewidths=1.0, linestyles=[DASH])
            a.set_aspect("equal")
            what = "fitted" if match.size else "predicted"
            letter(a, 3 * i + j, f"{name}, day {day:g} ({what})")
            a.set_xlabel("xyz"[across] + " [mm]")
            a.set_ylabel("xyz"[up] + " [mm]")
    return page.figure


def _others(k: int) -> tuple[int, ...]:
    return tuple(j for j in range(3) if j != k)
