"""From a checked configuration to the objects that run: tissue, model, initial fields, schedule."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .assemble import Images, Shapes, combination_of, events_of, modules_of
from .biology.base import Observable
from .biology.laws import GROWTH
from .biology.surgery import Resections
from .config import Config
from .config.anatomy import misplaced
from .config.base import Section
from .config.sections import MOST_STEPS, SECTIONS
from .control import SERIES
from .delivery import NARROWEST, CarrierDoses, Schedule, gaussian
from .errors import ConfigError, GliomaError
from .grid import Grid
from .io.atlas import mni152
from .io.nifti import read_image, tissue_from_nifti
from .io.tensors import tensors_from_nifti
from .model import Model
from .numerics.lattice import relative_spacing, speed_excess
from .numerics.stepping import RKL2, SSPRK2, Euler
from .observe import observables
from .schedule import Plan, make_plan
from .tissue import Tissue

FASTER = 0.05
"""A run warns where fronts on its lattice are faster by more than this fraction."""

LEAST_SHARE = 0.01
"""… if this is so in at least this share of the tissue."""


@dataclass(frozen=True)
class Experiment:
    """One arm, ready to run.

    Attributes:
        days: instants at which observables are taken [day].
        frames: which of them also store the fields.
        background: display image and its affine, of the whole anatomy.
        warnings: what the user should know before trusting the run.
        initial_given: the initial fields are numbers, not a formula of the configuration.
        images: what sections read, on the computed grid, by ``section_name``.
    """

    config: Config
    model: Model
    initial: dict[str, Array]
    schedule: Schedule
    plan: Plan
    days: np.ndarray
    frames: frozenset[int]
    background: tuple[np.ndarray, np.ndarray] | None
    step_days: float
    warnings: tuple[str, ...]
    shapes: Shapes
    initial_given: bool = False
    images: Images = field(default_factory=dict)

    @property
    def observables(self) -> tuple[Observable, ...]:
        """All scalars that a run of this arm may give."""
        of_steps = SERIES if self.config.time.tolerance is not None else ()
        return (*observables(self.model, self.schedule.events), *of_steps)


def common_shapes(arms: Sequence[Config]) -> Shapes:
    """The least shapes that serve all ``arms``."""
    shapes: Shapes = {}
    for arm in arms:
        for name in SECTIONS:
            section = getattr(arm, name)
            for path, n in section.rows().items() if isinstance(section, Section) else ():
                shapes[f"{name}.{path}"] = max(n, shapes.get(f"{name}.{path}", 0))
    return shapes


def build(
    config: Config,
    tissue: Tissue | None = None,
    initial: dict[str, Any] | None = None,
    shapes: Shapes | None = None,
    images: Images | None = None,
) -> Experiment:
    """Everything that ``config`` describes.

    Args:
        tissue, initial, images: take the place of the configured anatomy, initial tumour and images (a run repeated
            from its own file, or from Python).
        shapes: `common_shapes` of the arms that run together.

    Raises:
        ConfigError: for what can only be seen with the anatomy at hand: sites outside the brain, doses
            that do not fit into the tissue, footprints narrower than the grid resolves.
    """
    dtype = jnp.dtype(config.numerics.precision)
    if dtype == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise ConfigError(["numerics.precision: float64 needs jax.config.update('jax_enable_x64', True) first"])
    shapes = shapes or {}
    background = None
    if tissue is None:
        tissue, background = anatomy_of(config, dtype)
    model, schedule, images, problems = placed(config, tissue, shapes, images)
    given = initial is not None or config.tumour.initial.kind == "nifti"
    if initial is None:
        initial = _initial(config, tissue, dtype, problems)
    if problems:
        raise ConfigError(problems, config.title)
    initial = {name: jnp.asarray(values, dtype) for name, values in initial.items()}
    days, frames = days_of(config)
    longest = model.largest_steps()
    step = min(config.time.step_days, *longest.values())
    if problem := _too_many_steps(config, longest):
        raise ConfigError([problem], config.title)
    warnings = _warnings(config, tissue, longest)
    plan = make_plan(model, schedule, days.tolist(), step)
    return Experiment(
        config, model, initial, schedule, plan, days, frames, background, step, tuple(warnings), shapes, given, images
    )


def placed(
    config: Config, tissue: Tissue, shapes: Shapes, images: Images | None = None
) -> tuple[Model, Schedule, Images, list[str]]:
    """As `described`, with the images that sections name, and what is wrong with them and with places and doses."""
    problems: list[str] = []
    if images is None:
        images = _images(config, tissue, jnp.dtype(config.numerics.precision), problems)
    model, schedule = described(config, tissue, shapes, images)
    return model, schedule, images, [*problems, *_outside(config, tissue), *_too_dense(config, model, schedule)]


def described(config: Config, tissue: Tissue, shapes: Shapes, images: Images) -> tuple[Model, Schedule]:
    """The model and the events that ``config`` describes."""
    dtype = jnp.dtype(config.numerics.precision)
    model = Model(
        tissue,
        modules_of(config, dtype, shapes, images),
        config.capacity_cells_per_mm3,
        _stepper(config),
        config.numerics.ledger,
        combination_of(config),
    )
    return model, Schedule(tuple(events_of(config, dtype, shapes, images)))


def anatomy_of(config: Config, dtype) -> tuple[Tissue, tuple[np.ndarray, np.ndarray] | None]:
    """As `make_tissue`, with the tensors of [anisotropy]: the ``tissue`` that `build` takes."""
    tissue, background = make_tissue(config, dtype)
    return _with_tensors(config, tissue), background


def make_tissue(config: Config, dtype) -> tuple[Tissue, tuple[np.ndarray, np.ndarray] | None]:
    """The computed window, and the whole anatomy's display image with its affine."""
    t = config.tissue
    if t.kind == "radial":
        return Tissue.radial(
            max(4, round(t.radius_mm / t.spacing_mm)), t.spacing_mm, t.white_fraction, dtype=dtype
        ), None
    if t.kind == "phantom":
        shape = tuple(t.shape)
        return Tissue.phantom(t.geometry, shape, t.spacing_mm, white_fraction=t.white_fraction, dtype=dtype), None
    if t.kind == "mni152":
        whole = _atlas(t.spacing_mm, dtype)
    else:
        folder = Path(config.folder)
        paths: Any = {n: None if getattr(t, n) is None else folder / getattr(t, n) for n in _NIFTI_MAPS}
        whole = tissue_from_nifti(
            paths["white"], paths["grey"], paths["csf"], paths["mask"], paths["background"], paths["cavity"],
            spacing_mm=t.spacing_mm, scale=t.scale, dtype=dtype, on_host=True,
        )  # fmt: skip
        if t.ventricle_seeds_mm:
            try:
                whole = whole.with_ventricles(*t.ventricle_seeds_mm)
            except GliomaError as error:
                raise ConfigError([f"tissue.ventricle_seeds_mm: {error}"], config.title) from None
    image = np.asarray(whole.white if whole.background is None else whole.background, np.float32)
    scaled = np.round(255 * image / max(float(image.max()), 1e-30)).astype(np.uint8)
    background = (scaled, whole.grid.matrix)
    window = t.window
    cut = whole.crop_to_mask() if window is None else whole.window(window.centre_mm, window.half_width_mm)
    return cut, background


