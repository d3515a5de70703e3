"""Complete models that between them use every law and every switch, with no parameter at zero.

Few and small: what is to hold for all models is tested on these. Fields and parameters keep away from the kinks of the
laws (N = 1, the floor of Gompertz growth, a tumour density of `HEALTHY_BELOW`, an attractant without slope), where
derivatives have two sides and orders of accuracy drop. Lengths in mm, times in days.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glioma_pde.biology.attractant import Attractant, DynamicAttractant
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.drug import Drug, DynamicDrug
from glioma_pde.biology.laws import GROWTH, KILL, SENSING
from glioma_pde.biology.prodrug import Boluses, Courses, DynamicProdrug, Prodrug
from glioma_pde.biology.tumour import Tumour
from glioma_pde.delivery import CarrierDoses, Schedule
from glioma_pde.grid import Grid
from glioma_pde.model import Model
from glioma_pde.numerics.stepping import RKL2, SSPRK2, Euler, Stepper
from glioma_pde.tissue import Tissue

SAVES = np.array([0.0, 1.0, 2.0])
TOLERANCE = 1e-13
CAPACITY = 1e5

GRIDS = {
    "ball": Grid.radial(12, 0.8),
    "line": Grid.cartesian((14,), 0.9),
    "plane": Grid.cartesian((8, 7), (1.0, 0.8)),
    "box": Grid.cartesian((5, 4, 4), (1.0, 0.8, 1.2)),
    "cube": Grid.cartesian((6, 6, 6), 0.9),
}


class Case(NamedTuple):
    """Which laws and switches a model has; keys as in configurations."""

    grid: str
    growth: str
    kill: str
    sensing: str
    filling: bool
    depletable: bool
    crowding: bool
    courses: bool
    boluses: bool
    stepper: Stepper
    dynamic: bool = False


# The first four have every law, both states of every switch and every stepper; on one axis, which compiles fast.
CASES = {
    "line": Case("line", "logistic", "hill", "flux_limited", False, True, True, True, True, SSPRK2()),
    "line-filled": Case("line", "gompertz", "linear", "logarithmic", True, False, True, False, True, RKL2(3)),
    "ball": Case("ball", "exponential", "hill", "receptor", True, True, False, True, False, Euler()),
    "ball-held": Case("ball", "gompertz", "linear", "linear", False, False, False, True, True, SSPRK2()),
    "plane": Case("plane", "gompertz", "hill", "flux_limited", True, True, True, True, True, SSPRK2()),
    "line-dynamic": Case("line", "logistic", "hill", "flux_limited", False, True, True, True, True, SSPRK2(), True),
    "box": Case("box", "logistic", "linear", "logarithmic", False, False, True, True, True, SSPRK2()),
}


class Therapy(NamedTuple):
    """A run's arrays: everything that `solve` can be differentiated by."""

    model: Model
    schedule: Schedule
    initial: dict[str, Any]


def therapy(case: Case, seed: int = 0) -> Therapy:
    """A model of that kind in a tissue of its own; another seed is another patient, equal in every shape."""
    rng = np.random.default_rng(seed)

    def about(value):
        return value * rng.uniform(0.85, 1.15)

    sensing = {
        "linear": lambda: (about(0.15),),
        "receptor": lambda: (about(0.3), about(0.8)),
        "logarithmic": lambda: (about(0.1), about(0.05)),
        "flux_limited": lambda: (about(0.27), about(1.0), about(0.05)),
    }[case.sensing]()
    kill = {"hill": lambda: (about(0.35), about(5.0), about(1.6)), "linear": lambda: (about(0.05),)}[case.kill]()
    one, two = (np.array([x]) for x in rng.uniform(-0.1, 0.1, 2))
    courses, boluses = Courses.none(), Boluses.none()
    if case.courses:
        courses = Courses(jnp.asarray(0.45 + one), jnp.asarray(1.35 + two), jnp.asarray([about(150.0)]))
    if case.boluses:
        boluses = Boluses(jnp.asarray(0.65 + one), jnp.asarray([about(40.0)]))
    modules = [
        Tumour(about(0.13), about(0.03), about(0.2), growth=GROWTH[case.growth](), one_sided_growth=case.crowding),
        Carriers(
            about(0.05), about(0.02), about(0.1), about(0.21), about(0.5) if case.crowding else 0.0, about(0.3),
            about(0.5), about(0.2), taxis=SENSING[case.sensing](*sensing), volume_filling=case.filling,
        ),
        *_substances(case, courses, boluses, KILL[case.kill](*kill), about),
    ]  # fmt: skip
    tissue = anatomy(GRIDS[case.grid], rng)
    model = Model(tissue, modules, about(CAPACITY), stepper=case.stepper)
    return Therapy(model, Schedule((_doses(tissue.grid, rng),)), start(tissue.grid, rng))


