"""Whether points lie in the brain tissue that a configuration describes, before it is built."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GliomaError

if TYPE_CHECKING:
    import numpy as np

IMAGES = ("white", "grey", "csf", "mask", "background")
_FARTHEST = 64  # cells within which the nearest tissue is looked for
_THRESHOLD = 0.5  # share of white and grey matter from which a cell is tissue


class Atlas:
    """The anatomies of the arms of one configuration; most arms share one.

    Args:
        folder: what the paths of images are relative to.
        unread: paths in the configuration of images that will not be read.
    """

    def __init__(self, folder: str | Path = ".", unread: Collection[str] = ()) -> None:
        self.folder = Path(folder)
        self.unread = unread
        self._seen: dict[str, tuple[Anatomy | None, list[str]]] = {}

    def problems(self, tissue: Any, places: Iterable[tuple[str, Sequence[float]]]) -> list[str]:
        """Sentences for images that are not there and for points that do not lie in the tissue.

        Args:
            places: points [mm] with their paths.
        """
        key = tissue.model_dump_json()
        if key not in self._seen:
            self._seen[key] = _look(tissue, self.folder)
        anatomy, problems = self._seen[key]
        if anatomy is None:
            return problems
        points = [(path, point) for path, point in places if len(point) == len(anatomy.shape)]
        return [f"{path}: {point} mm {fault}" for path, point in points if (fault := anatomy.problem(tuple(point)))]

    def elsewhere(self, tissue: Any, images: Iterable[tuple[str, str]]) -> list[str]:
        """Sentences for images whose voxels are not the cells of the tissue. What cannot be told here, the build tells.

        Args:
            images: paths in the configuration, and of the files.
        """
        from .images import read_header

        self.problems(tissue, ())
        anatomy, _ = self._seen[tissue.model_dump_json()]
        if anatomy is None:
            return []
        problems = []
        for key, file in images:
            header = read_header(self.folder / file)
            if header and (fault := misplaced(header.shape, header.matrix, anatomy.shape, anatomy.matrix)):
                problems.append(f"{key}: {file} {fault}")
        return problems


def _look(tissue: Any, folder: Path) -> tuple[Anatomy | None, list[str]]:
    if tissue.kind == "nifti":
        given = {name: getattr(tissue, name) for name in IMAGES if getattr(tissue, name) is not None}
        if missing := [name for name, path in given.items() if not is_file(folder / path)]:
            return None, [f"tissue.{name}: there is no image file {folder / given[name]}" for name in missing]
    anatomy = anatomy_of(tissue, folder)
    window = getattr(tissue, "window", None)
    if anatomy is None or window is None or len(window.centre_mm) != len(anatomy.shape):
        return anatomy, []
    if problem := anatomy.cut(window.centre_mm, window.half_width_mm):
        return None, [f"tissue.window: {problem}"]
    return anatomy, []


def misplaced(shape: Sequence[int], matrix: np.ndarray, wanted: Sequence[int], affine: np.ndarray) -> str | None:
    """What is wrong with an image in the place of the cells of a tissue, if anything.

    Args:
        shape, matrix: of the image. wanted, affine: of the tissue; of both, the rows of all but the last count.
    """
    import numpy as np

    shape, wanted = tuple(shape), tuple(wanted)
    if shape == wanted and np.allclose(matrix[:3], affine[:3], atol=1e-3):
        return None
    why = "another affine" if shape == wanted else f"shape {shape} against {wanted}"
    return f"is not in the space of the tissue ({why}); resample it first"


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def resampled(counts: Any, old: Any, new: Any) -> Any:
    """Numbers of cells of size ``new`` [mm] along axes that had ``counts`` of size ``old``."""
    import numpy as np

    if np.array_equal(old, new):
        return np.asarray(counts)
    return np.maximum(np.ceil(np.asarray(counts) * old / new - 1e-6), 1).astype(int)


class Anatomy:
    """The cells of a tissue: where they are, and which of them are tissue.

    Attributes:
        shape: of the grid.
        matrix: from cell indices to world mm, shape ``(dim, dim + 1)``.
        inside: whether the cells ``start`` to ``stop`` are tissue, or ``None`` if that is not known.
        what: what a point may lie outside of; ``None``: that is no matter of this class.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        matrix: np.ndarray,
        inside: Callable[[Any, Any], np.ndarray] | None,
        what: str | None = "image",
    ) -> None:
        self.shape, self.matrix, self.inside, self.what = shape, matrix, inside, what
        self.low, self.high = [0] * len(shape), list(shape)
        self._known: dict[tuple[float, ...], str | None] = {}

    def cut(self, centre_mm: Sequence[float], half_width_mm: float) -> str | None:
        """Keep a window; what is wrong with it, if anything."""
        import numpy as np

        index = self._index(centre_mm)
        reach = half_width_mm / np.linalg.norm(self.matrix[:, :-1], axis=0)
        low = np.maximum(np.ceil(index - reach - 1e-9), 0)
        high = np.minimum(np.floor(index + reach + 1e-9) + 1, self.shape)
        if not np.all(low < high):
            return f"it lies outside the image, which has {' × '.join(map(str, self.shape))} cells"
        self.low, self.high, self.what = [int(i) for i in low], [int(i) for i in high], "computed window"
        return None

    def problem(self, point_mm: tuple[float, ...]) -> str | None:
        """What is wrong with a point, if anything."""
        if point_mm not in self._known:
            self._known[point_mm] = self._problem(point_mm)
        return self._known[point_mm]

    def _problem(self, point_mm: tuple[float, ...]) -> str | None:
        import numpy as np

        index = np.round(self._index(point_mm))
        if not (np.all(index >= self.low) and np.all(index < self.high)):
            return self.what and f"lies outside the {self.what}"
        cell = index.astype(int)
        if self.inside is None or self.inside(cell, cell + 1).all():
            return None
        nearest = self._nearest(cell)
        more = "" if nearest is None else f"; the nearest tissue is at {nearest} mm"
        return f"is not in brain tissue{more}"

    def _index(self, point_mm: Sequence[float]) -> np.ndarray:
        import numpy as np

        return np.linalg.solve(self.matrix[:, :-1], np.asarray(point_mm, float) - self.matrix[:, -1])

    def _nearest(self, cell: np.ndarray) -> list[float] | None:
        import numpy as np

        assert self.inside is not None
        spacing = np.linalg.norm(self.matrix[:, :-1], axis=0)
        reach = 1
        while reach <= _FARTHEST:
            start, stop = np.maximum(cell - reach, self.low), np.minimum(cell + reach + 1, self.high)
            found = np.argwhere(self.inside(start, stop)) + start
            if found.size:
                distance = np.sqrt((((found - cell) * spacing) ** 2).sum(axis=1))
                best = int(np.argmin(distance))
                if distance[best] <= reach * spacing.min():  # none outside the box is nearer
                    place = self.matrix[:, :-1] @ found[best] + self.matrix[:, -1]
                    return [round(float(v), 1) for v in place]
            reach *= 2
        return None


