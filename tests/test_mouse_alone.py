"""The mouse study once more without JAX and without taxis: radial finite volumes in NumPy, as plain as they can be.

Reads no code of the model, only the numbers of configs/studies/aboody2000.toml; what comes out is quoted there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import solve_banded

from glioma_pde.config import load

STUDY = load(Path(__file__).parent.parent / "configs" / "studies" / "aboody2000.toml")
ARMS = {arm.arm: arm for arm in STUDY.arms}
STEP = 0.02  # day


def burden(arm, inexhaustible: float | None = None) -> float:
    """Tumour cells on day 14.

    u' = D ∇²u + ρ u (1 − u) − E(c) u,   s' = D_s ∇²s + ρ_s s (1 − u − s) − δ_s s,   0 = D_c ∇²c − λ_c c + w(s, p).

    Args:
        inexhaustible: release [mol/cell/day] of every carrier while the course lasts, instead of kinetics of the prodrug.
    """
    h, n = arm.tissue.spacing_mm, round(arm.tissue.radius_mm / arm.tissue.spacing_mm)
    faces = h * np.arange(n + 1)
    r, volume = faces[:-1] + h / 2, 4 / 3 * np.pi * np.diff(faces**3)
    area = 4 * np.pi * faces[1:-1] ** 2 / h
    t, s, p, d = arm.tumour, arm.carriers, arm.prodrug, arm.drug

    def implicit(diffusivity, sink, scale):
        """sink − scale ∇·D∇ as the three diagonals that solve_banded takes."""
        flow = scale * diffusivity * area
        middle = sink * np.ones(n)
        middle[:-1] += flow / volume[:-1]
        middle[1:] += flow / volume[1:]
        return np.array([[0.0, *(-flow / volume[:-1])], middle, [*(-flow / volume[1:]), 0.0]])

    def gaussian(cells, sigma):
        shape = np.exp(-(r**2) / (2 * sigma**2))
        return cells / arm.capacity_cells_per_mm3 * shape / (shape @ volume)

    u = gaussian(t.initial.cells, t.initial.sigma_mm)
    dose = arm.schedule.injections[0] if d is not None else None
    if dose is None:
        carriers = np.zeros(n)
    else:
        carriers = gaussian(dose.cells * dose.retained_fraction, dose.sigma_mm)
        course = p.courses[0]
        k = np.log(2) * 24 / p.plasma_half_life_h
        input_uM = (
            1e3 * p.bioavailability * course.dose_mg_per_kg_per_day / (p.volume_l_per_kg * p.molar_mass_g_per_mol)
        )
        spread_c = implicit(d.diffusivity_mm2_per_day, d.decay_per_day, 1.0)
        spread_s = implicit(s.diffusivity_white_mm2_per_day, 1.0, STEP)
    spread_u = implicit(t.diffusivity_white_mm2_per_day, 1.0, STEP)
    density = 1e12 * arm.capacity_cells_per_mm3  # mol/cell/day → µM/day at s = 1
    for step in range(round(14.0 / STEP)):
        now, kill = (step + 0.5) * STEP, 0.0
        if dose is not None:
            on = course.start_day <= now < course.end_day
            since, after = (
                np.clip(now - course.start_day, 0, course.end_day - course.start_day),
                max(0.0, now - course.end_day),
            )
            level = p.brain_plasma_ratio * input_uM / k * -np.expm1(-k * since) * np.exp(-k * after)
            if inexhaustible is not None:
                made = inexhaustible * density * carriers * on
            else:  # exchange with plasma balances conversion: k_ex (level − p) = w p/(K_m + p)
                w = p.vmax_mol_per_cell_per_day * density * carriers
                b = p.km_uM + w / p.exchange_per_day - level
                brain = 0.5 * (np.sqrt(b * b + 4 * p.km_uM * level) - b)
                made = w * brain / (p.km_uM + brain)
            c = solve_banded((1, 1), spread_c, made)
            kill = d.kill.emax_per_day * c / (d.kill.ic50_uM + c)
            growth = s.proliferation_per_day * np.maximum(0.0, 1 - u - carriers) - s.loss_per_day
            carriers = solve_banded((1, 1), spread_s, carriers * np.exp(STEP * growth))
        u = solve_banded((1, 1), spread_u, u * np.exp(STEP * (t.proliferation_per_day * (1 - u) - kill)))
    return float(arm.capacity_cells_per_mm3 * (u @ volume))


@pytest.mark.parametrize(
    ("arm", "with_pool", "without"),
    [("nsc_fc", -0.89, -0.88), ("nsc_fc_1to1", -0.69, -0.68), ("nsc_fc_unfavourable", -0.20, -0.21)],
)
def test_plain_finite_volumes_give_what_the_study_quotes(arm, with_pool, without, untreated):
    assert burden(ARMS[arm]) / untreated - 1.0 == pytest.approx(with_pool, abs=0.006)
    assert burden(ARMS[arm], inexhaustible=1.4e-14) / untreated - 1.0 == pytest.approx(without, abs=0.006)


@pytest.fixture(scope="module")
def untreated():
    return burden(ARMS["untreated"])
