"""Figures from run files: what stands where, in which orientation and with which numbers."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib.colors
import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import Image

from glioma_pde import plot
from glioma_pde.errors import GliomaError
from glioma_pde.grid import Grid
from glioma_pde.io.hdf5 import Quantity, RunWriter
from glioma_pde.plot._data import Arm, Box, first_crossing, opened, sample, values_on
from glioma_pde.plot._movie import _Film
from glioma_pde.plot._panels import choose_days
from glioma_pde.plot._style import DPI, STYLE, letter

LABEL = "phantom scale, exploratory: a sphere of tissue; not a prediction"
CENTRE = np.array([6.0, -4.0, 10.0])
RATE = {"untreated": 0.03, "treated": 0.02}
UNITS = {"tumour": "1", "carriers": "1", "drug": "µM"}
FRAMES = (0.0, 2.0, 8.0, 60.0, 130.0)
ROWS = np.arange(0.0, 131.0)


def affine_of(order: tuple[int, ...], flips: tuple[int, ...], shape: tuple[int, ...], h: float) -> np.ndarray:
    """A box around the world's origin whose axis k runs along the world's axis order[k], or against it."""
    matrix = np.eye(4)
    matrix[:3, :3] = 0.0
    for k, (w, sign) in enumerate(zip(order, flips, strict=True)):
        matrix[w, k] = sign * h
    matrix[:3, 3] = -matrix[:3, :3] @ (0.5 * (np.array(shape) - 1))
    return matrix


def blob(grid: Grid, sigma_mm: float, top: float) -> np.ndarray:
    centre = CENTRE[: grid.ndim].reshape(-1, *[1] * grid.ndim) if grid.geometry == "cartesian" else 0.0
    return top * np.exp(-((grid.world_mm() - centre) ** 2).sum(axis=0) / (2 * sigma_mm**2))


def burden(arm: str, days: np.ndarray) -> np.ndarray:
    return 2e8 * np.exp(RATE[arm] * days)


def start(path: Path, arm: str, grid: Grid, fields: tuple[str, ...], observed: bool = True, **attributes) -> RunWriter:
    """A phantom's file with everything but frames and rows."""
    treated = arm == "treated"
    columns = ["burden_cells", "t1gd_volume", "flair_volume", "rim_density"]
    drug = ["carriers_cells", "carriers_in_tumour_cells", "drug_peak", "drug_mean_tumour", "prodrug_plasma"]
    drug += ["drug_exposure_tumour", "drug_exposure_healthy"]
    distance = np.sqrt((grid.world_mm() ** 2).sum(axis=0))
    mask = distance < 0.45 * grid.shape[0] * grid.spacing_mm[0] * (1 + (grid.geometry == "radial"))
    sites = {f"{axis}_mm": np.repeat(CENTRE[k], 4) for k, axis in enumerate("xyz")}
    schedule = {
        "injections": {"day": [0.0, 0.0, 4.0, 4.0], "cells": [1e7] * 4, **sites},
        "prodrug": {"start_day": [1.0, 5.0], "end_day": [3.0, 7.0], "dose_mg_per_kg_per_day": [150.0, 150.0]},
    }
    return RunWriter.create(
        path,
        grid=grid,
        fields=[Quantity(name, UNITS[name], name) for name in fields],
        observables=[Quantity(n, "µM" if "drug" in n else "1", n) for n in columns + drug * treated] * observed,
        ledger=[Quantity("tumour_imbalance", "1", "imbalance")] if observed else [],
        tissue={"white": 0.7 * mask, "grey": 0.3 * mask, "mask": mask},
        schedule=schedule if treated else {},
        attributes={
            "title": "Phantom",
            "arm": arm,
            "label": LABEL,
            "dtype": "float32",
            "t1gd_threshold": 0.8,
            "flair_threshold": 0.16,
            "fatal_burden_cells": 9e9,
            "progression_burden_cells": 3e9,
            **attributes,
        },
    )


