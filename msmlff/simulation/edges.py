"""Edges of many replicas that move: searched with a skin, used until an edge could have been missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from msmlff.data.neighbors import Neighbors
from msmlff.data.neighbors_device import neighbor_list_for
from msmlff.simulation.system import System

RUNAWAY = 100.0  # Å that no atom moves between two searches
COLLAPSE = 2.0  # no cell shrinks in a step by so much more than a list bears


@dataclass(frozen=True)
class Edges:
    """All edges below the cutoff and some up to cutoff + skin; see data.batch.Batch for the conventions.

    Attributes:
        sender, receiver: [edges] long, receivers ascending; within a receiver in the order of the lengths at
            the last search.
        shift: [edges, 3] float64.
        row_ptr: [atoms + 1] long.
        near: [pairs] long, the edges that may have become shorter than the shortest allowed distance.
    """

    sender: Tensor
    receiver: Tensor
    shift: Tensor
    row_ptr: Tensor
    near: Tensor


class ReplicaEdges:
    """Verlet lists, one a replica.

    A list found at positions x0 in the cell h0 is complete while g (cutoff + 2 u) <= cutoff + skin, where x0
    strained by h0^-1 h is at most u away from the present positions and g is the largest factor, not below 1,
    by which the inverse strain lengthens a vector.

    Args:
        cutoff: Å.
        skin: Å, > 0.
        min_distance: Å; ``shortest`` sees every pair closer than this.

    Attributes:
        searches: how often a list was searched.
        lost: [replicas] bool, at the last ``at``: a cell that is not finite or collapsed. Its edges are not
            to be trusted: the replica has failed.
    """

    def __init__(self, cutoff: float, skin: float, min_distance: float) -> None:
        self.cutoff, self.skin, self.min_distance = cutoff, skin, min_distance
        self.searches = 0
        self.edges: Edges | None = None

    def at(self, system: System) -> Edges:
        """Edges at the present positions; replicas whose list is out of date are searched again."""
        if self.edges is None:
            self._lists: list[Neighbors | None] = [None] * len(system)
            self._origin, self._origin_cell = system.positions.clone(), system.cell.clone()
            self.lost = torch.zeros(len(system), dtype=torch.bool, device=system.frame.device)
            self._search(system, range(len(system)))
        else:
            stale = self._stale(system)
            if bool(stale.any()):
                rows = stale.nonzero()[:, 0]
                moved = stale[system.frame]
                self._origin[moved] = system.positions[moved]
                self._origin_cell[rows] = system.cell[rows]
                self.edges = None  # should the search break off, the next one begins anew
                self._search(system, rows.tolist())
        assert self.edges is not None
        return self.edges

    def origins(self) -> tuple[Tensor, Tensor]:
        """[atoms, 3] and [replicas, 3, 3] Å: positions and cells of the last searches."""
        return self._origin, self._origin_cell

    def restore(self, system: System, origin: Tensor, origin_cell: Tensor) -> None:
        """Search again where another object searched last, so that edges have the same order."""
        self._lists = [None] * len(system)
        self._origin, self._origin_cell = origin.clone(), origin_cell.clone()
        self._search(system, range(len(system)))

    def keep(self, system: System, rows: Sequence[int]) -> None:
        """Go on with these replicas of ``system``, the one before, alone; their lists stay."""
        parts = system.by_replica(self._origin)
        device = self._origin.device
        self._lists = [self._lists[r] for r in rows]
        self._origin_cell = self._origin_cell[torch.tensor(list(rows), dtype=torch.long)]
        if len(rows) == 0:
            self._origin, self.edges = self._origin[:0], None
            return
        self._origin = torch.cat([parts[r] for r in rows]).to(device)
        self._join(np.array([len(system.frames[r]) for r in rows]))

    def shortest(self, system: System) -> Tensor:
        """[replicas] Å, the shortest pair below ``min_distance``; inf where there is none."""
        edges = self.edges
        assert edges is not None
        shortest = torch.full((len(system),), torch.inf, dtype=torch.float64, device=system.frame.device)
        if len(edges.near) == 0:
            return shortest
        length = self.lengths(system, edges.near)
        length = length.where(length < self.min_distance, torch.inf)
        return shortest.scatter_reduce(0, system.frame[edges.receiver[edges.near]], length, "amin")

    def lengths(self, system: System, chosen: Tensor) -> Tensor:
        """[chosen] Å of the edges with these numbers."""
        edges = self.edges
        assert edges is not None
        receiver = edges.receiver[chosen]
        vector = system.positions[receiver] - system.positions[edges.sender[chosen]]
        cell = system.cell[system.frame[receiver]]
        vector = vector + (edges.shift[chosen].unsqueeze(1) @ cell).squeeze(1)
        return torch.linalg.vector_norm(vector, dim=1)

    def _stale(self, system: System) -> Tensor:
        """[replicas] bool; also says which replicas are ``lost``."""
        origin = self._origin
        factor = torch.ones(len(system), dtype=origin.dtype, device=origin.device)
        self.lost = torch.zeros_like(factor, dtype=torch.bool)
        if not torch.equal(system.cell, self._origin_cell):
            finite = torch.isfinite(system.cell).all(dim=2).all(dim=1)
            cell = system.cell.where(finite.view(-1, 1, 1), self._origin_cell)
            strain = torch.linalg.lstsq(self._origin_cell, cell).solution
            strain = strain.where(system.volume_known.view(-1, 1, 1), torch.eye(3).to(strain))
            origin = (origin.unsqueeze(1) @ strain[system.frame]).squeeze(1)
            factor = (1.0 / torch.linalg.svdvals(strain)[:, -1]).clamp(min=1.0)  # of the inverse strain
            self.lost = ~finite | (factor * self.cutoff > COLLAPSE * (self.cutoff + self.skin))
        square = (system.positions - origin).square().sum(dim=1)
        most = torch.zeros(len(system), dtype=square.dtype, device=square.device)
        moved = most.scatter_reduce(0, system.frame, square, "amax").sqrt()
        # a replica that flies apart, or whose cell collapsed, is not searched again: the judgement after the
        # step takes it out
        late = factor * (self.cutoff + 2.0 * moved) > self.cutoff + self.skin
        return late & (moved < RUNAWAY) & ~self.lost

    def _search(self, system: System, rows: Sequence[int]) -> None:
        positions, cells = system.by_replica(self._origin), self._origin_cell.cpu()
        for r in rows:
            self._lists[r] = neighbor_list_for(
                system.frame.device,
                positions[r].numpy(),
                cells[r].numpy(),
                system.frames[r].pbc,
                self.cutoff + self.skin,
            )
            self.searches += 1
        self._join(np.array(system.counts))

    def _join(self, counts: np.ndarray) -> None:
        """The lists one after the other, as tensors."""
        lists = [n for n in self._lists if n is not None]
        first = np.concatenate([[0], np.cumsum(counts)])
        offset = np.repeat(first[:-1], [len(n) for n in lists])

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self._origin.device)

        sender = tensor(np.concatenate([n.sender for n in lists]) + offset)
        receiver = np.concatenate([n.receiver for n in lists]) + offset
        shift = tensor(np.concatenate([n.shift for n in lists]).astype(np.float64))
        row_ptr = np.zeros(first[-1] + 1, dtype=np.int64)
        np.cumsum(np.bincount(receiver, minlength=int(first[-1])), out=row_ptr[1:])
        received = tensor(receiver)
        vector = self._origin[received] - self._origin[sender]
        cell = torch.repeat_interleave(self._origin_cell, tensor(np.array([len(n) for n in lists])), dim=0)
        vector = vector + (shift.unsqueeze(1) @ cell).squeeze(1)
        length = torch.linalg.vector_norm(vector, dim=1)
        near = (length < self.min_distance + self.skin).nonzero()[:, 0]
        self.edges = Edges(sender, received, shift, tensor(row_ptr), near)
