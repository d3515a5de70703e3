"""The run file: one HDF5 file per simulated arm, written while the run goes on.

Root datasets ``(time, z, y, x)`` per field, dimension scales ``x``, ``y``, ``z`` [mm] (``r`` for shells) and
``time`` [day], and the groups ``tissue``, ``initial``, ``anatomy``, ``schedule``, ``observables``, ``ledger``,
``parameters`` and ``summary``. Arrays in memory are ``(x, y, z)``; on file x runs fastest.

From the moment it has its name the file is in HDF5's single-writer/multiple-reader mode: readers can follow
a run, and a killed run leaves a readable file. A frame exists once its ``time`` exists, which is written
after the data.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from glioma_pde.errors import GliomaError
from glioma_pde.grid import Grid
from glioma_pde.io._files import Claim, divert_writes, file_errors, room, sync_folder
from glioma_pde.io._layout import DERIVED, SEAL, SLACK, Layout, Parameter, Quantity, lay_out, set_attribute
from glioma_pde.io._packing import write_packed
from glioma_pde.io._reader import RunFile, digest

__all__ = ["Parameter", "Quantity", "RunFile", "RunWriter"]

_LIBVER = ("v110", "latest")  # the oldest format that has single-writer/multiple-reader


class _Output:
    """An HDF5 file being written that a failing disk leaves as it was, as if the writer had been killed.

    After a failed write HDF5 itself would go on writing as it closes, and leave a file marked as truncated.
    """

    def __init__(self, h5: h5py.File, fd: int | None) -> None:
        """``fd`` is a descriptor of the same file, or ``None`` where there is none."""
        self.h5, self._fd = h5, fd
        self.is_open = True

    @contextlib.contextmanager
    def writing(self, amount: int) -> Iterator[None]:
        """Around writes of ``amount`` bytes at most.

        Raises:
            OSError: if there is no room (the file is then still usable) or a write fails.
        """
        with room(self._fd, self.h5.id.get_filesize, amount), self._or_drop():
            yield

    @contextlib.contextmanager
    def _or_drop(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # h5py raises either
            self.drop()
            raise OSError(str(error)) from error

    def drop(self) -> None:
        """Close without another byte on the disk."""
        if self.is_open:
            self.is_open = False
            divert_writes(self.h5.id.get_vfd_handle())
            with contextlib.suppress(OSError, RuntimeError):
                self.h5.close()

    def close(self) -> None:
        if self.is_open:
            with self._or_drop():
                self.h5.flush()
                self.is_open = False
                self.h5.close()

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind:
            self.drop()
        self.close()


class RunWriter:
    """Writes one run file; a context manager that on leaving keeps whatever is committed."""

    def __init__(self, path: Path, output: _Output, claim: Claim) -> None:
        """Use ``create`` or ``reopen``."""
        self.path = path
        self._output, self._claim = output, claim
        file = output.h5
        self._tables = {
            group: {k: d for k, d in file[group].items() if isinstance(d, h5py.Dataset) and not d.is_scale}
            for group in ("/", "observables", "ledger")
        }
        self._times = {"/": file["time"], "observables": file["observables/time"]}
        self._counts = {key: len(time) for key, time in self._times.items()}

    @classmethod
    def create(
        cls,
        path: str | os.PathLike,
        *,
        grid: Grid,
        fields: Sequence[Quantity],
        observables: Sequence[Quantity] = (),
        ledger: Sequence[Quantity] = (),
        tissue: Mapping[str, np.ndarray] | None = None,
        anatomy: tuple[np.ndarray, Any] | None = None,
        schedule: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        parameters: Sequence[tuple[str, float | None, str, str, float | None]] = (),
        attributes: Mapping[str, Any] | None = None,
        initial: Mapping[str, np.ndarray] | None = None,
    ) -> RunWriter:
        """Start a run file; an older one of that name is replaced in one stroke.

        Args:
            grid: cells of the computed window.
            tissue: maps of the window, shape ``grid.shape``; booleans become 0 and 1.
            anatomy: T1-like background ``(uint8 array (x, y, z), 4x4 affine to world mm)``.
            schedule: per table its columns, one row per event and site.
            parameters: rows ``(name, value, unit, source, default)``.
            attributes: root attributes (text, numbers, numeric arrays; mappings become JSON). The window is
                the whole tissue unless ``full_shape``, ``full_affine`` and ``window_start`` say otherwise.
            initial: fields that the run starts from, shape ``grid.shape``, kept in their own precision.

        Raises:
            GliomaError: if the folder cannot be written, the disk is full or another writer has the file.
            ValueError: if names, shapes or types do not fit the layout.
        """
        layout = Layout(
            grid=grid,
            fields=fields,
            observables=observables,
            ledger=ledger,
            tissue=tissue or {},
            anatomy=anatomy,
            schedule=schedule or {},
            parameters=parameters,
            attributes=attributes or {},
            initial=initial or {},
        )
        return cls._start(Path(path), layout)

    @classmethod
    def reopen(cls, path: str | os.PathLike, keep_until_day: float) -> RunWriter:
        """Go on with an existing file after ``keep_until_day`` [day].

        Every committed frame and row up to that day is copied into a fresh file, which then replaces the
        old one: this also mends what a killed writer left behind.

        Raises:
            GliomaError: if the file is missing, damaged, or being written.
        """
        with RunFile(path) as old:
            layout = Layout(
                grid=old.grid,
                fields=[*old.fields.values()],
                observables=[*old.observables.values()],
                ledger=[*old.ledger_columns.values()],
                tissue={name: old.tissue(name) for name in old.tissue_names},
                anatomy=old.anatomy(),
                schedule={name: old.schedule(name) for name in old.schedule_names},
                parameters=old.parameters(),
                attributes={k: v for k, v in old.attrs.items() if k not in (*DERIVED, SEAL)},
                initial=old.initial(),
            )
            return cls._start(Path(path), layout, old, keep_until_day)

    @classmethod
    def _start(cls, path: Path, layout: Layout, old: RunFile | None = None, keep_until_day: float = 0.0) -> RunWriter:
        claim = Claim(path)
        try:
            with file_errors(path):
                file = h5py.File(claim.partial, "w", libver=_LIBVER, locking=False, track_order=True)
                with _Output(file, claim.fd) as output:
                    with output.writing(layout.size_bound()):
                        lay_out(file, layout)
                        file.flush()
                    if old is not None:
                        _copy_rows(old, cls(path, output, claim), keep_until_day)
                claim.sync()
                claim.publish()
                sync_folder(path.parent)
                return cls(path, _Output(_open_for_appending(path), claim.fd), claim)
        except BaseException:
            claim.abandon()
            raise

    def append_frame(self, day: float, fields: Mapping[str, np.ndarray]) -> None:
        """Commit one frame at ``day`` [day]: every field, shape of the grid, stored as float32.

        Raises:
            GliomaError: if it cannot be written; earlier frames are safe.
            ValueError: if fields are missing or unknown, shapes differ or the day does not follow the last.
        """
        rows = {k: np.asarray(v, np.float32).T[None] for k, v in fields.items()}
        self._append("/", np.array([day], float), {"/": rows})

    def append_observables(
        self,
        day: float | np.ndarray,
        values: Mapping[str, float | np.ndarray],
        ledger_values: Mapping[str, float | np.ndarray] | None = None,
    ) -> None:
        """Commit one row (or, given arrays ``(n,)``, ``n`` rows) of observables and ledger at ``day`` [day].

        Raises:
            GliomaError: if it cannot be written; earlier rows are safe.
            ValueError: if names are missing or unknown, lengths differ or the days do not follow the last.
        """
        tables = {
            group: {k: np.atleast_1d(np.asarray(v, float)) for k, v in (given or {}).items()}
            for group, given in (("observables", values), ("ledger", ledger_values))
        }
        self._append("observables", np.atleast_1d(np.asarray(day, float)), tables)

    def _append(self, key: str, days: np.ndarray, tables: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        self._check_open()
        time, start = self._times[key], self._counts[key]
        stop = start + len(days)
        last = time[start - 1] if start else -np.inf
        if not np.all(np.isfinite(days)) or np.any(np.diff(days, prepend=last) <= 0):
            raise ValueError(f"Days must be finite and increase: {days.tolist()} after {last}.")
        for group, rows in tables.items():
            if rows.keys() != self._tables[group].keys():
                raise ValueError(f"Expected {sorted(self._tables[group])}, got {sorted(rows)}.")
            for name, row in rows.items():
                if row.shape != (len(days), *self._tables[group][name].shape[1:]):
                    raise ValueError(f"{name}: its shape {row.shape[:0:-1]} does not fit the file.")
        datasets = [(self._tables[group][name], row) for group, rows in tables.items() for name, row in rows.items()]
        amount = _size_bound([time, *(dataset for dataset, _ in datasets)], len(days))
        file = self._output.h5
        with file_errors(self.path), self._output.writing(amount):
            for dataset, _ in datasets:
                dataset.resize(stop, axis=0)
            if key == "/":
                write_packed(start, {dataset: row[0] for dataset, row in datasets})
            else:
                for dataset, row in datasets:
                    dataset[start:stop] = row
            file.flush()
            time.resize(stop, axis=0)
            time[start:stop] = days
            file.flush()
            if key == "/" and file.swmr_mode:
                self._claim.sync()  # a checkpoint written next must not outlive the frame in a power cut
        self._counts[key] = stop

    def sync(self) -> None:
        """Wait until the disk has everything that was committed.

        Raises:
            GliomaError: if the disk fails.
        """
        self._check_open()
        with file_errors(self.path):
            self._claim.sync()

    def finish(self, status: str, summary: Mapping[str, float | str] | None = None) -> None:
        """Close the file with its ``status`` ("finished", "stopped: reason") and outcome numbers.

        They go into a copy that then replaces the file, so a crash leaves the one or the other, whole.

        Raises:
            GliomaError: if they cannot be written; the frames are safe.
        """
        self._check_open()
        beside = self.path.with_name(self.path.name + ".finishing")
        try:
            with file_errors(self.path):
                self._output.close()
                shutil.copyfile(self.path, beside)
                _conclude(beside, status, summary or {})
                os.replace(beside, self.path)
                sync_folder(self.path.parent)
        finally:
            beside.unlink(missing_ok=True)
            self._claim.release()

    def close(self) -> None:
        """Close the file as it stands, with the status "running"; closing twice does nothing."""
        try:
            with file_errors(self.path):
                self._output.close()
        finally:
            self._claim.release()

    def _check_open(self) -> None:
        if not self._output.is_open:
            raise GliomaError(f"{self.path} is closed (after a failed write?); resume the run to go on.")

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        # An error on the way out (a full disk) must not hide the one that led here.
        with contextlib.suppress(GliomaError) if kind else contextlib.nullcontext():
            self.close()


def _open_for_appending(path: Path) -> h5py.File:
    """Open as single writer at once: a plain r+ would, if killed, leave a file that no reader accepts."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_LATEST)
    access.set_file_locking(False, True)  # the claim's lock stands in for HDF5's, which truncates first
    flags = h5py.h5f.ACC_RDWR | h5py.h5f.ACC_SWMR_WRITE
    return h5py.File(h5py.h5f.open(os.fsencode(path), flags, access))


