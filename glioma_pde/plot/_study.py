"""One page for a study: courses of its arms, what it published beside ours, and how the parameters were chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from glioma_pde.plot._curves import burden_levels, log_axis
from glioma_pde.plot._data import Arm, Source, opened
from glioma_pde.plot._style import (
    FAINT,
    INK,
    SMALL,
    STYLE,
    WIDTH_MM,
    Sheet,
    arm_key,
    colours_of,
    letter,
    lines_of,
    scientific,
)
from glioma_pde.study import IN, OUT, Chosen, Compared, Studied

GOOD, BAD, BAND = "#1b7837", "#b2182b", "#d9d9d9"
_PANEL_MM, _ROW_MM, _LINE_MM, _LABEL_MM = 46.0, 7.0, 3.3, 64.0
_DASH = 3.5  # line widths
_HOW = {"favourable": "▲", "unfavourable": "▼", "middle": "●"}


def page(sources: Sequence[Source], study: Studied) -> Figure:
    """The page of one study.

    Args:
        sources: run files of its arms, in order.

    Raises:
        GliomaError: if a file lacks the burden.
    """
    with opened(sources) as arms, rc_context(STYLE):
        for arm in arms:
            arm.needed("burden_cells")
        groups = [list(rows) for _, rows in itertools.groupby(study.rows, key=lambda r: (r.form, r.unit))]
        rows_mm = sum(_ROW_MM * len(g) + 13.0 for g in groups)
        choices = [_choice(c) for c in study.chosen]
        choices_mm = sum(_height(name, why) for name, _, _, why in choices) + 9.0
        words = [(head, lines_of(text, WIDTH_MM - 28.0)) for head, text in _words(study)]
        words_mm = sum(_LINE_MM * (text.count("\n") + 1) + 1.6 for _, text in words) + 2.0
        key = arm_key(arms)
        for line, arm in zip(key, arms, strict=True):
            line.set_label(arm.text("label") or line.get_label())
        longest = max(len(str(line.get_label())) for line in key) * 1.25 + 12.0
        columns = max(1, min(len(key), int((WIDTH_MM - 6.0) // longest)))
        key_rows = math.ceil(len(key) / columns)
        body = 4.2 * key_rows + 8.0 + _PANEL_MM + 16.0 + rows_mm + choices_mm + words_mm
        footer = "Grey bars: published value (line) and the range that counts as agreement; points: this model, "
        footer += "green inside the range, red outside, open where fitted. Curves that lie on each other take turns, in dashes. "
        footer += "▲ favourable, ● middle, ▼ unfavourable for the treatment; * outside the range of the literature."
        label = f"{study.label[0].upper()}{study.label[1:]}. " if study.label else ""
        sheet = Sheet(WIDTH_MM, body, study.title, label + study.citation, footer)
        top = sheet.top_mm - 1.0
        sheet.figure.legend(
            handles=key, loc="upper left", ncols=columns, borderaxespad=0, borderpad=0,
            columnspacing=1.6, bbox_to_anchor=(3.0 / sheet.width_mm, top / sheet.height_mm),
        )  # fmt: skip
        top -= 4.2 * key_rows + 8.0
        _courses(sheet.axes(20.0, top - _PANEL_MM, 65.0, _PANEL_MM), arms)
        _exposure(sheet.axes(108.0, top - _PANEL_MM, 67.0, _PANEL_MM), arms, study.exposure)
        top -= _PANEL_MM + 14.0
        for k, group in enumerate(groups):
            height = _ROW_MM * len(group)
            axes = sheet.axes(_LABEL_MM + 3.0, top - height - 3.0, 60.0, height)
            _rows(axes, group, "Published and ours" if k == 0 else "")
            top -= height + 13.0
        top = _table(sheet, top - 2.0, choices)
        for head, text in words:
            sheet.text(3.0, top, head, weight="bold", va="top")
            sheet.text(22.0, top, text, va="top", linespacing=1.3)
            top -= _LINE_MM * (text.count("\n") + 1) + 1.6
        return sheet.figure


def _words(study: Studied) -> tuple[tuple[str, str], ...]:
    return ("Fitted", study.fitted), ("Predicted", study.predicted), ("Fails", study.fails)


def _courses(axes: Axes, arms: Sequence[Arm]) -> None:
    high, low = 0.0, np.inf
    for arm in arms:
        burden = arm.needed("burden_cells")
        high = max(high, float(burden.max()))
        low = min(low, float(burden[burden > 0].min(initial=high)))
    low = max(low, 1e-6 * high)
    log_axis(axes, low / 1.4, high * 2.0)
    curves = [(arm.observable_days, np.maximum(arm.needed("burden_cells"), 1e-3)) for arm in arms]
    for line, (days, values), colour in zip(_turns(axes, curves), curves, colours_of(arms), strict=True):
        axes.plot(days, values, color=colour, linestyle=line)
    if high < 50.0 * low:  # hardly a power of ten in between
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(lambda value, position: scientific(value, 0))
    for text, level in burden_levels(arms):
        if low < level < 0.85 * axes.get_ylim()[1]:  # with room for its name below the title
            axes.axhline(level, color=INK, linewidth=0.6, linestyle=(0, (1, 1.5)))
            label = f"{text}, {scientific(level)}"
            place: Any = {"xycoords": ("axes fraction", "data"), "xytext": (3, 1.5), "textcoords": "offset points"}
            axes.annotate(label, (0.0, level), va="bottom", fontsize=SMALL - 1, **place)
    axes.set_xlim(0.0, max(arm.observable_days[-1] for arm in arms))
    axes.set_xlabel("time [days]")
    axes.set_ylabel("cells")
    letter(axes, 0, "Tumour burden")


def _exposure(axes: Axes, arms: Sequence[Arm], name: str | None) -> None:
    """The observable that tells how the treatment acts; of every arm that has it."""
    drawn = [(a, c) for a, c in zip(arms, colours_of(arms), strict=True) if name and a.curve(name) is not None]
    if not drawn or name is None:
        axes.set_axis_off()
        return
    quantity = drawn[0][0].run.observables[name]
    curves = [(arm.observable_days, arm.needed(name)) for arm, _ in drawn]
    for days, values in curves:
        axes.plot(days, values, alpha=0.0)  # for the axis alone
    for line, (days, values), (_, colour) in zip(_turns(axes, curves), curves, drawn, strict=True):
        axes.plot(days, values, color=colour, linestyle=line)
    sizes = [(days, np.abs(np.nan_to_num(values))) for days, values in curves]
    acting = [days[size > 1e-3 * size.max()] for days, size in sizes]
    last = max(arm.observable_days[-1] for arm, _ in drawn)
    shown_to = max((float(days[-1]) for days in acting if len(days)), default=last)
    axes.set_xlim(0.0, min(last, 1.2 * shown_to))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    if max(size.max() for _, size in sizes) >= 1e4:
        axes.yaxis.set_major_formatter(lambda value, position: scientific(value))
    if all(np.nanmin(values) >= 0.0 for _, values in curves):
        axes.set_ylim(bottom=0.0)
    else:
        axes.axhline(0.0, color=FAINT, linewidth=0.6)
    axes.set_xlabel("time [days]")
    axes.set_ylabel("" if quantity.unit in ("1", "") else quantity.unit)
    text = quantity.long_name
    letter(axes, 1, lines_of(text[0].upper() + text[1:], 66.0, 8.0))


def _turns(axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Any]:
    """Line styles: dashes in turn for those curves that no eye tells apart, so that none hides another."""
    scale = np.log10 if axes.get_yscale() == "log" else np.asarray
    heights = [scale(values) for _, values in curves]
    bottom, top = scale(np.array(axes.get_ylim()))
    groups: list[list[int]] = []
    for i, height in enumerate(heights):
        for group in groups:
            first = heights[group[0]]
            if len(first) == len(height) and np.nanmax(np.abs(first - height)) < 0.008 * (top - bottom):
                group.append(i)
                break
        else:
            groups.append([i])
    styles: list[Any] = ["-"] * len(curves)
    for group in groups:
        for k, i in enumerate(group if len(group) > 1 else ()):
            styles[i] = (_DASH * k, (_DASH, _DASH * (len(group) - 1)))
    return styles


def _rows(axes: Axes, rows: Sequence[Compared], title: str) -> None:
    """Published values with their ranges, and ours beside them."""
    first = rows[0]
    factor = 100.0 if first.form == "change" else 1.0
    numbers = [v for r in rows for v in (r.published, r.low, r.high, r.ours) if math.isfinite(v)]
    log = any(r.kind == "order_of_magnitude" for r in rows) and min(numbers) > 0
    if log:
        axes.set_xscale("log")
        limits = min(numbers) / 2.0, max(numbers) * 2.0
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        span = (max(numbers) - min(numbers)) or abs(numbers[0]) or 1.0
        limits = factor * (min(numbers) - 0.12 * span), factor * (max(numbers) + 0.12 * span)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(*limits)
    for k, r in enumerate(rows):
        ends = np.clip([factor * r.low, factor * r.high], *limits)
        axes.barh(k, ends[1] - ends[0], left=ends[0], height=0.56, color=BAND, zorder=1)
        axes.plot([factor * r.published] * 2, [k - 0.28, k + 0.28], color=INK, linewidth=1.1, zorder=2)
        colour = GOOD if r.verdict == IN else BAD
        if math.isfinite(r.ours):
            face = "white" if r.role == "fitted" else colour
            axes.plot(factor * r.ours, k, "o", color=colour, markerfacecolor=face, markersize=4.6, zorder=3)
        elif math.isinf(r.ours):
            axes.plot(limits[1], k, ">", color=colour, markersize=4.6, zorder=3, clip_on=False)
        right: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(
            lines_of(r.what, _LABEL_MM - 3.0, SMALL - 0.6),
            (0.0, k),
            xytext=(-4, 0),
            ha="right",
            va="center",
            annotation_clip=False,
            fontsize=SMALL - 0.6,
            **right,
        )
        told = f"{r.shown}  ({r.text})\n{r.verdict}, {r.role}"
        axes.annotate(
            told, (1.0, k), xytext=(5, 0), va="center", annotation_clip=False, fontsize=SMALL - 0.6,
            color=BAD if r.verdict == OUT else INK, linespacing=1.25, **right,
        )  # fmt: skip
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    names = {"change": "change [%]", "ratio": "ratio", "difference": f"difference [{first.unit}]"}
    axes.set_xlabel(names.get(first.form, first.unit or "value"))
    if title:
        axes.text(
            -(_LABEL_MM) / 60.0, 1.0, f"$\\bf{{c}}$  {title}", transform=axes.transAxes, va="bottom", fontsize=8.0
        )


def _choice(c: Chosen) -> tuple[str, str, str, str]:
    mark = _HOW[c.end] + ("*" if c.outside else "")
    name = c.parameter if c.value else lines_of(c.parameter, 74.0, SMALL - 0.6)  # what has no value has its room
    value = c.value.replace("mm2", "mm²")
    return name, value, f"{mark} {c.how}", lines_of(c.why, 76.0, SMALL - 0.6)


def _height(*texts: str) -> float:
    """Of a row of the table [mm]."""
    return _LINE_MM * (1 + max(text.count("\n") for text in texts)) + 0.7


def _table(sheet: Sheet, top: float, choices: Sequence[tuple[str, str, str, str]]) -> float:
    """How parameters were chosen; the height that is left."""
    sheet.text(3.0, top, "$\\bf{d}$  How the parameters were chosen", va="top", fontsize=8.0)
    top -= 5.5
    small: Any = {"va": "top", "fontsize": SMALL - 0.6, "linespacing": 1.25}
    for name, value, how, why in choices:
        for x_mm, text in ((3.0, name), (54.0, value), (84.0, how), (105.0, why)):
            sheet.text(x_mm, top, text, **small)
        top -= _height(name, why)
    return top - 3.5
