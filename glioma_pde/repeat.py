"""An experiment from a run file alone: its configuration, its anatomy, its initial state."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from .build import Experiment, build, image_names
from .config import from_json
from .errors import GliomaError
from .grid import Grid
from .io.hdf5 import RunFile
from .manifest import UNSAID
from .tissue import Tissue


@contextlib.contextmanager
def _explaining(file: RunFile) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise GliomaError(f"{file.path} lacks what is needed to repeat or resume its run ({error}).") from error


def experiment_from_file(path: str | Path) -> Experiment:
    """The arm that ``path`` holds, ready to run again or to be resumed.

    The anatomy comes from the file, so the images that the run started from are not needed. Initial fields and other
    images that sections read are in the file too; an initial tumour given as a formula is evaluated again.

    Raises:
        GliomaError: if the file is damaged or not a run file, or its run had a model, events or days that its
            configuration does not describe.
    """
    with RunFile(path) as file, _explaining(file):
        if strange := file.attrs.get(UNSAID):
            raise GliomaError(
                f"{path} comes from Python code that set what its configuration does not describe ({strange}); "
                "repeat or resume its run from there, with run(…) or resume(…)."
            )
        config = from_json(file.config_json, str(Path(path).parent))
        dtype = jnp.dtype(config.numerics.precision)
        maps = {n: file.tissue(n) for n in file.tissue_names}
        full_shape = tuple(int(n) for n in file.attrs["full_shape"])
        start = tuple(int(n) for n in file.attrs["window_start"])
        full_affine = np.asarray(file.attrs["full_affine"])
        tissue = Tissue.from_arrays(
            maps["white"], maps["grey"], maps.get("csf"), maps["mask"].astype(bool), grid=file.grid, dtype=dtype,
            tolerance=1e-2,
        )  # fmt: skip
        background = file.anatomy()
        shapes = {str(k): int(n) for k, n in json.loads(file.text("shapes")).items()}
        images = {n: jnp.asarray(maps[n], dtype) for n in image_names(config)}
        initial = file.initial() or None
        if full_shape != tissue.grid.shape:
            tissue = replace(tissue, full_grid=Grid.from_affine(full_shape, full_affine), window_start=start)
    experiment = build(config, tissue, initial, shapes, images)
    return replace(experiment, background=background)
