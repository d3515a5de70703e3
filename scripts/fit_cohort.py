"""Fit a cohort as a population: how fast animals grow on average, how much they differ, and what to expect of each.

usage: python scripts/fit_cohort.py [TABLE.csv]

TABLE.csv has the columns subject, time [day], observable (volume) and value: one arm, untreated. Animals may leave when they
are large, as long as their last measurement is in the table. Without an argument a made-up cohort is fitted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402

from glioma_pde import (  # noqa: E402
    Free,
    Measurements,
    Model,
    Noise,
    Observation,
    Population,
    Tissue,
    Tumour,
    fit,
    fit_population,
    make_problem,
)


def measurements(arguments: list[str]) -> Measurements:
    if arguments:
        return Measurements.parse(Path(arguments[0]).read_text(encoding="utf-8"), arguments[0])
    rng = np.random.default_rng(2)
    rows = []
    for i in range(12):
        rate, start = 0.15 * np.exp(0.25 * rng.standard_normal()), 80.0 * np.exp(0.3 * rng.standard_normal())
        for t in np.arange(0.0, 40.0, 4.0):
            y = 4000.0 / (1.0 + (4000.0 / start - 1.0) * np.exp(-rate * t)) * np.exp(0.1 * rng.standard_normal())
            rows.append({"subject": f"m{i + 1}", "time": t, "observable": "volume", "value": y})
            if y > 2000.0:  # the end point
                break
    return Measurements.of(rows)


def main(arguments: list[str]) -> int:
    data = measurements(arguments)
    most = float(data.value.max())
    well_mixed = Model(Tissue.phantom("box", (1,), 1.0), [Tumour(0.0, 0.0, 0.1)], ledger=False)
    problem = make_problem(
        well_mixed,
        data,
        [
            Free("tumour.proliferation_per_day", 0.01, 0.6, level="subject", population=True),
            Free("initial", 1e-3 * most, most, level="subject", population=True),
            Free("capacity", 1.05 * most, 1e3 * most),
            Free("sigma", 0.01, 1.0),
        ],
        [Observation("volume", "fraction", "mm3", scale="capacity")],
        [Noise("lognormal", "sigma")],
        derived={"tumour.initial.fraction": "initial / capacity"},
    )
    population = Population.of(problem)
    found = fit_population(population, np.asarray(fit(population.pooled(), starts=4, tolerance=1e-3).s))
    print("converged" if found.converged else "did not converge")
    for name, value, sd in zip(found.names, found.phi, found.sd, strict=True):
        print(f"{name:<45} {np.exp(value):<10.4g} ± {100 * sd:.0f} %")
    print("\nrates of the animals [1/day], with standard errors")
    for subject, mode, precision in zip(problem.subjects, *found.subjects, strict=True):
        rate, sd = np.exp(mode[0]), np.sqrt(np.linalg.inv(precision)[0, 0])
        print(f"{subject:<10} {rate:.4f} ± {rate * sd:.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
