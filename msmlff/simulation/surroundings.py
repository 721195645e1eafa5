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
    used = torch.zeros(len(positions), dtype=torch.bool, device=positions.device)
    used[:counted] = True
    used[sender] = True
    atoms = used.nonzero()[:, 0]
    by_network = depths[0][atoms]
    atoms = atoms[torch.argsort(by_network, stable=True)]
    shells = torch.bincount(by_network, minlength=reaches[0][0] + 1).cumsum(0)[: reaches[0][0] + 1]
    place = torch.empty(len(positions), dtype=torch.long, device=positions.device)
    place[atoms] = torch.arange(len(atoms), device=positions.device)
    receiver, by_length = place[receiver], torch.argsort(length)
    order = by_length[torch.argsort(receiver[by_length], stable=True)]
    sender, receiver = place[sender[order]], receiver[order]
    batch = Batch(
        positions=positions[atoms],
        species=species[atoms],
        frame=torch.zeros_like(atoms),
        atom_ptr=torch.tensor([0, len(atoms)], device=positions.device),
        cell=cell.unsqueeze(0),
        sender=sender,
        receiver=receiver,
        shift=positions.new_zeros(1, 3).expand(len(sender), 3),
        row_ptr=torch.searchsorted(receiver, torch.arange(len(atoms) + 1, device=positions.device)),
        shells=tuple(shells.tolist()),
    )
    return Surrounded(batch, atoms)


def _depth(hops: int, near: Tensor, sender: Tensor, receiver: Tensor, counted: int, atoms: int) -> Tensor:
    """[atoms] by how many of the ``near`` edges each reaches the counted atoms; hops + 1 where by more."""
    depth = torch.full((atoms,), hops + 1, device=sender.device)
    depth[:counted] = 0
    for step in range(1, hops + 1):
        reached = sender[near & (depth[receiver] == step - 1)]
        depth[reached] = depth[reached].clamp(max=step)
    return depth
