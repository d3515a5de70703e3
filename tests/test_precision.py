"""The comparison of work and precision: its problem, its reference and its arithmetic."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are not part of the installed package

from benchmarks import peers, precision
from benchmarks.precision import OURS, Question, Run, extrapolated, front, means, ours, ratios, time_for
from glioma_pde.numerics.stepping import SSPRK2


def a_run(solver, error, seconds, n=8, scheme="SSP-RK2"):
    return Run(solver, scheme, n, "", error, 10 * seconds, [seconds])


def test_the_start_is_the_mean_of_the_gaussian_over_each_cell():
    question = Question(0.7)
    fine = Question(0.7).start_at_points(240)
    np.testing.assert_allclose(question.start(12), means(fine, 12), rtol=0, atol=2e-4 * question.peak)
    assert question.diffusivity(12).min() > 0.2 * question.mean_diffusivity


@pytest.mark.parametrize("variation", [0.0, 0.7])
def test_the_reference_is_sharper_than_what_it_judges(variation):
    question = Question(variation, days=6.0)
    reference = extrapolated(question, 24)
    errors = []
    for n, steps in ((12, 8), (24, 32)):
        u = ours(question, n, SSPRK2(), steps)()
        errors.append(np.sqrt(np.mean((u - means(reference, n)) ** 2)))
    # of second order against it: the reference's own error does not show
    assert 1.7 < np.log2(errors[0] / errors[1]) < 2.4


def test_other_solvers_answer_the_same_question():
    pytest.importorskip("diffrax")
    question = Question(0.7, days=6.0)
    found = peers.diffrax(question, 12, 1e-8)()
    same = ours(question, 12, SSPRK2(), 400)()
    np.testing.assert_allclose(found, same, rtol=0, atol=2e-6)


def test_versions_name_every_peer():
    assert set(peers.versions()) == {"diffrax", "exponax", "py-pde"}


def test_only_the_best_runs_form_the_front_and_times_lie_between_them():
    runs = [a_run(OURS, 1e-2, 1.0), a_run(OURS, 1e-4, 4.0), a_run(OURS, 2e-2, 3.0), a_run("other", 1e-9, 1e-9)]
    name = f"{OURS}, SSP-RK2"
    assert [r.error for r in front(runs, name)] == [1e-2, 1e-4]
    assert time_for(runs, name, 1e-3) == pytest.approx(2.0)
    assert time_for(runs, name, 1e-2) == pytest.approx(1.0)
    assert time_for(runs, name, 1e-5) is None and time_for(runs, name, 1.0) is None


def test_ratios_are_those_of_equal_error():
    runs = [a_run(OURS, 1e-3, 2.0), a_run("slow", 1e-2, 1.0, 4, "RK4"), a_run("slow", 1e-4, 100.0, 16, "RK4")]
    over = ratios(runs, 8)["over"]
    assert over[f"{OURS}, SSP-RK2"] == {"compiled": pytest.approx(1.0), "first": pytest.approx(1.0)}
    assert over["slow, RK4"] == {"compiled": pytest.approx(5.0), "first": pytest.approx(50.0)}
    assert ratios(runs[:1], 8)["over"].keys() == {f"{OURS}, SSP-RK2"}


def test_the_whole_comparison_runs_and_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "versions", lambda: {"diffrax": None, "exponax": None, "py-pde": None})
    monkeypatch.setattr(precision, "SIZES", {"quick": (4, 8), "full": (4, 8)})
    result = precision.precision(quick=True)
    assert {r["solver"] for r in result["variable"]["runs"]} == {OURS}
    text = precision.table(result)
    assert "not installed: diffrax, exponax, py-pde" in text and "SSP-RK2" in text
    picture = precision.draw(result, tmp_path / "precision.png")
    assert picture.stat().st_size > 10_000
