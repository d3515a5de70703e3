"""The README's examples run as they stand, and its parameter table is the one in the code."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glioma_pde.io.nifti import write_image
from glioma_pde.parameters import PARAMETERS
from glioma_pde.tissue import Tissue

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_blocks(text: str) -> str:
    """The text with everything but its ```python blocks blanked: line numbers stay those of the README."""
    lines, inside = [], False
    for line in text.splitlines():
        fence = line.startswith("```")
        lines.append("" if fence or not inside else line)
        inside = line == "```python" if fence else inside
    return "\n".join(lines) + "\n"


def test_the_python_examples_run(tmp_path):
    code = python_blocks(TEXT)
    assert sum(line != "" for line in code.splitlines()) > 40
    (tmp_path / "README_examples.py").write_text(code, encoding="utf-8")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    # the two images that the README reads
    tissue = Tissue.phantom("head", (24, 24, 24), 2.0)
    for name in ("white", "grey"):
        write_image(tmp_path / f"{name}.nii.gz", np.asarray(getattr(tissue, name)), tissue.grid.matrix)
    # as a user would run them: single precision, no test settings, only the compilation cache is shared
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")} | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    done = subprocess.run(
        [sys.executable, "README_examples.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "nan" not in done.stdout.lower()


def test_blocks_are_found_where_they_stand():
    text = "a\n```bash\nls\n```\n```python\nx = 1\n```\nend"
    assert python_blocks(text) == "\n\n\n\n\nx = 1\n\n\n"


def test_the_parameter_table_is_in_step_with_the_code():
    module = script("parameter_table")
    assert module.renewed(TEXT) == TEXT, "run: python scripts/parameter_table.py"
    rows = re.findall(r"^\| `([a-zA-Z0-9_.\[\]]+)` \|", module.table(), flags=re.MULTILINE)
    assert rows == list(PARAMETERS)
    with pytest.raises(ValueError, match="once each"):
        module.renewed("no markers")


def test_a_changed_value_makes_the_table_out_of_date():
    module = script("parameter_table")
    old = next(line for line in TEXT.splitlines() if line.startswith("| `tumour.proliferation_per_day`"))
    assert module.renewed(TEXT.replace(old, old.replace("0.025", "0.026"))) == TEXT


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_links_inside_the_repository_lead_somewhere(target):
    assert (ROOT / target).exists(), target


def test_every_file_named_in_the_readme_exists():
    named = set(re.findall(r"`((?:glioma_pde|tests|scripts|configs|benchmarks)/[\w./]+\.(?:py|sh|toml|md))`", TEXT))
    assert named
    assert not [n for n in named if not (ROOT / n).exists()]


def test_every_source_of_the_table_is_in_the_references():
    references = TEXT[TEXT.index("## References") :]
    people = ("Rockne", "Lipková", "Swanson", "Chen", "Portnow", "Kievit", "Fonov")
    assert not [p for p in people if p not in references]