def fill(run: RunWriter, arm: str, grid: Grid, fields: tuple[str, ...], frames=FRAMES, rows=ROWS) -> None:
    """Frames of a growing blob, and rows whose burden is an exponential."""
    for day in frames:
        shapes = {"tumour": (3.0 + 0.01 * day, 0.95), "carriers": (3.0, 0.2 * (day < 10))}
        shapes["drug"] = (4.0, 8.0 * (day == 2))
        run.append_frame(day, {name: blob(grid, *shapes[name]) for name in fields})
    values = {"burden_cells": burden(arm, rows), "rim_density": np.zeros(len(rows))}
    shrink = 1.0 if arm == "untreated" else 0.05
    values |= {
        "t1gd_volume": shrink * 60.0 * np.exp(0.03 * rows),
        "flair_volume": 900.0 * np.exp(0.03 * rows),
    }
    if arm == "treated":
        on = ((rows % 4) >= 1) & (rows < 8)
        values |= {
            "carriers_cells": 1e7 * np.exp(-0.2 * rows),
            "carriers_in_tumour_cells": 4e6 * np.exp(-0.2 * rows),
        }
        values |= {"drug_peak": 20.0 * on, "drug_mean_tumour": 8.0 * on * (1 + 0.1 * (rows == 2))}
        values |= {"prodrug_plasma": 360.0 * on}
        values |= {"drug_exposure_tumour": 40.0 * rows, "drug_exposure_healthy": 10.0 * rows}
    run.append_observables(rows, values, {"tumour_imbalance": 1e-7 * np.sin(rows)})


def run_file(path: Path, arm: str, grid: Grid, fields=("tumour",), **attributes) -> Path:
    with start(path, arm, grid, fields, **attributes) as run:
        fill(run, arm, grid, fields)
        run.finish("finished", {"burden_day56": 1.0, "burden_day120": 1.0})
    return path


@pytest.fixture(autouse=True)
def coarse(monkeypatch) -> None:
    """Few pixels, for speed: layouts are in millimetres and points."""
    monkeypatch.setattr("glioma_pde.plot._style.DPI", 80)


@pytest.fixture(scope="module")
def box() -> Grid:
    return Grid.cartesian((24, 24, 24), 2.0)


@pytest.fixture(scope="module")
def arms(tmp_path_factory, box) -> list[Path]:
    folder = tmp_path_factory.mktemp("arms")
    return [
        run_file(folder / "untreated.h5", "untreated", box),
        run_file(folder / "treated.h5", "treated", box, ("tumour", "carriers", "drug")),
    ]


def names_of_figures(paths: list[Path]) -> list[str]:
    """What plot_runs would draw."""
    with opened(paths) as arms:
        return [name for name, _ in plot._applicable(arms)]


