"""What the treatment did: response, time gained and exposure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from glioma_pde.outcome import DISAGREEMENT
from glioma_pde.plot._curves import burden_levels, definition, log_axis
from glioma_pde.plot._data import Arm, Source, first_crossing, opened, reference_of, values_on
from glioma_pde.plot._style import (
    FAINT,
    INK,
    STYLE,
    UNTREATED,
    WIDTH_MM,
    Sheet,
    arm_key,
    colours_of,
    heading,
    key_mark,
    letter,
    scientific,
)

DISAGREEMENT_POINTS = 100.0 * DISAGREEMENT
IMAGES = (("t1gd_volume", "T1Gd", "D", 78), ("flair_volume", "FLAIR", "s", 122))
"""Volumes beside the burden: observable, what it is called, its mark, and where its column ends [points]."""

FLAG = "#b2182b"


def outcome(sources: Sequence[Source], days: Sequence[float] | None = None) -> Figure:
    """What the treatment did, in four small panels.

    Burden relative to the untreated arm against time; the change of burden, T1Gd and FLAIR volume on
    chosen days, volumes flagged where they differ from the burden by more than 20 percentage points; the days of
    progression and of the fatal burden; exposure of tumour and of healthy tissue to the drug. Without
    an untreated arm everything is relative to the run's own first day.

    Args:
        sources: run files, one for each arm.
        days: days of the bars; by default those that the runs were configured to compare and all reach, else their
            last common one.

    Raises:
        GliomaError: if a file lacks the burden.
    """
    with opened(sources) as arms, rc_context(STYLE):
        for arm in arms:
            arm.needed("burden_cells")
        reference = reference_of(arms)
        end = min(arm.observable_days[-1] for arm in arms)
        wanted = tuple(d for d in (arms[0].compare_days if days is None else days) if d <= end) or (float(end),)
        panels = [_relative_panel, _change_panel]
        if _crossings(arms):
            panels.append(_days_panel)
        if any(_exposures(arm) for arm in arms):
            panels.append(_exposure_panel)
        against = f"the {reference.name} arm at the same time" if reference else "each run's first day"
        footer = f"Relative to {against}. {definition(arms, 'T1Gd')} {definition(arms, 'FLAIR')} "
        footer += f"≠: this volume differs from the burden by more than {DISAGREEMENT_POINTS:g} points. "
        missed = [
            f"{text} burden of {scientific(level, 0)} cells"
            for text, level in burden_levels(arms)
            if (text, level) not in _crossings(arms)
        ]
        footer += f"No run reaches the {' or the '.join(missed)}." if missed else ""
        treated = [arm for arm in arms if arm is not reference]
        tall = max(42.0, 12.0 + 7.0 * len(treated) * len(wanted))
        low = max(46.0, 20.0 + 8.0 * len(arms)) if len(panels) > 2 else 0.0
        sheet = Sheet(WIDTH_MM, 14.0 + tall + low, *heading(arms), footer)
        sheet.constrain(arm_key(arms))
        rows = -(-len(panels) // 2)
        grid = sheet.figure.add_gridspec(rows, 1, height_ratios=(tall, low)[:rows])
        within = [grid[row].subgridspec(1, len(panels[2 * row : 2 * row + 2])) for row in range(rows)]
        for index, panel in enumerate(panels):
            axes = sheet.figure.add_subplot(within[index // 2][index % 2])
            panel(axes, index, arms, reference, wanted)
        return sheet.figure


def _change(arm: Arm, reference: Arm | None, name: str, at: np.ndarray) -> np.ndarray:
    """Change of an observable against its baseline [%] on some days; NaN where nothing compares."""
    values, base = arm.curve(name), (reference or arm).curve(name)
    if values is None or base is None:
        return np.full(len(at), np.nan)
    smooth = name == "burden_cells"
    now = values_on(arm.observable_days, values, at, smooth)
    then = base[0] if reference is None else values_on(reference.observable_days, base, at, smooth)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(then, 0.0), np.nan, 100.0 * (now / then - 1.0))


def _relative_panel(axes: Axes, index: int, arms, reference, wanted) -> None:
    values = []
    for arm, colour in zip(arms, colours_of(arms), strict=True):
        if arm is reference:
            continue
        for days, style in ((arm.observable_days, "-"), (np.array(wanted), "o")):
            shown = 100.0 + _change(arm, reference, "burden_cells", days)
            axes.plot(days, shown, style, color=colour, markersize=4)
            values.append(shown)
    axes.axhline(100.0, color=UNTREATED, linewidth=1.3 if reference is not None else 0.6)
    both = np.concatenate(values)
    both = both[np.isfinite(both)]
    if len(both) and both.max() > 400.0:
        low = max(float(both[both > 0].min()), 1e-4)
        log_axis(axes, low / 1.5, both.max() * 1.5)
    else:
        axes.set_ylim(0.0, max(112.0, 1.06 * float(both.max(initial=0.0))))
    axes.set_xlim(0.0, max(arm.observable_days[-1] for arm in arms))
    axes.set_xlabel("time [days]")
    axes.set_ylabel("burden [% of untreated]" if reference else "burden [% of first day]")
    letter(axes, index, "Burden against untreated" if reference else "Burden against first day", raised=True)


def _percent(change: float) -> str:
    if np.isnan(change):
        return "–"
    return f"{change:+.1f} %".replace("-", "−") if abs(change) < 10 else f"{change:+.0f} %".replace("-", "−")


def _change_panel(axes: Axes, index: int, arms, reference, wanted) -> None:
    treated = [(arm, colour) for arm, colour in zip(arms, colours_of(arms), strict=True) if arm is not reference]
    y, middles, extremes = 0.0, [], [0.0]
    beside: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
        "annotation_clip": False,
    }
    for day in wanted:
        middles.append(y + 0.5 * (len(treated) - 1))
        for arm, colour in treated:
            at = np.array([day])
            burden = float(_change(arm, reference, "burden_cells", at)[0])
            if np.isfinite(burden):
                axes.barh(y, burden, height=0.62, color=colour)
            extremes += [burden] if np.isfinite(burden) else []
            axes.annotate(_percent(burden), (1.0, y), xytext=(34, 0), ha="right", **beside, color=INK)
            for name, _, mark, end in IMAGES:
                image = float(_change(arm, reference, name, at)[0])
                flag = abs(image - burden) > DISAGREEMENT_POINTS
                look: dict[str, Any] = {"color": FLAG, "weight": "bold"} if flag else {"color": INK}
                axes.plot(image, y, mark, markersize=4, color="white", markeredgecolor=look["color"], clip_on=False)
                extremes += [image] if np.isfinite(image) else []
                axes.annotate(_percent(image), (1.0, y), xytext=(end, 0), ha="right", **beside, **look)
                axes.annotate("≠" if flag else "", (1.0, y), xytext=(end + 1, 0), ha="left", size=9, **beside, **look)
            y += 1.0
        y += 0.6
    for text, x in (("burden", 34), *((text, end) for _, text, _, end in IMAGES)):
        axes.annotate(
            text,
            (1.0, 1.0),
            xycoords="axes fraction",
            xytext=(x, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=FAINT,
            annotation_clip=False,
        )
    axes.axvline(0.0, color=INK, linewidth=0.6)
    axes.set_yticks(middles, [f"day {day:g}" for day in wanted])
    axes.set_ylim(y - 1.0, -0.6)
    axes.tick_params(axis="y", length=0)
    low, high = min(extremes), max(extremes)
    axes.set_xlim(min(1.08 * low, -2.0) if low < 0 else -1.0, 1.08 * high if high > 2 else 0.03 * abs(low))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(f"change against {'untreated' if reference else 'first day'} [%]")
    bar = Patch(color=FAINT, label="burden")
    marks = [key_mark(text, mark, filled=False) for _, text, mark, _ in IMAGES]
    letter(axes, index, "Response on chosen days", [bar, *marks])


def _crossings(arms: Sequence[Arm]) -> list[tuple[str, float]]:
    """The thresholds of burden that at least one arm reaches."""
    return [
        (text, level)
        for text, level in burden_levels(arms)
        if any(np.any(a.needed("burden_cells") >= level) for a in arms)
    ]


def _days_panel(axes: Axes, index: int, arms, reference, wanted) -> None:
    levels = _crossings(arms)
    marks = ("o", "D")
    for row, (arm, colour) in enumerate(zip(arms, colours_of(arms), strict=True)):
        burden, days = arm.needed("burden_cells"), arm.observable_days
        for k, (_, level) in enumerate(levels):
            y = row + (k - 0.5 * (len(levels) - 1)) * 0.36
            day = first_crossing(days, burden, level)
            base = (
                None
                if reference is None
                else first_crossing(reference.observable_days, reference.needed("burden_cells"), level)
            )
            at = float(days[-1]) if day is None else day
            if base is not None and arm is not reference:
                axes.plot([base, at], [y, y], color=colour, linewidth=2.2, alpha=0.45, solid_capstyle="butt")
            mark = ">" if day is None else marks[k]
            axes.plot(at, y, mark, color=colour, markersize=4.5, markerfacecolor=colour if k == 0 else "white")
            text = f"day {at:.0f}" if day is not None else f"after day {at:.0f}"
            if base is not None and arm is not reference:
                gain = at - base
                text += f" ({'' if day is not None else '> '}{gain:+.0f})".replace("-", "−")
            axes.annotate(text, (at, y), xytext=(5, 0), textcoords="offset points", va="center", annotation_clip=False)
    axes.set_yticks(range(len(arms)), ["" for _ in arms])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    last = max(arm.observable_days[-1] for arm in arms)
    first = min(
        d
        for arm in arms
        for _, level in levels
        if (d := first_crossing(arm.observable_days, arm.needed("burden_cells"), level)) is not None
    )
    span = max(last - first, 0.05 * last)
    axes.set_xlim(max(0.0, first - 0.12 * span), last + 0.42 * span)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("time [days]" + ("; in brackets, days gained" if reference else ""))
    key = [
        key_mark(f"{text}, {scientific(level, 0)} cells", mark, mark == marks[0])
        for (text, level), mark in zip(levels, marks, strict=False)
    ]
    letter(axes, index, "Time gained" if reference else "Time to a burden", key)


def _exposures(arm: Arm) -> tuple[float, float] | None:
    """Exposure of tumour and healthy tissue at the end of the file, if both are above zero."""
    pair = [arm.curve(f"drug_exposure_{where}") for where in ("tumour", "healthy")]
    if any(values is None for values in pair):
        return None
    tumour, healthy = (float(values[-1]) for values in pair)  # type: ignore[index]
    return (tumour, healthy) if tumour > 0 and healthy > 0 else None


def _exposure_panel(axes: Axes, index: int, arms, reference, wanted) -> None:
    rows = [(a, c, e) for a, c in zip(arms, colours_of(arms), strict=True) if (e := _exposures(a))]
    for y, (_, colour, (tumour, healthy)) in enumerate(rows):
        axes.plot([healthy, tumour], [y, y], color=colour, linewidth=2.2, alpha=0.45)
        axes.plot(tumour, y, "o", color=colour, markersize=5.5)
        axes.plot(healthy, y, "o", color=colour, markersize=5.5, markerfacecolor="white")
        axes.annotate(
            f"tumour : healthy = {tumour / healthy:.2g}",
            (np.sqrt(tumour * healthy), y),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            va="bottom",
            annotation_clip=False,
        )
    axes.set_xscale("log")
    ends = [value for *_, pair in rows for value in pair]
    axes.set_xlim(min(ends) / 8, max(ends) * 8)
    axes.set_ylim(len(rows) - 0.4, -0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("∫∫ c dV dt to the end of the run [µM mm³ day]")
    letter(axes, index, "Exposure to the drug", [key_mark("tumour", "o"), key_mark("healthy tissue", "o", False)])
