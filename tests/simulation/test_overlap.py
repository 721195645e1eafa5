"""Atoms that overlap: what counts as that, and how they are pushed apart."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.collections import g2
from ase.constraints import FixAtoms

from msmlff.errors import InputError
from msmlff.simulation.overlap import OVERLAP, closest, push_apart


def shortest(atoms: Atoms) -> float:
    distances = atoms.get_all_distances(mic=True)
    return float(distances[np.triu_indices(len(atoms), 1)].min())


def test_no_molecule_overlaps() -> None:
    for name in g2.names:
        assert closest(g2[name], OVERLAP).atoms == (), name


def test_the_closest_pair_is_the_one_closest_for_its_elements() -> None:
    atoms = Atoms("H2Ni2", [[0, 0, 0], [0, 0, 0.5], [0, 0, 9], [0, 0, 10]])
    found = closest(atoms, OVERLAP)
    assert (found.atoms, found.distance) == ((2, 3), pytest.approx(1.0))
    assert found.ratio == pytest.approx(1.0 / 2.48)
    assert found.named(atoms) == "atoms Ni 2 and Ni 3 are 1 Å apart"
    image = Atoms("Ni", cell=[9, 9, 1], pbc=True)
    assert closest(image, OVERLAP).named(image) == "Ni 0 and its own image are 1 Å apart"


@pytest.mark.parametrize("distance", [0.0, 0.2, 1.0])
def test_atoms_are_pushed_apart_and_the_far_ones_stay(distance: float) -> None:
    crystal = bulk("Ni", cubic=True).repeat(3)
    crystal.positions[5] = crystal.positions[3] + [0.0, 0.0, distance]
    moved = crystal.copy()
    push_apart(moved)
    assert shortest(moved) > 2.1
    again = crystal.copy()
    push_apart(again)
    np.testing.assert_array_equal(moved.positions, again.positions)
    step = np.linalg.norm(moved.positions - crystal.positions, axis=1)
    assert (step == 0).sum() > 30


def test_what_does_not_overlap_is_left_alone() -> None:
    for atoms in (molecule("C2H2"), bulk("Ni", cubic=True), Atoms("H2", [[0, 0, 0], [0, 0, 0.5]])):
        before = atoms.positions.copy()
        push_apart(atoms)
        np.testing.assert_array_equal(atoms.positions, before)


def test_a_molecule_keeps_its_shape_around_an_atom_that_overlapped() -> None:
    ethanol = molecule("CH3CH2OH")
    ethanol.positions[5] = ethanol.positions[0] + [0.0, 0.0, 0.1]
    push_apart(ethanol)
    assert closest(ethanol, 0.7).atoms == ()
    assert np.ptp(ethanol.positions, axis=0).max() < 5.0


def test_constraints_hold_and_atoms_without_room_are_named() -> None:
    pair = Atoms("Ni2", [[0, 0, 0], [0, 0, 0.2]], constraint=FixAtoms([0]))
    push_apart(pair)
    np.testing.assert_array_equal(pair.positions[0], 0.0)
    assert shortest(pair) > 2.3
    pair = Atoms("Ni2", [[0, 0, 0], [0, 0, 0.2]], constraint=FixAtoms([0, 1]))
    with pytest.raises(
        InputError, match=r"Ni 0 and Ni 1 are 0\.2 Å apart: they overlap, and there is no room"
    ):
        push_apart(pair)
    with pytest.raises(InputError, match="in Å"):
        push_apart(bulk("Ni", cubic=True, a=0.7))
