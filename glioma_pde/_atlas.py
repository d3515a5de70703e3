"""Where the MNI152 maps lie that nilearn packages, without importing it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from .errors import GliomaError

T1_BRAIN = 0.2
"""Of the brightest T1 voxel; the skull is already stripped, so only air lies below."""


def data_folder() -> Path:
    """Where nilearn keeps its maps.

    Raises:
        GliomaError: nilearn is not installed.
    """
    # nilearn is found but not imported: its loaders pull in scikit-learn and pandas, seconds of work.
    spec = find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise GliomaError(
            'The MNI152 brain comes with nilearn, which is not installed: pip install "glioma_pde[atlas]".'
        )
    return Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data"


def atlas_file(name: str) -> Path:
    """The map ``"wm"``, ``"gm"`` or ``"t1"``.

    Raises:
        GliomaError: nilearn, or the map, is not installed.
    """
    path = data_folder() / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise GliomaError(
            f"This nilearn does not hold the MNI152 map {path.name}; "
            'install another version: pip install --upgrade "glioma_pde[atlas]".'
        )
    return path
