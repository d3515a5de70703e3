"""Design help of a calibration: further measurements, ranked by how much each would narrow a chosen prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jax import Array

from .calibrate.design import Sensitivity, narrowing, sensitivity, subject_sensitivity
from .calibrate.population import Population, PopulationFit
from .calibrate.problem import Problem
from .calibrate.uncertainty import laplace
from .fitting import Setup

_SHOWN = 6


@dataclass(frozen=True)
class Advice:
    """What measuring once more would do for a prediction.

    Attributes:
        prediction: in words. value: of it. sd: its standard deviation now, of the observable.
        arm, observable, day, left: of each measurement on offer, the best first; ``left`` is the standard deviation of the
            prediction after it over that before.
    """

    prediction: str
    value: float
    sd: float
    arm: np.ndarray
    observable: np.ndarray
    day: np.ndarray
    left: np.ndarray

    def lines(self) -> list[str]:
        """For the table that is printed."""
        out = [
            f"{self.prediction}: {self.value:.4g} ± {self.sd:.2g}; one further measurement would leave of this width"
        ]
        for a, o, d, v in list(zip(self.arm, self.observable, self.day, self.left, strict=True))[:_SHOWN]:
            out.append(f"  {100 * v:.0f} %  {o} in {a} on day {d:g}")
        return out


def advice(setup: Setup, problem: Problem, s: Array, population: PopulationFit | None) -> Advice:
    """For the prediction and the measurements that the section [design] names.

    In a population the subject's own parameters count, the rest being known.
    """
    design, data = setup.study.design, setup.data
    wanted = design.predict
    names = setup.simulation.names
    subject = design.subject or next(s for s in data.subjects if data.arm_of(s) == wanted.arm)
    arms = list(dict.fromkeys((*(design.arms or setup.arms), wanted.arm)))
    days = np.unique([0.0, wanted.day, *design.on_days])
    batch, looked = setup.batch(arms, [days] * len(arms))
    like = [problem.subjects.index(subject)] * len(arms)
    if population is None:
        information = laplace(problem, s).information
        found = sensitivity(problem, s, batch, like)
    else:
        information = population.subjects.precisions[like[0]]
        found = subject_sensitivity(
            Population.of(problem), population.phi, population.subjects.modes[like[0]], batch, like
        )
    at = [int(np.argmin(np.abs(looked[0] - d))) for d in design.on_days]
    there = arms.index(wanted.arm), int(np.argmin(np.abs(looked[0] - wanted.day))), names.index(wanted.observable)
    target = found.slope[there]
    offered = [(i, j, k) for i, a in enumerate(arms) for j in range(len(at)) for k, o in enumerate(names)
               if (a in design.arms or not design.arms) and (o in design.observables or not design.observables)]  # fmt: skip
    chosen = Sensitivity(*(v[:, at] for v in found))
    left, before = narrowing(information, target, chosen)
    order = sorted(offered, key=lambda place: left[place])
    text = f"{wanted.observable} of {subject} on day {wanted.day:g}, were it in {wanted.arm}"
    text = f"{wanted.observable} of {subject} on day {wanted.day:g}" if data.arm_of(subject) == wanted.arm else text
    return Advice(
        text, float(found.value[there]), before, np.asarray([arms[i] for i, _, _ in order]),
        np.asarray([names[k] for _, _, k in order]), np.asarray([design.on_days[j] for _, j, _ in order]),
        np.asarray([left[place] for place in order]),
    )  # fmt: skip
