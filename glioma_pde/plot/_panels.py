"""One picture of a field over the anatomy, and where it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from glioma_pde.errors import GliomaError
from glioma_pde.plot._data import PLANES, Arm, sample
from glioma_pde.plot._style import FLAIR_COLOUR, OUTLINE, SMALL, T1GD_COLOUR, UNDERLAY

FIELDS = ("tumour", "carriers", "drug")
LETTERS = {0: "LR", 1: "PA", 2: "IS"}
OPACITY = 0.92
CARRIER_LEVEL = 0.01
LESION_LEVEL = 0.16  # what a picture must hold where the file gives no FLAIR threshold
FADE = 0.04
"""Densities below this fraction of a scale's top fade into the anatomy."""


# -- what to show -----------------------------------------------------------------------------------


def choose_days(arms: Sequence[Arm], count: int = 4) -> list[float]:
    """Days of frames that tell the story: the first, the height of the treatment, its end and the last.

    Without treatment they are spread evenly. All arms reach them, as far as they overlap; the height is that day on
    which the treatments of all arms are near theirs, if there is one.
    """
    teller = max(arms, key=lambda arm: (not arm.untreated, len(arm.days)))
    common = teller.days[teller.days <= min(arm.days[-1] for arm in arms)]
    days = common if len(common) else teller.days
    chosen = {float(days[0]), float(days[-1])}
    if teller.untreated:
        targets = np.linspace(days[0], days[-1], count)
        return sorted(chosen | {float(days[np.argmin(np.abs(days - t))]) for t in targets})
    for name in ("drug_mean_tumour", "carriers_cells"):
        strengths = [strength for arm in arms if (strength := _strength(arm, name, days)) is not None]
        if strengths:
            in_all = np.min(strengths, axis=0)
            told = in_all if np.any(in_all > 0) else _strength(teller, name, days)
            chosen.add(float(days[np.argmax(strengths[0] if told is None else told)]))
            break
    acts = [stop for _, stop in teller.courses] + list(teller.injections.get("day", ()))
    after = days[days >= max(acts)] if acts else days
    chosen.add(float(after[0] if len(after) else days[-1]))
    while len(chosen) < min(count, len(days)):  # fill the widest gap
        rest = [float(day) for day in days if day not in chosen]
        chosen.add(max(rest, key=lambda day: min(abs(day - other) for other in chosen)))
    return sorted(chosen)


def _strength(arm: Arm, name: str, days: np.ndarray) -> np.ndarray | None:
    """An observable at some days relative to its largest value, ``None`` where an arm has nothing of it."""
    values = arm.curve(name)
    if values is None or not np.any(values > 0):
        return None
    return np.interp(days, arm.observable_days, values) / np.max(values)


def nearest_frames(arm: Arm, days: Sequence[float]) -> list[int]:
    """Indices of the frames nearest to days, without repeats."""
    return list(dict.fromkeys(int(np.argmin(np.abs(arm.days - day))) for day in days))


