"""What the figures need from a run file: frames, slices in anatomical orientation, curves and schedules."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from glioma_pde.errors import GliomaError
from glioma_pde.io.hdf5 import RunFile

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
"""World axis (0 x, 1 y, 2 z) that each plane is normal to."""


class Box:
    """A box of voxels, seen along the world axes that its own axes are closest to.

    A *canonical* array has axes (x, y, z) that increase to the patient's right, front and top. On a
    rotated box, the canonical axes are the box's own; only then is a millimetre "along x" measured
    along a direction that is not exactly x.

    Attributes:
        shape: cells along x, y, z of a canonical array.
        affine: 4x4 map from canonical cell indices to world coordinates [mm].
        spacing_mm: cell size along x, y, z [mm].
        directions: unit vectors of the canonical axes in the world, one in each row.
    """

    def __init__(self, shape: tuple[int, ...], affine: np.ndarray) -> None:
        matrix = np.array(affine, dtype=float)
        sizes = np.linalg.norm(matrix[:3, :3], axis=0)
        if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)) or np.any(sizes == 0):
            raise GliomaError("The affine in the run file is not an invertible 4x4 matrix; write the file again.")
        cosines = matrix[:3, :3] / sizes
        self.order = max(itertools.permutations(range(3)), key=lambda p: sum(abs(cosines[w, p[w]]) for w in range(3)))
        self.flipped = tuple(bool(cosines[w, self.order[w]] < 0) for w in range(3))
        self.shape = tuple(shape[k] for k in self.order)
        self.spacing_mm = sizes[list(self.order)]
        self.affine = np.eye(4)
        self.affine[:3, 3] = matrix[:3, 3]
        for w, k in enumerate(self.order):
            self.affine[:3, w] = -matrix[:3, k] if self.flipped[w] else matrix[:3, k]
            if self.flipped[w]:
                self.affine[:3, 3] += matrix[:3, k] * (shape[k] - 1)
        self.directions = (self.affine[:3, :3] / self.spacing_mm).T

    def canonical(self, array: np.ndarray) -> np.ndarray:
        """An array on the box's own axes, viewed along (x, y, z)."""
        turned = array.transpose(self.order)
        return turned[tuple(slice(None, None, -1) if f else slice(None) for f in self.flipped)]

    def own_index(self, axis: int, index: int) -> tuple[int, int]:
        """(own axis, index on it) of a canonical index along a canonical axis."""
        return self.order[axis], self.shape[axis] - 1 - index if self.flipped[axis] else index

    def index_of(self, point_mm: np.ndarray) -> np.ndarray:
        """Fractional canonical indices of world points ``(…, 3)`` [mm]."""
        return (np.asarray(point_mm) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def cell_of(self, point_mm: np.ndarray) -> np.ndarray:
        """Canonical index of the cell nearest to a point."""
        return np.clip(np.round(self.index_of(point_mm)).astype(int), 0, np.array(self.shape) - 1)

    def place_of(self, index: np.ndarray) -> np.ndarray:
        """World coordinates [mm] of fractional canonical indices ``(3,)``."""
        return self.affine[:3, :3] @ index + self.affine[:3, 3]

    def coordinates(self, axis: int, point_mm: np.ndarray) -> np.ndarray:
        """Cell centres along a canonical axis [mm], on the line through a point."""
        steps = np.arange(self.shape[axis]) - self.index_of(point_mm)[axis]
        return point_mm[axis] + steps * self.spacing_mm[axis]


def sample(volume: np.ndarray, affine: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
    """Trilinear values of a volume at world points ``(…, 3)`` [mm]; zero outside the volume."""
    inverse = np.linalg.inv(np.asarray(affine, dtype=float))
    index = points_mm @ inverse[:3, :3].T + inverse[:3, 3]
    low = np.floor(index).astype(int)
    part = index - low
    total = np.zeros(points_mm.shape[:-1])
    for corner in itertools.product((0, 1), repeat=3):
        at = low + corner
        inside = np.all((at >= 0) & (at < volume.shape), axis=-1)
        weight = np.prod(np.where(corner, part, 1.0 - part), axis=-1)
        i, j, k = np.where(inside[..., None], at, 0).reshape(-1, 3).T
        total += np.where(inside, weight * volume[i, j, k].reshape(inside.shape), 0.0)
    return total


class Arm:
    """One run file, open for drawing; a context manager.

    Attributes:
        path: the file.
        days: days of the frames that are complete [day].

    Raises:
        GliomaError: if the file cannot be read, or holds no frame yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.run = RunFile(self.path)
        self._curves: dict[str, np.ndarray] = {}
        self.days = np.asarray(self.run.days, dtype=float)
        if not len(self.days):
            self.close()
            raise GliomaError(
                f"{self.path}: the file holds no frame yet; draw it once the run has written its first one."
            )

    def __enter__(self) -> Arm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.run.close()

    # -- who it is ----------------------------------------------------------------------------

    @cached_property
    def name(self) -> str:
        return str(self.run.attrs.get("arm") or self.path.stem)

    def text(self, attribute: str) -> str:
        return str(self.run.attrs.get(attribute, ""))

    def number(self, attribute: str) -> float | None:
        value = self.run.attrs.get(attribute)
        return None if value is None else float(value)

    @cached_property
    def unfinished(self) -> str:
        """Why the file ends before the run should, or an empty string."""
        status = self.text("status")
        whole = status in ("", "finished") or status.startswith("stopped")  # at the burden it was to stop at
        return "" if whole else f"{status}, to day {self.days[-1]:g}"

    # -- fields -------------------------------------------------------------------------------

    def fields(self, wanted: Sequence[str]) -> list[str]:
        """Those of the wanted fields that the file has."""
        return [name for name in wanted if name in self.run.fields]

    @property
    def dimensions(self) -> int:
        """Space dimensions of the fields."""
        return self.run.grid.ndim

    def unit(self, field: str) -> str:
        return self.run.fields[field].unit

    @cached_property
    def box(self) -> Box:
        return Box((*self.run.grid.shape, 1, 1)[:3], self.run.grid.matrix)

    def volume(self, field: str, frame: int) -> np.ndarray:
        """A whole field at one frame, canonical (x, y, z)."""
        return self._canonical(self.run.field(self._name(field), index=frame))

    def section(self, field: str, frame: int, axis: int, point_mm: np.ndarray) -> np.ndarray:
        """One slice of a field through a point; only its chunks are read.

        Args:
            axis: canonical axis the slice is normal to.

        Returns:
            Array (row, column): the lower remaining axis runs along the columns.

        Raises:
            GliomaError: if the data are damaged.
        """
        data = self._stored(field)
        if data is None:
            return self._cut(self.volume(field, frame), point_mm)[axis]
        own, at = self.box.own_index(axis, self.box.cell_of(point_mm)[axis])
        window = [slice(None)] * self.dimensions
        if own < self.dimensions:  # a 2-D file has no third axis to cut
            window[self.dimensions - 1 - own] = slice(at, at + 1)
        try:
            stored = np.asarray(data[(frame, *window)])
        except (OSError, RuntimeError) as error:
            raise GliomaError(
                f"{self.path}: {field} on day {self.days[frame]:g} is damaged; resume the run or repeat it."
            ) from error
        return self._canonical(stored.T).take(0, axis=axis).T

    def sections(self, field: str, frame: int, point_mm: np.ndarray) -> dict[int, np.ndarray]:
        """The three slices of a 3-D field through a point, by axis; reads the volume once if that is less."""
        data = self._stored(field)
        if data is not None and data.chunks:
            chunks = [-(-n // c) for n, c in zip(data.shape[1:], data.chunks[1:], strict=True)]
            if sum(np.prod(chunks) // n for n in chunks) < np.prod(chunks):
                return {axis: self.section(field, frame, axis, point_mm) for axis in range(3)}
        return self._cut(self.volume(field, frame), point_mm)

    def mask(self, point_mm: np.ndarray) -> dict[int, np.ndarray]:
        """Slices of the tissue mask through a point, by axis; empty where the file has none."""
        if "mask" not in self.run.tissue_names:
            return {}
        return self._cut(self._canonical(self.run.tissue("mask")), point_mm)

    def _stored(self, field: str) -> h5py.Dataset | None:
        """The field in the file, to read parts of it; ``None`` if the reader only hands out whole frames."""
        file = getattr(self.run, "file", None)
        return None if file is None else file[self._name(field)]

    def _name(self, field: str) -> str:
        """Where a run follows several sorts of tumour cells, the tumour is all of them."""
        return "tumour_cells" if field == "tumour" and "tumour_cells" in self.run.fields else field

    def _cut(self, volume: np.ndarray, point_mm: np.ndarray) -> dict[int, np.ndarray]:
        index = self.box.cell_of(point_mm)
        return {axis: volume.take(index[axis], axis=axis).T for axis in range(3)}

    def _canonical(self, array: np.ndarray) -> np.ndarray:
        return self.box.canonical(array if array.ndim == 3 else array[..., None])

    @cached_property
    def background(self) -> tuple[np.ndarray, np.ndarray] | None:
        """A grey picture of the head, 0 … 1, with its affine: the anatomy, else made of tissue maps."""
        found = self.run.anatomy()
        if found is not None:
            return np.asarray(found[0], dtype=np.float32) / 255.0, np.asarray(found[1], dtype=float)
        shades = {"csf": 0.12, "grey": 0.42, "white": 0.68}  # as in a T1-weighted image
        known = [name for name in shades if name in self.run.tissue_names]
        if known:
            picture = sum(shades[name] * self.run.tissue(name).astype(float) for name in known)
        elif "mask" in self.run.tissue_names:
            picture = 0.4 * self.run.tissue("mask").astype(float)
        else:
            return None
        return self._canonical(np.asarray(picture)), self.box.affine

    # -- curves -------------------------------------------------------------------------------

    @cached_property
    def observable_days(self) -> np.ndarray:
        return np.asarray(self.run.observable_days, dtype=float)

    def curve(self, name: str) -> np.ndarray | None:
        """An observable on its days, or ``None`` where the file has none of them."""
        if name not in self.run.observables or not len(self.observable_days):
            return None
        if name not in self._curves:
            self._curves[name] = np.asarray(self.run.observable(name), dtype=float)
        return self._curves[name]

    def needed(self, name: str) -> np.ndarray:
        """An observable that a figure cannot do without.

        Raises:
            GliomaError: if the file has none.
        """
        values = self.curve(name)
        if values is None:
            raise GliomaError(f"{self.path}: no {name} among the observables; let the run record it.")
        return values

    @property
    def compare_days(self) -> tuple[float, ...]:
        """Days on which the configuration asks to compare; none in an unfinished run."""
        return tuple(
            sorted(float(n.removeprefix("burden_day")) for n in self.run.summary if n.startswith("burden_day"))
        )

    def imbalances(self) -> dict[str, np.ndarray]:
        """Relative imbalance of each transported field, by field, on the days of the observables."""
        suffix = "_imbalance"
        if not len(self.observable_days):
            return {}
        names = [name for name in self.run.ledger_columns if name.endswith(suffix)]
        return {name[: -len(suffix)]: np.asarray(self.run.ledger(name), dtype=float) for name in names}

    @cached_property
    def injections(self) -> dict[str, np.ndarray]:
        """Columns of the table of injections; empty where no cell is given."""
        table = dict(self.run.schedule("injections"))
        return table if len(table.get("day", ())) and np.any(table.get("cells", 1)) else {}

    def treatment_days(self, table: str) -> np.ndarray:
        """Days of a table of the schedule, each once, as far as the run has come; empty where there is none."""
        rows = self.injections if table == "injections" else self.run.schedule(table)
        days = np.unique(np.asarray(rows.get("day", ()), dtype=float))
        return days[days <= self.observable_days[-1]] if len(self.observable_days) else days

    @cached_property
    def courses(self) -> list[tuple[float, float]]:
        """First and last day of each prodrug course."""
        table = self.run.schedule("prodrug")
        doses = table.get("dose_mg_per_kg_per_day", np.ones(len(table.get("start_day", ()))))
        rows = zip(table.get("start_day", ()), table.get("end_day", ()), doses, strict=True)
        return sorted({(float(a), float(b)) for a, b, dose in rows if dose > 0})

    @property
    def untreated(self) -> bool:
        """Whether the schedule holds no treatment at all."""
        others = [name for name in self.run.schedule_names if name not in ("injections", "prodrug")]
        return not (self.injections or self.courses or any(_rows(self.run.schedule(name)) for name in others))


def _rows(table: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(table.values()), ()))


Source = str | Path | Arm


@contextmanager
def opened(sources: Sequence[Source]) -> Iterator[list[Arm]]:
    """Open what is a path; an ``Arm`` is used as it is, and left open."""
    if not sources:
        raise GliomaError("There is nothing to draw: name at least one run file.")
    with ExitStack() as stack:
        yield [item if isinstance(item, Arm) else stack.enter_context(Arm(item)) for item in sources]


def names_of(arms: Sequence[Arm]) -> list[str]:
    """A name for each arm, with as much of its path as it takes to tell it from the others; then with its number."""
    names = [arm.name for arm in arms]
    for addition in (lambda path: path.stem, lambda path: f"{path.parent.name}/{path.stem}"):
        names = [
            name if names.count(name) == 1 else f"{arm.name} ({addition(arm.path)})"
            for name, arm in zip(names, arms, strict=True)
        ]
    return [name if names.count(name) == 1 else f"{name} {1 + names[:k].count(name)}" for k, name in enumerate(names)]


def reference_of(arms: Sequence[Arm]) -> Arm | None:
    """The untreated arm that the others are measured against, if there is one and others exist."""
    if len(arms) < 2:
        return None
    named = [arm for arm in arms if arm.name.lower() in ("untreated", "control")]
    return next(iter(named + [arm for arm in arms if arm.untreated]), None)


def first_crossing(days: np.ndarray, burden: np.ndarray, level: float) -> float | None:
    """Day on which a burden first reaches a level, interpolated in its logarithm; ``None`` if never."""
    above = np.flatnonzero(burden >= level)
    if not len(above):
        return None
    i = int(above[0])
    if i == 0 or burden[i - 1] <= 0:
        return float(days[i])
    low, high = np.log(burden[i - 1 : i + 1])
    return float(days[i - 1] + (np.log(level) - low) / (high - low) * (days[i] - days[i - 1]))


def values_on(days: np.ndarray, values: np.ndarray, at: np.ndarray, logarithmic: bool = False) -> np.ndarray:
    """A curve at other days by interpolation (of its logarithm, if asked and positive); NaN outside it."""
    if logarithmic and np.all(values > 0):
        return np.exp(np.interp(at, days, np.log(values), left=np.nan, right=np.nan))
    return np.interp(at, days, values, left=np.nan, right=np.nan)
