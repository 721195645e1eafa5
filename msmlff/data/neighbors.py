"""Neighbour lists: every directed pair of atoms closer than a cutoff, in the order models expect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msmlff.errors import InputError


@dataclass(frozen=True)
class Neighbors:
    """Directed edges of one frame, sorted by receiver and, within a receiver, by length.

    The vector of an edge is ``positions[receiver] - positions[sender] + shift @ cell``. Every pair occurs in
    both directions; an atom neighbours its own images in small cells. The number types may be narrow
    (cached lists are int16 and int8): widen before doing arithmetic on them.

    Attributes:
        sender: [edges] whole numbers, index of the atom that sends.
        receiver: [edges] whole numbers, index of the atom that receives, ascending.
        shift: [edges, 3] whole numbers of lattice vectors.
    """

    sender: np.ndarray
    receiver: np.ndarray
    shift: np.ndarray

    def __len__(self) -> int:
        return len(self.sender)


def neighbor_list(
    positions: np.ndarray, cell: np.ndarray | None, pbc: np.ndarray | bool, cutoff: float, threads: int = 1
) -> Neighbors:
    """All directed pairs closer than ``cutoff``, found by vesin's cell list.

    Args:
        positions: [atoms, 3] Å; need not be wrapped into the cell.
        cell: [3, 3] Å, rows are lattice vectors; None or zeros where nothing is periodic.
        pbc: [3] bool or one bool for all directions.
        cutoff: Å, > 0.
        threads: threads of the search; the result does not depend on it.

    Raises:
        InputError: a periodic direction without a lattice vector, periodic lattice vectors in one plane or
            line, positions that are not finite, cutoff <= 0.
    """
    import vesin  # it imports torch, which takes seconds; frames that are stored need no neighbours

    positions, cell, periodic = checked_geometry(positions, cell, pbc, cutoff)
    search = vesin.NeighborList(cutoff=float(cutoff), full_list=True, n_threads=threads)
    sender, receiver, shift, length = search.compute(positions, cell, periodic, quantities="ijSd")
    # Two stable sorts: the second keeps the lengths ascending within each receiver. On 16-bit keys numpy
    # sorts by radix, which makes this faster than one lexsort.
    order = np.argsort(length, kind="stable")
    narrow = receiver.astype(index_type(len(positions)))
    order = order[np.argsort(narrow[order], kind="stable")]
    return Neighbors(sender[order].astype(np.int64), receiver[order].astype(np.int64), shift[order])


def edge_vectors(positions: np.ndarray, cell: np.ndarray, neighbors: Neighbors) -> np.ndarray:
    """Vectors of the edges in Å: [edges, 3], from sender to receiver."""
    shift = neighbors.shift.astype(np.float64) @ cell
    return positions[neighbors.receiver] - positions[neighbors.sender] + shift


def minimum_image(steps: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Displacements [atoms, 3] with whole lattice vectors taken out; exact where they are short."""
    periodic = cell[np.asarray(pbc, bool)]
    return np.asarray(steps - np.round(steps @ np.linalg.pinv(periodic)) @ periodic)


def index_type(count: int) -> type[np.signedinteger]:
    """The narrowest signed type that can index ``count`` things."""
    if count <= np.iinfo(np.int16).max:
        return np.int16
    return np.int32 if count <= np.iinfo(np.int32).max else np.int64


def checked_geometry(
    positions: np.ndarray, cell: np.ndarray | None, pbc: np.ndarray | bool, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, cell and periodic directions ready for a search; raises as ``neighbor_list`` does."""
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise InputError(f"positions have shape {positions.shape}; they must be [atoms, 3]")
    if not np.isfinite(positions).all():
        raise InputError("positions hold NaN or infinite values: the frame cannot be used")
    if not cutoff > 0:
        raise InputError(f"the cutoff is {cutoff}; it must be a positive length in Å")
    periodic = np.ascontiguousarray(np.broadcast_to(np.asarray(pbc, dtype=bool), (3,)))
    cell = np.zeros((3, 3)) if cell is None else np.ascontiguousarray(cell, dtype=np.float64)
    missing = periodic & (np.abs(cell).sum(axis=1) == 0)
    if missing.any():
        axes = ", ".join("abc"[i] for i in np.flatnonzero(missing))
        raise InputError(
            f"the frame is periodic along {axes} but has no such lattice vector: set the cell or pbc"
        )
    if is_flat(cell, periodic):
        raise InputError("the frame is periodic but its lattice vectors span no volume: set the cell or pbc")
    return positions, cell, periodic


def is_flat(cell: np.ndarray, pbc: np.ndarray) -> bool:
    """Whether the periodic lattice vectors depend linearly on each other (to one part in a million)."""
    vectors = np.asarray(cell, np.float64)[np.asarray(pbc, bool)]
    lengths = np.linalg.norm(vectors, axis=1)
    if not lengths.all():
        return True
    return len(vectors) > 0 and float(np.linalg.svd(vectors / lengths[:, None])[1].min()) < 1e-6