def focus(arm: Arm) -> np.ndarray:
    """World point [mm] to slice through, at the centre of a cell.

    It is the centre of the tumour's first burden, else of the injections, else of the box.
    """
    box = arm.box
    if arm.fields(["tumour"]):
        first = arm.volume("tumour", 0).astype(float)
        if (total := first.sum()) > 0:
            others = [tuple(k for k in range(3) if k != axis) for axis in range(3)]
            moments = [first.sum(axis=rest) @ np.arange(n) for rest, n in zip(others, first.shape, strict=True)]
            return box.place_of(np.round(np.array(moments) / total))
    if len(points := site_points(arm)):
        return box.place_of(box.cell_of(np.mean(points, axis=0)))
    return box.place_of(np.array(box.shape) // 2)


def site_points(arm: Arm) -> np.ndarray:
    """Places of delivery [mm], ``(n, 3)``; routes that the anatomy leads have none."""
    if not arm.injections:
        return np.zeros((0, 3))
    columns = [arm.injections.get(f"{name}_mm") for name in "xyz"]
    found = [np.zeros(len(arm.injections["day"])) if c is None else np.asarray(c, float) for c in columns]
    points = np.unique(np.stack(found, axis=-1), axis=0)
    return points[np.isfinite(points).all(axis=1)]


@dataclass
class View:
    """Where the pictures look: a point, and the half-width of the square around a lesion.

    Attributes:
        point_mm: world point that all slices pass through.
        offset_mm: centre of the picture less the point, along the canonical axes.
        half_mm: half the edge of the picture.
    """

    point_mm: np.ndarray
    offset_mm: np.ndarray
    half_mm: float
    _grey: dict = field(default_factory=dict)

    @classmethod
    def of(cls, arms: Sequence[Arm], frames: Sequence[int]) -> View:
        """A view that holds what would show on a FLAIR scan in each arm's frame, and the injection sites."""
        point = focus(arms[0])
        low, high = np.zeros(3), np.zeros(3)
        for arm, frame in zip(arms, frames, strict=True):
            box = arm.box
            if arm.fields(["tumour"]):
                volume = arm.volume("tumour", frame)
                seen = volume >= (arm.number("flair_threshold") or LESION_LEVEL)
                for axis in range(3):
                    at = np.flatnonzero(seen.any(axis=tuple(k for k in range(3) if k != axis)))
                    if len(at):
                        along = box.coordinates(axis, point)[at] - point[axis]
                        low[axis], high[axis] = min(low[axis], along[0]), max(high[axis], along[-1])
            if len(points := site_points(arm)):
                along_sites = (points - point) @ box.directions.T
                low, high = (
                    np.minimum(low, along_sites.min(axis=0)),
                    np.maximum(high, along_sites.max(axis=0)),
                )
        box = arms[0].box
        axes = [axis for axis in range(3) if box.shape[axis] > 1]
        extent = float(max((high - low)[axes]))
        room = max(box.shape[axis] * box.spacing_mm[axis] for axis in axes)
        half = min(max(0.68 * extent, 10.0 * float(min(box.spacing_mm)), 0.15 * room), 0.5 * room)
        return cls(point, 0.5 * (low + high), half)

    def limits(self, axis: int) -> tuple[float, float]:
        middle = self.point_mm[axis] + self.offset_mm[axis]
        return middle - self.half_mm, middle + self.half_mm

    def grey(self, arm: Arm, plane: str, ranges: Sequence[tuple[float, float]]) -> np.ndarray | None:
        """The head's picture on a plane (row, column), sampled within ranges across and up."""
        key = (id(arm), plane, tuple(ranges))
        if key not in self._grey:
            self._grey[key] = _grey_plane(arm, self.point_mm, *in_plane(PLANES[plane]), ranges)
        return self._grey[key]


def _grey_plane(arm: Arm, point: np.ndarray, across: int, up: int, ranges) -> np.ndarray | None:
    if arm.background is None:
        return None
    volume, affine = arm.background
    (a0, a1), (b0, b1) = ranges
    finest = float(np.min(np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)))
    step = max(0.5 * finest, (a1 - a0) / 220)
    a = np.arange(a0 + 0.5 * step, a1, step) - point[across]
    b = np.arange(b0 + 0.5 * step, b1, step) - point[up]
    directions = arm.box.directions
    points = point + a[None, :, None] * directions[across] + b[:, None, None] * directions[up]
    return sample(volume, affine, points)


def in_plane(normal: int) -> tuple[int, int]:
    """Axes that run to the right and up on a slice."""
    return {2: (0, 1), 1: (0, 2), 0: (1, 2)}[normal]


# -- one panel --------------------------------------------------------------------------------------


def shade(values: np.ndarray, mask: np.ndarray | None, colours, top: float) -> np.ndarray:
    """Colours of a field with transparency: clear at zero and outside the tissue."""
    scaled = np.clip(values / top, 0.0, 1.0)
    picture = colours(scaled)
    picture[..., 3] = OPACITY * np.clip(scaled / FADE, 0.0, 1.0)
    if mask is not None:
        picture[..., 3] *= mask > 0
    return picture


def _edges(arm: Arm, axis: int, point: np.ndarray) -> tuple[float, float]:
    centres, h = arm.box.coordinates(axis, point), arm.box.spacing_mm[axis]
    return centres[0] - 0.5 * h, centres[-1] + 0.5 * h


def draw_grey(
    axes: Axes, arm: Arm, view: View, plane: str, limits: Sequence[tuple[float, float]] | None = None
) -> None:
    """The head behind a field, within limits across and up (by default the view's)."""
    across, up = in_plane(PLANES[plane])
    ranges = [view.limits(across), view.limits(up)] if limits is None else list(limits)
    grey = view.grey(arm, plane, ranges)
    axes.set_facecolor("black")
    if grey is not None:
        # White at 1.25 keeps bright tissue grey, so that the colours above it stand out.
        style: Any = {"cmap": "gray", "vmin": 0.0, "vmax": 1.25, "interpolation": "bilinear"}
        axes.imshow(grey, extent=(*ranges[0], *ranges[1]), origin="lower", **style)
    axes.set(xlim=ranges[0], ylim=ranges[1])


def draw_field(axes: Axes, arm: Arm, view: View, plane: str, values: np.ndarray, mask, colours, top) -> AxesImage:
    across, up = in_plane(PLANES[plane])
    extent = (*_edges(arm, across, view.point_mm), *_edges(arm, up, view.point_mm))
    limits = axes.get_xlim(), axes.get_ylim()
    image = axes.imshow(shade(values, mask, colours, top), extent=extent, origin="lower", interpolation="nearest")
    axes.set(xlim=limits[0], ylim=limits[1])
    return image


