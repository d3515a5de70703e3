"""Footprints of injections: shape, place, and no cell lost at the mask's edge."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.immune import Suppression
from glioma_pde.biology.prodrug import Boluses, Courses
from glioma_pde.biology.surgery import Resections
from glioma_pde.biology.temozolomide import OralDoses
from glioma_pde.biology.tumour import Tumour
from glioma_pde.delivery import CarrierDoses, Intracerebral, Intravenous, gaussian
from glioma_pde.grid import Grid
from glioma_pde.model import Model
from glioma_pde.tissue import Tissue


def rotated(angle, scale=(1.0, 1.5, 2.0), flips=(1, 1, 1)):
    c, s = math.cos(angle), math.sin(angle)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(np.array(scale) * flips)
    matrix[:3, 3] = (-9.0, 4.0, -3.0)
    return matrix


GRIDS = {
    "ball": Grid.radial(20, 0.5),
    "line": Grid.cartesian((20,), 0.8),
    "plane": Grid.cartesian((16, 14), (1.0, 0.7), thickness_mm=2.0),
    "box": Grid.cartesian((12, 10, 8), (1.0, 1.5, 2.0)),
    "rotated": Grid.from_affine((12, 10, 8), rotated(0.4)),
    "flipped": Grid.from_affine((12, 10, 8), rotated(2.0, flips=(-1, 1, -1))),
    "permuted": Grid.from_affine(
        (12, 10, 8), np.array([[0, 0, 1.5, -10], [-2.0, 0, 0, 20], [0, 1, 0, 5], [0, 0, 0, 1]])
    ),
}


def with_holes(grid, dtype=None):
    """Tissue with cells missing everywhere."""
    ones = np.ones(grid.shape)
    mask = np.random.default_rng(0).random(grid.shape) < 0.7
    return Tissue.from_arrays(ones, 0 * ones, grid=grid, mask=mask, dtype=dtype)


def places(grid):
    """A point inside, one at a corner of the box, and one outside it."""
    first, last = grid.world_mm().reshape(grid.ndim, -1)[:, [0, -1]].T
    return [0.4 * first + 0.6 * last, last, last + 0.1 * (last - first)]


footprint = eqx.filter_jit(Intracerebral().footprint)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", GRIDS)
def test_every_footprint_integrates_to_one_inside_the_mask(name, dtype):
    tissue = with_holes(GRIDS[name], dtype)
    volumes, mask = GRIDS[name].volumes_mm3(), np.asarray(tissue.mask)
    for site in places(GRIDS[name]):
        for sigma in (0.5 * max(GRIDS[name].spacing_mm), 3.0):
            g = footprint(tissue, jnp.asarray(site[None], dtype), jnp.full(1, sigma, dtype), jnp.ones(1, dtype))
            assert g.dtype == dtype
            assert float((np.asarray(g, float) * volumes).sum()) == pytest.approx(
                1.0, rel=2e-6 if dtype == jnp.float32 else 1e-13
            )
            assert np.all(np.asarray(g)[~mask] == 0)
            assert g.min() >= 0


@pytest.mark.parametrize("name", ["plane", "box", "rotated", "flipped", "permuted"])
def test_deposits_sit_at_their_world_coordinates(name):
    """Mean and spread of the footprint, taken in world coordinates, are the site's and σ."""
    grid = GRIDS[name]
    ones = np.ones(grid.shape)
    tissue = Tissue.from_arrays(ones, 0 * ones, grid=grid)
    world = grid.world_mm()
    site = world.reshape(grid.ndim, -1).mean(1) + 0.3
    sigma = 1.05
    g = np.asarray(footprint(tissue, jnp.asarray(site[None]), jnp.full(1, sigma), jnp.ones(1))) * grid.volumes_mm3()
    mean = (world * g).reshape(grid.ndim, -1).sum(1)
    np.testing.assert_allclose(mean, site, atol=0.02)
    # cell means add h²/12 to the variance along each of the grid's axes
    axes = grid.matrix[: grid.ndim, : grid.ndim] / np.asarray(grid.spacing_mm)
    along = np.einsum("wk,w...->k...", axes, world - site.reshape(-1, *(1,) * grid.ndim))
    variance = (along**2 * g).reshape(grid.ndim, -1).sum(1)
    np.testing.assert_allclose(variance, sigma**2 + np.asarray(grid.spacing_mm) ** 2 / 12, rtol=0.05)


