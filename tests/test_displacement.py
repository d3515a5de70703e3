"""How far carriers come from their sites: exact under diffusion and under drift."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.biology.base import Module
from glioma_pde.biology.carriers import Carriers
from glioma_pde.biology.laws import LinearSensing
from glioma_pde.delivery import CarrierDoses, Schedule
from glioma_pde.grid import Grid
from glioma_pde.model import Model
from glioma_pde.observe import displacement
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve
from glioma_pde.tissue import Tissue

SITE = jnp.array([[-4.0, 0.0]])


class Slope(Module):
    """An attractant that rises by 1/mm along x."""

    name: ClassVar[str] = "attractant"
    provides: ClassVar = ("attractant", "attractant_scale")

    def quantities(self, x, q, at):
        along = at.grid.local_axis(0, at.tissue.white.dtype)[:, None]
        return {"attractant": jnp.broadcast_to(along, at.grid.shape), "attractant_scale": jnp.ones(())}

    def limits(self, at, limits):
        return {"attractant_scale": jnp.ones(())}


@pytest.fixture(scope="module")
def pulses():
    """Squares of the displacement on days 0 to 8, without and with a drift of 0.5 mm/day, of carriers that diffuse
    at 0.02 mm²/day and die; and the model's grid."""
    ones = np.ones((72, 32))
    tissue = Tissue.from_arrays(ones, 0.0 * ones, spacing_mm=0.25)
    days = np.arange(0.0, 9.0, 2.0)
    out = {}
    for drift in (0.0, 0.5):
        carriers = Carriers(0.02, 0.02, taxis=LinearSensing(drift), proliferation_per_day=None)
        model = Model(tissue, [carriers, Slope()])
        doses = CarrierDoses.at_sites([0.0], 1e3, SITE, 0.4)
        plan = make_plan(model, Schedule((doses,)), days.tolist(), 0.02)

        def save(model, carry, medium, day):
            s = carry.x["carriers"]
            given = jnp.array([True])
            return jnp.where(day > 0, displacement(model.tissue.grid, s + (day == 0), SITE, given), 0.0)

        out[drift] = np.asarray(solve(model, Schedule((doses,)), {}, plan, jnp.asarray(days), save=save).saved) ** 2
    return days, out


def test_by_diffusion_the_square_grows_as_2_d_D_t(pulses):
    days, squares = pulses
    grown = np.diff(squares[0.0][1:]) / np.diff(days[1:])
    np.testing.assert_allclose(grown, 2 * 2 * 0.02, rtol=1e-4)
    at_start = squares[0.0][1] - 4 * 0.02 * days[1]
    assert at_start == pytest.approx(2 * (0.4**2 + 0.25**2 / 12), rel=1e-3)  # σ² along each axis; cells group positions


def test_a_drift_adds_the_square_of_the_way(pulses):
    days, squares = pulses
    way = np.sqrt(squares[0.5][1:] - squares[0.0][1:])
    np.testing.assert_allclose(way, 0.5 * days[1:], rtol=0.06)  # the scheme's own diffusion of a narrow pulse adds some
    assert way[-1] == pytest.approx(0.5 * days[-1], rel=0.01)


def test_with_several_sites_it_is_the_distance_from_the_nearest():
    grid = Grid.cartesian((40, 4), 1.0)
    x = grid.axis_mm(0)
    s = jnp.asarray(((np.abs(x - 10.5) < 0.1) | (np.abs(x + 12.5) < 0.1)).astype(float)[:, None] * np.ones(4))
    sites = jnp.array([[10.5, 0.0], [-10.5, 0.0], [0.5, 0.0]])
    across = np.mean(grid.axis_mm(1) ** 2)
    both = displacement(grid, s, sites, jnp.array([True, True, False]))
    assert float(both) == pytest.approx(np.sqrt(0.5 * 2.0**2 + across))
    one = displacement(grid, s, sites, jnp.array([True, False, False]))
    assert float(one) == pytest.approx(np.sqrt(0.5 * 23.0**2 + across))


def test_on_shells_it_is_the_distance_from_the_centre():
    grid = Grid.radial(50, 0.1)
    s = jnp.exp(-(jnp.asarray(grid.axis_mm(0)) ** 2) / (2 * 0.8**2))
    assert float(displacement(grid, s, jnp.zeros((1, 1)), jnp.array([True]))) == pytest.approx(0.8 * 3**0.5, rel=1e-3)


def test_sites_count_once_something_was_given_there():
    doses = CarrierDoses.at_sites([1.0, 5.0], [1e3, 0.0], [[0.0, 0.0], [2.0, 0.0]], 1.0)
    for day, count in ((1.0, 0), (1.5, 2), (6.0, 2)):
        points, given = doses.origins(jnp.asarray(day))
        assert points.shape == (4, 2)
        assert int(given.sum()) == count
