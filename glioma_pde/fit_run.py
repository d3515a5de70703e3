"""The stages of a calibration: fit, intervals and verdicts, held-out predictions, growth laws against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import chi2

from .calibrate.forward import Batch
from .calibrate.optimise import Fit, fit, on_bounds
from .calibrate.population import Population, PopulationFit
from .calibrate.population_search import fit_population, search_population
from .calibrate.predict import Ensemble, predict_conditions, predict_population
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
    quantiles,
    verdicts,
)
from .errors import GliomaError
from .fit_design import Advice, advice
from .fitting import Setup, masked

POINTS = 60
"""Days of a curve in the figures."""

Report = Callable[[str, float], Any]
"""Called with what is being done, and the share of the whole that is done."""


@dataclass
class LawResult:
    """One growth law or model, fitted to all data.

    Attributes:
        law: its name. setup: what was fitted.
        names, log, s, covariance: of all fitted numbers, scaled.
        starts: of the multistart; for a population without what is held out. notes: what it
            reports.
        late, mice: scores of held-out times and subjects, fitted without them.
        days, band: curves of every subject, ``(S, T)`` and three times ``(S, T, n)``.
        predicted: rows of the data: median, lower and upper end of a measurement, ``(M, 3)``.
        held: which rows were held out in the scored fit: 0 none, 1 late, 2 of a held-out subject, 3 its first
            ones, which place it in the population, ``(M,)``.
        forecast: as ``predicted``, without the rows held out; NaN for the others.
        design: which further measurement would narrow a prediction most.
    """

    law: str
    setup: Setup
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
    design: Advice | None = None

    @property
    def held_out_score(self) -> float:
        """Mean log predictive density of everything held out; minus infinity if nothing is."""
        scores = [s for s in (self.late, self.mice) if s is not None]
        count = sum(s.count for s in scores)
        return sum(s.count * s.log_score for s in scores) / count if count else -np.inf

    @property
    def natural(self) -> np.ndarray:
        return np.where(self.log, np.exp(np.where(self.log, self.s, 0.0)), self.s)


def run_fit(setups: Mapping[str, Setup], report: Report | None = None) -> list[LawResult]:
    """Every model of the calibration: best prediction of what was held out first, or else least AICc.

    Args:
        setups: by name; all have the same data.

    Raises:
        GliomaError: if no start of a model leads anywhere.
    """
    shares = dict.fromkeys(setups, 0.0)

    def one(name: str) -> LawResult:
        def part(what: str, share: float) -> None:
            shares[name] = share
            if report is not None:
                report(f"{name}: {what}" if len(setups) > 1 else what, sum(shares.values()) / len(shares))

        return _one_model(setups[name], name, part)

    # compilers and small arrays leave cores idle: two models at a time
    with ThreadPoolExecutor(max_workers=2) as pool:
        out = list(pool.map(one, setups))
    return sorted(out, key=lambda r: (-r.held_out_score, r.criteria.aicc))


def _one_model(setup: Setup, name: str, report: Report) -> LawResult:
    options, data = setup.study.fit, setup.data
    problem = setup.problem()
    hierarchical = any(f.population for f in problem.free)
    held = _held(setup)
    days = [np.linspace(0.0, max(data.time[data.subject == s].max(), 1e-3), POINTS) for s in data.subjects]
    dense, dense_days = setup.batch([data.arm_of(s) for s in data.subjects], days)

    report("compiling and searching", 0.0)
    trained = _fit(setup, masked(problem, held == 0), report, 0.05, 0.45) if held.any() else None
    if hierarchical and trained is not None and trained.population is not None:
        # the fit to all data goes on from the one that is scored, never the other way round
        found = _population(problem, trained.population, report, 0.45, 0.7)
        whole = _Found(trained.starts, _told(problem, found), found)
    else:
        whole = _fit(setup, problem, report, 0.45, 0.7)
    starts, notes = whole.starts, list(whole.notes)
    if trained is not None:
        notes.append(f"fitted without what is held out: {'; '.join(trained.notes)}")
    if whole.population is not None:
        population = Population.of(problem)
        names, log, s = population.names, population.log, whole.population.phi
        covariance = whole.population.covariance
        limits = population.bounds()
        normal_threshold = float(chi2.ppf(options.level, 1))
        found_profiles = curvature_profiles(s, covariance, limits[:, 0], limits[:, 1], normal_threshold)
        inside = np.diag(covariance) > 0
        information = np.zeros_like(covariance)
        information[np.ix_(inside, inside)] = np.linalg.inv(covariance[np.ix_(inside, inside)])
        log_likelihood = whole.population.log_likelihood
    else:
        names, log, s = problem.names, problem.log, np.asarray(starts.s, float)
        normal = laplace(problem, starts.s)
        covariance, information = normal.covariance, normal.information
        report("profiles", 0.72)
        if options.profiles:
            found_profiles = profiles(problem, starts.s, None, options.level)
            loose = sum(profile.loose for profile in found_profiles)
            if loose:
                notes.append(f"{loose} points of profiles did not converge: intervals may be too narrow there")
        else:
            low, high = np.asarray(problem.low, float), np.asarray(problem.high, float)
            half, _ = quantiles(problem, options.level)
            found_profiles = curvature_profiles(s, covariance, low, high, half**2)
        log_likelihood = float(np.sum(np.asarray(problem.log_likelihoods(starts.s))))
    said = verdicts(names, log, s, information, found_profiles)

    report("curves", 0.8)
    curves = _ensemble(setup, problem, whole, dense)
    at_data = _ensemble(setup, problem, whole, problem.conditions, problem.sd_of_data())
    result = LawResult(
        name, setup, problem, names, log, s, covariance, starts, notes, found_profiles, said,
        criteria(log_likelihood, problem.count, len(names)), whole.population,
        dense_days, curves.band(options.level, False), _rows(problem, at_data, options.level),
    )  # fmt: skip
    if trained is not None:
        report("predicting what was held out", 0.9)
        _score_held_out(setup, result, held, trained)
    if setup.study.design is not None:
        result.design = advice(setup, problem, whole.starts.s, whole.population)
    report("done", 1.0)
    return result


class _Found(NamedTuple):
    """The multistart, what it reports, and the population that was found from it."""

    starts: Fit
    notes: list[str]
    population: PopulationFit | None


def _fit(setup: Setup, problem: Problem, report: Report, begin: float, end: float) -> _Found:
    options = setup.study.fit
    if any(f.population for f in problem.free):
        population = Population.of(problem)
        progress = _progress(report, begin, end)
        found, starts = search_population(population, options.starts, options.seed, progress=progress)
        return _Found(starts, [*starts.told(), *_told(problem, found)], found)
    method = None if options.method == "auto" else options.method
    starts = fit(problem, options.starts, options.seed, method, options.sampling, options.tolerance, options.max_steps)
    if not np.isfinite(float(starts.cost)):
        raise GliomaError(
            "No start of the fit led to finite predictions; narrow the bounds, or shorten time.step_days."
        )
    return _Found(starts, starts.report(problem), None)


def _progress(report: Report, begin: float, end: float) -> Callable[[int, float], None]:
    def progress(count: int, cost: float) -> None:
        report(f"population, step {count}, −ln L {cost:.2f}", begin + (end - begin) * (1.0 - 0.98**count))

    return progress


def _population(problem: Problem, start: PopulationFit, report: Report, begin: float, end: float) -> PopulationFit:
    """From another fit on."""
    population = Population.of(problem)
    phi, p = start.phi, len(population.random)
    return fit_population(
        population, phi[:-p], np.exp(phi[-p:]), progress=_progress(report, begin, end), start_modes=start.subjects.modes
    )


def _told(problem: Problem, found: PopulationFit) -> list[str]:
    """What the user should know before trusting a population."""
    limits = Population.of(problem).bounds()
    converged = "the population's likelihood " + ("converged" if found.converged else "did not converge")
    return [converged, *on_bounds(found.names, found.phi, limits[:, 0], limits[:, 1])]


def _ensemble(setup: Setup, problem: Problem, whole: _Found, batch: Batch, sd: Array | None = None) -> Ensemble:
    options = setup.study.fit
    if whole.population is not None:
        return predict_population(Population.of(problem), whole.population, batch, options.draws, options.seed, sd=sd)
    draws = laplace(problem, whole.starts.s).draw(problem, options.draws, options.seed)
    return predict_conditions(problem, batch, draws, options.seed, sd)


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


def _score_held_out(setup: Setup, result: LawResult, held: np.ndarray, trained: _Found) -> None:
    problem = result.problem
    # the first measurements of held-out subjects place them in the population, which has not seen them
    given = masked(problem, (held == 0) | ((held == 3) & (trained.population is not None)))
    ensemble = _ensemble(setup, given, trained, problem.conditions, problem.sd_of_data())
    rows = _rows(problem, ensemble, 0.90)
    dense = _log_densities(problem, ensemble)
    flat = held[np.asarray(problem.table.used)]
    seen = np.asarray(problem.table.censoring)[np.asarray(problem.table.used)] == 0
    y = np.asarray(problem.table.y)[np.asarray(problem.table.used)]
    if not np.any(np.isin(flat, (1, 2)) & seen):
        result.notes.append("nothing is scored: no measurement that is not censored was held out")
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
    """Log of the mean density of every measurement in use over the draws, by its own noise."""
    used = np.asarray(problem.table.used)
    y, which = (np.asarray(v)[used] for v in (problem.table.y, problem.table.which))
    f, sigma = (np.stack([_at_rows(problem, v) for v in many]) for many in (ensemble.values, ensemble.sigma))
    logs = np.empty_like(f)
    for k, noise in enumerate(problem.noises):
        mine = which == k
        here = jnp.broadcast_to(y[mine], f[:, mine].shape)
        logs[:, mine] = noise.log_density(here, jnp.asarray(f[:, mine]), jnp.asarray(sigma[:, mine]))
    top = logs.max(axis=0)
    return top + np.log(np.mean(np.exp(logs - top), axis=0))
