"""The file of a calibration or of a sensitivity analysis: named groups of columns with units, written in one stroke."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from glioma_pde.errors import GliomaError
from glioma_pde.io._files import file_errors, sync_folder
from glioma_pde.io._layout import SEAL, set_attribute
from glioma_pde.io._reader import digest
from glioma_pde.io._vetting import DAMAGE, attributes_of, vet

KIND = "glioma_pde calibration"
SENSITIVITY = "glioma_pde sensitivity"
_COMMANDS = {KIND: "a calibration (`glioma-pde fit`)", SENSITIVITY: "a sensitivity analysis (`glioma-pde sensitivity`)"}

Groups = Mapping[str, Mapping[str, Any]]


def write_fit(
    path: str | Path,
    groups: Groups,
    attributes: Mapping[str, Any],
    units: Mapping[str, str] | None = None,
    kind: str = KIND,
) -> Path:
    """Write the file; an older one of that name is replaced only when the new one is complete.

    Args:
        groups: per group its arrays by name; texts are arrays of strings. Nested with ``/``.
        units: of columns, by ``group/name``.
        kind: `KIND` or `SENSITIVITY`.

    Raises:
        GliomaError: if the disk is full or the folder cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with file_errors(path):
        try:
            with h5py.File(partial, "w") as file:
                set_attribute(file, "kind", kind)
                for name, value in attributes.items():
                    set_attribute(file, name, value)
                for group, columns in groups.items():
                    here = file.require_group(group)
                    for name, values in columns.items():
                        array = np.asarray(values)
                        text = array.dtype.kind in "UO"
                        data = array.astype(object) if text else array
                        made = here.create_dataset(name, data=data, dtype=h5py.string_dtype() if text else None)
                        if unit := (units or {}).get(f"{group}/{name}"):
                            set_attribute(made, "units", unit)
                set_attribute(file, SEAL, digest(file))
            with open(partial, "rb") as file_:
                os.fsync(file_.fileno())
            os.replace(partial, path)
            sync_folder(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    return path


class FitFile:
    """A calibration read back.

    Attributes:
        attributes: of the file.
    """

    def __init__(self, path: str | Path, kind: str = KIND) -> None:
        """Raises: GliomaError, if the file cannot be read or is something else."""
        self.path = Path(path)
        self._groups: dict[str, dict[str, np.ndarray]] = {}
        self.units: dict[str, str] = {}
        with file_errors(self.path, "read"), open(self.path, "rb"):
            pass
        try:
            with h5py.File(self.path, "r") as file:
                vet(file, self.path)
                self.attributes = attributes_of(file)
                if self.attributes.get("kind") != kind:
                    raise GliomaError(f"{path}: this is not the file of {_COMMANDS[kind]}.")
                if self.attributes.pop(SEAL, None) not in (None, digest(file)):
                    raise ValueError("it has changed since it was written")
                file.visititems(self._take)
        except DAMAGE as error:
            raise GliomaError(f"{path}: this is not an HDF5 file, or it is damaged; run the command again.") from error

    def _take(self, name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            group, _, column = name.rpartition("/")
            values = item.asstr()[()] if item.dtype.kind == "O" else item[()]
            self._groups.setdefault(group, {})[column] = np.asarray(values)
            if "units" in (about := attributes_of(item)):
                self.units[name] = str(about["units"])

    def __contains__(self, group: str) -> bool:
        return group in self._groups

    def __getitem__(self, group: str) -> dict[str, np.ndarray]:
        """Columns of a group.

        Raises:
            GliomaError: if the file lacks the group.
        """
        if group not in self._groups:
            raise GliomaError(
                f"{self.path} has no '{group}': it is damaged or of another version; run the command again."
            )
        return self._groups[group]

    @property
    def groups(self) -> list[str]:
        return sorted(self._groups)


def is_fit(path: str | Path, kind: str = KIND) -> bool:
    """Whether the file holds a calibration (or what else ``kind`` says)."""
    try:
        with h5py.File(path, "r") as file:
            vet(file, Path(path))
            return attributes_of(file).get("kind") == kind
    except (*DAMAGE, GliomaError):
        return False
