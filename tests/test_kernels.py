"""Native kernels compute what XLA does, to rounding, whatever the shape, and in derivatives, batches and shards."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covering import CASES, SAVES, therapy

from glioma_pde import Carriers, Model, Resistance, Tissue, Tumour, alone
from glioma_pde.biology.laws import Exponential, Gompertz, Logistic
from glioma_pde.errors import GliomaError
from glioma_pde.numerics import diffusion, elliptic, kernels, taxis
from glioma_pde.numerics.stepping import RKL2, SSPRK2, Euler
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve

needs_native = pytest.mark.skipif(bool(kernels.WHY_NOT), reason=f"no native kernels: {kernels.WHY_NOT}")

SHAPES = [
    (1,),
    (2,),
    (37,),
    (1, 5),
    (5, 1),
    (19, 33),
    (1, 1, 1),
    (2, 3, 4),
    (1, 9, 33),
    (6, 17, 41),
    (40, 31, 66),
    (300, 170),
]
"""Of one cell, of one row, of rows no vector divides, and the last two of enough cells to be shared among threads."""


def arrays(shape, dtype, count):
    """Positive arrays, and one with zeros and steep edges among them."""
    rng = np.random.default_rng(sum(shape))
    made = [rng.random(shape) for _ in range(count)]
    made[0] = np.where(made[0] < 0.3, 0.0, made[0])
    return [jnp.asarray(a, dtype) for a in made]


def same(found, expected, largest=1.0):
    """Equal but for rounding of terms up to ``largest``."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=20 * np.finfo(found.dtype).eps * largest)


@needs_native
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
class TestEqualToXla:
    def test_diffusion(self, shape, dtype):
        u, *g = arrays(shape, dtype, 1 + len(shape))
        expected = diffusion._in_xla(u, *g, offsets=diffusion.along_axes(len(shape)))
        same(diffusion.net_diffusion(u, tuple(g)), expected)

    @pytest.mark.parametrize("filling", [False, True])
    def test_migration(self, shape, dtype, filling):
        n = len(shape)
        s, *rest = arrays(shape, dtype, 2 + 2 * n)
        wind = [v - 0.5 for v in rest[:n]] + rest[n : 2 * n] + [1.3 * rest[-1]] * filling
        found = taxis._net_advection.bind(s, *wind)[0]
        same(found, taxis._in_xla(s, *wind)[0])


solution_in_xla = jax.jit(elliptic._solution_in_xla)


def tumour_in(shape, dtype, growth=None, stepper=None, holes=0.3, **more):
    """A tumour of steep edges in tissue with holes, and what `Model.steps` takes beside the number of steps."""
    rng = np.random.default_rng(sum(shape))
    mask = rng.random(shape) >= holes
    mask[..., : shape[-1] // 3] &= rng.random() < 0.5 * holes  # and rows that begin late
    white = jnp.asarray(np.where(mask, 0.2 + 0.7 * rng.random(shape), 0.0), dtype)
    tissue = Tissue.from_arrays(white, jnp.where(mask, 0.9 - white, 0.0), mask=mask, spacing_mm=1.0, dtype=dtype)
    tumour = Tumour(0.9, 0.2, 0.4, growth=growth or Logistic(), **more)
    model = Model(tissue, [tumour], stepper=stepper or SSPRK2())
    u = jnp.asarray(np.where(mask, np.round(rng.random(shape), 1), 0.0), dtype)
    t, dt = jnp.zeros((), dtype), jnp.asarray(0.08, dtype)
    return model, model.start({"tumour": u}), model.prepare(), lambda k: (t + k * dt, dt)


@needs_native
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "count"),
    [(SHAPES[0], 1), (SHAPES[2], 2), (SHAPES[5], 3), (SHAPES[7], 1), (SHAPES[9], 2), *((s, 3) for s in SHAPES[10:])],
)
@pytest.mark.parametrize(("growth", "stepper"), [(Logistic(), SSPRK2()), (Exponential(), Euler())])
def test_a_tumour_alone(shape, count, dtype, growth, stepper):
    model, carry, medium, moment = tumour_in(shape, dtype, growth, stepper)
    assert alone.is_alone(model, medium)
    found, expected = (
        jax.jit(lambda c, m, steps=steps: steps(c, m, moment, count))(carry, medium)
        for steps in (model.steps, model.steps_of_all)
    )
    u = found.x["tumour"]
    same(u, expected.x["tumour"], 2.0)
    assert not jnp.any(jnp.where(model.tissue.mask, 0.0, u))
    grown = [sum(c.ledger["tumour_growth"]) for c in (found, expected)]
    np.testing.assert_allclose(*grown, rtol=100 * jnp.finfo(dtype).eps)
    gained = jnp.sum(u - carry.x["tumour"])
    np.testing.assert_allclose(gained, grown[0], atol=20 * jnp.finfo(dtype).eps * jnp.sum(u), rtol=0)


