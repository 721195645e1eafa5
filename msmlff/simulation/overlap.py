"""Atoms that overlap: found by the sizes of their elements, and pushed apart without a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from msmlff.data.neighbors import Neighbors, check_crowding, edge_vectors, neighbor_list
from msmlff.errors import InputError

#: Of the sum of two covalent radii. No two atoms of molecules or solids are closer, and models know nothing
#: of what is there; and no structure that came to rest has less than the second.
OVERLAP, COLLAPSED = 0.6, 0.5
#: So far the atoms that overlapped are pushed from all others, and those from each other: what is first found
#: room for.
_APART = ((0.95, 0.88), (0.85, 0.8), (0.75, 0.7))
_ROUNDS, _STEP = 200, 0.2  # of pushing, and Å that an atom moves in one


@dataclass(frozen=True)
class Closest:
    """The pair that is closest for its elements.

    Attributes:
        atoms: one, where it is an image of itself.
        distance: Å.
        ratio: of the distance to the sum of the covalent radii; inf where no pair is below what was asked.
    """

    atoms: tuple[int, ...]
    distance: float
    ratio: float

    def named(self, atoms: Atoms) -> str:
        """In words."""
        names = " and ".join(f"{chemical_symbols[atoms.numbers[i]]} {i}" for i in self.atoms)
        who = f"atoms {names}" if len(self.atoms) == 2 else f"{names} and its own image"
        return f"{who} are {self.distance:.2g} Å apart"


def closest(atoms: Atoms, below: float) -> Closest:
    """The closest pair among those under ``below`` times the sum of their covalent radii.

    Raises:
        InputError: as ``neighbor_list``; a cell so small that it is none in Å.
    """
    found, _, length, reach = _pairs(atoms, below)
    ratio = length / reach
    if not len(ratio) or ratio.min() >= below:
        return Closest((), float("inf"), float("inf"))
    worst = int(np.argmin(ratio))
    pair = {int(found.receiver[worst]), int(found.sender[worst])}
    return Closest(tuple(sorted(pair)), float(length[worst]), float(ratio[worst]))


def push_apart(atoms: Atoms) -> None:
    """Move atoms that overlap, and those they meet, until no two do.

    Each goes along the sum of what its neighbours push, at most 0.2 Å at a time; atoms on one point go in
    random directions, the same at every call. Constraints hold; images of an atom itself are left alone.

    Raises:
        InputError: there is no room; the atoms are then as they were.
    """
    before = atoms.get_positions()
    found, _, length, reach = _pairs(atoms, OVERLAP)
    bad = np.zeros(len(atoms), dtype=bool)
    bad[found.receiver[length < OVERLAP * reach]] = True
    if not bad.any():
        return
    for apart, others in _APART:
        rng = np.random.default_rng(0)
        for _ in range(_ROUNDS):
            moves = _pushes(atoms, np.where(bad, apart, others), rng)
            if moves is None:
                return
            atoms.set_positions(atoms.positions + moves)
        atoms.set_positions(before)
    raise InputError(
        f"{closest(atoms, OVERLAP).named(atoms)}: they overlap, and there is no room to push them apart; are "
        "cell and positions written in Å?"
    )


def _pushes(atoms: Atoms, apart: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """[atoms, 3] Å, the moves of a round; None where no two atoms overlap any more.

    Args:
        atoms: as they are now.
        apart: [atoms], how far each is to be from others, in sums of covalent radii; the larger counts.
        rng: for atoms on one point.
    """
    found, vectors, length, reach = _pairs(atoms, float(apart.max()))
    missing = np.maximum(apart[found.receiver], apart[found.sender]) * reach - length
    push = (missing > 0.01) & (found.sender != found.receiver)
    if not push.any():
        return None
    receiver, sender, vectors, length = (a[push] for a in (found.receiver, found.sender, vectors, length))
    random = rng.normal(size=(len(atoms), 3))
    direction = np.where(length[:, None] > 1e-6, vectors, random[receiver] - random[sender])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    moves = np.zeros((len(atoms), 3))
    np.add.at(moves, receiver, 0.5 * missing[push, None] * direction)
    long = np.maximum(np.linalg.norm(moves, axis=1) / _STEP, 1.0)
    return np.asarray(moves / long[:, None])


def _pairs(atoms: Atoms, below: float) -> tuple[Neighbors, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs that may be under ``below``: the list, vectors, lengths, sums of covalent radii; all in Å."""
    radii = covalent_radii[atoms.numbers]
    cutoff = 2.0 * below * float(radii.max(initial=0.1))
    check_crowding(len(atoms), atoms.cell.array, atoms.pbc, max(cutoff, 6.0))
    found = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    vectors = edge_vectors(atoms.positions, atoms.cell.array, found)
    length = np.linalg.norm(vectors, axis=1)
    return found, vectors, length, radii[found.receiver] + radii[found.sender]
