"""Figure of a sensitivity analysis from its file alone: one factor at a time, elementary effects, shares of the variance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from glioma_pde.io.fit_file import SENSITIVITY, FitFile
from glioma_pde.plot._style import FAINT, INK, PALETTE, SMALL, STYLE, WIDTH_MM, Sheet, letter, save_figure

__all__ = ["plot_sensitivity", "sensitivity"]

_LOW, _HIGH, _ROW_MM = PALETTE[0], PALETTE[1], 6.4


def plot_sensitivity(path: str | Path, out_dir: str | Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Draw ``sensitivity`` from a file that `glioma-pde sensitivity` wrote.

    Raises:
        GliomaError: if the file cannot be read or the folder cannot be written.
    """
    with rc_context(STYLE):
        figure = sensitivity(FitFile(path, SENSITIVITY))
    return [save_figure(figure, Path(out_dir) / f"sensitivity.{kind}") for kind in formats]


def sensitivity(file: FitFile) -> Figure:
    """Tornado of the outcome, its elementary effects, its Sobol indices, and what is left where favourable parameters are not."""
    table, a = file["factors"], file.attributes
    order = np.argsort(-table["mu_star"])
    count = len(order)
    change = str(a["form"]) == "change"
    scale = 100.0 if change else 1.0
    unit = " [%]" if change else ""
    against = f" against {a['against']}" if a["against"] else ""
    subject = f"{str(a['quantity']).replace('_', ' ')}, {a['arm']}{against}, day {float(a['day']):g}"
    footer = "a: one parameter at a time at the ends of its range, the others as in the file (line); ▲ marks the favourable end, "
    footer += "◇ the default of the parameter table. b: mean size μ* of the elementary effects over the whole range and their "
    footer += f"standard deviation σ (Morris 1991, Campolongo et al. 2007), {file['morris']['outcomes'].shape[0]} trajectories; "
    footer += "bars: standard error. "
    scales = [n for n in ("sobol", "sobol_log") if f"{n}_total" in table]
    if scales:
        footer += f"c{', d' if scales[1:] else ''}: share of the variance over all ranges that goes with the parameter alone (first order) and "
        footer += f"with all of its interactions too (total), n = {file['sobol']['outcomes'].shape[1]}; lines: "
        footer += f"{100 * float(a['interval_level']):.0f} % intervals of a bootstrap. "
    footer += f"{'abcde'[2 + len(scales)]}: outcomes at all points of the trajectories."
    rows = 2 if scales else 1
    body = 8.0 + rows * (_ROW_MM * count + 22.0) + 52.0
    sheet = Sheet(WIDTH_MM, body, str(a["title"]), "; ".join(t for t in (str(a["label"]), subject) if t), footer)
    top = sheet.top_mm - 8.0
    height = _ROW_MM * count
    _tornado(sheet.axes(52.0, top - height, 62.0, height), table, order, float(a["base"]) * scale, scale, unit)
    _sizes(sheet.axes(122.0, top - height, 54.0, height), table, order, scale, unit)
    for i, name in enumerate(scales):
        axes = sheet.axes(52.0 + 64.0 * i, top - 2 * height - 22.0, 60.0, height)
        _shares(axes, table, order, name, labelled=i == 0)
        letter(axes, 2 + i, "Sobol indices of the outcome" if name == "sobol" else "Of its logarithm")
    top -= rows * (height + 22.0)
    axes = sheet.axes(52.0, top - 36.0, 124.0, 36.0)
    _spread(axes, file, scale, unit)
    letter(axes, 2 + len(scales), "All points of the trajectories")
    return sheet.figure


def _label(table: dict[str, np.ndarray], k: int) -> str:
    name = str(table["name"][k])
    section, _, leaf = name.partition(".")
    for suffix in ("_mm2_per_day", "_mm_per_day", "_per_day", "_mol_per_cell", "_uM", "_h", "_l_per_kg"):
        leaf = leaf.removesuffix(suffix)
    leaf = leaf.replace("kill.", "").replace("taxis.", "").replace("_", " ")
    return f"{section} {leaf}, {table['symbol'][k]}"


def _short(value: float) -> str:
    return f"{value:.0f}" if 100.0 <= value < 1e5 else f"{value:.2g}"


