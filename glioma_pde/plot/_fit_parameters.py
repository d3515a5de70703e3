"""What the data say of the parameters: starts, profiles, and their joint distribution."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from glioma_pde.io.fit_file import FitFile
from glioma_pde.plot._fit_curves import log_ticks, sheet
from glioma_pde.plot._style import DASH, FAINT, INK, PALETTE, lines_of

_MOST = 8  # parameters of a corner plot


def waterfall(file: FitFile) -> Figure:
    """Costs of all starts in order: a broad first step means that the best fit was found again and again."""
    starts = file["starts"]
    cost = np.sort(starts["cost"])
    order = np.argsort(starts["cost"])
    finite = np.isfinite(cost)
    failed = int(np.sum(~finite))
    page = sheet(
        file, 62.0, "Waterfall of the starts",
        f"Minus log-likelihood (less log-prior) above the best one, plus 0.001. {len(cost)} starts, {failed} failed; open: "
        "did not converge, most often for want of steps.",
    )  # fmt: skip
    page.constrain()
    a = page.figure.subplots()
    height = cost[finite] - cost[0] + 1e-3
    a.plot(np.arange(1, finite.sum() + 1), height, color=FAINT, linewidth=0.8)
    done = starts["converged"][order][finite].astype(bool)
    x = np.arange(1, finite.sum() + 1)
    a.plot(x[done], height[done], "o", color=PALETTE[0], markersize=4)
    a.plot(x[~done], height[~done], "o", color=PALETTE[0], markersize=4, markerfacecolor="white")
    a.set_yscale("log")
    a.xaxis.set_major_locator(MaxNLocator(integer=True))
    a.set_xlabel("start, from the best")
    a.set_ylabel("cost above the best, + 0.001")
    return page.figure


def profile_lines(file: FitFile) -> Figure:
    """Profile likelihoods with the threshold of their interval."""
    groups = [file[g] for g in file.groups if g.startswith("profiles/")][:24]
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    level = float(file.attributes.get("level", 0.95))
    quadratic = bool(file.attributes.get("quadratic", "subjects" in file))
    how = "The cost is taken as quadratic around its least. " if quadratic else ""
    page = sheet(
        file, 42.0 * rows, "Profile likelihoods",
        f"{how}Twice the rise of the cost while one parameter is held and the others are fitted; dashed: threshold of its {100 * level:g} % "
        "interval. A line that stays below it up to an edge has an open interval there: the data do not bound the parameter.",
    )  # fmt: skip
    page.constrain()
    axes = page.figure.subplots(rows, columns, squeeze=False)
    for n, group in enumerate(groups):
        a = axes[n // columns, n % columns]
        threshold = float(group["threshold"][0])
        a.plot(group["value"], np.maximum(group["rise"], 0.0), color=PALETTE[0], marker=".", markersize=3)
        a.axhline(threshold, color=FAINT, linestyle=DASH, linewidth=0.8)
        a.plot(group["best"], [0.0], "o", color=INK, markersize=3.5)
        a.set_ylim(-0.2, 2.2 * threshold)
        if len(set(group["value"])) < 2:
            a.text(0.5, 0.5, "on its bound", transform=a.transAxes, ha="center", color=FAINT)
        if bool(group["log"][0]):
            log_ticks(a, "x")
        a.set_title(lines_of(str(group["name"][0]).replace(".", ". "), 40.0).replace(". ", "."), fontsize=6.5)
    for n in range(len(groups), rows * columns):
        axes[n // columns, n % columns].set_axis_off()
    return page.figure


def corner(file: FitFile) -> Figure:
    """Normal approximation of the joint distribution, pair by pair."""
    law = file[f"laws/{file.attributes['law']}"]
    use = np.flatnonzero(np.diag(law["covariance"]) > 0)[:_MOST]
    n = max(len(use), 1)
    page = sheet(
        file, min(24.0 * n + 10.0, 180.0), "Joint distribution of the parameters (normal approximation)",
        "Ellipses: 50 % and 95 % regions, from the curvature of the likelihood; axes of logarithmic parameters show natural "
        "logarithms. A narrow oblique ellipse is a product or ratio that the data know better than its parts.",
    )  # fmt: skip
    page.constrain()
    axes = page.figure.subplots(n, n, squeeze=False)
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for i in range(n):
        for j in range(n):
            a = axes[i, j]
            if j > i or not len(use):
                a.set_axis_off()
                continue
            p, q = use[j], use[i]
            sd = np.sqrt(np.diag(law["covariance"]))
            if i == j:
                x = law["scaled"][p] + sd[p] * np.linspace(-3, 3, 61)
                a.plot(x, np.exp(-0.5 * np.linspace(-3, 3, 61) ** 2), color=PALETTE[0])
                a.set_yticks([])
            else:
                part = law["covariance"][np.ix_([p, q], [p, q])]
                values, vectors = np.linalg.eigh(part)
                for radius in (1.177, 2.448):
                    ring = (vectors * np.sqrt(np.maximum(values, 0.0))) @ circle * radius
                    a.plot(law["scaled"][p] + ring[0], law["scaled"][q] + ring[1], color=PALETTE[0], linewidth=0.9)
                a.plot(law["scaled"][p], law["scaled"][q], ".", color=INK)
            if i == n - 1:
                a.set_xlabel(_short(law, p), fontsize=5.5)
            if j == 0 and i > 0:
                a.set_ylabel(_short(law, q), fontsize=5.5)
            a.tick_params(labelsize=5)
            a.locator_params(nbins=3)
            a.tick_params(axis="x", labelrotation=45)  # wide labels in narrow panels
    return page.figure


def _short(law, k: int) -> str:
    name = str(law["names"][k])
    head, _, path = name.rpartition(" of ")
    last = path.rpartition(".")[2]
    name = f"{head} of {last}" if head else last
    name = "\n".join(textwrap.wrap(name.replace("_", " "), 14, break_long_words=False))
    return f"ln {name}" if bool(law["log"][k]) else name
