"""Measurements against the fitted model: curves with bands, residuals, forecasts."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from glioma_pde.io.fit_file import FitFile
from glioma_pde.plot._style import DASH, FAINT, INK, PALETTE, UNTREATED, Sheet, letter

_COLUMNS = 5
_MOST = 40  # subjects that are drawn


def sheet(file: FitFile, body_mm: float, what: str, footer: str, width_mm: float = 180.0) -> Sheet:
    title = str(file.attributes.get("title", "Calibration"))
    return Sheet(width_mm, body_mm, title, what, footer)


def log_ticks(axes: Axes, which: str) -> None:
    """A logarithmic axis with plain numbers that do not run into each other."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    if decades < 0.7:
        axis.set_major_locator(MaxNLocator(3))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.2 else (1.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}" if 1e-3 < value < 1e5 else f"{value:.0e}"))
    axis.set_minor_formatter(NullFormatter())


def arm_colours(file: FitFile) -> dict[str, str]:
    """Grey for the first arm, the palette for the others, in the order of the data."""
    arms = list(dict.fromkeys(map(str, file["data"]["arm"])))
    return {
        arm: UNTREATED if k == 0 and len(arms) > 1 else PALETTE[(k - 1) % len(PALETTE)] for k, arm in enumerate(arms)
    }


