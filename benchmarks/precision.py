"""Work and precision: what a solution of a given error costs, in this package and in others.

The problem is one tumour that grows for 40 days in a closed box of 48 mm,

    ∂t u = ∇·(D∇u) + ρ u (1 − u),   D(x) = D₀ (1 + a cos kx cos ky cos kz),   k = 2π/48 mm,

once with a = 0.7 and once with a = 0, where a periodic box is the same to 1e-6. The error is that of the cell means,
root mean square over root mean square of the reference, which is extrapolated from two finer grids of this package
(Richardson); so it counts space and time together. Double precision. Compilation stands apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import pairwise
from math import erf
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from glioma_pde import Model, Tissue, Tumour
from glioma_pde.numerics.stepping import RKL2, SSPRK2, Euler, Stepper

from . import handwritten, peers
from .kernels import many_steps

OURS = "glioma_pde"
BY_HAND = "C and OpenMP"
SIZES = {"quick": (12, 24), "full": (16, 32, 64)}
"""Cells along each axis."""
STEPPERS: dict[str, Stepper] = {"Euler": Euler(), "SSP-RK2": SSPRK2(), "RKL2": RKL2()}


@dataclass(frozen=True)
class Question:
    """The problem; ``variation`` is a."""

    variation: float
    width_mm: float = 48.0
    days: float = 40.0
    rho_per_day: float = 0.05
    mean_diffusivity: float = 0.1
    sigma_mm: float = 4.0
    peak: float = 0.8

    def centres(self, n: int) -> np.ndarray:
        """Of the cells along one axis [mm]."""
        return (np.arange(n) + 0.5) * self.width_mm / n

    def diffusivity(self, n: int) -> np.ndarray:
        """[mm²/day] at the centres."""
        wave = np.cos(2 * np.pi * self.centres(n) / self.width_mm)
        return self.mean_diffusivity * (1.0 + self.variation * np.einsum("i,j,k->ijk", wave, wave, wave))

    def start(self, n: int) -> np.ndarray:
        """Cell means of a Gaussian in the middle."""
        edges = (np.arange(n + 1) * self.width_mm / n - 0.5 * self.width_mm) / (self.sigma_mm * np.sqrt(2.0))
        below = np.array([erf(e) for e in edges])
        mean = np.diff(below) * self.sigma_mm * np.sqrt(np.pi / 2) / (self.width_mm / n)
        return self.peak * np.einsum("i,j,k->ijk", mean, mean, mean)

    def start_at_points(self, n: int) -> np.ndarray:
        """The same Gaussian at the centres of the cells."""
        bell = np.exp(-((self.centres(n) - 0.5 * self.width_mm) ** 2) / (2 * self.sigma_mm**2))
        return self.peak * np.einsum("i,j,k->ijk", bell, bell, bell)

    def model(self, n: int, stepper: Stepper) -> Model:
        """In this package."""
        ones = np.ones((n, n, n))
        tissue = Tissue.from_arrays(ones, 0 * ones, spacing_mm=self.width_mm / n, dtype=jnp.float64)
        tumour = Tumour(proliferation_per_day=self.rho_per_day, diffusivity_map=jnp.asarray(self.diffusivity(n)))
        return Model(tissue, [tumour], stepper=stepper, ledger=False)

    def conductances(self, n: int):
        """Of this package's faces [1/day]."""
        return self.model(n, SSPRK2()).prepare()["tumour"]


@dataclass
class Run:
    """One point: a solver, its grid and its step (or tolerance)."""

    solver: str
    scheme: str
    n: int
    setting: str
    error: float
    first_s: float
    seconds: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def name(self) -> str:
        return f"{self.solver}, {self.scheme}"


def precision(quick: bool, with_numba: bool = True) -> dict[str, Any]:
    """Both problems, with every solver that is installed."""
    out: dict[str, Any] = {"peers": peers.versions()}
    with jax.enable_x64(True):
        for name, variation in (("variable", 0.7), ("constant", 0.0)):
            question = Question(variation)
            sizes = SIZES["quick" if quick else "full"]
            reference = extrapolated(question, sizes[-1])
            repeats = 2 if quick else 5
            runs = list(measured(question, sizes, reference, repeats))
            if with_numba and not quick and variation:
                runs += numba_beside(question, runs, reference, repeats)
            out[name] = {
                "question": asdict(question),
                "runs": [asdict(r) | {"median_s": r.median_s} for r in runs],
                "ratios": ratios(runs, sizes[-1]),
            }
    return out


def ours(question: Question, n: int, stepper: Stepper, steps: int) -> Callable[[], np.ndarray]:
    """``steps`` equal steps to the last day."""
    model = question.model(n, stepper)
    medium = jax.jit(Model.prepare)(model)
    carry = model.start({"tumour": jnp.asarray(question.start(n))})
    dt = jnp.asarray(question.days / steps)
    program = jax.jit(many_steps)
    return lambda: np.asarray(program(model, medium, carry, dt, steps).x["tumour"])


def fewest_steps(question: Question, n: int, stepper: Stepper) -> int:
    """The fewest equal steps that are stable (and, but for RKL2, positive)."""
    return int(np.ceil(question.days / question.model(n, stepper).largest_step()))


