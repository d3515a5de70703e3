"""What the sections of a configuration stand for: modules of the model, and events.

A new section needs one line in `MODULES` or in `EVENTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .biology.attractant import Attractant, DynamicAttractant
from .biology.base import Event
from .biology.carriers import Carriers
from .biology.drug import Drug, DynamicDrug
from .biology.immune import ConstantClearance, ImmuneResponse, PrimedImmuneResponse, Suppression
from .biology.laws import COMBINATION, GROWTH, KILL, SENSING, Combination
from .biology.malignancy import Malignancy
from .biology.necrosis import Necrosis
from .biology.oxygen import Oxygen
from .biology.prodrug import Boluses, Courses, DynamicProdrug, Prodrug
from .biology.radiotherapy import Radiotherapy
from .biology.resistance import Resistance
from .biology.surgery import Resections, ThresholdResections
from .biology.temozolomide import OralDoses, Temozolomide
from .biology.trail import Trail
from .biology.tumour import Tumour
from .biology.vasculature import DynamicVasculature, Vasculature
from .config import Config
from .config.base import Section
from .delivery import CarrierDoses, Intracavity, Intracerebral, Intranasal, Intravenous, Intraventricular, Route
from .parameters import PARAMETERS

Images = dict[str, Array]
"""Images that sections read, on the computed grid, by ``section_name``."""

Shapes = dict[str, int]
"""Least numbers of rows of lists, by path, so that arms which differ only in their doses share one program."""


BEFORE = -1.0
"""A day before every run: doses given then are left out of its plan."""


def _array(values: Any, dtype) -> Array:
    """Numbers of a configuration, converted by NumPy: JAX would compile a program for each shape."""
    return jnp.asarray(np.asarray(values, dtype), dtype)


def _values(section: Any, prefix: str) -> dict[str, Any]:
    """The parameters of a section that stand in the table under ``prefix``."""
    out: dict[str, Any] = {}
    for key in PARAMETERS:
        head, _, leaf = key.rpartition(".")
        if head == prefix and hasattr(section, leaf):
            out[leaf] = getattr(section, leaf)
    return out


def modules_of(config: Config, dtype, shapes: Shapes, images: Images | None = None) -> list[Any]:
    """A module for each section that is there."""
    makers = [(name, make) for name, make in MODULES.items() if getattr(config, name) is not None]
    return [make(config, dtype, shapes, *_own(name, config, images or {})) for name, make in makers]


def _own(name: str, config: Config, images: Images) -> tuple[Images, ...]:
    """The images of a section by their names in it, if it is one that can have some."""
    section = getattr(config, name)
    if type(section).images is Section.images:
        return ()
    return ({own: images[f"{name}_{own}"] for own in section.images()},)


def _tumour(config: Config, dtype, shapes: Shapes) -> Tumour:
    growth: Any = GROWTH[config.tumour.growth]()
    follows = config.anisotropy is not None and config.anisotropy.tumour
    return Tumour(
        **_values(config.tumour, "tumour"),
        growth=growth,
        one_sided_growth=_crowded(config),
        anisotropy=config.anisotropy.strength if follows else None,
    )


def _crowded(config: Config) -> bool:
    """Whether carriers take room, so that crowding must not kill."""
    return config.carriers is not None and config.carriers.crowding > 0


def _carriers(config: Config, dtype, shapes: Shapes) -> Carriers:
    c = config.carriers
    sensing = SENSING.get(c.taxis.kind)
    taxis = None if sensing is None else sensing(**_values(c.taxis, "carriers.taxis"))
    values: dict[str, Any] = _values(c, "carriers")
    for name in ("proliferation_per_day", "tumour_kill_per_day", "drug_sensitivity", "alpha_per_gy"):
        values[name] = values[name] or None  # a rate of zero is not computed at all
    tensors = config.anisotropy
    if tensors is not None and tensors.carriers:
        values |= {"anisotropy": tensors.strength, "contact_guidance": tensors.contact_guidance}
    return Carriers(**values, taxis=taxis, volume_filling=c.volume_filling)


def _attractant(config: Config, dtype, shapes: Shapes) -> Attractant:
    kind = DynamicAttractant if config.attractant.dynamics == "dynamic" else Attractant
    return kind(**_values(config.attractant, "attractant"), tolerance=config.numerics.elliptic_tolerance)


def _prodrug(config: Config, dtype, shapes: Shapes) -> Prodrug:
    p = config.prodrug
    courses = Courses(*_columns(p.courses, Courses, shapes.get("prodrug.courses", 0), dtype))
    boluses = Boluses(*_columns(p.boluses, Boluses, shapes.get("prodrug.boluses", 0), dtype))
    values = _values(p, "prodrug")
    if p.dynamics == "dynamic":
        return DynamicProdrug(courses, boluses, **values)
    del values["diffusivity_mm2_per_day"]
    return Prodrug(courses, boluses, **values, depletable=p.depletable)


def _drug(config: Config, dtype, shapes: Shapes) -> Drug:
    kill = _kill(config.drug.kill, "drug.kill")
    kind = DynamicDrug if config.drug.dynamics == "dynamic" else Drug
    return kind(**_values(config.drug, "drug"), kill=kill, tolerance=config.numerics.elliptic_tolerance)


def _temozolomide(config: Config, dtype, shapes: Shapes) -> Temozolomide:
    t = config.temozolomide
    rows = t.single_doses()
    rows = rows + [(BEFORE, 0.0)] * (shapes.get("temozolomide.doses", 0) - len(rows))
    table = np.asarray(rows, dtype).reshape(-1, 2)
    kill = _kill(t.kill, "temozolomide.kill")
    return Temozolomide(
        OralDoses(*(_array(column, dtype) for column in table.T)), **_values(t, "temozolomide"), kill=kill
    )


def _trail(config: Config, dtype, shapes: Shapes) -> Trail:
    kill = _kill(config.trail.kill, "trail.kill")
    tolerance = config.numerics.elliptic_tolerance
    counts = config.trail.counts_as_drug
    return Trail(**_values(config.trail, "trail"), kill=kill, counts_as_drug=counts, tolerance=tolerance)


def _immune(config: Config, dtype, shapes: Shapes) -> ConstantClearance:
    i = config.immune
    windows = Suppression(*_columns(i.suppression, Suppression, shapes.get("immune.suppression", 0), dtype))
    values = _values(i, "immune")
    if i.kind == "constant":
        return ConstantClearance(windows, values["clearance_per_day"])
    if values["priming"] > 0:
        return PrimedImmuneResponse(windows, **values)
    for name in ("priming", "priming_exposure_cell_days", "forgetting_per_day"):
        del values[name]
    return ImmuneResponse(windows, **values)


def _malignancy(config: Config, dtype, shapes: Shapes) -> Malignancy:
    values: dict[str, Any] = _values(config.malignancy, "malignancy")
    values["drug_sensitivity"] = values["drug_sensitivity"] or None  # a rate of zero is not computed at all
    return Malignancy(**values, one_sided_growth=_crowded(config))


def _oxygen(config: Config, dtype, shapes: Shapes) -> Oxygen:
    return Oxygen(**_values(config.oxygen, "oxygen"), tolerance=config.numerics.elliptic_tolerance)


def _vasculature(config: Config, dtype, shapes: Shapes) -> Vasculature:
    values = _values(config.vasculature, "vasculature")
    if config.vasculature.dynamics == "dynamic":
        return DynamicVasculature(**values)
    return Vasculature(**{name: v for name, v in values.items() if not name.startswith("angiogenesis")})


def _kill(section: Any, prefix: str) -> Any:
    law: dict[str, Any] = _values(section, prefix)
    if law.get("hill") == 1.0:
        law["hill"] = None
    return KILL[section.kind](**law)


MODULES: dict[str, Callable[..., Any]] = {
    "tumour": _tumour,
    "carriers": _carriers,
    "attractant": _attractant,
    "prodrug": _prodrug,
    "drug": _drug,
    "resistance": lambda config, dtype, shapes: Resistance(**_values(config.resistance, "resistance")),
    "temozolomide": _temozolomide,
    "trail": _trail,
    "immune": _immune,
    "malignancy": _malignancy,
    "oxygen": _oxygen,
    "necrosis": lambda config, dtype, shapes: Necrosis(**_values(config.necrosis, "necrosis")),
    "vasculature": _vasculature,
}
"""What makes a module of each section that switches one on, from (config, dtype, shapes); where sections can name
images, these too, by their names there."""


def combination_of(config: Config) -> Combination | None:
    """What several drugs do together; ``None``: the default."""
    together = None if config.temozolomide is None else config.temozolomide.combination
    law: Any = None if together is None else COMBINATION[together]()
    return law


def events_of(config: Config, dtype, shapes: Shapes, images: Images | None = None) -> Iterator[Event]:
    """Everything that happens at an instant; of the same instant, what comes first in `EVENTS`."""
    for name, make in EVENTS.items():
        if getattr(config, name) is not None:
            yield from make(config, dtype, shapes, *_own(name, config, images or {}))


def _injections(config: Config, dtype, shapes: Shapes) -> Iterator[Event]:
    for i, injection in enumerate(config.schedule.injections):
        yield _doses(injection, shapes.get(f"schedule.injections[{i}]", 0), dtype)


def _resections(config: Config, dtype, shapes: Shapes) -> Iterator[Event]:
    for kind, rows in config.surgery.by_kind().items():
        missing = shapes.get(f"surgery.{kind}", 0) - len(rows)
        nowhere = [0.0] * len(rows[0].centre_mm)

        def column(name: str, fill: Any, rows=rows, missing=missing) -> Array:
            return _array([getattr(r, name) for r in rows] + [fill] * missing, dtype)

        common = {
            "day": column("day", BEFORE),
            "centre_mm": column("centre_mm", nowhere),
            "radius_mm": column("radius_mm", 0.0),
            "margin_mm": column("margin_mm", 0.0),
            "removed_fraction": column("removed_fraction", 0.0),
            "edge_mm": _array(config.surgery.edge_mm, dtype),
            "closed": config.surgery.cavity == "closed",
        }
        yield (
            Resections(**common)
            if kind == "balls"
            else ThresholdResections(**common, threshold=column("at_threshold", 1.0))
        )


def _fractions(config: Config, dtype, shapes: Shapes, images: Images) -> Iterator[Event]:
    section = config.radiotherapy
    for map_, rows in section.courses():
        missing = shapes.get(f"radiotherapy.{section.group(map_)}", 0) - len(rows)
        table = np.asarray(rows + [(BEFORE, 0.0)] * missing, dtype)
        values = {name: _array(v, dtype) for name, v in _values(section, "radiotherapy").items()}
        relative = None if map_ is None else images[section.map_names()[map_]]
        days, doses = (_array(column, dtype) for column in table.T)
        yield Radiotherapy(days, doses, **values, dose_map=relative, form=section.survival)


EVENTS: dict[str, Callable[..., Iterator[Event]]] = {
    "surgery": _resections,
    "radiotherapy": _fractions,
    "schedule": _injections,
}
"""What makes the events of each section that has some, from the same as a module. Doses of carriers come last: those of
the day of an operation are given when it is done."""


def _columns(rows: Sequence[Any], kind: type, least: int, dtype) -> list[Array]:
    """The rows as arrays, one for each attribute of ``kind``; windows and doses of zero fill up to ``least`` rows."""
    missing = [0.0] * (least - len(rows))
    return [_array([getattr(r, n.name) for r in rows] + missing, dtype) for n in fields(kind)]


def _doses(injection: Any, least: int, dtype) -> CarrierDoses:
    rows = injection.arrivals()
    rows = rows + [(BEFORE, 0.0)] * (least - len(rows))
    days, cells = np.asarray(rows, float).T
    route, sites = ROUTES[injection.route](injection), injection.sites()
    lost = {
        "retained_fraction": injection.retained_fraction,
        "backflow_fraction": getattr(injection, "backflow_fraction", 0.0),
    }
    doses = (
        CarrierDoses.at_sites(days, cells, sites, injection.width_mm(), route=route, **lost)
        if sites
        else CarrierDoses.along(route, days, cells, **lost)
    )
    return jax.tree.map(lambda leaf: _array(leaf, dtype), doses)


def _vascular(injection: Any) -> Intravenous:
    return Intravenous({"vessels": "vessel_leakiness", "tumour": "tumour_cells"}[injection.leakiness])


ROUTES: dict[str, Callable[[Any], Route]] = {
    "intracerebral": lambda one: Intracerebral(),
    "intracavity": lambda one: Intracavity(one.thickness_mm),
    "intraventricular": lambda one: Intraventricular(one.depth_mm),
    "intranasal": lambda one: Intranasal(),
    "intravenous": _vascular,
    "intra_arterial": _vascular,
}
"""What makes the route of an injection."""
