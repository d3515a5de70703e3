"""The section [schedule]: doses of carriers, by the route that they are given."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..parameters.delivery import OLFACTORY_MM
from .base import Amounts, Point, Positive, Repeated, Section, parameters

Sites = Annotated[list[Point], Field(min_length=1, max_length=1000)]


class Doses(Repeated):
    """Doses of carriers on some days: ``cells`` each time, or one number for each day."""

    amounts = ("cells",)

    cells: Amounts

    def arrivals(self) -> list[tuple[float, float]]:
        """(day in the brain, cells given), in order."""
        return self.each("cells")

    def sites(self) -> list[list[float]]:
        """Points of delivery [mm]; none where the anatomy decides."""
        return []

    def width_mm(self) -> float:
        """σ of the deposits at its sites; 0 without sites."""
        return 0.0


class Intracerebral(parameters("_Intracerebral", "schedule.injections[intracerebral]", Doses)):  # type: ignore[misc]
    """Doses at one or many needle tips."""

    route: Literal["intracerebral"]
    sites_mm: Sites
    sigma_mm: Positive

    def sites(self):
        return self.sites_mm

    def width_mm(self):
        return self.sigma_mm


class Intracavity(parameters("_Intracavity", "schedule.injections[intracavity]", Doses)):  # type: ignore[misc]
    """Doses into the wall of the cavity that surgery left."""

    route: Literal["intracavity"]


class Intraventricular(parameters("_Intraventricular", "schedule.injections[intraventricular]", Doses)):  # type: ignore[misc]
    """Doses into the ventricles, from where cells enter through their wall."""

    route: Literal["intraventricular"]


class Intranasal(parameters("_Intranasal", "schedule.injections[intranasal]", Doses)):  # type: ignore[misc]
    """Doses into the nose; ``sites_mm`` is known for the MNI152 brain only."""

    route: Literal["intranasal"]
    sites_mm: Sites | None = None

    def arrivals(self):
        return [(day + self.delay_h / 24.0, cells) for day, cells in super().arrivals()]

    def sites(self):
        return [list(p) for p in OLFACTORY_MM] if self.sites_mm is None else self.sites_mm

    def width_mm(self):
        return self.sigma_mm


class Vascular(Doses):
    """Doses into the blood; ``leakiness`` says where cells leave it: by the model of vessels, or in proportion to the
    tumour, an assumption."""

    leakiness: Literal["vessels", "tumour"] = "vessels"


class Intravenous(parameters("_Intravenous", "schedule.injections[intravenous]", Vascular)):  # type: ignore[misc]
    route: Literal["intravenous"]


class IntraArterial(parameters("_IntraArterial", "schedule.injections[intra_arterial]", Vascular)):  # type: ignore[misc]
    route: Literal["intra_arterial"]


Injection = Annotated[
    Intracerebral | Intracavity | Intraventricular | Intranasal | Intravenous | IntraArterial,
    Field(discriminator="route"),
]


class Schedule(Section):
    injections: list[Injection] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _routes(cls, data: Any) -> Any:
        """The needle where nothing is said."""
        rows = data.get("injections") if isinstance(data, dict) else None
        if not isinstance(rows, list):
            return data
        return {**data, "injections": [{"route": "intracerebral", **r} if isinstance(r, dict) else r for r in rows]}

    def days(self):
        return [(f"injections[{i}]", max(day for day, _ in one.arrivals())) for i, one in enumerate(self.injections)]

    def places(self):
        # only sites that are stated: those known for an atlas need not lie in another anatomy
        return [
            (f"injections[{i}].sites_mm[{k}]", site)
            for i, one in enumerate(self.injections)
            for k, site in enumerate(getattr(one, "sites_mm", None) or [])
        ]

    def rows(self):
        return {f"injections[{i}]": len(one.arrivals()) for i, one in enumerate(self.injections)}

    def tables(self):
        names = ("day", "cells", "retained_fraction", "x_mm", "y_mm", "z_mm", "sigma_mm", "event", "backflow_fraction")
        found: dict[str, list[Any]] = {name: [] for name in names}
        doses = [(one, *dose) for one in self.injections for dose in one.arrivals()]
        nowhere = [[float("nan")] * 3]
        for event, (one, day, cells) in enumerate(doses):
            sites = one.sites() or nowhere
            for site in sites:
                share = cells / len(sites)
                back = getattr(one, "backflow_fraction", 0.0)
                row = (
                    day, share, one.retained_fraction, *[*site, 0.0, 0.0][:3], one.width_mm() or float("nan"), event, back,
                )  # fmt: skip
                for column, value in zip(found.values(), row, strict=True):
                    column.append(value)
        return {"injections": found} if doses else {}
