"""Structures to turn and look at in a page: what the viewer (3Dmol.js, bundled) is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from typing import Any

import matplotlib
import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from ase.geometry import wrap_positions

from msmlff.analysis.structure import bonds
from msmlff.analysis.tables import figure as number
from msmlff.data.configuration import Configuration

MOST_ATOMS = 20_000  # a page with more becomes slow to open
MOST_BONDS = 4.5  # bonds an atom, on the average, from which sticks would hide everything
BOND_TOLERANCE = 1.2  # of the sum of covalent radii
MAP = "cividis"


@dataclass(frozen=True)
class Scene:
    """A structure of a viewer.

    Attributes:
        label: of its button.
        frame: what is shown; atoms are put into the cell.
        values: [atoms] numbers that colour the atoms; None: the colours of the elements.
        quantity: what the values are, with their unit.
    """

    label: str
    frame: Configuration
    values: np.ndarray | None = None
    quantity: str = ""


@dataclass(frozen=True)
class ViewerBlock:
    """A viewer with the words around it.

    Attributes:
        name: id of its element in the page.
        title, caption: plain text (escaped by the template).
        scenes: shown one at a time.
        height: px.
    """

    name: str
    title: str
    caption: str
    scenes: Sequence[Scene]
    height: int = 420

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script draws, JSON-able."""
        return {"name": self.name, "scenes": [_scene(scene) for scene in self.scenes]}


def viewer_script() -> str:
    """The source of 3Dmol.js."""
    return (files("msmlff.analysis") / "assets" / "3Dmol-min.js").read_text(encoding="utf-8")


def can_show(frame: Configuration) -> bool:
    """Whether the frame is small enough for a page and its positions are numbers."""
    return len(frame) <= MOST_ATOMS and bool(np.isfinite(frame.positions).all())


def _scene(scene: Scene) -> dict[str, Any]:
    frame = scene.frame
    positions = frame.positions
    if frame.pbc.any():
        positions = wrap_positions(positions, frame.cell, frame.pbc)
    scale = 0.0 if scene.values is None else float(np.nanmax(scene.values, initial=0.0))
    content: dict[str, Any] = {
        "label": scene.label,
        "elements": [chemical_symbols[z] for z in frame.numbers],
        "positions": np.round(positions, 3).tolist(),
        "radii": np.round(0.25 + 0.2 * covalent_radii[frame.numbers], 3).tolist(),
        "colours": _colours(scene, scale),
        "bonds": _sticks(frame, positions),
        "cell": _edges(frame),
    }
    if scene.values is not None:
        values = np.nan_to_num(scene.values, nan=-1.0)
        content |= {
            "values": np.round(values, 3).tolist(),
            "quantity": scene.quantity,
            "largest": number(scale),
        }
        content["scale"] = [_hex(c) for c in matplotlib.colormaps[MAP](np.linspace(0, 1, 9))]
    else:
        kinds = sorted(set(frame.numbers.tolist()))
        content["legend"] = [[chemical_symbols[z], _hex(jmol_colors[z])] for z in kinds]
    return content


def _colours(scene: Scene, scale: float) -> list[str]:
    if scene.values is None:
        return [_hex(jmol_colors[z]) for z in scene.frame.numbers]
    shares = scene.values / (scale or 1.0)
    known = np.isfinite(shares)
    mapped = matplotlib.colormaps[MAP](np.where(known, shares, 0.0))
    return [_hex(c) if good else "#d55e00" for c, good in zip(mapped, known, strict=True)]


def _hex(colour: Sequence[float] | np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in colour[:3])


def _sticks(frame: Configuration, positions: np.ndarray) -> list[list[int]]:
    """Pairs of bonded atoms that are next to each other in the picture; none where they would hide it."""
    found = bonds(frame, BOND_TOLERANCE)
    if len(found) > MOST_BONDS * len(frame):
        return []
    straight = positions[found.receiver] - positions[found.sender]
    inside = np.abs(straight - found.vector).max(axis=1, initial=0.0) < 1e-3
    kept = found.where(inside & (found.sender < found.receiver))
    return np.stack([kept.sender, kept.receiver], axis=1).tolist()


def _edges(frame: Configuration) -> list[list[list[float]]]:
    """Ends of the 12 edges of the cell; none where not all directions are periodic."""
    if not frame.pbc.all():
        return []
    corners = {c: np.asarray(c) @ frame.cell for c in product((0, 1), repeat=3)}
    ends = [
        (a, b) for a in corners for b in corners if sum(b) - sum(a) == 1 and np.all(np.subtract(b, a) >= 0)
    ]
    return [[np.round(corners[a], 3).tolist(), np.round(corners[b], 3).tolist()] for a, b in ends]
