"""Neighbour lists against ASE's, and the order models rely on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list as ase_neighbor_list

from msmlff.data.neighbors import check_crowding, edge_vectors, neighbor_list
from msmlff.data.neighbors_device import free_pairs
from msmlff.errors import InputError


def _shaken(atoms: Atoms, amplitude: float, pbc: object = True) -> Atoms:
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(3).normal(0, amplitude, atoms.positions.shape)
    atoms.pbc = pbc
    return atoms


def _left_handed() -> Atoms:
    atoms = bulk("Ni") * 2
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    return atoms


def _slab_without_third_vector() -> Atoms:
    atoms = _shaken(bulk("Al", cubic=True) * 2, 0.2, [True, True, False])
    atoms.cell[2] = 0
    return atoms


CASES = {
    "primitive cell, own images": (bulk("Ni"), 7.0),
    "crystal with equal lengths": (bulk("Ni", cubic=True), 5.0),
    "unwrapped positions": (_shaken(bulk("Ni", cubic=True) * 2, 9.0), 5.0),
    "skewed cell": (_shaken(bulk("Ti") * (2, 1, 1), 0.3), 6.0),
    "left-handed cell": (_left_handed(), 5.0),
    "mixed periodicity": (_shaken(bulk("Al", cubic=True) * 2, 0.2, [True, False, True]), 5.0),
    "slab without third vector": (_slab_without_third_vector(), 5.0),
    "molecule": (molecule("C2H6"), 3.0),
    "single atom": (Atoms("H", [[0, 0, 0]]), 5.0),
    "no neighbours": (Atoms("H2", [[0, 0, 0], [0, 0, 9]]), 5.0),
}


@pytest.mark.parametrize("name", CASES)
def test_same_edges_as_ase(name: str) -> None:
    atoms, cutoff = CASES[name]
    found = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    i, j, shift = ase_neighbor_list("ijS", atoms, cutoff)
    expected = sorted(map(tuple, np.c_[i, j, shift].tolist()))
    assert sorted(map(tuple, np.c_[found.sender, found.receiver, found.shift].tolist())) == expected


@pytest.mark.parametrize("name", CASES)
def test_rows_ascend_by_length_and_vectors_have_the_documented_sign(name: str) -> None:
    atoms, cutoff = CASES[name]
    found = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    vectors = edge_vectors(atoms.positions, atoms.cell.array, found)
    by_hand = atoms.positions[found.receiver] - atoms.positions[found.sender] + found.shift @ atoms.cell.array
    np.testing.assert_allclose(vectors, by_hand)
    length = np.linalg.norm(vectors, axis=1)
    assert (length < cutoff).all()
    step = np.diff(found.receiver)
    assert (step >= 0).all()
    assert (np.diff(length)[step == 0] > -1e-12).all()


def test_threads_do_not_change_the_list() -> None:
    atoms = bulk("Ni", cubic=True) * 5
    one = neighbor_list(atoms.positions, atoms.cell.array, True, 5.0, threads=1)
    two = neighbor_list(atoms.positions, atoms.cell.array, True, 5.0, threads=2)
    assert (one.sender == two.sender).all()
    assert (one.shift == two.shift).all()


@pytest.mark.parametrize(
    ("positions", "cell", "pbc", "cutoff", "message"),
    [
        (np.zeros((2, 2)), None, False, 3.0, "shape"),
        (np.array([[0, 0, np.nan]]), None, False, 3.0, "NaN"),
        (np.zeros((1, 3)), None, True, 3.0, "no such lattice vector"),
        (np.zeros((1, 3)), np.diag([3.0, 3.0, 0.0]), True, 3.0, "along c"),
        (np.zeros((1, 3)), np.array([[3.0, 0, 0], [1, 2, 0], [4, 2, 0]]), True, 3.0, "span no volume"),
        (
            np.zeros((1, 3)),
            np.array([[3.0, 0, 0], [6, 1e-7, 0], [0, 0, 3]]),
            (1, 1, 0),
            3.0,
            "span no volume",
        ),
        (np.zeros((1, 3)), None, False, 0.0, "cutoff"),
    ],
)
def test_bad_input_is_named(positions, cell, pbc, cutoff, message) -> None:
    with pytest.raises(InputError, match=message):
        neighbor_list(positions, cell, pbc, cutoff)


#: Sides in Å, cutoff in Å and periodic directions of frames that kill vesin 0.6.2 by a division by zero.
THIN = [
    ((6.1e5, 1.0, 1.0), 6.0, (0, 0, 0)),
    ((1.0, 1e6, 1.0), 6.0, (0, 0, 0)),
    ((2000.0, 2000.0, 1.0), 6.0, (0, 0, 0)),
    ((300.0, 300.0, 0.0), 0.4, (0, 0, 0)),
    ((300.0, 300.0, 0.5), 0.4, (1, 1, 0)),
    ((3.0, 1e6, 3.0), 6.0, (0, 1, 0)),
    ((1e6, 10.0, 10.0), 6.0, (1, 1, 1)),
]


@pytest.mark.parametrize(("sides", "cutoff", "pbc"), THIN)
@pytest.mark.parametrize("search", ["all", "free"])
def test_thin_and_wide_frames(sides: tuple, cutoff: float, pbc: tuple, search: str) -> None:
    """All pairs, by their distances; among them some of atoms that are neighbours."""
    if search == "free" and any(pbc):
        return
    rng = np.random.default_rng(0)
    positions = rng.random((60, 3)) * sides
    positions[0], positions[1] = 0.0, sides
    positions[2:20:2] = positions[3:21:2] + 0.2 * cutoff * np.eye(3)[int(np.argmax(sides))]
    cell, periodic = np.diag(np.maximum(sides, 1.0)), np.array(pbc, dtype=bool)
    shifts = np.stack(np.meshgrid(*(range(-3, 4) if p else [0] for p in pbc)), axis=-1).reshape(-1, 3)
    vectors = positions[None, :, None] - positions[:, None, None] + shifts @ cell
    expected = np.linalg.norm(vectors, axis=-1) < cutoff
    expected[np.arange(60), np.arange(60), (shifts == 0).all(axis=1).argmax()] = False
    assert expected.sum() >= 18
    if search == "free":
        sender, receiver, length = free_pairs(torch.from_numpy(positions), cutoff)
        assert len(sender) == expected.sum()
        assert (length < cutoff).all()
        assert expected[sender, receiver, 0].all()
        return
    found = neighbor_list(positions, cell, periodic, cutoff)
    assert len(found) == expected.sum()
    assert (np.linalg.norm(edge_vectors(positions, cell, found), axis=1) < cutoff).all()


def test_a_frame_without_end_is_refused() -> None:
    for far in (1e8, 1e200):
        positions = np.array([[0.0, 0, 0], [1, 0, 0], [far, 0, 0]])
        with pytest.raises(InputError, match=r"spreads over .* too far to search neighbours within 6 Å"):
            neighbor_list(positions, None, False, 6.0)


def test_a_cell_that_is_none_in_angstrom_is_refused() -> None:
    cell = np.eye(3) * 0.7
    with pytest.raises(InputError, match=r"32 atoms in a cell of 0\.343 Å³ .* within 5 Å: is the cell"):
        check_crowding(32, cell, np.ones(3, bool), 5.0)
    check_crowding(32, cell, np.array([True, True, False]), 5.0)
    check_crowding(32, np.zeros((3, 3)), np.zeros(3, bool), 5.0)
    check_crowding(32, 10 * cell, np.ones(3, bool), 5.0)
