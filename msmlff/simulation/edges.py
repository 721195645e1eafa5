"""Edges of many replicas that move: searched with a margin, reused while no atom has left it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import Neighbors
from msmlff.data.neighbors_device import neighbor_list_for
from msmlff.errors import InputError


def atom_species(frames: Sequence[Configuration], atomic_numbers: Sequence[int]) -> Tensor:
    """[atoms] index of each atom's element among the model's; InputError for an element it does not know."""
    numbers = np.concatenate([f.numbers for f in frames])
    unknown = sorted(set(numbers.tolist()) - set(atomic_numbers))
    if unknown:
        raise InputError(
            f"atomic numbers {unknown} are unknown to the model, which knows {list(atomic_numbers)}"
        )
    return torch.from_numpy(np.searchsorted(np.asarray(sorted(atomic_numbers)), numbers))


@dataclass(frozen=True)
class Edges:
    """Edges below the cutoff at the present positions; see data.batch.Batch for the conventions.

    Attributes:
        sender, receiver: [edges] long, receivers ascending.
        shift: [edges, 3] float64.
        row_ptr: [atoms + 1] long.
        shortest: [replicas] Å, the shortest edge of each replica; inf where it has none.
    """

    sender: Tensor
    receiver: Tensor
    shift: Tensor
    row_ptr: Tensor
    shortest: Tensor


class ReplicaEdges:
    """Verlet lists: found within cutoff + skin; searched again once an atom of the replica moved skin / 2."""

    def __init__(self, cutoff: float, skin: float) -> None:
        self.cutoff, self.skin = cutoff, skin
        self.searches = 0

    def reset(self, frames: Sequence[Configuration], ptr: np.ndarray, device: torch.device) -> None:
        """Start afresh with these replicas; ``ptr`` [replicas + 1] bounds their atoms."""
        self._frames, self._ptr, self._device = list(frames), ptr, device
        self._lists: list[Neighbors | None] = [None] * len(frames)
        self._origin: Tensor | None = None

    def at(self, positions: Tensor, cell: Tensor, frame: Tensor, *, ordered: bool) -> Edges:
        """Edges below the cutoff at ``positions`` [atoms, 3].

        Args:
            positions: Å, unwrapped since the last ``reset``.
            cell: [replicas, 3, 3] Å.
            frame: [atoms] replica of each atom.
            ordered: sort each row by length; needed by models that take the short scale as a prefix of a row.
        """
        self._refresh(positions, frame)
        sender, receiver, shift = self._sender, self._receiver, self._shift
        vectors = positions[receiver] - positions[sender]
        edge_cell = cell[frame[receiver]]
        vectors = vectors + torch.einsum("ei,eij->ej", shift, edge_cell)
        length = torch.linalg.vector_norm(vectors, dim=1)
        keep = (length < self.cutoff).nonzero()[:, 0]
        if ordered:
            keep = keep[torch.argsort(length[keep], stable=True)]
            keep = keep[torch.argsort(receiver[keep], stable=True)]
        receiver, length = receiver[keep], length[keep]
        row_ptr = torch.zeros(len(positions) + 1, dtype=torch.long, device=positions.device)
        torch.cumsum(torch.bincount(receiver, minlength=len(positions)), dim=0, out=row_ptr[1:])
        shortest = torch.full((len(cell),), torch.inf, dtype=length.dtype, device=length.device)
        shortest = shortest.scatter_reduce(0, frame[receiver], length, "amin")
        return Edges(sender[keep], receiver, shift[keep], row_ptr, shortest)

    def _refresh(self, positions: Tensor, frame: Tensor) -> None:
        """Search again the replicas that need it and renew the flat arrays."""
        if self._origin is None:
            stale = list(range(len(self._frames)))
            self._origin = positions.clone()
        else:
            moved = ((positions - self._origin) ** 2).sum(dim=1) > (0.5 * self.skin) ** 2
            stale = torch.unique(frame[moved]).tolist()
        if not stale:
            return
        for k in stale:
            rows = slice(int(self._ptr[k]), int(self._ptr[k + 1]))
            f = self._frames[k]
            self._lists[k] = neighbor_list_for(
                positions.device, positions[rows].cpu().numpy(), f.cell, f.pbc, self.cutoff + self.skin
            )
            self._origin[rows] = positions[rows]
            self.searches += 1
        lists = [n for n in self._lists if n is not None]
        offset = np.repeat(self._ptr[:-1], [len(n) for n in lists])
        self._sender = torch.from_numpy(np.concatenate([n.sender for n in lists]) + offset).to(self._device)
        self._receiver = torch.from_numpy(np.concatenate([n.receiver for n in lists]) + offset).to(
            self._device
        )
        shift = np.concatenate([n.shift for n in lists]).astype(np.float64)
        self._shift = torch.from_numpy(shift).to(self._device)