def texts(figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


def centroid(image: AxesImage, alpha: np.ndarray) -> tuple[float, float]:
    """Centre of a picture's weight in the coordinates of its axes."""
    x0, x1, y0, y1 = image.get_extent()
    rows, columns = alpha.shape
    x = x0 + (np.arange(columns) + 0.5) * (x1 - x0) / columns
    y = y0 + (np.arange(rows) + 0.5) * (y1 - y0) / rows
    return float(alpha.sum(axis=0) @ x / alpha.sum()), float(alpha.sum(axis=1) @ y / alpha.sum())


def coloured(axes) -> list[AxesImage]:
    return [image for image in axes.get_images() if image.get_array().ndim == 3]


# -- orientation ------------------------------------------------------------------------------------

BOXES = [((0, 1, 2), (1, 1, 1)), ((0, 1, 2), (-1, 1, 1)), ((2, 0, 1), (1, -1, -1)), ((1, 0, 2), (-1, -1, 1))]


@pytest.mark.parametrize(("order", "flips"), BOXES)
def test_slices_show_the_lesion_where_it_is_in_the_world(tmp_path, order, flips):
    shape = (22, 24, 26)
    grid = Grid.from_affine(shape, affine_of(order, flips, shape, 2.0))
    figure = plot.slices(run_file(tmp_path / "run.h5", "untreated", grid), days=[0.0])
    panels = [axes for axes in figure.axes if coloured(axes)]
    assert len(panels) == 3
    for axes, (across, up), letters in zip(panels, ((0, 1), (0, 2), (1, 2)), ("LRAP", "LRSI", "PASI"), strict=True):
        (image,) = coloured(axes)
        x, y = centroid(image, np.asarray(image.get_array())[..., 3])
        assert (x, y) == pytest.approx((CENTRE[across], CENTRE[up]), abs=0.3)
        assert image.origin == "lower"
        assert axes.get_xlim()[0] < axes.get_xlim()[1]
        assert axes.get_ylim()[0] < axes.get_ylim()[1]
        placed = {t.get_text(): t.get_position() for t in axes.texts}
        left, right, top, bottom = (placed[letter] for letter in letters)
        assert left[0] < 0.5 < right[0]
        assert bottom[1] < 0.5 < top[1]


@pytest.mark.parametrize(("order", "flips"), BOXES)
def test_a_section_is_the_same_however_the_box_is_stored(tmp_path, order, flips):
    plain = Grid.cartesian((24, 24, 24), 2.0)
    turned = Grid.from_affine((24, 24, 24), affine_of(order, flips, (24, 24, 24), 2.0))
    found = []
    for name, grid in (("plain", plain), ("turned", turned)):
        with Arm(run_file(tmp_path / f"{name}.h5", "untreated", grid)) as arm:
            whole = arm.sections("tumour", 0, CENTRE)
            assert all(np.array_equal(whole[axis], arm.section("tumour", 0, axis, CENTRE)) for axis in range(3))
            found.append((whole, arm.mask(CENTRE)))
    for axis in range(3):
        for one, other in zip(found[0], found[1], strict=True):
            np.testing.assert_allclose(one[axis], other[axis], atol=1e-6)


def test_anatomy_is_placed_by_its_own_affine(tmp_path, box):
    shape = (40, 30, 34)
    affine = affine_of((1, 2, 0), (-1, 1, -1), shape, 2.5)
    head = Grid.from_affine(shape, affine)
    spot = (255 * np.exp(-((head.world_mm() - CENTRE[:, None, None, None]) ** 2).sum(axis=0) / 18)).astype(np.uint8)
    path = tmp_path / "run.h5"
    with start(path, "untreated", box, ("tumour",)) as run:
        fill(run, "untreated", box, ("tumour",))
    with Arm(path) as arm:
        arm.run.anatomy = lambda: (spot, affine)
        figure = plot.slices(arm, days=[0.0])
    for axes, (across, up) in zip([a for a in figure.axes if coloured(a)], ((0, 1), (0, 2), (1, 2)), strict=True):
        grey = axes.get_images()[0]
        assert centroid(grey, np.asarray(grey.get_array())) == pytest.approx((CENTRE[across], CENTRE[up]), abs=0.3)


def test_an_oblique_box_is_seen_along_its_nearest_axes():
    c, s = np.cos(0.3), np.sin(0.3)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[-s, c, 0], [c, s, 0], [0, 0, 1]]) @ np.diag([1.0, 2.0, 3.0])
    box = Box((10, 20, 30), matrix)
    assert box.shape == (20, 10, 30)
    assert np.linalg.det(box.directions) == pytest.approx(1.0)  # right-handed: nothing is mirrored
    assert np.all(np.diag(box.directions) > 0.9)
    index = np.array([3.0, 4.0, 5.0])
    np.testing.assert_allclose(box.index_of(box.place_of(index)), index)


def test_sample_is_linear_inside_and_zero_outside():
    affine = affine_of((0, 1, 2), (-1, 1, 1), (5, 6, 7), 2.0)
    grid = Grid.from_affine((5, 6, 7), affine)
    x, y, z = grid.world_mm()
    points = np.array([[1.3, -0.4, 2.2], [0.0, 1.0, -3.0], [60.0, 0.0, 0.0]])
    found = sample(2 * x - y + 3 * z + 50, affine, points)
    np.testing.assert_allclose(found, [2 * 1.3 + 0.4 + 6.6 + 50, -1 - 9 + 50, 0.0], atol=1e-9)


