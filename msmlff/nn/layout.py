"""What models would otherwise read off a batch at each step, prepared where the batch is made.

How many edges lie below a cutoff and how many atoms are of a species decide shapes, so a GPU has to be waited
for where they are found on it, and no sequence of kernels can be captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.neighbors import index_type
from msmlff.data.padding import rung
from msmlff.nn.edges import Rows
from msmlff.nn.species import SpeciesGroups


@dataclass(frozen=True)
class Within:
    """The edges below a cutoff.

    Attributes:
        cutoff: Å.
        edge: [items] long, their numbers in the batch, ascending; of a padded batch some padding edges, too.
        rows: the same edges in rows.
    """

    cutoff: float
    edge: Tensor
    rows: Rows


@dataclass(frozen=True)
class Layout:
    """Shapes of a batch, and what they are found with.

    Attributes:
        by_cutoff: the edges below each cutoff a model asks for.
        groups: the atoms by species.
        volume: [frames] Å³.
    """

    by_cutoff: tuple[Within, ...]
    groups: SpeciesGroups
    volume: Tensor

    def within(self, cutoff: float) -> Within | None:
        """The edges below ``cutoff``; None where they were not prepared."""
        return next((w for w in self.by_cutoff if w.cutoff == cutoff), None)


def lay_out(batch: Batch, cutoffs: Sequence[float], num_species: int) -> Batch:
    """The batch with its layout.

    Args:
        batch: on the CPU; where it is padded, so are the edges below each cutoff.
        cutoffs: Å, those of the model's scales and pair terms.
        num_species: of the model.
    """
    length = _lengths(batch)
    layout = Layout(
        tuple(_within(batch, length, cutoff) for cutoff in sorted(set(cutoffs))),
        SpeciesGroups.build(batch.species, num_species).with_pointer(),
        torch.linalg.det(batch.cell).abs(),
    )
    return replace(batch, layout=layout)


def _lengths(batch: Batch) -> Tensor:
    """[edges] Å."""
    vector = batch.positions[batch.receiver] - batch.positions[batch.sender]
    edges = batch.row_ptr[batch.atom_ptr].diff().tolist()
    for cell, ours, shift in zip(batch.cell, vector.split(edges), batch.shift.split(edges), strict=True):
        ours.addmm_(shift, cell)
    return vector.square().sum(dim=1).sqrt()


def _within(batch: Batch, length: Tensor, cutoff: float) -> Within:
    edge = (length < cutoff).nonzero()[:, 0]
    if batch.real is not None:
        more = rung(len(edge) + 1) - len(edge)
        padding = torch.arange(more) * (batch.num_edges - batch.real.edges) // more
        edge = torch.cat([edge, batch.real.edges + padding])
    sender = batch.sender[edge]
    rows = Rows.build(sender, batch.receiver[edge], batch.num_atoms)
    # On 16-bit keys numpy sorts by radix.
    order = np.argsort(sender.numpy().astype(index_type(batch.num_atoms)), kind="stable")
    begin = torch.bincount(sender, minlength=batch.num_atoms).cumsum(0)
    senders = torch.from_numpy(order), torch.cat([begin.new_zeros(1), begin])
    return Within(cutoff, edge, replace(rows, senders=senders))


def edges_within(vectors: Tensor, batch: Batch, cutoff: float) -> Within:
    """The edges below ``cutoff`` Å by their vectors [edges, 3] Å, or as they were prepared."""
    prepared = batch.layout.within(cutoff) if batch.layout is not None else None
    if prepared is not None:
        return prepared
    edge = (vectors.detach().square().sum(dim=1).sqrt() < cutoff).nonzero()[:, 0]
    sender, receiver = batch.sender.index_select(0, edge), batch.receiver.index_select(0, edge)
    return Within(cutoff, edge, Rows.build(sender, receiver, batch.num_atoms))
