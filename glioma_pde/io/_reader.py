"""Reading a run file that may be half written, damaged, or not ours at all."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from glioma_pde.errors import GliomaError
from glioma_pde.grid import Grid
from glioma_pde.io._files import file_errors, unlock
from glioma_pde.io._layout import SEAL, Parameter, Quantity, axes_of
from glioma_pde.io._vetting import DAMAGE, attributes_of, vet

_REQUIRED = ("status", "geometry", "affine", "spacing_mm", "thickness_mm")
_ATTEMPTS = 27  # 0.13 s in all


class RunFile:
    """A run file, read as it stood at opening (or at the last ``refresh``).

    Only committed frames and rows are seen, so a file that is being written, or whose writer was killed,
    reads like a shorter one. Nothing in the file is executed, and no other file is followed from it.

    Attributes:
        path: the file.
        attrs: the root attributes.
        grid: the cells of the computed window.
        fields, observables, ledger_columns: ``Quantity`` by name, in the order of writing.
        live: whether the writer still has it open, or was killed.

    Raises:
        GliomaError: if the file is missing, damaged, not a run file, or holds what a run file never holds.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._file, self.live = _open(self.path)
        try:
            with self._reading():
                vet(self._file, self.path)
                self.attrs = attributes_of(self._file)
                if missing := [name for name in _REQUIRED if name not in self.attrs]:
                    raise GliomaError(
                        f"{self.path} is an HDF5 file but not a run file (it lacks {', '.join(missing)}); "
                        "give a file that a run has written."
                    )
                if not self.live and SEAL in self.attrs and self.attrs[SEAL] != digest(self._file):
                    raise GliomaError(
                        f"{self.path} has changed since its run ended: it is damaged, so copy it again or run it again; "
                        f"if you changed it yourself, delete its attribute {SEAL}."
                    )
                self.grid = self._read_grid()
                self.fields = self._quantities("/")
                self._check_fields()
                self.observables = self._quantities("observables")
                self.ledger_columns = self._quantities("ledger")
                self.refresh()
        except BaseException:
            self.close()
            raise

    # -- what there is -------------------------------------------------------------------------------

    @property
    def file(self) -> h5py.File:
        """The open file, for reading parts of fields."""
        return self._file

    @property
    def days(self) -> np.ndarray:
        """Days of the committed frames, shape ``(frames,)`` [day]."""
        return self._days.copy()

    @property
    def observable_days(self) -> np.ndarray:
        """Days of the committed observables and ledger rows, shape ``(rows,)`` [day]."""
        return self._observable_days.copy()

    @property
    def summary(self) -> dict[str, Any]:
        """Outcome numbers; empty until the run is finished."""
        with self._reading():
            return attributes_of(self._file["summary"])

    @property
    def config_text(self) -> str:
        """The configuration as the user wrote it (TOML)."""
        return str(self.attrs.get("config_toml", ""))

    @property
    def config_json(self) -> str:
        """The resolved configuration.

        Raises:
            GliomaError: if the file has none, so that its run can be neither repeated nor resumed.
        """
        return self.text("config_json")

    def text(self, name: str) -> str:
        """The root attribute ``name``.

        Raises:
            GliomaError: if it is not there.
        """
        if not isinstance(self.attrs.get(name), str):
            raise GliomaError(f"{self.path} has no text '{name}', so its run cannot be repeated or resumed from it.")
        return self.attrs[name]

    @property
    def tissue_names(self) -> tuple[str, ...]:
        with self._reading():
            return tuple(self._file["tissue"])

    @property
    def schedule_names(self) -> tuple[str, ...]:
        with self._reading():
            return tuple(self._file["schedule"])

    def refresh(self) -> None:
        """See what has been committed since; the final status only shows when the file is opened again."""
        with self._reading():
            self._days = self._committed("time", self.fields)
            tables = {"observables": self.observables, "ledger": self.ledger_columns}
            names = [f"{group}/{name}" for group, table in tables.items() for name in table]
            self._observable_days = self._committed("observables/time", names)

    # -- arrays --------------------------------------------------------------------------------------

    def index_of(self, day: float) -> int:
        """The frame nearest to ``day`` [day].

        Raises:
            GliomaError: if there is no frame, or ``day`` lies outside the frames.
        """
        days = self._days
        slack = 1e-6 * max(1.0, abs(day))
        if not len(days) or not days[0] - slack <= day <= days[-1] + slack:
            span = f"its frames span days {days[0]:g} to {days[-1]:g}" if len(days) else "it has no frame yet"
            raise GliomaError(f"{self.path} holds nothing at day {day:g}: {span}.")
        return int(np.argmin(np.abs(days - day)))

    def field(self, name: str, *, day: float | None = None, index: int | None = None) -> np.ndarray:
        """One frame (x, y, z), float32: that nearest to ``day`` [day], or number ``index``.

        Raises:
            GliomaError: if the field or the frame does not exist or its data are damaged.
        """
        if name not in self.fields:
            raise self._unknown("field", name, self.fields)
        if day is not None and index is None:
            frame = self.index_of(day)
        elif index is not None and day is None:
            frame = index
        else:
            raise TypeError("Give either day or index.")
        count = len(self._days)
        if not -count <= frame < count:
            raise GliomaError(f"{self.path} has {count} frames; there is no frame {frame}.")
        with self._reading():
            return self._dataset(name)[frame % count].T

    def observable(self, name: str) -> np.ndarray:
        """An observable at ``observable_days``, shape ``(rows,)``, in the unit of ``observables[name]``."""
        if name not in self.observables:
            raise self._unknown("observable", name, self.observables)
        return self._series(f"observables/{name}")

    def ledger(self, name: str) -> np.ndarray:
        """A column of the ledger at ``observable_days``, shape ``(rows,)``."""
        if name not in self.ledger_columns:
            raise self._unknown("ledger column", name, self.ledger_columns)
        return self._series(f"ledger/{name}")

    def tissue(self, name: str) -> np.ndarray:
        """A tissue map of the window, shape of the grid (x, y, z)."""
        if name not in self.tissue_names:
            raise self._unknown("tissue map", name, self.tissue_names)
        with self._reading():
            return self._dataset(f"tissue/{name}")[()].T

    def initial(self) -> dict[str, np.ndarray]:
        """The fields that the run was given to start from, in their own precision, shape of the grid (x, y, z).

        Empty where the configuration says how they are computed.
        """
        with self._reading():
            return {name: self._dataset(f"initial/{name}")[()].T for name in self._file.get("initial", ())}

    def anatomy(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The T1-like background: uint8 (x, y, z) and its 4x4 affine to world mm, or ``None``."""
        with self._reading():
            if "anatomy" not in self._file:
                return None
            affine = attributes_of(self._file["anatomy"])["affine"]
            return self._dataset("anatomy/background")[()].T, affine

    def schedule(self, name: str) -> dict[str, np.ndarray]:
        """The columns of a schedule table ("injections", "prodrug"); empty where the run has none."""
        return self._table(f"schedule/{name}") if name in self.schedule_names else {}

    def parameters(self) -> list[Parameter]:
        """The parameter table, in the order in which it was written."""
        table = self._table("parameters")
        return [Parameter(*row) for row in zip(*(table[k].tolist() for k in Parameter._fields), strict=True)]

    # -- inside --------------------------------------------------------------------------------------

    def close(self) -> None:
        with contextlib.suppress(Exception):  # a damaged file may fail even here, when all is said
            self._file.close()

    def __enter__(self) -> RunFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except DAMAGE as error:
            raise GliomaError(
                f"{self.path}: this part of the file is damaged or does not fit a run file "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
                "resume the run from its checkpoint, or run it again."
            ) from error

    def _unknown(self, kind: str, name: str, known) -> GliomaError:
        return GliomaError(f"{self.path} has no {kind} '{name}'; it has {', '.join(known) or 'none'}.")

    def _dataset(self, name: str) -> h5py.Dataset:
        dataset = self._file[name]
        if self.live:
            dataset.refresh()
        return dataset

    def _read_grid(self) -> Grid:
        a = self.attrs
        radial = a["geometry"] == "radial"
        spacing = tuple(np.atleast_1d(a["spacing_mm"]).astype(float).tolist())
        names = ("r",) if radial else ("x", "y", "z")[: len(spacing)]
        shape = tuple(len(self._file[n]) for n in names)
        if not radial and a["affine"].shape != (4, 4):
            raise ValueError("the affine is not 4x4")
        affine = None if radial else tuple(map(tuple, a["affine"].astype(float).tolist()))
        return Grid(shape, spacing, a["geometry"], affine, float(a["thickness_mm"]))

    def _quantities(self, group: str) -> dict[str, Quantity]:
        found = {}
        for name, item in self._file[group].items():
            if isinstance(item, h5py.Dataset) and not item.is_scale and name != "time":
                about = attributes_of(item)
                found[name] = Quantity(name, str(about.get("units", "")), str(about.get("long_name", name)))
        return found

    def _check_fields(self) -> None:
        for name in self.fields:
            if self._file[name].shape[1:] != self.grid.shape[::-1]:
                raise ValueError(f"{name} does not have the shape of {axes_of(self.grid)}")
        for item in [*self._file["tissue"].values(), *self._file.get("initial", {}).values()]:
            if item.shape != self.grid.shape[::-1]:
                raise ValueError(f"{item.name} does not have the shape of {axes_of(self.grid)}")

    def _committed(self, time: str, names) -> np.ndarray:
        # Time before data: a writer at work can then only have added data to what time promises.
        days = self._dataset(time)[()]
        days = days[: min([len(days), *(len(self._dataset(n)) for n in names)])]
        good = np.isfinite(days) & (np.diff(days, prepend=-np.inf) > 0)
        return days if good.all() else days[: int(np.argmin(good))]

    def _series(self, name: str) -> np.ndarray:
        with self._reading():
            return self._dataset(name)[: len(self._observable_days)]

    def _table(self, name: str) -> dict[str, np.ndarray]:
        with self._reading():
            columns = {k: d for k, d in self._file[name].items() if not d.is_scale}
            return {k: np.array(d.asstr()[()], dtype=str) if d.dtype.kind == "O" else d[()] for k, d in columns.items()}


def _open(path: Path) -> tuple[h5py.File, bool]:
    with file_errors(path, "read"), open(path, "rb"):
        pass
    options: dict[str, Any] = {"mode": "r"}
    reason = ""
    for _ in range(3):
        try:
            file = _follow(path, **options) if "swmr" in options else h5py.File(path, **options)
        except OSError as error:
            reason = str(error)
            if "already open for" in reason and "swmr" not in options:
                options["swmr"] = True
            elif "locking flag" in reason and "locking" not in options:
                options["locking"] = False  # as the writer in this same process has it
            else:
                break
        else:
            # Files are replaced whole, so a reader needs no lock, and must not keep the next run waiting.
            unlock(file.id.get_vfd_handle())
            return file, "swmr" in options
    if "signature not found" in reason:
        text = "is not an HDF5 file; give a file that a run has written."
    elif "truncated" in reason or "eof" in reason:
        text = "is cut off (an incomplete copy?); copy it again, or resume the run from its checkpoint."
    elif "unable to lock" in reason:
        text = "is being written by another program; wait for it, or close the file there."
    elif "already open for" in reason:
        text = "was left half written by another program; mend it with `h5clear -s`, or give another file."
    else:
        text = f"cannot be opened as HDF5 ({reason.splitlines()[0]}); resume the run from its checkpoint."
    raise GliomaError(f"{path} {text}")


def _follow(path: Path, mode: str, swmr: bool, locking: bool = True) -> h5py.File:
    """Open for reading what a writer has open, or had when it was killed."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    if not locking:
        access.set_file_locking(False, False)
    # HDF5 reads metadata whose checksum is wrong again, in case a writer is at it, after 1, 2, 4, 8 … ns: by its
    # default of 100 attempts damage would never be reported. h5py has no name for the setting.
    with contextlib.suppress(OSError, AttributeError):
        set_attempts = ctypes.CDLL(h5py.h5p.__file__).H5Pset_metadata_read_attempts
        set_attempts.argtypes = [ctypes.c_int64, ctypes.c_uint]
        set_attempts(access.id, _ATTEMPTS)
    return h5py.File(h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ, access))


def digest(file: h5py.File) -> str:
    """SHA-256 of all text, attributes and unfiltered data, in which HDF5 itself would not notice a flipped bit.

    Filtered data carry their own checksums.
    """
    total = hashlib.sha256()

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        for key, value in sorted(attributes_of(item).items()):
            if key != SEAL:
                total.update(f"{name}@{key}={np.asarray(value).tolist()!r};".encode())
        if isinstance(item, h5py.Dataset):
            total.update(f"{name}:{item.dtype.str}{item.shape};".encode())
            if item.dtype.kind == "O":
                total.update(repr(item.asstr()[()].tolist()).encode())
            elif item.id.get_create_plist().get_nfilters() == 0:
                total.update(item[()].tobytes())

    add("/", file["/"])
    file.visititems(add)
    return total.hexdigest()
