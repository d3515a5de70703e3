"""Migration along tensors in whole models, and tensors on their way from images and configurations into a tissue."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from glioma_pde.biology.base import Module
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.laws import FluxLimited, LinearSensing
from glioma_pde.biology.tumour import Tumour
from glioma_pde.build import build
from glioma_pde.cli import main
from glioma_pde.config import loads
from glioma_pde.delivery import Schedule, gaussian
from glioma_pde.errors import ConfigError, GliomaError
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.io.tensors import tensors_from_nifti
from glioma_pde.ledger import balances
from glioma_pde.model import Model
from glioma_pde.observe import observe
from glioma_pde.repeat import experiment_from_file
from glioma_pde.run import run
from glioma_pde.schedule import make_plan
from glioma_pde.session import build_all
from glioma_pde.solve import solve
from glioma_pde.tensors import ORDERS, stretched
from glioma_pde.tissue import Tissue
from glioma_pde.window import Window

ULP = np.finfo(float).eps
BUNDLE = Tissue.phantom("bundle", (14, 12), (1.0, 0.8), radius_mm=2.0)
SAVES = (0.0, 6.0)


class Beacon(Module):
    """An attractant that is there from the beginning and stays."""

    name: ClassVar[str] = "beacon"
    provides: ClassVar = ("attractant", "attractant_scale")

    at_mm: jax.Array

    def quantities(self, x, q, at):
        centre, width = self.at_mm.astype(at.capacity.dtype), jnp.asarray(4.0, at.capacity.dtype)
        return {"attractant": gaussian(at.grid, centre, width), "attractant_scale": jnp.ones_like(at.capacity)}

    def limits(self, at, limits):
        return {"attractant_scale": jnp.ones_like(at.capacity)}


def modules(anisotropy=1.0, white=0.4, grey=0.1, taxis=FluxLimited(speed_mm_per_day=0.6), guidance=True):
    strength = None if anisotropy is None else jnp.asarray(anisotropy)
    return [
        Tumour(white, grey, 0.1, anisotropy=strength),
        Carriers(
            0.2, 0.05, loss_per_day=0.02, anisotropy=strength, taxis=taxis, contact_guidance=guidance, volume_filling=True
        ),
        Beacon(jnp.array([-4.0, -3.0])),
    ]  # fmt: skip


@eqx.filter_jit
def end(tissue, parts, initial, plan):
    return solve(Model(tissue, parts), Schedule(), initial, plan, jnp.asarray(SAVES)).final


def plan_for(tissue, parts, dt=None):
    model = Model(tissue, parts)
    return make_plan(model, Schedule(), SAVES, dt or model.largest_step())


def start(tissue):
    return {
        "tumour": 0.8 * gaussian(tissue.grid, jnp.array([0.0, 0.0]), jnp.asarray(1.5)),
        "carriers": 0.3 * gaussian(tissue.grid, jnp.array([4.0, -2.0]), jnp.asarray(1.5)),
    }


# -- whole models ------------------------------------------------------------------------------------


def test_the_ledger_closes_and_nothing_turns_negative_at_the_longest_step():
    sharp = np.array([[1.0, 0.93], [0.93, 1.0]])  # 28 : 1
    mask = np.ones((14, 12), bool)
    mask[5, 3:] = False
    field = np.broadcast_to(sharp, (14, 12, 2, 2))
    tissue = Tissue.from_arrays(BUNDLE.white, BUNDLE.grey, mask=mask, grid=BUNDLE.grid)
    tissue = tissue.with_tensors(field, largest_ratio=50.0)
    parts = modules(white=1.5, grey=0.8)
    x0 = {"tumour": jnp.zeros((14, 12)).at[5, 2].set(1.0), "carriers": jnp.where(jnp.asarray(mask), 0.5, 0.0)}
    after = end(tissue, parts, x0, plan_for(tissue, parts))
    for field, signs in balances(Model(tissue, parts)).items():
        x = np.asarray(after.x[field])
        assert x.min() >= 0.0
        assert not np.any(x[~mask])
        gained = float(tissue.grid.integrate(after.x[field]) - tissue.grid.integrate(x0[field]))
        booked = sum(sign * float(sum(after.ledger[name])) for name, sign in signs.items())
        assert gained == pytest.approx(booked, abs=1e-13 * tissue.grid.size)


@pytest.mark.parametrize("how", ["isotropic tensors", "no strength"])
def test_without_directions_it_is_the_model_without_tensors(how):
    plain = replace(BUNDLE, tensors=None)
    tissue = plain.with_tensors(np.broadcast_to(3.0 * np.eye(2), (14, 12, 2, 2))) if how[0] == "i" else BUNDLE
    plan = plan_for(plain, modules(None, guidance=False), 0.5)
    bare = end(plain, modules(None, guidance=False), start(plain), plan)
    with_tensors = end(tissue, modules(1.0 if how[0] == "i" else 0.0), start(plain), plan)
    for name, value in bare.x.items():
        np.testing.assert_allclose(with_tensors.x[name], value, rtol=0, atol=10 * ULP * float(value.max()))


@pytest.mark.slow
def test_cells_spread_along_fibres_and_carriers_follow_them():
    """At the top of the arch fibres run along x; on the way down a guided carrier stays on them longer."""
    parts = [Tumour(0.4, 0.4, 0.0, anisotropy=1.0), *modules()[1:]]
    plan = plan_for(BUNDLE, parts, 0.25)
    after = end(BUNDLE, parts, start(BUNDLE), plan)
    u = np.asarray(after.x["tumour"])
    x, y = BUNDLE.grid.world_mm()
    even = end(BUNDLE, [Tumour(0.4, 0.4, 0.0), *modules()[1:]], start(BUNDLE), plan).x["tumour"]
    assert (u * x**2).sum() / (u * y**2).sum() > (even * x**2).sum() / (even * y**2).sum()
    free = end(BUNDLE, [parts[0], *modules(guidance=False)[1:]], start(BUNDLE), plan)
    on_white = []
    for carry in (after, free):
        q = {"tumour_cells": carry.x["tumour"]}
        seen = observe(Model(BUNDLE, parts), carry, q, 0.8, 0.16)
        on_white.append(float(seen["carriers_on_white_cells"] / seen["carriers_cells"]))
    assert 1.0 > on_white[0] > on_white[1] + 0.01


def test_second_moments_along_and_across_fibres_are_those_of_the_tensor():
    """In a tissue of parallel fibres, six times as fast along them: variances grow by 2 D T t, walls being far away."""
    grid = BUNDLE.grid
    ones = np.ones(grid.shape)
    tissue = Tissue.from_arrays(ones, 0 * ones, grid=grid).with_tensors(
        np.broadcast_to(np.diag([6.0, 1.0]), (14, 12, 2, 2))
    )
    parts = [Tumour(0.05, 0.05, 0.0, anisotropy=jnp.asarray(1.0))]
    u0 = gaussian(grid, jnp.zeros(2), jnp.asarray(1.2))
    after = np.asarray(end(tissue, parts, {"tumour": u0}, plan_for(tissue, parts, 0.25)).x["tumour"])
    x, y = grid.world_mm()
    gained = [float((after * w**2).sum() / after.sum() - (u0 * w**2).sum() / u0.sum()) for w in (x, y)]
    np.testing.assert_allclose(gained, [2 * 0.05 * 12 / 7 * 6, 2 * 0.05 * 2 / 7 * 6], rtol=0.01)


@pytest.mark.slow
def test_the_taylor_remainder_is_of_second_order():
    """In diffusivities, strength, speed, and the initial fields."""
    plan = plan_for(BUNDLE, modules(), 0.3)
    bump = jnp.asarray(np.random.default_rng(0).random((14, 12)))

    def goal(theta):
        parts = modules(theta[2], theta[0], theta[1], FluxLimited(speed_mm_per_day=theta[3]))
        x0 = {name: f * (1.0 + theta[4] * bump) for name, f in start(BUNDLE).items()}
        x = end(BUNDLE, parts, x0, plan).x
        return 10.0 * jnp.sum(x["tumour"] ** 2) + jnp.sum(jnp.sin(5.0 * x["carriers"]))

    theta, along = jnp.array([0.4, 0.1, 0.7, 0.6, 0.1]), jnp.array([0.15, 0.06, -0.3, 0.2, 0.3])
    value, slope = jax.jit(jax.value_and_grad(goal))(theta)
    assert np.all(np.abs(slope) > 1e-4)
    eps = 2.0 ** -np.arange(3, 8)
    values = jax.jit(jax.vmap(goal))(theta[None] + eps[:, None] * along[None])
    rest = np.abs(np.asarray(values) - float(value) - eps * float(slope @ along))
    assert np.all(np.log2(rest[:-1] / rest[1:]) >= 1.95)


def test_laws_without_a_largest_speed_count_the_tensor_in_their_step():
    sharp = BUNDLE.with_tensors(np.broadcast_to([[1.0, 0.9], [0.9, 1.0]], (14, 12, 2, 2)), largest_ratio=50.0)
    law = LinearSensing(2.0)
    steps = [Model(sharp, modules(taxis=law, guidance=g)).largest_steps()["carriers"] for g in (True, False)]
    assert steps[0] < steps[1]
    with pytest.raises(ValueError, match="needs an anisotropy"):
        Carriers(contact_guidance=True)
    with pytest.raises(ValueError, match="a tissue with tensors"):
        Model(replace(BUNDLE, tensors=None), [Tumour(anisotropy=1.0)]).largest_step()


# -- tensors of a tissue ---------------------------------------------------------------------------------


def test_windows_and_other_spacings_keep_the_tensors():
    cut = BUNDLE.crop((2, 3), (9, 11))
    np.testing.assert_array_equal(cut.tensors.components, BUNDLE.tensors.components[:, 2:9, 3:11])
    assert set(cut.tensors.offsets) <= set(BUNDLE.tensors.offsets)
    small = Window(((2, 9), (3, 11))).model(Model(BUNDLE, modules()))
    g, whole = (m.prepare()["tumour"] for m in (small, Model(BUNDLE, modules())))
    for e, values in zip(g.offsets, g.g, strict=True):
        there = np.asarray(whole.g[whole.offsets.index(e)])[2:9, 3:11]
        np.testing.assert_allclose(np.asarray(values)[3:-3, 3:-3], there[3:-3, 3:-3], rtol=0, atol=1e-15)
    coarse = BUNDLE.resample((2.0, 1.6))
    means = np.asarray(BUNDLE.tensors.components).reshape(3, 7, 2, 6, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(coarse.tensors.components, means, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.asarray(coarse.tensors.weights).sum(axis=0), 2.0, rtol=1e-12)


def test_scaling_is_that_of_the_linear_and_planar_shares():
    eigenvalues = np.array([[0.2, 0.5, 1.3]])
    total, r = 2.0, 5.0
    cl, cp, cs = (1.3 - 0.5) / total, 2 * (0.5 - 0.2) / total, 3 * 0.2 / total
    expected = [0.2, (cl + r * cp + cs) * 0.5, (r * cl + r * cp + cs) * 1.3]
    np.testing.assert_allclose(stretched(eigenvalues, r)[0], expected, rtol=1e-14)
    np.testing.assert_allclose(stretched(np.array([[0.5, 1.5]]), r)[0], [0.5, 1.5 * (r * 0.5 + 0.5)], rtol=1e-14)
    np.testing.assert_array_equal(stretched(eigenvalues, 1.0), eigenvalues)
    np.testing.assert_allclose(stretched(np.ones((1, 3)), r), np.ones((1, 3)), rtol=1e-15)


def broken(change):
    field = np.array(BUNDLE.tensors.matrices())
    change(field)
    return field


@pytest.mark.parametrize(
    ("tensors", "options", "sentence"),
    [
        (broken(lambda f: f[3:5, 2].fill(np.nan)), {}, r"missing \(zero or not finite\) in 2 voxels, first at cell \(3, 2\)"),
        (broken(lambda f: f[3, 2].fill(0.0)), {}, "missing .* in 1 voxels"),
        (broken(lambda f: f.__setitem__((1, 1, 0, 1), 0.5)), {}, "not symmetric in 1 voxels, first at cell"),
        (broken(lambda f: f.__setitem__((1, 1), [[1.0, 2.0], [2.0, 1.0]])), {}, "not positive definite in 1 voxels"),
        (broken(lambda f: f.__setitem__((1, 1), [[1.0, 1.0], [1.0, 1.0]])), {}, "in 1 voxels, first at cell"),
        (broken(lambda f: f.__setitem__((1, 1), [[50.0, 0.0], [0.0, 1.0]])), {}, "largest_ratio = 10 .* up to 50"),
        (BUNDLE.tensors.matrices(), {"scaling": 3.0}, "largest_ratio = 10"),
        (BUNDLE.tensors.matrices(), {"scaling": 0.5}, "scaling of at least 1"),
        (BUNDLE.tensors.matrices(), {"axes": "left"}, "axes of tensors are one of voxel, fsl, world"),
        (np.ones((14, 12, 3)), {}, "order of the tensors' components must be one of fsl, dipy, mrtrix, not None"),
        (np.ones((14, 12, 6)), {"order": "fsl"}, r"shape \(14, 12, 6\); the grid .* needs \(14, 12, 2, 2\), or"),
        (np.ones((14, 11, 2, 2)), {}, r"shape \(14, 11, 2, 2\)"),
        ([["a"]], {}, "not an array of real numbers"),
    ],
)  # fmt: skip
def test_unfit_tensors_are_refused_with_their_number(tensors, options, sentence):
    with pytest.raises(GliomaError, match=sentence) as error:
        BUNDLE.with_tensors(tensors, **options)
    assert "\n" not in str(error.value)


def test_repair_is_asked_for_and_only_within_the_mask():
    field = broken(lambda f: f[3, 2].fill(np.nan))
    field[1, 1], field[2, 2] = [[1.0, 1.2], [1.2, 1.0]], [[90.0, 0.0], [0.0, 1.0]]
    found = BUNDLE.with_tensors(field, repair=True).tensors.matrices()
    np.testing.assert_allclose(found[3, 2], np.eye(2), atol=1e-12)
    for cell in ((1, 1), (2, 2)):
        low, high = np.linalg.eigvalsh(found[cell])
        assert high / low == pytest.approx(10.0, rel=1e-9)
    np.testing.assert_allclose(found[7, 7], BUNDLE.tensors.matrices()[7, 7], atol=1e-12)
    hole = Tissue.from_arrays(BUNDLE.white, BUNDLE.grey, mask=np.isfinite(field[..., 0, 0]), grid=BUNDLE.grid)
    assert hole.with_tensors(field, largest_ratio=1e3, repair=True).tensors is not None
    with pytest.raises(GliomaError, match="two or three"):
        Tissue.radial(8, 1.0).with_tensors(np.ones((8, 1, 1)))


# -- images ----------------------------------------------------------------------------------------------

SHAPE = (7, 6, 5)
PLACES = {
    "right first": np.diag([2.0, 2.0, 2.0, 1.0]),
    "left first": np.diag([-2.0, 2.0, 2.0, 1.0]),
    "turned": np.array([[0.0, 0.0, 2.0, -4.0], [-1.5, 0.0, 0.0, 6.0], [0.0, 2.5, 0.0, -5.0], [0.0, 0.0, 0.0, 1.0]]),
    "oblique": np.array([[1.6, -1.2, 0.0, 0.0], [1.2, 1.6, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0]]),
}


def fibres(world):
    """Tensors in world axes at world points ``(…, 3)`` [mm]: fibres to the right and forward, more so on the right."""
    along = np.array([0.8, 0.6, 0.0])
    share = 0.5 + 0.5 * np.tanh(0.2 * world[..., 0])
    return 1e-3 * (np.eye(3) + 4.0 * share[..., None, None] * np.outer(along, along))


def written(path, affine, shape, order, axes, five=False):
    """The same fibres in an image of any orientation, in the convention of some tool."""
    points = nib.affines.apply_affine(affine, np.stack(np.indices(shape), axis=-1))
    turn = np.eye(3)
    if axes != "world":
        turn = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T
    if axes == "fsl" and np.linalg.det(affine[:3, :3]) > 0:
        turn = np.diag([-1.0, 1.0, 1.0]) @ turn
    stored = turn @ fibres(points) @ turn.T
    values = np.stack([stored[..., i, j] for i, j in ORDERS[order]], axis=-1).astype(np.float32)
    nib.save(nib.Nifti1Image(values[:, :, :, None] if five else values, affine), path)
    return path


def anatomy(affine, shape=SHAPE):
    return Tissue.from_arrays(np.full(shape, 0.7), np.full(shape, 0.3), affine=affine)


def in_world(tissue):
    directions = tissue.grid.matrix[:3, :3] / np.asarray(tissue.grid.spacing_mm)
    return directions @ tissue.tensors.matrices() @ directions.T


def normalised(tensors):
    return 3.0 * tensors / np.trace(tensors, axis1=-2, axis2=-1)[..., None, None]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("order", "axes"), [("fsl", "fsl"), ("dipy", "voxel"), ("mrtrix", "world")])
def test_fibres_keep_their_side_and_direction(tmp_path, place, order, axes):
    affine = PLACES[place]
    path = written(tmp_path / "dti.nii.gz", affine, SHAPE, order, axes, five=order == "dipy")
    tissue = tensors_from_nifti(anatomy(affine), path, order, axes)
    expected = normalised(fibres(np.moveaxis(tissue.grid.world_mm(), 0, -1)))
    np.testing.assert_allclose(in_world(tissue), expected, atol=1e-6)
    assert expected[..., 0, 1].max() > 0.5  # right and forward, not right and backward


def test_an_image_of_other_voxels_is_interpolated_or_averaged(tmp_path):
    path = written(tmp_path / "dti.nii.gz", PLACES["oblique"], (30, 30, 14), "fsl", "fsl")
    middle = nib.affines.apply_affine(PLACES["oblique"], (14.5, 14.5, 6.5))
    for spacing, tolerance in ((1.0, 0.02), (5.0, 0.06)):
        affine = np.diag([-spacing, spacing, spacing, 1.0])
        affine[:3, 3] = middle - affine[:3, :3] @ (2.0, 1.5, 1.0)
        tissue = tensors_from_nifti(anatomy(affine, (5, 4, 3)), path, "fsl", "fsl")
        expected = normalised(fibres(np.moveaxis(tissue.grid.world_mm(), 0, -1)))
        np.testing.assert_allclose(in_world(tissue), expected, atol=tolerance)


def test_images_that_do_not_fit_say_so(tmp_path):
    path = written(tmp_path / "dti.nii", PLACES["left first"], SHAPE, "fsl", "fsl")
    elsewhere = np.array(PLACES["left first"])
    elsewhere[0, 3] = 200.0
    with pytest.raises(GliomaError, match=r"missing .* in 210 voxels"):
        tensors_from_nifti(anatomy(elsewhere), path, "fsl", "fsl")
    with pytest.raises(GliomaError, match="not 'spm' along 'fsl'"):
        tensors_from_nifti(anatomy(PLACES["left first"]), path, "spm", "fsl")
    with pytest.raises(GliomaError, match="the tissue has 2"):
        tensors_from_nifti(BUNDLE, path, "fsl", "fsl")
    nib.save(nib.Nifti1Image(np.ones((*SHAPE, 5), np.float32), PLACES["left first"]), tmp_path / "five.nii")
    with pytest.raises(GliomaError, match="with 6 values along its 4th or 5th axis is needed"):
        tensors_from_nifti(anatomy(PLACES["left first"]), tmp_path / "five.nii", "fsl", "fsl")


# -- configurations ----------------------------------------------------------------------------------------

BASE = """
[tissue]
kind = "phantom"
geometry = "bundle"
shape = [16, 14]
[tumour]
proliferation_per_day = 0.1
initial = { kind = "gaussian", centre_mm = [0, 0], sigma_mm = 1.5, peak = 0.8 }
[time]
end_day = 4
frame_every_days = 2
[numerics]
grow_window = false
"""


def one(text):
    return loads(BASE + text).arms[0]


def test_a_run_repeats_from_its_file(tmp_path):
    experiment = build(one("[anisotropy]\nstrength = 0.8\nscaling = 1.2"))
    assert experiment.model["tumour"].anisotropy == pytest.approx(0.8)
    assert float(np.linalg.eigvalsh(experiment.model.tissue.tensors.matrices()).max()) > 12.0 / 7.0
    run(experiment, tmp_path / "a.h5")
    again = experiment_from_file(tmp_path / "a.h5")
    assert eqx.tree_equal(again.model.tissue.tensors, experiment.model.tissue.tensors)
    run(again, tmp_path / "b.h5")
    with RunFile(tmp_path / "a.h5") as a, RunFile(tmp_path / "b.h5") as b:
        assert {"tensor_xx", "tensor_xy", "tensor_yy"} <= set(a.tissue_names)
        np.testing.assert_array_equal(np.asarray(a.field("tumour", index=-1)), np.asarray(b.field("tumour", index=-1)))


def test_an_image_named_in_a_configuration_is_used(tmp_path):
    text = BASE.replace('"bundle"', '"box"').replace("[16, 14]", "[7, 6, 5]").replace("[0, 0]", "[0, 0, 0]")
    affine = np.eye(4)
    affine[:3, 3] = (-3.0, -2.5, -2.0)
    written(tmp_path / "dti.nii.gz", affine, SHAPE, "dipy", "world")
    section = '[anisotropy]\ntensors = "dti.nii.gz"\norder = "dipy"\naxes = "world"\ncarriers = false\n'
    experiment = build(loads(text + section, folder=tmp_path).arms[0])
    tissue = experiment.model.tissue
    np.testing.assert_allclose(
        in_world(tissue), normalised(fibres(np.moveaxis(tissue.grid.world_mm(), 0, -1))), atol=1e-6
    )


def test_the_command_gives_tensors_to_the_arms_that_ask_for_them_and_says_what_is_wrong_with_them(tmp_path, capsys):
    text = BASE.replace('"bundle"', '"box"').replace("[16, 14]", "[7, 6, 5]").replace("[0, 0]", "[0, 0, 0]")
    section = 'tensors = "dti.nii.gz"\norder = "dipy"\naxes = "world"\ncarriers = false\n'
    text += f'[anisotropy]\n{section}[arms.directed]\n[arms.half.anisotropy]\nstrength = 0.5\n[arms.plain]\nwithout = ["anisotropy"]\n'
    affine = np.eye(4)
    affine[:3, 3] = (-3.0, -2.5, -2.0)
    path, source = written(tmp_path / "dti.nii.gz", affine, SHAPE, "dipy", "world"), tmp_path / "directed.toml"
    source.write_text(text)
    arms = loads(text, folder=tmp_path).arms
    directed, half, plain = build_all(arms)
    assert plain.model.tissue.tensors is None and plain.model["tumour"].anisotropy is None
    alone = build(arms[0]).model.tissue.tensors
    for one_of in (directed, half):
        assert eqx.tree_equal(one_of.model.tissue.tensors, alone)
    assert [e.model["tumour"].anisotropy for e in (directed, half)] == [1.0, 0.5]

    image = nib.load(path)
    values = np.array(image.get_fdata(), np.float32)
    values[3, 3, 2] *= -1.0
    nib.save(nib.Nifti1Image(values, affine), path)
    assert main(["run", str(source), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.strip()
    assert "anisotropy.tensors: " in told and "not positive definite in 1 voxels" in told
    assert told.count("\n") == 2  # the file, and a sentence for each arm that has them


@pytest.mark.parametrize(
    ("change", "text", "sentence"),
    [
        ("", "tensors = 'a.nii'", "anisotropy: tensors needs order .* and axes"),
        ("", "order = 'fsl'", "anisotropy: order and axes describe an image"),
        ("", "tumour = false\ncarriers = false", "anisotropy: neither tumour nor carriers"),
        ("", "tumour = false", "anisotropy.carriers: needs the section"),
        ("", "contact_guidance = true", "anisotropy.contact_guidance: needs the section"),
        ("", "carriers = false\ncontact_guidance = true", "anisotropy: contact_guidance needs carriers = true"),
        ("", "tensors = 'a.nii'\norder = 'fsl'\naxes = 'fsl'", "anisotropy.tensors: the phantom 'bundle' has its own"),
        ("box", "", "anisotropy.tensors: is missing"),
        (
            "box",
            "tensors = 'a.nii'\norder = 'fsl'\naxes = 'fsl'",
            "anisotropy.tensors: an image holds tensors of three",
        ),
        ("", "strength = 1.5", "anisotropy.strength"),
        ("", "order = 'spm'", "anisotropy.order"),
    ],
)
def test_configurations_that_cannot_work_say_why(change, text, sentence):
    base = BASE.replace("bundle", change) if change else BASE
    with pytest.raises(ConfigError, match=sentence) as error:
        loads(f"{base}[anisotropy]\n{text}")
    assert len(error.value.problems) == 1


def test_a_sphere_has_no_directions():
    text = BASE.replace(
        'kind = "phantom"\ngeometry = "bundle"\nshape = [16, 14]', 'kind = "radial"\nradius_mm = 9\nspacing_mm = 1'
    )
    with pytest.raises(ConfigError, match="anisotropy: a radial tissue has no directions"):
        loads(text.replace("[0, 0]", "[0]") + "[anisotropy]\n")