def _tornado(axes: Axes, table: dict[str, np.ndarray], order: np.ndarray, base: float, scale: float, unit: str) -> None:
    for row, k in enumerate(order):
        for end, colour in (("low", _LOW), ("high", _HIGH)):
            value = scale * float(table[f"at_{end}"][k])
            axes.barh(row, value - base, left=base, height=0.62, color=colour, alpha=0.85)
            mark = " ▲" if table["favourable"][k] == end else ""
            if np.isclose(float(table[end][k]), float(table["base"][k]), rtol=1e-6, atol=0.0):
                continue  # the file has it at this end
            right = value > base or (value == base and end == "high")
            axes.annotate(
                f"{_short(float(table[end][k]))}{mark}", (value, row), xytext=(2.5 if right else -2.5, 0),
                textcoords="offset points", va="center", ha="left" if right else "right", fontsize=SMALL - 1.5, color=FAINT,
            )  # fmt: skip
        if np.isfinite(table["at_default"][k]):
            axes.plot(scale * table["at_default"][k], row, "D", color=INK, markersize=3.2, markerfacecolor="white")
    axes.axvline(base, color=INK, linewidth=0.8)
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.28 * (high - low), high + 0.2 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks(range(len(order)), [_label(table, int(k)) for k in order], fontsize=SMALL - 0.7)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlabel(f"outcome{unit}")
    letter(axes, 0, "One at a time")
    handles = [
        Line2D([], [], color=c, linewidth=4, label=t) for c, t in ((_LOW, "at its low end"), (_HIGH, "high end"))
    ]
    axes.legend(handles=handles, loc="lower right", fontsize=SMALL - 1, handlelength=1.0)


def _sizes(axes: Axes, table: dict[str, np.ndarray], order: np.ndarray, scale: float, unit: str) -> None:
    rows = np.arange(len(order))
    size, spread, error = (scale * table[n][order] for n in ("mu_star", "sigma", "error"))
    axes.barh(rows, size, height=0.62, color="#bdbdbd", xerr=error, error_kw={"linewidth": 0.8, "ecolor": INK})
    axes.plot(spread, rows, "o", color=PALETTE[2], markersize=3.6)
    axes.set_yticks([])
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(left=0.0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(f"μ* (bars), σ (points){unit}")
    letter(axes, 1, "Elementary effects")


def _shares(axes: Axes, table: dict[str, np.ndarray], order: np.ndarray, name: str, labelled: bool) -> None:
    rows = np.arange(len(order))
    for kind, colour, offset in (("first", _LOW, -0.17), ("total", _HIGH, 0.17)):
        value, low, high = (table[f"{name}_{kind}{end}"][order] for end in ("", "_low", "_high"))
        axes.hlines(rows + offset, low, high, color=colour, linewidth=1.0)
        axes.plot(value, rows + offset, "o", color=colour, markersize=3.2)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_yticks(rows, [_label(table, int(k)) for k in order] if labelled else [], fontsize=SMALL - 0.7)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("share of the variance")
    handles = [
        Line2D([], [], color=c, marker="o", markersize=3.2, label=t)
        for c, t in ((_LOW, "first order"), (_HIGH, "total"))
    ]
    axes.legend(handles=handles, loc="lower right", fontsize=SMALL - 1, handlelength=1.0)


def _spread(axes: Axes, file: FitFile, scale: float, unit: str) -> None:
    values = scale * file["morris"]["outcomes"].ravel()
    axes.hist(values, bins=40, color="#cfcfcf", edgecolor="white", linewidth=0.3)
    top = axes.get_ylim()[1]
    low, high = axes.get_xlim()
    marks = [("base", "file", INK), ("all_usual", "favourable ones at their defaults", _LOW)]
    marks.append(("all_unfavourable", "favourable ones at their other ends", _HIGH))
    told: list[float] = []
    for name, text, colour in marks:
        value = scale * float(file.attributes[name])
        if any(np.isclose(value, other, rtol=5e-3) for other in told):
            continue
        left = value > 0.5 * (low + high)
        axes.axvline(value, color=colour, linewidth=1.2)
        axes.annotate(
            f"{text}: {value:.3g} {unit.strip(' []')}".strip().replace("-", "−"), (value, top * (0.98 - 0.12 * len(told))),
            xytext=(-3 if left else 3, 0), textcoords="offset points", va="top", ha="right" if left else "left",
            color=colour, fontsize=SMALL - 0.5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )  # fmt: skip
        told.append(value)
    axes.set_xlabel(f"outcome{unit}")
    axes.set_ylabel("points")
