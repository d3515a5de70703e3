"""Other people's solvers, asked the question of `precision`: ∂t u = ∇·(D∇u) + ρ u (1 − u) in a box.

Each adapter prepares a solver for one grid and one step (or tolerance) and returns a call from the first day to the last,
which it makes once before it is timed, or None where the package is not there. Whatever such a package computes anew in
every step and need not is prepared here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from .precision import Question

Call = Callable[[], np.ndarray]

PEERS = {
    "diffrax": "diffrax",
    "py-pde (numba)": "py-pde",
    "py-pde (JAX)": "py-pde",
    "exponax": "exponax",
    "TumorGrowthToolkit": "TumorGrowthToolkit",
}
"""Name here: distribution."""

_MODULES = {"py-pde": "pde"}


def versions() -> dict[str, str | None]:
    """Of each peer; None where it is not installed."""
    found = {}
    for distribution in sorted(set(PEERS.values())):
        there = importlib.util.find_spec(_MODULES.get(distribution, distribution)) is not None
        found[distribution] = importlib.metadata.version(distribution) if there else None
    return found


def diffrax(question: Question, n: int, tolerance: float) -> Call:
    """Our finite volumes as a method of lines: Tsitouras' 5(4) pair under its own error control."""
    import diffrax as dfx

    from glioma_pde.numerics.diffusion import net_diffusion

    g = question.conductances(n)
    rho = question.rho_per_day

    def field(t, u, g):
        return net_diffusion(u, g) + rho * u * (1.0 - u)

    @jax.jit
    def run(u, g):
        return dfx.diffeqsolve(
            dfx.ODETerm(field), dfx.Tsit5(), 0.0, question.days, None, u, g, max_steps=100_000,
            stepsize_controller=dfx.PIDController(rtol=tolerance, atol=tolerance),
            saveat=dfx.SaveAt(t1=True), adjoint=dfx.DirectAdjoint(),
        ).ys[0]  # fmt: skip

    u = jnp.asarray(question.start(n))
    return lambda: np.asarray(run(u, g))


def py_pde(question: Question, n: int, steps: int, backend: str, scheme: str = "euler") -> Call:
    """py-pde's central differences, with D∆u + ∇D·∇u for ∇·(D∇u): a narrower stencil than its own divergence of D∇u."""
    os.environ.setdefault("NUMBA_NUM_THREADS", str(os.cpu_count() or 1))
    import pde
    from pde.solvers.base import SolverBase

    grid = pde.CartesianGrid([[0.0, question.width_mm]] * 3, [n] * 3)
    wall = {"derivative": 0}
    d = pde.ScalarField(grid, question.diffusivity(n))
    equation = pde.PDE(
        {"u": "D * laplace(u) + dot(G, gradient(u)) + rho * u * (1 - u)"},
        consts={"D": d, "G": d.gradient(bc=wall), "rho": question.rho_per_day},
        bc=wall,
    )
    start = pde.ScalarField(grid, question.start(n))
    step = SolverBase.from_name(scheme, equation, backend=backend).make_stepper(start, dt=question.days / steps)

    def run() -> np.ndarray:
        u = start.copy()
        step(u, 0.0, question.days)
        return np.asarray(u.data)

    return run


def exponax(question: Question, n: int, steps: int) -> Call:
    """Exponax' exponential Runge–Kutta method of order 2 with Fourier modes: a periodic box, one diffusivity."""
    import exponax as ex

    stepper = ex.stepper.reaction.FisherKPP(
        3, question.width_mm, n, question.days / steps,
        diffusivity=question.mean_diffusivity, reactivity=question.rho_per_day,
    )  # fmt: skip

    @jax.jit
    def run(u):
        return jax.lax.fori_loop(0, steps, lambda _, u: stepper(u), u)

    # its values are those at points; a mean over a cell takes sin(kh/2)/(kh/2) of each mode
    share = np.sinc(np.fft.fftfreq(n))
    mean = np.einsum("i,j,k->ijk", share, share, share)
    u = jnp.asarray(question.start_at_points(n))[None]
    return lambda: np.fft.ifftn(np.fft.fftn(np.asarray(run(u)[0])) * mean).real


def tumor_growth_toolkit(question: Question, n: int) -> Call:
    """TumorGrowthToolkit's model ``FK``: forward Euler in NumPy, with steps of its own choice, from our start.

    Its box is periodic; so are D and the start, each the mirror image of itself at the walls, which makes it the same.
    D is D_w in white and D_w over a ratio in grey matter: the fraction of white follows from ours.
    """
    from TumorGrowthToolkit.FK import Solver

    start = question.start(n)

    class FromOurStart(Solver):  # its own is a Gaussian cut off at 0.1
        def gauss_sol3d(self, *_):
            return start.copy()

    low, high = (question.mean_diffusivity * (1.0 + sign * max(question.variation, 0.1)) for sign in (-1, 1))
    white = (question.diffusivity(n) - low) / (high - low)
    solver = FromOurStart(
        {
            "Dw": high, "RatioDw_Dg": high / low, "rho": question.rho_per_day, "wm": white, "gm": 1.0 - white,
            "NxT1_pct": 0.5, "NyT1_pct": 0.5, "NzT1_pct": 0.5, "resolution_factor": 1.0,
            "dx_mm": question.width_mm / n, "dy_mm": question.width_mm / n, "dz_mm": question.width_mm / n,
            "stopping_time": question.days,
        }
    )  # fmt: skip

    def run() -> np.ndarray:
        return solver.solve()["final_state"]

    return run
