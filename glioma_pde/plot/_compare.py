"""Any number of runs in one figure: their burdens against time, and one row of outcomes for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from glioma_pde.plot._curves import burden_levels, log_axis
from glioma_pde.plot._data import Arm, Source, first_crossing, names_of, opened
from glioma_pde.plot._style import INK, STYLE, WIDTH_MM, Sheet, arm_key, colours_of, letter, scientific

_ROW_MM = 6.5
Values = Sequence[tuple[float, str]]
"""For each run a number and what is written beside its mark; NaN where it has none."""


def compare(sources: Sequence[Source]) -> Figure:
    """Burden of every run against time, and its outcomes in rows: burden at the end, days to the burdens of progression
    and of death, best response on scans, carriers in the tumour, therapeutic index.

    Args:
        sources: run files, the reference first.

    Raises:
        GliomaError: if a file lacks the burden.
    """
    with opened(sources) as arms, rc_context(STYLE):
        for arm in arms:
            arm.needed("burden_cells")
        columns = [column for column in (_burdens, _progression, _fatal, _inside, _index) if _any(column(arms)[1])]
        height = max(26.0, _ROW_MM * len(arms) + 16.0)
        footer = "Responses: RANO 2.0 on simulated T1Gd volumes. >: not reached by the end of the run."
        title = arms[0].text("title") or "Simulated glioma"
        same = len({arm.text("title") for arm in arms}) == 1
        sheet = Sheet(WIDTH_MM, 62.0 + height, title if same else "Simulated gliomas", "", footer)
        sheet.constrain(arm_key(arms))
        grid = sheet.figure.add_gridspec(2, 1, height_ratios=(50.0, height))
        _courses(sheet.figure.add_subplot(grid[0]), arms)
        within = grid[1].subgridspec(1, len(columns))
        for k, column in enumerate(columns):
            _dots(sheet.figure.add_subplot(within[k]), k + 1, arms, *column(arms))
        return sheet.figure


def _any(values: Values) -> bool:
    return any(np.isfinite(value) for value, _ in values)


def _courses(axes: Axes, arms: Sequence[Arm]) -> None:
    high, low = 0.0, np.inf
    for arm, colour in zip(arms, colours_of(arms), strict=True):
        burden = arm.needed("burden_cells")
        axes.plot(arm.observable_days, np.maximum(burden, 1e-3), color=colour)
        high = max(high, float(burden.max()))
        low = min(low, float(burden[burden > 0].min(initial=high)))
    log_axis(axes, max(low, 1e-6 * high) / 1.4, high * 2.0)
    for text, level in burden_levels(arms):
        if low < level < 30 * high:
            axes.axhline(level, color=INK, linewidth=0.6, linestyle=(0, (1, 1.5)))
            axes.annotate(
                f"{text}, {scientific(level, 0)}", (0.0, level), xycoords=("axes fraction", "data"), xytext=(3, 1.5),
                textcoords="offset points", va="bottom",
            )  # fmt: skip
            axes.set_ylim(top=max(axes.get_ylim()[1], 2.2 * level))
    axes.set_xlim(0.0, max(arm.observable_days[-1] for arm in arms))
    axes.set_xlabel("time [days]")
    axes.set_ylabel("cells")
    letter(axes, 0, "Tumour burden")


def _dots(axes: Axes, index: int, arms: Sequence[Arm], title: str, values: Values, label: str, log: bool) -> None:
    numbers = np.array([value for value, _ in values])
    seen = numbers[np.isfinite(numbers)]
    span = float(np.ptp(seen)) or max(abs(float(seen[0])), 1.0)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(seen.min() / 2.0, seen.max() * (seen.max() / seen.min()) ** 0.9 * 5.0)
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(seen.min() - 0.15 * span, seen.max() + 0.95 * span)
        axes.xaxis.set_major_locator(MaxNLocator(3))
    for row, ((value, text), colour) in enumerate(zip(values, colours_of(arms), strict=True)):
        axes.axhline(row, color="#e6e6e6", linewidth=0.5, zorder=0)
        if np.isfinite(value):
            axes.plot(value, row, "o", color=colour, markersize=4.5)
            axes.annotate(
                text, (value, row), xytext=(5, 0), textcoords="offset points", va="center", annotation_clip=False
            )
        else:
            axes.annotate(text or "–", (0.03, row), xycoords=("axes fraction", "data"), va="center")
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set_yticks(range(len(arms)), names_of(arms) if index == 1 else ["" for _ in arms])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label)
    letter(axes, index, title)


# -- columns: title, values, label of the axis, logarithmic ------------------------------------------

Column = tuple[str, Values, str, bool]


def _burdens(arms: Sequence[Arm]) -> Column:
    end = min(float(arm.observable_days[-1]) for arm in arms)
    found = [float(np.interp(end, arm.observable_days, arm.needed("burden_cells"))) for arm in arms]
    values = [(v if v > 0 else float("nan"), scientific(v) if v > 0 else "none left") for v in found]
    return "Burden", values, f"cells on day {end:g}", True


def _days(arms: Sequence[Arm], which: int, title: str) -> Column:
    levels = burden_levels(arms)
    values: list[tuple[float, str]] = []
    for arm in arms:
        day = first_crossing(arm.observable_days, arm.needed("burden_cells"), levels[which][1]) if levels else None
        last = float(arm.observable_days[-1])
        values.append((float("nan"), f"> {last:.0f}") if day is None else (day, f"{day:.0f}"))
    return title, values, "day", False


def _progression(arms: Sequence[Arm]) -> Column:
    return _days(arms, 0, "Progression")


def _fatal(arms: Sequence[Arm]) -> Column:
    return _days(arms, -1, "Fatal burden")


def _summaries(arms: Sequence[Arm], name: str, show: Callable[[float], str], scale: float = 1.0) -> Values:
    values = [float(arm.run.summary.get(name, np.nan)) * scale for arm in arms]
    return [(v, show(v)) if np.isfinite(v) and v > 0 else (float("nan"), "") for v in values]


def _inside(arms: Sequence[Arm]) -> Column:
    values = _summaries(arms, "carriers_fraction_in_tumour", lambda v: f"{v:.0f} %", 100.0)
    return "Carriers in tumour", values, "share of their time [%]", False


def _index(arms: Sequence[Arm]) -> Column:
    responses = [str(arm.run.summary.get("best_response", "")).split(" ")[0] for arm in arms]
    values = _summaries(arms, "therapeutic_index", lambda v: f"{v:.2g}")
    values = [(v, f"{text}  {best}".strip()) for (v, text), best in zip(values, responses, strict=True)]
    return "Index; response", values, "tumour : healthy exposure", False
