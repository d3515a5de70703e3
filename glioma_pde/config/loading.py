"""TOML → checked arms.

`load` reads a file, applies ``--set`` and each arm's overrides, and reports everything wrong at once with
its path in the file.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ConfigError, one_line
from .anatomy import Atlas
from .base import text_fault
from .messages import nearest, sentences, shown
from .presets import PRESETS, tables
from .rules import across_sections, in_images
from .sections import CAPACITY, DEFAULTED, REQUIRED, SECTIONS, Config, Study
from .study import across_arms

MOST_BYTES = 2**18
MOST_ARMS = 500
MOST_PROBLEMS = 1000  # of one section
MOST_TABLES = 2000
DEEPEST = 24
"""Limits far beyond any sensible configuration, so that no file takes long to refuse."""

_MANY_PARTS = re.compile(r"""(?<![\w.-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')\s*+\.\s*+){32}""")
_ARM = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_ARM_RULE = "arm names are letters, digits, '-' and '_' (they become file names)"


def load(path: str | Path, sets: Iterable[str] = ()) -> Study:
    """Read and check a configuration file.

    Args:
        sets: overrides ``section.key=value``, values in TOML syntax (bare words are strings).

    Raises:
        ConfigError: naming every problem with its path.
    """
    return loads(read_text(path), str(path), sets, Path(path).parent, images=True)


def read_text(path: str | Path) -> str:
    """The text of a configuration file."""
    path = Path(path)

    def wrong(problem: str) -> ConfigError:
        return ConfigError([problem], str(path))

    try:
        if not path.exists():
            raise wrong(f"the file does not exist: {path}")
        if not path.is_file():  # a device or a pipe may never end
            raise wrong("this is not a regular file")
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise wrong(f"the file is larger than the {MOST_BYTES >> 10} KiB that a configuration may have")
        text = content.decode("utf-8")
    except (OSError, ValueError) as e:
        raise wrong(f"the file cannot be read as UTF-8 text: {e}") from None
    return text


def loads(
    text: str,
    where: str = "configuration",
    sets: Iterable[str] = (),
    folder: str | Path = ".",
    images: bool = False,
) -> Study:
    """`load` for text; relative paths inside are resolved against ``folder``.

    Args:
        images: look for the images, and into them for whether points lie in tissue, as `load` does.
    """
    problems: list[str] = []
    data = parsed_toml(text, where, sets, problems)
    return study_of(data, where, text, folder, problems, images)


def parsed_toml(text: str, where: str, sets: Iterable[str], problems: list[str]) -> dict[str, Any]:
    """The tables of a text with the overrides ``sets``; those that cannot be set are told as ``problems``."""
    if _MANY_PARTS.search(text):  # the parser's time grows with the square of their number
        raise ConfigError(["not a configuration: a key has more than 32 parts"], where)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as e:  # a ValueError of Python's own for integers of thousands of digits
        raise ConfigError([f"not valid TOML: {e}"], where) from None
    for item in sets:
        _apply_set(data, item, problems)
    if large := {key: fault for key, value in data.items() if (fault := _too_large(value))}:
        raise ConfigError([*problems, *(f"{one_line(key, 80)}: {fault}" for key, fault in large.items())], where)
    return data


def study_of(
    data: dict[str, Any],
    where: str,
    text: str,
    folder: str | Path,
    problems: list[str],
    images: bool = False,
    unread: Collection[str] = (),
) -> Study:
    """The arms of parsed tables; see `loads`.

    Args:
        problems: found so far; they are told with the others.
        unread: paths in the configuration of images that will not be read.
    """
    title = data.pop("title", one_line(Path(where).stem, 200))
    arms = data.pop("arms", None)
    if fault := text_fault(title):
        problems.append(f"title: {fault}")
    if arms is not None and (
        not isinstance(arms, dict) or not arms or not all(isinstance(a, dict) for a in arms.values())
    ):
        problems.append("arms: must hold one table per arm, as [arms.treated]")
        arms = None
    if arms is not None and len(arms) > MOST_ARMS:
        problems.append(f"arms: {len(arms)} are more than the {MOST_ARMS} that one configuration may have")
        arms = dict(list(arms.items())[:MOST_ARMS])
    # A problem that the shared part has by itself is reported once, any other with the name of its arm.
    atlas = Atlas(folder, unread) if images else None
    alone: list[str] = []
    if arms is not None:
        _one_arm(data, "", {}, str(title), str(folder), alone, atlas)
    shared = set(alone)
    configs = []
    told = set(problems)
    for name, override in (arms or {"run": {}}).items():
        if not _ARM.fullmatch(name):
            problems.append(f"arms.{one_line(name, 80)}: {_ARM_RULE}")
        own: list[str] = []
        configs.append(_one_arm(data, name, override, str(title), str(folder), own, atlas))
        own = [p if arms is None or (p in shared and not _names(p, override)) else f"arms.{name}.{p}" for p in own]
        problems += [p for p in own if p not in told]
        told |= set(own)
    made = [c for c in configs if c is not None]
    if not problems:
        problems += across_arms(made)
    if problems:
        raise ConfigError(problems, where)
    return Study(title=str(title), label=str(data.get("label", "")), arms=made, text=text, path=where)


def from_json(text: str, folder: str = ".") -> Config:
    """One arm from `Config.to_json`."""
    where = "configuration stored in the file"
    if len(text) > 4 * MOST_BYTES:
        raise ConfigError(["too long"], where)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"not valid JSON: {error}"], where) from None
    if not isinstance(data, dict) or _too_large(data):
        raise ConfigError(["not a table of tables"], where)
    arm, title = data.pop("arm", "run"), data.pop("title", "")
    # values of a preset are among those of the arm, which may have left out some of its sections
    preset, label = data.pop("preset", None), data.pop("label", "")
    problems: list[str] = []
    if fault := text_fault(title):
        problems.append(f"title: {fault}")
    if not isinstance(arm, str) or not _ARM.fullmatch(arm):
        problems.append(f"arm: {_ARM_RULE}")
    if not (preset is None or isinstance(preset, str)):
        problems.append("preset: must be a string")
    config = _one_arm(data, str(arm), {"label": label}, str(title), folder, problems)
    if problems or config is None:
        raise ConfigError(problems, where)
    return config.model_copy(update={"preset": preset})


