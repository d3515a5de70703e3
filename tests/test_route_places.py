"""Routes to places that a configuration names: leaky vessels of [vasculature], a cavity and ventricles from images.

Cells neither move, die nor grow here: what the file holds at the end is the doses' footprints, whose formulas are
stated once more with NumPy and SciPy.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, label

from glioma_pde.build import build
from glioma_pde.config import loads
from glioma_pde.errors import ConfigError, GliomaError
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.io.nifti import write_image
from glioma_pde.repeat import experiment_from_file
from glioma_pde.run import run

STILL = """
[tumour]
diffusivity_white_mm2_per_day = 0.0
diffusivity_grey_mm2_per_day = 0.0
proliferation_per_day = 0.0
initial = { kind = "gaussian", centre_mm = [CENTRE], sigma_mm = 3.0, peak = 0.9 }
[carriers]
diffusivity_white_mm2_per_day = 0.0
diffusivity_grey_mm2_per_day = 0.0
loss_per_day = 0.0
taxis = { kind = "none" }
[time]
end_day = 2.0
frame_every_days = 1.0
[numerics]
precision = "float64"
"""

VESSELS = """
[tissue]
kind = "phantom"
geometry = "head"
shape = [24, 20]
spacing_mm = 2.0
[vasculature]
collapse_per_day = 0.5
collapse_density = 0.6
recovery_per_day = 0.1
leaky_density = 0.3
[[schedule.injections]]
route = "intravenous"
days = [0.25]
cells = 1e7
[[schedule.injections]]
route = "intra_arterial"
days = [1.0]
cells = 1e6
""" + STILL.replace("CENTRE", "16.0, 3.0")


def test_cells_from_the_blood_arrive_where_the_vessels_of_a_configuration_leak(tmp_path):
    run(build(loads(VESSELS).arms[0]), tmp_path / "a.h5")
    with RunFile(tmp_path / "a.h5") as file:
        # fields are stored in single precision
        u, carriers = (np.asarray(file.field(n, index=k), float) for n, k in (("tumour", 0), ("carriers", -1)))
        closing = 0.5 * u**4 / (0.6**4 + u**4)
        leaky = u**2 / (0.3**2 + u**2) * 0.1 / (closing + 0.1)
        np.testing.assert_allclose(file.field("vessel_leakiness", index=-1), leaky, rtol=1e-5, atol=1e-12)
        # the fractions of the routes, as they are by default
        delivered = 0.01 * 1e7 + 0.30 * 1e6
        np.testing.assert_allclose(carriers, delivered / 1e5 * leaky / (leaky.sum() * 4.0), rtol=1e-5, atol=1e-12)
        assert file.observable("carriers_delivered_cells")[-1] == pytest.approx(delivered, rel=1e-9)
        # as many as the leakiness says are where the tumour is
        inside = u > 0.1
        assert carriers[inside].sum() > 10.0 * carriers[~inside].sum()


def test_without_vessels_the_route_is_refused():
    with pytest.raises(ConfigError) as error:
        loads(VESSELS[: VESSELS.index("[vasculature]")] + VESSELS[VESSELS.index("[[schedule") :])
    assert [p.split(" route needs")[0] for p in error.value.problems] == [
        "schedule.injections[0]: the intravenous", "schedule.injections[1]: the intra_arterial",
    ]  # fmt: skip


IMAGES = """
[tissue]
kind = "nifti"
white = "white.nii.gz"
grey = "grey.nii.gz"
csf = "csf.nii.gz"
cavity = "cavity.nii.gz"
ventricle_seeds_mm = [[-6.0, 0.0, 0.0]]
[[schedule.injections]]
route = "intracavity"
days = [0.0]
cells = 1e6
thickness_mm = 2.0
[[schedule.injections]]
route = "intraventricular"
days = [1.0]
cells = 1e6
depth_mm = 2.0
""" + STILL.replace("CENTRE", "6.0, 0.0, 0.0")
SHAPE, SPACING = (18, 14, 12), 2.0


@pytest.fixture
def folder(tmp_path):
    """A box of brain with two lakes of CSF, of which one is the ventricle, and a cavity that cells may enter."""
    affine = np.diag([SPACING] * 3 + [1.0])
    affine[:3, 3] = [-SPACING * (n - 1) / 2 for n in SHAPE]
    x = np.stack(np.meshgrid(*(SPACING * (np.arange(n) - (n - 1) / 2) for n in SHAPE), indexing="ij"))

    def ball(*centre, radius):
        return np.linalg.norm(x - np.reshape(centre, (3, 1, 1, 1)), axis=0) < radius

    fluid = ball(-6.0, 0.0, 0.0, radius=4.5) | ball(12.0, 8.0, 4.0, radius=3.0)
    edge = np.ones(SHAPE, bool)
    edge[1:-1, 1:-1, 1:-1] = False
    brain = ~fluid & ~edge
    maps = {
        "white": 0.7 * brain,
        "grey": 0.3 * brain,
        "csf": fluid * 1.0,
        "cavity": 1.0 * ball(6.0, 0.0, 0.0, radius=4.0),
    }
    for name, values in maps.items():
        write_image(tmp_path / f"{name}.nii.gz", values, affine)
    return tmp_path, maps, brain


def layer(flags, inside, thickness, first=0.0):
    """An even layer around flagged cells, by SciPy's distances, with a cubic edge over one cell; its sum is 1."""
    away = distance_transform_edt(~flags) * SPACING + first
    part = np.clip((thickness - away) / SPACING + 1.0, 0.0, 1.0)
    even = np.where(inside & ~(flags & (first == 0.0)), part * part * (3.0 - 2.0 * part), 0.0)
    return even / even.sum()


