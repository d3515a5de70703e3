"""Cells: sizes, integrals and their place in the world."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.grid import Grid

LAS = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
PERMUTED = np.array([[0, 0, 1.5, -10], [-2.0, 0, 0, 20], [0, 1, 0, 5], [0, 0, 0, 1]])


def rotated(angle=0.3):
    c, s = math.cos(angle), math.sin(angle)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * np.array([1.0, 2.0, 3.0])
    matrix[:3, 3] = (5, -6, 7)
    return matrix


def test_radial_volumes_and_areas_are_those_of_spheres():
    grid = Grid.radial(20, 0.5)
    assert grid.volumes_mm3().sum() == pytest.approx(4 / 3 * math.pi * 10**3, rel=1e-12)
    assert grid.volumes_mm3()[0] == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=1e-12)
    # Lower face of shell i: 4π (i h)², in units of cell_volume / h.
    area = np.asarray(grid.relative_area()) * grid.cell_volume_mm3 / 0.5
    np.testing.assert_allclose(area, 4 * math.pi * (np.arange(20) * 0.5) ** 2, rtol=1e-6)
    assert grid.axis_mm(0)[0] == 0.25


@pytest.mark.parametrize(
    ("grid", "volume"),
    [
        (Grid.cartesian((4, 5, 6), (1.0, 2.0, 3.0)), 4 * 5 * 6 * 6.0),
        (Grid.cartesian((4, 5), 2.0, thickness_mm=3.0), 20 * 12.0),
        (Grid.cartesian((7,), 0.5, thickness_mm=2.0), 7 * 0.5 * 4.0),
        (Grid.radial(10, 1.0), 4 / 3 * math.pi * 1000),
    ],
)
def test_the_integral_of_one_is_the_volume(grid, volume):
    assert float(grid.integrate(jnp.ones(grid.shape))) == pytest.approx(volume, rel=1e-6)
    assert grid.volumes_mm3().sum() == pytest.approx(volume, rel=1e-12)
    batch = grid.integrate(jnp.ones((3, *grid.shape)))
    np.testing.assert_allclose(np.asarray(batch), [volume] * 3, rtol=1e-6)


def test_a_box_is_centred_on_the_origin_unless_placed():
    grid = Grid.cartesian((4, 5), (1.0, 2.0))
    np.testing.assert_allclose(grid.world_mm().mean(axis=(1, 2)), 0, atol=1e-14)
    placed = Grid.cartesian((4, 5), (1.0, 2.0), origin_mm=(10.0, -3.0))
    np.testing.assert_allclose(placed.world_mm()[:, 0, 0], (10, -3))
    np.testing.assert_allclose(placed.axis_mm(1), -3 + 2 * np.arange(5))


@pytest.mark.parametrize("affine", [LAS, PERMUTED, rotated(), rotated(-1.0)])
def test_world_and_index_are_inverse(affine):
    grid = Grid.from_affine((5, 6, 7), affine)
    np.testing.assert_allclose(grid.spacing_mm, np.linalg.norm(affine[:3, :3], axis=0))
    world = grid.world_mm()
    for cell in ((0, 0, 0), (4, 1, 3), (2, 5, 6)):
        np.testing.assert_allclose(world[(slice(None), *cell)], affine[:3] @ (*cell, 1))
        np.testing.assert_allclose(grid.index_of(world[(slice(None), *cell)]), cell, atol=1e-12)


@pytest.mark.parametrize("affine", [LAS, PERMUTED, rotated()])
def test_local_coordinates_are_distances_along_the_axes(affine):
    grid = Grid.from_affine((5, 6, 7), affine)
    cell = np.array([3, 1, 4])
    local = grid.local_mm(jnp.asarray(grid.world_mm()[:, 3, 1, 4]))
    np.testing.assert_allclose(np.asarray(local), cell * np.array(grid.spacing_mm), rtol=1e-5)
    for k in range(3):
        assert float(grid.local_axis(k)[cell[k]]) == pytest.approx(float(local[k]), rel=1e-5)
    # Moving by 1 mm along an axis moves the local coordinate by 1 mm.
    jacobian = jax.jacobian(grid.local_mm)(jnp.zeros(3))
    np.testing.assert_allclose(np.asarray(jacobian @ jacobian.T), np.eye(3), atol=1e-5)


def test_axis_coordinates_follow_flips_and_permutations():
    las = Grid.from_affine((5, 6, 7), LAS)
    np.testing.assert_allclose(las.axis_mm(0), 90 - 2 * np.arange(5))
    permuted = Grid.from_affine((5, 6, 7), PERMUTED)
    np.testing.assert_allclose(permuted.axis_mm(0), 20 - 2 * np.arange(5))  # world y
    np.testing.assert_allclose(permuted.axis_mm(1), 5 + np.arange(6))  # world z
    np.testing.assert_allclose(permuted.axis_mm(2), -10 + 1.5 * np.arange(7))  # world x


@pytest.mark.parametrize("affine", [LAS, PERMUTED, rotated()])
def test_a_crop_stays_where_it_was(affine):
    grid = Grid.from_affine((5, 6, 7), affine)
    part = grid.crop((1, 2, 0), (4, 6, 5))
    assert part.shape == (3, 4, 5)
    np.testing.assert_allclose(part.world_mm(), grid.world_mm()[:, 1:4, 2:6, 0:5])


def test_crops_keep_thickness_and_take_numpy_integers():
    grid = Grid.cartesian((6, 6), 1.0, thickness_mm=4.0)
    part = grid.crop(tuple(np.array([1, 2])), tuple(np.array([5, 6])))
    assert part.thickness_mm == 4.0
    assert part.shape == (4, 4)
    assert type(part.shape[0]) is int
    assert Grid.radial(8, 0.5).crop((0,), (5,)) == Grid.radial(5, 0.5)


def test_grids_hash_and_compare():
    a, b = Grid.from_affine((5, 6, 7), LAS), Grid.from_affine((5, 6, 7), LAS)
    assert a == b
    assert hash(a) == hash(b)
    assert a != Grid.from_affine((5, 6, 7), PERMUTED)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Grid.cartesian((4, 0), 1.0),
        lambda: Grid.cartesian((4, 4), -1.0),
        lambda: Grid.cartesian((4, 4), math.nan),
        lambda: Grid.cartesian((4, 4), math.inf),
        lambda: Grid.cartesian((4, 4), (1.0, 1.0, 1.0), origin_mm=(0.0, 0.0)),
        lambda: Grid.cartesian((4, 4), 1.0, origin_mm=(0.0,)),
        lambda: Grid.cartesian((4, 4), 1.0, thickness_mm=0.0),
        lambda: Grid.cartesian((4, 4, 4, 4), 1.0),
        lambda: Grid((4, 4), (1.0, 1.0), "radial"),
        lambda: Grid((4, 4, 4), (1.0, 1.0, 1.0), affine=tuple(map(tuple, LAS))),  # lengths disagree
        lambda: Grid.from_affine((4, 4, 4), np.diag([1.0, 0.0, 1.0, 1.0])),
        lambda: Grid.from_affine((4, 4, 4), np.diag([1.0, np.nan, 1.0, 1.0])),
        lambda: Grid.from_affine((4, 4, 4), np.eye(4) + 0.1 * np.eye(4, k=1)),
        lambda: Grid.cartesian((4, 4), 1.0).crop((-1, 0), (3, 3)),
        lambda: Grid.cartesian((4, 4), 1.0).crop((0, 0), (5, 4)),
        lambda: Grid.cartesian((4, 4), 1.0).crop((2, 2), (2, 4)),
        lambda: Grid.cartesian((4, 4), 1.0).crop((0,), (4,)),
        lambda: Grid.radial(4, 1.0).crop((1,), (4,)),
    ],
)
def test_impossible_grids_are_refused(make):
    with pytest.raises(ValueError, match=r"[Gg]rid|affine"):
        make()