def extrapolated(question: Question, n: int) -> np.ndarray:
    """Cell means on n³ cells, free of the leading error: (4 u(2n) − u(n))/3, each at the shortest of steps."""

    @cache
    def on(m: int) -> np.ndarray:
        return means(ours(question, m, SSPRK2(), fewest_steps(question, m, SSPRK2()))(), n)

    return (4.0 * on(2 * n) - on(n)) / 3.0


def means(u: np.ndarray, n: int) -> np.ndarray:
    """Means over blocks of cells: n³ of them."""
    k = u.shape[0] // n
    return u.reshape(n, k, n, k, n, k).mean((1, 3, 5))


Call = Callable[[], np.ndarray]


def measured(question: Question, sizes: tuple[int, ...], reference: np.ndarray, repeats: int) -> Iterator[Run]:
    """Every solver on every grid; those of one grid take turns. py-pde with numba stands apart: `numba_beside`."""
    for n in sizes:
        started = [started_run(n, reference, *candidate) for candidate in candidates(question, n)]
        taken = [(run, call) for run, call in started if np.isfinite(run.error)]
        in_turn(taken, repeats)
        yield from (run for run, _ in taken)


def started_run(
    n: int, reference: np.ndarray, solver: str, scheme: str, setting: str, prepare: Callable[[], Call]
) -> tuple[Run, Call]:
    """A run with its error and the time of its first call, compilation included."""
    jax.clear_caches()  # what the solver before compiled is not to be had for nothing
    exact = means(reference, n)
    begin = time.perf_counter()
    call = prepare()
    u = call()
    first = time.perf_counter() - begin
    error = float(np.sqrt(np.mean((u - exact) ** 2) / np.mean(exact**2)))
    return Run(solver, scheme, n, setting, error, first), call


def in_turn(started: list[tuple[Run, Call]], repeats: int) -> None:
    """Time the calls, one after the other, ``repeats`` times."""
    for _, call in started:
        call()
    for _ in range(repeats):
        for run, call in started:
            begin = time.perf_counter()
            call()
            run.seconds.append(time.perf_counter() - begin)


Candidate = tuple[str, str, str, Callable[[], Call]]

PY_PDE = {"Euler": "euler", "RK4": "runge-kutta"}
"""Schemes of py-pde, by their names here and there."""


def candidates(question: Question, n: int) -> Iterator[Candidate]:
    """Solver, scheme, setting, and what prepares the call."""
    there = peers.versions()
    least = fewest_steps(question, n, Euler())
    for scheme, stepper in STEPPERS.items():
        few = fewest_steps(question, n, stepper)
        for steps in (few, 4 * few):
            yield OURS, scheme, f"{steps} steps", lambda k=stepper, s=steps: ours(question, n, k, s)
    if handwritten.compiler():
        for steps in (least, 4 * least):
            yield BY_HAND, "SSP-RK2", f"{steps} steps", lambda s=steps: by_hand(question, n, s)
    if there.get("diffrax"):
        for tolerance in (1e-3, 1e-6):
            yield "diffrax", "Tsit5", f"tolerance {tolerance:g}", lambda t=tolerance: peers.diffrax(question, n, t)
    if there.get("py-pde"):
        for scheme, name in PY_PDE.items():
            yield (
                "py-pde (JAX)", scheme, f"{least} steps",
                lambda c=name: peers.py_pde(question, n, least, "jax", c),
            )  # fmt: skip
    if there.get("TumorGrowthToolkit"):
        yield "TumorGrowthToolkit", "Euler", "its own steps", lambda: peers.tumor_growth_toolkit(question, n)
    if there.get("exponax") and question.variation == 0.0:
        for steps in (10, 80):
            yield "exponax", "ETDRK2, spectral", f"{steps} steps", lambda s=steps: peers.exponax(question, n, s)


def by_hand(question: Question, n: int, steps: int) -> Call:
    """The loop in C; the time to prepare it is that of its compilation."""
    handwritten.library.cache_clear()
    call = handwritten.growth(
        question.start(n), question.conductances(n), question.rho_per_day, question.days, steps
    )  # fmt: skip
    assert call is not None, "there is a compiler, but it does not take loop.c"
    return call


def numba_beside(question: Question, runs: list[Run], reference: np.ndarray, repeats: int) -> list[Run]:
    """py-pde with numba once, in turn with our own run of the finest grid, whose new times are added to it.

    numba compiles anew, for a minute or more, for each grid, scheme and step. Both of py-pde's backends compute the same;
    so JAX tells which of its schemes is best on the finest grid: the faster one of those about as sharp as the sharpest.
    """
    finest = max(r.n for r in runs)
    known = [r for r in runs if r.solver == "py-pde (JAX)" and r.n == finest]
    if not known:
        return []
    sharpest = min(r.error for r in known)
    best = min((r for r in known if r.error <= 1.05 * sharpest), key=lambda r: r.median_s)
    steps = int(best.setting.split()[0])
    found = started_run(
        finest, reference, "py-pde (numba)", best.scheme, best.setting,
        lambda: peers.py_pde(question, finest, steps, "numba", PY_PDE[best.scheme]),
    )  # fmt: skip
    own = next(r for r in runs if r.solver == OURS and r.scheme == "SSP-RK2" and r.n == finest)
    in_turn([(own, ours(question, finest, SSPRK2(), int(own.setting.split()[0]))), found], repeats)
    return [found[0]]


