"""The MNI152 brain as tissue, from the maps that nilearn packages; no download."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from glioma_pde._atlas import T1_BRAIN, atlas_file
from glioma_pde.errors import GliomaError
from glioma_pde.io.nifti import read_image
from glioma_pde.tissue import Tissue, connected_component

LATERAL_VENTRICLE_MM = (-10.0, -5.0, 24.0)
"""A point in the lateral ventricles of the MNI152 brain, in its world coordinates [mm]."""


def mni152(spacing_mm: float | tuple[float, ...] = 1.0, dtype=None, on_host: bool = False) -> Tissue:
    """The symmetric ICBM 2009a nonlinear brain, MNI152: an average of 152 healthy adults.

    Brain B: T1 above 0.2 of its maximum (1883 mL). ``mask``: p_white + p_grey ≥ 0.5 in B.
    ``csf``: 1 - p_white - p_grey in B. ``ventricle``: the lateral ventricles, the part of
    csf > 0.5 that is connected (through faces) to MNI (-10, -5, 24) (17.8 mL); the third and fourth
    ventricle are not resolved. ``background``: the T1 image, 0 to 255. The maps hold nothing
    outside B. World coordinates are MNI coordinates, +x right; the atlas itself has 1 mm voxels,
    197 x 233 x 189.

    Source: V. S. Fonov, A. C. Evans, R. C. McKinstry, C. R. Almli, D. L. Collins, "Unbiased
    nonlinear average age-appropriate brain templates from birth to adulthood", NeuroImage 47,
    Supplement 1, S102 (2009); the files as packaged by nilearn.

    Args:
        spacing_mm: cell size [mm]; other than 1, the maps are averaged conservatively.
        dtype: floating type of the maps; default JAX's own.
        on_host: as for `Tissue.from_arrays`, unless resampled.

    Raises:
        GliomaError: nilearn, or its maps, are not installed; or the spacing is not possible.
    """
    paths = [atlas_file(name) for name in ("wm", "gm", "t1")]
    with ThreadPoolExecutor() as pool:
        (white, affine), (grey, b), (t1, c) = pool.map(read_image, paths)
    if not (white.shape == grey.shape == t1.shape and np.allclose(affine, b) and np.allclose(affine, c)):
        raise GliomaError(f"The MNI152 maps in {paths[0].parent} do not share one space; reinstall nilearn.")
    # Stored as bytes, 255 for a whole voxel. Sums of bytes are exact in float32, so CSF is never < 0.
    full = np.float32(max(white.max(), grey.max()))
    outside = t1 <= T1_BRAIN * t1.max()
    csf = full - white
    csf -= grey
    for values in (white, grey, csf):  # in place: these are large
        np.copyto(values, 0, where=outside)
        values /= full
    matrix = np.linalg.inv(affine)
    seed = np.rint(matrix[:3, :3] @ np.asarray(LATERAL_VENTRICLE_MM) + matrix[:3, 3]).astype(int)
    tissue = Tissue.from_arrays(
        white,
        grey,
        csf,
        affine=affine,
        dtype=dtype,
        ventricle=connected_component(csf > 0.5, tuple(seed.tolist())),
        background=t1,
        on_host=on_host,
    )
    return tissue.resample(spacing_mm)
