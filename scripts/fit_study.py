"""Fit an untreated and a treated arm together: growth, effect of the drug, and what the data cannot tell.

usage: python scripts/fit_study.py [TABLE.csv DOSE_MG_PER_M2 DAY DAY ...]

TABLE.csv has the columns subject, arm (untreated, treated), time [day], observable (volume) and value; the treated arm takes
temozolomide by mouth on the days given. Without arguments a made-up study is fitted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from glioma_pde import (  # noqa: E402
    Free,
    Linear,
    Measurements,
    Model,
    Noise,
    Observation,
    OralDoses,
    Problem,
    Temozolomide,
    Tissue,
    Tumour,
    fit,
    laplace,
    make_problem,
    profiles,
    verdicts,
)


def site(days: list[float], dose_mg_per_m2: float) -> Model:
    """A well-mixed tumour under temozolomide; a dose of zero for the untreated arm, so that both share one program."""
    doses = OralDoses(jnp.asarray(days, float), jnp.full(len(days), dose_mg_per_m2))
    drug = Temozolomide(doses, kill=Linear(0.01))
    return Model(Tissue.phantom("box", (1,), 1.0), [Tumour(0.0, 0.0, 0.1), drug], ledger=False)


def problem_of(data: Measurements, days: list[float], dose: float) -> Problem:
    most = float(data.value.max())
    return make_problem(
        {"untreated": site(days, 0.0), "treated": site(days, dose)},
        data,
        [
            Free("tumour.proliferation_per_day", 0.01, 0.5),
            Free("temozolomide.kill.rate_per_uM_per_day", 1e-3, 1.0),
            Free("initial", 1e-3 * most, most),
            Free("capacity", 1.05 * most, 1e3 * most),
            Free("sigma", 0.01, 1.0),
        ],
        [Observation("volume", "fraction", "mm3", scale="capacity")],
        [Noise("lognormal", "sigma")],
        derived={"tumour.initial.fraction": "initial / capacity"},
    )


def made_up(days: list[float], dose: float) -> Measurements:
    """Three animals in each arm, simulated with noise of 10 %."""
    times = np.arange(0.0, 31.0, 3.0)
    blank = [
        {"subject": f"{arm}-{i}", "arm": arm, "time": t, "observable": "volume", "value": 1000.0}
        for arm in ("untreated", "treated")
        for i in range(3)
        for t in times
    ]
    data = Measurements.of(blank)
    problem = problem_of(data, days, dose)
    truth = {"tumour.proliferation_per_day": 0.12, "temozolomide.kill.rate_per_uM_per_day": 0.15, "initial": 100.0}
    exact = np.asarray(problem.predict(problem.from_natural(truth | {"capacity": 4000.0, "sigma": 0.1})))
    at = np.asarray(problem.table.at)
    noise = np.exp(0.1 * np.random.default_rng(3).standard_normal(at.shape))
    subjects = problem.subjects
    return Measurements.of([
        {**row, "value": float((exact[i, at[i], 0] * noise[i])[k])}
        for i, subject in enumerate(subjects)
        for k, row in enumerate(r for r in blank if r["subject"] == subject)
    ])  # fmt: skip


def main(arguments: list[str]) -> int:
    if arguments:
        data = Measurements.parse(Path(arguments[0]).read_text(encoding="utf-8"), arguments[0])
        dose, days = float(arguments[1]), [float(a) for a in arguments[2:]]
    else:
        dose, days = 150.0, [6.0, 7.0, 8.0, 9.0, 10.0]
        data = made_up(days, dose)
    problem = problem_of(data, days, dose)
    found = fit(problem, starts=8)
    normal = laplace(problem, found.s)
    lines = profiles(problem, found.s, points=6)
    told = verdicts(problem.names, problem.log, normal.s, normal.information, lines)
    for k, best in enumerate(np.asarray(problem.natural(found.s))):
        ends = [f"{np.exp(end):.4g}" if np.isfinite(end) else "open" for end in (lines[k].low, lines[k].high)]
        print(f"{problem.names[k]:<40} {best:<10.4g} 95 % {'[' + ', '.join(ends) + ']':<24} {told[k].text}")
    print("\n".join(found.report(problem)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
