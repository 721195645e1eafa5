"""The pictures of docs/hydrogen.md: states against r_s, failures, radial distribution functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import numpy as np
from hydrogen_runs import FULL, Study, mean_over_seeds
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLOURS = {"cpd": "#0072B2", "direct": "#D55E00", "random": "#009E73", FULL: "#1F2933"}
MARKERS = {"cpd": "o", "direct": "^", "random": "s", FULL: "D"}
STATES = {
    "pressure": "pressure / GPa",
    "molecular_fraction": "molecular fraction",
    "diffusion": "D / 10⁻⁵ cm²/s",
}


def title_of(name: str) -> str:
    """cpd_200 -> CPD 200."""
    kind, _, budget = name.partition("_")
    return {"cpd": "CPD", "direct": "DIRECT", "random": "random", FULL: "full set"}[kind] + (
        f" {budget}" if budget else ""
    )


def look(name: str) -> dict[str, Any]:
    """Colour, marker and label of a training set."""
    kind = name.split("_")[0]
    return {"color": COLOURS[kind], "marker": MARKERS[kind], "label": title_of(name), "ms": 4, "lw": 1.0}


def draw_states(study: Study, path: Path) -> None:
    """Pressure, molecular fraction, diffusion against r_s; the first two less those of the full set; the
    failures.
    """
    figure, panels = plt.subplots(2, 3, figsize=(13.0, 7.0))
    for axes, (key, words) in zip(panels[0], STATES.items(), strict=True):
        _curves(axes, study, key, np.zeros(len(study.densities)), apart=0.0)
        axes.set(ylabel=words)
    for axes, key in zip(panels[1], ("pressure", "molecular_fraction"), strict=False):
        _curves(axes, study, key, mean_over_seeds(study.table(FULL, key))[0])
        axes.axhline(0.0, color="#9AA1AB", lw=0.8, zorder=0)
        axes.set(ylabel=f"{STATES[key]}, less full set's")
    _failures(panels[1, 2], study)
    for axes in panels.flat:
        axes.set(xlabel="r_s / bohr")
        axes.grid(color="#E8EBEF", lw=0.6)
        axes.set_axisbelow(True)
    panels[0, 1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _curves(axes: Axes, study: Study, key: str, origin: np.ndarray, apart: float = 0.12) -> None:
    """Mean and standard error over the seeds, less ``origin`` [densities]; the labels' own values.

    ``apart``: of two sets, as a share of the step of r_s, so that bars do not hide each other. Where the
    states themselves are drawn it is 0: on their slopes it would look like a difference.
    """
    width = np.ptp(study.r_s) / max(len(study.r_s) - 1, 1)
    for i, name in enumerate(study.names):
        mean, error = mean_over_seeds(study.table(name, key))
        beside = (i - 0.5 * (len(study.names) - 1)) * apart * width
        axes.errorbar(study.r_s + beside, mean - origin, np.nan_to_num(error), capsize=1.5, **look(name))
    if key == "diffusion":
        return
    values = study.label(key)
    if np.isfinite(values).any():
        axes.plot(study.r_s, values - origin, "k+", ms=8, mew=1.4, label="test frames", zorder=5)
    for k, mark in zip(range(study.passes), "12", strict=False):
        values = study.label_of_pass(k, key)
        if np.isfinite(values).all():
            axes.plot(study.r_s, values - origin, f"k{mark}", ms=8, label=f"pool, pass {k + 1}", zorder=5)


def _failures(axes: Axes, study: Study) -> None:
    """A row a training set: how many of its runs failed at each density."""
    for row, name in enumerate(reversed(study.names)):
        runs = study.starts * len(study.of(name))
        colour = COLOURS[name.split("_")[0]]
        for r_s, failed in zip(study.r_s, study.failed(name), strict=True):
            if failed:
                axes.scatter(r_s, row, 130, color=colour)
                axes.annotate(
                    str(failed), (r_s, row), color="white", fontsize=8, ha="center", va="center", zorder=6
                )
            else:
                axes.scatter(r_s, row, 10, color="#9AA1AB")
    axes.set(title=f"failed runs, of {runs} at a density", ylim=(-0.6, len(study.names) - 0.4))
    axes.set_yticks(range(len(study.names)), [title_of(name) for name in reversed(study.names)])


def draw_rdfs(study: Study, path: Path) -> list[float]:
    """g(r) at the lowest, the middle and the highest density; returns these."""
    last = len(study.densities) - 1
    chosen = sorted({0, last // 2, last})
    figure, panels = plt.subplots(1, len(chosen), figsize=(4.4 * len(chosen), 3.8), squeeze=False)
    for axes, i in zip(panels[0], chosen, strict=True):
        density, label = study.densities[i], study.labels["densities"][i]
        r = np.array(label["r"])
        axes.plot(r, label["g"], color="#9AA1AB", lw=2.5, label="test frames")
        for name in study.names:
            curves = [g for cell in study.of(name) if (g := cell.g(density)) is not None]
            if not curves:
                continue
            mean, error = mean_over_seeds(np.array(curves))
            colour = COLOURS[name.split("_")[0]]
            axes.plot(r, mean, color=colour, lw=1.1, label=title_of(name))
            axes.fill_between(r, mean - error, mean + error, color=colour, alpha=0.2, lw=0)
        axes.set(title=f"{density:g} g/cm³, r_s = {study.r_s[i]:.3f}", xlabel="r / Å", ylabel="g(r)")
        axes.set(xlim=(0.4, r[-1]), ylim=(0, None))
        axes.grid(color="#E8EBEF", lw=0.6)
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return [study.densities[i] for i in chosen]
