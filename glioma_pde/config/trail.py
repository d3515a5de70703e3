"""The section of soluble TRAIL."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import parameters, pick, with_kind

_K = "trail.kill"
HillKill = pick("HillKill", _K, ("emax_per_day", "ic50_uM", "hill"), kind=(Literal["hill"], ...))
LinearKill = pick("LinearKill", _K, ("rate_per_uM_per_day",), kind=(Literal["linear"], ...))


class Trail(parameters("_Trail", "trail")):  # type: ignore[misc]
    """``counts_as_drug``: resistance to drugs protects from it, and it combines with them by their law."""

    _kinds = model_validator(mode="before")(lambda data: with_kind(data, "kill", "hill"))
    kill: Annotated[HillKill | LinearKill, Field(discriminator="kind")] = HillKill(kind="hill")  # type: ignore[valid-type,call-arg]
    counts_as_drug: bool = False
