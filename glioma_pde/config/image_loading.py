"""A fit to images: the section [images] beside those of one arm of any other configuration, without an initial tumour."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import ConfigError
from .anatomy import is_file
from .base import Section
from .fit import FIT_SECTIONS
from .image_sections import IMAGE_SECTIONS, Images
from .loading import parsed_toml, read_text, study_of
from .messages import sentences
from .sections import Config, Study

STEP_DAYS = 2.0
"""Longest step where [time] gives none: accurate to a percent of a growth of 0.1 per day."""
_AMBIENT = ("oxygen", "necrosis", "vasculature", "sensitivity", "study")


class ImageStudy(BaseModel):
    """A fit to images, complete and checked.

    Attributes:
        study: of one arm. images: what was seen. folder: to which its paths are relative.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    study: Study
    images: Any
    folder: str

    @property
    def arm(self) -> Config:
        return self.study.arms[0]


def is_image_config(path: str | Path) -> bool:
    """Whether the file has a section [images]; what is wrong with it otherwise is not told here."""
    try:
        return "images" in tomllib.loads(read_text(path))
    except (ConfigError, ValueError, RecursionError):
        return False


def load_images(path: str | Path, sets: Iterable[str] = ()) -> ImageStudy:
    """Read and check the configuration of a fit to images.

    Args:
        sets: overrides ``section.key=value``.

    Raises:
        ConfigError: naming every problem with its path.
    """
    text, where, folder = read_text(path), str(path), Path(path).parent
    problems: list[str] = []
    data = parsed_toml(text, where, sets, problems)
    problems += [
        f"{name}: stands beside [images]; a fit to images has no such section" for name in FIT_SECTIONS if name in data
    ]
    for name in FIT_SECTIONS:
        data.pop(name, None)
    if data.pop("arms", None) is not None:
        problems.append("arms: the images are of one patient, who is in one arm; leave them out")
    images, given = None, data.pop("images", None)
    try:
        images = IMAGE_SECTIONS["images"].validate_python(given)
    except ValidationError as e:
        problems += sentences("images", e, given, 100)
    problems += _missing(images, folder)
    problems += _prepared(data, images)
    study = study_of(data, where, text, folder, problems, images=True, unread=("tumour.initial.path",))  # the stand-in
    assert images is not None  # or there was a problem
    if unfit := _unfit(study.arms[0], images):
        raise ConfigError(unfit, where)
    return ImageStudy(study=study, images=images, folder=str(folder))


def _missing(images: Images | None, folder: Path) -> list[str]:
    files = {} if images is None else images.files()
    return [
        f"images.{key}: there is no image file {folder / path}"
        for key, path in files.items()
        if not is_file(folder / path)
    ]


def _prepared(data: dict[str, Any], images: Images | None) -> list[str]:
    """What the file leaves out is put in; what has no place in it is told."""
    problems = [
        f"{name}: a fit to images takes no such section" for name in _AMBIENT if data.pop(name, None) is not None
    ]
    tumour = data.setdefault("tumour", {})
    if isinstance(tumour, dict):
        if "initial" in tumour:
            problems.append("tumour.initial: the tumour grows from a seed that is found; leave it out")
        # takes the place of an initial tumour, and is not read as one
        stand_in = "none" if images is None else next(iter(images.files().values()))
        tumour["initial"] = {"kind": "nifti", "path": stand_in}
    numerics = data.setdefault("numerics", {})
    if isinstance(numerics, dict):  # least squares need the digits, and nobody looks at the ledger
        numerics |= {"precision": "float64", "ledger": False} | numerics
    time = data.setdefault("time", {})
    if isinstance(time, dict) and images is not None:
        last = max(images.last_day + max(images.ahead_days, default=0.0), 1e-3)
        time |= {"end_day": last, "step_days": min(STEP_DAYS, time.get("end_day", last))} | time
    return problems


def _unfit(config: Config, images: Images) -> list[str]:
    problems = []
    tissue = config.tissue
    if tissue.kind == "radial" or (tissue.kind == "phantom" and len(tissue.shape) != 3):
        problems.append("tissue: images need an anatomy of three axes")
    if config.tumour.growth != "logistic":
        problems.append("tumour.growth: a fit to images needs logistic growth, whose front has a speed and a width")
    for name, section in config:
        tables = section.tables().values() if isinstance(section, Section) else ()
        days = [day for table in tables for key in ("day", "start_day") for day in table.get(key, ())]
        if days and min(days) < images.first_day:
            problems.append(
                f"{name}: something is done on day {min(days):g}, before the first scan on day {images.first_day:g}, until which "
                "the tumour is taken to grow alone; leave it out"
            )
    return problems
