"""The stages of a calibration: fit, intervals and verdicts, held-out predictions, growth laws against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .calibrate.optimise import Fit, fit
from .calibrate.population import Population, PopulationFit, fit_population
from .calibrate.predict import Ensemble, predict, predict_population
from .calibrate.problem import Problem
from .calibrate.score import Score, score
from .calibrate.uncertainty import (
    Criteria,
    Profile,
    Verdict,
    criteria,
    curvature_profiles,
    laplace,
    profiles,
    verdicts,
)
from .errors import GliomaError
from .fitting import Setup, masked

POINTS = 60
"""Days of a curve in the figures."""

Report = Callable[[str, float], Any]
"""Called with what is being done, and the share of the whole that is done."""


@dataclass
class LawResult:
    """One growth law, fitted to all data.

    Attributes:
        names, log, s, covariance: of all fitted numbers, scaled.
        starts: of the multistart; for a population that of all subjects pooled. notes: what it reports.
        late, mice: scores of held-out times and subjects, fitted without them.
        days, band: curves of every subject, ``(S, T)`` and three times ``(S, T, n)``.
        predicted: rows of the data: median, lower and upper end of a measurement, ``(M, 3)``.
        held: which rows were held out in the scored fit: 0 none, 1 late, 2 of a held-out subject, ``(M,)``.
        forecast: as ``predicted``, without the rows held out; NaN for the others.
    """

    law: str
    problem: Problem
    names: tuple[str, ...]
    log: np.ndarray
    s: np.ndarray
    covariance: np.ndarray
    starts: Fit
    notes: list[str]
    found: list[Profile]
    verdicts: list[Verdict]
    criteria: Criteria
    population: PopulationFit | None
    days: np.ndarray
    band: tuple[np.ndarray, np.ndarray, np.ndarray]
    predicted: np.ndarray
    late: Score | None = None
    mice: Score | None = None
    held: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    forecast: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def natural(self) -> np.ndarray:
        return np.where(self.log, np.exp(np.where(self.log, self.s, 0.0)), self.s)


def run_fit(setup: Setup, report: Report | None = None) -> list[LawResult]:
    """Every growth law of the calibration, best AICc first.

    Raises:
        GliomaError: if no start of a law leads anywhere.
    """
    report = report or (lambda what, share: None)
    options = setup.study.fit
    laws = options.laws or (setup.study.study.arms[0].tumour.growth,)
    out = []
    for k, law in enumerate(laws):

        def part(what: str, share: float, k=k, law=law) -> None:
            report(f"{law}: {what}" if len(laws) > 1 else what, (k + share) / len(laws))

        out.append(_one_law(setup if k == 0 else setup.law(law), law, part))
    return sorted(out, key=lambda r: r.criteria.aicc)


def _one_law(setup: Setup, law: str, report: Report) -> LawResult:
    options, data = setup.study.fit, setup.data
    problem = setup.problem()
    hierarchical = any(f.population for f in problem.free)
    held = _held(setup)
    days = [np.linspace(0.0, max(data.time[data.subject == s].max(), 1e-3), POINTS) for s in data.subjects]
    dense, dense_days = setup.batch([data.arm_of(s) for s in data.subjects], days)

    report("compiling and searching", 0.0)
    whole, starts, notes = _fit(setup, problem, report, 0.0, 0.4)
    if hierarchical:
        population = Population.of(problem)
        assert isinstance(whole, PopulationFit)
        names, log, s, covariance = population.names, population.log, whole.phi, whole.covariance
        limits = population.bounds()
        found = curvature_profiles(s, covariance, limits[:, 0], limits[:, 1], options.level)
        inside = np.diag(covariance) > 0
        information = np.zeros_like(covariance)
        information[np.ix_(inside, inside)] = np.linalg.inv(covariance[np.ix_(inside, inside)])
        log_likelihood = whole.log_likelihood
    else:
        names, log, s = problem.names, problem.log, np.asarray(starts.s, float)
        normal = laplace(problem, starts.s)
        covariance, information = normal.covariance, normal.information
        report("profiles", 0.45)
        low, high = np.asarray(problem.low, float), np.asarray(problem.high, float)
        flat = curvature_profiles(s, covariance, low, high, options.level)
        found = profiles(problem, starts.s, None, options.level) if options.profiles else flat
        log_likelihood = float(np.sum(np.asarray(problem.log_likelihoods(starts.s))))
    said = verdicts(names, log, s, information, found)

    report("curves", 0.6)
    curves = _ensemble(setup, problem, whole, starts, dense)
    at_data = _ensemble(setup, problem, whole, starts, problem.conditions)
    result = LawResult(
        law, problem, names, log, s, covariance, starts, notes, found, said,
        criteria(log_likelihood, problem.count, len(names)), whole if hierarchical else None,
        dense_days, curves.band(options.level, False), _rows(problem, at_data, options.level),
    )  # fmt: skip
    if held.any():
        report("fit without the data held out", 0.7)
        _hold_out(setup, result, held, report)
    report("done", 1.0)
    return result


def _fit(setup: Setup, problem: Problem, report: Report, begin: float, end: float):
    """The fit of a problem, the multistart behind it, and what both report."""
    options = setup.study.fit
    method = None if options.method == "auto" else options.method
    hierarchical = any(f.population for f in problem.free)
    searched = Population.of(problem).pooled() if hierarchical else problem
    starts = fit(searched, options.starts, options.seed, method, options.sampling, options.tolerance, options.max_steps)
    if not np.isfinite(float(starts.cost)):
        raise GliomaError(
            "No start of the fit led to finite predictions; narrow the bounds, or shorten time.step_days."
        )
    notes = starts.report(searched)
    if not hierarchical:
        return None, starts, notes

    def progress(count: int, cost: float) -> None:
        report(f"population, step {count}, −ln L {cost:.2f}", begin + (end - begin) * (1.0 - 0.97**count))

    found = fit_population(Population.of(problem), np.asarray(starts.s, float), progress=progress)
    notes.append("the population's likelihood " + ("converged" if found.converged else "did not converge"))
    return found, starts, notes


def _ensemble(setup: Setup, problem: Problem, whole: PopulationFit | None, starts: Fit, batch) -> Ensemble:
    options = setup.study.fit
    if whole is not None:
        return predict_population(Population.of(problem), whole, batch, options.draws, options.seed)
    draws = laplace(problem, starts.s).draw(problem, options.draws, options.seed)
    return predict(problem, batch, draws, options.seed)


# -- held out --------------------------------------------------------------------------------------


def _held(setup: Setup) -> np.ndarray:
    """Of every row of the problem's table, ``(S, M)``: 1 late, 2 of a held-out subject after its first ones, 3 these."""
    options, data = setup.study.fit, setup.data
    most = max(int((data.subject == s).sum()) for s in data.subjects)
    held = np.zeros((len(data.subjects), most), int)
    for i, subject in enumerate(data.subjects):
        mine = data.where(data.subject == subject)
        if subject in options.hold_out_subjects:
            rank = np.argsort(np.argsort(mine.time, kind="stable"), kind="stable")
            held[i, : len(mine)] = np.where(rank < options.given_first, 3, 2)
        elif options.hold_out_after_day is not None:
            held[i, : len(mine)] = mine.time > options.hold_out_after_day
    return held


