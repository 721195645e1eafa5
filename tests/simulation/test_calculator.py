"""The ASE calculator: units, signs and atomic energies of a real model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from msmlff.models import MACE, MACEArchitecture
from msmlff.sampling import random_packing
from msmlff.simulation import BatchedLangevin, LangevinSettings, MSMLFFCalculator


@pytest.fixture(scope="module")
def model() -> MACE:
    torch.manual_seed(0)
    return (
        MACE([1, 8], [-1.0, -2.0], MACEArchitecture(cutoff=2.5, channels=4, l_max=2, correlation=2, layers=2))
        .double()
        .eval()
    )


def test_derivatives_are_those_of_the_energy(model: MACE) -> None:
    atoms = random_packing(["H"] * 8 + ["O"] * 4, 1.2, min_distance=1.0, seed=1).to_ase()
    atoms.calc = MSMLFFCalculator(model)
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-5)
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())


def test_a_molecule_has_no_stress_and_the_next_geometry_counts(model: MACE) -> None:
    atoms = random_packing(["H"] * 3, 0.5, min_distance=1.0, seed=1).to_ase()
    atoms.set_cell(None)
    atoms.pbc = False
    atoms.calc = MSMLFFCalculator(model)
    before = atoms.get_potential_energy()
    assert "stress" not in atoms.calc.results
    atoms.positions[0] += 0.1
    assert atoms.get_potential_energy() != before


def test_batched_dynamics_uses_the_same_forces(model: MACE) -> None:
    """One step of velocity Verlet from rest moves each atom by a dt²/2."""
    frame = random_packing(["H"] * 8 + ["O"] * 4, 1.2, min_distance=1.0, seed=2)
    atoms = frame.to_ase()
    atoms.calc = MSMLFFCalculator(model)
    settings = LangevinSettings(0.1, 300.0, friction=0.0, max_temperature=1e6)
    md = BatchedLangevin(model, [frame], settings, velocities=[np.zeros((12, 3))])
    assert md.energies()[0] == pytest.approx(atoms.get_potential_energy())
    md.run(1)
    acceleration = 9.64853321e-3 * atoms.get_forces() / atoms.get_masses()[:, None]  # Å/fs²
    moved = md.frames()[0].positions - frame.positions
    np.testing.assert_allclose(moved, 0.5 * 0.1**2 * acceleration, rtol=1e-4, atol=1e-10)
