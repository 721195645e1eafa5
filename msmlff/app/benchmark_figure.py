"""The figure of ``msmlff benchmark growth`` and ``md``: speed and memory against the number of atoms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msmlff.app.benchmark_systems import TITLES

_GIB = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)  # ticks
_GOAL = 8.0  # GiB


@dataclass(frozen=True)
class Curve:
    """A line in both panels of a system: ``speed`` and ``gib`` at ``atoms``; ``style`` is matplotlib's."""

    system: str
    label: str
    style: dict[str, Any]
    atoms: list[int]
    speed: list[float]
    gib: list[float]


def draw(curves: list[Curve], ylabel: str, file: Path) -> None:
    """Speed (``ylabel``) and memory against atoms, a row of panels a system."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    systems = [s for s in TITLES if any(curve.system == s for curve in curves)]
    figure, panels = plt.subplots(
        len(systems), 2, figsize=(9.0, 3.6 * len(systems)), squeeze=False, constrained_layout=True
    )
    for (speed, memory), system in zip(panels, systems, strict=True):
        own = [curve for curve in curves if curve.system == system]
        for curve in own:
            style = {"markersize": 4, "label": curve.label, **curve.style}
            speed.loglog(curve.atoms, curve.speed, **style)
            memory.loglog(curve.atoms, curve.gib, **style)
        largest = max(_GOAL, *(gib for curve in own for gib in curve.gib))
        memory.axhline(_GOAL, color="#9AA1AB", linewidth=0.8)
        ticks = [gib for gib in _GIB if gib <= 2 * largest]
        memory.set_yticks(ticks, labels=[f"{gib:g}" for gib in ticks])
        memory.minorticks_off()
        speed.legend(fontsize=8, frameon=False)
        for panel, quantity in ((speed, ylabel), (memory, "peak memory, GiB")):
            panel.set(xlabel="atoms", ylabel=quantity, title=TITLES[system])
            panel.grid(True, which="major", color="#E8EBEF")
            panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    plt.close(figure)
