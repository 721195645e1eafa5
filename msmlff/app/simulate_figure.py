"""thermo.png: temperature, pressure, energy and the conserved quantity of a simulation against time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from msmlff.analysis.simulation_page import thermo_panels

# Figure and canvas without pyplot: half its import time, and no state that outlives the picture.
INK, GREY = "#1F2933", "#9AA5B1"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#8E5EA2", "#B08900", "#00838F", "#C2185B", "#5D4037")
MOST_POINTS = 4000  # of a line; more are thinned
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def save_thermo_figure(
    thermo: dict[int, dict[str, np.ndarray]],
    atoms: Sequence[int],
    bath: tuple[Sequence[float], Sequence[float]] | None,
    path: Path,
    title: str,
) -> None:
    """Draw a line a replica, energies from their start; pressure and density where they are defined.

    Args:
        thermo: of ``read_thermo``, at least one row.
        atoms: of each replica.
        bath: times in ps and K of the bath, drawn as a line; None: none.
        path: of the picture; it appears whole or not at all.
        title: above it.
    """
    panels = thermo_panels(thermo, atoms)
    rows = (len(panels) + 1) // 2
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 0.4 + 2.3 * rows), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
        grid = figure.subplots(rows, 2, sharex=True, squeeze=False).ravel()
        for axes, (name, lines) in zip(grid, panels, strict=False):
            for number, (k, values) in enumerate(lines.items()):
                time, values = _thinned(1e-3 * thermo[k]["time_fs"], values)
                axes.plot(time, values, color=COLOURS[number % len(COLOURS)], linewidth=0.9, label=f"{k}")
            axes.set_ylabel(name)
            axes.margins(x=0.01)
            axes.tick_params(labelbottom=True)
        if bath is not None:
            grid[0].plot(*bath, color=GREY, linewidth=1.0, linestyle="--", zorder=0)
        if 1 < len(thermo) <= len(COLOURS):
            handles, labels = grid[0].get_legend_handles_labels()
            figure.legend(handles, labels, title="replica", loc="outside right upper", frameon=False)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(panels) - 2) : len(panels)]:
            axes.set_xlabel("time (ps)")
        temporary = path.with_name(f".{path.name}")
        figure.savefig(temporary, format="png")
    temporary.replace(path)


def _thinned(time: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = max(1, len(time) // MOST_POINTS)
    return time[::step], values[::step]
