"""One atomic configuration with its labels, in the units of the whole package: eV, Å, eV/Å, eV/Å³."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

ISOLATED = 6.0  # Å; periodic images of an atom that are farther apart count as none


@dataclass(frozen=True)
class Configuration:
    """A frame: atoms in a (possibly periodic) cell, labels where they are known.

    Attributes:
        numbers: [atoms] int64, atomic numbers.
        positions: [atoms, 3] float64, Å, not necessarily wrapped into the cell.
        cell: [3, 3] float64, Å, rows are lattice vectors; zeros where there is none.
        pbc: [3] bool.
        energy: eV, NaN where there is no label.
        forces: [atoms, 3] float64, eV/Å, or None.
        stress: [3, 3] float64, eV/Å³, (1/V) dE/d(strain) as in ASE (positive under tension), or None.
        weight: weight of the frame in the training loss.
        group: state point or trajectory the frame belongs to ("" if unknown); splits never cut a group's
            neighbours in time apart.
        info: further scalars of the frame (JSON-serialisable).
        source: where the frame came from, "file:index", for messages.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=bool))
    energy: float = float("nan")
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    weight: float = 1.0
    group: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def volume(self) -> float:
        """Volume of the cell in Å³; 0 where there is no cell."""
        return float(abs(np.linalg.det(self.cell)))

    def to_ase(self) -> Atoms:
        """The frame as ase.Atoms, labels in a SinglePointCalculator."""
        atoms = Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc)
        atoms.info.update(self.info)
        if self.group:
            atoms.info.setdefault("group", self.group)
        results: dict[str, Any] = {}
        if np.isfinite(self.energy):
            results["energy"] = self.energy
        if self.forces is not None:
            results["forces"] = self.forces
        if self.stress is not None:
            s = self.stress
            results["stress"] = np.array([s[0, 0], s[1, 1], s[2, 2], s[1, 2], s[0, 2], s[0, 1]])
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms


def shape_problem(frame: Configuration) -> str:
    """What is wrong with the shapes of a frame's arrays; "" if nothing is."""
    n = len(frame.numbers)
    expected = {
        "numbers": (frame.numbers, (n,)),
        "positions": (frame.positions, (n, 3)),
        "cell": (frame.cell, (3, 3)),
        "pbc": (frame.pbc, (3,)),
        "forces": (frame.forces, (n, 3)),
        "stress": (frame.stress, (3, 3)),
    }
    if n == 0:
        return "the frame has no atoms"
    for name, (array, shape) in expected.items():
        if array is not None and np.shape(array) != shape:
            return f"{name} has shape {list(np.shape(array))}; for {n} atoms it must be {list(shape)}"
    return ""


def is_isolated_atom(frame: Configuration) -> bool:
    """One atom that is not periodic, or whose images are 6 Å apart or more, or that is said to be isolated.

    The last is config_type=IsolatedAtom, in any case of letters.
    """
    if len(frame) != 1:
        return False
    if str(frame.info.get("config_type", "")).lower() == "isolatedatom":
        return True
    periodic = frame.cell[np.asarray(frame.pbc, bool)]
    steps = np.array([s for s in product((-1, 0, 1), repeat=len(periodic)) if any(s)])
    return len(steps) == 0 or float(np.linalg.norm(steps @ periodic, axis=1).min()) >= ISOLATED
