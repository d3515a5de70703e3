"""The package's public names: they resolve, they are few to import, and files do not hide functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import glioma_pde

HEAVY = ("jax", "jaxlib", "equinox", "h5py", "nibabel", "matplotlib", "pydantic", "numpy")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", glioma_pde.__all__)
def test_every_public_name_resolves(name):
    value = getattr(glioma_pde, name)
    assert callable(value)
    assert name in dir(glioma_pde)
    assert value.__module__.startswith("glioma_pde.")
    assert value.__name__ == {"load_config": "load"}.get(name, name)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(glioma_pde.__file__).read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {a.asname or a.name: f"{n.module}.{a.name}" for n in block.body for a in n.names}
    assert set(seen) == set(glioma_pde.__all__)
    assert seen == {n: f"{glioma_pde._HOME[n]}.{glioma_pde._RENAMED.get(n, n)}" for n in glioma_pde.__all__}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Tumor'"):
        _ = glioma_pde.Tumor


def test_importing_the_package_imports_nothing_heavy():
    assert python(f"import sys, glioma_pde; print([m for m in {HEAVY} if m in sys.modules])").strip() == "[]"


@pytest.mark.parametrize("name", ["GliomaError", "ConfigError", "load_config"])
def test_configurations_can_be_checked_without_arrays(name):
    code = f"import sys; from glioma_pde import {name}; print('jax' in sys.modules or 'equinox' in sys.modules)"
    assert python(code).strip() == "False"


@pytest.mark.parametrize("name", ["solve", "run", "build"])
@pytest.mark.parametrize(
    "first", ["import glioma_pde.{0}", "from glioma_pde.{0} import {0}", "from glioma_pde import {0}"]
)
def test_a_function_keeps_its_name_from_the_file_of_that_name(name, first):
    code = f"{first.format(name)}; import glioma_pde.{name}; import glioma_pde as g; print(g.{name}.__class__.__name__)"
    assert python(code).strip() == "function"
