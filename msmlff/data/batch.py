"""A batch of frames as flat tensors: what every model takes and every loss reads."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass
class Batch:
    """Frames packed along the atom axis, edges in CSR order of their receiver; reals are float64.

    An edge carries a message from ``sender`` to ``receiver``; its vector is
    ``positions[receiver] - positions[sender] + shift @ cell[frame]`` (mace-torch's sign). Edges are sorted
    by receiver and, within one receiver, by length: the neighbours below a shorter cutoff are a prefix of
    each row.

    Attributes:
        positions: [atoms, 3] Å, need not be wrapped.
        species: [atoms] long, index into the model's ``atomic_numbers``.
        frame: [atoms] long, the frame each atom belongs to.
        atom_ptr: [frames + 1] long, atoms of frame g are ``atom_ptr[g]:atom_ptr[g + 1]``.
        cell: [frames, 3, 3] Å, rows are lattice vectors; zeros for non-periodic frames.
        sender: [edges] long.
        receiver: [edges] long, ascending.
        shift: [edges, 3] whole numbers of lattice vectors.
        row_ptr: [atoms + 1] long, edges received by atom i are ``row_ptr[i]:row_ptr[i + 1]``.
        energy: [frames] eV, NaN where unlabelled; None without labels. Same for the two below.
        forces: [atoms, 3] eV/Å.
        stress: [frames, 3, 3] eV/Å³.
        weight: [frames] weight in the loss.
        frame_id: [frames] long, index of each frame in its store.
    """

    positions: Tensor
    species: Tensor
    frame: Tensor
    atom_ptr: Tensor
    cell: Tensor
    sender: Tensor
    receiver: Tensor
    shift: Tensor
    row_ptr: Tensor
    energy: Tensor | None = None
    forces: Tensor | None = None
    stress: Tensor | None = None
    weight: Tensor | None = None
    frame_id: Tensor | None = None

    @property
    def num_frames(self) -> int:
        return self.cell.shape[0]

    @property
    def num_atoms(self) -> int:
        return self.positions.shape[0]

    @property
    def num_edges(self) -> int:
        return self.sender.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch with every tensor on ``device``."""
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory (called by torch's DataLoader)."""
        pinned = {
            f.name: value.pin_memory()
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **pinned)
