"""How a run file is laid out: names, dimensions, chunks and attributes, all of it but the rows."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import h5py
import numpy as np

from glioma_pde.grid import Grid
from glioma_pde.io._packing import PACKED

CONVENTIONS = "CF-1.11 (names and units only)"
GROUPS = ("tissue", "initial", "schedule", "observables", "ledger", "parameters", "summary")
DERIVED = ("Conventions", "status", "geometry", "affine", "spacing_mm", "thickness_mm")

SEAL = "content_sha256"  # attribute of a finished file: its `digest`

SLACK = 2**20  # room for HDF5's own bookkeeping [bytes]

_CHUNKS = {1: (4096,), 2: (256, 256), 3: (64, 64, 78)}  # largest chunk of one frame, in file order
_ROWS = 1024  # chunk of the one-dimensional series
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_UNITS = {
    "day": "day",
    "start_day": "day",
    "end_day": "day",
    "cells": "cells",
    "retained_fraction": "1",
    "x_mm": "mm",
    "y_mm": "mm",
    "z_mm": "mm",
    "sigma_mm": "mm",
    "dose_mg_per_kg_per_day": "mg/kg/day",
}


@dataclass(frozen=True)
class Quantity:
    """A named series of the file.

    Attributes:
        unit: as printed on axes; "1" for fractions.
        long_name: as printed in legends.
    """

    name: str
    unit: str
    long_name: str


class Parameter(NamedTuple):
    """One row of the parameter table.

    Attributes:
        source: the reference of the value.
        default: what the package would use; NaN where it has no default.
    """

    name: str
    value: float
    unit: str
    source: str
    default: float


@dataclass(frozen=True)
class Layout:
    """Everything a run file holds from its first moment; arrays are (x, y, z)."""

    grid: Grid
    fields: Sequence[Quantity]
    observables: Sequence[Quantity]
    ledger: Sequence[Quantity]
    tissue: Mapping[str, np.ndarray]
    anatomy: tuple[np.ndarray, Any] | None
    schedule: Mapping[str, Mapping[str, np.ndarray]]
    parameters: Sequence[tuple[str, float | None, str, str, float | None]]
    attributes: Mapping[str, Any]
    initial: Mapping[str, np.ndarray]

    def size_bound(self) -> int:
        """What the file can take on the disk before its first row, at most [bytes]."""
        images = [*self.tissue.values(), *self.initial.values(), *([] if self.anatomy is None else self.anatomy[:1])]
        columns = [c for table in self.schedule.values() for c in table.values()]
        text = sum(len(str(v)) for v in (*self.attributes.values(), *self.parameters))
        series = 2**16 * (len(self.fields) + len(self.observables) + len(self.ledger))
        # An image of one chunk may grow by its padding, and text is up to four bytes a letter.
        return SLACK + series + 4 * text + sum(8 * np.size(v) + 2**21 for v in (*images, *columns))


def axes_of(grid: Grid) -> tuple[str, ...]:
    """Names of the grid's axes on file."""
    return ("r",) if grid.geometry == "radial" else ("x", "y", "z")[: grid.ndim]


def lay_out(file: h5py.File, layout: Layout) -> None:
    """Write everything but the rows into a new, empty file.

    Raises:
        ValueError: if names, shapes or types do not fit the layout.
    """
    grid, axes = layout.grid, axes_of(layout.grid)
    _check_names([q.name for q in layout.fields], {"time", "anatomy", *axes, *GROUPS})
    _check_names([q.name for q in layout.observables], {"time"})
    _check_names([q.name for q in layout.ledger], {"time"})
    _check_names([*layout.tissue], set())
    _check_names([*layout.initial], set())
    _check_names([*layout.schedule], set())
    _set_root_attributes(file, layout)
    _time(file)
    for k, axis in enumerate(axes):
        place = "distance from the centre" if axis == "r" else f"{axis} of cell centres, world (RAS)"
        _scale(file, axis, grid.axis_mm(k), "mm", place)
    shape = grid.shape[::-1]
    for q in layout.fields:
        dataset = file.create_dataset(
            q.name,
            (0, *shape),
            "f4",
            maxshape=(None, *shape),
            chunks=(1, *map(min, shape, _CHUNKS[grid.ndim])),
            fillvalue=np.nan,
            **PACKED,
        )
        _describe(dataset, q, [file["time"], *(file[a] for a in reversed(axes))])
    group = {name: file.create_group(name, track_order=True) for name in GROUPS}
    _time(group["observables"])
    group["ledger"]["time"] = file["observables/time"]  # one scale under two names
    for name, quantities in (("observables", layout.observables), ("ledger", layout.ledger)):
        for q in quantities:
            series = group[name].create_dataset(q.name, (0,), "f8", maxshape=(None,), chunks=(_ROWS,), fillvalue=np.nan)
            _describe(series, q, [file["observables/time"]])
    for place, maps in (("tissue", layout.tissue), ("initial", layout.initial)):
        for name, values in maps.items():
            if np.shape(values) != grid.shape:
                raise ValueError(f"{place} {name}: shape {np.shape(values)}, but the grid has {grid.shape}.")
            _image(group[place], name, np.asarray(values), [file[a] for a in axes])
    if layout.anatomy is not None:
        _write_anatomy(file.create_group("anatomy"), *layout.anatomy)
    for name, columns in layout.schedule.items():
        _table(group["schedule"].create_group(name, track_order=True), columns)
    table: dict[str, Any] = {}
    for i, column in enumerate(Parameter._fields):
        cells = [row[i] for row in layout.parameters]
        is_number = column in ("value", "default")
        table[column] = np.array([np.nan if v is None else v for v in cells], float) if is_number else cells
    _table(group["parameters"], table)


