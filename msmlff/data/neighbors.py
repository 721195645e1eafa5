"""Neighbour lists: every directed pair of atoms closer than a cutoff, in the order models expect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msmlff.errors import InputError

#: Neighbours of an atom; a cell in which it has more is no cell in Å.
MOST_NEIGHBORS = 20_000
#: Cells of vesin's grid; it makes larger ones where there would be more, by one factor in all directions.
_MOST_CELLS = 1e5
#: Å, up to which a search may reach farther than it has to.
_WIDEST = 6.0


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
            line, positions that are not finite, cutoff <= 0, atoms spread too far in one or two directions.
    """
    positions, cell, periodic = checked_geometry(positions, cell, pbc, cutoff)
    sender, receiver, shift, length = vesin_pairs(positions, cell, periodic, cutoff, "ijSd", threads=threads)
    # Two stable sorts: the second keeps the lengths ascending within each receiver. On 16-bit keys numpy
    # sorts by radix, which makes this faster than one lexsort.
    order = np.argsort(length, kind="stable")
    narrow = receiver.astype(index_type(len(positions)))
    order = order[np.argsort(narrow[order], kind="stable")]
    return Neighbors(sender[order].astype(np.int64), receiver[order].astype(np.int64), shift[order])


def vesin_pairs(
    positions: np.ndarray,
    cell: np.ndarray,
    periodic: np.ndarray,
    cutoff: float,
    quantities: str,
    *,
    full: bool = True,
    threads: int = 0,
) -> tuple[np.ndarray, ...]:
    """What vesin finds, in its order; the geometry is that of ``checked_geometry``.

    Args:
        positions, cell, periodic, cutoff: as ``checked_geometry`` gives them.
        quantities: vesin's letters; the last is d, the length.
        full: each pair in both directions.
        threads: 0: as vesin takes them.

    Raises:
        InputError: atoms spread too far in one or two directions.
    """
    import vesin  # it imports torch, which takes seconds; frames that are stored need no neighbours

    radius = _search_radius(positions, cell, periodic, cutoff)
    search = vesin.NeighborList(cutoff=radius, full_list=full, n_threads=threads)
    found: tuple[np.ndarray, ...] = tuple(search.compute(positions, cell, periodic, quantities=quantities))
    if radius == cutoff:
        return found
    close = found[-1] < cutoff
    return tuple(values[close] for values in found)


def _search_radius(positions: np.ndarray, cell: np.ndarray, periodic: np.ndarray, cutoff: float) -> float:
    """Å, the cutoff or more, with which vesin finds pairs.

    Its cells are as wide as the radius, unless there are too many of them: then it divides all three counts
    by one factor, and where a thin direction is left with less than one cell the process dies of a division
    by zero. A larger radius makes fewer cells.

    Raises:
        InputError: the radius would be much more than the cutoff.
    """
    sides = _sides(positions, cell, periodic)
    radius = float(cutoff)
    while True:
        cells = np.maximum(sides / radius, 1.0)
        with np.errstate(over="ignore"):
            shrink = np.cbrt(_MOST_CELLS / np.prod(cells))
        # whole numbers of cells come out of three roundings one after the other, each of a factor 2 at most
        if shrink > 1.05 or cells.min() * shrink >= 4.0:
            return radius
        if radius > max(2.0 * cutoff, _WIDEST):
            size = " x ".join(f"{side:.3g}" for side in sides)
            raise InputError(
                f"the frame spreads over {size} Å, too far to search neighbours within {cutoff:g} Å: is "
                "an atom lost in space, or are positions and cell not in Å?"
            )
        radius *= 1.1


def _sides(positions: np.ndarray, cell: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """[3] Å, of what is searched: distances of the faces where it is periodic, spread of the atoms beside."""
    vectors = cell[periodic]
    heights = 1.0 / np.linalg.norm(np.linalg.pinv(vectors), axis=0) if len(vectors) else np.zeros(0)
    free = np.linalg.svd(vectors)[2][len(vectors) :] if len(vectors) else np.eye(3)
    along = positions @ free.T
    return np.concatenate([heights, np.ptp(along, axis=0) if len(along) else np.zeros(len(free))])


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


def check_crowding(atoms: int, cell: np.ndarray, pbc: np.ndarray, reach: float) -> None:
    """Whether a search of neighbours will come to an end with this computer's memory.

    Args:
        atoms: their number.
        cell: [3, 3] Å; one that is not periodic in all directions, or flat, passes.
        pbc: [3] bool.
        reach: Å, up to which neighbours are searched.

    Raises:
        InputError: an atom would have more than ``MOST_NEIGHBORS``.
    """
    if not np.all(pbc) or is_flat(cell, pbc):
        return
    volume = abs(float(np.linalg.det(cell)))
    if atoms * 4.0 / 3.0 * np.pi * reach**3 > MOST_NEIGHBORS * volume:
        raise InputError(
            f"{atoms} atoms in a cell of {volume:.3g} Å³ would have more than {MOST_NEIGHBORS} neighbours "
            f"each within {reach:g} Å: is the cell written in Å?"
        )


def is_flat(cell: np.ndarray, pbc: np.ndarray) -> bool:
    """Whether the periodic lattice vectors depend linearly on each other (to one part in a million)."""
    vectors = np.asarray(cell, np.float64)[np.asarray(pbc, bool)]
    lengths = np.linalg.norm(vectors, axis=1)
    if not lengths.all():
        return True
    return len(vectors) > 0 and float(np.linalg.svd(vectors / lengths[:, None])[1].min()) < 1e-6
