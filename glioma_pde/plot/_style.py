"""One look for every figure: colours, type, and the header and footer that each of them carries."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from glioma_pde.errors import GliomaError
from glioma_pde.plot._data import Arm, names_of, reference_of

MM = 1 / 25.4
WIDTH_MM = 180.0
DPI = 300
SMALL = 7.0
NOTICE = "Research model, not for clinical use."
INK, FAINT = "#1a1a1a", "#6b6b6b"

STYLE: Any = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so layouts are the same everywhere
    "font.size": SMALL,
    "axes.titlesize": 8.0,
    "axes.labelsize": SMALL,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.3,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}

UNTREATED = "#8c8c8c"
DASH = (0, (4, 1.5))
# Okabe and Ito's colours and three dark ones, told apart with the common kinds of colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c6d1f", "#882255", "#332288")


def _trimmed(name: str, low: float, high: float = 1.0) -> ListedColormap:
    return ListedColormap(colormaps[name](np.linspace(low, high, 256)), name=f"{name}_trimmed")


# Perceptually uniform; the near-black ends are cut, since they would vanish on the anatomy.
FIELD_MAPS = {
    "tumour": _trimmed("inferno", 0.22),
    "carriers": _trimmed("viridis", 0.12),
    "drug": _trimmed("plasma", 0.0, 0.95),
    "prodrug": _trimmed("cividis", 0.1),
    "attractant": _trimmed("magma", 0.2),
}
FIELD_TITLES = {
    "tumour": "Tumour density",
    "carriers": "Carriers",
    "drug": "Drug",
    "prodrug": "Prodrug",
    "attractant": "Attractant",
}
T1GD_COLOUR, FLAIR_COLOUR, CARRIER_COLOUR = "#ffffff", "#6fe3ff", "#7dff6a"
OUTLINE: Any = [withStroke(linewidth=1.6, foreground="black")]
UNDERLAY: Any = [withStroke(linewidth=1.5, foreground="#202020")]


def field_label(field: str, unit: str) -> str:
    """Title of a field with its unit, e.g. for a colour bar."""
    title = FIELD_TITLES.get(field, field.replace("_", " ").capitalize())
    return f"{title} [{'fraction of capacity' if unit in ('1', '') else unit}]"


def colours_of(arms: Sequence[Arm]) -> list[str]:
    """A colour for each arm: grey for the untreated one, the others in the order given."""
    grey = reference_of(arms)
    colours = iter(PALETTE * (1 + len(arms) // len(PALETTE)))
    return [UNTREATED if arm is grey else next(colours) for arm in arms]


def heading(arms: Sequence[Arm]) -> tuple[str, str]:
    """Title and subtitle: what the scenario is, once if every arm says the same."""
    title = arms[0].text("title") or "Simulated glioma"
    labels = [arm.text("label") for arm in arms]
    if len(set(labels)) == 1:
        return title, labels[0]
    said = [f"{n}: {text}" for n, text in zip(names_of(arms), labels, strict=True) if text and text != n]
    return title, "; ".join(said)


def lines_of(text: str, width_mm: float, size: float = SMALL) -> str:
    """Text wrapped to a width; 0.2 mm for each point is a line of mixed DejaVu Sans."""
    return "\n".join(textwrap.wrap(text, max(20, int(width_mm / (0.2 * size))), break_long_words=False))


class Sheet:
    """A figure laid out in millimetres, with a header and a footer.

    Attributes:
        figure, canvas: the matplotlib figure and what it is drawn on.
        top_mm, bottom_mm: heights left free between header and footer, measured from the bottom.
    """

    def __init__(
        self, width_mm: float, body_mm: float, title: str, subtitle: str, footer: str, header_mm: float = 0.0
    ) -> None:
        self.width_mm = width_mm
        free = width_mm - 6.0
        title = lines_of(title, free - header_mm, 9.5)
        subtitle = lines_of(subtitle, free - header_mm)
        footer = lines_of(f"{footer.strip()} {NOTICE}".strip(), free)
        rows = title.count("\n") * 4.4 + 7.0 + (3.4 * (subtitle.count("\n") + 1) if subtitle else 0.0)
        self.bottom_mm = 3.4 * (footer.count("\n") + 1) + 3.5
        self.top_mm = self.bottom_mm + body_mm
        self.height_mm = self.top_mm + max(rows, 19.0 if header_mm else 0.0) + 2.0
        self.figure = Figure(figsize=(width_mm * MM, self.height_mm * MM), dpi=DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)
        y = self.height_mm - 2.5
        self.text(3.0, y, title, size=9.5, weight="bold", va="top", linespacing=1.3)
        self.text(3.0, y - 4.6 - title.count("\n") * 4.4, subtitle, color=FAINT, va="top", linespacing=1.35)
        self.text(3.0, 2.0, footer, color=FAINT, va="bottom", linespacing=1.35)

    def text(self, x_mm: float, y_mm: float, text: str, **style) -> None:
        self.figure.text(x_mm / self.width_mm, y_mm / self.height_mm, text, **style)

    def rectangle(self, x_mm: float, y_mm: float, w_mm: float, h_mm: float) -> tuple[float, float, float, float]:
        return x_mm / self.width_mm, y_mm / self.height_mm, w_mm / self.width_mm, h_mm / self.height_mm

    def axes(self, x_mm: float, y_mm: float, w_mm: float, h_mm: float, **style) -> Axes:
        return self.figure.add_axes(self.rectangle(x_mm, y_mm, w_mm, h_mm), **style)

    def constrain(self, key: Sequence[Line2D] = ()) -> None:
        """Let matplotlib lay out the axes between header and footer, below a key to the arms."""
        top = self.top_mm
        if key:
            rows = 1 + sum(len(str(line.get_label())) * 1.4 + 12 for line in key) // (self.width_mm - 6)
            columns = int(np.ceil(len(key) / rows))
            self.figure.legend(
                handles=key,
                loc="upper left",
                ncols=columns,
                borderaxespad=0,
                borderpad=0,
                columnspacing=1.6,
                bbox_to_anchor=(3.0 / self.width_mm, (top - 0.5) / self.height_mm),
            )
            top -= 4.0 * rows + 1.5
        box = self.rectangle(2.0, self.bottom_mm, self.width_mm - 5.0, top - self.bottom_mm)
        self.figure.set_layout_engine("constrained", rect=box, w_pad=0.04, h_pad=0.04, wspace=0.06, hspace=0.03)


def arm_key(arms: Sequence[Arm]) -> list[Line2D]:
    """Legend handles, one for each arm; an unfinished run is said to be one."""
    rows = zip(arms, names_of(arms), colours_of(arms), strict=True)
    return [
        Line2D(
            [],
            [],
            color=colour,
            label=f"{name} ({arm.unfinished})" if arm.unfinished else name,
            linewidth=2.2,
        )
        for arm, name, colour in rows
    ]


def letter(axes: Axes, index: int, title: str, key: Sequence[Artist] = (), raised: bool = False) -> None:
    """A panel's letter (after z: aa, ab, …) and title, and below them a key to what the panel alone uses.

    Args:
        raised: leave the room of a key where there is none, so that titles in a row stay level.
    """
    more, last = divmod(index, 26)
    label = (ascii_lowercase[more - 1] if more else "") + ascii_lowercase[last]
    axes.set_title(f"$\\bf{{{label}}}$  {title}", pad=15 if key or raised else 5)
    if key:
        axes.legend(
            handles=key,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=len(key),
            borderaxespad=0,
            borderpad=0.3,
            columnspacing=1.2,
            handletextpad=0.5,
        )


def key_line(label: str, dashed: bool = False) -> Line2D:
    style: Any = {"linestyle": DASH, "linewidth": 0.9} if dashed else {}
    return Line2D([], [], color=FAINT, label=label, **style)


def key_mark(label: str, mark: str, filled: bool = True) -> Line2D:
    face = FAINT if filled else "white"
    return Line2D([], [], color=FAINT, marker=mark, linestyle="", markersize=4.5, markerfacecolor=face, label=label)


def scientific(value: float, digits: int = 1) -> str:
    """A number as mathtext, e.g. 1.8×10⁸."""
    if value <= 0 or not np.isfinite(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa} × $10^{{{int(exponent)}}}$"


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure into a file; its folder is made if missing.

    Raises:
        GliomaError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with rc_context(STYLE):
            figure.savefig(path)
    except (OSError, ValueError) as error:
        raise GliomaError(f"{path}: the figure cannot be written ({error}).") from error
    return path
