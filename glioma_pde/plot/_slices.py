"""Pictures of the fields: orthogonal slices, profiles, and the arms side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from glioma_pde.errors import GliomaError
from glioma_pde.plot._data import PLANES, Arm, Source, names_of, opened
from glioma_pde.plot._panels import (
    FIELDS,
    View,
    bar_length,
    choose_days,
    contour_levels,
    draw_colour_bar,
    draw_contours,
    draw_field,
    draw_grey,
    draw_letters,
    draw_scale_bar,
    in_plane,
    nearest_frames,
    outline_text,
    pictured,
    scale_top,
    site_points,
    slice_text,
    strip_axes,
    write_on,
)
from glioma_pde.plot._style import (
    FIELD_MAPS,
    INK,
    OUTLINE,
    STYLE,
    WIDTH_MM,
    Sheet,
    colours_of,
    field_label,
    heading,
    letter,
    lines_of,
    scientific,
)


def slices(source: Source, days: Sequence[float] | None = None) -> Figure:
    """Fields of one run on chosen days, over the anatomy.

    A 3-D run gives axial, coronal and sagittal slices through the centre of the first burden; a 2-D
    run one panel for each field and day; a radial run profiles. Tumour density, carriers and drug are
    drawn where the file has them.

    Args:
        source: a run file (path or open ``Arm``).
        days: up to four days; the nearest frames are shown. By default the first, the height of the
            treatment, its end and the last.

    Raises:
        GliomaError: if the file has none of these fields.
    """
    with opened([source]) as (arm,), rc_context(STYLE):
        if not arm.fields(FIELDS):
            raise GliomaError(f"{arm.path}: no field to draw; the run must store one of {', '.join(FIELDS)}.")
        frames = nearest_frames(arm, choose_days([arm]) if days is None else days)
        if arm.dimensions == 1:
            return _profiles(arm, frames)
        return _mosaic(arm, frames) if arm.dimensions == 3 else _sheet_2d(arm, frames)


def _title(arm: Arm) -> tuple[str, str]:
    title, label = heading([arm])
    return f"{title}: {arm.name}" + (f" ({arm.unfinished})" if arm.unfinished else ""), label


def _mosaic(arm: Arm, frames: Sequence[int]) -> Figure:
    """Days as rows and fields as columns; with one field, the days flow over two columns."""
    names = arm.fields(FIELDS)
    view = View.of([arm], [frames[-1]])
    point = view.point_mm
    cuts = {(name, frame): arm.sections(name, frame, point) for name in names for frame in frames}
    single = len(names) == 1
    columns = min(2, len(frames)) if single else len(names)
    rows = -(-len(frames) // columns) if single else len(frames)
    big, gap, left = 35.6, 0.8, 8.0
    small = 0.5 * (big - gap)
    cell, pitch = big + gap + small, big + 2.6
    step = cell + (2.2 if not single else 7.2)
    width = left + columns * step + (2.5 if not single else -2.5)
    bar_mm = 12.0
    footer = (
        f"Slices through x {point[0]:.4g}, y {point[1]:.4g}, z {point[2]:.4g} mm. Neurological orientation: "
        f"the patient's right is on the right. Scale bars: {bar_length(view):g} mm. " + outline_text([arm])
    )
    if "carriers" in names and len(site_points(arm)):
        footer += "+: injection sites within 1.5 cells of the slice. "
    locator = 16.0 if width > 100 and arm.background is not None else 0.0
    sheet = Sheet(width, bar_mm + rows * pitch + 1.0, *_title(arm), footer, 3 * (locator + 1.5) if locator else 0.0)
    if locator:
        _locators(sheet, arm, view, locator)
    top_mm = sheet.top_mm - bar_mm
    tops = {name: scale_top(name, [cut for f in frames for cut in cuts[name, f].values()]) for name in names}
    masks = arm.mask(point)
    for column, name in enumerate(names):
        bar = sheet.axes(left + column * step, top_mm + 5.0, big, 2.4)
        draw_colour_bar(
            bar,
            FIELD_MAPS[name],
            tops[name],
            field_label(name, arm.unit(name)),
            contour_levels(arm) if name == "tumour" else (),
        )
    for index, frame in enumerate(frames):
        for column, name in enumerate(names):
            row, place = divmod(index, columns) if single else (index, column)
            x, y = left + place * step, top_mm - (row + 1) * pitch + 2.6
            boxes = {
                "axial": (x, y, big),
                "coronal": (x + big + gap, y + small + gap, small),
                "sagittal": (x + big + gap, y, small),
            }
            for plane, (px, py, edge) in boxes.items():
                axis = PLANES[plane]
                axes = sheet.axes(px, py, edge, edge)
                strip_axes(axes)
                draw_grey(axes, arm, view, plane)
                values = cuts[name, frame][axis]
                draw_field(axes, arm, view, plane, values, masks.get(axis), FIELD_MAPS[name], tops[name])
                if ("tumour", frame) in cuts:
                    width_pt = 0.9 if plane == "axial" else 0.6
                    draw_contours(axes, arm, view, plane, cuts["tumour", frame][axis], width_pt)
                if name == "carriers" and values.max() > 0.02 * tops[name]:
                    _mark_sites(axes, arm, view, plane)
                if index == 0:
                    draw_letters(axes, plane)
                    draw_scale_bar(axes, view, plane, text=plane == "axial")
            if single or column == 0:
                sheet.text(
                    x - 1.0,
                    y + 0.5 * big,
                    f"day {arm.days[frame]:g}",
                    rotation=90,
                    ha="right",
                    va="center",
                    size=8,
                    weight="bold",
                )
    return sheet.figure


def _mark_sites(axes: Axes, arm: Arm, view: View, plane: str) -> None:
    if not arm.injections:
        return
    normal = PLANES[plane]
    across, up = in_plane(normal)
    along = (site_points(arm) - view.point_mm) @ arm.box.directions.T
    near = along[np.abs(along[:, normal]) <= 1.5 * arm.box.spacing_mm[normal]] + view.point_mm
    axes.plot(
        near[:, across],
        near[:, up],
        "+",
        color="white",
        markersize=3.5,
        markeredgewidth=0.7,
        path_effects=OUTLINE,
    )


def _locators(sheet: Sheet, arm: Arm, view: View, edge: float) -> None:
    """The whole head in three planes with the frame of the pictures below."""
    if arm.background is None:
        return
    volume, affine = arm.background
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(volume.shape) - 1)
    world = corners @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]
    along = (world - view.point_mm) @ arm.box.directions.T + view.point_mm
    middle, half = 0.5 * (along.min(axis=0) + along.max(axis=0)), 0.5 * float(np.ptp(along, axis=0).max())
    for index, plane in enumerate(PLANES):
        across, up = in_plane(PLANES[plane])
        axes = sheet.axes(sheet.width_mm - 3.0 - (3 - index) * (edge + 1.0), sheet.height_mm - edge - 2.0, edge, edge)
        strip_axes(axes)
        ranges = [(middle[k] - half, middle[k] + half) for k in (across, up)]
        draw_grey(axes, arm, view, plane, ranges)
        (x0, x1), (y0, y1) = view.limits(across), view.limits(up)
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="#ffd54a", linewidth=0.9))
        write_on(axes, 0.04, 0.03, f"{'xyz'[PLANES[plane]]} = {view.point_mm[PLANES[plane]]:.4g} mm", va="bottom")


def _sheet_2d(arm: Arm, frames: Sequence[int]) -> Figure:
    """One panel for each field (row) and day (column), with axes in mm."""
    names = arm.fields(FIELDS)
    view = View.of([arm], [frames[-1]])
    left, bar = 13.0, 17.0
    edge = min(40.0, (WIDTH_MM - left - bar - 2.0 * len(frames)) / len(frames))
    footer = f"x and y in mm; densities as fractions of capacity. {outline_text([arm])}"
    width = max(left + len(frames) * (edge + 2.0) + bar, 95.0)
    sheet = Sheet(width, len(names) * (edge + 2.0) + 11.0, *_title(arm), footer)
    mask = arm.mask(view.point_mm).get(2)
    cuts = {(name, f): arm.section(name, f, 2, view.point_mm) for name in names for f in frames}
    for row, name in enumerate(names):
        y = sheet.top_mm - 5.0 - (row + 1) * (edge + 2.0) + 2.0
        top = scale_top(name, [cuts[name, f] for f in frames])
        for column, frame in enumerate(frames):
            axes = sheet.axes(left + column * (edge + 2.0), y, edge, edge)
            draw_grey(axes, arm, view, "axial")
            draw_field(axes, arm, view, "axial", cuts[name, frame], mask, FIELD_MAPS[name], top)
            if ("tumour", frame) in cuts:
                draw_contours(axes, arm, view, "axial", cuts["tumour", frame])
            axes.set_aspect("equal")
            for ticks in (axes.xaxis, axes.yaxis):
                ticks.set_major_locator(MaxNLocator(4))
            axes.tick_params(labelleft=column == 0, labelbottom=row == len(names) - 1)
            if row == 0:
                axes.set_title(f"day {arm.days[frame]:g}", weight="bold", loc="center", pad=4)
        side = sheet.axes(left + len(frames) * (edge + 2.0) + 1.0, y + 0.05 * edge, 2.4, 0.9 * edge)
        sheet.figure.colorbar(ScalarMappable(Normalize(0.0, top), FIELD_MAPS[name]), cax=side)
        side.yaxis.set_major_locator(MaxNLocator(4))
        side.set_ylabel(field_label(name, arm.unit(name)).removesuffix(" [fraction of capacity]"))
    return sheet.figure


def _profiles(arm: Arm, frames: Sequence[int]) -> Figure:
    """Curves of each field along the one axis, a shade for each day."""
    names = arm.fields(FIELDS)
    radial = arm.run.grid.geometry == "radial"
    place = arm.run.grid.axis_mm(0)
    footer = "Lighter to darker: later days. Dashed: T1Gd and FLAIR thresholds."
    sheet = Sheet(max(95.0, 60.0 * len(names)), 55.0, *_title(arm), footer)
    shades = FIELD_MAPS["carriers"](np.linspace(0.92, 0.0, len(frames)))
    key = [Line2D([], [], color=c, label=f"day {arm.days[f]:g}") for c, f in zip(shades, frames, strict=True)]
    sheet.constrain(key)
    grid = sheet.figure.add_gridspec(1, len(names))
    reach = 0.0
    panels = []
    for index, name in enumerate(names):
        axes = sheet.figure.add_subplot(grid[index])
        panels.append(axes)
        for shade, frame in zip(shades, frames, strict=True):
            values = arm.run.field(name, index=frame).astype(float)
            axes.plot(place, values, color=shade)
            seen = np.flatnonzero(values > 1e-3 * max(float(values.max()), 1e-30))
            reach = max(reach, abs(place[seen]).max() if len(seen) else 0.0)
        if name == "tumour":
            for level, text in (("t1gd_threshold", "T1Gd"), ("flair_threshold", "FLAIR")):
                height = arm.number(level)
                if height is not None:
                    axes.axhline(height, color=INK, linewidth=0.6, linestyle=(0, (4, 2)))
                    axes.annotate(
                        text,
                        (1.0, height),
                        xycoords=("axes fraction", "data"),
                        xytext=(-1, 1.5),
                        textcoords="offset points",
                        ha="right",
                        va="bottom",
                    )
            axes.set_ylim(0.0, 1.05)
        else:
            axes.set_ylim(bottom=0.0)
        axes.set_xlabel("distance from the centre [mm]" if radial else "x [mm]")
        unit = arm.unit(name)
        axes.set_ylabel("fraction of carrying capacity" if unit in ("1", "") else unit)
        letter(axes, index, field_label(name, unit).split(" [")[0])
    for axes in panels:
        if radial:
            axes.set_xlim(0.0, min(1.15 * reach, place[-1]) or place[-1])
    return sheet.figure


# -- the arms side by side --------------------------------------------------------------------------


def comparison(sources: Sequence[Source], days: Sequence[float] | None = None) -> Figure:
    """Axial slices of the tumour: an arm in each row, a day in each column.

    Raises:
        GliomaError: if no file has a 2-D or 3-D tumour field.
    """
    with opened(sources) as every, rc_context(STYLE):
        arms = pictured(every)
        days = choose_days(arms) if days is None else days
        view = View.of(arms, [nearest_frames(arm, days)[-1] for arm in arms])
        left, right = 10.0, 4.0
        edge = min(42.0, (WIDTH_MM - left - right) / len(days) - 1.2)
        point = view.point_mm
        footer = slice_text(arms, point) + outline_text(arms)
        if any(arm.curve("burden_cells") is not None for arm in arms):
            footer += "Below each slice: burden in the whole computed region. "
        sheet = Sheet(
            max(95.0, left + len(days) * (edge + 1.2) + right),
            len(arms) * (edge + 5.0) + 16.0,
            *heading(every),
            footer,
        )
        bar = sheet.axes(left, sheet.top_mm - 6.0, 36.0, 2.4)
        draw_colour_bar(bar, FIELD_MAPS["tumour"], 1.0, field_label("tumour", "1"), contour_levels(arms[0]))
        rows = zip(arms, names_of(arms), colours_of(arms), strict=True)
        for row, (arm, name, colour) in enumerate(rows):
            y = sheet.top_mm - 16.0 - edge - row * (edge + 5.0)
            sheet.text(
                left - 1.5,
                y + 0.5 * edge,
                lines_of(name, edge, 8),
                rotation=90,
                ha="right",
                va="center",
                size=8,
                weight="bold",
                color=colour,
                linespacing=1.1,
            )
            mask = arm.mask(point).get(2)
            for column, day in enumerate(days):
                frame = int(np.argmin(np.abs(arm.days - day)))
                axes = sheet.axes(left + column * (edge + 1.2), y, edge, edge)
                strip_axes(axes)
                draw_grey(axes, arm, view, "axial")
                tumour = arm.section("tumour", frame, 2, point)
                draw_field(axes, arm, view, "axial", tumour, mask, FIELD_MAPS["tumour"], 1.0)
                draw_contours(axes, arm, view, "axial", tumour, 0.9)
                if row == 0:
                    axes.set_title(f"day {arm.days[frame]:g}", loc="center", weight="bold", pad=3)
                if (row, column) == (0, 0):
                    if arm.dimensions == 3:
                        draw_letters(axes, "axial")
                    draw_scale_bar(axes, view, "axial")
                burden = arm.curve("burden_cells")
                if burden is not None:
                    then = np.interp(arm.days[frame], arm.observable_days, burden)
                    axes.text(
                        0.5,
                        -0.02,
                        f"{scientific(then)} cells",
                        transform=axes.transAxes,
                        ha="center",
                        va="top",
                    )
        return sheet.figure
