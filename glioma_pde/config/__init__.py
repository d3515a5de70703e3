"""Configuration files. Imports neither jax nor nilearn, so a check takes no time.

Each top-level table is one section; biology sections switch their module on by being there.
"""

from .loading import from_json, load, loads
from .sections import BIOLOGY, Config, Outcome, Study

__all__ = ["BIOLOGY", "Config", "Outcome", "Study", "from_json", "load", "loads"]