def _with_tensors(config: Config, tissue: Tissue) -> Tissue:
    """The tissue with what [anisotropy] says."""
    a = config.anisotropy
    if a is None:
        return tissue
    options = {"scaling": a.scaling, "largest_ratio": a.largest_ratio, "repair": a.repair}
    try:
        if a.tensors is not None:
            return tensors_from_nifti(tissue, Path(config.folder) / a.tensors, a.order, a.axes, **options)
        return tissue if tissue.tensors is None else tissue.with_tensors(tissue.tensors.matrices(), **options)
    except GliomaError as error:
        raise ConfigError([f"anisotropy.tensors: {error}"], config.title) from None


@functools.lru_cache(maxsize=1)
def _atlas(spacing_mm: float, dtype) -> Tissue:
    """The atlas, read once for all arms."""
    return mni152(spacing_mm, dtype, on_host=True)


_NIFTI_MAPS = ("white", "grey", "csf", "mask", "background", "cavity")


def _stepper(config: Config):
    n = config.numerics
    return RKL2(stages=n.stages) if n.stepper == "rkl2" else {"ssprk2": SSPRK2, "euler": Euler}[n.stepper]()


def _initial(config: Config, tissue: Tissue, dtype, problems: list[str]) -> dict[str, np.ndarray]:
    start = config.tumour.initial
    if start.kind == "nifti":
        values = _image(config, tissue, "tumour.initial.path", start.path, problems)
        if values is None:
            return {}
        if values.min() < 0 or values.max() > 1:
            problems.append("tumour.initial.path: densities must lie between 0 and 1 (fractions of capacity)")
            return {}
        values = values[_box(tissue)]
        if not np.any(values[np.asarray(tissue.mask)] > 0):
            problems.append(f"tumour.initial.path: {start.path} holds no tumour in the computed tissue")
        return {"tumour": values}
    centre, sigma = (np.asarray(v, dtype) for v in (start.centre_mm, start.sigma_mm))
    shape = np.where(np.asarray(tissue.mask), np.asarray(gaussian(tissue.grid, centre, sigma)), np.zeros((), dtype))
    if not shape.max() > 0:
        if not any(p.startswith("tumour.initial") for p in problems):
            problems.append("tumour.initial: its Gaussian reaches no tissue; move it there or widen sigma_mm")
        return {}
    if start.peak is not None:
        # cell means of a Gaussian peak a little below its centre value
        return {"tumour": start.peak * shape}
    u = shape * (start.cells / config.capacity_cells_per_mm3 / float((shape * tissue.grid.volumes_mm3()).sum()))
    if u.max() > 1:
        problems.append(
            f"tumour.initial: {start.cells:g} cells with sigma_mm = {start.sigma_mm:g} reach {u.max():.2f} of the "
            "carrying capacity; widen sigma_mm"
        )
    return {"tumour": u}


