"""Derivatives of whole runs with every law and switch, by every array at once, and their compositions.

`test_gradients.py` checks entries one by one against differences; here all of them move together. The models keep away
from kinks, where there is no derivative to agree with: see `covering`.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covering import CASES, GRIDS, SAVES, TOLERANCE, Therapy, therapy, vdot
from whole import OFF, Kind, anatomy, arrangement, model_of, near_typical, rough_start, schedule_of

from glioma_pde.biology.attractant import Attractant
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.tumour import Tumour
from glioma_pde.model import Model
from glioma_pde.schedule import make_plan, stack
from glioma_pde.solve import solve

DT = 0.25


def outcome(free, fixed, plan):
    """Fields at the save days and the ledger's totals, as functions of every float of a therapy."""
    model, schedule, initial = eqx.combine(free, fixed)
    solution = solve(model, schedule, initial, plan, jnp.asarray(SAVES))
    return solution.saved, {name: total + rest for name, (total, rest) in solution.final.ledger.items()}


def plan_of(t: Therapy):
    return make_plan(t.model, t.schedule, SAVES, min(DT, t.model.largest_step()))


def parts(t: Therapy):
    """The arrays to differentiate by (parameters, tissue, schedule, initial fields), and the rest."""
    return eqx.partition(t, eqx.is_inexact_array)


def direction(free: Therapy, seed: int) -> Therapy:
    """Random changes in proportion to each array, of the doses' days and places in days and mm; zeros stay.

    Events of a save day move later: `make_plan` has put them after the save.
    """
    rng = np.random.default_rng(seed)
    moved = jax.tree.map(lambda a: jnp.asarray(a * rng.uniform(-1, 1, a.shape)), free)
    for k, event in enumerate(free.schedule.events):
        for name, least in (("day", 0.2), ("sites_mm", -1.0), ("centre_mm", -1.0)):
            if hasattr(event, name):
                change = jnp.asarray(rng.uniform(least, 1, getattr(event, name).shape))
                moved = eqx.tree_at(lambda t, k=k, name=name: getattr(t.schedule.events[k], name), moved, change)
    return moved


def weigh(a):
    """Irregular weights, relative to the size of ``a``, so that outputs of any unit count alike."""
    size = jnp.abs(a).max()
    return jnp.sin(jnp.arange(1.0, a.size + 1.0).reshape(a.shape) ** 2) / jnp.where(size > 0, size, 1.0)


IDLE = ("leaky_exchange_per_day", "leaky_efflux_per_day", "alpha_per_gy", "alpha_beta_gy")
"""Parameters that need leaky vessels or radiation, of which these models have none."""

EPS = 0.1 * 2.0 ** -np.arange(3, 8)


@eqx.filter_jit
def all_derivatives(free, along, fixed, plan):
    """Of weights w of the outcome F: ⟨F(free + ε·along), w⟩ at 0 and at each ε, ⟨J·along, w⟩, and Jᵀw."""

    def ahead(e):
        at = jax.tree.map(lambda a, d: a + e * d, free, along)
        return jax.jvp(lambda x: outcome(x, fixed, plan), (at,), (along,))

    values, slopes = jax.lax.map(ahead, jnp.asarray([0.0, *EPS]))
    now, pull = jax.vjp(lambda x: outcome(x, fixed, plan), free)
    weights = jax.tree.map(weigh, now)
    totals = jax.vmap(lambda v: vdot(v, weights))(values)
    return totals, vdot(jax.tree.map(lambda s: s[0], slopes), weights), pull(weights)[0]


def example(name: str, seed: int = 0) -> Therapy:
    """One of the core's cases, or a model with every module; another seed is another patient, equal in every shape."""
    if name in CASES:
        return therapy(CASES[name], seed)
    grid, kind = GRIDS[name.split("-")[1]], EVERYTHING[name]
    rng = np.random.default_rng(seed)
    tissue = anatomy(grid, rng, tensors=kind.tensors != OFF)
    p, r = near_typical(rng), arrangement(grid, rng)
    days = float(SAVES[-1])
    model, schedule = model_of(kind, p, tissue, r, days, TOLERANCE), schedule_of(kind, p, r, days)
    return Therapy(model, schedule, rough_start(tissue, rng))