def set_attribute(target: h5py.Group, name: str, value: Any) -> None:
    """Store text, numbers, numeric arrays, or a mapping as JSON text; ``None`` stores nothing."""
    if isinstance(value, Mapping):
        value = json.dumps(value, sort_keys=True)
    if value is None:
        return
    if not isinstance(value, str):
        value = np.asarray(value)
        if value.dtype.kind not in "biuf":
            raise ValueError(f"attribute {name}: {value.dtype} is neither text nor numbers.")
        if value.dtype.kind == "b":  # netCDF knows no booleans
            value = value.astype(np.uint8)
    target.attrs[name] = value


def _check_names(names: list[str], taken: set[str]) -> None:
    if bad := [n for n in names if not _NAME.fullmatch(n) or n in taken or names.count(n) > 1]:
        raise ValueError(f"Names must be plain, unique and not reserved: {bad}.")


def _set_root_attributes(file: h5py.File, layout: Layout) -> None:
    grid = layout.grid
    whole = {"full_shape": grid.shape, "full_affine": grid.matrix, "window_start": (0,) * grid.ndim}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    fixed = (CONVENTIONS, "running", grid.geometry, grid.matrix, grid.spacing_mm, grid.thickness_mm)
    merged = {**whole, "created_utc": now, **layout.attributes, **dict(zip(DERIVED, fixed, strict=True))}
    for name, value in merged.items():
        set_attribute(file, name, value)


def _scale(group: h5py.Group, name: str, values: np.ndarray, unit: str, long_name: str, **options) -> None:
    scale = group.create_dataset(name, data=values, **options)
    scale.make_scale(name)
    scale.attrs["units"], scale.attrs["long_name"] = unit, long_name


def _time(group: h5py.Group) -> None:
    # Uncompressed: a row is then added in place, and a killed writer cannot spoil the rows before it.
    _scale(group, "time", np.zeros(0), "day", "time", maxshape=(None,), chunks=(_ROWS,), fillvalue=np.nan)


def _describe(dataset: h5py.Dataset, about: Quantity, scales: Sequence[h5py.Dataset]) -> None:
    dataset.attrs["units"], dataset.attrs["long_name"] = about.unit, about.long_name
    for k, scale in enumerate(scales):
        dataset.dims[k].attach_scale(scale)


def _image(group: h5py.Group, name: str, values: np.ndarray, scales: list[h5py.Dataset]) -> None:
    if values.dtype != np.float64:  # double-precision maps are kept, so that a run can be repeated from them
        values = values.astype(np.uint8 if values.dtype.kind in "biu" else np.float32)
    chunks = tuple(map(min, values.shape[::-1], _CHUNKS[values.ndim]))
    dataset = group.create_dataset(name, data=values.T, chunks=chunks, **PACKED)
    _describe(dataset, Quantity(name, "1", name), scales[::-1])


def _write_anatomy(group: h5py.Group, background: np.ndarray, affine: Any) -> None:
    background = np.asarray(background)
    if background.dtype != np.uint8 or background.ndim != 3:
        raise ValueError(f"The background must be 3-D uint8, not {background.dtype} {background.shape}.")
    group.attrs["affine"] = np.asarray(affine, float)
    grid = Grid.from_affine(background.shape, affine)
    for k, axis in enumerate("xyz"):
        _scale(group, axis, grid.axis_mm(k), "mm", f"{axis} of voxel centres, world (RAS)")
    _image(group, "background", background, [group[a] for a in "xyz"])


def _table(group: h5py.Group, columns: Mapping[str, Any]) -> None:
    _check_names([*columns], {"row"})
    if len({len(c) for c in columns.values()}) > 1:
        raise ValueError(f"{group.name}: the columns differ in length.")
    count = len(next(iter(columns.values()), ()))
    _scale(group, "row", np.arange(count), "1", "row of the table")
    for name, column in columns.items():
        values = np.asarray(column)
        if values.ndim != 1 or values.dtype.kind not in "biufUS":
            raise ValueError(f"{group.name}/{name}: a column holds text or numbers.")
        if values.dtype.kind in "US":
            dataset = group.create_dataset(name, data=[str(v) for v in column], dtype=h5py.string_dtype())
        else:
            kind = np.float64 if values.dtype.kind == "f" else np.int64
            dataset = group.create_dataset(name, data=values.astype(kind))
        if name in _UNITS:
            dataset.attrs["units"] = _UNITS[name]
        dataset.dims[0].attach_scale(group["row"])