@needs_native
def test_a_tumour_alone_keeps_its_derivatives_and_its_batches():
    model, carry, medium, moment = tumour_in((7, 9), "float64")

    def total(steps, rho, u):
        other = eqx.tree_at(lambda m: m["tumour"].proliferation_per_day, model, rho)
        after = getattr(other, steps)(carry._replace(x={"tumour": u}), medium, moment, 3)
        return jnp.sum(after.x["tumour"] ** 2) + sum(after.ledger["tumour_growth"])

    u = carry.x["tumour"]
    rates = jnp.array([0.2, 0.4, 0.8])
    found, expected = (
        [
            jax.jit(jax.value_and_grad(partial(total, steps), (0, 1)))(0.4, u),
            jax.jit(lambda r, du, steps=steps: jax.jvp(partial(total, steps), (r, u), (r, du)))(0.4, jnp.cos(u)),
            jax.jit(jax.vmap(partial(total, steps), in_axes=(0, None)))(rates, u),
        ]
        for steps in ("steps", "steps_of_all")
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


@needs_native
def test_numbers_of_python_and_numpy_are_parameters_too():
    model, carry, medium, moment = tumour_in((3, 4), "float64")
    expected = model.steps(carry, medium, moment, 1).x["tumour"]
    for number in (float, np.float64, np.asarray):
        other = eqx.tree_at(lambda m: m["tumour"].proliferation_per_day, model, number(0.4))
        other = eqx.tree_at(lambda m: m.tissue.mask, other, np.asarray(model.tissue.mask))
        same(other.steps(carry, medium, moment, 1).x["tumour"], expected)


@needs_native
def test_only_a_tumour_that_is_alone_is_taken_alone():
    def is_alone(modules, tissue=None, **more):
        tissue = tissue or Tissue.phantom("box", (4, 5), 1.0)
        model = Model(tissue, modules, **more)
        return alone.is_alone(model, model.prepare())

    assert is_alone([Tumour()]) and is_alone([Tumour()], stepper=Euler(), ledger=False)
    assert not is_alone([Tumour()], Tissue.radial(8, 0.5))
    assert not is_alone([Tumour(growth=Gompertz())])
    assert not is_alone([Tumour(one_sided_growth=True)])
    assert not is_alone([Tumour(), Resistance()])
    assert not is_alone([Tumour(), Carriers(taxis=None)])
    assert not is_alone([Tumour()], stepper=RKL2())
    bundle = Tissue.phantom("bundle", (6, 6, 6), 1.0)
    assert not is_alone([Tumour(anisotropy=1.0)], bundle) and is_alone([Tumour()], bundle)

    def idle(growth, kill):
        return Carriers(taxis=None, proliferation_per_day=growth, tumour_kill_per_day=kill).without_carriers()

    assert is_alone([Tumour(), idle(None, None)])
    assert not is_alone([Tumour(), idle(0.1, None)]) and not is_alone([Tumour(), idle(None, 0.1)])


@pytest.mark.parametrize("kind", ["xla", pytest.param("native", marks=needs_native)])
def test_carriers_that_fade_beside_a_tumour_are_stepped_apart(kind):
    tissue = Tissue.phantom("head", (20, 24), 1.0)
    carriers = Carriers(taxis=None, crowding=0.5, proliferation_per_day=None, tumour_kill_per_day=None)
    model = Model(tissue, [Tumour(), carriers]).without_carriers()
    fields = {n: jnp.where(tissue.mask, 0.3, 0.0) for n in ("tumour", "carriers")}
    carry, medium = model.start(fields), model.prepare()
    t, dt = jnp.zeros(()), jnp.asarray(0.25)
    assert alone.is_alone(model, medium)
    with kernels.use(kind):
        found, expected = (
            jax.jit(lambda c, m, steps=steps: steps(c, m, lambda k: (t + k * dt, dt), 2))(carry, medium)
            for steps in (model.steps, model.steps_of_all)
        )
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found.x), jax.tree.leaves(expected.x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)
    for name, pair in expected.ledger.items():
        np.testing.assert_allclose(sum(found.ledger[name]), sum(pair), rtol=1e-12, err_msg=name)


