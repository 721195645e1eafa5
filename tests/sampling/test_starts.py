"""Starting configurations: densities, distances, bonds, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.geometry import get_distances

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.sampling import molecular_lattice, random_packing, separate


def distances(frame: Configuration) -> np.ndarray:
    """[atoms, atoms] Å by ASE's minimum image convention; infinite on the diagonal."""
    lengths = get_distances(frame.positions, cell=frame.cell, pbc=True)[1]
    np.fill_diagonal(lengths, np.inf)
    return lengths


def density(frame: Configuration) -> float:
    """g/cm³ from ASE's masses."""
    atoms = Atoms(numbers=frame.numbers, cell=frame.cell)
    return atoms.get_masses().sum() * 1.66053906660 / atoms.get_volume()


@pytest.mark.parametrize("molecules", [8, 16, 32, 64, 54, 20])
def test_a_lattice_of_molecules(molecules: int) -> None:
    frame = molecular_lattice("H", molecules, 0.3, bond_length=0.75, seed=2)
    assert len(frame) == 2 * molecules
    assert density(frame) == pytest.approx(0.3)
    lengths = distances(frame)
    bonded = lengths[np.arange(0, 2 * molecules, 2), np.arange(1, 2 * molecules, 2)]
    np.testing.assert_allclose(bonded, 0.75)
    if molecules != 20:  # the only count that no cubic lattice holds
        np.testing.assert_allclose(np.sort(lengths, axis=1)[:, 0], 0.75)
        assert np.sort(lengths, axis=1)[:, 1].min() > 1.0


def test_orientations_are_uniform_on_the_sphere() -> None:
    frame = molecular_lattice("N", 4000, 0.5, bond_length=1.1, seed=0)
    bonds = (frame.positions[1::2] - frame.positions[::2]) / 1.1
    np.testing.assert_allclose(bonds.T @ bonds / len(bonds), np.eye(3) / 3, atol=0.02)


def test_perturbations_have_the_asked_size() -> None:
    still = molecular_lattice("H", 2048, 0.5, bond_length=0.75, seed=1)
    moved = molecular_lattice("H", 2048, 0.5, bond_length=0.75, seed=1, displacement=0.07)
    assert (moved.positions - still.positions).std() == pytest.approx(0.07, rel=0.05)
    spread = molecular_lattice("H", 2048, 0.5, bond_length=0.75, seed=1, bond_spread=0.04)
    bonds = np.linalg.norm(spread.positions[1::2] - spread.positions[::2], axis=1)
    assert bonds.std() == pytest.approx(0.04, rel=0.1)


def test_a_packing_keeps_its_distance() -> None:
    frame = random_packing(["H"] * 60 + ["O"] * 20, 1.0, min_distance=1.0, seed=4)
    assert sorted(set(frame.numbers.tolist())) == [1, 8]
    assert density(frame) == pytest.approx(1.0)
    assert distances(frame).min() >= 1.0 - 1e-9


def test_separation_moves_only_what_overlaps() -> None:
    positions = np.array([[0.1, 5.0, 5.0], [9.9, 5.0, 5.0], [5.0, 5.0, 5.0]])
    apart = separate(positions, 10.0, 1.0)
    assert apart is not None
    np.testing.assert_array_equal(apart[2], positions[2])
    frame = Configuration(np.ones(3, dtype=np.int64), apart, 10 * np.eye(3), np.ones(3, dtype=bool))
    assert distances(frame)[0, 1] == pytest.approx(1.02)
    np.testing.assert_allclose(apart[:2, 1:], 5.0)


@pytest.mark.parametrize("make", ["lattice", "packing"])
def test_the_seed_decides(make: str) -> None:
    def start(seed: int) -> np.ndarray:
        if make == "lattice":
            return molecular_lattice("H", 16, 0.9, bond_length=0.75, seed=seed, displacement=0.1).positions
        return random_packing(["H"] * 32, 0.9, min_distance=0.8, seed=seed).positions

    np.testing.assert_array_equal(start(1), start(1))
    assert np.abs(start(1) - start(2)).max() > 0.1


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(InputError, match="min_distance"):
        random_packing(["H"] * 32, 1.0, min_distance=1.6, seed=0)
    with pytest.raises(InputError, match="density"):
        molecular_lattice("H", 8, -1.0, bond_length=0.75, seed=0)
