"""Whole jobs as a user waits for them: a first step from nothing, a long run, patients by the thousand, the main job."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from glioma_pde import Model, Schedule, Tissue, Tumour, make_plan, solve
from glioma_pde.build import build
from glioma_pde.config import load
from glioma_pde.errors import GliomaError
from glioma_pde.schedule import STEPS_PER_BLOCK

from .kernels import many_steps
from .timing import time_call

ROOT = Path(__file__).parents[1]

FIRST_STEP = """
import sys
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from glioma_pde.numerics import kernels
kernels.choose(sys.argv[3])
from glioma_pde import pieces
from glioma_pde.build import build
from glioma_pde.config import load
from glioma_pde.schedule import times
arm = next(a for a in load(sys.argv[1]).arms if a.carriers is not None and a.drug is not None)
e = build(arm)
medium = pieces.prepare(e.model)
days = jax.numpy.asarray(e.days, e.model.tissue.white.dtype)
fixed = (e.model, e.schedule, e.plan, times(e.model, e.schedule, days), medium)
carry = e.model.start(e.initial, e.schedule.events)
jax.block_until_ready(pieces.advance(fixed, carry, 0, 0, 1))
import time
print(time.time())
"""


@dataclass
class Job:
    """One line of the table.

    Attributes:
        aim_s: seconds it should take at most, if there is such an aim.
        seconds: wall time of each time it was done.
        error: of the last field, root mean square over root mean square, against steps a quarter as long; where it is asked.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    aim_s: float | None = None
    error: float | None = None

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    def result(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"median_s": self.median_s}


def jobs(config: Path, kind: str, quick: bool) -> list[Job]:
    """All of them, in this order. ``kind``: of kernels, for those in processes of their own.

    Raises:
        GliomaError: if one of the processes fails.
    """
    repeats = 1 if quick else 3
    out = [*_starts(config, kind, repeats), *_growth(config, 20.0 if quick else 300.0, repeats)]
    out += [_patients("radial", 16 if quick else 1000, Tissue.radial(64, 1.0), repeats)]
    out += [_patients("coarse 3-D", 4 if quick else 64, Tissue.phantom("head", (24, 24, 24), 5.0), repeats)]
    if not quick:
        out.append(_main_job(config, kind))
    return out


def _run(argv: list[str], **variables: str) -> tuple[float, str]:
    """Seconds that a process takes from its start to its end, and what it prints."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise GliomaError(
            f"A process of the benchmark failed: {(done.stderr.strip() or 'it said nothing').splitlines()[-1]}"
        )
    return seconds, done.stdout


def _starts(config: Path, kind: str, repeats: int) -> list[Job]:
    """Import, build, compile and the first block of the treated arm; then again with what was compiled.

    Its clock stops with the first block; that the process then ends, in half a second, is not counted.
    """
    cold, warm = (
        Job("first steps of the therapy, nothing cached", aim_s=6.0),
        Job("the same, compiled before", aim_s=3.0),
    )
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for job in (cold, warm):
                begun = time.time()
                _, said = _run(["-c", FIRST_STEP, str(config), cache, kind])
                job.seconds.append(float(said.split()[-1]) - begun)
    return [cold, warm]


def _timed(job: Job, call: Callable[[], Any], repeats: int) -> Job:
    jax.block_until_ready(call())
    for _ in range(repeats):
        job.seconds.append(time_call(call))
    return job


def _growth(config: Path, days: float, repeats: int) -> list[Job]:
    """An untreated tumour in the window of the configuration, compiled: in the longest steps that its model takes (they
    keep it non-negative), and in those of the configuration where these are shorter."""
    e = build(load(config).arms[0])
    model = Model(e.model.tissue, [e.model["tumour"]], e.model.capacity_cells_per_mm3, e.model.stepper, ledger=False)
    medium = jax.jit(Model.prepare)(model)
    start = model.start({"tumour": e.initial["tumour"]})
    program = jax.jit(many_steps)

    def end(steps: int) -> jax.Array:
        return program(model, medium, start, jnp.float32(days / steps), steps).x["tumour"]

    shape = " × ".join(map(str, model.tissue.grid.shape))
    longest = model.largest_step()
    out = []
    for step, aim in ((longest, 1.5), (min(e.step_days, longest), None)):
        steps = STEPS_PER_BLOCK * int(np.ceil(days / step / STEPS_PER_BLOCK))
        job = Job(f"{days:g} days of a tumour, {shape} cells, {steps} steps", aim_s=aim)
        job.error = _distance(end(steps), end(4 * steps))
        out.append(_timed(job, lambda steps=steps: end(steps), repeats))
    return out


def _distance(u: jax.Array, reference: jax.Array) -> float:
    a, b = (np.asarray(v, float) for v in (u, reference))
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def _patients(name: str, count: int, tissue: Tissue, repeats: int) -> Job:
    """``count`` untreated patients with a growth of their own each, 120 days, in one call."""
    model = Model(tissue, [Tumour()], ledger=False)
    r2 = jnp.sum(jnp.asarray(tissue.grid.world_mm()) ** 2, axis=0)
    u = (0.8 * jnp.exp(-r2 / 50.0)).astype(tissue.white.dtype)
    days = jnp.asarray([0.0, 120.0])
    plan = make_plan(model, Schedule(), [0.0, 120.0], min(0.5, model.largest_step()))
    rates = jnp.linspace(0.01, 0.05, count)

    @jax.jit
    def burdens(rates):
        def one(rate):
            patient = eqx.tree_at(lambda m: m["tumour"].proliferation_per_day, model, rate)
            end = solve(patient, Schedule(), {"tumour": u}, plan, days).saved["tumour"][-1]
            return tissue.grid.integrate(end)

        return jax.vmap(one)(rates)

    return _timed(Job(f"{count} {name} patients, 120 days"), lambda: burdens(rates), repeats)


def _main_job(config: Path, kind: str) -> Job:
    """The configuration with all arms and figures, as the quickstart runs it."""
    with tempfile.TemporaryDirectory() as folder:
        argv = ["-m", "glioma_pde", "run", str(config), "--out", folder, "--jobs", "2"]
        seconds, _ = _run(argv, GLIOMA_PDE_KERNELS=kind, XDG_CACHE_HOME=folder)
    return Job(f"{config.stem}: all arms and figures", [seconds], aim_s=120.0)


def table(results: list[dict[str, Any]]) -> list[str]:
    """Lines of text for `Job.result`s."""
    lines = [f"{'whole job':<64}{'s':>8}{'aim':>8}"]
    for r in results:
        aim = "–" if r["aim_s"] is None else format(r["aim_s"], "g")
        error = "" if r["error"] is None else f"  error of the steps {r['error']:.1e}"
        lines.append(f"{r['name']:<64}{r['median_s']:>8.2f}{aim:>8}{error}")
    return lines