def _conclude(path: Path, status: str, summary: Mapping[str, float | str]) -> None:
    with open(path, "rb+") as handle:
        file = h5py.File(path, "r+", libver=_LIBVER, locking=False)
        with _Output(file, handle.fileno()) as output, output.writing(SLACK):
            file.attrs["status"] = status
            for name, value in summary.items():
                set_attribute(file["summary"], name, value)
            file.attrs[SEAL] = digest(file)
            file.flush()
        os.fsync(handle.fileno())


def _size_bound(datasets: Sequence[h5py.Dataset], rows: int) -> int:
    """What appending ``rows`` rows can take on the disk at most [bytes]."""
    total = SLACK
    for dataset in datasets:
        count = rows // dataset.chunks[0] + 2
        for n, chunk in zip(dataset.shape[1:], dataset.chunks[1:], strict=True):
            count *= -(-n // chunk)
        total += 2**16 + count * (64 + dataset.dtype.itemsize * math.prod(dataset.chunks))
    return total


def _copy_rows(old: RunFile, new: RunWriter, keep_until_day: float) -> None:
    for i in np.flatnonzero(old.days <= keep_until_day):
        new.append_frame(old.days[i], {name: old.field(name, index=int(i)) for name in old.fields})
    kept = old.observable_days <= keep_until_day
    if kept.any():
        new.append_observables(
            old.observable_days[kept],
            {name: old.observable(name)[kept] for name in old.observables},
            {name: old.ledger(name)[kept] for name in old.ledger_columns},
        )
