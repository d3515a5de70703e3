"""The command line: run · resume · fit · study · sensitivity · plot · compare · check · info · export.

Exit codes: see `arguments.EXIT_CODES`.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import config, signals
from .arguments import parser
from .config.size import estimate
from .errors import ConfigError, GliomaError, one_line
from .io._files import in_units, require_room

if TYPE_CHECKING:
    from .run import Result


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``glioma-pde``; returns the exit code."""
    args = parser(ACTIONS).parse_args(argv)
    formatted, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        with signals.ending():
            return args.action(args) or 0
    except GliomaError as error:
        print(f"glioma-pde: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print("\nglioma-pde: interrupted; files written so far are kept.", file=sys.stderr)
        return signals.code_of(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        print(f"glioma-pde: {OUT_OF_MEMORY}", file=sys.stderr)
        return 1
    finally:
        warnings.formatwarning = formatted


OUT_OF_MEMORY = (
    "this machine has not enough memory for it. Take coarser cells (tissue.spacing_mm), a smaller tissue.window or "
    "numerics.precision = 'float32'; what was saved before is kept, and a run file can be resumed where there is more."
)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or JAX, which has an error type of its own, asked for more than there is."""
    return isinstance(error, MemoryError) or (
        type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and "RESOURCE_EXHAUSTED" in str(error)
    )


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"glioma-pde: warning: {one_line(str(message))}\n"


# -- commands -------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    source = Path(args.config)
    if source.suffix in (".h5", ".hdf5"):
        return _run_file(args, source)
    study = config.load(source, args.sets)
    names = [c.arm for c in study.arms]
    unknown = [a for a in args.arm if a not in names]
    if unknown:
        raise ConfigError([f"--arm {a}: the configuration has {', '.join(names)}" for a in unknown], str(source))
    arms = [c for c in study.arms if not args.arm or c.arm in args.arm]
    out = Path(args.out or arms[0].output.directory or f"results/{source.stem}")
    _refuse_what_does_not_fit(arms, out)
    _prepare(arms)
    from .session import build_all, run_all

    _heading(study.title)
    experiments = build_all(arms, str(source))  # all of them before the first runs, as any may be wrong
    _folder(out)

    def again(names: list[str]) -> list[str]:
        options = [f"--set={s}" for s in args.sets] + [f"--arm={name}" for name in names]
        options += [f"--jobs={args.jobs}"] if args.jobs > 1 else []
        return ["glioma-pde", "run", str(source), "--out", str(out), *options]

    conclude = partial(_conclude, jobs=args.jobs)
    run_all(experiments, out, study.text, not args.no_figures, again, conclude, args.jobs)
    return 0


def _run_file(args: argparse.Namespace, source: Path) -> int:
    from .io.hdf5 import RunFile

    if args.sets or args.arm:
        raise ConfigError(["--set and --arm change a configuration, not a run file"], str(source))
    with RunFile(source) as file:
        stored = file.config_json
        text = str(file.attrs.get("config_toml", ""))
    arm = config.from_json(stored, str(source.parent))
    out = Path(args.out or source.parent / "repeated")
    if (out / f"{arm.arm}.h5").resolve() == source.resolve():
        raise GliomaError(f"Repeating {source} into its own folder would overwrite it; choose another --out.")
    _prepare([arm])
    from .repeat import experiment_from_file
    from .session import run_all

    _heading(arm.title)
    experiment = experiment_from_file(source)
    _folder(out)
    again = ["glioma-pde", "run", str(source), "--out", str(out)]
    run_all([experiment], out, text, not args.no_figures, lambda names: again, _conclude)
    return 0


def _resume(args: argparse.Namespace) -> int:
    from .io.hdf5 import RunFile

    path = Path(args.file)
    with RunFile(path) as file:
        arm = config.from_json(file.config_json, str(path.parent))
        status = str(file.attrs["status"])
    if status != "running":
        print(f"{path} is complete ({status}); nothing to resume.")
        return 0
    _prepare([arm])
    from .repeat import experiment_from_file
    from .session import with_progress

    _heading(arm.title)
    result, _ = with_progress(experiment_from_file(path), path, None)
    _conclude([result], arm, path.parent, figures=False)
    return 0


def _fit(args: argparse.Namespace) -> int:
    from .config.fit_loading import FitStudy, load_fit
    from .config.image_loading import is_image_config, load_images

    source = Path(args.config)
    study = load_images(source, args.sets) if is_image_config(source) else load_fit(source, args.sets)
    out = _folder(args.out or f"results/{source.stem}")
    _prepare(study.study.arms)
    from .fit_command import calibrate
    from .image_command import calibrate_images

    _heading(study.study.title)
    command: Any = calibrate if isinstance(study, FitStudy) else calibrate_images
    with _bar() as bar:
        task = bar.add_task("fit", total=1.0, state="")
        text, paths = command(
            study, out, not args.no_figures, lambda what, share: bar.update(task, completed=share, state=what)
        )
    print()
    print("\n".join([text, *(f"  {path}" for path in paths)]))
    return 0


def _study(args: argparse.Namespace) -> int:
    from .study_command import files_of, prepare, run_studies, without_study

    sources = files_of(args.configs)
    studies = [config.load(source, args.sets) for source in sources]
    if problems := without_study(studies):
        raise ConfigError(problems, "study")
    out = _folder(args.out)
    arms = [arm for study in studies for arm in study.arms]
    _refuse_what_does_not_fit(arms, out)
    _prepare(arms)
    folders = [_folder(out / source.stem) for source in sources]
    # all of them before the first runs, as any may be wrong
    ready = [prepare(s, f.name, f, args.keep) for s, f in zip(studies, folders, strict=True)]
    options = [f"--set={s}" for s in args.sets] + [f"--format={kind}" for kind in args.format]
    again = ["glioma-pde", "study", *args.configs, "--out", args.out, "--keep", *options]
    run_studies(ready, out, tuple(args.format) or ("png",), again)
    return 0


def _sensitivity(args: argparse.Namespace) -> int:
    source = Path(args.config)
    study = config.load(source, args.sets)
    section = study.arms[0].sensitivity
    if section is None:
        raise ConfigError(["sensitivity: this section is missing"], str(source))
    study = config.load(source, [*section.set, *args.sets])
    out = _folder(args.out or f"results/{source.stem}")
    _prepare(study.arms)
    from .plot.sensitivity import plot_sensitivity
    from .sensitivity import analyse, report_text, save

    _heading(study.title)
    with _bar() as bar:
        task = bar.add_task("sensitivity", total=1.0, state="compiling")
        found = analyse(study, lambda what, share: bar.update(task, completed=share, state=what))
    paths = save(found, out)
    paths += plot_sensitivity(paths[0], out, tuple(args.format) or ("png",))
    print()
    print("\n".join([report_text(found), *(f"  {path}" for path in paths)]))
    return 0


def _bar() -> Any:
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("  {task.description:<12}"), BarColumn(), TextColumn("{task.fields[state]}"))
    return Progress(*columns, transient=not sys.stdout.isatty())


def _plot(args: argparse.Namespace) -> int:
    from .io.fit_file import SENSITIVITY, is_fit
    from .plot import plot_runs

    out = _folder(args.out or Path(args.files[0]).parent)
    if is_fit(args.files[0], SENSITIVITY):
        from .plot.sensitivity import plot_sensitivity

        for file in args.files:
            print(*plot_sensitivity(file, out, tuple(args.format) or ("png",)), sep="\n")
        return 0
    if is_fit(args.files[0]):
        from .io.fit_file import FitFile
        from .plot.fit import plot_fit
        from .plot.images import plot_images

        for file in args.files:
            draw = plot_images if "images" in FitFile(file) else plot_fit
            print(*draw(file, out, tuple(args.format) or ("png",)), sep="\n")
        return 0
    formats = tuple(args.format) or ("png",)
    for path in plot_runs(args.files, out, formats, animation=not args.no_animation, jobs=args.jobs):
        print(path)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from .compare import levels, read, write_csv
    from .plot import plot_compared
    from .table import outcome_table

    runs = read(args.files)
    out = _folder(args.out or Path(args.files[0]).parent)
    print(outcome_table(runs, levels(runs)))
    print(f"  {write_csv(runs, out / 'compare.csv')}")
    for path in plot_compared(args.files, out, tuple(args.format) or ("png",)):
        print(f"  {path}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from .config.fit_loading import is_fit_config, load_fit
    from .config.image_loading import is_image_config, load_images

    if is_image_config(args.config):
        images = load_images(args.config, args.sets)
        count = len(images.images.seen_days())
        print(f"{args.config}: correct; images of {count} day{'s' if count > 1 else ''}")
        return 0
    if is_fit_config(args.config):
        fit = load_fit(args.config, args.sets)
        print(
            f"{args.config}: correct; {len(fit.parameters)} free parameters, {len(fit.study.arms)} arms; data {fit.data_path}"
        )
        return 0
    study = config.load(args.config, args.sets)
    print(f"{args.config}: correct; {len(study.arms)} arm{'s' if len(study.arms) > 1 else ''}")
    for arm in study.arms:
        on = [n for n in config.BIOLOGY if getattr(arm, n) is not None]
        doses = sum(len(i.all_days()) for i in arm.schedule.injections)
        size = estimate(arm)
        output = "output of a size that the images decide" if size is None else f"output about {in_units(size.file)}"
        preset = "" if arm.preset is None else f"preset {arm.preset}; "
        print(f"  {arm.arm}: {preset}{', '.join(on)}; {doses} doses of carriers; {arm.time.end_day:g} days; {output}")
    return 0


def _info(args: argparse.Namespace) -> int:
    if args.file is None:
        import jax

        from .manifest import git_revision, versions

        _choose_kernels()
        for name, value in versions().items():
            print(f"{name:>12}  {value}")
        print(f"{'devices':>12}  {', '.join(str(d) for d in jax.devices())}")
        print(f"{'source':>12}  {git_revision()}")
        return 0
    from .io.hdf5 import RunFile

    with RunFile(args.file) as file:
        attrs = file.attrs
        print(f"{args.file}: {attrs.get('title', '')} / {attrs.get('arm', '')} ({attrs.get('status', '')})")
        if attrs.get("label"):
            print(f"  {attrs['label']}")
        grid = file.grid
        print(f"  grid {' × '.join(map(str, grid.shape))} cells of {' × '.join(f'{h:g}' for h in grid.spacing_mm)} mm")
        days = file.days
        span = f", days {days[0]:g} to {days[-1]:g}" if len(days) else ""
        print(f"  {len(days)} frames{span}; fields: {', '.join(file.fields)}")
        print(
            f"  versions {attrs.get('versions', '')}; source {attrs.get('git_revision', '')}; {attrs.get('created_utc', '')}"
        )
        for row in file.parameters():
            mark = "" if row.value == row.default else f"   (default {row.default:g})"
            print(f"    {row.name:<44} {row.value:<10g} {row.unit}{mark}")
        for name, value in file.summary.items():
            print(f"    {name:<44} {value:.6g}" if isinstance(value, float) else f"    {name:<44} {value}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from .io.export import export_nifti, write_xdmf
    from .io.hdf5 import RunFile

    if not args.xdmf and not args.nifti:
        raise ConfigError(["choose --xdmf, or --nifti OUT.nii.gz, or both"], "export")
    if args.xdmf:
        print(write_xdmf(args.file))
    if args.nifti:
        day = args.day
        if day is None:
            with RunFile(args.file) as file:
                day = float(file.days[-1])
        export_nifti(args.file, args.field, day, args.nifti)
        print(args.nifti)
    return 0


ACTIONS = {
    "run": _run,
    "resume": _resume,
    "fit": _fit,
    "study": _study,
    "sensitivity": _sensitivity,
    "plot": _plot,
    "compare": _compare,
    "check": _check,
    "info": _info,
    "export": _export,
}

# -- pieces ---------------------------------------------------------------------------------------


def _folder(path: str | Path) -> Path:
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as e:
        why = (e.strerror if isinstance(e, OSError) else None) or e
        raise GliomaError(f"The folder {path} cannot be made: {why}. Choose another with --out.") from None
    if not os.access(path, os.W_OK):
        raise GliomaError(f"The folder {path} cannot be written. Choose another with --out.")
    return path


def _refuse_what_does_not_fit(arms: list[Any], out: Path) -> None:
    """Before anything large is built; each run asks again, knowing its exact size."""
    sizes = [size for size in map(estimate, arms) if size is not None]
    if sizes:
        require_room(out, sum(s.file for s in sizes) + max(s.beside for s in sizes))


def _choose_kernels() -> None:
    from .numerics import kernels

    kernels.choose(os.environ.get("GLIOMA_PDE_KERNELS", "auto"))


def _prepare(arms: list[Any]) -> None:
    """Settings of JAX that have to be made before it is used."""
    import jax

    _choose_kernels()

    if any(a.numerics.precision == "float64" for a in arms):
        jax.config.update("jax_enable_x64", True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "glioma_pde" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _heading(title: str) -> None:
    print(f"{title}  (research model, not for clinical use)")


def _conclude(results: list[Result], arm: Any, out: Path, figures: bool, jobs: int = 1) -> None:
    from .compare import write_csv
    from .table import outcome_table

    print()
    print(outcome_table(results, arm.outcome))
    print()
    for result in results:
        if arm.output.xdmf:
            from .io.export import write_xdmf

            write_xdmf(result.path)
        print(f"  {result.path}")
    print(f"  {write_csv(results, out / 'outcomes.csv')}")
    if figures and arm.output.figures:
        from .plot import plot_runs

        drawn = [r.path for r in results]
        for path in plot_runs(drawn, out, ("png",), animation=arm.output.animation, jobs=jobs):
            print(f"  {path}")


if __name__ == "__main__":
    raise SystemExit(main())
