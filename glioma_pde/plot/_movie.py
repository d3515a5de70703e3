"""The animation: every arm's axial slice over time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from glioma_pde.errors import GliomaError
from glioma_pde.plot._data import Arm, Source, names_of, opened
from glioma_pde.plot._panels import (
    CARRIER_LEVEL,
    View,
    draw_contours,
    draw_field,
    draw_grey,
    draw_letters,
    draw_levels,
    draw_scale_bar,
    outline_text,
    pictured,
    shade,
    slice_text,
    strip_axes,
)
from glioma_pde.plot._style import (
    CARRIER_COLOUR,
    FAINT,
    FIELD_MAPS,
    OUTLINE,
    STYLE,
    UNTREATED,
    WIDTH_MM,
    Sheet,
    colours_of,
    heading,
    lines_of,
)


def animation(sources: Sequence[Source], path: str | Path, max_frames: int = 60, dpi: int = 100) -> Path:
    """A GIF of the axial slice of every arm side by side, with the day and the burden so far.

    Args:
        path: file to write.
        max_frames: frames are thinned evenly to at most this many.
        dpi: pixels for each inch of a 180 mm wide picture.

    Returns:
        The path written.

    Raises:
        GliomaError: if no file has a 2-D or 3-D tumour field, or the file cannot be written.
    """
    with opened(sources) as every, rc_context(STYLE):
        arms = pictured(every)
        days = np.unique(np.concatenate([arm.days for arm in arms]))
        if len(days) > max_frames:
            days = days[np.unique(np.round(np.linspace(0, len(days) - 1, max_frames)).astype(int))]
        film = _Film(arms, every, dpi)
        pictures = [film.picture(day) for day in days]
        return _save_gif(pictures, Path(path), colours_of(arms))


class _Film:
    """The artists of the animation; ``picture`` moves them to a day and renders only them."""

    def __init__(self, arms: list[Arm], every: Sequence[Arm], dpi: int) -> None:
        self.arms = arms
        self.view = View.of(arms, [len(arm.days) - 1 for arm in arms])
        self.point = self.view.point_mm
        gap, columns = 1.5, min(4, len(arms))
        edge = min(60.0, (WIDTH_MM - 6.0) / columns - gap)
        titles = [lines_of(name, edge, 8) for name in names_of(arms)]
        head = 2.5 + 3.8 * (1 + max(title.count("\n") for title in titles))
        rows = -(-len(arms) // columns)
        curves = [arm for arm in arms if arm.curve("burden_cells") is not None]
        plot_mm = 34.0 if curves else 0.0
        footer = slice_text(arms, self.point) + outline_text(arms)
        if any(arm.fields(["carriers"]) for arm in arms):
            footer += f"Green: carriers above {CARRIER_LEVEL:g} of capacity. "
        if any(arm.injections for arm in curves):
            footer += "Triangles: doses. "
        sheet = Sheet(WIDTH_MM, rows * (edge + head) + plot_mm + 4.0, *heading(every), footer)
        sheet.figure.set_dpi(dpi)
        start = 0.5 * (WIDTH_MM - columns * (edge + gap) + gap)
        self.images, self.axes, self.masks, self.shown = [], [], [], [-1] * len(arms)
        self.outlines: list[list] = [[] for _ in arms]
        colours = colours_of(arms)
        for index, (arm, title, colour) in enumerate(zip(arms, titles, colours, strict=True)):
            row, column = divmod(index, columns)
            x, y = start + column * (edge + gap), sheet.top_mm - (row + 1) * (edge + head)
            axes = sheet.axes(x, y, edge, edge)
            strip_axes(axes)
            draw_grey(axes, arm, self.view, "axial")
            axes.set_title(title, color=colour, weight="bold", loc="center", pad=3)
            self.masks.append(arm.mask(self.point).get(2))
            empty = np.zeros((arm.box.shape[1], arm.box.shape[0]))
            image = draw_field(axes, arm, self.view, "axial", empty, None, FIELD_MAPS["tumour"], 1.0)
            image.set_animated(True)
            self.images.append(image)
            self.axes.append(axes)
        self.day = self.axes[0].text(
            0.03,
            0.97,
            "",
            transform=self.axes[0].transAxes,
            color="white",
            size=11,
            weight="bold",
            va="top",
            path_effects=OUTLINE,
            animated=True,
        )
        self.ended = [
            axes.text(
                0.97, 0.97, "", transform=axes.transAxes, color="white", size=7, ha="right", va="top",
                path_effects=OUTLINE, animated=True,
            )
            for axes in self.axes
        ]  # fmt: skip
        self.cursors: list = []
        if curves:
            self._burden(sheet.axes(16.0, sheet.bottom_mm + 8.5, WIDTH_MM - 22.0, plot_mm - 9.0), curves, colours)
        self.canvas = sheet.canvas
        self.canvas.draw()
        self.backdrop = self.canvas.copy_from_bbox(sheet.figure.bbox)
        for index, axes in enumerate(self.axes):  # letters and bar lie over the field
            before = set(axes.get_children())
            if self.arms[index].dimensions == 3:
                draw_letters(axes, "axial")
            if index == 0:
                draw_scale_bar(axes, self.view, "axial")
            for artist in set(axes.get_children()) - before:
                artist.set_animated(True)
        self.over = [[a for a in axes.get_children() if a.get_animated()] for axes in self.axes]

    def _burden(self, axes: Axes, arms: Sequence[Arm], colours: Sequence[str]) -> None:
        for arm in arms:
            colour = colours[self.arms.index(arm)]
            burden = arm.needed("burden_cells")
            width = 2.4 if colour == UNTREATED else 1.2
            axes.plot(arm.observable_days, burden, color=colour, linewidth=width)
            doses = np.unique(arm.injections.get("day", ()))
            doses = doses[doses <= arm.observable_days[-1]]
            above = 1.6 * np.interp(doses, arm.observable_days, burden)
            axes.plot(doses, above, "v", color=colour, markersize=4, clip_on=False)
            (dot,) = axes.plot([], [], "o", color=colour, markersize=5, animated=True)
            self.cursors.append((arm, burden, axes, dot))
        self.line = axes.axvline(0.0, color=FAINT, linewidth=0.8, animated=True)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("time [days]")
        axes.set_ylabel("burden [cells]")
        axes.set_xlim(0.0, 1.02 * max(arm.observable_days[-1] for arm in arms))

    def picture(self, day: float) -> Image.Image:
        """The whole picture at a day; an arm shows its last frame up to then, and says when it has ended."""
        self.canvas.restore_region(self.backdrop)
        for index, (arm, axes, image) in enumerate(zip(self.arms, self.axes, self.images, strict=True)):
            frame = max(int(np.searchsorted(arm.days, day, side="right")) - 1, 0)
            if frame != self.shown[index]:
                tumour = arm.section("tumour", frame, 2, self.point)
                image.set_data(shade(tumour, self.masks[index], FIELD_MAPS["tumour"], 1.0))
                for old in self.outlines[index]:
                    old.remove()
                self.outlines[index] = draw_contours(axes, arm, self.view, "axial", tumour, 1.0)
                if arm.fields(["carriers"]):
                    carriers = arm.section("carriers", frame, 2, self.point)
                    level = [(CARRIER_LEVEL, CARRIER_COLOUR, (0, (1.5, 0.8)))]
                    self.outlines[index] += draw_levels(axes, arm, self.view, "axial", carriers, level, 1.2)
                self.shown[index] = frame
            axes.draw_artist(image)
            for outline in self.outlines[index]:
                axes.draw_artist(outline)
            for artist in self.over[index]:
                if artist is not image and artist is not self.day:
                    axes.draw_artist(artist)
            last = float(arm.days[-1])
            self.ended[index].set_text(f"ended on day {last:.4g}" if day > last else "")
            axes.draw_artist(self.ended[index])
        self.day.set_text(f"day {day:.4g}")
        self.axes[0].draw_artist(self.day)
        for index, (arm, burden, axes, dot) in enumerate(self.cursors):
            if index == 0:
                self.line.set_xdata([day, day])
                axes.draw_artist(self.line)
            if day <= arm.observable_days[-1]:
                dot.set_data([day], [np.interp(day, arm.observable_days, burden)])
                axes.draw_artist(dot)
        return Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3].copy())


def _save_gif(pictures: Sequence[Image.Image], path: Path, keep: Sequence[str], seconds: float = 0.28) -> Path:
    """Write frames with one palette, which keeps the still parts of the picture still.

    Args:
        keep: colours that the palette must hold, however little of the picture they fill.
    """
    some = [pictures[i] for i in sorted({0, len(pictures) // 2, len(pictures) - 1})]
    strip = Image.new("RGB", (some[0].width, sum(p.height for p in some) + some[0].height), "white")
    for index, picture in enumerate(some):
        strip.paste(picture, (0, index * picture.height))
    for index, colour in enumerate(keep):
        strip.paste(colour, (20 * index, strip.height - some[0].height // 2, 20 * index + 20, strip.height))
    palette = strip.quantize(255, method=Image.Quantize.MEDIANCUT)
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    colours[colours.min(axis=1) >= 245] = 255  # paper stays white
    palette.putpalette(colours.ravel().tolist())
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations = [round(1000 * seconds)] * (len(frames) - 1) + [2000]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise GliomaError(f"{path}: it cannot be written ({error.strerror}); choose another folder.") from error
    return path
