"""Edges of one frame from call to call: searched with a margin, reused while that margin holds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.neighbors_device import neighbor_list_for

#: Å, searched beyond what is needed: the search may round lengths in another way than ``SkinEdges`` does.
_ROUNDING = 1e-6


class SkinEdges:
    """Neighbour list of a frame that moves, exact at every call.

    Pairs are searched within cutoff + skin. At each call those beyond the cutoff are dropped and the rest are
    put in one order (by receiver, length, sender, shift), so that the edges, bit for bit, are those of a new
    search. The search is repeated when the frame's size or periodicity changes, or when a pair may have come
    in from outside: with F the strain of the cell since the search and u the displacements of the atoms
    beside it, positions = old positions F + u, that is so once

        (cutoff + 2 max |u|) ||F^-1|| > cutoff + skin.

    Args:
        cutoff: Å.
        skin: Å; 0 searches at every call in which anything moved.
        device: where the edges go.

    Attributes:
        searches: how often a list was searched.
    """

    def __init__(self, cutoff: float, skin: float, device: torch.device) -> None:
        self.cutoff, self.skin, self.device = cutoff, skin, device
        self.searches = 0
        self._positions = np.zeros((0, 3))
        self._cell, self._pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)

    def batch(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, species: Tensor) -> Batch:
        """A batch of this one frame with the edges below the cutoff.

        Args:
            positions: [atoms, 3] Å, need not be wrapped.
            cell: [3, 3] Å.
            pbc: [3] bool.
            species: [atoms] long, on the device.

        Raises:
            InputError: as ``msmlff.data.neighbors.neighbor_list``.
        """
        if not self._holds(positions, cell, pbc):
            self._search(positions, cell, pbc)
        x, box = (torch.from_numpy(np.array(a, dtype=np.float64)).to(self.device) for a in (positions, cell))
        length = self._lengths(x, box)
        keep = (length < self.cutoff).nonzero()[:, 0]
        keep = keep[torch.argsort(length[keep], stable=True)]
        keep = keep[torch.argsort(self._receiver[keep], stable=True)]
        receiver = self._receiver[keep]
        atoms = torch.arange(len(positions) + 1, device=self.device)
        return Batch(
            positions=x,
            species=species,
            frame=torch.zeros_like(species),
            atom_ptr=torch.tensor([0, len(positions)], device=self.device),
            cell=box.unsqueeze(0),
            sender=self._sender[keep],
            receiver=receiver,
            shift=self._shift[keep],
            row_ptr=torch.searchsorted(receiver, atoms),
        )

    def closest(self, batch: Batch) -> tuple[int, int, float]:
        """Two atoms that are nearest to each other and their distance in Å; inf where no pair is in reach."""
        if batch.num_edges == 0:
            return 0, 0, float("inf")
        first = batch.row_ptr[:-1][batch.row_ptr.diff() > 0]  # each row begins with its shortest edge
        sender, receiver = batch.sender[first], batch.receiver[first]
        length = _norm(batch.positions, sender, receiver, batch.shift[first], batch.cell[0])
        k = int(torch.argmin(length))
        return int(receiver[k]), int(sender[k]), float(length[k])

    def _holds(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
        """Whether every pair below the cutoff is among those found by the last search."""
        if positions.shape != self._positions.shape or not np.array_equal(pbc, self._pbc):
            return False
        if np.array_equal(positions, self._positions) and np.array_equal(cell, self._cell):
            return True
        strain = np.eye(3)
        if pbc.any():
            # the smallest change of space that takes the old periodic vectors to the new ones
            strain += np.linalg.pinv(self._cell[pbc]) @ (cell[pbc] - self._cell[pbc])
        stretch = np.linalg.svd(strain, compute_uv=False).min()
        moved = np.sqrt(((positions - self._positions @ strain) ** 2).sum(axis=1).max())
        return bool(self.cutoff + 2 * moved <= (self.cutoff + self.skin) * stretch)

    def _search(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
        reach = self.cutoff + self.skin + _ROUNDING
        found = neighbor_list_for(self.device, positions, cell, pbc, reach)
        # One order of pairs of equal length, whatever the search was.
        order = np.lexsort((*found.shift.T[::-1], found.sender, found.receiver))
        self._sender, self._receiver, self._shift = (
            torch.from_numpy(np.asarray(a[order], dtype=kind)).to(self.device)
            for a, kind in (
                (found.sender, np.int64), (found.receiver, np.int64), (found.shift, np.float64),
            )
        )  # fmt: skip
        self._positions, self._cell, self._pbc = positions.copy(), cell.copy(), pbc.copy()
        self.searches += 1

    def _lengths(self, positions: Tensor, cell: Tensor) -> Tensor:
        return _norm(positions, self._sender, self._receiver, self._shift, cell)


def _norm(positions: Tensor, sender: Tensor, receiver: Tensor, shift: Tensor, cell: Tensor) -> Tensor:
    """[edges] Å, element by element: a matrix product could round an edge by its place in the list."""
    vector = positions[receiver] - positions[sender]
    for axis in range(3):
        vector = vector + shift[:, axis, None] * cell[axis]
    square = vector * vector
    return (square[:, 0] + square[:, 1] + square[:, 2]).sqrt()
