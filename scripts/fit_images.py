"""Fit the growth of a tumour to T1Gd and FLAIR masks in a brain: D_w, ρ, D_w/D_g and origin from two days, less from one.

usage: python scripts/fit_images.py OUT_DIR [DAY T1GD.nii.gz FLAIR.nii.gz]... [--ahead DAYS] [--spacing MM]
                                    [--white WHITE.nii.gz --grey GREY.nii.gz]

Masks are binary NIfTI images in the space of the tissue: the MNI152 brain, or that of two maps of fractions. Without images
the masks of a made-up tumour, simulated on finer cells, are fitted. Writes fit_images.h5 and fit_images.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402

from glioma_pde import (  # noqa: E402
    GliomaError,
    Model,
    Scan,
    Tissue,
    Tumour,
    fit_images,
    mni152,
    predict_images,
    shares_on,
    simulate,
    tissue_from_nifti,
)
from glioma_pde.io.fit_file import write_fit  # noqa: E402
from glioma_pde.io.nifti import read_image  # noqa: E402
from glioma_pde.plot.images import image_groups, plot_images  # noqa: E402

HALF_MM = 45.0
"""Half-width of the box that is computed, around the first FLAIR mask."""


def made_up() -> tuple[list[tuple[float, np.ndarray, np.ndarray]], np.ndarray, tuple[float, ...]]:
    """Masks of a tumour in the MNI152 brain on days 80 and 110, on 2 mm cells."""
    brain = mni152(spacing_mm=2.0).window((30.0, 10.0, 30.0), HALF_MM)
    world = brain.grid.world_mm()
    seed = 0.8 * np.exp(-sum((world[k] - c) ** 2 for k, c in enumerate((30.0, 10.0, 30.0))) / (2 * 2.5**2))
    model = Model(brain, [Tumour(0.10, 0.02, 0.06)], ledger=False)
    u = np.asarray(simulate(model, {"tumour": seed * np.asarray(brain.mask)}, [0.0, 80.0, 110.0])["tumour"])
    return [(d, u[k] > 0.80, u[k] > 0.16) for k, d in ((1, 80.0), (2, 110.0))], brain.grid.matrix, (30.0, 10.0, 30.0)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("images", nargs="*", help="DAY T1GD FLAIR, for each day")
    parser.add_argument("--ahead", type=float, default=30.0, help="days from the last scan to a prediction")
    parser.add_argument("--spacing", type=float, default=3.0, help="size of the cells [mm]")
    parser.add_argument("--white")
    parser.add_argument("--grey")
    options = parser.parse_args(arguments)
    if len(options.images) % 3 or (options.white is None) != (options.grey is None):
        parser.error("give DAY T1GD FLAIR for each day, and --white together with --grey")
    try:
        if options.images:
            rows = [options.images[i : i + 3] for i in range(0, len(options.images), 3)]
            read = [(float(day), read_image(a), read_image(b)) for day, a, b in rows]
            affine = read[0][1][1]
            masks = [(day, a[0] > 0.5, b[0] > 0.5) for day, a, b in read]
            inside = np.argwhere(masks[0][2])
            if not len(inside):
                raise GliomaError("The first FLAIR mask is empty.")
            centre = tuple(affine[:3, :3] @ inside.mean(axis=0) + affine[:3, 3])
        else:
            masks, affine, centre = made_up()
        fine: Tissue = (
            mni152(spacing_mm=1.0) if options.white is None else tissue_from_nifti(options.white, options.grey)
        )
        tissue = fine.resample(options.spacing).window(centre, HALF_MM)
        scans = [Scan(day, *(shares_on(tissue, m, affine) for m in (t1gd, flair))) for day, t1gd, flair in masks]
        found = fit_images(tissue, scans)
        gaps = [s.day - scans[0].day for s in scans]
        days = [*gaps, gaps[-1] + options.ahead]
        densities, volumes, spread = predict_images(found, days)
        print("\n".join(found.told))
        for k, gap in enumerate(days):
            seen = "" if k >= len(scans) else "  (fitted)"
            print(
                f"day {scans[0].day + gap:g}: T1Gd {volumes[k, 0] / 1e3:.2f} mL ± {100 * spread[k, 0]:.0f} %, "
                f"FLAIR {volumes[k, 1] / 1e3:.2f} mL ± {100 * spread[k, 1]:.0f} %{seen}"
            )
        options.out.mkdir(parents=True, exist_ok=True)
        groups = image_groups(tissue, scans, found, [scans[0].day + d for d in days], densities)
        path = write_fit(options.out / "fit_images.h5", groups, {"title": "Growth fitted to masks"})
        print(path, plot_images(path, options.out))
    except GliomaError as error:
        print(f"fit_images: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