def test_only_tissue_is_coloured_and_zero_is_clear(arms):
    with Arm(arms[1]) as arm:
        figure = plot.slices(arm, days=[2.0, 130.0])
        inside = arm.mask(CENTRE)[2] > 0
    by_day = [np.asarray(coloured(axes)[0].get_array())[..., 3] for axes in figure.axes if coloured(axes)]
    tumour, drug_on, drug_off = by_day[0], by_day[6], by_day[15]
    assert tumour.max() > 0.8
    assert np.all(tumour[~inside] == 0)
    assert not inside.all()
    assert drug_on.max() > 0.8
    assert np.all(drug_off == 0)


# -- numbers ----------------------------------------------------------------------------------------


def test_crossings_and_values_are_interpolated_in_the_logarithm():
    days = np.array([0.0, 10.0, 20.0])
    values = np.exp(0.1 * days)
    assert first_crossing(days, values, np.exp(0.73)) == pytest.approx(7.3)
    assert first_crossing(days, values, 0.5) == 0.0
    assert first_crossing(days, values, 100.0) is None
    found = values_on(days, values, np.array([13.0, 21.0]), logarithmic=True)
    assert found[0] == pytest.approx(np.exp(1.3))
    assert np.isnan(found[1])


def test_outcome_says_what_the_burdens_say(arms):
    found = texts(plot.outcome(arms))
    for day in (56, 120):
        change = 100 * (np.exp((RATE["treated"] - RATE["untreated"]) * day) - 1)
        assert f"−{abs(change):.0f} %" in found
    reached = {arm: np.log(3e9 / 2e8) / rate for arm, rate in RATE.items()}
    assert f"day {reached['untreated']:.0f}" in found
    assert f"after day 130 (> +{130 - reached['untreated']:.0f})" in found  # log(15)/0.02 is day 135
    assert "tumour : healthy = 4" in found


def test_disagreement_of_scan_and_burden_is_flagged(arms):
    found = texts(plot.outcome(arms, days=[56.0]))
    assert found.count("≠") == 2  # burden −43 %, T1Gd −95 %, FLAIR as it was
    assert "−95 %" in found
    alone = plot.outcome([arms[0]], days=[56.0])  # both grow at one rate
    assert "≠" not in texts(alone)
    assert any("first day" in text for text in texts(alone))


def test_time_courses_draw_the_columns_of_the_file(arms):
    figure = plot.time_courses(arms)
    by_title = {axes.get_title("left").split("  ")[1]: axes for axes in figure.axes}
    assert {"Tumour burden", "What a scanner would see", "Carriers", "Prodrug in plasma"} < set(by_title)
    curves = [line for line in by_title["Tumour burden"].lines if len(line.get_xdata()) == len(ROWS)]
    np.testing.assert_allclose(curves[0].get_ydata(), burden("untreated", ROWS))
    np.testing.assert_allclose(curves[1].get_ydata(), burden("treated", ROWS))
    levels = {line.get_ydata()[0] for line in by_title["Tumour burden"].lines if len(line.get_xdata()) == 2}
    assert levels == {3e9, 9e9}
    doses = [line for line in by_title["Carriers"].lines if line.get_marker() == "v"]
    assert [list(line.get_xdata()) for line in doses] == [[0.0, 4.0]]
    assert len([p for p in by_title["Drug in tissue"].patches if p.get_width() == 2.0]) == 2  # courses


def test_radiation_tablets_and_operations_are_marked_as_far_as_the_run_has_come(tmp_path, box, monkeypatch):
    late = float(ROWS[-1]) + 5.0
    given = {
        "resections": {"day": [2.0], "radius_mm": [5.0]},
        "radiotherapy": {"day": [4.0, 5.0, 5.0, late], "dose_gy": [2.0] * 4},
        "temozolomide": {"day": [4.0, late], "dose_mg_per_m2": [75.0] * 2},
    }
    create = RunWriter.create
    monkeypatch.setattr(RunWriter, "create", lambda path, **k: create(path, **(k | {"schedule": given})))
    figure = plot.time_courses([run_file(tmp_path / "stupp.h5", "treated", box)])
    lines = figure.axes[0].lines
    found = {line.get_marker(): list(line.get_xdata()) for line in lines if line.get_marker() in ("X", "|", ".")}
    assert found == {"X": [2.0], "|": [4.0, 5.0], ".": [4.0]}
    assert any("strokes: fractions of radiation" in text.replace("\n", " ") for text in texts(figure))