@needs_native
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 1])
@pytest.mark.parametrize("start", ["cold", "warm", "worse than none", "solved", "no source", "negligible"])
@pytest.mark.parametrize(("sinks", "tolerance"), [("many", 1e-3), ("one", 1e-6)])
def test_elliptic_solves(shape, dtype, start, sinks, tolerance):
    source, guess, rows, inside, sink = arrays(shape, dtype, 5)
    inside = jnp.where(inside > 0.2, 1.0, 0.0).astype(dtype)
    g = [jnp.asarray(v, dtype) for v in (0.3, 0.5, 0.4)[: len(shape)]]
    rows, sink = 2.4 * (1.0 + rows), 0.2 + (sink if sinks == "many" else sink.ravel()[0])  # dominant: open faces
    guess = {"cold": 0.0, "worse than none": -1e3}.get(start, 1.0) * guess * inside
    source = source * inside * (0.0 if start == "no source" else 1.0)
    rest = (rows, inside, jnp.asarray(tolerance, dtype), jnp.asarray(1e3 if start == "negligible" else 0.0, dtype), *g)
    if start == "solved":
        finer = (rows, inside, rest[2] / 100, *rest[3:])
        guess = solution_in_xla(source, sink, guess, *finer)[0]
    found, count = elliptic._solution.bind(source, sink, guess, *rest)
    expected, sweeps = solution_in_xla(source, sink, guess, *rest)
    assert count == sweeps
    if tolerance > 10 * np.finfo(dtype).eps:
        assert (count == 0) == (start in ("solved", "no source", "negligible") or not source.any())
    same(found, expected)