def curves(file: FitFile) -> Figure:
    """A panel for each subject and observable: measurements, fitted curve and its band."""
    c, data = file["curves"], file["data"]
    colours = arm_colours(file)
    panels = [(i, k) for k in range(len(c["observable"])) for i in range(len(c["subject"]))][:_MOST]
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    level, law = float(file.attributes.get("level", 0.95)), file.attributes.get("law", "")
    shown = f" (the first {_MOST})" if len(c["subject"]) * len(c["observable"]) > _MOST else ""
    page = sheet(
        file, 36.0 * rows if columns > 1 else 90.0, f"Measurements and the fitted model, {law} growth{shown}",
        f"Line and band: median and {100 * level:g} % interval of the model's curve; filled: measured; open: censored, "
        "at the limit; crosses: held out when predictions were scored.",
    )  # fmt: skip
    key = [Line2D([], [], color=v, label=k.replace("_", " "), linewidth=2.2) for k, v in colours.items()]
    page.constrain(key if len(colours) > 1 else ())
    axes = page.figure.subplots(rows, columns, squeeze=False, sharex=False)
    for n, (i, k) in enumerate(panels):
        a = axes[n // columns, n % columns]
        subject, name = str(c["subject"][i]), str(c["observable"][k])
        colour = colours[str(c["arm"][i])]
        day = c["day"][i]
        a.fill_between(day, c["low"][i, :, k], c["high"][i, :, k], color=colour, alpha=0.25, linewidth=0)
        a.plot(day, c["median"][i, :, k], color=colour)
        mine = (data["subject"] == subject) & (data["observable"] == name)
        _points(a, data, mine)
        endpoint = file.attributes.get("endpoint")
        if endpoint is not None:
            a.axhline(float(endpoint), color=FAINT, linestyle=DASH, linewidth=0.6)
        if bool(c["logarithmic"][k]):
            log_ticks(a, "y")
        a.set_title(subject, pad=2)
        if n % columns == 0:
            a.set_ylabel(f"{name} [{c['unit'][k]}]")
        if n + columns >= len(panels):
            a.set_xlabel("day")
    for n in range(len(panels), rows * columns):
        axes[n // columns, n % columns].set_axis_off()
    return page.figure


def _points(axes: Axes, data: dict[str, np.ndarray], mine: np.ndarray) -> None:
    held = data.get("held_out", np.zeros(len(data["time"]), int))
    styles: list[tuple[np.ndarray, dict[str, Any]]] = [
        ((data["censoring"] == 0) & ((held == 0) | (held == 3)), {"marker": "o", "markerfacecolor": INK}),
        ((data["censoring"] != 0), {"marker": "v", "markerfacecolor": "white"}),
        ((data["censoring"] == 0) & ((held == 1) | (held == 2)), {"marker": "x"}),
    ]
    for choice, style in styles:
        rows = mine & choice
        axes.plot(
            data["time"][rows],
            data["value"][rows],
            linestyle="",
            markersize=2.8,
            color=INK,
            markeredgewidth=0.6,
            **style,
        )


def residuals(file: FitFile) -> Figure:
    """Standardised residuals against time, against the prediction, and against a normal distribution."""
    data = file["data"]
    colours = arm_colours(file)
    page = sheet(
        file, 60.0, "Standardised residuals",
        "In standard deviations of the noise (of a population: at each subject's own parameters; of Student's t: as a normal would have "
        "them by its density); dashed: ±2. Censored measurements are left out. A trend in time or size speaks "
        "against the model, a bent line on the right against the noise.",
    )  # fmt: skip
    key = [Line2D([], [], color=v, label=k.replace("_", " "), linewidth=2.2) for k, v in colours.items()]
    page.constrain(key if len(colours) > 1 else ())
    axes = page.figure.subplots(1, 3)
    seen = data["censoring"] == 0
    r = data["residual"]
    for arm, colour in colours.items():
        mine = seen & (data["arm"] == arm)
        axes[0].plot(data["time"][mine], r[mine], ".", color=colour, markersize=3)
        axes[1].plot(data["predicted"][mine], r[mine], ".", color=colour, markersize=3)
    axes[1].set_xscale("log" if np.all(data["predicted"][seen] > 0) else "linear")
    ordered = np.sort(r[seen])
    axes[2].plot(_normal_quantiles(len(ordered)), ordered, ".", color=INK, markersize=3)
    axes[2].axline((0, 0), slope=1, color=FAINT, linewidth=0.8)
    for a, title, label in zip(
        axes, ("in time", "by size", "by quantile"), ("day", "predicted", "normal quantile"), strict=True
    ):
        a.set_xlabel(label)
        letter(a, list(axes).index(a), title)
        if a is not axes[2]:
            for level in (-2, 0, 2):
                a.axhline(level, color=FAINT, linewidth=0.6, linestyle="-" if level == 0 else DASH)
    axes[0].set_ylabel("residual [σ]")
    return page.figure


def _normal_quantiles(n: int) -> np.ndarray:
    from statistics import NormalDist

    return np.asarray([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)])


def scored(file: FitFile) -> list[tuple[int, str, str]]:
    """Code, name and title of what was held out and scored; nothing where no row, or only censored ones, were."""
    data, laws = file["data"], file["laws_compared"]
    kinds = [(1, "late", "late times"), (2, "mice", "new subjects")]
    return [k for k in kinds if "held_out" in data and np.any(data["held_out"] == k[0]) and f"{k[1]}_ccc" in laws]


def forecast(file: FitFile) -> Figure:
    """Observed against predicted, for what the scored fit had not seen."""
    data, laws = file["data"], file["laws_compared"]
    best = int(np.flatnonzero(laws["law"] == file.attributes["law"])[0])
    colours = arm_colours(file)
    page = sheet(
        file, 78.0, f"Held-out measurements against their predictions, {file.attributes['law']} growth",
        "Bars: 90 % predictive intervals. Line: perfect agreement. CCC: concordance correlation coefficient; NRMSE: root mean "
        "square error over the standard deviation of the measurements.",
    )  # fmt: skip
    key = [Line2D([], [], color=v, label=k.replace("_", " "), linewidth=2.2) for k, v in colours.items()]
    page.constrain(key if len(colours) > 1 else ())
    kinds = scored(file)
    axes = page.figure.subplots(1, len(kinds), squeeze=False)[0]
    for n, (code, name, title) in enumerate(kinds):
        a = axes[n]
        for arm, colour in colours.items():
            mine = (data["held_out"] == code) & (data["arm"] == arm) & (data["censoring"] == 0)
            y, f = data["value"][mine], data["forecast"][mine]
            low, high = data["forecast_low"][mine], data["forecast_high"][mine]
            a.errorbar(
                y,
                f,
                np.maximum([f - low, high - f], 0.0),
                fmt="o",
                color=colour,
                markersize=3,
                linewidth=0.5,
                alpha=0.8,
            )
        a.set_xscale("log")
        a.set_yscale("log")
        low, high = max(a.get_xlim()[0], 1e-12), a.get_xlim()[1]
        a.plot([low, high], [low, high], color=FAINT, linewidth=0.8)
        said = {k: float(laws[f"{name}_{k}"][best]) for k in ("ccc", "nrmse", "coverage", "count")}
        letter(a, n, title)
        told = f"CCC {said['ccc']:.2f}\nNRMSE {said['nrmse']:.2f}\n{100 * said['coverage']:.0f} % covered\nn = {said['count']:.0f}"
        a.text(0.03, 0.97, told, transform=a.transAxes, va="top", linespacing=1.4)
        a.set_xlabel("observed")
        a.set_ylabel("predicted")
    return page.figure
