"""A batch of some atoms of a large system, with the others that their energies depend on around them.

What energies of atoms depend on is found along the edges: a network of L layers needs the edges that the
atoms receive, those that the senders of these receive, and so on L times; a pair term likewise by its own
cutoff. All other edges are left out. As the derivatives of these energies are taken by all positions of the
batch, the parts of a system add up to its forces and its stress.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.neighbors_device import free_pairs


@dataclass(frozen=True)
class Surrounded:
    """A batch whose ``shells`` say what its atoms are there for.

    Attributes:
        batch: of one frame.
        atoms: [atoms of the batch] long, which of the given atoms each is; the counted ones come first.
    """

    batch: Batch
    atoms: Tensor


def surrounded_batch(
    reaches: Sequence[tuple[int, float]], positions: Tensor, species: Tensor, counted: int, cell: Tensor
) -> Surrounded:
    """The batch of the first ``counted`` atoms.

    Args:
        reaches: of the model (``ForceField.reaches``).
        positions: [atoms, 3] Å, float64: those that count, then all that lie within the model's receptive
            field of them (more do no harm), periodic images as atoms of their own.
        species: [atoms] long, as ``Batch.species``.
        counted: atoms whose energies count.
        cell: [3, 3] Å, of the whole system: its volume is that of the stress. Zeros where there is none.
    """
    sender, receiver, length = free_pairs(positions, max(cutoff for _, cutoff in reaches))
    depths = [_depth(h, length < c, sender, receiver, counted, len(positions)) for h, c in reaches]
    needed = torch.zeros_like(length, dtype=torch.bool)
    for depth, (hops, cutoff) in zip(depths, reaches, strict=True):
        needed |= (depth[receiver] < hops) & (length < cutoff)
    sender, receiver, length = sender[needed], receiver[needed], length[needed]
    order = torch.argsort(length)
    whole = Batch(
        positions=positions,
        species=species,
        frame=torch.zeros_like(species),
        atom_ptr=torch.tensor([0, len(positions)], device=positions.device),
        cell=cell.unsqueeze(0),
        sender=sender[order],
        receiver=receiver[order],
        shift=positions.new_zeros(1, 3).expand(len(sender), 3),
        row_ptr=sender.new_empty(0),
    )
    everything = torch.arange(len(sender), device=positions.device)
    first = torch.arange(counted, device=positions.device)
    return _part(whole, everything, first, depths[0], reaches[0][0])


def piece_of(reaches: Sequence[tuple[int, float]], whole: Batch, block: Tensor) -> Surrounded:
    """The batch of some atoms of a frame whose edges are known: those of its edges that they need.

    Args:
        reaches: of the model.
        whole: of one frame, periodic by the shifts of its edges; these reach the largest cutoff or beyond.
        block: [counted] long, the atoms whose energies count.
    """
    found, network = [], torch.empty(0)
    for number, (hops, cutoff) in enumerate(reaches):
        depth = torch.full_like(whole.species, hops + 1)
        depth[block] = 0
        front = block
        for step in range(1, hops + 1):
            edges = _received(whole.row_ptr, front)
            edges = edges[_lengths(whole, edges) < cutoff]
            found.append(edges)
            reached = whole.sender[edges]
            front = reached[depth[reached] > step].unique()
            depth[front] = step
        network = depth if number == 0 else network
    return _part(whole, torch.cat(found).unique(), block, network, reaches[0][0])


def _part(whole: Batch, edges: Tensor, block: Tensor, depth: Tensor, hops: int) -> Surrounded:
    """Some edges of a frame, in the order of their receivers, and the atoms of the block and of these;
    ``depth`` [atoms] in messages of the network."""
    sender, receiver = whole.sender[edges], whole.receiver[edges]
    used = torch.zeros(whole.num_atoms, dtype=torch.bool, device=depth.device)
    used[block] = True
    used[sender] = True
    atoms = used.nonzero()[:, 0]
    by_network = depth[atoms]
    atoms = atoms[torch.argsort(by_network, stable=True)]
    shells = torch.bincount(by_network, minlength=hops + 1).cumsum(0)[: hops + 1]
    place = torch.empty_like(depth)
    place[atoms] = torch.arange(len(atoms), device=depth.device)
    order = torch.argsort(place[receiver], stable=True)
    receiver = place[receiver[order]]
    batch = Batch(
        positions=whole.positions[atoms],
        species=whole.species[atoms],
        frame=torch.zeros_like(atoms),
        atom_ptr=torch.tensor([0, len(atoms)], device=depth.device),
        cell=whole.cell,
        sender=place[sender[order]],
        receiver=receiver,
        shift=whole.shift[edges[order]],
        row_ptr=torch.searchsorted(receiver, torch.arange(len(atoms) + 1, device=depth.device)),
        shells=tuple(shells.tolist()),
    )
    return Surrounded(batch, atoms)


def _received(row_ptr: Tensor, atoms: Tensor) -> Tensor:
    """[edges] long, the edges that these atoms receive."""
    first = row_ptr[atoms]
    count = row_ptr[atoms + 1] - first
    before = count.cumsum(0) - count
    total = int(count.sum())
    within = torch.arange(total, device=row_ptr.device)
    return within + torch.repeat_interleave(first - before, count, output_size=total)


def _lengths(whole: Batch, edges: Tensor) -> Tensor:
    """[edges] Å."""
    difference = whole.positions[whole.receiver[edges]] - whole.positions[whole.sender[edges]]
    lengths: Tensor = torch.linalg.vector_norm(difference + whole.shift[edges] @ whole.cell[0], dim=1)
    return lengths


def _depth(hops: int, near: Tensor, sender: Tensor, receiver: Tensor, counted: int, atoms: int) -> Tensor:
    """[atoms] by how many of the ``near`` edges each reaches the counted atoms; hops + 1 where by more."""
    depth = torch.full((atoms,), hops + 1, device=sender.device)
    depth[:counted] = 0
    for step in range(1, hops + 1):
        reached = sender[near & (depth[receiver] == step - 1)]
        depth[reached] = depth[reached].clamp(max=step)
    return depth
