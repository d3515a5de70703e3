"""Tissue: its checks, its parts, its phantoms, and the diffusivity on faces."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.errors import GliomaError
from glioma_pde.grid import Grid
from glioma_pde.tissue import Tissue, connected_component, wall_of

LAS = np.array([[-2.0, 0, 0, 20], [0, 2, 0, -30], [0, 0, 3, -5], [0, 0, 0, 1]])
EPS = 1e-6


@pytest.fixture(scope="module")
def head():
    return Tissue.phantom("head", (40, 44, 36), 2.0)


def volumes_ml(tissue):
    """Volume of each map [mL]."""
    v = tissue.grid.cell_volume_mm3 / 1e3
    return {k: float(np.asarray(getattr(tissue, k), float).sum()) * v for k in ("white", "grey", "csf", "mask")}


# -- from arrays ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (4, 5), (3, 4, 5)])
def test_arrays_become_tissue(shape):
    white, grey = np.full(shape, 0.3), np.full(shape, 0.3)
    white[0] = 0.1
    tissue = Tissue.from_arrays(white, grey, np.full(shape, 0.4), spacing_mm=2.0)
    assert tissue.grid == Grid.cartesian(shape, 2.0)
    np.testing.assert_array_equal(np.asarray(tissue.mask), white + grey >= 0.5)
    assert not np.asarray(tissue.mask)[0].any()
    assert np.asarray(tissue.mask)[1:].all()
    assert tissue.white.dtype == jnp.result_type(float)
    assert tissue.mask.dtype == bool
    assert tissue.ventricle_wall is None
    assert tissue.full_grid is None


def test_a_given_mask_wins_over_the_threshold():
    mask = np.zeros((4, 4), int)
    mask[1] = 1
    tissue = Tissue.from_arrays(np.ones((4, 4)), np.zeros((4, 4)), mask=mask)
    np.testing.assert_array_equal(np.asarray(tissue.mask), mask == 1)
    lower = Tissue.from_arrays(np.full((4, 4), 0.3), np.zeros((4, 4)), mask_threshold=0.2)
    assert np.asarray(lower.mask).all()


def test_places_by_affine_origin_or_grid():
    ones, zeros = np.ones((3, 4, 5)), np.zeros((3, 4, 5))
    by_affine = Tissue.from_arrays(ones, zeros, affine=LAS)
    np.testing.assert_allclose(by_affine.grid.matrix, LAS)
    assert Tissue.from_arrays(ones, zeros, affine=LAS, spacing_mm=(2, 2, 3)).grid == by_affine.grid
    by_origin = Tissue.from_arrays(ones, zeros, spacing_mm=2.0, origin_mm=(1.0, 2.0, 3.0))
    np.testing.assert_allclose(by_origin.grid.world_mm()[:, 0, 0, 0], (1, 2, 3))
    assert Tissue.from_arrays(ones, zeros, grid=by_origin.grid).grid == by_origin.grid


def test_later_changes_of_the_input_do_not_reach_the_tissue():
    # A 64-byte aligned buffer is what JAX would otherwise share.
    buffer = np.ones(1 << 12, np.float32)
    start = (-buffer.ctypes.data % 64) // 4
    white = buffer[start : start + 1024].reshape(32, 32)
    tissue = Tissue.from_arrays(white, np.zeros((32, 32), np.float32), dtype=np.float32)
    white[:] = 0
    assert float(tissue.white.min()) == 1.0


def test_dtypes():
    ones = np.ones((3, 3))
    assert Tissue.from_arrays(ones, 0 * ones, dtype=jnp.float16).white.dtype == jnp.float16
    with jax.enable_x64(True):
        assert Tissue.from_arrays(ones, 0 * ones).white.dtype == np.float64
        assert Tissue.from_arrays(ones, 0 * ones, dtype=np.float32).white.dtype == np.float32
    with jax.enable_x64(False):
        assert Tissue.from_arrays(ones, 0 * ones).white.dtype == np.float32
        with pytest.raises(GliomaError, match="jax_enable_x64"):
            Tissue.from_arrays(ones, 0 * ones, dtype=np.float64)
    with pytest.raises(GliomaError, match="floating"):
        Tissue.from_arrays(ones, 0 * ones, dtype=int)


def spoiled(value, at=(1, 2, 3)):
    array = np.full((3, 4, 5), 0.4)
    array[at] = value
    return array


GOOD = np.full((3, 4, 5), 0.4)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"white": spoiled(np.nan)}, r"white map is not finite in 1 cells, first at cell \(1, 2, 3\)"),
        ({"grey": spoiled(np.inf)}, r"grey map is not finite .* cell \(1, 2, 3\)"),
        ({"white": spoiled(-0.25)}, r"white map is negative in 1 cells, first -0.25 at cell \(1, 2, 3\)"),
        ({"grey": spoiled(1.5)}, r"grey exceeds 1 in 1 cells, first 1.5 .*divide"),
        ({"white": spoiled(0.7)}, r"white \+ grey exceeds 1 in 1 cells, first 1.1 at cell \(1, 2, 3\)"),
        ({"csf": spoiled(0.3, ())}, r"white \+ grey \+ csf exceeds 1 in 60 cells"),
        ({"grey": GOOD[:2]}, r"grey map has shape \(2, 4, 5\), the grid \(3, 4, 5\)"),
        ({"background": spoiled(np.nan)}, "background map is not finite"),
        ({"mask": np.zeros((3, 4, 5))}, "mask that was given is empty"),
        ({"mask": GOOD}, "only 0 and 1"),
        ({"mask": np.ones((3, 4))}, "mask map has shape"),
        ({"ventricle": GOOD}, "ventricle must hold only 0 and 1"),
        ({"white": GOOD * 0, "grey": GOOD}, "at most 0.4 and never reaches 0.5"),
        ({"mask_threshold": 0.0}, "threshold"),
        ({"mask_threshold": np.nan}, "threshold"),
        ({"spacing_mm": 0.0}, "grid"),
        ({"spacing_mm": (1.0, 1.0)}, "grid"),
        ({"affine": np.eye(3)}, "4x4"),
        ({"affine": np.eye(4), "origin_mm": (0.0, 0.0, 0.0)}, "origin"),
        ({"affine": np.eye(4), "spacing_mm": 2.0}, "contradicts"),
        ({"affine": np.eye(4) + 0.2 * np.eye(4, k=1)}, "shears"),
        ({"grid": Grid.cartesian((3, 4, 5), 1.0), "spacing_mm": 1.0}, "not both"),
        ({"grid": Grid.cartesian((3, 4, 6), 1.0)}, "shape"),
        ({"white": np.full((3, 4, 5), "x")}, "real numbers"),
        ({"white": GOOD + 0.1j}, "real numbers"),
    ],
)
def test_wrong_inputs_are_refused_in_words(kwargs, message):
    with pytest.raises(GliomaError, match=message):
        Tissue.from_arrays(**{"white": GOOD, "grey": GOOD, **kwargs})


def test_errors_name_the_place_in_the_world():
    with pytest.raises(GliomaError, match=re.escape("world (18, -26, 4) mm")):
        Tissue.from_arrays(spoiled(2.0), GOOD, affine=LAS)
    with pytest.raises(GliomaError, match=re.escape("shell 2, radius 1.25 mm")):
        Tissue.from_arrays(np.array([1, 1, -1.0]), np.zeros(3), grid=Grid.radial(3, 0.5))


def test_a_rounding_excess_within_the_tolerance_is_kept_as_it_is():
    white = np.full((3, 3), 1.0005)
    assert float(Tissue.from_arrays(white, 0 * white).white[0, 0]) == pytest.approx(1.0005)
    with pytest.raises(GliomaError, match="exceeds"):
        Tissue.from_arrays(white, 0 * white, tolerance=1e-4)


# -- phantoms -------------------------------------------------------------------------------


def test_radial_tissue_is_a_homogeneous_sphere():
    tissue = Tissue.radial(20, 0.5, white_fraction=0.25)
    assert tissue.grid == Grid.radial(20, 0.5)
    assert bool(tissue.mask.all())
    assert float(tissue.white[3]) == 0.25
    assert float(tissue.grey[3]) == 0.75
    for wrong in ({"white_fraction": 1.5}, {"white_fraction": -0.1}, {"n": 0}, {"spacing_mm": -1.0}):
        with pytest.raises(GliomaError):
            Tissue.radial(**{"n": 4, "spacing_mm": 1.0, **wrong})


@pytest.mark.parametrize("shape", [(12,), (12, 10), (12, 10, 8)])
def test_boxes_and_slabs(shape):
    box = Tissue.phantom("box", shape, 0.5, white_fraction=0.3)
    assert bool(box.mask.all())
    np.testing.assert_allclose(np.asarray(box.white), 0.3, rtol=EPS)
    np.testing.assert_allclose(np.asarray(box.grey), 0.7, rtol=EPS)
    slab = Tissue.phantom("slab", shape, 0.5)
    assert bool(slab.mask.all())
    np.testing.assert_array_equal(np.asarray(slab.white)[:6], 1)
    np.testing.assert_array_equal(np.asarray(slab.grey)[6:], 1)
    cut = Tissue.phantom("slab", (5, 4))  # the interface passes through the middle cell
    np.testing.assert_array_equal(np.asarray(cut.white)[:, 0], [1, 1, 0.5, 0, 0])


def test_a_sphere_has_its_volume_and_nothing_around_it():
    tissue = Tissue.phantom("sphere", (40, 40, 40), 0.5, radius_mm=8.0, white_fraction=0.5)
    volume = volumes_ml(tissue)
    assert volume["mask"] == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.01)
    assert volume["white"] == pytest.approx(volume["mask"] / 2, rel=1e-6)
    outside = ~np.asarray(tissue.mask)
    assert not np.asarray(tissue.white + tissue.grey)[outside].any()
    assert float(tissue.white[20, 20, 20]) == 0.5


@pytest.mark.parametrize("shape", [(48, 56), (40, 44, 36)])
def test_the_head_has_all_parts(shape):
    head = Tissue.phantom("head", shape, 2.0)
    mask, ventricle = np.asarray(head.mask), np.asarray(head.ventricle)
    wall = np.asarray(head.ventricle_wall)
    middle = tuple(n // 2 for n in shape)
    assert mask[middle]
    assert float(head.white[middle]) > 0.5
    assert not mask[0].any()
    assert not mask[:, 0].any()
    total = np.asarray(head.white + head.grey + head.csf)
    assert total.max() <= 1 + EPS
    assert min(float(head.white.min()), float(head.csf.min())) >= 0
    # Two mirrored ventricles, not touching each other.
    left, right = ventricle[: shape[0] // 2], ventricle[shape[0] // 2 :]
    np.testing.assert_array_equal(left, right[::-1])
    assert connected_component(ventricle).sum() == left.sum() > 10
    assert wall.any()
    assert not (wall & ~mask).any()
    assert not (ventricle & mask).any()
    # Cortex outside, core inside.
    row = (slice(None), *middle[1:])
    first = int(np.flatnonzero(mask[row])[1])
    assert float(head.grey[row][first]) > float(head.white[row][first])


def test_the_head_does_not_depend_on_the_grid():
    coarse, fine = Tissue.phantom("head", (24, 24, 24), 4.0), Tissue.phantom("head", (48, 48, 48), 2.0)
    for name, volume in volumes_ml(fine).items():
        assert volumes_ml(coarse)[name] == pytest.approx(volume, rel=0.03), name


def test_phantoms_are_placed_and_refused():
    tissue = Tissue.phantom("box", (4, 4), 1.0, origin_mm=(10.0, 20.0))
    np.testing.assert_allclose(tissue.grid.world_mm()[:, 0, 0], (10, 20))
    with pytest.raises(GliomaError, match='no phantom "cube"'):
        Tissue.phantom("cube", (4, 4))
    with pytest.raises(GliomaError, match="two or three"):
        Tissue.phantom("head", (9,))
    for kwargs in (
        {"shape": (0, 4)},
        {"spacing_mm": np.nan},
        {"origin_mm": (0.0,)},
        {"white_fraction": 2.0},
        {"kind": "sphere", "radius_mm": 0.1},
        {"kind": "sphere", "radius_mm": -3.0},
    ):
        with pytest.raises(GliomaError):
            Tissue.phantom(**{"shape": (4, 4), **kwargs})


# -- crops and windows ----------------------------------------------------------------------


def test_a_crop_holds_the_same_cells_at_the_same_place(head):
    part = head.crop((5, 6, 7), (30, 31, 29))
    cut = (slice(5, 30), slice(6, 31), slice(7, 29))
    for name in ("white", "grey", "csf", "mask", "ventricle_wall", "ventricle", "background"):
        np.testing.assert_array_equal(np.asarray(getattr(part, name)), np.asarray(getattr(head, name))[cut])
    np.testing.assert_allclose(part.grid.world_mm(), head.grid.world_mm()[(slice(None), *cut)])
    assert part.full_grid == head.grid
    assert part.window_start == (5, 6, 7)
    again = part.crop((1, 2, 3), (10, 10, 10))
    assert again.full_grid == head.grid
    assert again.window_start == (6, 8, 10)


def test_what_is_cut_from_maps_on_the_host_is_as_from_the_device(head):
    maps = {name: np.asarray(getattr(head, name)) for name in ("white", "grey", "csf", "background", "ventricle")}
    whole = Tissue.from_arrays(**maps, grid=head.grid, dtype=head.white.dtype, on_host=True)
    assert isinstance(whole.white, np.ndarray) and np.shares_memory(whole.white, maps["white"])
    part, same = whole.crop((5, 6, 7), (30, 31, 29)), head.crop((5, 6, 7), (30, 31, 29))
    assert isinstance(part.white, jax.Array)
    for name in (*maps, "mask", "ventricle_wall"):
        np.testing.assert_array_equal(np.asarray(getattr(part, name)), np.asarray(getattr(same, name)), strict=True)


def test_the_crop_to_the_mask_leaves_a_margin(head):
    mask = np.asarray(head.mask)
    tight = head.crop_to_mask(margin_cells=0)
    assert int(tight.mask.sum()) == mask.sum()
    assert all(np.asarray(tight.mask).take(i, k).any() for k in range(3) for i in (0, -1))
    assert head.crop_to_mask().grid.shape == tuple(n + 2 for n in tight.grid.shape)
    assert head.crop_to_mask(1000).grid.shape == head.grid.shape


@pytest.mark.parametrize("affine", [None, LAS])
def test_a_window_holds_the_cells_near_a_point(affine):
    ones = np.ones((20, 21, 22))
    tissue = Tissue.from_arrays(ones, 0 * ones, **({"affine": affine} if affine is not None else {"spacing_mm": 2}))
    centre = tissue.grid.world_mm()[:, 10, 11, 9] + (0.3, -0.2, 0.1)
    window = tissue.window(centre, 6.2)
    distance = np.abs(tissue.grid.world_mm() - centre[:, None, None, None])
    near = np.all(distance <= 6.2, axis=0)
    assert window.grid.size == near.sum()
    found = window.grid.world_mm()
    assert np.abs(found - centre[:, None, None, None]).max() <= 6.2
    start = np.argwhere(near).min(axis=0)
    assert window.window_start == tuple(start)


def test_a_window_is_clipped_to_the_mask_plus_one_cell(head):
    window = head.window((30.0, 0.0, 0.0), 500.0)
    assert window.grid == head.crop_to_mask(1).grid
    small = head.window((30.0, 0.0, 0.0), (6.0, 10.0, 4.0))
    assert small.grid.shape == (6, 10, 4)
    radial = Tissue.radial(50, 0.5).window((0.0,), 10.0)
    assert radial.grid == Grid.radial(20, 0.5)


def test_crops_and_windows_without_tissue_are_refused(head):
    for call in (
        lambda: head.crop((0, 0, 0), (2, 2, 2)),
        lambda: head.crop((0, 0, 0), (400, 2, 2)),
        lambda: head.crop((-1, 0, 0), (10, 20, 20)),
        lambda: head.crop((5, 5), (10, 10)),
        lambda: head.window((1e4, 0, 0), 5.0),
        lambda: head.window((0, 0), 5.0),
        lambda: head.window((0, 0, np.nan), 5.0),
        lambda: head.window((0, 0, 0), -5.0),
        lambda: head.window((0, 0, 0), (5.0, 5.0)),
        lambda: head.window((39.0, 43.0, 35.0), 3.0),
        lambda: Tissue.radial(50, 0.5).window((3.0,), 5.0),
    ):
        with pytest.raises(GliomaError):
            call()


# -- diffusivity ----------------------------------------------------------------------------


def test_diffusivity_mixes_white_and_grey_inside_the_mask_only(head):
    D = np.asarray(head.diffusivity(0.13, 0.026))
    mask = np.asarray(head.mask)
    expected = 0.13 * np.asarray(head.white) + 0.026 * np.asarray(head.grey)
    np.testing.assert_allclose(D[mask], expected[mask], rtol=1e-5)
    assert not D[~mask].any()
    assert D.dtype == head.white.dtype


def test_faces_carry_the_harmonic_mean_and_close_at_the_mask():
    mask = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
    ones = np.ones((4, 3))
    tissue = Tissue.from_arrays(ones, 0 * ones, mask=mask)
    D = np.arange(1.0, 13.0).reshape(4, 3)
    D[2, 0] = 0.0
    faces = tissue.face_average(jnp.asarray(D, tissue.white.dtype))
    for axis, face in enumerate(faces):
        assert face.shape == (4, 3)
        for cell in np.ndindex(4, 3):
            below = tuple(c - (k == axis) for k, c in enumerate(cell))
            expected = 0.0
            if cell[axis] > 0 and mask[cell] and mask[below] and D[cell] * D[below] > 0:
                expected = 2 / (1 / D[cell] + 1 / D[below])
            assert float(face[cell]) == pytest.approx(expected, rel=1e-5), (axis, cell)


def test_uniform_radial_faces():
    (face,) = Tissue.radial(6, 0.5).face_average(jnp.full(6, 0.3))
    np.testing.assert_allclose(np.asarray(face), [0, *[0.3] * 5], rtol=1e-6)


def test_small_and_large_diffusivities_neither_underflow_nor_overflow():
    tissue = Tissue.phantom("box", (4,))
    for size in (1e-30, 1e30):
        (face,) = tissue.face_average(jnp.full(4, size, jnp.float32))
        np.testing.assert_allclose(np.asarray(face)[1:], size, rtol=1e-5)


def test_the_face_average_has_the_right_gradient_also_where_tissue_ends():
    tissue = Tissue.phantom("head", (16, 18), 5.0)

    @jax.jit
    @jax.value_and_grad
    def total(parameters):
        faces = tissue.face_average(tissue.diffusivity(parameters[0], parameters[1]))
        return sum((face**2).sum() for face in faces)

    value, gradient = total(jnp.array([0.13, 0.026]))
    # total is homogeneous of degree 2 in (D_w, D_g): Euler's theorem.
    assert float(gradient @ jnp.array([0.13, 0.026])) == pytest.approx(2 * float(value), rel=1e-4)
    assert np.all(np.isfinite(np.asarray(total(jnp.zeros(2))[1])))
    # A cell without diffusivity still responds: d/da 2ab/(a + b) = 2 at a = 0.
    box = Tissue.phantom("box", (3,))
    by_cell = jax.jit(jax.jacobian(lambda D: box.face_average(D)[0]))(jnp.array([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(np.asarray(by_cell), [[0, 0, 0], [0, 0, 0], [0, 2, 0]], atol=EPS)


def test_face_averages_batch_alike_by_vmap_and_by_leading_axes():
    head = Tissue.phantom("head", (10, 12), 8.0)
    average = jax.jit(lambda D: head.face_average(D))
    D = np.stack([np.asarray(head.diffusivity(w, 0.2 * w)) for w in (0.13, 0.5)])
    single = [average(d) for d in D]
    for batch in (jax.jit(lambda D: jax.vmap(head.face_average)(D))(D), average(D)):
        for axis in range(2):
            for i in range(2):
                np.testing.assert_allclose(np.asarray(batch[axis][i]), np.asarray(single[i][axis]), rtol=EPS)


def test_a_tissue_is_a_pytree_with_static_places(head):
    leaves = jax.tree.leaves(head)
    assert len(leaves) == 7
    assert all(leaf.shape == head.grid.shape for leaf in leaves)
    doubled = eqx.filter_jit(lambda t: eqx.tree_at(lambda s: s.white, t, t.white * 0.5))(head)
    assert doubled.grid == head.grid
    np.testing.assert_allclose(np.asarray(doubled.white), 0.5 * np.asarray(head.white))


# -- regions --------------------------------------------------------------------------------


def test_components_connect_through_faces_only():
    region = np.zeros((6, 6), bool)
    region[0, :3] = region[1, 2] = True  # four cells
    region[2, 3] = True  # touches by a corner only
    region[4:, 4:] = True  # four cells in the corner of the grid
    region[5, 3] = True  # ... and a fifth
    np.testing.assert_array_equal(np.argwhere(connected_component(region, (0, 0)))[-1], (1, 2))
    assert connected_component(region, (0, 1)).sum() == 4
    assert connected_component(region, (2, 3)).sum() == 1
    assert connected_component(region).sum() == 5
    assert connected_component(np.ones((3, 4, 5), bool), (1, 1, 1)).all()
    for seed in ((3, 0), (-1, 0), (6, 0), (0, 0, 0)):
        with pytest.raises(GliomaError, match="seed"):
            connected_component(region, seed)
    with pytest.raises(GliomaError, match="empty"):
        connected_component(np.zeros((3, 3), bool))


def test_components_do_not_wrap_around_the_grid():
    region = np.zeros((4, 5), bool)
    region[:, -1] = region[:, 0] = True
    assert connected_component(region, (0, 0)).sum() == 4
    winding = np.zeros((7, 7), bool)  # a path that a few dilations of a box would miss
    winding[::2] = True
    winding[1, -1] = winding[3, 0] = winding[5, -1] = True
    np.testing.assert_array_equal(connected_component(winding, (0, 0)), winding)


def test_the_wall_is_the_masks_side_of_the_border():
    region, mask = np.zeros((5, 5), bool), np.ones((5, 5), bool)
    region[2, 2] = True
    mask[2, 2] = mask[1, 2] = False
    expected = np.zeros((5, 5), bool)
    expected[3, 2] = expected[2, 1] = expected[2, 3] = True
    np.testing.assert_array_equal(wall_of(region, mask), expected)


def test_ventricles_are_found_from_points_inside_them(head):
    mask = np.asarray(head.mask)
    plain = Tissue.from_arrays(head.white, head.grey, head.csf, grid=head.grid)
    right = plain.with_ventricles((9.6, 0.0, 0.0))
    world = head.grid.world_mm()[0][np.asarray(right.ventricle)]
    assert world.min() > 0
    both = plain.with_ventricles((9.6, 0.0, 0.0), (-9.6, 0.0, 0.0))
    assert both.ventricle.sum() == 2 * right.ventricle.sum()
    np.testing.assert_array_equal(np.asarray(both.ventricle_wall), wall_of(np.asarray(both.ventricle), mask))
    with pytest.raises(GliomaError, match="seed"):
        plain.with_ventricles((0.0, 0.0, 0.0))
    for call in (plain.with_ventricles, lambda: Tissue.phantom("box", (4, 4)).with_ventricles((0.0, 0.0))):
        with pytest.raises(GliomaError, match="CSF map and a point"):
            call()


# -- resampling -----------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [1.0, 3.0, 4.0, 5.3, (2.0, 4.0, 6.0)])
def test_resampling_conserves_the_volume_of_every_tissue(head, spacing):
    new = head.resample(spacing)
    np.testing.assert_allclose(new.grid.spacing_mm, np.broadcast_to(spacing, 3))
    for name in ("white", "grey", "csf"):
        assert volumes_ml(new)[name] == pytest.approx(volumes_ml(head)[name], rel=1e-5), name
    assert volumes_ml(new)["mask"] == pytest.approx(volumes_ml(head)["mask"], rel=0.05)
    # The new box has the old one's middle, and covers it.
    np.testing.assert_allclose(new.grid.world_mm().mean((1, 2, 3)), head.grid.world_mm().mean((1, 2, 3)), atol=1e-9)
    extent = np.array(new.grid.shape) * np.array(new.grid.spacing_mm)
    assert np.all(extent >= np.array(head.grid.shape) * 2.0 - 1e-6)
    assert new.ventricle is not None
    assert new.background is not None
    np.testing.assert_array_equal(
        np.asarray(new.ventricle_wall), wall_of(np.asarray(new.ventricle), np.asarray(new.mask))
    )


def test_resampling_takes_means_of_overlaps():
    white = np.array([1.0, 0.0, 0.5, 1.0, 1.0, 1.0])
    tissue = Tissue.from_arrays(white, 1 - white, spacing_mm=1.0)
    np.testing.assert_allclose(np.asarray(tissue.resample(2.0).white), [0.5, 0.75, 1.0], atol=EPS)
    np.testing.assert_allclose(np.asarray(tissue.resample(1.5).white), [2 / 3, 1 / 3, 1, 1], atol=EPS)
    np.testing.assert_allclose(np.asarray(tissue.resample(0.5).white), np.repeat(white, 2), atol=EPS)
    # 4 mm cells overhang the 6 mm box by 1 mm on each side, where there is nothing.
    np.testing.assert_allclose(np.asarray(tissue.resample(4.0).white), [1.5 / 4, 3 / 4], atol=EPS)


@pytest.mark.parametrize("spacing", [1.0, 4.0, (3.0, 5.0, 7.0)])
def test_resampling_keeps_things_in_place(spacing):
    rotation = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1.0]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = 2 * rotation, (7, -9, 11)
    white = np.random.default_rng(1).random((5, 6, 7))
    tissue = Tissue.from_arrays(white, 0 * white, affine=affine)
    new = tissue.resample(spacing)
    # An independent mean: points spread over each new cell look up the old cell at their world place.
    m = 12
    inside = (np.stack(np.meshgrid(*[np.arange(m)] * 3, indexing="ij")).reshape(3, -1) + 0.5) / m - 0.5
    for cell in np.ndindex(new.grid.shape):
        points = new.grid.matrix[:3, :3] @ (np.array(cell)[:, None] + inside) + new.grid.matrix[:3, 3:]
        index = np.rint(np.linalg.solve(affine[:3, :3], points - affine[:3, 3:])).astype(int)
        known = np.all((index >= 0) & (index < np.array(white.shape)[:, None]), axis=0)
        expected = np.sum(white[tuple(index[:, known])]) / known.size
        assert float(new.white[cell]) == pytest.approx(expected, abs=0.06), cell


def test_resampling_keeps_thickness_given_masks_and_dtype():
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    grid = Grid.cartesian((8, 8), 1.0, thickness_mm=5.0)
    tissue = Tissue.from_arrays(np.ones((8, 8)), np.zeros((8, 8)), mask=mask, grid=grid, dtype=jnp.float16)
    new = tissue.resample(2.0)
    assert new.grid.thickness_mm == 5.0
    assert new.white.dtype == jnp.float16
    np.testing.assert_array_equal(np.asarray(new.mask), mask[::2, ::2])
    assert tissue.resample(1.0) is tissue
    low = Tissue.from_arrays(np.full((8, 8), 0.3), np.zeros((8, 8)), mask_threshold=0.2)
    assert bool(low.resample(2.0).mask.all())


def test_impossible_resamplings_are_refused(head):
    for spacing in (0.0, -1.0, np.nan, np.inf, (1.0, 1.0)):
        with pytest.raises(GliomaError, match="spacing"):
            head.resample(spacing)
    with pytest.raises(GliomaError, match="cells"):
        head.resample(1e-3)
    with pytest.raises(GliomaError, match="radial"):
        Tissue.radial(5, 1.0).resample(2.0)
    wall_only = eqx.tree_at(lambda t: t.ventricle, head, None)
    with pytest.raises(GliomaError, match="with_ventricles"):
        wall_only.resample(4.0)
    dot = np.zeros((9, 9))
    dot[4, 4] = 1
    with pytest.raises(GliomaError, match="no tissue"):
        Tissue.from_arrays(dot, 0 * dot).resample(3.0)
