"""A fit to images from its configuration to its file and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .build import build
from .calibrate.images import ImageFit, fit_images, predict_images
from .calibrate.scans import Scan, cellularity_on, shares_on
from .config.image_loading import ImageStudy
from .errors import ConfigError, GliomaError
from .io.fit_file import write_fit
from .io.nifti import read_image, read_volumes
from .manifest import git_revision, versions
from .tissue import Tissue

Image = tuple[np.ndarray, np.ndarray]


def calibrate_images(
    study: ImageStudy, out: Path, figures: bool = True, report: Callable[[str, float], Any] | None = None
) -> tuple[str, list[Path]]:
    """Fit, predict, write ``fit.h5`` and draw: what the images tell, and the files written.

    Raises:
        ConfigError: for what is wrong with the images and the configuration, all at once.
        GliomaError: for images that say nothing, or a file that cannot be written.
    """
    tell = report or (lambda what, share: None)
    config, images = study.arm, study.images
    if config.numerics.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    tell("reading", 0.0)
    files = _read(study)
    experiment = build(config, initial={})  # none: it grows from a seed that is found
    tissue = experiment.model.tissue
    scans = _scans(study, files, tissue)
    tell("compiling and searching", 0.1)
    tumour = config.tumour
    found = fit_images(
        tissue, scans, (config.outcome.t1gd_threshold, config.outcome.flair_threshold),
        tumour.diffusivity_white_mm2_per_day / max(tumour.diffusivity_grey_mm2_per_day, 1e-12), images.max_steps,
        experiment.model, experiment.schedule, config.time.step_days,
    )  # fmt: skip
    tell("predicting", 0.7)
    days = [*(s.day for s in scans), *(scans[-1].day + d for d in images.ahead_days)]
    densities, volumes, spread = predict_images(found, [d - scans[0].day for d in days], config.time.step_days)
    from .plot.images import image_groups, plot_images

    groups = image_groups(tissue, scans, found, days, densities)
    groups["volumes"] = {
        "day": days,
        "predicted": volumes,
        "relative_sd": spread,
        "seen": _seen(tissue, scans, len(days)),
    }
    attributes = {
        "title": study.study.title, "versions": versions(), "git_revision": git_revision(), "configuration": study.study.text,
    }  # fmt: skip
    units = {"images/day": "day", "volumes/day": "day", "volumes/predicted": "mm3", "volumes/seen": "mm3"}
    paths = [write_fit(out / "fit.h5", groups, attributes, units)]
    if figures:
        tell("figures", 0.9)
        paths += plot_images(paths[0], out)
    tell("done", 1.0)
    return _table(found, days, volumes, spread, groups["volumes"]["seen"], experiment.warnings), paths


def _read(study: ImageStudy) -> list[dict[str, Image]]:
    """Every image of every day.

    Raises:
        ConfigError: naming all that cannot be read, and ADC maps on another grid than their masks.
    """
    problems: list[str] = []
    images, folder = study.images, Path(study.folder)
    out = [_files(folder, scan.paths(), f"images.scans[{i}]", 1, problems)[0] for i, scan in enumerate(images.scans)]
    if images.series is not None:
        out += _files(folder, images.series.paths(), "images.series", len(images.series.on_days), problems)
    if problems:
        raise ConfigError(problems, study.study.path)
    return out


def _files(folder: Path, paths: Mapping[str, str], key: str, count: int, problems: list[str]) -> list[dict[str, Image]]:
    """Images by name, of each of the ``count`` days that the files have volumes of."""
    mine: dict[str, Image] = {}
    for name, path in paths.items():
        try:
            mine[name] = read_image(folder / path) if count == 1 else _series(folder / path, count)
        except GliomaError as error:
            problems.append(f"{key}.{name}: {error}")
    if "adc" in mine:
        adc, affine = mine["adc"]
        for name in mine.keys() - {"adc"}:
            mask, place = mine[name]
            if mask.shape != adc.shape or not np.allclose(place, affine, atol=1e-2):
                problems.append(f"{key}.adc: lies on other voxels than {name}; resample one to the other")
    if count == 1:
        return [mine]
    return [{name: (data[..., k], affine) for name, (data, affine) in mine.items()} for k in range(count)]


def _series(path: Path, count: int) -> Image:
    data, affine = read_volumes(path, count)
    if bad := int(np.sum(~np.isfinite(data))):
        raise GliomaError(f"{path} has {bad} values that are not finite; replace them first.")
    return data, affine


def _scans(study: ImageStudy, files: Sequence[dict[str, Image]], tissue: Tissue) -> list[Scan]:
    """Shares and cellularities on the cells of the tissue, by day."""
    diffusion = study.images.adc
    lesions = [np.any([image > 0.5 for n, (image, _) in mine.items() if n != "adc"], axis=0) for mine in files]
    inside = [
        mine["adc"][0][lesion] for mine, lesion in zip(files, lesions, strict=True) if "adc" in mine and lesion.any()
    ]
    lowest = diffusion.lowest_mm2_per_s
    if lowest is None and inside:
        lowest = diffusion.unit_mm2_per_s * float(min(v.min() for v in inside))
    scans = []
    for day, mine, lesion in zip(study.images.seen_days(), files, lesions, strict=True):
        masks = {n: shares_on(tissue, image > 0.5, affine) for n, (image, affine) in mine.items() if n != "adc"}
        if "adc" in mine and lowest is not None:
            values, affine = mine["adc"]
            adc = diffusion.unit_mm2_per_s * values
            masks["cellularity"] = cellularity_on(tissue, adc, lesion, affine, lowest, diffusion.water_mm2_per_s)
        scans.append(Scan(day, sd=diffusion.sd, **masks))
    return sorted(scans, key=lambda s: s.day)


def _seen(tissue: Tissue, scans: Sequence[Scan], count: int) -> np.ndarray:
    """Volumes of the masks [mm³], ``(count, 2)``; NaN where there is none."""
    seen = np.full((count, 2), np.nan)
    for i, scan in enumerate(scans):
        for k, mask in enumerate((scan.t1gd, scan.flair)):
            if mask is not None:
                seen[i, k] = float(tissue.grid.integrate(jnp.asarray(mask * np.asarray(tissue.mask))))
    return seen


def _table(found: ImageFit, days, volumes, spread, seen: np.ndarray, warnings: Sequence[str]) -> str:
    lines = [
        *found.told,
        *(f"warning: {text}" for text in warnings),
        "",
        "day      T1Gd [mL]      seen     FLAIR [mL]     seen",
    ]
    for day, row, sd, was in zip(days, volumes, spread, seen, strict=True):
        cells = [
            f"{row[k] / 1e3:8.2f} ± {100 * sd[k]:3.0f} %  {'      –' if np.isnan(was[k]) else f'{was[k] / 1e3:7.2f}'}"
            for k in (0, 1)
        ]
        lines.append(f"{day:<6g}{cells[0]}  {cells[1]}" + ("" if np.isfinite(was).any() else "  (predicted)"))
    return "\n".join(lines)
