"""What a run file says about its run: configuration, versions, parameters with units, schedule, columns."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import __version__
from .biology.base import SUBSTANCE
from .build import Experiment, days_of, described
from .config.base import Section
from .config.presets import source_of
from .config.sections import SECTIONS
from .control import SERIES
from .errors import one_line
from .io.hdf5 import Quantity
from .ledger import balances, steady_balances
from .numerics import kernels
from .observe import look, trends
from .parameters import PARAMETERS
from .tensors import tensor_names

UNSAID = "not_in_config"
"""Attribute that names what of a run only the Python code knows that made it."""


def layout(experiment: Experiment, text: str) -> dict[str, Any]:
    config, model = experiment.config, experiment.model
    tissue = model.tissue
    kept = ("white", "grey", "csf", "mask", "ventricle_wall", "cavity")
    maps = {n: np.asarray(getattr(tissue, n)) for n in kept if getattr(tissue, n) is not None}
    maps |= {n: np.asarray(image) for n, image in experiment.images.items()}
    if tissue.tensors is not None:
        maps |= dict(zip(tensor_names(tissue.grid.ndim), np.asarray(tissue.tensors.components), strict=True))
    full = tissue.full_grid
    attributes: dict[str, Any] = {
        "title": config.title,
        "arm": config.arm,
        "label": config.label,
        "status": "running",
        "config_toml": text,
        "config_json": config.to_json(),
        "config_sha256": digest(experiment),
        "versions": versions(),
        "git_revision": git_revision(),
        "run_id": uuid.uuid4().hex,  # ties a checkpoint to this very file
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "shapes": json.dumps(experiment.shapes),
        UNSAID: ", ".join(unsaid(experiment)),
        "seed": 0,
        "dtype": str(tissue.white.dtype),
        "step_days": experiment.step_days,
        "capacity_cells_per_mm3": config.capacity_cells_per_mm3,
        "t1gd_threshold": config.outcome.t1gd_threshold,
        "flair_threshold": config.outcome.flair_threshold,
        "fatal_burden_cells": config.outcome.fatal_cells,
        "progression_burden_cells": config.outcome.progression_cells,
    }
    if full is not None and tissue.window_start is not None:
        attributes |= {
            "full_shape": np.asarray(full.shape),
            "full_affine": full.matrix,
            "window_start": np.asarray(tissue.window_start),
        }
    names = _look_names(experiment) | {o.name for o in SERIES} | {*trends([0.0], [0.0], [0.0])}
    signs = balances(model, experiment.schedule.events) if model.ledger else {}
    amount = {f.name: "cells" if f.role != SUBSTANCE else f"{f.unit} mm3".removeprefix("1 ") for f in model.fields}
    steady = {f.name: f for f in model.outputs if f.name in steady_balances(model)} if model.ledger else {}
    amount |= {name: f"{f.unit} mm3" for name, f in steady.items()}
    signs |= {name: steady_balances(model)[name] for name in steady}
    entries = {entry: amount[name] for name, of_field in signs.items() for entry in of_field}
    ledger = [Quantity(f"{f.name}_total", amount[f.name], f"total of {f.long_name}") for f in model.fields]
    ledger += [
        Quantity(f"{f.name}_imbalance", "1", f"relative imbalance of {f.name}")
        for f in (*model.fields, *steady.values())
    ]
    ledger += [Quantity(e, unit, e.replace("_", " ") + ", cumulative") for e, unit in sorted(entries.items())]
    return {
        "grid": tissue.grid,
        "fields": [Quantity(f.name, f.unit, f.long_name) for f in model.outputs],
        "observables": [Quantity(o.name, o.unit, o.long_name) for o in experiment.observables if o.name in names],
        "ledger": ledger if model.ledger else [],
        "tissue": maps,
        "anatomy": experiment.background,
        "schedule": _schedule_tables(config),
        "parameters": parameter_rows(config),
        "attributes": attributes,
        "initial": {n: np.asarray(v) for n, v in experiment.initial.items()} if experiment.initial_given else {},
    }


def unsaid(experiment: Experiment) -> list[str]:
    """What of the model, the events and the days is not as the configuration describes it, but comes from Python."""
    config, model = experiment.config, experiment.model
    other, schedule = described(config, model.tissue, experiment.shapes, experiment.images)
    ours, theirs = ({m.name: m for m in x.modules} for x in (model, other))
    pairs: list[tuple[str, Any, Any]] = [(name, ours.get(name), theirs.get(name)) for name in (ours | theirs)]
    pairs += [(n, getattr(model, n), getattr(other, n)) for n in ("capacity_cells_per_mm3", "stepper", "combination")]
    pairs += [("schedule", experiment.schedule, schedule)]
    days, frames = days_of(config)
    same_days = np.array_equal(days, experiment.days) and frames == experiment.frames
    return [name for name, a, b in pairs if not _equal(a, b)] + ([] if same_days else ["time"])


def _equal(a: Any, b: Any) -> bool:
    """Whether two pytrees are the same in structure and in every number."""
    structures: list[Any] = [jax.tree.structure(x) for x in (a, b)]
    ours, theirs = jax.tree.leaves(a), jax.tree.leaves(b)
    return structures[0] == structures[1] and all(map(np.array_equal, ours, theirs))


def _look_names(experiment: Experiment) -> set[str]:
    model, events = experiment.model, experiment.schedule.events
    t = jnp.zeros((), model.tissue.white.dtype)
    shape = eqx.filter_eval_shape(
        lambda m, c: look(m, events, c, m.prepare(), t, (0.8, 0.16))[0], model, model.start(experiment.initial, events)
    )
    return set(shape)


def _schedule_tables(config) -> dict[str, dict[str, np.ndarray]]:
    """What each section says is given when, with columns of numbers."""
    tables: dict[str, dict[str, list[Any]]] = {}
    for name in SECTIONS:
        section = getattr(config, name)
        tables |= section.tables() if isinstance(section, Section) else {}
    return {n: {k: np.asarray(v) for k, v in columns.items()} for n, columns in tables.items()}


def parameter_rows(config) -> list[tuple[str, float, str, str, float]]:
    """Name, value, unit, source and default of every parameter in use."""
    rows = []
    for key, p in PARAMETERS.items():
        node: Any = config
        for part in key.split("."):
            node = getattr(node, part, None)
        if node is not None:
            rows.append((key, float(node), p.unit, source_of(config.preset, key, float(node)) or p.source, p.default))
    return rows


def versions() -> dict[str, str]:
    """Versions of the package and of what computes for it."""
    out = {"glioma_pde": __version__}
    for name in ("jax", "jaxlib", "numpy", "h5py", "equinox"):
        out[name] = importlib.metadata.version(name)
    return out | {"backend": jax.default_backend(), "kernels": kernels.describe()}


def git_revision() -> str:
    """Revision of the source tree, or 'unknown' for an installed package."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip() or "unknown"


def changes_since(attributes: Mapping[str, Any]) -> str:
    """What has another version now than when the file with these attributes was begun; empty if nothing has."""
    try:
        then = dict(json.loads(attributes["versions"]))
    except (KeyError, TypeError, ValueError):
        then = {}
    now = versions() | {"source": git_revision()}
    then["source"] = attributes.get("git_revision")
    changed = [name for name in now if then.get(name) is not None and then[name] != now[name]]
    return ", ".join(f"{name} {one_line(str(then[name]), 40)} (now {now[name]})" for name in changed)


def digest(experiment: Experiment) -> str:
    return hashlib.sha256(json.dumps(json.loads(experiment.config.to_json()), sort_keys=True).encode()).hexdigest()