# -- one arm --------------------------------------------------------------------------------------


def _one_arm(
    base: Mapping, arm: str, override: Mapping, title: str, folder: str, problems: list[str], atlas: Atlas | None = None
) -> Config | None:
    own: dict[str, Any] = copy.deepcopy(dict(override))
    preset = own.pop("preset", base.get("preset"))
    data, usual_label = _from_preset(preset, problems)
    merge(data, {k: copy.deepcopy(v) for k, v in base.items() if k != "preset"})
    without = own.pop("without", [])
    if not isinstance(without, list) or not all(isinstance(w, str) for w in without):
        problems.append("without: must be a list of section names")
        without = []
    for name in without:
        if name not in SECTIONS or name in REQUIRED:
            problems.append(f"without: {shown(name)} is not a section that can be left out{nearest(name, SECTIONS)}")
        data.pop(name, None)
    merge(data, own)
    label = data.pop("label", usual_label)
    capacity = data.pop("capacity_cells_per_mm3", CAPACITY.default)
    if fault := text_fault(label):
        problems.append(f"label: {fault}")
    if (
        isinstance(capacity, bool)
        or not isinstance(capacity, int | float)
        or not CAPACITY.low <= capacity <= CAPACITY.high
    ):
        problems.append(f"capacity_cells_per_mm3: must be a number from {CAPACITY.low:g} to {CAPACITY.high:g}")
    known = (*SECTIONS, "title", "label", "preset", "arms", "capacity_cells_per_mm3")
    for key in [k for k in data if k not in SECTIONS][:MOST_PROBLEMS]:
        problems.append(f"{one_line(key, 80)}: unknown{nearest(key, known)}")
    parsed: dict[str, Any] = {}
    for name, adapter in SECTIONS.items():
        if name not in data:
            if name in REQUIRED:
                problems.append(f"{name}: this section is missing")
            elif name in DEFAULTED:
                parsed[name] = adapter.validate_python({})
            continue
        try:
            parsed[name] = adapter.validate_python(data[name])
        except ValidationError as e:
            problems += sentences(name, e, data[name], MOST_PROBLEMS)
    problems += across_sections(parsed, set(data))
    if atlas is not None:
        problems += in_images(parsed, atlas)
    if problems:
        return None
    return Config(
        title=title, label=label, arm=arm, preset=preset, capacity_cells_per_mm3=float(capacity), folder=folder, **parsed
    )  # fmt: skip


def _from_preset(name: Any, problems: list[str]) -> tuple[dict[str, Any], str]:
    """The tables of a preset, which everything in the file overrides, and its label."""
    if name is None:
        return {}, ""
    if not isinstance(name, str):
        problems.append(f"preset: must be a string, one of {', '.join(PRESETS)}")
    elif name not in PRESETS:
        problems.append(f"preset: {shown(name)} is not one of {', '.join(PRESETS)}{_meant(name)}")
    # after a wrong name the rest is checked against another preset, lest sections that it brings seem to be missing
    known = name if isinstance(name, str) and name in PRESETS else next(iter(PRESETS))
    return tables(known), PRESETS[known].label


def _meant(name: str) -> str:
    close = nearest(name, PRESETS)
    return close if "did you mean" in close else ""


def merge(into: dict, other: Mapping) -> None:
    """Tables are merged, everything else replaced; a table of another ``kind`` replaces the old one."""
    for key, value in other.items():
        old = into.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and value.get("kind", old.get("kind")) == old.get("kind"):
            merge(old, value)
        else:
            into[key] = value


def _apply_set(data: dict, item: str, problems: list[str]) -> None:
    key, sign, raw = item.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        problems.append(f"--set {item}: write section.key=value")
        return
    try:
        value = tomllib.loads(f"v = {raw.strip()}")["v"]
    except (ValueError, RecursionError):
        value = raw.strip()
    table: Any = data
    for part in parts[:-1]:
        table = table.setdefault(part, {}) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        problems.append(f"--set {item}: {'.'.join(parts[:-1])} is not a table")
        return
    table[parts[-1]] = value


def _names(problem: str, table: Mapping) -> bool:
    """Whether the path at the head of a problem stands in ``table``."""
    path = re.split(r"[:\[]", problem, maxsplit=1)[0].split(".")
    node: Any = table
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _too_large(data: Any) -> str | None:
    """What of its form no configuration needs."""
    level: Iterator[Any] = iter([data])
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for node in level:
            if isinstance(node, list) and len(node) > MOST_TABLES and isinstance(node[0], dict):
                return f"{len(node)} tables are more than the {MOST_TABLES} that a list may have; repeat by `every`"
            inner += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        if not inner:
            return None
        level = iter(inner)
    return "nested too deeply"