def front(runs: list[Run], name: str) -> list[Run]:
    """The runs of one solver and scheme that no other of them beats in error and time, from coarse to fine."""
    own = sorted((r for r in runs if r.name == name), key=lambda r: r.median_s)
    best: list[Run] = []
    for run in own:
        if not best or run.error < best[-1].error:
            best.append(run)
    return best


def time_for(runs: list[Run], name: str, error: float) -> float | None:
    """Seconds for that error or less, interpolated between the points of the front (as powers); None if none is so sharp."""
    points = front(runs, name)
    if points and points[0].error < error:
        return points[0].median_s  # none is as blunt: the fastest is sharper than asked for
    for a, b in pairwise([points[0], *points] if points else []):
        if a.error == error:
            return a.median_s
        if a.error >= error >= b.error:
            share = np.log(a.error / error) / np.log(a.error / b.error)
            return float(np.exp((1 - share) * np.log(a.median_s) + share * np.log(b.median_s)))
    return None


def ratios(runs: list[Run], n: int) -> dict[str, Any]:
    """Times of all solvers over those of our SSP-RK2 for the same error.

    That is the error of our run on n³ cells at its longest step, or the least that the other solver reaches, whichever is
    larger. With compilation: the first call of the nearest run that is at least as sharp, over ours.
    """
    own = next(r for r in runs if r.solver == OURS and r.scheme == "SSP-RK2" and r.n == n)
    out: dict[str, Any] = {"error": own.error, "seconds": own.median_s, "first_s": own.first_s, "over": {}}
    for name in dict.fromkeys(r.name for r in runs):
        error = max(own.error, min(r.error for r in runs if r.name == name))
        (theirs, mine), (first, my_first) = (
            [take(runs, which, error) for which in (name, own.name)] for take in (time_for, first_for)
        )
        out["over"][name] = {
            "error": error,
            "compiled": theirs / mine if theirs and mine else None,
            "first": first / my_first if first and my_first else None,
        }
    return out


def first_for(runs: list[Run], name: str, error: float) -> float | None:
    """Seconds of the quickest first call among the runs of that error or less."""
    return min((r.first_s for r in runs if r.name == name and r.error <= 1.001 * error), default=None)


def table(result: dict[str, Any]) -> str:
    """Ratios of both problems as text."""
    lines = []
    missing = [name for name, version in result["peers"].items() if version is None]
    for name in ("variable", "constant"):
        r = result[name]["ratios"]
        lines += [
            "",
            f"{name} diffusivity: error {r['error']:.1e} takes {OURS} (SSP-RK2) {r['seconds'] * 1e3:.0f} ms, "
            f"{r['first_s']:.2f} s with compilation; the others, times as long for the same error, or for the least of theirs:",
            f"{'solver':<36}{'error':>10}{'compiled':>12}{'first call':>12}",
        ]
        for solver, over in r["over"].items():
            text = ["not reached" if over[k] is None else f"{over[k]:.1f}" for k in ("compiled", "first")]
            lines.append(f"{solver:<36}{over['error']:>10.1e}{text[0]:>12}{text[1]:>12}")
    if missing:
        lines += ["", f"not installed: {', '.join(missing)} (pip install 'glioma_pde[peers]')"]
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> Path:
    """Error over time, one panel per problem."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from glioma_pde.plot._style import STYLE, save_figure

    colours = {
        OURS: "#c0392b", BY_HAND: "#17202a", "diffrax": "#2471a3", "py-pde (numba)": "#1e8449", "py-pde (JAX)": "#b7950b",
        "exponax": "#6c3483", "TumorGrowthToolkit": "#ca6f1e",
    }  # fmt: skip
    marks = ("o", "s", "^")
    with rc_context(STYLE):
        figure = Figure(figsize=(7.1, 3.4), layout="constrained")
        for axes, name in zip(figure.subplots(1, 2, sharey=True), ("variable", "constant"), strict=True):
            runs = [Run(**{k: v for k, v in r.items() if k != "median_s"}) for r in result[name]["runs"]]
            schemes: dict[str, int] = {}
            for label in dict.fromkeys(r.name for r in runs):
                solver = label.split(", ")[0]
                k = schemes[solver] = schemes.get(solver, -1) + 1
                points = front(runs, label)
                axes.loglog(
                    [p.median_s for p in points], [p.error for p in points],
                    color=colours[solver], marker=marks[k % 3], ms=3.5, lw=1.0, ls=("-", "--", ":")[k % 3], label=label,
                )  # fmt: skip
            axes.set_title(f"{name.capitalize()} diffusivity")
            axes.set_xlabel("time of a compiled run [s]")
            axes.legend(frameon=False, fontsize=5.5, loc="lower left")
        figure.axes[0].set_ylabel("error of cell means, relative")
        return save_figure(figure, path)