def test_an_arm_has_one_colour_and_the_key_stands_once(arms):
    figure = plot.time_courses(arms)
    (key,) = figure.legends
    assert [t.get_text() for t in key.get_texts()] == ["untreated", "treated"]
    colours = [matplotlib.colors.to_hex(line.get_color()) for line in key.get_lines()]
    other = plot.outcome(arms).legends[0]
    assert colours == [matplotlib.colors.to_hex(line.get_color()) for line in other.get_lines()]
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) == len(ROWS)]
    assert colours == [matplotlib.colors.to_hex(line.get_color()) for line in curves]


def test_ledger_shows_sizes_of_imbalances(arms):
    axes = plot.ledger(arms).axes[0]
    assert axes.get_yscale() == "log"
    drawn = axes.lines[0].get_ydata()
    expected = np.abs(1e-7 * np.sin(ROWS))
    np.testing.assert_allclose(drawn[1:], expected[1:], rtol=1e-9)


def test_panels_go_on_after_the_tenth_and_after_z():
    figure = Figure()
    for index, expected in ((0, "a"), (9, "j"), (10, "k"), (25, "z"), (26, "aa"), (27, "ab"), (52, "ba")):
        axes = figure.add_subplot()
        with rc_context(STYLE):
            letter(axes, index, "title")
        assert axes.get_title(loc="left") == f"$\\bf{{{expected}}}$  title"


def test_days_tell_the_story(arms):
    with Arm(arms[0]) as untreated, Arm(arms[1]) as treated:
        assert choose_days([untreated, treated]) == [0.0, 2.0, 8.0, 130.0]
        assert choose_days([untreated]) == [0.0, 60.0, 130.0]  # evenly spread, as far as there are frames


def test_the_height_of_treatments_is_a_day_of_all_of_them(arms, tmp_path, monkeypatch):
    """Not that of one arm on which the other has nothing yet."""
    with Arm(arms[1]) as one, Arm(arms[1]) as other:
        days = one.observable_days
        courses = {id(one): (days >= 1) & (days <= 8), id(other): (days >= 4) & (days <= 11)}
        fade = np.exp(-0.3 * days)

        def curve(self, name):
            return fade * courses[id(self)] if name == "drug_mean_tumour" else None

        monkeypatch.setattr(Arm, "curve", curve)
        both = choose_days([one, other])
        assert [day for day in both if 4 <= day <= 8] == [8.0]  # the phantom has no frame from 2 to 8
        assert 2.0 in choose_days([one])


def test_the_animation_says_which_arm_has_ended(arms, tmp_path, box):
    short = tmp_path / "short.h5"
    with start(short, "untreated", box, ("tumour",)) as run:
        fill(run, "untreated", box, ("tumour",), FRAMES[:3], ROWS[FRAMES[2] >= ROWS])
        run.finish("finished", {})
    with Arm(short) as ended, Arm(arms[1]) as longer:
        film = _Film([ended, longer], [ended, longer], 50)
        film.picture(FRAMES[2])
        assert [text.get_text() for text in film.ended] == ["", ""]
        film.picture(FRAMES[-1])
        assert [text.get_text() for text in film.ended] == [f"ended on day {FRAMES[2]:g}", ""]


# -- the look ---------------------------------------------------------------------------------------


def all_figures(arms, folder):
    fields = ("tumour", "carriers", "drug")
    yield from (plot.slices(path) for path in arms)
    yield plot.slices(run_file(folder / "flat.h5", "treated", Grid.cartesian((30, 30), 1.0), fields))
    yield plot.slices(run_file(folder / "ball.h5", "treated", Grid.radial(30, 0.5), fields))
    yield plot.outcome([*arms, arms[1], arms[1]])
    for draw in (plot.comparison, plot.time_courses, plot.outcome, plot.ledger):
        yield draw(arms)