def _substances(case: Case, courses: Courses, boluses: Boluses, kill, about) -> list:
    """Attractant, prodrug and drug; dynamic ones are slower, which allows longer steps."""
    plasma = (about(7.0), about(0.78), about(0.85), about(129.0), about(0.75))
    if case.dynamic:
        return [
            DynamicAttractant(about(0.5), about(1.7), about(1.7), tolerance=TOLERANCE),
            DynamicProdrug(
                courses, boluses, *plasma, about(4.0), about(3e-14), about(800.0), diffusivity_mm2_per_day=about(0.5)
            ),
            DynamicDrug(about(0.6), about(8.0), about(1.0), about(2.0), about(5e-16), kill=kill, tolerance=TOLERANCE),
        ]
    return [
        Attractant(about(4.4), about(1.7), about(1.7), tolerance=TOLERANCE),
        Prodrug(courses, boluses, *plasma, about(17.0), about(3e-13), about(800.0), depletable=case.depletable),
        Drug(about(30.0), about(83.0), about(5.0), about(20.0), about(5e-15), kill=kill, tolerance=TOLERANCE),
    ]


def anatomy(grid: Grid, rng) -> Tissue:
    """Tissue that differs from cell to cell, with a hole and a notched edge where there are axes to go around it."""
    share = rng.uniform(0.1, 0.9, grid.shape)
    mask = np.ones(grid.shape, bool)
    if grid.ndim > 1:
        mask[(0,) * grid.ndim] = mask[(0, *(n - 1 for n in grid.shape[1:]))] = False
        mask[tuple(n // 2 - 1 for n in grid.shape)] = False
        mask[-1, : grid.shape[1] // 2] = False
    elif grid.geometry == "cartesian":
        mask[0] = mask[-2:] = False
    return Tissue.from_arrays(share, 1.0 - share, mask=mask, grid=grid)


def start(grid: Grid, rng) -> dict[str, Any]:
    """Rough positive fields: tumour 0.05 to 0.6 around an off-centre bump, carriers 0.02 to 0.1."""
    centre = 0.0 if grid.geometry == "radial" else rng.uniform(-0.8, -0.4, grid.ndim).reshape(-1, *[1] * grid.ndim)
    bump = np.exp(-np.sum((grid.world_mm() - centre) ** 2, axis=0) / (2 * 2.5**2))
    return {
        "tumour": jnp.asarray((0.05 + 0.5 * bump) * rng.uniform(0.9, 1.1, grid.shape)),
        "carriers": jnp.asarray(rng.uniform(0.02, 0.1, grid.shape)),
    }


def _doses(grid: Grid, rng) -> CarrierDoses:
    """Two doses from two needles each; the second one falls on a save day."""
    volume = {1: 1.0, 2: 3.0, 3: 8.0}[grid.ndim] * (8.0 if grid.geometry == "radial" else 1.0)
    share = rng.uniform(0.4, 0.6, 2)
    return CarrierDoses(
        day=jnp.asarray([0.2 + rng.uniform(0, 0.1), 1.0]),
        cells=jnp.asarray(0.2 * CAPACITY * volume * rng.uniform(0.8, 1.2, 2)),
        retained_fraction=jnp.asarray(rng.uniform(0.6, 0.8, 2)),
        sites_mm=jnp.asarray(rng.uniform(-1.5, 1.5, (2, 2, grid.ndim))),
        sigma_mm=jnp.asarray(rng.uniform(1.0, 1.6, (2, 2))),
        weight=jnp.asarray(np.stack([share, 1.0 - share], axis=1)),
    )


def vdot(a, b):
    """⟨a, b⟩ of two pytrees."""
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
