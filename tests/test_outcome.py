"""Outcome numbers from time courses whose answers are known, and the table that shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.config import Outcome
from glioma_pde.observe import equivalent_radius, rim
from glioma_pde.outcome import DISAGREEMENT, Course, disagrees, response, summarise
from glioma_pde.table import outcome_table

DAYS = np.arange(0.0, 101.0, 4.0)
THRESHOLDS = Outcome(progression_cells=3e9, fatal_cells=9e9, compare_days=[50.0])


def course(arm="untreated", rate=0.05, start=1e8, shown=None, **more) -> Course:
    """Exponential burden; the volumes shrink with the burden unless ``shown`` gives another factor."""
    burden = start * np.exp(rate * DAYS)
    volume = burden / 1e5 if shown is None else shown * np.exp(0.05 * DAYS)
    values = {
        "burden_cells": burden,
        "t1gd_volume": volume,
        "flair_volume": burden / 1e5,
        "rim_density": np.full(DAYS.size, 1e-9),
        **more,
    }
    return Course(arm, "", DAYS, values)


@dataclass
class Ran:
    """What the table needs of a result."""

    arm: str
    course: Course
    summary: dict = field(default_factory=dict)
    more: dict = field(default_factory=dict)
    path: Path = Path("unused.h5")


def ran(c: Course) -> Ran:
    return Ran(c.arm, c, summarise(c, THRESHOLDS))


@pytest.mark.parametrize("level", [1.5e8, 3e9, 9e9])
def test_exponential_course_crosses_a_level_on_the_exact_day_between_rows(level):
    assert course().day_of("burden_cells", level) == pytest.approx(math.log(level / 1e8) / 0.05, rel=1e-12)


def test_crossing_on_a_row_at_the_start_from_zero_and_never():
    c = course()
    assert c.day_of("burden_cells", c.values["burden_cells"][5]) == pytest.approx(DAYS[5], rel=1e-12)
    assert c.day_of("burden_cells", 1e7) == 0.0
    assert c.day_of("burden_cells", 1e12) == math.inf
    rising = Course("a", "", np.array([0.0, 1.0, 2.0]), {"v": np.array([0.0, 0.0, 5.0])})
    assert 1.0 < rising.day_of("v", 1.0) <= 2.0


def test_first_crossing_counts_when_the_burden_falls_and_rises_again():
    v = np.array([1.0, 4.0, 1.0, 4.0])
    c = Course("a", "", np.arange(4.0), {"v": v})
    assert c.day_of("v", 2.0) == pytest.approx(0.5)


def test_value_on_a_day_is_interpolated_and_nan_outside():
    c = Course("a", "", np.array([0.0, 10.0]), {"v": np.array([1.0, 3.0])})
    assert c.at("v", 5.0) == 2.0
    assert math.isnan(c.at("v", 10.1))
    assert math.isnan(c.at("v", -0.1))


def test_from_rows_keeps_order_and_names():
    c = Course.from_rows("a", "l", [(0.0, {"x": 1.0, "y": 2.0}), (1.0, {"x": 3.0, "y": 4.0})])
    np.testing.assert_array_equal(c.values["y"], [2.0, 4.0])
    assert "x" in c
    assert "z" not in c


def test_response_is_relative_to_the_reference_on_the_same_day():
    treated = course("treated", rate=0.03)
    assert response(treated, course(), "burden_cells", 50.0) == pytest.approx(math.exp(-0.02 * 50) - 1, rel=2e-3)
    gone = course("gone", start=1e-300, shown=0.0)
    assert math.isnan(response(treated, gone, "t1gd_volume", 50.0))


def test_disagreement_is_flagged_above_the_limit_in_either_direction_only():
    base = course(shown=1000.0)
    halved = 0.5 * 1e8
    for shift, expected in ((0.0, []), (0.9, []), (1.1, ["t1gd_volume"]), (-0.9, []), (-1.1, ["t1gd_volume"])):
        c = course("treated", start=halved, shown=1000.0 * (0.5 + shift * DISAGREEMENT))
        assert disagrees(c, base, 52.0) == expected


def test_summary_of_simple_courses():
    n = DAYS.size
    c = course(
        drug_mean_tumour=np.full(n, 2.0),
        drug_peak=np.linspace(0.0, 7.0, n),
        drug_exposure_tumour=np.linspace(0, 30.0, n),
        drug_exposure_healthy=np.linspace(0, 10.0, n),
        carriers_cells=np.full(n, 8e6),
        carriers_in_tumour_cells=np.full(n, 2e6),
    )
    s = summarise(c, THRESHOLDS)
    assert s["final_day"] == 100.0
    assert s["final_burden_cells"] == c.values["burden_cells"][-1]
    assert s["day_of_progression_burden"] == pytest.approx(math.log(30) / 0.05)
    assert s["drug_auc_tumour"] == pytest.approx(200.0)
    assert s["drug_peak"] == 7.0
    assert s["therapeutic_index"] == pytest.approx(3.0)
    assert s["carriers_peak_cells"] == 8e6
    assert s["carriers_fraction_in_tumour"] == pytest.approx(0.25)
    assert s["burden_day50"] == c.at("burden_cells", 50.0)


def test_summary_without_exposure_of_healthy_tissue_or_carriers():
    zero = np.zeros(DAYS.size)
    c = course(
        drug_mean_tumour=zero, drug_peak=zero, drug_exposure_tumour=zero, drug_exposure_healthy=zero,
        carriers_cells=zero, carriers_in_tumour_cells=zero,
    )  # fmt: skip
    s = summarise(c, THRESHOLDS)
    assert math.isnan(s["carriers_fraction_in_tumour"])
    assert s["therapeutic_index"] == math.inf
    assert "drug_peak" not in summarise(course(), THRESHOLDS)


def test_radius_of_the_equivalent_sphere():
    radius = np.array([0.5, 3.0, 42.0])
    np.testing.assert_allclose(equivalent_radius(jnp.asarray(4 / 3 * np.pi * radius**3)), radius, rtol=1e-6)
    assert float(equivalent_radius(jnp.asarray(0.0))) == 0.0


@pytest.mark.parametrize("shape", [(5, 4), (4, 5, 6)])
def test_rim_sees_every_side_and_nothing_inside(shape):
    inside = np.zeros(shape)
    inside[tuple(slice(1, -1) for _ in shape)] = 9.0
    assert float(rim(jnp.asarray(inside))) == 0.0
    for axis in range(len(shape)):
        for end in (0, -1):
            u = inside.copy()
            index = [1] * len(shape)
            index[axis] = end
            u[tuple(index)] = 0.25
            assert float(rim(jnp.asarray(u))) == 0.25


def test_rim_of_a_radial_grid_is_its_outer_shell():
    assert float(rim(jnp.asarray([0.9, 0.5, 0.1]), outer_only=True)) == pytest.approx(0.1)


def row_of(text: str, label: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip().startswith(label)]
    assert len(lines) == 1, f"{label!r} in\n{text}"
    return lines[0].replace(label, "").split()


def test_table_of_two_arms():
    treated = course("treated", rate=0.025, shown=1000.0)
    text = outcome_table([ran(course()), ran(treated)], THRESHOLDS)
    assert text.splitlines()[0].split() == ["untreated", "treated"]
    assert row_of(text, "burden at start [cells]") == ["1e+08", "1e+08"]
    change = 100 * response(treated, course(), "burden_cells", 50.0)
    assert row_of(text, "against untreated") == [f"{change:+.1f}", "%"]
    before, now, response_, percent = row_of(text, "T1Gd volume [mL]")
    assert float(before) == pytest.approx(course().at("t1gd_volume", 50.0) / 1e3, abs=5e-3)
    assert float(now) == pytest.approx(treated.at("t1gd_volume", 50.0) / 1e3, abs=5e-3)
    assert response_.startswith("(!")
    assert percent == "%)"
    assert "! this volume responds differently" in text
    # 3e9 cells: day 68 against beyond the run's 100 days
    assert row_of(text, "day of 3e+09 cells") == ["68", ">", "100"]
    gained = [line.split()[2:] for line in text.splitlines() if "days gained" in line]
    assert gained == [[">", "32"], [">", "10"]]  # the untreated burden is fatal on day 90


def test_table_says_nothing_of_days_gained_when_the_reference_never_gets_there():
    slow = course(rate=0.001)
    text = outcome_table([ran(slow), ran(course("treated", rate=0.0005))], THRESHOLDS)
    assert [line.split()[2:] for line in text.splitlines() if "days gained" in line] == [["–"], ["–"]]


def test_table_of_one_arm_shows_volumes_and_no_comparison():
    text = outcome_table([ran(course())], THRESHOLDS)
    assert "against" not in text
    assert "gained" not in text
    assert row_of(text, "T1Gd volume [mL]") == [f"{course().at('t1gd_volume', 50.0) / 1e3:.2f}"]
    assert "drug" not in text
    assert "carriers" not in text


def test_table_counts_carriers_on_the_days_compared():
    values = {"carriers_cells": 1e6 * 0.9**DAYS, "carriers_in_tumour_cells": 4e5 * 0.9**DAYS}
    c = Course("one", "", DAYS, course().values | values)
    text = outcome_table([ran(c)], THRESHOLDS)
    assert row_of(text, "carriers alive [cells]") == [f"{c.at('carriers_cells', 50.0):.3g}"]
    assert row_of(text, "carriers within FLAIR contour [cells]") == [f"{c.at('carriers_in_tumour_cells', 50.0):.3g}"]


def test_table_leaves_out_days_after_the_run_and_shows_labels():
    late = Outcome(compare_days=[50.0, 400.0])
    c = Course("one", "exploratory, not a prediction", DAYS, course().values)
    text = outcome_table([Ran("one", c, summarise(c, late))], late)
    assert "day 400" not in text
    assert "nan" not in text
    assert "one: exploratory, not a prediction" in text
