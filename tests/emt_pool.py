"""A small labelled pool made with ASE's EMT: periodic, two elements; energies, forces, stresses."""

from __future__ import annotations

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from msmlff.data.configuration import Configuration


def emt_frames(count: int, seed: int) -> list[Configuration]:
    """Rattled, strained 8-atom Cu-Al cells."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(count):
        atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
        atoms.numbers[rng.choice(8, 2, replace=False)] = 13
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.12 * rng.normal(size=(8, 3))
        atoms.calc = EMT()
        frames.append(
            Configuration(
                numbers=atoms.numbers.astype(np.int64),
                positions=atoms.positions,
                cell=atoms.cell.array,
                pbc=atoms.pbc,
                energy=atoms.get_potential_energy(),
                forces=atoms.get_forces(),
                stress=atoms.get_stress(voigt=False),
                group=f"g{i % 3}",
                source=f"emt-{seed}:{i}",
            )
        )
    return frames


E0S = {13: 0.1, 29: -0.2}
