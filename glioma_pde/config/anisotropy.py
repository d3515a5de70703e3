"""The section of migration along diffusion tensors."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from .base import Line, parameters


class Anisotropy(parameters("_Anisotropy", "anisotropy")):  # type: ignore[misc]
    """Where tensors come from, and what follows them.

    ``tensors`` is an image with six components per voxel; ``order`` and ``axes`` say what they are. There are no
    defaults for them: a wrong guess would mirror the fibres and go unnoticed.
    """

    tensors: Line | None = None
    order: Literal["fsl", "dipy", "mrtrix"] | None = None
    axes: Literal["voxel", "fsl", "world"] | None = None
    repair: bool = False
    tumour: bool = True
    carriers: bool = True
    contact_guidance: bool = False

    def files(self):
        return {} if self.tensors is None else {"tensors": self.tensors}

    def aligned(self):
        return {}  # tensors are brought to the grid

    @model_validator(mode="after")
    def _complete(self):
        if self.tensors is not None and (self.order is None or self.axes is None):
            raise ValueError(
                "tensors needs order ('fsl', 'dipy' or 'mrtrix') and axes ('voxel', 'fsl' or 'world') to be stated"
            )
        if self.tensors is None and (self.order is not None or self.axes is not None):
            raise ValueError("order and axes describe an image; give tensors = 'FILE.nii.gz'")
        if not self.tumour and not self.carriers:
            raise ValueError("neither tumour nor carriers follow the tensors; switch one on or leave the section out")
        if self.contact_guidance and not self.carriers:
            raise ValueError("contact_guidance needs carriers = true")
        return self