def drawn_texts(figure, monkeypatch) -> list[tuple[str, float, object]]:
    """(text, size, extent) of what is really drawn: hidden ticks are not."""
    drawn = []
    original = Text.draw

    def draw(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            drawn.append((self.get_text(), self.get_fontsize(), Text.get_window_extent(self, renderer)))
        original(self, renderer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        figure.canvas.draw()
    return drawn


def test_every_figure_is_legible_and_says_what_it_is(arms, tmp_path, monkeypatch):
    for figure in all_figures(arms, tmp_path):
        drawn = drawn_texts(figure, monkeypatch)
        shown = " ".join(text for text, _, _ in drawn).replace("\n", " ")
        assert LABEL in shown
        assert "Research model, not for clinical use." in shown
        assert min(size for _, size, _ in drawn) >= 7.0
        frame = figure.bbox
        for text, _, extent in drawn:
            assert frame.x0 - 1 <= extent.x0 < extent.x1 <= frame.x1 + 1, text
            assert frame.y0 - 1 <= extent.y0 < extent.y1 <= frame.y1 + 1, text
        for (one, _, a), (other, _, b) in itertools.combinations(drawn, 2):
            across = min(a.x1, b.x1) - max(a.x0, b.x0)
            along = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert across <= 1.5 or along <= 1.5, (one, other)


# -- files ------------------------------------------------------------------------------------------


def test_plot_runs_writes_every_figure(arms, tmp_path, monkeypatch):
    monkeypatch.setattr("glioma_pde.plot._style.DPI", DPI)
    written = plot.plot_runs(arms, tmp_path / "figures")
    names = ["slices_untreated", "slices_treated", "comparison", "time_courses", "outcome", "ledger"]
    assert [path.name for path in written] == [f"{name}.png" for name in names] + ["animation.gif"]
    assert all(path.stat().st_size > 5000 for path in written)
    with Image.open(written[3]) as picture:
        assert picture.width == pytest.approx(180 / 25.4 * 300, abs=1)


def test_figures_drawn_side_by_side_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("glioma_pde.plot._style.DPI", DPI)  # processes import the module anew
    path = run_file(tmp_path / "ball.h5", "untreated", Grid.radial(20, 1.0))
    one, other = (plot.plot_runs([path], tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    assert len(one) > 1
    assert [p.name for p in other] == [p.name for p in one]
    for a, b in zip(one, other, strict=True):
        with Image.open(a) as first, Image.open(b) as second:
            assert first.tobytes() == second.tobytes()


def test_what_a_process_cannot_draw_is_told_as_without_it(tmp_path):
    path = run_file(tmp_path / "ball.h5", "untreated", Grid.radial(20, 1.0))
    with pytest.raises(GliomaError, match=r"slices_untreated\.docx: the figure cannot be written"):
        plot.plot_runs([path], tmp_path, formats=("docx",), jobs=2)


def test_formats_and_no_animation(tmp_path):
    path = run_file(tmp_path / "ball.h5", "untreated", Grid.radial(20, 1.0))
    written = plot.plot_runs([path], tmp_path, formats=("svg",), animation=True)
    assert {file.suffix for file in written} == {".svg"}  # a ball has no slices to animate
    assert LABEL.split(";")[0] in written[0].read_text()
    with pytest.raises(GliomaError, match="slices"):
        plot.plot_runs([path], tmp_path, formats=("docx",))


def test_the_animation_moves_and_is_thinned(arms, tmp_path):
    path = plot.animation(arms, tmp_path / "film.gif", max_frames=3, dpi=60)
    assert path.stat().st_size < 6e6
    with Image.open(path) as film:
        assert film.n_frames == 3
        stills = []
        for k in range(3):
            film.seek(k)
            stills.append(np.asarray(film.convert("RGB"), dtype=int))
    assert np.abs(stills[2] - stills[0]).max() > 100
    assert np.all(stills[0][0, 0] == 255)


def test_two_dimensions(tmp_path):
    grid = Grid.cartesian((42, 38), 1.0)
    path = run_file(tmp_path / "flat.h5", "treated", grid, ("tumour", "carriers"))
    figure = plot.slices(path, days=[0.0, 8.0])
    panels = [axes for axes in figure.axes if coloured(axes)]
    assert len(panels) == 4
    (image,) = coloured(panels[0])
    found = centroid(image, np.asarray(image.get_array())[..., 3])
    assert found == pytest.approx(tuple(CENTRE[:2]), abs=0.3)
    assert plot.animation([path], tmp_path / "film.gif", dpi=50).exists()


def test_radial_profiles(tmp_path):
    grid = Grid.radial(40, 0.5)
    path = run_file(tmp_path / "ball.h5", "treated", grid, ("tumour", "drug"))
    figure = plot.slices(path, days=[0.0, 2.0])
    tumour = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 40]
    np.testing.assert_allclose(tumour[0].get_xdata(), (np.arange(40) + 0.5) * 0.5)
    np.testing.assert_allclose(tumour[0].get_ydata(), blob(grid, 3.0, 0.95), rtol=1e-6)
    assert names_of_figures([path]) == ["slices_treated", "time_courses", "outcome", "ledger"]


def test_a_run_at_work_is_drawn_as_far_as_it_goes(tmp_path, box):
    path = tmp_path / "live.h5"
    with start(path, "treated", box, ("tumour", "carriers", "drug")) as run:
        with pytest.raises(GliomaError, match="no frame yet"):
            plot.plot_runs([path], tmp_path / "none")
        fill(run, "treated", box, ("tumour", "carriers", "drug"), frames=FRAMES[:2], rows=ROWS[:6])
        figure = plot.time_courses([path])
        assert any("running, to day 2" in text for text in texts(figure))
        assert names_of_figures([path]) == ["slices_treated", "time_courses", "outcome", "ledger"]


def test_files_without_the_data_say_so(tmp_path, box):
    bare = tmp_path / "bare.h5"
    with start(bare, "untreated", box, ("tumour",), observed=False) as run:
        run.append_frame(0.0, {"tumour": blob(box, 3.0, 0.9)})
    assert [p.name for p in plot.plot_runs([bare], tmp_path)] == ["slices_untreated.png"]
    for draw in (plot.time_courses, plot.outcome, plot.ledger):
        with pytest.raises(GliomaError, match=r"bare\.h5"):
            draw([bare])
    ball = run_file(tmp_path / "ball.h5", "untreated", Grid.radial(20, 1.0))
    for draw in (plot.comparison, lambda paths: plot.animation(paths, tmp_path / "film.gif")):
        with pytest.raises(GliomaError, match="no tumour field"):
            draw([ball])
    with pytest.raises(GliomaError, match="nothing to draw"):
        plot.plot_runs([], tmp_path)
    with pytest.raises(GliomaError, match=r"missing\.h5"):
        plot.slices(tmp_path / "missing.h5")


def test_arms_of_one_name_are_told_apart(tmp_path, box):
    paths = [run_file(tmp_path / f"{name}.h5", "treated", box) for name in ("low", "high")]
    assert {"slices_treated_low", "slices_treated_high"} < set(names_of_figures(paths))
    other = tmp_path / "other"
    other.mkdir()
    twins = [paths[0], run_file(other / "low.h5", "treated", box)]
    assert names_of_figures(twins)[1] == "slices_treated_other_low"
    assert plot._slugs(["dose 1", "dose-1", "é"]) == ["dose_1_1", "dose_1_2", "run"]


def test_an_empty_lesion_can_be_drawn(tmp_path, box):
    path = tmp_path / "empty.h5"
    with start(path, "untreated", box, ("tumour",), observed=False) as run:
        run.append_frame(0.0, {"tumour": np.zeros(box.shape)})
    figure = plot.slices(path)
    assert len([axes for axes in figure.axes if coloured(axes)]) == 3