def _image(config: Config, tissue: Tissue, key: str, file: str, problems: list[str]) -> np.ndarray | None:
    """An image of the whole anatomy; ``None``, and a problem more, if it lies elsewhere."""
    values, affine = read_image(Path(config.folder) / file)
    full = tissue.full_grid or tissue.grid
    if fault := misplaced(values.shape, affine, full.shape, full.matrix):
        problems.append(f"{key}: {file} {fault}")
        return None
    return values


def _box(tissue: Tissue) -> tuple[slice, ...]:
    """The computed window in the whole anatomy."""
    begin = tissue.window_start or (0,) * tissue.grid.ndim
    return tuple(slice(a, a + n) for a, n in zip(begin, tissue.grid.shape, strict=True))


def image_names(config: Config) -> list[str]:
    """The images that sections read, by ``section_name``."""
    return [f"{name}_{own}" for name, section in _sections(config).items() for own in section.images()]


def _sections(config: Config) -> dict[str, Section]:
    """Those that are there."""
    return {name: getattr(config, name) for name in SECTIONS if isinstance(getattr(config, name), Section)}


def _images(config: Config, tissue: Tissue, dtype, problems: list[str]) -> Images:
    """What sections read, over its scale and cut to the computed window; zero outside the tissue."""
    images: Images = {}
    for name, section in _sections(config).items():
        for own, image in section.images().items():
            key = f"{name}.{image.key}"
            values = _image(config, tissue, key, image.path, problems)
            if values is None:
                images[f"{name}_{own}"] = jnp.zeros(tissue.grid.shape, dtype)
                continue
            relative = np.where(np.asarray(tissue.mask), values[_box(tissue)] / image.scale, 0.0)
            if values.min() < 0:
                problems.append(f"{key}: {image.path} has negative values, down to {values.min():g}")
            elif relative.max() > image.high:
                problems.append(
                    f"{key}: {image.path} reaches {relative.max():.3g} times {image.scale:g}, over {image.high:g}; check its unit"
                )
            elif not relative.any():
                problems.append(f"{key}: {image.path} is zero everywhere in the computed tissue")
            images[f"{name}_{own}"] = jnp.asarray(relative, dtype)
    return images


