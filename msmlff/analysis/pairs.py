"""The pairs of a frame as the observables use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.geometry import minkowski_reduce

from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import checked_geometry, edge_vectors, neighbor_list, vesin_pairs
from msmlff.errors import InputError


@dataclass(frozen=True)
class Pairs:
    """Directed pairs of one frame, receivers ascending and lengths ascending within a receiver.

    Attributes:
        receiver, sender: [pairs] int64.
        vector: [pairs, 3] Å, from sender to receiver.
        distance: [pairs] Å.
    """

    receiver: np.ndarray
    sender: np.ndarray
    vector: np.ndarray
    distance: np.ndarray

    def __len__(self) -> int:
        return len(self.distance)

    def where(self, kept: np.ndarray) -> Pairs:
        """The pairs marked in ``kept`` [pairs]."""
        return Pairs(self.receiver[kept], self.sender[kept], self.vector[kept], self.distance[kept])


def find_pairs(frame: Configuration, cutoff: float) -> Pairs:
    """All pairs below the cutoff (Å), each in both directions, periodic images as atoms of their own."""
    found = neighbor_list(frame.positions, frame.cell, frame.pbc, cutoff)
    vectors = edge_vectors(frame.positions, frame.cell, found)
    return Pairs(found.receiver, found.sender, vectors, np.linalg.norm(vectors, axis=1))


def pair_distances(frame: Configuration, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pair below the cutoff (Å) once, in no order: much cheaper than ``find_pairs``.

    Returns:
        (one atom [pairs], the other [pairs], distance [pairs] Å).
    """
    geometry = checked_geometry(frame.positions, frame.cell, frame.pbc, cutoff)
    first, second, distance = vesin_pairs(*geometry, cutoff, "ijd", full=False)
    return first, second, distance


def min_pair_distance(frames: Sequence[Configuration]) -> np.ndarray:
    """[frames] Å, shortest distance of two atoms or an atom and a periodic image; inf for a lone atom."""
    shortest = np.full(len(frames), np.inf)
    for i, frame in enumerate(frames):
        if len(frame) < 2 and not frame.pbc.any():
            continue
        # a search that finds any pair finds the shortest one; the first radius is about that of a dense solid
        cutoff, distance = 1.5, np.empty(0)
        while not len(distance):
            distance = find_pairs(frame, cutoff).distance
            cutoff *= 2.0
        shortest[i] = distance.min()
    return shortest


def image_radius(frames: Sequence[Configuration]) -> float:
    """Å, half the shortest lattice vector of all frames: no pair occurs twice below it.

    The shortest vector is that of the Minkowski-reduced cell, which a skewed cell's own vectors exceed.
    Infinite where nothing is periodic.
    """
    radius, known = np.inf, None
    for frame in frames:
        if not frame.pbc.any() or (known is not None and np.array_equal(frame.cell, known)):
            continue
        reduced, _ = minkowski_reduce(frame.cell, frame.pbc)
        radius = min(radius, 0.5 * float(np.linalg.norm(reduced[frame.pbc], axis=1).min()))
        known = frame.cell
    return radius


def require_cell(frame: Configuration, what: str) -> None:
    """Raises InputError for a frame that is not periodic in all directions."""
    if not frame.pbc.all() or frame.volume <= 0.0:
        raise InputError(
            f"{what}: {frame_name(frame)} is not periodic in all directions; give frames with a cell"
        )


def frame_name(frame: Configuration) -> str:
    """How a message calls a frame."""
    return f"frame {frame.source}" if frame.source else f"a frame of {len(frame)} atoms"
