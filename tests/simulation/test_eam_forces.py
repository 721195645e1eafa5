"""EAM forces against ASE's EAM calculator, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.eam import EAM

from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.errors import InputError
from msmlff.simulation import NVE, Evaluation, MDSettings, MolecularDynamics
from msmlff.simulation.eam import EAMForces

NICKEL, ALUMINIUM = "Ni-Nb_1.eam.fs", "Al1.eam.fs"


def rattled(element: str, spacing: float, repeat: int) -> Atoms:
    """fcc, sheared and with atoms 0.2 Å from their sites."""
    atoms = bulk(element, "fcc", a=spacing, cubic=True).repeat(repeat)
    strain = np.array([[0, 0.03, 0], [0, 0, -0.02], [0, 0, 0.01]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.positions += 0.2 * np.random.default_rng(0).normal(size=atoms.positions.shape)
    return atoms


def frame(atoms: Atoms) -> Configuration:
    return Configuration(atoms.numbers.astype(np.int64), atoms.positions, atoms.cell.array, atoms.pbc)


def evaluate(forces: EAMForces, structures: list[Atoms]) -> Evaluation:
    """With a list that reaches farther than it must."""
    frames = [frame(a) for a in structures]
    lists = [neighbor_list(f.positions, f.cell, f.pbc, forces.cutoff + 0.5) for f in frames]
    return forces(collate(frames, lists, forces.atomic_numbers), stress=True)


@pytest.mark.parametrize(("file", "element", "spacing"), [(NICKEL, "Ni", 3.52), (NICKEL, "Nb", 4.1),
                                                          (ALUMINIUM, "Al", 4.05)])  # fmt: skip
def test_energy_forces_and_stress_are_those_of_ase(
    reference_data: Path, file: str, element: str, spacing: float
) -> None:
    path = reference_data / "eam" / file
    structures = [rattled(element, spacing, 1), rattled(element, 1.04 * spacing, 2)]
    found, first = evaluate(EAMForces(path, element), structures), 0
    assert found.stress is not None
    for k, atoms in enumerate(structures):
        atoms.calc = EAM(potential=str(path))
        assert found.energy[k].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-6 * len(atoms))
        np.testing.assert_allclose(found.forces[first : first + len(atoms)], atoms.get_forces(), atol=1e-4)
        np.testing.assert_allclose(found.stress[k], atoms.get_stress(voigt=False), atol=1e-6)
        first += len(atoms)


def test_an_atom_alone_has_no_energy_and_no_stress(reference_data: Path) -> None:
    found = evaluate(EAMForces(reference_data / "eam" / NICKEL, "Ni"), [Atoms("Ni")])
    assert found.energy.item() == pytest.approx(0.0, abs=1e-9)
    assert found.stress is not None
    assert found.stress.isnan().all()


def test_energy_is_conserved_in_dynamics(reference_data: Path) -> None:
    """Liquid-like temperatures: 0.2 ps of 2 fs; forces that were no derivatives would heat it."""
    start = rattled("Ni", 3.52, 2)
    forces = EAMForces(reference_data / "eam" / NICKEL, "Ni")
    md = MolecularDynamics(forces, [frame(start)], NVE(), MDSettings(2.0, 2000.0, seed=1))
    before = md.conserved()[0]
    md.run(100)
    assert md.conserved()[0] == pytest.approx(before, abs=2e-3 * len(start))


def test_bad_input_is_named(reference_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no Cu, it has Ni, Nb"):
        EAMForces(reference_data / "eam" / NICKEL, "Cu")
    with pytest.raises(InputError, match="no EAM file"):
        EAMForces(tmp_path / "none.eam.fs", "Ni")
    (tmp_path / "other.txt").write_text("")
    with pytest.raises(InputError, match=r"ends in \.alloy or \.fs"):
        EAMForces(tmp_path / "other.txt", "Ni")