def draw_contours(axes: Axes, arm: Arm, view: View, plane: str, tumour: np.ndarray, width: float = 0.8) -> list:
    """The outlines that a FLAIR and a T1Gd scan would show, where the slice reaches their levels."""
    levels = [
        (arm.number("flair_threshold"), FLAIR_COLOUR, (0, (3, 1.2))),
        (arm.number("t1gd_threshold"), T1GD_COLOUR, "-"),
    ]
    return draw_levels(axes, arm, view, plane, tumour, levels, width)


def draw_levels(axes: Axes, arm: Arm, view: View, plane: str, values: np.ndarray, levels, width: float) -> list:
    across, up = in_plane(PLANES[plane])
    a, b = arm.box.coordinates(across, view.point_mm), arm.box.coordinates(up, view.point_mm)
    drawn = []
    for level, colour, style in levels:
        if level is not None and values.min() < level < values.max():
            lines = axes.contour(a, b, values, levels=[level], colors=colour, linewidths=width, linestyles=[style])
            lines.set_path_effects(UNDERLAY)
            drawn.append(lines)
    return drawn


def strip_axes(axes: Axes) -> None:
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def write_on(axes: Axes, x: float, y: float, text: str, **style) -> None:
    style = {"color": "white", "fontsize": SMALL, "path_effects": OUTLINE, **style}
    axes.text(x, y, text, transform=axes.transAxes, **style)


def draw_letters(axes: Axes, plane: str) -> None:
    across, up = in_plane(PLANES[plane])
    write_on(axes, 0.015, 0.5, LETTERS[across][0], ha="left", va="center")
    write_on(axes, 0.985, 0.5, LETTERS[across][1], ha="right", va="center")
    write_on(axes, 0.5, 0.985, LETTERS[up][1], ha="center", va="top")
    write_on(axes, 0.5, 0.015, LETTERS[up][0], ha="center", va="bottom")


def bar_length(view: View) -> float:
    """A round length of about a third of the picture [mm]."""
    return max(length for length in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if length <= max(0.7 * view.half_mm, 0.1))


def draw_scale_bar(axes: Axes, view: View, plane: str, text: bool = True) -> None:
    length = bar_length(view)
    x0, x1 = axes.get_xlim()
    left = 0.04
    axes.plot(
        [left, left + length / (x1 - x0)],
        [0.04, 0.04],
        color="white",
        linewidth=1.8,
        transform=axes.transAxes,
        solid_capstyle="butt",
        path_effects=OUTLINE,
    )
    if text:
        write_on(axes, left, 0.06, f"{length:g} mm", va="bottom", ha="left")


def draw_colour_bar(axes: Axes, colours, top: float, label: str, levels: Sequence[tuple[float, str]] = ()) -> None:
    axes.figure.colorbar(ScalarMappable(Normalize(0.0, top), colours), cax=axes, orientation="horizontal")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_ticks_position("bottom")
    axes.tick_params(length=2, pad=1.5)
    axes.set_title(label, fontsize=SMALL, pad=2.5)
    for level, colour in levels:
        if 0 < level < top:
            axes.axvline(level, color=colour, linewidth=1.2, path_effects=OUTLINE)


def scale_top(name: str, pictures: Sequence[np.ndarray]) -> float:
    """Top of a field's colour scale: what the pictures reach, rounded up; densities of tumour run to 1."""
    peak = max(float(np.max(picture)) for picture in pictures)
    if name == "tumour" or peak <= 0:
        return 1.0
    unit = 10.0 ** np.floor(np.log10(peak))
    return float(unit * np.ceil(peak / unit * 2) / 2)


def contour_levels(arm: Arm) -> list[tuple[float, str]]:
    levels = ((arm.number("t1gd_threshold"), T1GD_COLOUR), (arm.number("flair_threshold"), FLAIR_COLOUR))
    return [(level, colour) for level, colour in levels if level is not None]


def slice_text(arms: Sequence[Arm], point_mm: np.ndarray) -> str:
    """Where the slices lie, for a caption."""
    if any(arm.dimensions < 3 for arm in arms):
        return "x to the right, y upwards. "
    return f"Axial slices at z {point_mm[2]:.4g} mm, the patient's right on the right. "


def outline_text(arms: Sequence[Arm]) -> str:
    levels = {(arm.number("t1gd_threshold"), arm.number("flair_threshold")) for arm in arms}
    t1gd, flair = levels.pop() if len(levels) == 1 else (None, None)
    if t1gd is None or flair is None:
        return ""
    return f"Outlines: tumour density of {t1gd:.2f} (T1Gd; white) and {flair:.2f} (FLAIR; blue, dashed). "


def pictured(arms: Sequence[Arm]) -> list[Arm]:
    """The arms with a tumour in two or three dimensions."""
    found = [arm for arm in arms if arm.dimensions in (2, 3) and arm.fields(["tumour"])]
    if not found:
        raise GliomaError(f"{arms[0].path}: no tumour field in 2-D or 3-D, so there are no slices to show.")
    return found
