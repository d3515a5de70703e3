"""Fit logistic growth to one curve: parameters, intervals, what the data cannot tell.

usage: python scripts/fit_one_curve.py TABLE.csv [OBSERVABLE]

TABLE.csv has the columns subject, time [day], observable and value; without an argument a made-up curve is fitted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402

from glioma_pde import Model, Tissue, Tumour  # noqa: E402
from glioma_pde.calibrate.data import Measurements  # noqa: E402
from glioma_pde.calibrate.noise import Noise  # noqa: E402
from glioma_pde.calibrate.observation import Fraction, Observation  # noqa: E402
from glioma_pde.calibrate.optimise import fit  # noqa: E402
from glioma_pde.calibrate.problem import Free  # noqa: E402
from glioma_pde.calibrate.study import make_problem  # noqa: E402
from glioma_pde.calibrate.uncertainty import laplace, profiles, verdicts  # noqa: E402


def measurements(arguments: list[str]) -> Measurements:
    if arguments:
        return Measurements.parse(Path(arguments[0]).read_text(encoding="utf-8"), arguments[0])
    days = np.arange(0.0, 40.0, 4.0)
    volumes = 900.0 / (1.0 + 8.0 * np.exp(-0.2 * days)) * np.exp(0.08 * np.random.default_rng(1).standard_normal(10))
    rows = zip(days, volumes, strict=True)
    return Measurements.of([{"subject": "one", "time": t, "observable": "volume", "value": y} for t, y in rows])


def main(arguments: list[str]) -> int:
    data = measurements(arguments)
    name = arguments[1] if len(arguments) > 1 else str(data.observable[0])
    data = data.where(data.observable == name)
    most = float(data.value.max())
    well_mixed = Model(Tissue.phantom("box", (1,), 1.0), [Tumour(0.0, 0.0, 0.1)], ledger=False)
    problem = make_problem(
        well_mixed,
        data,
        [
            Free("tumour.proliferation_per_day", 0.005, 1.0),
            Free("initial", 1e-3 * most, most),
            Free("capacity", 1.02 * most, 1e3 * most),
            Free("sigma", 0.01, 1.0),
        ],
        [Observation(name, Fraction(), scale="capacity")],
        [Noise("lognormal", "sigma")],
        derived={"tumour.initial.fraction": "initial / capacity"},
    )
    found = fit(problem, starts=16)
    normal = laplace(problem, found.s)
    lines = profiles(problem, found.s)
    told = verdicts(problem.names, problem.log, normal.s, normal.information, lines)
    for k, best in enumerate(np.asarray(problem.natural(found.s))):
        ends = [f"{np.exp(end):.4g}" if np.isfinite(end) else "open" for end in (lines[k].low, lines[k].high)]
        print(f"{problem.names[k]:<30} {best:<10.4g} 95 % {'[' + ', '.join(ends) + ']':<24} {told[k].text}")
    print("\n".join(found.report(problem)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