def _hold_out(setup: Setup, result: LawResult, held: np.ndarray, report: Report) -> None:
    problem = result.problem
    training = masked(problem, held == 0)
    whole, starts, _ = _fit(setup, training, report, 0.75, 0.9)
    # the first measurements of held-out subjects place them in the population, which has not seen them
    given = masked(problem, (held == 0) | (held == 3)) if whole is not None else training
    ensemble = _ensemble(setup, given, whole, starts, problem.conditions)
    rows = _rows(problem, ensemble, 0.90)
    dense = _log_densities(problem, ensemble)
    flat = held[np.asarray(problem.table.used)]
    seen = np.asarray(problem.table.censoring)[np.asarray(problem.table.used)] == 0
    y = np.asarray(problem.table.y)[np.asarray(problem.table.used)]
    for code, name in ((1, "late"), (2, "mice")):
        mine = (flat == code) & seen
        if mine.any():
            setattr(result, name, score(y[mine], rows[mine, 0], rows[mine, 1], rows[mine, 2], dense[mine]))
    result.held = flat
    result.forecast = np.where(((flat == 1) | (flat == 2))[:, None], rows, np.nan)


def _rows(problem: Problem, ensemble: Ensemble, level: float) -> np.ndarray:
    """Median and interval of every measurement in use, ``(M, 3)``, in the order of subjects."""
    low, middle, high = ensemble.band(level, True)
    return np.stack([_at_rows(problem, v) for v in (middle, low, high)], axis=1)


def _at_rows(problem: Problem, values: np.ndarray) -> np.ndarray:
    """From ``(S, T, n)`` the values at the measurements in use."""
    table = problem.table
    at, which, used = np.asarray(table.at), np.asarray(table.which), np.asarray(table.used)
    subject = np.arange(at.shape[0])[:, None]
    return values[subject, at, which][used]


def _log_densities(problem: Problem, ensemble: Ensemble) -> np.ndarray:
    """Log of the mean density of every measurement in use over the draws (Gaussian noise)."""
    table = problem.table
    used = np.asarray(table.used)
    y, sd, which = (np.asarray(v)[used] for v in (table.y, table.sd, table.which))
    parts = []
    for values, sigma in zip(ensemble.values, ensemble.sigma, strict=True):
        f, s = _at_rows(problem, values), _at_rows(problem, sigma) * sd
        logs = np.asarray([problem.noises[k].logarithmic for k in which])
        with np.errstate(divide="ignore", invalid="ignore"):
            e = np.where(logs, np.log(np.maximum(y, 1e-300)) - np.log(np.maximum(f, 1e-300)), y - f) / s
            parts.append(
                -0.5 * e**2 - np.log(s) - 0.5 * np.log(2 * np.pi) - np.where(logs, np.log(np.maximum(y, 1e-300)), 0)
            )
    stacked = np.asarray(parts)
    top = stacked.max(axis=0)
    return top + np.log(np.mean(np.exp(stacked - top), axis=0))
