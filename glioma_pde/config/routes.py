"""What the routes of delivery need of the other sections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LEAKY = ("vasculature",)
"""Sections whose modules say how leaky vessels are."""


def routes(parsed: Mapping[str, Any], present: set[str]) -> list[str]:
    """Sentences for doses that have no way to go."""
    schedule = parsed.get("schedule")
    rows = () if schedule is None else schedule.injections
    problems = []
    for i, one in enumerate(rows):
        check = _CHECKS.get(one.route)
        found = None if check is None else check(one, parsed, present)
        if found is None:
            found = _in_closed_cavity(one, parsed)
        if found is not None:
            problems.append(f"schedule.injections[{i}]{found}")
    return problems


def _cavity(one: Any, parsed: Mapping[str, Any], present: set[str]) -> str | None:
    if getattr(parsed.get("tissue"), "cavity", None) is not None:
        return None
    if "surgery" not in present:
        return ": the intracavity route needs the section [surgery], which leaves a cavity"
    surgery = parsed.get("surgery")
    if surgery is None:
        return None
    first, given = min(r.day for r in surgery.resections), one.arrivals()[0][0]
    return (
        f": there is no cavity yet on day {given:g}; the first resection is on day {first:g}" if given < first else None
    )


def _ventricles(one: Any, parsed: Mapping[str, Any], present: set[str]) -> str | None:
    tissue = parsed.get("tissue")
    if tissue is None or tissue.kind == "mni152" or (tissue.kind == "phantom" and tissue.geometry == "head"):
        return None
    if tissue.kind == "nifti":
        if tissue.ventricle_seeds_mm:
            return None
        return ": the intraventricular route needs the ventricles; set tissue.csf and tissue.ventricle_seeds_mm"
    return ": the intraventricular route needs an anatomy with ventricles, such as mni152 or the phantom 'head'"


def _nose(one: Any, parsed: Mapping[str, Any], present: set[str]) -> str | None:
    tissue = parsed.get("tissue")
    if tissue is None or one.sites_mm is not None:
        return None
    if tissue.kind == "mni152":
        window = tissue.window
        for site in () if window is None else one.sites():
            if any(abs(x - c) > window.half_width_mm for x, c in zip(site, window.centre_mm, strict=False)):
                return f": the olfactory site at {site} mm lies outside tissue.window; enlarge it, or set sites_mm"
        return None
    return ".sites_mm: is missing; the olfactory site is known for the anatomy mni152 only"


def _vessels(one: Any, parsed: Mapping[str, Any], present: set[str]) -> str | None:
    if present & set(LEAKY):
        return None
    return f": the {one.route} route needs the section [{LEAKY[0]}], which says where vessels leak"


_CHECKS = {
    "intracavity": _cavity,
    "intraventricular": _ventricles,
    "intranasal": _nose,
    "intravenous": _vessels,
    "intra_arterial": _vessels,
}


def _in_closed_cavity(one: Any, parsed: Mapping[str, Any]) -> str | None:
    """Sites in what is known to have been taken out before."""
    surgery = parsed.get("surgery")
    if surgery is None or surgery.cavity == "open":
        return None
    last = max(day for day, _ in one.arrivals())
    for k, site in enumerate(one.sites()):
        for j, r in enumerate(surgery.resections):
            inside = len(site) == len(r.centre_mm) and math.dist(site, r.centre_mm) <= r.radius_mm + r.margin_mm
            if r.at_threshold is None and r.day <= last and inside:
                return f".sites_mm[{k}]: {site} mm lies in the closed cavity of surgery.resections[{j}] on day {last:g}"
    return None
