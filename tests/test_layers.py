"""The package is built in layers: each module imports only from the ones below it, and only what its layer may."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import glioma_pde

PACKAGE = Path(glioma_pde.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up; a module may import from its own line and from the lines before it. "biology.*" stands for every
# module of that folder which no other line names.
LAYERS = [
    {"glioma_pde", "errors", "_atlas", "parameters", "parameters.*"},
    {"grid"},
    {"_maps", "_phantom", "_selling"},
    {"tensors"},
    {"tissue"},
    {"numerics.kernels"},
    {"numerics.diffusion", "numerics.lattice", "numerics.stepping", "numerics"},
    {"numerics.elliptic", "numerics.links", "numerics.taxis"},
    {"biology", "biology.base", "biology.kinetics", "biology.laws"},
    {"biology.*"},
    {"routes"},
    {"delivery"},
    {"alone"},
    {"model"},
    {"schedule", "observe", "ledger"},
    {"solve", "window"},
    {"control", "pieces"},
    {"calibrate", "calibrate.*"},
    {"response", "risk"},
    {"outcome"},
    {"config.base"},
    {"config.*"},
    {"config.sections"},
    {"config.rules", "config.messages", "config.size"},
    {"config.loading"},
    {"config.fit_loading", "config.image_loading"},
    {"config"},
    {
        "io", "io._files", "io._layout", "io._packing", "io._reader", "io._vetting", "io.hdf5", "io.checkpoint", "io.nifti", "io.tensors", "io.atlas",
        "io.export", "io.measurements", "io.fit_file",
    },
    {"assemble"},
    {"build"},
    {"manifest", "fitting"},
    {"fit_design"},
    {"fit_run"},
    {"fit_report"},
    {"run"},
    {"compare"},
    {"table", "repeat", "study", "sensitivity"},
    {
        "plot", "plot._data", "plot._style", "plot._panels", "plot._curves", "plot._slices", "plot._movie",
        "plot._outcome", "plot._compare", "plot.fit", "plot.images", "plot._fit_curves", "plot._fit_parameters",
        "plot._study", "plot.sensitivity",
    },
    {"fit_command", "image_command"},
    {"signals"},
    {"session"},
    {"study_command"},
    {"arguments"},
    {"cli"},
    {"__main__"},
]  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__") or "glioma_pde"


WHERE = {name_of(path): path for path in FILES}


def levels() -> dict[str, int]:
    named = {name: level for level, names in enumerate(LAYERS) for name in names if not name.endswith("*")}
    folders = {name[:-1]: level for level, names in enumerate(LAYERS) for name in names if name.endswith("*")}
    rest = {n: level for n in WHERE for folder, level in folders.items() if n.startswith(folder) and n not in named}
    return named | rest


LEVEL = levels()

CORE = {
    "grid", "tissue", "tensors", "_maps", "_phantom", "_selling", "routes", "delivery", "model", "schedule", "solve", "observe",
    "window", "control",
    *(n for n in LEVEL if n.split(".")[0] in ("numerics", "biology", "calibrate")),
}  # fmt: skip
OUTSIDE = {
    "h5py", "matplotlib", "pydantic", "nibabel", "nilearn", "PIL", "rich", "pathlib", "os", "io", "shutil", "tempfile",
    "subprocess", "socket", "glob", "tomllib", "sys",
}  # fmt: skip


def imports(path: Path, at_top_only: bool = False) -> set[str]:
    """Absolute names of the modules a file imports; names imported from a package count as its modules if they are."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["glioma_pde", *path.relative_to(PACKAGE).parent.parts]
    found: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and at_top_only:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                deeper = f"{module}.{alias.name}"
                found.add(deeper if deeper.removeprefix("glioma_pde.") in LEVEL else module)
        todo += ast.iter_child_nodes(node)
    return found


def own(names: set[str]) -> set[str]:
    """Those of this package, without its name."""
    return {n.removeprefix("glioma_pde.") for n in names if n.split(".")[0] == "glioma_pde"}


def foreign(names: set[str]) -> set[str]:
    return {n.split(".")[0] for n in names} - {"glioma_pde"}


def reach(name: str) -> set[str]:
    """Everything that comes in with a module as it is imported, this package's and others'."""
    seen: set[str] = set()
    outside: set[str] = set()
    todo = [name]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        names = imports(WHERE[module], at_top_only=True)
        outside |= foreign(names)
        todo += own(names)
        todo += [".".join(module.split(".")[:k]) for k in range(1, module.count(".") + 1)] + ["glioma_pde"]
    return seen | outside


def test_every_module_has_its_layer():
    assert set(WHERE) == set(LEVEL)


@pytest.mark.parametrize("name", sorted(WHERE))
def test_imports_go_downwards(name):
    above = {n for n in own(imports(WHERE[name])) if LEVEL[n] > LEVEL[name]}
    assert not above, f"{name} imports {sorted(above)}, which lie above it"


@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_knows_neither_files_nor_figures_nor_configurations(name):
    assert not foreign(imports(WHERE[name])) & OUTSIDE
    assert not {n.split(".")[0] for n in own(imports(WHERE[name]))} & {"io", "plot", "config", "run", "cli"}


@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_opens_no_file(name):
    tree = ast.parse(WHERE[name].read_text(encoding="utf-8"))
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not calls & {"open", "print", "input", "__import__", "exec", "eval"}


@pytest.mark.parametrize("name", ["config", "parameters", "errors", "outcome", "cli"])
def test_a_check_needs_no_array_library(name):
    assert not reach(name) & {"jax", "jaxlib", "equinox", "h5py", "nibabel", "nilearn", "matplotlib", "optax"}


def test_parameters_and_errors_import_nothing():
    for name in (n for n in WHERE if n.split(".")[0] in ("parameters", "errors")):
        assert foreign(imports(WHERE[name])) <= {"__future__", "dataclasses", "re"}
        assert all(n.split(".")[0] == "parameters" for n in own(imports(WHERE[name])))


@pytest.mark.parametrize("name", sorted(n for n in LEVEL if n.split(".")[0] == "plot"))
def test_figures_come_from_files_alone(name):
    simulation = {"model", "solve", "run", "build", "schedule", "delivery", "config", "cli", "window"}
    simulation |= {"numerics", "biology"}
    assert not {n.split(".")[0] for n in own(imports(WHERE[name]))} & simulation


@pytest.mark.parametrize("name", sorted(n for n in LEVEL if n.split(".")[0] == "io"))
def test_files_know_nothing_of_the_simulation(name):
    simulation = {"model", "solve", "run", "build", "schedule", "delivery", "config", "cli", "outcome"}
    simulation |= {"numerics", "biology", "plot", "window"}
    assert not {n.split(".")[0] for n in own(imports(WHERE[name]))} & simulation


def test_layers_name_no_module_twice():
    named = [name for names in LAYERS for name in names]
    assert len(named) == len(set(named))


def test_relative_absolute_and_late_imports_are_all_seen():
    cli = imports(WHERE["cli"])
    assert "glioma_pde.session" in cli
    assert "glioma_pde.session" not in imports(WHERE["cli"], at_top_only=True)
    assert {"glioma_pde.errors", "h5py"} <= imports(WHERE["io.hdf5"])
    assert "glioma_pde.numerics.elliptic" in imports(WHERE["biology.drug"])
    assert "glioma_pde.config" in cli
