"""TOML → a checked calibration: the sections of `fit`, and the arms of any other configuration."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import ConfigError
from .fit import FIT_SECTIONS
from .loading import merge, parsed_toml, read_text, study_of
from .messages import sentences, shown
from .sections import Study

_NAME = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_ONE_CELL: dict[str, Any] = {
    "tissue": {"kind": "phantom", "geometry": "box", "shape": [4, 4], "spacing_mm": 1.0},
    "initial": {"kind": "gaussian", "centre_mm": [0.0, 0.0], "sigma_mm": 1.0, "peak": 0.1},
}
"""What stands in for the anatomy of a well-mixed site until it is built."""
_WITH_A_PLACE = (("surgery", ""), ("anisotropy", ""), ("schedule", ""), ("radiotherapy", "dose_map"))
"""Sections, and keys of sections, that say where."""


class FitStudy(BaseModel):
    """A calibration, complete and checked.

    Attributes:
        study: the arms. derived, fixed: as in the file, by name.
        models: further models of the same data, by name: ``[models.NAME]`` is the file with that table merged in, less
            sections, or ``section.key``, in its list ``without``.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    study: Study
    fit: Any
    observables: dict[str, Any]
    parameters: dict[str, Any]
    derived: dict[str, str]
    fixed: dict[str, float | str]
    design: Any = None
    folder: str
    models: dict[str, FitStudy] = {}

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
    models = data.pop("models", {})
    whole = copy.deepcopy(data)
    study, problems = _attempt(data, where, text, folder, problems)
    told = set(problems)
    if not isinstance(models, dict) or not all(isinstance(m, dict) and _NAME.fullmatch(n) for n, m in models.items()):
        problems.append("models: must hold one table for each model, as [models.radial]")
        models = {}
    others = {}
    for name, override in models.items():
        mine = copy.deepcopy(whole)
        without = override.pop("without", [])
        for path in without if isinstance(without, list) else [without]:
            section, _, key = path.partition(".") if isinstance(path, str) else ("", "", "")
            inside = mine if not key else mine.get(section)
            if not isinstance(inside, dict) or inside.pop(key or section, None) is None:
                problems.append(
                    f"models.{name}.without: {shown(path)} is neither a section of the file nor section.key"
                )
        merge(mine, override)
        other, more = _attempt(mine, where, text, folder, [])
        problems += [f"models.{name}.{p}" for p in more if p not in told]
        if other is not None and study is not None:
            others[name] = other
            problems += [
                f"models.{name}.fit.{key}: is the same for all models"
                for key in ("data", "hold_out_after_day", "hold_out_subjects", "given_first")
                if getattr(other.fit, key) != getattr(study.fit, key)
            ]
    names = set(others) & set(study.fit.laws if study is not None else ())
    problems += [f"models.{name}: is also the name of a growth law in fit.laws" for name in sorted(names)]
    if problems or study is None:
        raise ConfigError(problems, where)
    return study.model_copy(update={"models": others})


def _attempt(
    data: dict[str, Any], where: str, text: str, folder: str | Path, problems: list[str]
) -> tuple[FitStudy | None, list[str]]:
    """One calibration, or what is wrong with it."""
    try:
        return _one(data, where, text, folder, problems), []
    except ConfigError as error:
        return None, list(error.problems)


def _one(data: dict[str, Any], where: str, text: str, folder: str | Path, problems: list[str]) -> FitStudy:
    found: dict[str, Any] = {}
    fit = data.get("fit")
    for name, adapter in FIT_SECTIONS.items():
        given = data.pop(name, None)
        if given is None:
            found[name] = None if name == "design" else {}
            if name in ("fit", "observables", "parameters"):
                problems.append(f"{name}: this section is missing")
            continue
        try:
            found[name] = adapter.validate_python(given)
        except ValidationError as e:
            problems += sentences(name, e, given, 100)
    problems += _unread(found)
    # as it is written, so that a mistake elsewhere in [fit] does not ask for a tissue
    if isinstance(fit, dict) and fit.get("geometry") == "well_mixed":
        problems += _one_cell(data)
    numerics = data.setdefault("numerics", {})
    if isinstance(numerics, dict):  # least squares need the digits, and nobody looks at the ledger
        numerics |= {"precision": "float64", "ledger": False} | numerics
    study = study_of(data, where, text, folder, problems)
    return FitStudy(study=study, folder=str(folder), **found)


def _unread(found: dict[str, Any]) -> list[str]:
    """Keys of [fit] that stand beside a population, whose search does not read them."""
    free = found.get("parameters") or {}
    if not found.get("fit") or not any(getattr(parameter, "population", False) for parameter in free.values()):
        return []
    keys = ("sampling", "method", "tolerance", "max_steps")
    return [
        f"fit.{key}: a population has a search of its own, which reads starts and seed alone; leave it out"
        for key in keys
        if key in found["fit"].model_fields_set
    ]


def is_fit_config(path: str | Path) -> bool:
    """Whether the file has a section [fit]; what is wrong with it otherwise is not told here."""
    try:
        return "fit" in tomllib.loads(read_text(path))
    except (ConfigError, ValueError, RecursionError):
        return False


def _one_cell(data: dict[str, Any]) -> list[str]:
    problems = []
    arms = data.get("arms")
    tables = [("", data)]
    if isinstance(arms, dict):
        tables += [(f"arms.{name}.", arm) for name, arm in arms.items() if isinstance(arm, dict)]
    for path, table in tables:
        for section, key in _WITH_A_PLACE:
            within = table if not key else table.get(section)
            name = key or section
            if isinstance(within, dict) and name in within:
                del within[name]
                where = f"{path}{section}{key and '.'}{key}"
                problems.append(
                    f"{where}: a well-mixed site has no places; leave it out, or set fit.geometry = 'configured'"
                )
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
