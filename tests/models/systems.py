"""Small systems for tests of models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ase.build import bulk, molecule

from msmlff.data.batch import Batch
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.models import ForceField


def ethanol(seed: int = 0) -> Configuration:
    """A distorted molecule of H, C, O."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.08, seed=seed)
    return Configuration(atoms.numbers, atoms.positions)


def crystal(seed: int = 0) -> Configuration:
    """A distorted, sheared CO rock salt cell of 8 atoms, smaller than the cutoffs; periodic."""
    atoms = bulk("CO", "rocksalt", a=4.1, cubic=True)
    atoms.set_cell(atoms.cell.array + np.array([[0, 0.3, 0], [0, 0, 0.1], [0.2, 0, 0]]), scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    return Configuration(atoms.numbers, atoms.positions, atoms.cell.array, np.ones(3, dtype=bool))


def hydrogen(atoms: int = 14, seed: int = 0, box: float = 4.2) -> Configuration:
    """Random hydrogen in a periodic box, no pair closer than 0.7 Å."""
    rng = np.random.default_rng(seed)
    chosen: list[np.ndarray] = []
    while len(chosen) < atoms:
        trial = rng.uniform(0, box, 3)
        delta = [trial - other for other in chosen]
        if all(np.linalg.norm(d - box * np.round(d / box)) > 0.7 for d in delta):
            chosen.append(trial)
    return Configuration(
        np.ones(atoms, dtype=np.int64), np.array(chosen), np.eye(3) * box, np.ones(3, dtype=bool)
    )


def make_batch(model: ForceField, *frames: Configuration, skin: float = 0.0) -> Batch:
    """The frames in one batch, with edges up to the model's cutoff plus ``skin``."""
    lists = [neighbor_list(f.positions, f.cell, f.pbc, model.cutoff + skin) for f in frames]
    return collate(frames, lists, model.atomic_numbers)


def moved(frame: Configuration, positions: np.ndarray) -> Configuration:
    """The frame with other positions."""
    return replace(frame, positions=positions)


def strained(frame: Configuration, strain: np.ndarray) -> Configuration:
    """Positions and cell times (1 + strain)."""
    deformation = np.eye(3) + strain
    return replace(frame, positions=frame.positions @ deformation, cell=frame.cell @ deformation)
