"""Every parameter once: symbol, unit, default, range, source. Imports nothing, so that checking is fast.

Keys are the dotted paths used in configuration files, in ``--set`` and by ``eqx.tree_at``.
Sources are abbreviated; the README's reference list has them in full. *Assumption* marks a value for which
no source was found.
"""

from __future__ import annotations

from .base import Parameter
from .core import CORE
from .environment import ENVIRONMENT
from .immune import IMMUNE
from .malignancy import MALIGNANCY
from .radiotherapy import RADIOTHERAPY
from .trail import TRAIL
from .treatments import TREATMENTS

PARAMETERS: dict[str, Parameter] = CORE | TREATMENTS | RADIOTHERAPY | TRAIL | IMMUNE | MALIGNANCY | ENVIRONMENT
"""In the order of the README's table."""


def default(key: str) -> float:
    """The default value of a parameter, in its own unit."""
    return PARAMETERS[key].default


__all__ = ["PARAMETERS", "Parameter", "default"]
