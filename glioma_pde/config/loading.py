"""TOML → checked arms.

`load` reads a file, applies ``--set`` and each arm's overrides, and reports everything wrong at once with
its path in the file.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ConfigError
from .messages import nearest, sentence
from .presets import PRESETS, tables
from .rules import across_sections
from .sections import CAPACITY, DEFAULTED, REQUIRED, SECTIONS, Config, Study


def load(path: str | Path, sets: Iterable[str] = ()) -> Study:
    """Read and check a configuration file.

    Args:
        sets: overrides ``section.key=value``, values in TOML syntax (bare words are strings).

    Raises:
        ConfigError: naming every problem with its path.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ConfigError([f"the file does not exist: {path}"], str(path)) from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError([f"the file cannot be read as UTF-8 text: {e}"], str(path)) from None
    return loads(text, str(path), sets, path.parent)


def loads(text: str, where: str = "configuration", sets: Iterable[str] = (), folder: str | Path = ".") -> Study:
    """`load` for text; relative paths inside are resolved against ``folder``."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise ConfigError([f"not valid TOML: {e}"], where) from None
    problems: list[str] = []
    for item in sets:
        _apply_set(data, item, problems)

    title = data.pop("title", Path(where).stem)
    arms = data.pop("arms", None)
    if not isinstance(title, str):
        problems.append("title: must be a string")
    if arms is not None and (
        not isinstance(arms, dict) or not arms or not all(isinstance(a, dict) for a in arms.values())
    ):
        problems.append("arms: must hold one table per arm, as [arms.treated]")
        arms = None
    # A problem that the shared part has by itself is reported once, any other with the name of its arm.
    shared: list[str] = []
    if arms is not None:
        _one_arm(data, "", {}, str(title), str(folder), shared)
    configs = []
    for name, override in (arms or {"run": {}}).items():
        if not re.fullmatch(r"[A-Za-z0-9_\-]{1,64}", name):
            problems.append(f"arms.{name}: arm names are letters, digits, '-' and '_' (they become file names)")
        own: list[str] = []
        configs.append(_one_arm(data, name, override, str(title), str(folder), own))
        own = [p if arms is None or (p in shared and not _names(p, override)) else f"arms.{name}.{p}" for p in own]
        problems += [p for p in own if p not in problems]
    if problems:
        raise ConfigError(problems, where)
    return Study(title=str(title), arms=[c for c in configs if c is not None], text=text, path=where)


def from_json(text: str, folder: str = ".") -> Config:
    """One arm from `Config.to_json`."""
    where = "configuration stored in the file"
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"not valid JSON: {error}"], where) from None
    if not isinstance(data, dict):
        raise ConfigError(["not a table"], where)
    head = {k: data.pop(k) for k in ("title", "label", "arm", "preset") if k in data}
    problems: list[str] = []
    config = _one_arm(
        data, head.get("arm", "run"), {"label": head.get("label", "")}, head.get("title", ""), folder, problems
    )
    preset = head.get("preset")  # its values are among those of the arm, which may have left out some of its sections
    if not (preset is None or isinstance(preset, str)):
        problems.append("preset: must be a string")
    if problems or config is None:
        raise ConfigError(problems, where)
    return config.model_copy(update={"preset": preset})


# -- one arm --------------------------------------------------------------------------------------


def _one_arm(base: Mapping, arm: str, override: Mapping, title: str, folder: str, problems: list[str]) -> Config | None:
    own: dict[str, Any] = copy.deepcopy(dict(override))
    preset = own.pop("preset", base.get("preset"))
    data, usual_label = _from_preset(preset, problems)
    _merge(data, {k: copy.deepcopy(v) for k, v in base.items() if k != "preset"})
    without = own.pop("without", [])
    if not isinstance(without, list) or not all(isinstance(w, str) for w in without):
        problems.append("without: must be a list of section names")
        without = []
    for name in without:
        if name not in SECTIONS or name in REQUIRED:
            problems.append(f"without: {name!r} is not a section that can be left out{nearest(name, SECTIONS)}")
        data.pop(name, None)
    _merge(data, own)
    label = data.pop("label", usual_label)
    capacity = data.pop("capacity_cells_per_mm3", CAPACITY.default)
    if not isinstance(label, str):
        problems.append("label: must be a string")
    if (
        isinstance(capacity, bool)
        or not isinstance(capacity, int | float)
        or not CAPACITY.low <= capacity <= CAPACITY.high
    ):
        problems.append(f"capacity_cells_per_mm3: must be a number from {CAPACITY.low:g} to {CAPACITY.high:g}")
    for key in data:
        if key not in SECTIONS:
            known = [*SECTIONS, "title", "label", "preset", "arms", "capacity_cells_per_mm3"]
            problems.append(f"{key}: unknown{nearest(key, known)}")
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
            problems += [sentence(name, err, data[name]) for err in e.errors(include_url=False)]
        except RecursionError:
            problems.append(f"{name}: nested too deeply")
    problems += across_sections(parsed, set(data))
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
        problems.append(f"preset: {name!r} is not one of {', '.join(PRESETS)}{_meant(name)}")
    # after a wrong name the rest is checked against another preset, lest sections that it brings seem to be missing
    known = name if isinstance(name, str) and name in PRESETS else next(iter(PRESETS))
    return tables(known), PRESETS[known].label


def _meant(name: str) -> str:
    close = nearest(name, PRESETS)
    return close if "did you mean" in close else ""


def _merge(into: dict, other: Mapping) -> None:
    """Tables are merged, everything else replaced; a table of another ``kind`` replaces the old one."""
    for key, value in other.items():
        old = into.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and value.get("kind", old.get("kind")) == old.get("kind"):
            _merge(old, value)
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
    except (tomllib.TOMLDecodeError, RecursionError):
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
