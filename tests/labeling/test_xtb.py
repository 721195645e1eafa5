"""xTB labels against tblite's own ASE calculator and against finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tblite.ase import TBLite

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.labeling import SCFError, XTBEngine
from msmlff.sampling import molecular_lattice


@pytest.fixture(scope="module")
def hydrogen() -> Configuration:
    return molecular_lattice("H", 4, 0.9, bond_length=0.76, seed=3, displacement=0.05)


def strained(frame: Configuration, strain: np.ndarray) -> Configuration:
    deformation = np.eye(3) + strain
    return replace(frame, positions=frame.positions @ deformation, cell=frame.cell @ deformation)


def test_labels_are_those_of_tblites_ase_calculator(hydrogen: Configuration) -> None:
    atoms = hydrogen.to_ase()
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    labels = XTBEngine().label(hydrogen)
    assert labels.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(labels.forces, atoms.get_forces(), atol=1e-6)
    np.testing.assert_allclose(labels.stress, atoms.get_stress(voigt=False), atol=1e-8)


def test_forces_and_stress_are_derivatives_of_the_energy(hydrogen: Configuration) -> None:
    engine = XTBEngine(accuracy=1e-3)
    labels = engine.label(hydrogen)
    step = 1e-3
    moves = np.zeros((2, *hydrogen.positions.shape))
    moves[0, 2, 1], moves[1, 2, 1] = step, -step
    up, down = (engine.label(replace(hydrogen, positions=hydrogen.positions + m)).energy for m in moves)
    assert labels.forces[2, 1] == pytest.approx(-(up - down) / (2 * step), abs=2e-3)
    strain = np.zeros((3, 3))
    strain[0, 1] = strain[1, 0] = 0.5 * step
    strain[2, 2] = step
    up, down = (engine.label(strained(hydrogen, sign * strain)).energy for sign in (1, -1))
    assert labels.stress is not None
    slope = (up - down) / (2 * step) / hydrogen.volume
    assert labels.stress[0, 1] + labels.stress[2, 2] == pytest.approx(slope, abs=2e-4)


def test_a_molecule_has_no_stress_and_a_bond_where_hydrogen_has_one() -> None:
    """The force changes from repulsion to attraction between 0.7 and 0.8 Å (experiment: r_e = 0.741 Å)."""

    def push(length: float) -> float:
        positions = np.array([[0.0, 0.0, 0.0], [length, 0.0, 0.0]])
        labels = XTBEngine().label(Configuration(np.ones(2, dtype=np.int64), positions))
        assert labels.stress is None
        np.testing.assert_allclose(labels.forces.sum(axis=0), 0.0, atol=1e-6)
        return float(labels.forces[1, 0])

    assert push(0.7) > 0 > push(0.8)


def test_failure_to_converge_is_an_scf_error(hydrogen: Configuration) -> None:
    with pytest.raises(SCFError):
        XTBEngine(max_iterations=1).label(hydrogen)


def test_bad_input_is_named(hydrogen: Configuration) -> None:
    with pytest.raises(InputError, match="GFN1-xTB"):
        XTBEngine(method="GFN3-xTB")
    slab = replace(hydrogen, pbc=np.array([True, True, False]), source="slab.xyz:4")
    with pytest.raises(InputError, match=r"slab\.xyz:4"):
        XTBEngine().label(slab)
