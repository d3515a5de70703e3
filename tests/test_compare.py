"""Runs side by side: trends, the tidy table, the command and its figure."""

import csv
import math
import shutil

import jax
import numpy as np
import pytest
from test_run import TINY

from glioma_pde.build import build, common_shapes
from glioma_pde.cli import main
from glioma_pde.compare import COLUMNS, levels, read, write_csv
from glioma_pde.config import loads
from glioma_pde.errors import GliomaError
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.observe import TREND_DAYS, trends
from glioma_pde.run import run

ARMS = (
    TINY
    + """
scan_every_days = 1.0
[arms.treated]
[arms.untreated]
without = ["carriers", "attractant", "prodrug", "drug", "schedule"]
"""
)


@pytest.fixture(scope="module", autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    arms = loads(ARMS).arms
    shapes = common_shapes(arms)
    results = [run(build(arm, shapes=shapes), folder / f"{arm.arm}.h5") for arm in arms]
    return [str(r.path) for r in results], results


def test_trends_are_taken_over_a_week():
    days = np.arange(0.0, 20.0)
    burden, radius = 1e6 * np.exp(0.03 * days), 5.0 + 0.1 * days
    for n in (2, 5, 8, 20):
        found = trends(days[:n].tolist(), burden[:n].tolist(), radius[:n].tolist())
        assert found["growth_rate_per_day"] == pytest.approx(0.03)
        assert found["front_speed_mm_per_day"] == pytest.approx(0.1)
    burden[12] = 2.0 * burden[12]  # only the ends of the last week count
    assert TREND_DAYS == 7.0
    assert trends(days[:16].tolist(), burden[:16].tolist(), radius[:16].tolist())[
        "growth_rate_per_day"
    ] == pytest.approx(0.03)
    assert math.isnan(trends([0.0], [1.0], [1.0])["growth_rate_per_day"])
    assert math.isnan(trends([0.0, 8.0], [1.0, 0.0], [1.0, 0.0])["growth_rate_per_day"])


def test_rates_and_peaks_are_observables_of_the_file(files):
    paths, _ = files
    with RunFile(paths[0]) as file:
        burden, rate = file.observable("burden_cells"), file.observable("growth_rate_per_day")
        assert math.isnan(rate[0])
        assert rate[2] == pytest.approx(math.log(burden[2] / burden[0]) / 2.0)
        both = np.maximum(file.observable("drug_peak_tumour"), file.observable("drug_peak_healthy"))
        np.testing.assert_array_equal(both, file.observable("drug_peak"))
        assert file.observables["front_speed_mm_per_day"].unit == "mm/day"


def test_the_tidy_table_holds_every_number(files, tmp_path):
    paths, results = files
    runs = read(paths)
    assert [r.arm for r in runs] == ["treated", "untreated"]
    with write_csv(runs, tmp_path / "all.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    course = {(r["run"], r["quantity"], r["day"]): r["value"] for r in rows}
    treated = results[0]
    assert float(course["treated", "burden_cells", "3"]) == pytest.approx(treated.course.at("burden_cells", 3.0))
    assert float(course["treated", "therapeutic_index", ""]) == pytest.approx(treated.summary["therapeutic_index"])
    assert course["untreated", "best_response", ""].startswith("NE")
    assert course["treated", "growth_rate_per_day", "0"] == ""
    assert {r["unit"] for r in rows if r["quantity"] == "drug_peak"} == {"µM"}
    count = sum(len(r.summary) + len(r.course.values) * len(r.course.days) for r in runs)
    assert len(rows) == count


def test_runs_of_one_name_are_told_apart(files, tmp_path):
    paths, _ = files
    other = tmp_path / "again"
    other.mkdir()
    shutil.copy(paths[0], other / "treated.h5")
    names = [r.arm for r in read([paths[0], str(other / "treated.h5")])]
    assert len(set(names)) == 2
    assert names[1] == "again/treated"
    assert levels(read(paths)).compare_days == (3.0,)


def test_the_command_prints_the_table_and_draws(files, tmp_path, capsys):
    paths, _ = files
    assert main(["compare", *paths, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "therapeutic index" in said
    assert "best response on scans" in said
    assert (tmp_path / "out" / "compare.csv").stat().st_size > 1000
    assert (tmp_path / "out" / "compare.png").stat().st_size > 10000


def test_what_cannot_be_compared_is_said(files, tmp_path, capsys):
    paths, _ = files
    assert main(["compare", str(tmp_path / "none.h5")]) == 1
    assert "none.h5" in capsys.readouterr().err
    with pytest.raises(GliomaError, match="cannot be written"):
        write_csv(read(paths), tmp_path / "no" / "folder.csv")
