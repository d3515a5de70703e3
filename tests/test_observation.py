"""Volumes above a threshold: how wide the ramp must be to have a slope, and how far it then leads off the volume."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glioma_pde.biology.tumour import Tumour
from glioma_pde.calibrate.observation import FLAIR, T1GD, WIDTH, ThresholdRadius, ThresholdVolume
from glioma_pde.model import Model
from glioma_pde.tissue import Tissue

LENGTH = 1.5
"""λ of a front 1/(1 + e^{(r − R)/λ}), mm: u changes by 0.1 within a millimetre at both thresholds."""


def errors(spacing_mm: float, threshold: float, width: float) -> tuple[float, float]:
    """Largest relative errors of the volume and of its slope by R, while the front moves through a cell."""
    model = Model(Tissue.radial(round(40 / spacing_mm), spacing_mm), [Tumour(0.1, 0.1, 0.05)], ledger=False)
    r = jnp.asarray(model.tissue.grid.axis_mm(0))

    def volume(place):
        u = 1.0 / (1.0 + jnp.exp((r - place) / LENGTH))
        return ThresholdVolume(threshold, width)(model, {"tumour": u})

    places = jnp.linspace(15.0, 16.0, 41)
    found, slope = jax.jit(jax.vmap(jax.value_and_grad(volume)))(places)
    edge = np.asarray(places) + LENGTH * np.log((1.0 - threshold) / threshold)
    off = np.asarray(found) / (4.0 / 3.0 * np.pi * edge**3) - 1.0
    return float(np.abs(off).max()), float(np.abs(np.asarray(slope) / (4.0 * np.pi * edge**2) - 1.0).max())


@pytest.mark.parametrize("threshold", [T1GD, FLAIR])
def test_the_usual_ramp_has_a_slope_while_cells_resolve_the_front(threshold):
    # u changes by 2.5 widths from cell to cell
    off, slope = errors(0.5, threshold, WIDTH)
    assert off < 0.01 and slope < 0.03
    # by 5: the volume is still good, its slope no more than roughly
    off, slope = errors(1.0, threshold, WIDTH)
    assert off < 0.02 and 0.1 < slope < 0.5
    # there a wider ramp has a slope, and a volume that is a few percent off
    off, slope = errors(1.0, threshold, 2.5 * WIDTH)
    assert off < 0.04 and slope < 0.04
    # without a ramp there is no slope at all
    assert errors(1.0, threshold, WIDTH / 20)[1] > 1.0


def test_empty_tissue_has_no_volume_and_full_tissue_all_of_it():
    model = Model(Tissue.radial(20, 1.0), [Tumour(0.1, 0.1, 0.05)], ledger=False)
    whole = 4.0 / 3.0 * np.pi * 20.0**3
    for width in (WIDTH, 5 * WIDTH):
        look = ThresholdVolume(FLAIR, width)
        assert float(look(model, {"tumour": jnp.zeros(20)})) == pytest.approx(0.0, abs=1e-3)
        assert float(look(model, {"tumour": jnp.ones(20)})) == pytest.approx(whole, rel=1e-3)
    radius = ThresholdRadius(FLAIR)(model, {"tumour": jnp.ones(20)})
    assert float(radius) == pytest.approx(20.0, rel=1e-3)
