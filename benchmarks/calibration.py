"""How fast a calibration runs: against SciPy on the same forward model, for a batch of mice, and per gradient in 3-D.

Everything compared takes turns in one process, in double precision; compilation stands apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from glioma_pde import (
    Free,
    Model,
    Noise,
    Observation,
    Problem,
    Schedule,
    Tissue,
    Tumour,
    make_plan,
    make_problem,
    solve,
)
from glioma_pde.calibrate.data import Measurements
from glioma_pde.calibrate.forward import Ball
from glioma_pde.calibrate.observation import ThresholdVolume
from glioma_pde.calibrate.optimise import TOLERANCE, levenberg_marquardt, starting_points

RHO, D, SIGMA = "tumour.proliferation_per_day", "tumour.diffusivity_white_mm2_per_day", "tumour.initial.sigma_mm"
NOISE = 0.1
STARTS, MICE = 32, 80
SAME_COST = 1e-3
"""Costs (minus log-likelihoods) this far apart count as equal."""


def calibration(repeats: int) -> dict[str, Any]:
    """All three comparisons."""
    with jax.enable_x64(True):
        return {"one_curve": _one_curve(repeats), "mice": _mice(repeats), "gradient_3d": _gradient(repeats)}


def curve(values: np.ndarray | None = None) -> Problem:
    """T1Gd and FLAIR volumes of one tumour on twelve days, radial model: ρ, D and the size at the start are free."""
    days = np.arange(10.0, 131.0, 10.0)
    names = {"t1gd": 0.80, "flair": 0.16}
    seen = np.ones((len(days), 2)) if values is None else values
    rows = [
        {"subject": "one", "time": t, "observable": n, "value": float(seen[i, k])}
        for i, t in enumerate(days)
        for k, n in enumerate(names)
    ]
    model = Model(Tissue.radial(48, 1.0), [Tumour(0.1, 0.1, 0.05)], ledger=False)
    return make_problem(
        model, Measurements.of(rows), [Free(RHO, 0.015, 0.25), Free(D, 0.02, 0.4), Free(SIGMA, 1.5, 10.0)],
        [Observation(n, ThresholdVolume(t, 0.05), "mm3") for n, t in names.items()], [Noise("lognormal", NOISE)] * 2,
        start=Ball(jnp.zeros(1), jnp.asarray(4.0), jnp.asarray(0.9)), step_days=1.0,
    )  # fmt: skip


def noisy(problem: Problem, count: int) -> jax.Array:
    """Measurements of ``count`` mice that differ by their noise and, by a tenth, in their rates."""
    rng = np.random.default_rng(8)
    at, which = np.asarray(problem.table.at)[0], np.asarray(problem.table.which)[0]
    predict = eqx.filter_jit(lambda s: problem.predict(s)[0][at, which])
    truth = np.asarray(problem.from_natural({RHO: 0.06, D: 0.12, SIGMA: 4.0}))
    spread = 0.1 * rng.standard_normal((count, len(truth)))
    exact = np.stack([np.asarray(predict(jnp.asarray(truth + d))) for d in spread])
    return jnp.asarray(exact * np.exp(NOISE * rng.standard_normal(exact.shape)))


@eqx.filter_jit
def fit_all(problem: Problem, z: jax.Array, ys: jax.Array):
    """Unconstrained ends and costs of every start for every mouse, ``(mice, starts, size)`` and ``(mice, starts)``."""

    def mouse(y):
        mine = eqx.tree_at(lambda p: p.table.y, problem, y[None])

        def start(z):
            end = levenberg_marquardt(mine, z, TOLERANCE["lm"], 200)[0]
            return end, mine.cost(mine.scaled(end))

        return jax.vmap(start)(z)

    return jax.vmap(mouse)(ys)


def _timed(call: Callable[[], Any], repeats: int) -> tuple[Any, float, list[float]]:
    """Its result, the first call with compilation, and ``repeats`` further calls [s]."""
    begin = time.perf_counter()
    out = jax.block_until_ready(call())
    first, later = time.perf_counter() - begin, []
    for _ in range(repeats):
        begin = time.perf_counter()
        out = jax.block_until_ready(call())
        later.append(time.perf_counter() - begin)
    return out, first, later


def _one_curve(repeats: int) -> dict[str, Any]:
    problem = curve()
    ys = noisy(problem, 1)
    z = jax.vmap(problem.unconstrained)(starting_points(problem, STARTS, 0))
    (_, costs), first, seconds = _timed(lambda: fit_all(problem, z, ys), repeats)
    mine = eqx.tree_at(lambda p: p.table.y, problem, ys)

    @eqx.filter_jit
    def residuals(problem, z):
        return problem.compare(problem.scaled(z)).error.ravel()

    @eqx.filter_jit
    def cost(problem, z):
        return problem.cost(problem.scaled(z))

    np.asarray(residuals(mine, z[0]))
    begin, ends, calls = time.perf_counter(), [], 0
    for start in np.asarray(z):
        found = least_squares(lambda z: np.asarray(residuals(mine, jnp.asarray(z))), start, xtol=1e-8, ftol=1e-8)
        calls += found.nfev + found.njev * problem.size
        ends.append(float(cost(mine, jnp.asarray(found.x))))
    scipy_seconds = time.perf_counter() - begin
    here = statistics.median(seconds)
    return {
        "starts": STARTS, "seconds": seconds, "first_call_s": first, "cost": float(jnp.min(costs)),
        "starts_at_best": int(jnp.sum(costs[0] < jnp.min(costs) + SAME_COST)),
        "scipy_seconds": scipy_seconds, "scipy_cost": min(ends), "scipy_forward_runs": calls,
        "scipy_starts_at_best": sum(e < min(ends) + SAME_COST for e in ends),
        "equal_cost": abs(float(jnp.min(costs)) - min(ends)) < SAME_COST, "faster": scipy_seconds / here,
        "faster_with_compilation": scipy_seconds / first,
    }  # fmt: skip


def _mice(repeats: int) -> dict[str, Any]:
    problem = curve()
    ys = noisy(problem, MICE)
    z = problem.unconstrained(0.5 * (problem.low + problem.high))[None]
    _, first_one, one = _timed(lambda: fit_all(problem, z, ys[:1]), repeats)
    _, first_all, many = _timed(lambda: fit_all(problem, z, ys), repeats)
    ratio = statistics.median(many) / statistics.median(one)
    return {
        "mice": MICE, "seconds_one": one, "seconds_all": many, "first_call_one_s": first_one,
        "first_call_all_s": first_all, "ratio": ratio,
    }  # fmt: skip


def _gradient(repeats: int) -> dict[str, Any]:
    """∂(cells at the end)/∂(D_w, ρ, initial field) by reverse mode, in a box of 48³ cells."""
    tissue = Tissue.phantom("head", (48, 48, 48), 2.0)
    model = Model(tissue, [Tumour(0.13, 0.026, 0.025)], ledger=False)
    world = tissue.grid.world_mm()
    u = jnp.asarray(0.9 * np.exp(-sum((world[k] - c) ** 2 for k, c in enumerate((18.0, 0.0, 8.0))) / 50.0))
    u = u * tissue.mask
    days = jnp.asarray([0.0, 60.0])
    plan = make_plan(model, Schedule(), [0.0, 60.0], min(1.0, model.largest_step()))

    def burden(theta, u):
        where = lambda m: [m["tumour"].diffusivity_white_mm2_per_day, m["tumour"].proliferation_per_day]  # noqa: E731
        there = eqx.tree_at(where, model, list(theta))
        return tissue.grid.integrate(solve(there, Schedule(), {"tumour": u}, plan, days).final.x["tumour"])

    theta = (jnp.asarray(0.13), jnp.asarray(0.025))
    forward, reverse = jax.jit(burden), jax.jit(jax.grad(burden, argnums=(0, 1)))
    _, first, one = _timed(lambda: forward(theta, u), repeats)
    _, first_slope, slope = _timed(lambda: reverse(theta, u), repeats)
    return {
        "cells": tissue.grid.size, "seconds_forward": one, "seconds_gradient": slope, "first_call_forward_s": first,
        "first_call_gradient_s": first_slope, "ratio": statistics.median(slope) / statistics.median(one),
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The result as text, with what was aimed at."""
    one, mice, slope = result["one_curve"], result["mice"], result["gradient_3d"]
    return "\n".join(
        [
            f"one curve, radial, {one['starts']} starts: {statistics.median(one['seconds']):.2f} s (first call "
            f"{one['first_call_s']:.1f} s), scipy {one['scipy_seconds']:.2f} s: {one['faster']:.1f} × (≥ 10), costs "
            f"{one['cost']:.4f} and {one['scipy_cost']:.4f}",
            f"{mice['mice']} mice in one vmap: {mice['ratio']:.1f} × one mouse (≤ 8)",
            f"gradient in 3-D: {slope['ratio']:.1f} forward runs (≤ 4)",
        ]
    )
