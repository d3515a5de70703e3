"""TOML → a checked calibration: the sections of `fit`, and the arms of any other configuration."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import ConfigError
from .fit import FIT_SECTIONS
from .loading import parsed_toml, read_text, study_of
from .messages import sentence
from .sections import Study

_ONE_CELL: dict[str, Any] = {
    "tissue": {"kind": "phantom", "geometry": "box", "shape": [4, 4], "spacing_mm": 1.0},
    "initial": {"kind": "gaussian", "centre_mm": [0.0, 0.0], "sigma_mm": 1.0, "peak": 0.1},
}
"""What stands in for the anatomy of a well-mixed site until it is built."""


class FitStudy(BaseModel):
    """A calibration, complete and checked.

    Attributes:
        study: the arms. derived, fixed: as in the file, by name.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    study: Study
    fit: Any
    observables: dict[str, Any]
    parameters: dict[str, Any]
    derived: dict[str, str]
    fixed: dict[str, float | str]
    folder: str

    @property
    def data_path(self) -> Path:
        return Path(self.folder) / self.fit.data


def load_fit(path: str | Path, sets: Iterable[str] = ()) -> FitStudy:
    """Read and check the configuration of a calibration.

    Args:
        sets: overrides ``section.key=value``.

    Raises:
        ConfigError: naming every problem with its path.
    """
    return loads_fit(read_text(path), str(path), sets, Path(path).parent)


def loads_fit(text: str, where: str = "configuration", sets: Iterable[str] = (), folder: str | Path = ".") -> FitStudy:
    """`load_fit` for text."""
    problems: list[str] = []
    data = parsed_toml(text, where, sets, problems)
    found: dict[str, Any] = {}
    for name, adapter in FIT_SECTIONS.items():
        given = data.pop(name, None)
        if given is None:
            found[name] = {}
            if name in ("fit", "observables", "parameters"):
                problems.append(f"{name}: this section is missing")
            continue
        try:
            found[name] = adapter.validate_python(given)
        except ValidationError as e:
            problems += [sentence(name, error, given) for error in e.errors(include_url=False)][:100]
    if getattr(found["fit"], "geometry", "") == "well_mixed":
        problems += _one_cell(data)
    numerics = data.setdefault("numerics", {})
    if isinstance(numerics, dict):  # least squares need the digits, and nobody looks at the ledger
        numerics |= {"precision": "float64", "ledger": False} | numerics
    study = study_of(data, where, text, folder, problems)
    return FitStudy(study=study, folder=str(folder), **found)


def is_fit_config(path: str | Path) -> bool:
    """Whether the file has a section [fit]; what is wrong with it otherwise is not told here."""
    try:
        return "fit" in tomllib.loads(read_text(path))
    except (ConfigError, ValueError, RecursionError):
        return False


def _one_cell(data: dict[str, Any]) -> list[str]:
    problems = []
    tumour = data.setdefault("tumour", {})
    if "tissue" in data:
        problems.append("tissue: a well-mixed site has none; leave it out, or set fit.geometry = 'configured'")
    if isinstance(tumour, dict):
        if "initial" in tumour:
            problems.append(
                "tumour.initial: a well-mixed site starts from the parameter tumour.initial.fraction; leave it out"
            )
        tumour["initial"] = _ONE_CELL["initial"]
    data["tissue"] = _ONE_CELL["tissue"]
    return problems
