"""Published studies from their configurations to run files, one page of figures each, and one table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import signals
from .build import Experiment
from .compare import read
from .config import Study
from .errors import ConfigError, GliomaError, Interrupted
from .plot import save_page
from .run import Result
from .session import build_all, is_complete, run_all
from .study import Studied, markdown, save_choices, save_table, studied, study_text


@dataclass(frozen=True)
class Prepared:
    """A study whose arms are built, so that nothing of it can be refused any more.

    Attributes:
        todo: the arms that have to run; files of the others are there.
    """

    study: Study
    name: str
    folder: Path
    todo: list[Experiment]

    @property
    def paths(self) -> list[Path]:
        return [self.folder / f"{arm.arm}.h5" for arm in self.study.arms]


def prepare(study: Study, name: str, folder: Path, keep: bool = False) -> Prepared:
    """Build the arms of a study.

    Args:
        keep: arms whose finished files of the same configuration lie in ``folder`` are not run again.

    Raises:
        ConfigError: for what is wrong with the arms.
    """
    todo = [arm for arm in study.arms if not (keep and is_complete(folder / f"{arm.arm}.h5", arm))]
    return Prepared(study, name, folder, build_all(todo, study.path) if todo else [])


def run_studies(ready: Sequence[Prepared], out: Path, kinds: Sequence[str], again: Sequence[str]) -> None:
    """Run studies one after the other, each with its page as soon as it ends, and write the tables of all.

    Args:
        kinds: file endings of the pages. again: the command line that goes on where an interruption ended it.

    Raises:
        GliomaError: for quantities that a run does not have, and what cannot be written.
        Interrupted: naming what is left to do.
    """
    found: list[Studied] = []
    try:
        for one in ready:
            print(f"{one.study.title}  (research model, not for clinical use)")
            found.append(run_study(one))
            print(f"\n{study_text(found[-1])}\n")
            for kind in kinds:
                print(f"  {save_page(one.paths, found[-1], out / f'{one.name}.{kind}')}")
        for path in save_tables(found, out):
            print(f"  {path}")
    except (Interrupted, KeyboardInterrupt) as error:
        done = str(error) or "Interrupted after the runs of a study."
        stopped = Interrupted(f"{done}\nWhat is left, with the tables of all studies: {shlex.join(again)}")
        stopped.exit_code = error.exit_code if isinstance(error, Interrupted) else signals.code_of(error)
        raise stopped from None


def run_study(prepared: Prepared) -> Studied:
    """Run the arms of a study, and compare them with what was published.

    Raises:
        GliomaError: for quantities that a run does not have.
        Interrupted: by Ctrl-C or SIGTERM.
    """
    study, results = prepared.study, dict[str, Any]()
    if prepared.todo:

        def conclude(found: list[Result], first: Any, folder: Path, figures: bool) -> None:
            results.update({r.arm: r for r in found})

        run_all(prepared.todo, prepared.folder, study.text, False, None, conclude)
    rest = [path for path, arm in zip(prepared.paths, study.arms, strict=True) if arm.arm not in results]
    results |= {run.arm: run for run in (read(rest) if rest else ())}
    return studied(prepared.name, [results[arm.arm] for arm in study.arms], study.arms, study.title, study.label)


def without_study(studies: Sequence[Study]) -> list[str]:
    """Sentences for configurations that are no studies."""
    return [f"{s.path}: study: this section is missing" for s in studies if s.arms[0].study is None]


def save_tables(found: Sequence[Studied], out: Path) -> list[Path]:
    """Tables of all studies.

    Raises:
        GliomaError: if one cannot be written.
    """
    written = [save_table(found, out / "studies.csv"), save_choices(found, out / "parameters.csv")]
    path = out / "studies.md"
    try:
        path.write_text(markdown(found) + "\n", encoding="utf-8")
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


__all__ = ["files_of", "prepare", "run_studies", "without_study"]