def fine_means(grid, centre, sigma, parts=40):
    """Cell means of the Gaussian by a fine midpoint rule along each axis."""
    out = np.ones(())
    local = np.asarray(grid.local_mm(jnp.asarray(centre)))
    for k, h in enumerate(grid.spacing_mm):
        x = np.asarray(grid.local_axis(k))[:, None] + (((np.arange(parts) + 0.5) / parts - 0.5) * h)[None, :]
        at = 0.0 if grid.geometry == "radial" else local[k]
        weight = x * x if grid.geometry == "radial" else np.ones_like(x)
        profile = (weight * np.exp(-0.5 * ((x - at) / sigma) ** 2)).sum(1) / weight.sum(1)
        out = out[..., None] * profile
    return out


@pytest.mark.parametrize("name", ["ball", "plane", "rotated"])
def test_gaussians_are_cell_means(name):
    grid = GRIDS[name]
    centre = np.zeros(1) if name == "ball" else places(grid)[0] + 0.13
    h = max(grid.spacing_mm)
    # The three-point rule errs as (h/σ)⁶; at the narrowest σ admitted, h/2, by less than a percent of the peak.
    for sigma, tolerance in ((3.0 * h, 2e-6), (h, 3e-4), (0.5 * h, 1e-2)):
        exact = fine_means(grid, centre, sigma, 400)
        found = np.asarray(gaussian(grid, jnp.asarray(centre), jnp.asarray(sigma)))
        np.testing.assert_allclose(found, exact, atol=tolerance * exact.max())


def test_a_needle_outside_the_mask_delivers_to_the_nearest_tissue_or_says_nan():
    tissue = Tissue.phantom("sphere", (20, 18), 1.0, radius_mm=6.0)
    x, _y = tissue.grid.world_mm()
    near = np.asarray(footprint(tissue, jnp.array([[8.0, 0.0]]), jnp.full(1, 1.0), jnp.ones(1)))
    assert near.sum() == pytest.approx(1.0, rel=1e-13)
    assert (x * near).sum() > 4.5
    assert np.all(np.isnan(footprint(tissue, jnp.array([[300.0, 0.0]]), jnp.full(1, 1.0), jnp.ones(1))))
    # but a padding site, wherever it lies, is nothing
    sites, sigmas = jnp.array([[1.0, 0.0], [300.0, 0.0]]), jnp.ones(2)
    padded = footprint(tissue, sites, sigmas, jnp.array([1.0, 0.0]))
    alone = footprint(tissue, sites[:1], sigmas[:1], jnp.ones(1))
    assert np.array_equal(padded, alone)


def test_cells_are_shared_out_by_weight_and_counted_exactly():
    tissue = with_holes(GRIDS["plane"])
    sites = jnp.array([[[-5.0, 0.0], [5.0, 1.0]], [[2.0, 2.0], [0.0, 0.0]]])
    doses = CarrierDoses(
        jnp.zeros(2),
        jnp.array([3e5, 2e5]),
        jnp.array([0.71, 0.5]),
        sites,
        jnp.ones((2, 2)),
        jnp.array([[0.25, 0.75], [1.0, 0.0]]),
    )
    x = {"carriers": 0.1 * tissue.mask, "tumour": 0.3 * tissue.mask}
    model = Model(tissue, [Tumour(), Carriers(taxis=None)], 1e5)
    for event, cells in ((0, 0.71 * 3e5), (1, 0.5 * 2e5)):
        after, brought = doses.jump(x, model, jnp.asarray(event))
        gained = tissue.grid.integrate(after["carriers"] - x["carriers"])
        assert float(gained) * 1e5 == pytest.approx(cells, rel=1e-12)
        assert float(brought["carrier_delivery"]) * 1e5 == pytest.approx(cells, rel=1e-14)
        assert after["tumour"] is x["tumour"]
    first = doses.density(tissue, jnp.asarray(1e5), jnp.asarray(0))[0] * jnp.asarray(tissue.grid.world_mm()[0] < 0)
    assert float(tissue.grid.integrate(first)) * 1e5 == pytest.approx(0.25 * 0.71 * 3e5, rel=1e-3)


