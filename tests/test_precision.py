"""The comparison of work and precision: its problem, its reference and its arithmetic."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are not part of the installed package

from benchmarks import handwritten, peers, precision
from benchmarks.precision import OURS, Question, Run, by_hand, extrapolated, front, means, ours, ratios, time_for
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


def test_the_loop_in_c_takes_the_same_steps():
    if handwritten.library("float64") is None:
        pytest.skip("no C compiler with OpenMP")
    question = Question(0.7, days=6.0)
    found = by_hand(question, 12, 20)()
    np.testing.assert_allclose(found, ours(question, 12, SSPRK2(), 20)(), rtol=1e-12)
    single = handwritten.growth(
        question.start(12).astype(np.float32), question.conductances(12), question.rho_per_day, question.days, 20
    )()
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, found, rtol=0, atol=1e-6)


class StandIn:
    """What the solver of TumorGrowthToolkit does with the parameters that it documents, in a line or two each."""

    def __init__(self, params):
        self.p = params

    def solve(self):
        p, h = self.p, [self.p[f"d{axis}_mm"] for axis in "xyz"]
        d = p["Dw"] * (p["wm"] + p["gm"] / p["RatioDw_Dg"])
        u = self.gauss_sol3d(0, 0, 0, *h, 1.0)
        steps = int(8 * p["stopping_time"] * p["Dw"] / min(h) ** 2) + 100
        for _ in range(steps):
            change = p["rho"] * u * (1 - u)
            for k in range(3):
                flux = 0.5 * (d + np.roll(d, -1, k)) * (np.roll(u, -1, k) - u) / h[k] ** 2
                change += flux - np.roll(flux, 1, k)
            u = u + p["stopping_time"] / steps * change
        return {"final_state": u}


@pytest.mark.parametrize("variation", [0.0, 0.7])
def test_tumor_growth_toolkit_is_asked_the_same_question(monkeypatch, variation):
    monkeypatch.setitem(sys.modules, "TumorGrowthToolkit", ModuleType("TumorGrowthToolkit"))
    monkeypatch.setitem(sys.modules, "TumorGrowthToolkit.FK", SimpleNamespace(Solver=StandIn))
    question = Question(variation, days=6.0)
    found = peers.tumor_growth_toolkit(question, 12)()
    same = ours(question, 12, SSPRK2(), 40)()
    # face means of another kind, and Euler's error
    np.testing.assert_allclose(found, same, rtol=0, atol=3e-3 if variation else 1e-3)


def test_versions_name_every_peer():
    assert set(peers.versions()) == {"diffrax", "exponax", "py-pde", "TumorGrowthToolkit"}


def test_only_the_best_runs_form_the_front_and_times_lie_between_them():
    runs = [a_run(OURS, 1e-2, 1.0), a_run(OURS, 1e-4, 4.0), a_run(OURS, 2e-2, 3.0), a_run("other", 1e-9, 1e-9)]
    name = f"{OURS}, SSP-RK2"
    assert [r.error for r in front(runs, name)] == [1e-2, 1e-4]
    assert time_for(runs, name, 1e-3) == pytest.approx(2.0)
    assert time_for(runs, name, 1e-2) == pytest.approx(1.0)
    assert time_for(runs, name, 1e-5) is None and time_for(runs, name, 1.0) == 1.0  # the fastest is sharper than that


def test_ratios_are_those_of_equal_error():
    runs = [a_run(OURS, 1e-3, 2.0), a_run("slow", 1e-2, 1.0, 4, "RK4"), a_run("slow", 1e-4, 100.0, 16, "RK4")]
    over = ratios(runs, 8)["over"]
    assert over[f"{OURS}, SSP-RK2"] == {"error": 1e-3, "compiled": pytest.approx(1.0), "first": pytest.approx(1.0)}
    assert over["slow, RK4"] == {"error": 1e-3, "compiled": pytest.approx(5.0), "first": pytest.approx(50.0)}
    # one that is blunter is compared at the least error that it reaches
    blunt = [*runs[:1], a_run(OURS, 1e-1, 0.02, 4), a_run("blunt", 1e-2, 1.0, 8, "RK4")]
    assert ratios(blunt, 8)["over"]["blunt, RK4"]["compiled"] == pytest.approx(1.0 / 0.2)
    assert ratios(runs[:1], 8)["over"].keys() == {f"{OURS}, SSP-RK2"}


def test_the_whole_comparison_runs_and_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "versions", lambda: {"diffrax": None, "exponax": None, "py-pde": None})
    monkeypatch.setattr(handwritten, "compiler", lambda: None)
    monkeypatch.setattr(precision, "SIZES", {"quick": (4, 8), "full": (4, 8)})
    result = precision.precision(quick=True)
    assert {r["solver"] for r in result["variable"]["runs"]} == {OURS}
    text = precision.table(result)
    assert "not installed: diffrax, exponax, py-pde" in text and "SSP-RK2" in text
    picture = precision.draw(result, tmp_path / "precision.png")
    assert picture.stat().st_size > 10_000
