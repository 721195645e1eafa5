"""A configuration divided into blocks of space, and what lies around a block, periodic images included."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import checked_geometry

#: Å added to a margin, so that rounding leaves nothing out.
_ROUNDING = 1e-6
#: Å, about what is between neighbours: so much is an atom's, of a flat sheet or a straight chain, too.
_BOND = 2.0


class Space:
    """The atoms of a frame in coordinates along its lattice vectors.

    Args:
        frame: periodic in some, all or no directions; positions need not be wrapped.

    Raises:
        InputError: as ``neighbor_list``.
    """

    def __init__(self, frame: Configuration) -> None:
        positions, cell, self.periodic = checked_geometry(frame.positions, frame.cell, frame.pbc, 1.0)
        self.lattice = _completed(cell, self.periodic)
        inverse = np.linalg.inv(self.lattice)
        scaled = positions @ inverse
        wrapped = np.floor(scaled) * self.periodic
        self._scaled = scaled - wrapped
        self._positions = positions - wrapped @ self.lattice
        #: Å between the planes of each pair of lattice vectors.
        self.heights = 1.0 / np.linalg.norm(inverse, axis=0)

    def blocks(self, most: int) -> Iterator[np.ndarray]:
        """Indices of the atoms of each block: ``most`` or fewer, about as many in all, cut across the longest
        side again and again.
        """
        atoms = np.arange(len(self._scaled))
        yield from self._cut(atoms, max(1, -(-len(atoms) // most)))

    def _cut(self, atoms: np.ndarray, parts: int) -> Iterator[np.ndarray]:
        if parts == 1:
            yield atoms
            return
        sides = np.ptp(self._scaled[atoms], axis=0) * self.heights
        along = self._scaled[atoms, int(np.argmax(sides))]
        place = len(atoms) * (parts // 2) // parts
        order = np.argpartition(along, place)
        yield from self._cut(atoms[order[:place]], parts // 2)
        yield from self._cut(atoms[order[place:]], parts - parts // 2)

    def volume(self, atoms: np.ndarray) -> float:
        """Å³ of the parallelepiped that holds these atoms; no side is shorter than ``_BOND``."""
        sides = np.maximum(np.ptp(self._scaled[atoms], axis=0), _BOND / self.heights)
        return float(np.prod(sides) * abs(np.linalg.det(self.lattice)))

    def surrounded(self, atoms: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
        """Those atoms, then all others and all images that lie within ``margin`` Å of one, and some more.

        Returns:
            atoms: [n] which atom each is.
            positions: [n, 3] Å.
        """
        within = (margin + _ROUNDING) / self.heights
        low, high = self._scaled[atoms].min(axis=0) - within, self._scaled[atoms].max(axis=0) + within
        first = np.where(self.periodic, np.ceil(low - 1.0), 0.0).astype(int)
        last = np.where(self.periodic, np.floor(high), 0.0).astype(int)
        own = np.zeros(len(self._scaled), dtype=bool)
        own[atoms] = True
        found, positions = [atoms], [self._positions[atoms]]
        along_first = {
            s: self._inside(np.arange(len(own)), 0, s, low, high) for s in range(first[0], last[0] + 1)
        }
        for shift in product(*(range(a, b + 1) for a, b in zip(first, last, strict=True))):
            image = along_first[shift[0]]
            for axis in (1, 2):
                image = self._inside(image, axis, shift[axis], low, high)
            if not any(shift):
                image = image[~own[image]]
            found.append(image)
            positions.append(self._positions[image] + np.array(shift) @ self.lattice)
        return np.concatenate(found), np.concatenate(positions)

    def _inside(
        self, atoms: np.ndarray, axis: int, shift: int, low: np.ndarray, high: np.ndarray
    ) -> np.ndarray:
        """Those of ``atoms`` whose images by ``shift`` lie between low and high along an axis."""
        along = self._scaled[atoms, axis]
        return atoms[(along >= low[axis] - shift) & (along <= high[axis] - shift)]


def _completed(cell: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """The periodic lattice vectors, and unit vectors at right angles to them in the other directions."""
    lattice = np.array(cell, dtype=np.float64)
    if not periodic.all():
        lattice[~periodic] = (
            np.linalg.svd(cell[periodic])[2][periodic.sum() :] if periodic.any() else np.eye(3)
        )
    return lattice