def test_doses_go_to_the_cavity_and_the_ventricle_of_images(folder):
    path, maps, brain = folder
    experiment = build(loads(IMAGES, folder=path).arms[0])
    result = run(experiment, path / "a.h5")
    assert not [w for w in result.warnings if "no place" in w]
    with RunFile(path / "a.h5") as file:
        days = list(file.days)
        first, both = (file.field("carriers", index=days.index(d)) for d in (1.0, 2.0))
        assert file.observable("carriers_delivered_cells")[-1] == pytest.approx(0.61e6 + 0.1e6, rel=1e-9)
        whole = np.zeros((2, *SHAPE))
        start = experiment.model.tissue.window_start
        place = tuple(slice(a, a + n) for a, n in zip(start, experiment.model.tissue.grid.shape, strict=True))
        if first.shape == SHAPE:
            place = (slice(None),) * 3
        whole[0][place], whole[1][place] = first, both - first
        volume = SPACING**3
    # images keep their affine in single precision
    cavity = layer(maps["cavity"] > 0, brain, 2.0)
    np.testing.assert_allclose(whole[0] * volume * 1e5, 0.61e6 * cavity, rtol=1e-6, atol=1e-3)
    # the lake that holds the seed is the ventricle, the other one is not
    lakes, count = label(maps["csf"] > 0)
    assert count == 2
    ventricle = (
        lakes == lakes[tuple(np.rint((np.array([-6.0, 0, 0]) / SPACING) + (np.array(SHAPE) - 1) / 2).astype(int))]
    )
    wall = np.zeros(SHAPE, bool)
    for axis in range(3):
        for by in (1, -1):
            wall |= np.roll(ventricle, by, axis)
    wall &= brain
    np.testing.assert_allclose(
        whole[1] * volume * 1e5, 0.1e6 * layer(wall, brain, 2.0, first=SPACING), rtol=1e-6, atol=1e-3
    )
    # and the file has what it takes to do it again
    run(experiment_from_file(path / "a.h5"), path / "b.h5")
    with RunFile(path / "a.h5") as a, RunFile(path / "b.h5") as b:
        np.testing.assert_array_equal(a.field("carriers", index=-1), b.field("carriers", index=-1))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[[-6.0, 0.0, 0.0]]", "[[6.0, 0.0, 0.0]]", "tissue.ventricle_seeds_mm: [6.0, 0.0, 0.0] mm is not in CSF"),
        ("[[-6.0, 0.0, 0.0]]", "[[60.0, 0.0, 0.0]]", "tissue.ventricle_seeds_mm: [60.0, 0.0, 0.0] mm is not in CSF"),
        ('cavity = "cavity.nii.gz"', 'cavity = "small.nii.gz"', "small.nii.gz"),
        ('cavity = "cavity.nii.gz"', 'cavity = "nowhere.nii.gz"', "nowhere.nii.gz"),
    ],
)
def test_places_that_images_do_not_have_are_told(folder, old, new, sentence):
    path, maps, _ = folder
    write_image(path / "small.nii.gz", maps["cavity"][1:], np.eye(4))
    with pytest.raises(GliomaError) as error:
        build(loads(IMAGES.replace(old, new), folder=path).arms[0])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value).strip() or isinstance(error.value, ConfigError)
