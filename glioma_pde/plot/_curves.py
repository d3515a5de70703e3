"""Curves of all arms against time, and the books of the ledger."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from glioma_pde.errors import GliomaError
from glioma_pde.plot._data import Arm, Source, names_of, opened
from glioma_pde.plot._style import (
    DASH,
    INK,
    STYLE,
    UNTREATED,
    WIDTH_MM,
    Sheet,
    arm_key,
    colours_of,
    heading,
    key_line,
    letter,
    scientific,
)

RIM_DENSITY = 0.01  # above it, the window's edge may shape the result
_PANELS = {
    "burden": ("burden_cells",),
    "volumes": ("t1gd_volume", "flair_volume"),
    "carriers": ("carriers_cells", "carriers_in_tumour_cells"),
    "drug": ("drug_mean_tumour", "drug_peak"),
    "prodrug": ("prodrug_plasma",),
}


def burden_levels(arms: Sequence[Arm]) -> list[tuple[str, float]]:
    """The burdens that mark progression and death, where every arm agrees on them."""
    found = []
    for text, name in (("progression", "progression_burden_cells"), ("fatal", "fatal_burden_cells")):
        values = {arm.number(name) for arm in arms}
        level = values.pop() if len(values) == 1 else None
        if level:
            found.append((text, level))
    return found


def log_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _lines(axes: Axes, arms: Sequence[Arm], names: Sequence[str], decades: float = 0.0, scale: float = 1.0) -> None:
    """Curves of one (solid) or two (solid, dashed) columns for each arm.

    Args:
        decades: most decades to show on a logarithmic axis; what is smaller leaves it downwards. 0: linear.
    """
    found = [
        (arm, colour, values * scale, dashed)
        for arm, colour in zip(arms, colours_of(arms), strict=True)
        for name, dashed in zip(names, (False, True), strict=False)
        if (values := arm.curve(name)) is not None and np.nanmax(values, initial=0.0) > 0
    ]
    if not found:
        return
    high = max(np.nanmax(values) for *_, values, _ in found)
    low = max(min(np.nanmin(values[values > 0]) for *_, values, _ in found), high / 10**decades)
    for arm, colour, values, dashed in found:
        width = 0.9 if dashed else 1.3
        axes.plot(
            arm.observable_days,
            np.maximum(values, low * 1e-6) if decades else values,
            color=colour,
            linestyle=DASH if dashed else "-",
            linewidth=width + 1.3 if colour == UNTREATED else width,
            zorder=2 if colour == UNTREATED else 3,
        )
    if decades:
        log_axis(axes, low / 1.4, high * 2.0)
    else:
        axes.set_ylim(0.0, high * 1.1)


_OTHERS = {
    "resections": ("X", "crosses: resections"),
    "radiotherapy": ("|", "strokes: fractions of radiation"),
    "temozolomide": (".", "dots: temozolomide"),
}
"""Tables of treatments that act on the tumour itself: their mark, and what it says."""


def _treatment_marks(axes: Axes, arms: Sequence[Arm], kind: str) -> None:
    """Doses as triangles, prodrug courses as bars with shading, or marks of the `_OTHERS`, one row for each arm and mark, on top."""
    tables = {"doses": ("injections",), "others": tuple(_OTHERS), "courses": ("courses",)}[kind]
    rows = [
        (arm, colour, table)
        for arm, colour in zip(arms, colours_of(arms), strict=True)
        for table in tables
        if (arm.courses if table == "courses" else len(arm.treatment_days(table)))
    ]
    if not rows:
        return
    low, high = axes.get_ylim()
    room = 0.07 * len(rows) + 0.03  # of the axis, kept free for the marks
    if axes.get_yscale() == "log":
        axes.set_ylim(low, high * (high / low) ** (room / (1 - room)))
    else:
        axes.set_ylim(low, low + (high - low) / (1 - room))
    across = axes.get_xaxis_transform()
    for row, (arm, colour, table) in enumerate(rows):
        y = 0.97 - 0.07 * row
        if table != "courses":
            days = arm.treatment_days(table)
            mark = "v" if table == "injections" else _OTHERS[table][0]
            axes.plot(
                days, np.full(len(days), y), mark, color=colour, markersize=4.5, markeredgewidth=0.6, transform=across,
                clip_on=False,
            )  # fmt: skip
            continue
        for start, stop in arm.courses:
            axes.axvspan(start, stop, color=colour, alpha=0.09, linewidth=0, zorder=0)
            axes.plot([start, stop], [y, y], color=colour, linewidth=3, solid_capstyle="butt", transform=across)


def time_courses(sources: Sequence[Source]) -> Figure:
    """Burden, imaging volumes, carriers, drug and prodrug of all arms against time.

    Args:
        sources: run files, one for each arm (paths or open ``Arm`` objects).

    Raises:
        GliomaError: if none of the files holds an observable that is drawn here.
    """
    with opened(sources) as arms, rc_context(STYLE):
        panels = [
            panel
            for panel, names in _PANELS.items()
            if any((v := arm.curve(name)) is not None and np.any(v > 0) for arm in arms for name in names)
        ]
        if not panels:
            raise GliomaError(f"{arms[0].path}: no observables to draw against time; let the run record burden_cells.")
        footer = definition(arms, "T1Gd", "FLAIR") + " " if "volumes" in panels else ""
        if "carriers" in panels and any(len(arm.injections) for arm in arms):
            footer += "Triangles: carrier doses. "
        if {"drug", "prodrug"} & set(panels) and any(arm.courses for arm in arms):
            footer += "Bars and shading: prodrug courses. "
        others = [text for table, (_, text) in _OTHERS.items() if any(len(arm.treatment_days(table)) for arm in arms)]
        if "burden" in panels and others:
            footer += f"In the first panel, {', '.join(others)}. "
        last = max(arm.observable_days[-1] for arm in arms if len(arm.observable_days))
        active = _end_of_treatment(arms, float(last))
        rows = [row for row in (panels[:2], panels[2:]) if row]
        if active < last and len(rows) > 1:
            footer += f"Lower row: to day {active:g} only. "
        rim = max((float(v.max()) for arm in arms if (v := arm.curve("rim_density")) is not None), default=0.0)
        if rim > RIM_DENSITY:
            footer += f"The tumour reaches the edge of the computed window, with a density of {rim:.2g}."
        sheet = Sheet(WIDTH_MM, 10.0 + 50.0 * len(rows), *heading(arms), footer)
        sheet.constrain(arm_key(arms))
        grid = sheet.figure.add_gridspec(len(rows), 1)
        for r, row in enumerate(rows):
            within = grid[r].subgridspec(1, len(row))
            for c, panel in enumerate(row):
                axes = sheet.figure.add_subplot(within[c])
                title, key = _time_panel(axes, panel, arms)
                end = active if r else last
                axes.set_xlim(-0.015 * end, end)
                axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 3, 5, 10]))
                axes.set_xlabel("time [days]")
                letter(axes, 2 * r + c, title, key, raised=len(row) > 1)
        return sheet.figure


def _end_of_treatment(arms: Sequence[Arm], last: float) -> float:
    """Day by which carriers and drug are gone from every arm; the last day if that is not much later."""
    end = 0.0
    for arm in arms:
        for name in ("carriers_cells", "drug_peak", "prodrug_plasma"):
            values = arm.curve(name)
            if values is not None and np.any(values > 0):
                end = max(end, float(arm.observable_days[np.flatnonzero(values > 1e-3 * values.max())[-1]]))
    return 10.0 * np.ceil(0.105 * end) if 0 < end < 0.7 * last and end > 10 else last


def definition(arms: Sequence[Arm], *scans: str) -> str:
    """How the volumes on scans are defined."""
    levels = [{arm.number(f"{scan.lower()}_threshold") for arm in arms} for scan in scans]
    if any(len(found) > 1 or None in found for found in levels):
        return f"{' and '.join(scans)} volume: tissue above the scan's threshold of tumour density."
    above = " and ".join(f"{found.pop():.2f}" for found in levels)
    return f"{' and '.join(scans)} volume: tissue with a tumour density above {above} of capacity."


def _time_panel(axes: Axes, panel: str, arms: Sequence[Arm]) -> tuple[str, list[Line2D]]:
    """Draw one panel; returns its title and the key to its line styles."""
    names = _PANELS[panel]
    if panel == "burden":
        _lines(axes, arms, names, decades=6.0)
        axes.set_ylabel("cells")
        for text, level in burden_levels(arms):
            low, high = axes.get_ylim()
            if low < level < 30 * high:  # farther off, the line would only squeeze the curves
                axes.set_ylim(low, max(high, 2.2 * level))
                axes.axhline(level, color=INK, linewidth=0.6, linestyle=(0, (1, 1.5)))
                axes.annotate(
                    f"{text}, {scientific(level, 0)}",
                    (0.0, level),
                    xycoords=("axes fraction", "data"),
                    xytext=(3, 1.5),
                    textcoords="offset points",
                    va="bottom",
                )
        _treatment_marks(axes, arms, "others")
        return "Tumour burden", []
    if panel == "volumes":
        biggest = max(float(np.max(v)) for arm in arms for n in names if (v := arm.curve(n)) is not None)
        large = biggest >= 2000.0
        _lines(axes, arms, names, decades=4.0, scale=1e-3 if large else 1.0)
        axes.set_ylabel("volume [cm³]" if large else "volume [mm³]")
        return "What a scanner would see", [key_line("T1Gd"), key_line("FLAIR", dashed=True)]
    if panel == "carriers":
        _lines(axes, arms, names, decades=5.0)
        axes.set_ylabel("living cells")
        _treatment_marks(axes, arms, "doses")
        return "Carriers", [key_line("everywhere"), key_line("in the tumour", dashed=True)]
    if panel == "drug":
        _lines(axes, arms, names, decades=5.0)
        axes.set_ylabel(_column_label(arms, names[0], "concentration"))
        _treatment_marks(axes, arms, "courses")
        return "Drug in tissue", [key_line("tumour mean"), key_line("peak", dashed=True)]
    _lines(axes, arms, names)
    axes.set_ylabel(_column_label(arms, names[0], "concentration"))
    _treatment_marks(axes, arms, "courses")
    return "Prodrug in plasma", []


def _column_label(arms: Sequence[Arm], name: str, quantity: str) -> str:
    """A quantity with the unit that the files give for a column."""
    units = [arm.run.observables[name].unit for arm in arms if arm.curve(name) is not None]
    return f"{quantity} [{next((unit for unit in units if unit), 'µM')}]"


def ledger(sources: Sequence[Source]) -> Figure:
    """Relative imbalance of each transported field, and of quasi-steady prodrug and drug, against time.

    Raises:
        GliomaError: if no file holds a ledger.
    """
    with opened(sources) as arms, rc_context(STYLE):
        books = [arm.imbalances() for arm in arms]
        fields = list(dict.fromkeys(name for book in books for name in book))
        if not fields:
            raise GliomaError(f"{arms[0].path}: no ledger in the file, so its books cannot be drawn.")
        columns = min(len(fields), 3)
        rows = -(-len(fields) // columns)
        width = {1: 95.0, 2: 150.0, 3: WIDTH_MM}[columns]
        kinds = {arm.text("dtype") for arm in arms}
        kind = kinds.pop() if len(kinds) == 1 else ""
        rounding = float(np.finfo(kind).eps) if kind in ("float32", "float64") else None
        footer = (
            "Size of (content − all that came and went), relative to the field's content; of quasi-steady substances, "
        )
        footer += "which hold none, relative to what was made of them: this is the tolerance of their solver."
        footer += f" Dotted: rounding of one {kind} operation." if rounding else ""
        title, subtitle = heading(arms)
        sheet = Sheet(width, 10.0 + 40.0 * rows, f"{title}: balance", subtitle, footer)
        sheet.constrain(arm_key(arms))
        grid = sheet.figure.add_gridspec(rows, columns)
        sizes = [np.abs(v[np.isfinite(v) & (v != 0)]) for book in books for v in book.values()]
        present = np.concatenate([*sizes, [rounding or 1e-16]])
        low, high = max(float(np.min(present)), float(np.max(present)) * 1e-6), float(np.max(present))
        for index, field in enumerate(fields):
            axes = sheet.figure.add_subplot(grid[index // columns, index % columns])
            exact = []
            for arm, book, colour in zip(arms, books, colours_of(arms), strict=True):
                values = book.get(field)
                if values is None:
                    continue
                if not np.any(values):
                    exact.append(arm)
                    continue
                axes.plot(arm.observable_days, np.maximum(np.abs(values), low * 1e-6), color=colour, linewidth=0.9)
            if rounding:
                axes.axhline(rounding, color=INK, linewidth=0.6, linestyle=(0, (1, 1.5)))
            log_axis(axes, low / 2, high * 3)
            if exact:
                axes.annotate(f"exactly 0: {', '.join(names_of(exact))}", (0.02, 0.03), xycoords="axes fraction")
            axes.set_xlim(0.0, max((a.observable_days[-1] for a in arms if len(a.observable_days)), default=1.0))
            axes.set_xlabel("time [days]")
            axes.set_ylabel("relative imbalance" if index % columns == 0 else "")
            letter(axes, index, field.replace("_", " "))
        return sheet.figure
