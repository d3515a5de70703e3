"""Double precision, strict promotion, and one compilation cache for the session."""

import os
from pathlib import Path

os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", os.environ.get("GLIOMA_TEST_PLATFORM", "cpu"))
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

from glioma_pde.numerics import kernels

jax.config.update("jax_numpy_rank_promotion", "raise")
kernels.choose(os.environ.get("GLIOMA_PDE_KERNELS", "auto"))


def pytest_configure(config: pytest.Config) -> None:
    cache = Path(config.rootpath) / ".pytest_cache" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


LONG = Path(__file__).with_name("long.txt")
"""Names of the tests to mark ``long``: a file, because it is the time they take that puts them there."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    names = {line for line in LONG.read_text("utf-8").splitlines() if line and not line.startswith("#")}
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name in names:
            item.add_marker(pytest.mark.long)
            names.remove(name)
    whole = [Path(argument).name for argument in config.args] == ["tests"] and not config.getoption("keyword")
    if whole and names:
        raise pytest.UsageError(f"{LONG} names tests that there are not: {', '.join(sorted(names))}")
