"""Published studies from their configurations to run files, one page of figures each, and one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .compare import read
from .config import Study
from .errors import ConfigError, GliomaError
from .io.hdf5 import RunFile
from .plot import save_page
from .run import Result
from .session import build_all, run_all
from .study import Studied, markdown, save_choices, save_table, studied, study_text


def run_study(
    study: Study, name: str, out: Path, again: Callable[[list[str]], list[str]], keep: bool = False
) -> tuple[Studied, list[Path]]:
    """Run the arms of a study, and compare them with what was published.

    Args:
        again: the command line that runs the named arms. keep: arms whose finished files of the same configuration lie in
            ``out`` are not run again.

    Raises:
        ConfigError: for what is wrong with the arms. GliomaError: for quantities that a run does not have.
        Interrupted: naming what is left to do.
    """
    arms = study.arms
    paths = {arm.arm: out / f"{arm.arm}.h5" for arm in arms}
    todo = [arm for arm in arms if not (keep and _is_finished(paths[arm.arm], arm))]
    results: dict[str, Any] = {}
    if todo:
        experiments = build_all(todo, study.path)

        def conclude(found: list[Result], first: Any, folder: Path, figures: bool) -> None:
            results.update({r.arm: r for r in found})

        run_all(experiments, out, study.text, False, again, conclude)
    rest = [paths[arm.arm] for arm in arms if arm.arm not in results]
    results |= {run.arm: run for run in (read(rest) if rest else ())}
    return studied(name, [results[arm.arm] for arm in arms], arms, study.title), list(paths.values())


def _is_finished(path: Path, arm: Any) -> bool:
    try:
        with RunFile(path) as file:
            return file.config_json == arm.to_json() and file.attrs["status"] != "running"
    except GliomaError:
        return False


def without_study(studies: Sequence[Study]) -> list[str]:
    """Sentences for configurations that are no studies."""
    return [f"{s.path}: study: this section is missing" for s in studies if s.arms[0].study is None]


def conclude_all(found: Sequence[tuple[Studied, list[Path]]], out: Path, kinds: Sequence[str]) -> list[Path]:
    """Pages and tables of all studies.

    Raises:
        GliomaError: if one cannot be written.
    """
    written = [save_page(paths, study, out / f"{study.name}.{kind}") for study, paths in found for kind in kinds]
    studies = [study for study, _ in found]
    written += [save_table(studies, out / "studies.csv"), save_choices(studies, out / "parameters.csv")]
    path = out / "studies.md"
    try:
        path.write_text(markdown(studies) + "\n", encoding="utf-8")
    except OSError as error:
        raise GliomaError(f"{path}: the table cannot be written ({error.strerror}).") from None
    return [*written, path]


def files_of(given: Sequence[str]) -> list[Path]:
    """Configurations among files and folders, in order.

    Raises:
        ConfigError: for a folder without any, and for two of one name.
    """
    found: list[Path] = []
    for one in map(Path, given):
        inside = sorted(one.glob("*.toml")) if one.is_dir() else [one]
        if not inside:
            raise ConfigError([f"the folder {one} has no .toml file"], "study")
        found += inside
    names = [path.stem for path in found]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ConfigError([f"two configurations are called {n}" for n in twice], "study")
    return found


__all__ = ["conclude_all", "files_of", "run_study", "study_text", "without_study"]