def anatomy_of(tissue: Any, folder: Path) -> Anatomy | None:
    """The whole of it, or ``None`` if only building it can tell."""
    if tissue.kind == "phantom":
        return _phantom(tissue)
    if tissue.kind == "mni152":
        try:
            from .._atlas import atlas_file

            paths = [atlas_file(name) for name in ("wm", "gm", "t1")]
        except GliomaError:
            return None  # building it says so
        return _image(*_read(True, 0.0, *map(_stamp, paths)), tissue.spacing_mm)
    if tissue.kind == "nifti":
        names = ("white", "grey") if tissue.mask is None else ("mask",)
        paths = [folder / getattr(tissue, name) for name in names]
        return _image(*_read(False, float(tissue.scale), *map(_stamp, paths)), tissue.spacing_mm)
    return None


def _phantom(tissue: Any) -> Anatomy:
    import numpy as np

    from .._phantom import Box, phantom_maps

    box = Box(tuple(tissue.shape), (float(tissue.spacing_mm),) * len(tissue.shape))

    def inside(start: Any, stop: Any) -> np.ndarray:
        maps = phantom_maps(tissue.geometry, box, tissue.white_fraction, None, tuple(map(slice, start, stop)))
        return maps["white"] + maps["grey"] >= _THRESHOLD

    spacing = np.asarray(box.spacing_mm)
    matrix = np.column_stack([np.diag(spacing), -0.5 * (np.asarray(box.shape) - 1) * spacing])
    return Anatomy(box.shape, matrix, inside, what=None)  # that the box reaches so far is a rule of its own


Stamp = tuple[Path, int, int]


def _stamp(path: Path) -> Stamp:
    """A file as it is now."""
    about = path.stat()
    return path, about.st_mtime_ns, about.st_size


@functools.lru_cache(maxsize=1)
def _read(atlas: bool, scale: float, *files: Stamp) -> tuple[Any, Any]:
    """The header of images of one space, and the share of tissue in their voxels; ``None`` for what is not plain."""
    import numpy as np

    from .._atlas import T1_BRAIN
    from .images import read_header, read_values

    headers = [read_header(path) for path, _, _ in files]
    if (first := headers[0]) is None or any(h is None or h.shape != first.shape for h in headers):
        return None, None
    maps = [read_values(h) for h in headers if h is not None]
    if any(m is None for m in maps):
        return first, None
    found: Any = maps
    if atlas:
        white, grey, t1 = found
        full = max(white.max(), grey.max())
        share = np.where(t1 > T1_BRAIN * t1.max(), (white + grey) / full, np.float32(0))
    elif len(found) == 1:
        share = (found[0] > 0).astype(np.float32)
    else:
        share = (found[0] + found[1]) / np.float32(scale)
        if share.max() > 1.1 or share.min() < 0:
            share = None  # no fractions: building it says so
    return first, share


def _image(header: Any, share: Any, spacing_mm: float | None) -> Anatomy | None:
    """Images on cells of another size, by the rule of `Tissue.resample`."""
    import numpy as np

    if header is None:
        return None
    counts, axes = np.asarray(header.shape), header.matrix[:3, :3]
    old = np.linalg.norm(axes, axis=0)
    new = old if spacing_mm is None else np.full(3, float(spacing_mm))
    shape = resampled(counts, old, new)
    first = 0.5 * ((counts - 1) * old - (shape - 1) * new)
    matrix = np.column_stack([axes * (new / old), header.matrix[:3, 3] + axes @ (first / old)])

    def inside(start: Any, stop: Any) -> np.ndarray:
        part, weights = share, []
        for k in range(3):
            edges = np.clip(
                (np.arange(start[k], stop[k] + 1) - 0.5 * shape[k]) * new[k] / old[k] + 0.5 * counts[k], 0, counts[k]
            )
            low, high = int(np.floor(edges[0])), int(np.ceil(edges[-1]))
            part = part[(slice(None),) * k + (slice(low, max(high, low + 1)),)]
            voxels = np.arange(low, low + part.shape[k])
            overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
            weights.append(np.maximum(overlap, 0.0) * old[k] / new[k])
        for k, weight in enumerate(weights):
            part = np.moveaxis(np.tensordot(weight, part, axes=(1, k)), 0, k)
        return part >= _THRESHOLD - 1e-6

    return Anatomy(tuple(int(n) for n in shape), matrix, None if share is None else inside)
