"""What the command line may say."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from . import __version__

EXIT_CODES = """exit codes:
  0    done
  1    failed: one sentence on standard error says why; what was written before is kept
  2    wrong configuration or command line; nothing was written
  130  interrupted by Ctrl-C (SIGINT)
  143  ended by SIGTERM
After 130 and 143 the run is saved as it stood; the message gives the command that resumes it.
"""


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1024:
        raise ValueError(text)
    return number


_count.__name__ = "number from 1 to 1024"  # what argparse calls it


def parser(actions: Mapping[str, Callable[[argparse.Namespace], int | None]]) -> argparse.ArgumentParser:
    """The parser of ``glioma-pde``.

    Args:
        actions: what each command does, by its name.
    """
    whole = argparse.ArgumentParser(
        prog="glioma-pde",
        description="Brain tumours under stem-cell therapy: simulate, look, compare.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"glioma_pde {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="simulate every arm of a configuration (or repeat a run file)")
    run.add_argument("config", help="CONFIG.toml, or FILE.h5 to repeat that run")
    run.add_argument("--out", help="folder for the results (default: results/<name of the configuration>)")
    run.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="sets", help="override a value"
    )
    run.add_argument("--arm", action="append", default=[], help="run this arm only (repeatable)")
    run.add_argument("--no-figures", action="store_true", help="write HDF5 files only")
    run.add_argument(
        "--jobs",
        type=_count,
        default=1,
        metavar="N",
        help="arms to run, and figures to draw, side by side (default: 1)",
    )
    run.set_defaults(action=actions["run"])

    resume = commands.add_parser("resume", help="go on with an interrupted run")
    resume.add_argument("file", help="the run's FILE.h5 (its .checkpoint lies beside it)")
    resume.set_defaults(action=actions["resume"])

    fit = commands.add_parser("fit", help="find parameters from measurements, with their uncertainty")
    fit.add_argument(
        "config", help="CONFIG.toml with the sections [fit], [observables], [parameters], or with [images]"
    )
    fit.add_argument("--out", help="folder for fit.h5 and figures (default: results/<name of the configuration>)")
    fit.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="sets")
    fit.add_argument("--no-figures", action="store_true", help="write fit.h5 only")
    fit.set_defaults(action=actions["fit"])

    study = commands.add_parser(
        "study", help="run published studies: one page of figures each, and a table of ours against theirs"
    )
    study.add_argument("configs", nargs="+", help="CONFIG.toml with the section [study], or folders of such files")
    study.add_argument("--out", default="results/studies", help="folder for the results (default: results/studies)")
    study.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="sets")
    study.add_argument("--keep", action="store_true", help="do not run arms again whose finished files are there")
    study.add_argument("--format", action="append", default=[], choices=("png", "pdf", "svg"), help="repeatable")
    study.set_defaults(action=actions["study"])

    sensitivity = commands.add_parser("sensitivity", help="what an outcome owes to which parameter")
    sensitivity.add_argument("config", help="CONFIG.toml with the section [sensitivity]")
    sensitivity.add_argument("--out", help="folder for the results (default: results/<name of the configuration>)")
    sensitivity.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="sets")
    sensitivity.add_argument("--format", action="append", default=[], choices=("png", "pdf", "svg"), help="repeatable")
    sensitivity.set_defaults(action=actions["sensitivity"])

    plot = commands.add_parser("plot", help="figures from run files alone")
    plot.add_argument("files", nargs="+", help="one or more FILE.h5, compared in the same figures")
    plot.add_argument("--out", help="folder for the figures (default: beside the first file)")
    plot.add_argument("--format", action="append", default=[], choices=("png", "pdf", "svg"), help="repeatable")
    plot.add_argument("--no-animation", action="store_true")
    plot.add_argument("--jobs", type=_count, default=1, metavar="N", help="figures to draw side by side (default: 1)")
    plot.set_defaults(action=actions["plot"])

    compare = commands.add_parser("compare", help="outcomes of any number of runs: table, CSV and figure")
    compare.add_argument("files", nargs="+", help="FILE.h5 of finished runs; the first one is the reference")
    compare.add_argument("--out", help="folder for compare.csv and compare.png (default: beside the first file)")
    compare.add_argument("--format", action="append", default=[], choices=("png", "pdf", "svg"), help="repeatable")
    compare.set_defaults(action=actions["compare"])

    check = commands.add_parser("check", help="check a configuration without running it")
    check.add_argument("config")
    check.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="sets")
    check.set_defaults(action=actions["check"])

    info = commands.add_parser("info", help="what a run file holds; without a file, the installation")
    info.add_argument("file", nargs="?")
    info.set_defaults(action=actions["info"])

    export = commands.add_parser(
        "export", help="a field of a run file as NIfTI in the patient's space, or XDMF for ParaView"
    )
    export.add_argument("file")
    export.add_argument("--xdmf", action="store_true", help="write the XDMF sidecar")
    export.add_argument("--field", default="tumour")
    export.add_argument("--day", type=float, help="day of the frame (default: the last one)")
    export.add_argument("--nifti", metavar="OUT.nii.gz", help="write this NIfTI file")
    export.set_defaults(action=actions["export"])
    return whole
