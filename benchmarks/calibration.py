"""How fast a calibration runs: against SciPy on the same forward model, for a batch of mice, and per gradient in 3-D.

Everything compared takes turns in one process, in double precision; compilation stands apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

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
from glioma_pde.calibrate.optimise import fit, fit_sets, starting_points

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


class Turns(NamedTuple):
    """Of a call: its first result, the seconds that took with compilation, and those of further calls, by the clock and of
    the processor (on a busy machine these are the ones to compare)."""

    result: Any
    first_s: float
    seconds: list[float]
    cpu_seconds: list[float]

    @property
    def usual(self) -> tuple[float, float]:
        return statistics.median(self.seconds), statistics.median(self.cpu_seconds)


def _in_turns(calls: dict[str, Callable[[], Any]], repeats: int) -> list[Turns]:
    out = []
    for call in calls.values():
        begin = time.perf_counter()
        out.append(Turns(jax.block_until_ready(call()), time.perf_counter() - begin, [], []))
    for _ in range(repeats):
        for turns, call in zip(out, calls.values(), strict=True):
            begin, used = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            turns.seconds.append(time.perf_counter() - begin)
            turns.cpu_seconds.append(time.process_time() - used)
    return out


def _one_curve(repeats: int) -> dict[str, Any]:
    problem = curve()
    mine = eqx.tree_at(lambda p: p.table.y, problem, noisy(problem, 1))
    starts = np.asarray(jax.vmap(problem.unconstrained)(starting_points(problem, STARTS, 0)))
    # what scipy calls is compiled, with everything but z built in
    residuals = jax.jit(lambda z: mine.compare(mine.scaled(z)).error.ravel())
    cost = jax.jit(lambda z: mine.cost(mine.scaled(z)))

    def scipy_fits():
        return [least_squares(lambda z: np.asarray(residuals(z)), start, xtol=1e-8, ftol=1e-8) for start in starts]

    here, theirs = _in_turns({"here": lambda: fit(mine, STARTS).costs, "scipy": scipy_fits}, repeats)
    costs, ends = here.result, [float(cost(one.x)) for one in theirs.result]
    return {
        "starts": STARTS, "seconds": here.seconds, "cpu_seconds": here.cpu_seconds, "first_call_s": here.first_s,
        "cost": float(np.min(costs)), "starts_at_best": int(np.sum(costs < np.min(costs) + SAME_COST)),
        "scipy_seconds": theirs.seconds, "scipy_cpu_seconds": theirs.cpu_seconds, "scipy_cost": min(ends),
        "scipy_forward_runs": sum(one.nfev + one.njev * problem.size for one in theirs.result),
        "scipy_starts_at_best": sum(e < min(ends) + SAME_COST for e in ends),
        "equal_cost": abs(float(np.min(costs)) - min(ends)) < SAME_COST,
        "faster": theirs.usual[0] / here.usual[0], "faster_cpu": theirs.usual[1] / here.usual[1],
    }  # fmt: skip


def _mice(repeats: int) -> dict[str, Any]:
    problem = curve()
    ys = noisy(problem, MICE)[:, None]
    one, many = _in_turns({"one": lambda: fit_sets(problem, ys[:1]), "all": lambda: fit_sets(problem, ys)}, repeats)
    return {
        "mice": MICE, "seconds_one": one.seconds, "seconds_all": many.seconds, "cpu_seconds_one": one.cpu_seconds,
        "cpu_seconds_all": many.cpu_seconds, "first_call_one_s": one.first_s, "first_call_all_s": many.first_s,
        "ratio": many.usual[0] / one.usual[0], "ratio_cpu": many.usual[1] / one.usual[1],
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
    one, slope = _in_turns({"forward": lambda: forward(theta, u), "reverse": lambda: reverse(theta, u)}, repeats)
    return {
        "cells": tissue.grid.size, "seconds_forward": one.seconds, "seconds_gradient": slope.seconds,
        "cpu_seconds_forward": one.cpu_seconds, "cpu_seconds_gradient": slope.cpu_seconds,
        "first_call_forward_s": one.first_s, "first_call_gradient_s": slope.first_s,
        "ratio": slope.usual[0] / one.usual[0], "ratio_cpu": slope.usual[1] / one.usual[1],
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The result as text, with what was aimed at."""
    one, mice, slope = result["one_curve"], result["mice"], result["gradient_3d"]
    return "\n".join(
        [
            "by the clock (of processor time in brackets), medians; aimed at",
            f"one curve, radial, {one['starts']} starts: {statistics.median(one['seconds']):.2f} s (first call "
            f"{one['first_call_s']:.1f} s), scipy {statistics.median(one['scipy_seconds']):.2f} s: {one['faster']:.1f} × "
            f"({one['faster_cpu']:.1f}) ≥ 10, costs {one['cost']:.4f} and {one['scipy_cost']:.4f}",
            f"{mice['mice']} mice in vmapped batches: {mice['ratio']:.1f} × one mouse ({mice['ratio_cpu']:.1f}) ≤ 8",
            f"gradient in 3-D: {slope['ratio']:.1f} forward runs ({slope['ratio_cpu']:.1f}) ≤ 4",
        ]
    )