def _outside(config: Config, tissue: Tissue) -> list[str]:
    """Points that do not lie in the tissue."""
    mask, grid = np.asarray(tissue.mask), tissue.grid
    places = [(f"{n}.{path}", point) for n, section in _sections(config).items() for path, point in section.places()]
    problems = []
    for path, point in places:
        index = np.round(grid.index_of(point)).astype(int) if grid.geometry != "radial" else np.array([0])
        inside = np.all(index >= 0) and np.all(index < grid.shape)
        if not inside:
            problems.append(f"{path}: {point} mm lies outside the computed window")
        elif not mask[tuple(index)]:
            nearest = _nearest_inside(mask, grid, index)
            problems.append(f"{path}: {point} mm is not in brain tissue; the nearest tissue is at {nearest} mm")
    problems += [
        f"schedule.injections[{i}]: the computed window holds no wall of the ventricles; enlarge tissue.window"
        for i, one in enumerate(config.schedule.injections)
        if one.route == "intraventricular" and not np.any(tissue.map_of("ventricle_wall"))
    ]
    widths = [
        (f"schedule.injections[{i}]", one.width_mm()) for i, one in enumerate(config.schedule.injections) if one.sites()
    ]
    if config.tumour.initial.kind == "gaussian":
        widths.append(("tumour.initial", config.tumour.initial.sigma_mm))
    return problems + [
        f"{path}.sigma_mm: {width:g} mm is under half the grid spacing of {max(grid.spacing_mm):g} mm, which cannot "
        "resolve it"
        for path, width in widths
        if width < NARROWEST * max(grid.spacing_mm)
    ]


def _nearest_inside(mask: np.ndarray, grid: Grid, index: np.ndarray) -> list[float]:
    cells = np.argwhere(mask)
    distance = (((cells - index) * np.asarray(grid.spacing_mm)) ** 2).sum(axis=1)
    best = cells[int(np.argmin(distance))]
    matrix = grid.matrix
    return [round(float(v), 1) for v in matrix[: grid.ndim, : grid.ndim] @ best + matrix[: grid.ndim, 3]]


def _peak(model: Model, doses: CarrierDoses) -> float:
    """The largest density that a dose brings about [K], with the tissue of ``model``."""
    return float(_largest_density(model.tissue, model.capacity_cells_per_mm3, doses))


@jax.jit
def _largest_density(tissue: Tissue, capacity: Array, doses: CarrierDoses) -> Array:
    return jnp.max(doses.density(tissue, capacity, jnp.argmax(doses.cells))[0])


def _wide_enough(model: Model, doses: CarrierDoses, sigma_mm: float, peak: float) -> float | None:
    """The least width [mm] at which the dose fits into the tissue, if there is one within its size."""
    grid = model.tissue.grid
    wide, size = sigma_mm, max(n * h for n, h in zip(grid.shape, grid.spacing_mm, strict=True))
    while peak > 0.995:
        wide *= max(1.01, peak ** (1 / grid.ndim))
        if wide > size:
            return None
        peak = _peak(model, eqx.tree_at(lambda d: d.sigma_mm, doses, jnp.full_like(doses.sigma_mm, wide)))
    return float(np.ceil(100 * wide) / 100)


def _too_dense(config: Config, model: Model, schedule: Schedule) -> list[str]:
    """Doses whose footprint alone would exceed the carrying capacity, as far as it is known before the run."""
    problems = []
    deliveries = [e for e in schedule.events if isinstance(e, CarrierDoses)]
    for i, (injection, doses) in enumerate(zip(config.schedule.injections, deliveries, strict=True)):
        if not set(doses.requires()) <= {*doses.needs, *(f.name for f in dataclasses.fields(Tissue))}:
            continue  # it depends on the fields of its day
        there = _operated(model, schedule, float(np.asarray(doses.day)[0]))
        peak = _peak(there, doses)
        if not np.isfinite(peak):
            problems.append(f"schedule.injections[{i}]: a site's footprint does not reach any tissue")
        elif peak > 1:
            advice = "use fewer cells or a thicker layer"
            if injection.sites():
                sites = f"about {int(np.ceil(len(injection.sites()) * peak))} sites apart from each other"
                wide = _wide_enough(there, doses, injection.width_mm(), peak)
                advice = f"use {sites}" if wide is None else f"use sigma_mm of at least {wide:.2f}, or {sites}"
            problems.append(
                f"schedule.injections[{i}]: {float(jnp.max(doses.cells)):g} cells reach {peak:.2f} of the carrying "
                f"capacity; {advice}"
            )
    return problems


