"""Frames and their neighbour lists packed into one Batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from msmlff.data.batch import Batch
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import Neighbors
from msmlff.errors import InputError


def collate(
    frames: Sequence[Configuration],
    neighbors: Sequence[Neighbors],
    atomic_numbers: Sequence[int],
    frame_ids: Sequence[int] | None = None,
) -> Batch:
    """Packs ``frames`` into a Batch on the CPU.

    Everything is float64, whatever the model's type: it casts edge vectors, not positions. A missing energy,
    force or stress is NaN, so losses mask it.

    Args:
        frames: at least one frame.
        neighbors: one list a frame, as made by ``neighbor_list``.
        atomic_numbers: the model's species, ascending; ``batch.species`` indexes it.
        frame_ids: index of each frame in its store (default: 0, 1, ...).

    Raises:
        InputError: no frames, lists of different length, or an element outside ``atomic_numbers``.
    """
    if len(frames) == 0 or len(frames) != len(neighbors):
        raise InputError(f"cannot batch {len(frames)} frames with {len(neighbors)} neighbour lists")
    counts = np.array([len(f) for f in frames], dtype=np.int64)
    edge_counts = [len(n) for n in neighbors]
    atom_ptr = np.concatenate([[0], np.cumsum(counts)])
    offset = np.repeat(atom_ptr[:-1], edge_counts)
    receiver = np.concatenate([n.receiver for n in neighbors]).astype(np.int64) + offset
    sender = np.concatenate([n.sender for n in neighbors]).astype(np.int64) + offset
    row_ptr = np.zeros(atom_ptr[-1] + 1, dtype=np.int64)
    np.cumsum(np.bincount(receiver, minlength=int(atom_ptr[-1])), out=row_ptr[1:])

    def real(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(torch.float64)

    return Batch(
        positions=real(np.concatenate([f.positions for f in frames])),
        species=torch.from_numpy(species_of(frames, atomic_numbers)),
        frame=torch.from_numpy(np.repeat(np.arange(len(frames)), counts)),
        atom_ptr=torch.from_numpy(atom_ptr),
        cell=real(np.stack([f.cell for f in frames])),
        sender=torch.from_numpy(sender),
        receiver=torch.from_numpy(receiver),
        shift=real(np.concatenate([n.shift for n in neighbors])),
        row_ptr=torch.from_numpy(row_ptr),
        energy=real(np.array([f.energy for f in frames])),
        forces=real(np.concatenate([_or_nan(f.forces, (len(f), 3)) for f in frames])),
        stress=real(np.stack([_or_nan(f.stress, (3, 3)) for f in frames])),
        weight=real(np.array([f.weight for f in frames])),
        frame_id=torch.from_numpy(
            np.arange(len(frames)) if frame_ids is None else np.asarray(frame_ids, dtype=np.int64)
        ),
    )


def species_of(frames: Sequence[Configuration], atomic_numbers: Sequence[int]) -> np.ndarray:
    """[atoms] int64, index of each atom's element among the model's.

    Raises:
        InputError: an element that the model does not know; the message names the frame.
    """
    numbers = np.concatenate([f.numbers for f in frames])
    table = np.full(max(int(numbers.max(initial=0)), *atomic_numbers) + 1, -1, dtype=np.int64)
    table[list(atomic_numbers)] = np.arange(len(atomic_numbers))
    species = table[numbers]
    if (species < 0).any():
        bad = next(f for f in frames if (table[f.numbers] < 0).any())
        unknown = sorted(set(bad.numbers.tolist()) - set(atomic_numbers))
        raise InputError(
            f"{bad.source or 'a frame'}: atomic numbers {unknown} are unknown to the model, which knows "
            f"{sorted(atomic_numbers)}"
        )
    return species


def _or_nan(label: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan) if label is None else label