def test_equal_doses_at_given_sites():
    doses = CarrierDoses.at_sites([0.0, 14.0], 1.5e8, [[8.0, 0.0], [-8.0, 0.0], [0.0, 8.0]], 3.0, 0.71)
    assert doses.sites_mm.shape == (2, 3, 2)
    assert doses.sigma_mm.shape == doses.weight.shape == (2, 3)
    np.testing.assert_allclose(doses.weight.sum(1), 1.0)
    np.testing.assert_allclose(doses.cells, 1.5e8)


def test_footprints_are_differentiable_in_place_and_width():
    tissue = with_holes(GRIDS["plane"])
    weight = jnp.asarray(np.random.default_rng(0).standard_normal(tissue.grid.shape))

    @jax.jit
    def goal(site, sigma):
        return jnp.vdot(weight, Intracerebral().footprint(tissue, site[None], sigma[None], jnp.ones(1)))

    at, h = (jnp.array([1.3, -0.4]), jnp.asarray(1.1)), 1e-5
    slopes = jax.jit(jax.grad(goal, (0, 1)))(*at)
    for k in range(2):
        step = h * jnp.eye(2)[k]
        assert float(slopes[0][k]) == pytest.approx(
            float(goal(at[0] + step, at[1]) - goal(at[0] - step, at[1])) / (2 * h), rel=1e-7
        )
    assert float(slopes[1]) == pytest.approx(float(goal(at[0], at[1] + h) - goal(at[0], at[1] - h)) / (2 * h), rel=1e-7)


ONE = jnp.array([1.0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: CarrierDoses.at_sites([0.0], -1e5, [[0.0]], 2.0), "0 or more, not cells -100000"),
        (lambda: CarrierDoses.at_sites([0.0], [1e5, math.inf], [[0.0]], 2.0), "0 or more, not cells inf"),
        (lambda: CarrierDoses.at_sites([math.nan], 1e5, [[0.0]], 2.0), "not days nan"),
        (lambda: CarrierDoses.at_sites([0.0], 1e5, [[0.0]], -2.0), "0 or more, not sigma_mm -2"),
        (
            lambda: CarrierDoses.along(Intravenous(), [0.0], 1e5, 1.5, -0.1),
            "from 0 to 1, not retained_fraction 1.5, backflow_fraction -0.1",
        ),
        (lambda: Courses(ONE, 2 * ONE, -ONE), "0 or more, not dose_mg_per_kg_per_day -1"),
        (lambda: Boluses(ONE, -ONE), "0 or more, not dose_mg_per_kg -1"),
        (lambda: OralDoses(ONE, -ONE), "0 or more, not dose_mg_per_m2 -1"),
        (lambda: Suppression(ONE, 2 * ONE, 1.5 * ONE), "from 0 to 1, not fraction 1.5"),
        (lambda: Resections(ONE, jnp.zeros((1, 2)), -ONE, -2 * ONE, ONE), "0 or more, not radius_mm -1, margin_mm -2"),
        (lambda: Resections(ONE, jnp.zeros((1, 2)), ONE, ONE, 2 * ONE), "from 0 to 1, not removed_fraction 2"),
    ],
)
def test_doses_from_python_that_make_no_sense_are_refused_in_one_sentence(given, message):
    with pytest.raises(ValueError) as error:
        given()
    assert str(error.value) == f"Values must be finite, {message}."


def test_traced_doses_are_taken_as_they_are():
    """Nothing is known of them: derivatives and batches go through."""

    def kept(cells):
        doses = CarrierDoses.at_sites([0.0], cells, [[0.0]], 2.0, 0.5)
        return doses.cells[0] * doses.retained_fraction[0]

    assert float(jax.grad(kept)(1e5)) == 0.5
    np.testing.assert_allclose(jax.vmap(kept)(jnp.array([1.0, 3.0])), [0.5, 1.5])