# Open cavities: a closed one, or one at a threshold, is made of whole cells and has no derivative by its place.
EVERYTHING = {
    "all-line": Kind(radiotherapy="rockne", route="intracavity"),
    "all-plane": Kind(
        kill="linear", crowding=True, substances="dynamic", temozolomide="bliss", trail="drug", environment="quasi_steady",
        tensors="guiding", route="intravenous",
    ),
}  # fmt: skip


def check(name):
    t = example(name)
    free, fixed = parts(t)
    along = direction(free, 1)
    totals, forward, reverse = all_derivatives(free, along, fixed, plan_of(t))
    backward = vdot(along, reverse)
    assert abs(forward - backward) <= 1e-11 * abs(forward)

    rest = np.abs(np.asarray(totals[1:] - totals[0]) - EPS * float(forward))
    orders = np.log2(rest[:-1] / rest[1:])
    assert rest[-1] > 1e-11 * abs(totals[0])  # far above rounding
    assert np.all(orders >= 1.95), orders

    # nothing is cut off: every array has its part in the outcome, but for what the model does without
    found = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(reverse) if leaf.size}
    assert all(np.all(np.isfinite(leaf)) for leaf in found.values())
    silent = {path.rsplit(".", 1)[-1] for path, leaf in found.items() if not np.any(leaf)}
    assert silent == {*SILENT.get(name, ()), *(IDLE if name in CASES else ())}


# What has no part: places around the centre of a ball; what a held pool does not exchange; crowding where tumour grows
# exponentially and carriers count all cells; widths where cells come by a cavity or by blood.
SILENT = {
    "ball": ("sites_mm", "crowding"),
    "ball-held": ("sites_mm", "exchange_per_day"),
    "line-filled": ("exchange_per_day",),
    "box": ("exchange_per_day",),
    "all-line": ("sigma_mm",), "all-plane": ("sigma_mm",),
}  # fmt: skip


FEW = ("line",)


@pytest.mark.parametrize("name", FEW)
def test_remainders_are_of_second_order_and_reverse_is_the_transpose_of_forward(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*CASES, *EVERYTHING} - set(FEW)))
def test_remainders_and_transposes_with_every_other_law(name):
    check(name)


# -- compositions ------------------------------------------------------------------------------------


def light(seed: int, rng) -> Therapy:
    """Carriers that follow the tumour and kill by contact: it compiles in seconds. Days differ between patients."""
    t = therapy(CASES["line"], seed)
    modules = [m for m in t.model.modules if isinstance(m, Tumour | Carriers | Attractant)]
    model = Model(t.model.tissue, modules, t.model.capacity_cells_per_mm3, ledger=False)
    days = jnp.asarray(np.sort(rng.uniform(0.05, 1.95, 2)))
    return t._replace(model=model, schedule=eqx.tree_at(lambda s: s.events[0].day, t.schedule, days))


def remaining(free, fixed, plan):
    model, schedule, initial = eqx.combine(free, fixed)
    final = solve(model, schedule, initial, plan, jnp.asarray(SAVES)).final
    return model.tissue.grid.integrate(final.x["tumour"] ** 2)


slopes = jax.grad(remaining)


def with_plans(each):
    """Patients with uneven schedules: their arrays, and their own plans."""
    plans = [make_plan(t.model, t.schedule, SAVES, min(DT, t.model.largest_step())) for t in each]
    assert len({p.lower.shape for p in plans} | {tuple(np.asarray(p.parts > 0).sum(1)) for p in plans}) > 1
    return [parts(t) for t in each], plans


@pytest.fixture(scope="module")
def patients():
    """Three of them."""
    rng = np.random.default_rng(8)
    return with_plans([light(seed, rng) for seed in range(3)])


@pytest.fixture(scope="module")
def treated():
    """Two patients with everything on."""
    return with_plans([example("all-line", seed) for seed in (0, 3)])


