"""Rules across the sections of a configuration, checked on whichever sections parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .anatomy import Atlas, is_file
from .base import MOST_ROWS, Section
from .environment import oxygen_rules
from .routes import routes


def across_sections(parsed: Mapping[str, Any], present: set[str]) -> list[str]:
    """Sentences for combinations that cannot be run. ``present`` names the sections in the file."""
    problems: list[str] = []

    def needs(section: str, other: str, why: str) -> None:
        if section in present and other not in present:
            problems.append(f"{section}: needs the section [{other}] ({why})")

    needs("prodrug", "carriers", "they carry the converting enzyme")
    needs("drug", "carriers", "they release or convert it")
    needs("trail", "carriers", "they release it")
    needs("immune", "carriers", "it is they that are rejected")
    needs("malignancy", "carriers", "it is they that may turn malignant")
    carriers = parsed.get("carriers")
    if carriers is not None and carriers.taxis.kind != "none" and "attractant" not in present:
        problems.append(
            "carriers.taxis: needs the section [attractant] to follow; add it, or set carriers.taxis.kind = 'none'"
        )
    if carriers is not None and _uncapped(carriers):
        problems.append(
            f"carriers.proliferation_per_day: {carriers.proliferation_per_day:g} is more than loss_per_day = "
            f"{carriers.loss_per_day:g}, and nothing caps the carriers; set carriers.volume_filling = true or "
            f"carriers.crowding = {1 / DENSEST:g} or more"
        )
    drug = parsed.get("drug")
    if drug is not None and "prodrug" not in present and drug.secretion_mol_per_cell_per_day == 0:
        problems.append("drug: has no source; add [prodrug] or set drug.secretion_mol_per_cell_per_day")
    problems += oxygen_rules(parsed, present)
    problems += _anisotropy(parsed, present)
    problems += _too_many(parsed)
    problems += _schedule(parsed, present)
    problems += routes(parsed, present)
    problems += _places(parsed)
    time, outcome = parsed.get("time"), parsed.get("outcome")
    if time is not None:
        if time.step_days > time.end_day:
            problems.append(f"time.step_days: {time.step_days:g} is longer than the run of {time.end_day:g} days")
        for i, day in enumerate(time.frames_days):
            if day > time.end_day:
                problems.append(f"time.frames_days[{i}]: day {day:g} is after time.end_day = {time.end_day:g}")
    if outcome is not None and outcome.t1gd_threshold <= outcome.flair_threshold:
        problems.append("outcome.t1gd_threshold: must be above outcome.flair_threshold")
    numerics = parsed.get("numerics")
    if time is not None and numerics is not None and time.tolerance is not None:
        problems += _tolerance(time.tolerance, numerics, present)
    if numerics is not None and carriers is not None and numerics.stepper == "rkl2" and carriers.taxis.kind != "none":
        problems.append("numerics.stepper: 'rkl2' is for diffusion; with taxis use 'ssprk2'")
    return problems


DENSEST = 2.0
"""Densities up to which steps are sure to be short enough; the same as that of `biology.base`, which knows of arrays."""


def _uncapped(carriers: Any) -> bool:
    """Whether carriers multiply without an end, or to more than `DENSEST`."""
    growing = (carriers.proliferation_per_day or 0.0) > carriers.loss_per_day
    return growing and not carriers.volume_filling and carriers.crowding < 1 / DENSEST


def _tolerance(tolerance: float, numerics: Any, present: set[str]) -> list[str]:
    """What has to be finer than the time steps for their errors to be seen."""
    problems = []
    if numerics.precision == "float32" and tolerance < 1e-4:
        problems.append("time.tolerance: below 1e-4 needs numerics.precision = 'float64'")
    if present & {"attractant", "drug"} and numerics.elliptic_tolerance > 0.1 * tolerance:
        problems.append(
            f"numerics.elliptic_tolerance: must be at most a tenth of time.tolerance = {tolerance:g}, "
            f"so {0.1 * tolerance:.2g} or less"
        )
    return problems


def _too_many(parsed: Mapping[str, Any]) -> list[str]:
    counts = {name: section.rows() for name, section in parsed.items() if isinstance(section, Section)}
    return [
        f"{name}.{path}: {n} are more than the {MOST_ROWS} times that one list may have"
        for name, rows in counts.items()
        for path, n in rows.items()
        if n > MOST_ROWS
    ]


def in_images(parsed: Mapping[str, Any], atlas: Atlas) -> list[str]:
    """Images that are missing or lie elsewhere, and points outside the tissue that images or formulas describe."""
    sections = {name: section for name, section in parsed.items() if isinstance(section, Section)}
    files, aligned = (
        [
            (key, path)
            for n, s in sections.items()
            for k, path in said(s).items()
            if (key := f"{n}.{k}") not in atlas.unread
        ]
        for said in (lambda s: s.files(), lambda s: s.aligned())
    )
    problems = [
        f"{key}: there is no image file {atlas.folder / path}"
        for key, path in files
        if not is_file(atlas.folder / path)
    ]
    tissue = parsed.get("tissue")
    if tissue is None:
        return problems
    return problems + atlas.problems(tissue, _said(parsed, "places")) + atlas.elsewhere(tissue, aligned)


def _anisotropy(parsed: Mapping[str, Any], present: set[str]) -> list[str]:
    section, tissue, carriers = (parsed.get(name) for name in ("anisotropy", "tissue", "carriers"))
    if section is None or tissue is None:
        return []
    problems = []
    bundle = tissue.kind == "phantom" and tissue.geometry == "bundle"
    if tissue.kind == "radial":
        problems.append("anisotropy: a radial tissue has no directions; use a phantom, an atlas or images")
    elif bundle and section.tensors is not None:
        problems.append("anisotropy.tensors: the phantom 'bundle' has its own tensors; leave the image out")
    elif tissue.kind == "phantom" and not bundle and len(tissue.shape) != 3 and section.tensors is not None:
        problems.append("anisotropy.tensors: an image holds tensors of three axes, so the phantom needs three")
    elif section.tensors is None and not bundle:
        problems.append("anisotropy.tensors: is missing; give an image, or use the phantom 'bundle'")
    if not section.tumour and "carriers" not in present:
        problems.append("anisotropy.carriers: needs the section [carriers]")
    if section.contact_guidance and (carriers is None or carriers.taxis.kind == "none"):
        problems.append("anisotropy.contact_guidance: needs the section [carriers] with taxis to guide")
    return problems


def _schedule(parsed: Mapping[str, Any], present: set[str]) -> list[str]:
    problems = []
    schedule, time = parsed.get("schedule"), parsed.get("time")
    if schedule is not None and schedule.injections and "carriers" not in present:
        problems.append("schedule.injections: needs the section [carriers]")
    end = time.end_day if time is not None else float("inf")
    for path, day in _said(parsed, "days"):
        if day >= end:
            problems.append(
                f"{path}: day {day:g} is not before time.end_day = {end:g}; lengthen the run or leave it out"
            )
    return problems


def _said(parsed: Mapping[str, Any], what: str) -> list[tuple[str, Any]]:
    """What all sections say about their ``days`` or ``places``, with full paths."""
    sections = {name: section for name, section in parsed.items() if isinstance(section, Section)}
    return [(f"{name}.{path}", value) for name, section in sections.items() for path, value in getattr(section, what)()]


def _places(parsed: Mapping[str, Any]) -> list[str]:
    """Points must have as many coordinates as the anatomy, and lie in it where that is known."""
    tissue = parsed.get("tissue")
    if tissue is None:
        return []
    dim = {"radial": 1, "phantom": len(getattr(tissue, "shape", ()))}.get(tissue.kind, 3)
    problems = []

    def check(path: str, point: list[float]) -> None:
        if len(point) != dim:
            problems.append(f"{path}: {point} has {len(point)} coordinates, the tissue has {dim} axes")
        elif dim == 1 and point[0] != 0:
            problems.append(f"{path}: on a radial grid everything is centred, so it must be [0]")
        elif tissue.kind == "phantom":
            half = [0.5 * n * tissue.spacing_mm for n in tissue.shape]
            if any(abs(x) > h for x, h in zip(point, half, strict=True)):
                problems.append(f"{path}: {point} mm is outside the phantom, which reaches from −{half} to {half} mm")

    for path, point in _said(parsed, "places"):
        check(path, point)
    window = getattr(tissue, "window", None)
    if window is not None:
        check("tissue.window.centre_mm", window.centre_mm)
    return problems
