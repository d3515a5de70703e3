"""``python -m benchmarks``: run the cases, print one table, write one JSON file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from glioma_pde.errors import GliomaError
from glioma_pde.numerics import kernels

from .calibration import calibration
from .calibration import table as calibration_table
from .gradients import gradient_cases, gradient_table
from .jobs import jobs
from .jobs import table as jobs_table
from .kernels import tumour_cases
from .machine import Copies, choose_device, describe
from .parts import parts
from .parts import table as parts_table
from .precision import draw, precision
from .precision import table as precision_table
from .scaling import draw as draw_scaling
from .scaling import scaling
from .scaling import table as scaling_table
from .therapy import CONFIG, therapy_cases
from .timing import FULL, QUICK, Case

RESULTS = Path(__file__).parent / "results"
COPIES_PER_SAMPLE = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure, print, write; the exit status."""
    options = _parser().parse_args(argv)
    if any(n < 8 for n in options.sizes) or (options.copy_mib is not None and options.copy_mib < 1):
        print("error: --sizes takes numbers from 8 on, --copy-mib from 1 on", file=sys.stderr)
        return 2
    try:
        with kernels.use(options.kernels):
            result = _measured(options)
        path = options.out or _default_path(result)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if "precision" in result:
            draw(result["precision"], path.with_suffix(".png"))
        if "scaling" in result:
            draw_scaling(result["scaling"], path.with_suffix(".png"))
    except (GliomaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(_text(result))
    print(f"\nwritten: {path}")
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All cases asked for, with copies between them, as the content of a result file."""
    effort = QUICK if options.quick else FULL
    device = choose_device(options.device)
    with jax.enable_x64(False), jax.default_device(device):  # float32 throughout, as runs are by default
        head = describe(device)
        copies = Copies(device, options.copy_mib or (128 if device.platform == "cpu" else 1024))
        copies.sample(COPIES_PER_SAMPLE)
        cases: list[Case] = []
        for n in options.sizes:
            cases += tumour_cases(n, effort)
            copies.sample(COPIES_PER_SAMPLE)
        ratios: dict[str, float] = {}
        if not options.no_therapy:
            alone, whole, with_ledger = window = therapy_cases(options.config, effort)
            cases += window
            copies.sample(COPIES_PER_SAMPLE)
            ratios = {
                "therapy_step_per_tumour_step": whole.ms_per_step / alone.ms_per_step,
                "therapy_step_with_ledger_per_tumour_step": with_ledger.ms_per_step / alone.ms_per_step,
            }
        gradients = [] if options.no_gradients else gradient_cases(options.config, effort)
    apart = [] if options.no_parts else parts(options.sizes, effort.repeats)
    copy = copies.result()
    limit = copy["limit_million_cell_steps_per_s"]
    return head | {
        "quick": options.quick,
        "copy": copy,
        "cases": [case.result(limit) for case in cases],
        "ratios": ratios,
        "gradients": [case.result() for case in gradients],
        "parts": [part.result(copy["limit_gb_per_s"]) for part in apart],
    }


def measure_calibration(options: argparse.Namespace) -> dict[str, Any]:
    """The calibration's cases, as the content of a result file of their own."""
    device = choose_device(options.device)
    with jax.default_device(device):
        head = describe(device)
        return head | {"quick": options.quick, "calibration": calibration(1 if options.quick else 5)}


def measure_precision(options: argparse.Namespace) -> dict[str, Any]:
    """Work and precision beside other solvers, as the content of a result file of its own."""
    device = choose_device(options.device)
    with jax.default_device(device):
        return describe(device) | {"quick": options.quick, "precision": precision(options.quick)}


def measure_jobs(options: argparse.Namespace) -> dict[str, Any]:
    """Whole jobs, as the content of a result file of their own."""
    device = choose_device(options.device)
    with jax.enable_x64(False), jax.default_device(device):
        done = jobs(options.config, options.kernels, options.quick)
        return describe(device) | {"quick": options.quick, "jobs": [job.result() for job in done]}


def measure_scaling(options: argparse.Namespace) -> dict[str, Any]:
    """How cost grows, as the content of a result file of its own."""
    device = choose_device(options.device)
    with jax.enable_x64(False), jax.default_device(device):
        return describe(device) | {"quick": options.quick, "scaling": scaling(options.quick)}


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    if options.calibration:
        return measure_calibration(options)
    if options.jobs:
        return measure_jobs(options)
    if options.scaling:
        return measure_scaling(options)
    return measure_precision(options) if options.precision else measure(options)


def _text(result: dict[str, Any]) -> str:
    if "calibration" in result:
        return calibration_table(result["calibration"])
    if "jobs" in result:
        return "\n".join(jobs_table(result["jobs"]))
    if "scaling" in result:
        return "\n".join(scaling_table(result["scaling"]))
    return precision_table(result["precision"]) if "precision" in result else table(result)


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    device, copy = result["device"], result["copy"]
    kinds = ", ".join(f"{name} {v['median']:.1f}" for name, v in copy["gb_per_s"].items())
    lines = [
        f"{result['date_utc']}  {device['platform']} ({device['kind']}), {result['machine']['cores']} × "
        f"{result['machine']['processor']}, jax {result['versions']['jax']}, "
        f"kernels {result['versions']['kernels']}, {result['git_revision']}",
        f"copy [GB/s]: {kinds}; limit at {copy['bytes_per_cell_step']} B per cell-step: "
        f"{copy['limit_million_cell_steps_per_s']:.0f} million cell-steps/s",
        "",
        f"{'case':<32}{'steps':>7}{'ms/step':>10}{'Mcell-steps/s':>15}{'of copy':>9}{'compile s':>11}  sweeps/step",
    ]
    for c in result["cases"]:
        sweeps = ", ".join(
            f"{k} {v:.1f} (cold {c['sweeps_cold_per_solve'][k] * c['solves_per_step'][k]:.0f})"
            for k, v in c["sweeps_per_step"].items()
        )
        lines.append(
            f"{c['name']:<32}{c['steps']:>7}{c['ms_per_step']:>10.2f}{c['million_cell_steps_per_s']:>15.0f}"
            f"{c['fraction_of_copy_limit']:>9.1%}{c['trace_s'] + c['compile_s']:>11.2f}  {sweeps}".rstrip()
        )
        if "bytes_per_cell_step" in c:
            lines.append(
                f"  {sum(c['passes_per_step'].values()):.0f} arrays to read or write in a step, {c['bytes_per_cell_step']:.0f} B "
                f"per cell: {c['fraction_of_own_copy_limit']:.0%} of what copying them allows"
            )
    lines += [f"{name.replace('_', ' ')}: {value:.1f}" for name, value in result["ratios"].items()]
    if result["gradients"]:
        lines += ["", *gradient_table(result["gradients"])]
    if result["parts"]:
        lines += ["", *parts_table(result["parts"])]
    return "\n".join(lines)


def _default_path(result: dict[str, Any]) -> Path:
    stamp = "".join(c for c in result["date_utc"][:19] if c.isalnum())
    what = next((f"_{w}" for w in ("calibration", "precision", "jobs", "scaling") if w in result), "")
    return RESULTS / f"{stamp}_{result['device']['platform']}{what}{'_quick' if result['quick'] else ''}.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats: shows that it works, not how fast it is")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="default: what JAX chooses")
    parser.add_argument("--kernels", choices=kernels.KINDS, default="auto", help="default: native ones where there are")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file (default: in benchmarks/results/)")
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 192], metavar="N", help="tumour cases: N³ cells")
    parser.add_argument("--no-therapy", action="store_true", help="leave the therapy step out")
    parser.add_argument("--calibration", action="store_true", help="time the calibration instead, in a file of its own")
    parser.add_argument("--jobs", action="store_true", help="time whole jobs instead, in a file of its own")
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="cost against cells, steps, fields, patients, events; in files of its own",
    )
    parser.add_argument("--no-parts", action="store_true", help="leave the parts of a step, by kind of kernel, out")
    parser.add_argument(
        "--precision", action="store_true", help="error over time beside other solvers, in files of its own"
    )
    parser.add_argument("--no-gradients", action="store_true", help="leave the gradients of the therapy out")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="TOML", help="therapy to time and differentiate")
    parser.add_argument("--copy-mib", type=int, metavar="MIB", help="array of the copy (default: 128; 1024 on a GPU)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
