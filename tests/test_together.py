"""All modules and laws together: a covering array of models in a plane, each through a whole run."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_anisotropy import written
from whole import (
    LEVELS,
    OFF,
    Kind,
    anatomy,
    arrangement,
    model_of,
    near_typical,
    rough_start,
    schedule_of,
)

from glioma_pde.cli import main
from glioma_pde.grid import Grid
from glioma_pde.io.atlas import mni152
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.io.nifti import write_image
from glioma_pde.ledger import balances
from glioma_pde.schedule import make_plan
from glioma_pde.solve import solve

EPS = np.finfo(float).eps
TOLERANCE = 1e-10
GRID = Grid.cartesian((12, 10), (1.0, 0.9))
DAYS = 2.0
SAVES = np.linspace(0.0, DAYS, 5)

# Levels of the factors of `LEVELS` in their order, found by annealing: any two levels of any two factors meet in a row.
ARRAY = """
    0000121202110100 0001121022212211 0020001111012101 0030100102111212 0030111000002022 0111121120012202
    1010110121201010 1021120202201022 1101010010001100 1111100000102021 1131111211110221 2000000101200022
    2030021011211001 2111010212000112 2120011020100210 2130100220202120
"""
ROWS = [Kind(*(levels[int(k)] for levels, k in zip(LEVELS.values(), row, strict=True))) for row in ARRAY.split()]


def test_any_two_levels_of_any_two_factors_meet():
    for (a, of_a), (b, of_b) in itertools.combinations(LEVELS.items(), 2):
        met = {(getattr(kind, a), getattr(kind, b)) for kind in ROWS}
        assert met == set(itertools.product(of_a, of_b)), (a, b)


def keep(model, carry, medium, day):
    """Fields, iterates of quasi-steady ones, the mask of the day, and what has been booked."""
    return carry.x, carry.warm, model.tissue.mask, {k: v + rest for k, (v, rest) in carry.ledger.items()}


solved = eqx.filter_jit(solve)


def check(kind: Kind, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    tissue = anatomy(GRID, rng, tensors=kind.tensors != OFF)
    p, r = near_typical(rng), arrangement(GRID, rng)
    model = model_of(kind, p, tissue, r, DAYS, TOLERANCE)
    schedule = schedule_of(kind, p, r, DAYS)
    plan = make_plan(model, schedule, SAVES, min(0.25, model.largest_step()))
    done = solved(model, schedule, rough_start(tissue, rng), plan, jnp.asarray(SAVES), keep)
    x, warm, masks, booked = jax.tree.map(np.asarray, done.saved)

    signs = balances(model, schedule.events)
    for name, field in x.items():
        assert np.all(np.isfinite(field)), name
        assert not np.any(field[~masks]), name
        assert field.min() >= -10 * EPS * field.max(), name
        # from the first day to every other one, all that comes and goes is booked
        total = [float(GRID.integrate(jnp.asarray(f))) for f in field]
        for k in range(1, len(SAVES)):
            flows = [sign * (booked[entry][k] - booked[entry][0]) for entry, sign in signs[name].items()]
            most = max(total[0], total[k], *map(abs, flows))
            assert abs(total[k] - total[0] - sum(flows)) <= 1e-13 * most, name
    for name, field in warm.items():
        assert not np.any(field[~masks]), name
        assert field.min() >= -TOLERANCE * field.max(), name

    # every module and event has had its say, so that nothing above holds for want of anything to happen
    idle = {name for name, values in booked.items() if not values[-1] > 0}
    assert idle <= {"carrier_unplaced", "resections_empty", "drug_exposure_healthy"}, idle
    assert masks[-1].sum() < masks[0].sum() if kind.surgery != "open" else np.all(masks == masks[0])
    if "vessels_missing" in x:
        assert float((x["vessels_missing"] + x["vessels_new"]).max()) <= 1.0 + 10 * EPS
    if "immune" in x:
        assert x["immune"].max() <= (1.0 + p["pi_i"]) * p["sigma_i"] / p["d_i"]
    if kind.filling and kind.growth != "exponential":
        assert x["carriers"].max() <= 1.0


# One with transported substances and one in equilibrium; between them every module.
FEW = (1, 10)


@pytest.mark.parametrize("row", FEW)
def test_mass_and_positivity_hold_whatever_is_on(row):
    check(ROWS[row])


@pytest.mark.slow
@pytest.mark.parametrize("row", sorted(set(range(len(ROWS))) - set(FEW)))
def test_mass_and_positivity_hold_in_every_other_row(row):
    check(ROWS[row])


# -- in the brain ------------------------------------------------------------------------------------------

BRAIN = """
title = "Everything"
[tissue]
kind = "mni152"
spacing_mm = 6.0
window = { centre_mm = [24.0, 10.0, 20.0], half_width_mm = 56.0 }
[tumour]
growth = "gompertz"
initial = { kind = "gaussian", centre_mm = [30.0, 10.0, 30.0], sigma_mm = 9.0, peak = 0.9 }
[carriers]
crowding = 0.5
tumour_kill_per_day = 1.0
tumour_kill_saturation = 0.5
drug_sensitivity = 0.1
alpha_per_gy = 0.02
taxis = { kind = "flux_limited", speed_mm_per_day = 0.4 }
[attractant]
range = "long"
[prodrug]
courses = [{ start_day = 1.0, end_day = 8.0, dose_mg_per_kg_per_day = 150.0 }]
boluses = [{ day = 9.0, dose_mg_per_kg = 40.0 }]
[drug]
kill = { kind = "hill", hill = 1.5 }
[resistance]
spontaneous_per_day = 0.01
[temozolomide]
combination = "bliss"
doses = [{ every = { from_day = 2.0, days = 1.0, count = 5 }, dose_mg_per_m2 = 75.0 }]
[surgery]
cavity = "closed"
resections = [{ day = 3.0, centre_mm = [30.0, 10.0, 30.0], radius_mm = 20.0, at_threshold = 0.16, margin_mm = 1.0 }]
[radiotherapy]
survival = "rockne"
fractions = [{ dose_gy = 2.0, weekdays = { from_day = 4.0, count = 5, first_weekday = "monday" } }]
dose_map = { path = "plan.nii.gz", prescription = 60.0 }
[trail]
secretion_mol_per_cell_per_day = 4e-16
counts_as_drug = true
[immune]
priming = 2.0
suppression = [{ start_day = 5.0, end_day = 7.0, fraction = 0.5 }]
[malignancy]
transformation_per_day = 1e-4
drug_sensitivity = 0.5
[oxygen]
tumour_consumption = 3.0
[necrosis]
[vasculature]
dynamics = "dynamic"
[anisotropy]
tensors = "fibres.nii.gz"
order = "fsl"
axes = "fsl"
contact_guidance = true
[[schedule.injections]]
days = [0.5, 6.5]
cells = 1e8
sites_mm = [[24.0, 10.0, 30.0], [44.0, 10.0, 30.0]]
sigma_mm = 6.0
backflow_fraction = 0.1
[[schedule.injections]]
route = "intracavity"
days = [3.0]
cells = 1e8
[[schedule.injections]]
route = "intraventricular"
days = [1.0]
cells = 1e8
[[schedule.injections]]
route = "intranasal"
days = [0.0]
cells = 1e8
sigma_mm = 6.0
[[schedule.injections]]
route = "intravenous"
days = [2.0]
cells = 1e8
[[schedule.injections]]
route = "intra_arterial"
days = [2.5]
cells = 1e8
[time]
end_day = 14.0
frame_every_days = 7.0
[outcome]
scan_every_days = 7.0
compare_days = [7.0, 14.0]
[output]
animation = false
[arms.everything]
[arms.nothing]
without = [
  "carriers", "attractant", "prodrug", "drug", "resistance", "temozolomide", "surgery", "radiotherapy", "trail", "immune",
  "malignancy", "oxygen", "necrosis", "vasculature", "anisotropy", "schedule",
]
"""


@pytest.mark.slow
def test_everything_at_once_in_the_brain_from_the_configuration_to_the_figures(tmp_path, capsys):
    whole = mni152(6.0)
    grid = whole.grid
    away = np.linalg.norm(grid.world_mm() - np.array([30.0, 10.0, 30.0]).reshape(3, 1, 1, 1), axis=0)
    write_image(tmp_path / "plan.nii.gz", 60.0 / (1.0 + (away / 40.0) ** 4), grid.matrix)
    written(tmp_path / "fibres.nii.gz", grid.matrix, grid.shape, "fsl", "fsl")
    source, out = tmp_path / "everything.toml", tmp_path / "out"
    source.write_text(BRAIN, encoding="utf-8")
    with jax.enable_x64(False):
        assert main(["check", str(source)]) == 0
        assert main(["run", str(source), "--out", str(out)]) == 0
        assert main(["compare", *map(str, sorted(out.glob("*.h5"))), "--out", str(tmp_path / "compared")]) == 0
    shown = capsys.readouterr().out
    assert "burden, day 14 [cells]" in shown
    made = {p.suffix for p in out.iterdir()}
    assert {".h5", ".csv", ".png"} <= made
    assert list((tmp_path / "compared").glob("*.png"))
    with RunFile(out / "everything.h5") as file, RunFile(out / "nothing.h5") as other:
        assert file.attrs["status"] == "finished"
        model_fields = set(file.fields)
        assert {
            "tumour",
            "resistant",
            "carriers",
            "immune",
            "malignant",
            "necrotic",
            "oxygen",
            "drug",
            "trail",
        } <= model_fields
        for name in model_fields:
            values = file.field(name, index=-1)
            assert np.all(np.isfinite(values)), name
            assert values.min() >= -1e-4 * values.max(), name
        closing = [n for n in file.ledger_columns if n.endswith("_imbalance")]
        assert len(closing) >= 8
        for name in closing:
            assert np.abs(file.ledger(name)).max() <= 5e-6, name
        given = file.observable("carriers_given_cells")[-1]
        assert given == pytest.approx(7e8, rel=1e-5)
        kept = 0.9 * 0.71 * 2e8 + 0.61e8 + 0.1e8 + 0.05e8 + 0.01e8 + 0.3e8
        assert file.ledger("carrier_delivery")[-1] == pytest.approx(kept, rel=1e-5)
        for name in (
            "radiation_dose_tumour", "extent_of_resection", "p_malignant", "trail_killed_cells", "immune_cleared_cells",
            "resected_volume",
        ):  # fmt: skip
            assert file.observable(name)[-1] > 0, name
        assert file.observable("necrotic_cells").max() > 1e6  # before the centre is resected
        assert 0.0 < file.observable("burden_cells")[-1] < 0.7 * other.observable("burden_cells")[-1]
