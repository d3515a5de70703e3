"""The section of tumour formation by the transplanted cells."""

from __future__ import annotations

from .base import parameters


class Malignancy(parameters("_Malignancy", "malignancy")):  # type: ignore[misc]
    pass
