"""map.png: the pool in the plane of its first two principal components, and the frames chosen from it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from msmlff.distill.pool_map import PoolMap

# Figure and canvas without pyplot: half its import time, and no state that outlives the picture.
INK, GREY, ORANGE = "#1F2933", "#9AA5B1", "#E8590C"
FEW_GROUPS = 10  # with so many, each has a colour and a name
MOST = 20_000  # frames that are drawn, at most: an even part of the rest
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
_COLOURS = (
    "#1B6CA8", "#2B9348", "#8E5EA2", "#B08900", "#00838F",
    "#C2185B", "#5D4037", "#546E7A", "#6A994E", "#4361EE",
)  # fmt: skip


def warm_up() -> None:
    """Draw letters and points once, so that fonts are found and read before a map is drawn."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(1.0, 1.0), dpi=150)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.2, 0.2, 0.6, 0.6))
        axes.set_title("0", fontsize=10.5)
        axes.scatter([0.0], [0.0], label="chosen")
        axes.legend(fontsize=8.5)
        figure.savefig(BytesIO(), format="png")


def save_map(chart: PoolMap, path: Path, title: str, group_name: str = "group") -> None:
    """Draw the pool's frames in the colours of their groups or of their density, the chosen ones ringed.

    Args:
        chart: of a pool.
        path: of the picture; it appears whole or not at all.
        title: above it.
        group_name: what the groups are.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 5.0), dpi=150)
        FigureCanvasAgg(figure)
        # by hand: finding a layout would take as long as drawing
        axes = figure.add_axes((0.085, 0.095, 0.80, 0.845))
        axes.set_title(title, loc="left", fontsize=10.5, color=INK)
        shown = _shown(chart)
        _pool(figure, axes, chart, shown, group_name)
        _chosen(axes, chart, shown)
        _frame(axes, chart)
        temporary = path.with_name(f".{path.name}")
        figure.savefig(temporary, format="png")
    temporary.replace(path)


def _shown(chart: PoolMap) -> np.ndarray:
    """[frames] bool: all chosen frames, the others up to ``MOST``."""
    shown = chart.chosen.copy()
    rest = np.flatnonzero(~chart.chosen)
    shown[rest[:: max(1, -(-len(rest) // MOST))]] = True
    return shown


def _size(count: int) -> float:
    return float(np.clip(12_000 / max(count, 1), 3.0, 26.0))


def _pool(figure: Figure, axes: Axes, chart: PoolMap, shown: np.ndarray, group_name: str) -> None:
    names, index = np.unique(chart.group, return_inverse=True)
    points, size = chart.pca[shown], _size(int(shown.sum()))

    def dots(rows: np.ndarray, colour: Any, colours: Any = None, label: str | None = None) -> PathCollection:
        style: Any = {"s": size, "linewidths": 0, "zorder": 2, "cmap": colours, "label": label}
        return axes.scatter(rows[:, 0], rows[:, 1], c=colour, **style)

    numbers = _numbers(names)
    if numbers is not None and len(names) > 1:
        _bar(figure, dots(points, numbers[index][shown], "viridis"), group_name)
    elif 1 < len(names) <= FEW_GROUPS:
        for i, name in enumerate(names):
            dots(chart.pca[shown & (index == i)], _COLOURS[i], label=str(name) or "no group")
    elif np.isfinite(chart.log_density).any():
        bar = _bar(figure, dots(points, _rank(chart.log_density)[shown], _sober()), "density of the pool")
        bar.set_ticks([0, 1], labels=["sparse", "dense"])
    else:
        dots(points, GREY, label="pool")


def _bar(figure: Figure, drawn: PathCollection, label: str) -> Colorbar:
    bar = figure.colorbar(drawn, cax=figure.add_axes((0.9, 0.095, 0.018, 0.845)), label=label)
    bar.outline.set_visible(False)
    return bar


def _chosen(axes: Axes, chart: PoolMap, shown: np.ndarray) -> None:
    axes.scatter(
        chart.pca[chart.chosen, 0],
        chart.pca[chart.chosen, 1],
        s=2.2 * _size(int(shown.sum())),
        facecolors="none",
        edgecolors=ORANGE,
        linewidths=1.1,
        zorder=3,
        label="chosen",
    )
    axes.legend(loc="best", fontsize=8.5, handletextpad=0.3, borderpad=0.2)


def _frame(axes: Axes, chart: PoolMap) -> None:
    axes.set_xlabel("principal component 1")
    axes.set_ylabel("principal component 2")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3, color=GREY)
    axes.margins(0.04)
    if not chart.pca.any():
        axes.text(0.5, 0.6, "all frames have the same features", ha="center", transform=axes.transAxes)


def _numbers(names: np.ndarray) -> np.ndarray | None:
    """Groups that are numbers, such as densities or temperatures."""
    try:
        return np.array([float(name) for name in names])
    except ValueError:
        return None


def _rank(values: np.ndarray) -> np.ndarray:
    """[frames] 0 for the least to 1 for the largest value: an even use of the colours."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.linspace(0, 1, len(values))
    return ranks


def _sober() -> ListedColormap:
    """Blues without the palest, which would not show on white."""
    return ListedColormap(colormaps["Blues"](np.linspace(0.25, 1.0, 256)))
