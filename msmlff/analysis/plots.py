"""Pictures as files: what a pool of configurations looks like, and parity of predictions with labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from msmlff.analysis.errors import Predictions, parity_pairs, sort_groups
from msmlff.analysis.structure import molecular_fraction, rdf
from msmlff.analysis.thermodynamics import density, pressure
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#9AA1AB"


def plot_rdf_by_density(
    frames: Sequence[Configuration], path: str | Path, r_max: float = 3.5, bins: int = 140, curves: int = 8
) -> Path:
    """Radial distribution functions of the groups, coloured by density, written as the suffix says (png, svg,
    pdf).

    Args:
        frames: periodic; frames of one ``group`` make a curve.
        curves: at most so many groups are drawn, evenly spread over the densities.

    Raises:
        InputError: no frames, or frames without a cell.
    """
    groups = _by_group(frames, "plot_rdf_by_density")
    means = {group: float(density(members).mean()) for group, members in groups.items()}
    names = sorted(groups, key=means.__getitem__)
    drawn = [
        names[i]
        for i in np.unique(np.linspace(0, len(names) - 1, min(curves, len(names))).round().astype(int))
    ]
    colours = matplotlib.colormaps["cividis"](np.linspace(0.0, 0.92, len(drawn)))
    figure, axes = _figure()
    for name, colour in zip(drawn, colours, strict=True):
        g = rdf(groups[name], r_max, bins)
        axes.plot(g.x, g.y, color=colour, linewidth=1.4, label=f"{means[name]:.2f}")
    axes.axhline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="r / Å", ylabel="g(r)", xlim=(0, r_max), ylim=(0, None))
    axes.legend(title="g/cm³", frameon=False, fontsize=8, title_fontsize=8)
    return _save(figure, path)


def plot_molecular_fraction(frames: Sequence[Configuration], path: str | Path) -> Path:
    """Molecular fraction against density: every frame, and mean and standard deviation of each group."""
    figure, axes = _figure()
    _against_density(axes, frames, molecular_fraction(frames), "plot_molecular_fraction")
    axes.set(ylabel="molecular fraction", ylim=(0, 1.03))
    return _save(figure, path)


def plot_pressure(
    frames: Sequence[Configuration], path: str | Path, temperature: float | None = None
) -> Path:
    """Pressure against density: every frame, and mean and standard deviation of each group.

    Args:
        temperature: K; where given, the ideal-gas term is added.

    Raises:
        InputError: no frame has a stress.
    """
    values = pressure(frames, temperature)
    if not np.isfinite(values).any():
        raise InputError("plot_pressure: no frame has a stress; label the frames with stress first")
    figure, axes = _figure()
    _against_density(axes, frames, values, "plot_pressure")
    axes.set(ylabel="pressure / GPa" if temperature is None else f"pressure at {temperature:g} K / GPa")
    return _save(figure, path)


def parity_figure(predictions: Predictions) -> Figure:
    """Predicted against labelled energy per atom (less E0), force components and pressure, a panel each.

    A target without labels or predictions has no panel.

    Raises:
        InputError: there is nothing to compare.
    """
    units = {"energy": "energy / eV/atom", "force": "force component / eV/Å", "pressure": "pressure / GPa"}
    drawn = {}
    for name, (label, predicted) in parity_pairs(predictions).items():
        good = np.isfinite(label) & np.isfinite(predicted)
        if good.any():
            drawn[units[name]] = label[good], predicted[good]
    if not drawn:
        raise InputError("parity_figure: no label has a finite prediction")
    figure = Figure(figsize=(3.6 * len(drawn), 3.5), layout="constrained")
    for axes, (name, (label, predicted)) in zip(
        figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True
    ):
        _plain_axes(axes)
        ends = [min(label.min(), predicted.min()), max(label.max(), predicted.max())]
        axes.plot(ends, ends, color=GREY, linewidth=0.8)
        axes.plot(label, predicted, ".", color=BLUE, markersize=3, alpha=0.5, rasterized=True)
        axes.set(xlabel=f"label: {name}", ylabel=f"model: {name}")
    return figure


def _against_density(axes: Axes, frames: Sequence[Configuration], values: np.ndarray, what: str) -> None:
    groups = _by_group(frames, what)
    rho = density(frames)
    names = np.array([frame.group for frame in frames])
    axes.plot(rho, values, ".", color=GREY, markersize=3, alpha=0.6, label="frames")
    x, mean, spread = [], [], []
    for name in groups:
        members = (names == name) & np.isfinite(values)
        if members.any():
            x.append(rho[members].mean())
            mean.append(values[members].mean())
            spread.append(values[members].std())
    order = np.argsort(x)
    points = [np.asarray(v)[order] for v in (x, mean, spread)]
    axes.errorbar(
        points[0], points[1], yerr=points[2], fmt="o-", color=BLUE, markersize=4, linewidth=1.2, capsize=2,
        label="mean of a group",
    )  # fmt: skip
    axes.set(xlabel="density / g/cm³")
    axes.legend(frameon=False, fontsize=8)


def _by_group(frames: Sequence[Configuration], what: str) -> dict[str, list[Configuration]]:
    if not len(frames):
        raise InputError(f"{what}: no frames given")
    groups: dict[str, list[Configuration]] = {
        name: [] for name in sort_groups([frame.group for frame in frames])
    }
    for frame in frames:
        groups[frame.group].append(frame)
    return groups


def _figure() -> tuple[Figure, Axes]:
    # Figure itself rather than pyplot: no display, no global state
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    _plain_axes(axes)
    return figure, axes


def _plain_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E8EBEF", linewidth=0.7)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    return path