@pytest.mark.parametrize("kind", ["xla", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_a_neighbour_holds_does_not_round_into_what_a_cell_gives(kind, sign):
    s = jnp.full(7, 0.7).at[3].set(0.51 * float(np.spacing(0.7)))
    wind = jnp.zeros(7).at[4 if sign > 0 else 3].set(2.0 * sign)
    with kernels.use(kind):
        net = jax.jit(lambda s: taxis._net_advection.bind(s, wind, jnp.ones(7))[0])(s)
    assert net[3] == -2.0 * s[3] and net[3 + int(sign)] == 2.0 * s[3]


@needs_native
def test_migration_keeps_its_derivatives_and_its_batches():
    s, *rest = arrays((7, 9), "float64", 6)
    wind = [v - 0.5 for v in rest[:2]] + rest[2:]

    def net(s, *wind):
        return taxis._net_advection.bind(s + 0.1, *wind)[0]

    def plain(s, *wind):
        return taxis._in_xla(s + 0.1, *wind)[0]

    def linear(f):
        return jax.jvp(f, (s, *wind), tuple(jnp.cos(k + jnp.arange(s.size)).reshape(s.shape) for k in range(6)))

    def slopes(f):
        return jax.grad(lambda *a: jnp.vdot(jnp.sin(jnp.arange(s.size)).reshape(s.shape), f(*a)), tuple(range(6)))(
            s, *wind
        )

    for found, expected in ((linear(net), linear(plain)), (slopes(net), slopes(plain))):
        for a, b in zip(found, expected, strict=True):
            same(a, b, 10.0)
    # batched in one operand only
    many = jnp.stack([s, 0.5 * s, 2.0 * s])
    same(jax.vmap(lambda s: net(s, *wind))(many), jnp.stack([plain(s, *wind) for s in many]))


@needs_native
def test_only_what_a_kernel_takes_is_given_to_it():
    def called(function, *operands):
        return "glioma_pde_" in jax.jit(function).lower(*operands).as_text()

    s, *g = arrays((4, 5, 6), "float64", 4)
    assert called(diffusion.net_diffusion, s, tuple(g))
    assert not called(diffusion.net_diffusion, s, diffusion.Links(((1, 0, 0), (0, 1, 0), (1, 1, 0)), tuple(g)))
    assert not called(jax.vmap(diffusion.net_diffusion, in_axes=(0, None)), jnp.stack([s, s]), tuple(g))
    halves = [a.astype("float16") for a in (s, *g)]
    assert not called(diffusion.net_diffusion, halves[0], tuple(halves[1:]))


@needs_native
@pytest.mark.parametrize("name", ["plane", "box", "ball"])
def test_a_therapy_is_the_same_with_both_kinds_of_kernels(name):
    t = therapy(CASES[name])
    plan = make_plan(t.model, t.schedule, SAVES, 0.25)
    ends = {}
    for kind in ("native", "xla"):
        with kernels.use(kind):
            ends[kind] = eqx.filter_jit(solve)(t.model, t.schedule, t.initial, plan, jnp.asarray(SAVES)).final
    for name, field in ends["xla"].x.items():
        scale = float(jnp.abs(field).max())
        np.testing.assert_allclose(ends["native"].x[name], field, rtol=0, atol=1e-11 * scale, err_msg=name)
    for name, total in ends["xla"].ledger.items():
        assert float(sum(ends["native"].ledger[name])) == pytest.approx(float(sum(total)), rel=1e-10), name


@needs_native
def test_threads_do_not_change_a_bit():
    s, *g = arrays((60, 40, 50), "float32", 4)
    ones, few = jnp.ones_like(s), [jnp.float32(v) for v in (1, 2, 3)]
    operands = (s, jnp.float32(0.5), g[0], 12.0 * ones, ones, jnp.float32(1e-4), jnp.float32(0.0), *few)

    model, carry, medium, moment = tumour_in((60, 40, 50), "float32")

    @jax.jit
    def all_of_them(s, *g):
        return (
            *jax.tree.leaves(model.steps(carry, medium, moment, 2)),
            diffusion.net_diffusion(s, g),
            taxis._net_advection.bind(s, *g, *g)[0],
            elliptic._solution.bind(*operands)[0],
        )

    first = all_of_them(s, *g)
    for _ in range(20):
        for a, b in zip(first, all_of_them(s, *g), strict=True):
            assert jnp.array_equal(a, b)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from glioma_pde.numerics import diffusion
mesh = jax.make_mesh((2,), ("z",))
u, *g = (jnp.asarray(np.random.default_rng(k).random((8, 6, 5))) for k in range(4))
apart = [jax.device_put(a, NamedSharding(mesh, P("z"))) for a in (u, *g)]
program = jax.jit(lambda u, *g: diffusion.net_diffusion(u, g))
text = program.lower(*apart).compile().as_text()
assert "all-gather" not in text and "glioma_pde_" not in text, text
assert "collective-permute" in text
assert np.allclose(program(*apart), program(u, *g), rtol=0, atol=1e-14)
print("sharded")
"""


def ask(code, **variables):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **variables}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_a_sharded_field_exchanges_halos_only():
    done = ask(SHARDED, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert done.stdout.strip() == "sharded", done.stderr


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"GLIOMA_PDE_KERNELS": "fast"}, "Kernels can be auto, native, xla, not 'fast'."),
        ({"GLIOMA_PDE_KERNELS": "native", "NONE": "1"}, "Native kernels were asked for; no native ones were built"),
    ],
)
def test_a_choice_that_cannot_be_is_said_in_one_sentence(variables, says):
    hide = "import sys, os\nif os.environ.get('NONE'): sys.modules['glioma_pde.numerics.kernels._native'] = None\n"
    done = ask(hide + "from glioma_pde.cli import main; raise SystemExit(main(['info']))", **variables)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr


def test_without_native_kernels_everything_is_computed_in_xla():
    code = """
import sys
sys.modules["glioma_pde.numerics.kernels._native"] = None
from glioma_pde.numerics import kernels
assert kernels.in_use() == "xla" and "compiler" in kernels.describe(), kernels.describe()
import jax, jax.numpy as jnp
from glioma_pde.numerics import diffusion
f = jnp.ones((3, 4))
assert "glioma_pde_" not in jax.jit(diffusion.net_diffusion).lower(f, (f, f)).as_text()
"""
    done = ask(code)
    assert done.returncode == 0, done.stderr


@needs_native
def test_kernels_of_other_sources_are_refused(monkeypatch):
    assert not kernels._register()
    monkeypatch.setattr(kernels, "REVISION", kernels.REVISION + 1)
    assert "install the package again" in kernels._register()


def test_a_choice_ends_with_its_block():
    before = kernels.in_use()
    with kernels.use("xla"):
        assert kernels.in_use() == "xla" and kernels.describe().startswith("XLA (")
    assert kernels.in_use() == before
    with pytest.raises(GliomaError, match="can be auto"), kernels.use("none"):
        pass
    assert kernels.in_use() == before
