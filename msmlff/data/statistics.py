"""Numbers of a training set that a model is initialised with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import Neighbors, edge_vectors


@dataclass(frozen=True)
class Statistics:
    """Plain numbers, so they travel in a model file.

    Attributes:
        neighbors: mean number of neighbours per atom below each cutoff, in the order of the cutoffs.
        shift: eV, mean interaction energy (energy minus E0s) per atom, for each species in ascending order of
            atomic number. Where compositions vary it is the least-squares fit closest to the common mean.
        scale: eV/Å, root mean square of the force components; without forces, the standard deviation of the
            interaction energy per atom; 1 if there is neither.
    """

    neighbors: tuple[float, ...]
    shift: tuple[float, ...]
    scale: float

    def to_dict(self) -> dict[str, Any]:
        """The statistics as a JSON-able dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Statistics:
        """The inverse of ``to_dict``."""
        return cls(tuple(data["neighbors"]), tuple(data["shift"]), float(data["scale"]))


def dataset_statistics(
    frames: Sequence[Configuration],
    neighbors: Sequence[Neighbors],
    cutoffs: Sequence[float],
    e0s: Mapping[int, float],
    max_neighbor_frames: int = 500,
) -> Statistics:
    """Statistics of labelled frames, in float64.

    Args:
        frames: the training frames.
        neighbors: their lists at the longest cutoff or beyond.
        cutoffs: Å, one a scale.
        e0s: eV per atomic number.
        max_neighbor_frames: neighbours are counted in so many frames, evenly spread over the set.
    """
    every = max(1, -(-len(frames) // max_neighbor_frames))
    counts, atoms = np.zeros(len(cutoffs)), 0
    for i in range(0, len(frames), every):
        frame = frames[i]
        length = np.linalg.norm(edge_vectors(frame.positions, frame.cell, neighbors[i]), axis=1)
        counts += [(length < cutoff).sum() for cutoff in cutoffs]
        atoms += len(frame)
    per_atom, shift, force_rms = _energies_and_forces(frames, e0s)
    scale = force_rms if force_rms > 0 else float(np.std(per_atom)) if len(per_atom) > 1 else 0.0
    return Statistics(
        neighbors=tuple(float(c) for c in counts / max(atoms, 1)),
        shift=tuple(float(s) for s in shift),
        scale=scale if scale > 0 else 1.0,
    )


def _energies_and_forces(
    frames: Sequence[Configuration], e0s: Mapping[int, float]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Interaction energy per atom of each labelled frame, the shifts, the RMS force component."""
    species = np.array(sorted(e0s))
    reference = np.array([e0s[z] for z in species])
    composition, energies, squares, components = [], [], 0.0, 0
    for i in range(len(frames)):
        frame = frames[i]
        if frame.forces is not None:
            known = frame.forces[np.isfinite(frame.forces)]
            squares += float(known @ known)
            components += known.size
        if np.isfinite(frame.energy):
            count = (frame.numbers[:, None] == species).sum(axis=0)
            composition.append(count / len(frame))
            energies.append((frame.energy - count @ reference) / len(frame))
    per_atom = np.array(energies)
    force_rms = float(np.sqrt(squares / components)) if components else 0.0
    if not energies:
        return per_atom, np.zeros(len(species)), force_rms
    mean = per_atom.mean()
    deviation = np.linalg.lstsq(np.array(composition), per_atom - mean, rcond=1e-8)[0]
    return per_atom, mean + deviation, force_rms