NO_PART = ("release_per_day", "drug_sensitivity", *IDLE)
"""Without a drug nothing is sensitive to it; and with sensing relative to a* no scale of the attractant changes anything:
its derivative is zero but for rounding."""


def have_a_part(tree) -> bool:
    """Whether every array of the tree, but for those that have none, holds something."""
    leaves = jax.tree.leaves_with_path(tree)
    return all(np.any(leaf) for path, leaf in leaves if not jax.tree_util.keystr(path).endswith(NO_PART))


def roundings(slopes, free):
    """What entries of each array may differ by: some of them are zero in theory (a law that no scale of a changes)."""
    sizes = [float(jnp.abs(f).max(initial=0.0)) for f in jax.tree.leaves(free)]
    most = max(
        size * float(jnp.abs(s).max(initial=0.0)) for s, size in zip(jax.tree.leaves(slopes), sizes, strict=True)
    )
    return [1e-14 * most / size if size > 0 else 0.0 for size in sizes]


def check_batch(each, plans):
    fixed = each[0][1]
    together = stack(plans)
    free = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[f for f, _ in each])
    batch = jax.jit(lambda free, plans: jax.vmap(lambda f, p: slopes(f, fixed, p))(free, plans))(free, together)
    alone = jax.jit(lambda f, p: slopes(f, fixed, p))
    for k, (f, _) in enumerate(each):
        found, one = jax.tree.map(lambda a, k=k: a[k], batch), alone(f, jax.tree.map(lambda a, k=k: a[k], together))
        for a, b, rounding in zip(jax.tree.leaves(found), jax.tree.leaves(one), roundings(one, f), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12 * float(jnp.abs(b).max(initial=0.0)) + rounding)
    return one


def test_the_gradient_of_a_batch_is_the_batch_of_gradients(patients):
    assert have_a_part(check_batch(*patients))


@pytest.mark.slow
def test_the_gradient_of_a_batch_is_the_batch_of_gradients_with_everything_on(treated):
    check_batch(*treated)


def check_curvature(free, fixed, plan, h=5e-5):
    """Forward over reverse: symmetric, and the difference quotient of the gradient."""
    v, w = direction(free, 4), direction(free, 5)

    @jax.jit
    def curved(at, along):
        """Gradient, and Hessian times direction: forward over reverse."""
        return jax.jvp(lambda f: slopes(f, fixed, plan), (at,), (along,))

    _, Hv = curved(free, v)
    _, Hw = curved(free, w)
    assert float(vdot(w, Hv)) == pytest.approx(float(vdot(v, Hw)), rel=1e-10)
    ahead, behind = (curved(jax.tree.map(lambda a, d, e=e: a + e * d, free, v), v)[0] for e in (h, -h))
    difference = jax.tree.map(lambda a, b: (a - b) / (2 * h), ahead, behind)
    for a, b, rounding in zip(jax.tree.leaves(Hv), jax.tree.leaves(difference), roundings(Hv, free), strict=True):
        # relative to the array's largest entry; the difference errs by h² and by rounding over h
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * float(jnp.abs(a).max(initial=0.0)) + rounding / h)
    return Hv


def test_second_derivatives_are_symmetric_and_those_of_the_gradient(patients):
    assert have_a_part(check_curvature(*patients[0][0], patients[1][0]))


@pytest.mark.slow
def test_second_derivatives_are_symmetric_and_those_of_the_gradient_with_everything_on(treated):
    check_curvature(*treated[0][0], treated[1][0])


@pytest.mark.slow
def test_compiled_gradients_are_those_of_the_plain_call(patients):
    (free, fixed), plan = patients[0][0], patients[1][0]
    compiled, plain = jax.jit(lambda f: slopes(f, fixed, plan))(free), slopes(free, fixed, plan)
    for a, b, rounding in zip(jax.tree.leaves(compiled), jax.tree.leaves(plain), roundings(plain, free), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12 * float(jnp.abs(b).max()) + rounding)