def _operated(model: Model, schedule: Schedule, day: float) -> Model:
    """The model in its tissue after the resections of balls up to ``day``."""
    for event in schedule.events:
        for i in np.argsort(event.day) if type(event) is Resections else ():
            if 0 <= event.day[i] <= day:
                tissue = model.tissue.with_maps(event.remodel({}, model, jnp.asarray(i)))
                model = eqx.tree_at(lambda m: m.tissue, model, tissue)
    return model


def days_of(config: Config) -> tuple[np.ndarray, frozenset[int]]:
    """Days of the observables [day], and which of them also store the fields."""
    time = config.time

    def every(step: float) -> np.ndarray:
        return np.append(np.arange(0.0, time.end_day - 1e-9 * time.end_day, step), time.end_day)

    compared = [day for day in config.outcome.compare_days if day <= time.end_day]
    frames = np.unique(np.concatenate([every(time.frame_every_days), time.frames_days, compared]))
    days = np.unique(np.concatenate([frames, every(time.observe_every_days)]))
    return days, frozenset(int(i) for i in np.searchsorted(days, frames))


def _too_many_steps(config: Config, longest: dict[str, float]) -> str | None:
    """What field needs so many steps that not even their plan fits into memory."""
    field = min(longest, key=lambda name: longest[name])
    count = config.time.end_day / longest[field]
    if count <= MOST_STEPS:
        return None
    quick = getattr(getattr(config, field, None), "dynamics", "") == "dynamic"
    return (
        f"{field}: it stays non-negative in time steps of up to {longest[field]:.2g} days only, which makes {count:.2g} of "
        "them, more than 10⁷; lower its rates or its diffusivity, coarsen the grid, or shorten time.end_day"
        + (f"; or take {field}.dynamics = 'quasi_steady'" if quick else "")
    )


def _warnings(config: Config, tissue: Tissue, longest: dict[str, float]) -> list[str]:
    out = []
    field = min(longest, key=lambda name: longest[name])
    if longest[field] < config.time.step_days * (1 - 1e-12):
        quick = getattr(getattr(config, field, None), "dynamics", "") == "dynamic"
        out.append(
            f"time step shortened from {config.time.step_days:g} to {longest[field]:.4g} days, the longest that keeps "
            f"every field non-negative (here {field})"
            + (f"; with {field}.dynamics = 'quasi_steady' it may be longer" if quick else "")
        )
    return out + _fast_fronts(config, tissue)


def _fast_fronts(config: Config, tissue: Tissue) -> list[str]:
    """Where the lattice lets fronts run too fast, by their speed in an endless tissue of the same mixture."""
    t, spacing = config.tumour, max(tissue.grid.spacing_mm)
    ahead = GROWTH[t.growth]().factor(jnp.zeros(()), jnp.asarray(config.capacity_cells_per_mm3), False)
    rate = t.proliferation_per_day * float(ahead)
    inside = np.asarray(tissue.mask)
    white, grey = (np.asarray(getattr(tissue, n))[inside].astype(float) for n in ("white", "grey"))
    both = white + grey
    share = white[both > 0] / both[both > 0]
    d = t.diffusivity_white_mm2_per_day * share + t.diffusivity_grey_mm2_per_day * (1.0 - share)
    d = d[d > 0]  # elsewhere there are no fronts
    if not (rate > 0 and d.size):
        return []
    slow = d < spacing**2 * rate / relative_spacing(FASTER) ** 2
    if np.mean(slow) < LEAST_SHARE:
        return []
    least = float(d[slow].min())
    advice = np.floor(100 * relative_spacing(FASTER) * np.sqrt(least / rate)) / 100
    return [
        f"the grid of {spacing:g} mm makes invasion fronts run more than {100 * FASTER:g} % too fast in "
        f"{100 * np.mean(slow):.0f} % of the tissue, up to {100 * speed_excess(least, rate, spacing):.0f} %; "
        f"tissue.spacing_mm of {advice:g} mm avoids it"
    ]
