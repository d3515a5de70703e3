"""Optimisers, profiles and verdicts on problems without a model, whose answers are known; what a fit reports."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from scipy.optimize import least_squares

from glioma_pde.calibrate import lanes
from glioma_pde.calibrate.optimise import TOLERANCE, Fit, _descend, fit, fit_sets, on_bounds
from glioma_pde.calibrate.problem import Problem
from glioma_pde.calibrate.trust_region import NearestStep, TrustRegion
from glioma_pde.calibrate.uncertainty import _crossing, criteria, curvature_profiles, laplace, profiles, verdicts


class Straight(eqx.Module):
    """A problem without a model, linear in logarithms: residuals A s − y."""

    rows: jax.Array
    y: jax.Array
    names: tuple[str, ...] = eqx.field(static=True)
    noises: tuple = eqx.field(static=True, default=())
    free: tuple = eqx.field(static=True, default=())
    free_noise: bool = eqx.field(static=True, default=False)

    fixed = ()
    conditions = SimpleNamespace(cells=1)
    table = property(lambda self: SimpleNamespace(y=self.y))
    size = property(lambda self: len(self.names))
    low = property(lambda self: jnp.full(len(self.names), -4.0))
    high = property(lambda self: jnp.full(len(self.names), 4.0))
    count = property(lambda self: len(self.y))
    scaled, unconstrained = Problem.scaled, Problem.unconstrained

    def residuals(self, s, reference=None, lift=None):
        return self.rows @ s - self.y

    def information_rows(self, s):
        return self.rows

    def cost(self, s):
        return 0.5 * jnp.sum(self.residuals(s) ** 2)


def test_a_linear_problem_is_solved_and_profiled_exactly():
    rng = np.random.default_rng(2)
    rows, true = 3.0 * rng.standard_normal((9, 3)), np.array([0.4, -0.3, 0.9])
    problem = Straight(
        jnp.asarray(rows), jnp.asarray(rows @ true + 0.1 * rng.standard_normal(9)), ("rate", "scale", "start")
    )
    found = fit(problem, starts=3)
    best = np.linalg.lstsq(rows, np.asarray(problem.y), rcond=None)[0]
    np.testing.assert_allclose(found.s, best, atol=1e-5)
    assert bool(jnp.all(found.converged)) and float(found.cost) == pytest.approx(float(problem.cost(best)), rel=1e-9)
    sd = np.sqrt(np.diag(np.linalg.inv(rows.T @ rows)))
    for k, line in enumerate(profiles(problem, jnp.asarray(best), points=6)):
        assert line.loose == 0 and (line.low, line.high) == pytest.approx(
            (best[k] - 1.96 * sd[k], best[k] + 1.96 * sd[k]), abs=2e-4
        )
    # a start at which nothing is finite has failed, wherever it is put back to
    _, costs, converged, _ = _descend(problem, found.starts.at[0].set(jnp.nan), TOLERANCE["lm"], 60)
    assert costs[0] == jnp.inf and not converged[0] and bool(jnp.all(jnp.isfinite(costs[1:]) & converged[1:]))
    # of many sets of measurements each gets what it would get by itself, one that cannot be fitted nothing
    ys = jnp.asarray(rows @ true + rng.standard_normal((7, 9))).at[4].set(jnp.nan)
    sets = fit_sets(problem, ys)
    exact = np.stack([np.linalg.lstsq(rows, np.asarray(y), rcond=None)[0] for y in np.delete(ys, 4, 0)])
    np.testing.assert_allclose(np.delete(sets.ends, 4, 0), exact, atol=1e-4)
    assert np.flatnonzero(~np.isfinite(sets.costs)).tolist() == [4] and np.flatnonzero(~sets.converged).tolist() == [4]


def test_what_only_a_product_tells_is_called_one():
    t = np.linspace(0.0, 1.0, 9)
    problem = Straight(
        jnp.asarray(9.0 * np.stack([t, 0 * t + 1, 0 * t + 1], axis=1)), jnp.zeros(9), ("rate", "scale", "start")
    )
    s = jnp.zeros(3)
    lines = profiles(problem, s, points=6)
    verdict = verdicts(problem.names, np.ones(3, bool), np.zeros(3), laplace(problem, s).information, lines)
    assert [v.kind for v in verdict] == ["identifiable", "product", "product"]
    assert verdict[1].partners == ("start",) and "scale · start" in verdict[1].text


def test_criteria_are_those_of_the_textbook():
    c = criteria(-10.0, 20, 3)
    assert c.aicc == pytest.approx(6 + 20 + 24 / 16)
    assert c.bic == pytest.approx(3 * np.log(20) + 20)
    assert criteria(-10.0, 4, 3).aicc == np.inf


def test_what_became_of_the_starts_is_told():
    costs, one = jnp.array([1.0, 1.05, 3.0, jnp.inf]), jnp.zeros((4, 1))
    found = Fit(one[0], costs[0], one, one, costs, jnp.array([True, True, False, False]), one[:, 0], "lm")
    assert found.told() == [
        "1 of 4 starts reached the best cost within 0.01",
        "1 of 4 starts failed: the model was not finite on their way",
        "1 of 4 starts did not converge, most often for want of steps",
        "only one start reached the best cost: take more starts before trusting it",
    ]
    assert found._replace(within=0.1).reached() == "2 of 4 starts reached the best cost within 0.1"
    assert on_bounds(["a", "b"], [0.0, 0.5], [0.0, 0.0], [1.0, 1.0]) == ["a lies on a bound"]


def test_ends_of_intervals():
    # a lower end on the bound is open downwards
    assert _crossing(np.array([2.0]), np.array([0.0]), 4.0, -np.inf) == -np.inf
    assert _crossing(np.array([2.0, 1.0, 0.0]), np.array([0.0, 1.0, 9.0]), 4.0, -np.inf) == 0.5
    (line,) = curvature_profiles(np.zeros(1), np.array([[0.01]]), np.array([-1.0]), np.array([1.0]), 9.0)
    assert (line.low, line.high) == (pytest.approx(-0.3), pytest.approx(0.3))


def _least(residuals, z, steps=60, tolerance=1e-6):
    return optx.least_squares(
        lambda z, _: residuals(z), TrustRegion(tolerance, tolerance), jnp.asarray(z), max_steps=steps, throw=False
    )


def test_the_trust_region_gets_through_a_valley_and_knows_where_it_cannot():
    valley = lambda z: jnp.stack([10.0 * (z[1] - z[0] ** 2), 1.0 - z[0]])  # noqa: E731 (Rosenbrock)
    found = _least(valley, [-1.9, 2.0])
    np.testing.assert_allclose(found.value, 1.0, atol=1e-8)
    assert found.result == optx.RESULTS.successful and int(found.stats["num_steps"]) < 30
    # where residuals do not vanish, as those of data, the end is that of scipy
    rng = np.random.default_rng(1)
    t = np.linspace(0.0, 2.0, 12)
    y = 2.0 * np.exp(-1.5 * t) + 0.2 * rng.standard_normal(12)
    curve = lambda z: jnp.exp(-jnp.exp(z[0]) * t) * z[1] - y  # noqa: E731
    exact = least_squares(lambda z: np.asarray(curve(z)), [0.5, 1.0], xtol=1e-12, ftol=1e-12, gtol=1e-12)
    np.testing.assert_allclose(_least(curve, [0.5, 1.0]).value, exact.x, atol=1e-5)
    # a direction that nothing depends on stays where it is
    flat = _least(lambda z: jnp.stack([z[0] - 3.0, 2.0 * (z[0] - 3.0)]), [0.0, 7.0])
    np.testing.assert_allclose(flat.value, [3.0, 7.0], atol=1e-8)
    # no step is longer than the radius, however far Newton's goes
    none = NearestStep().init(jnp.zeros(2), None)
    bowl = NearestStep().query(None, _Straight(jnp.diag(jnp.asarray([1.0, 1e-3])), jnp.asarray([1.0, 1.0])), none)
    for radius in (1e-3, 0.5, 2.0, 100.0):
        step, _ = NearestStep().step(jnp.asarray(radius), bowl)
        assert float(jnp.linalg.norm(step)) == pytest.approx(radius, rel=1e-3)
    np.testing.assert_allclose(NearestStep().step(jnp.asarray(1e4), bowl)[0], [-1.0, -1e3], rtol=1e-8)
    lost = _least(lambda z: z * jnp.nan, [1.0])
    assert lost.result == optx.RESULTS.nonlinear_divergence and int(lost.stats["num_steps"]) < 3


class _Straight(NamedTuple):
    matrix: jax.Array
    residual: jax.Array

    @property
    def jac(self):
        return self

    def as_matrix(self):
        return self.matrix


def test_a_queue_and_the_cores_leave_every_item_its_own(monkeypatch):
    """Items of very different lengths, in any lane and on any core: halvings down to one."""
    search = lanes.Search(
        lambda n: (n, jnp.zeros((), int)), lambda _, s: (s[0] // 2, s[1] + 1), lambda s: s[0] <= 1, lambda s: s[1]
    )
    items = jnp.asarray([2, 70000, 3, 2, 2, 9, 1, 500, 2, 2, 33, 2, 4, 2, 2, 8, 16, 2, 70000])
    expected = [max(1, int(n).bit_length() - 1) for n in items]
    assert [int(search.run(n)) for n in items[:3]] == expected[:3]
    alone = jax.jit(lambda v: lanes.in_queue(search, v))
    assert alone(items).tolist() == expected and alone(items[:1]).tolist() == expected[:1]
    calls = []
    monkeypatch.setattr(lanes, "cpu_count", lambda: 2)
    found = lanes.on_cores(lambda v: calls.append(len(v)) or {"steps": alone(v), "wide": v.astype(float)}, items, 1)
    assert calls == [10, 10] and found["steps"].tolist() == expected
    assert found["wide"].dtype == jnp.asarray(1.0).dtype
    # what fills the cores by itself is not shared out
    assert lanes.on_cores(alone, items, lanes.SMALL + 1).tolist() == expected
