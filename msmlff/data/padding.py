"""Batches padded to few sizes, so that what was compiled or captured for one batch serves others.

Padding comes last: frames without labels and with no weight, all padding atoms in the last of them. The cell
of a padding frame is so large that a padding edge, from an atom to its own image, is beyond every cutoff:
nothing depends on it, and its vector is none of length zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from msmlff.data.batch import Batch, BatchSize
from msmlff.errors import InputError

#: Å, beyond any cutoff.
_CELL = 1000.0
#: The first rungs of the ladder of sizes are so far apart, later ones an eighth of the size at most.
_STEP = 4


def rung(size: int) -> int:
    """The least size of the ladder that holds ``size``: 4, 8, .. 32, 36, .. 64, 72, .. 128, 144, ..

    So a size grows by an eighth at most, or by 3.
    """
    step = max(_STEP, 1 << max(0, (size - 1).bit_length() - 4))
    return -(-size // step) * step


def padded_size(batch: Batch, num_species: int) -> tuple[int, tuple[int, ...], int]:
    """Frames, atoms of each species and edges to pad ``batch`` to: one more of each at least.

    Frames cost nothing: a power of two.
    """
    counts = torch.bincount(batch.species, minlength=num_species).tolist()
    counts[-1] += 1
    frames = 1 << batch.num_frames.bit_length()
    return frames, tuple(rung(max(1, n)) for n in counts), rung(batch.num_edges + 1)


def pad(batch: Batch, frames: int, atoms: Sequence[int], edges: int) -> Batch:
    """The batch with padding at the end; real frames, atoms and edges keep their numbers.

    Args:
        batch: on the CPU, without padding or layout.
        frames: in the end, one more than there are at least.
        atoms: of each species in the end; one more in all than there are at least.
        edges: in the end.

    Raises:
        InputError: the batch does not fit.
    """
    counts = torch.bincount(batch.species, minlength=len(atoms)).tolist()
    more = [want - have for want, have in zip(atoms, counts, strict=True)]
    size = BatchSize(frames - batch.num_frames, sum(more), edges - batch.num_edges)
    if size.frames < 1 or size.atoms < 1 or min(more) < 0 or size.edges < 0:
        raise InputError(
            f"{batch.size} with {counts} atoms of each species cannot be padded to {frames} frames, "
            f"{list(atoms)} atoms and {edges} edges: give one frame and one atom more than it has, or more"
        )
    # evenly over the padding atoms: a kernel that sums row by row waits for its longest row
    image = batch.num_atoms + torch.arange(size.edges) * size.atoms // max(1, size.edges)
    rows = torch.bincount(image - batch.num_atoms, minlength=size.atoms).cumsum(0) + batch.num_edges
    end = batch.num_atoms + size.atoms
    nothing = torch.tensor([batch.num_atoms] * (size.frames - 1) + [end])
    cell = torch.eye(3, dtype=torch.float64) * _CELL
    shift = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    return replace(
        batch,
        positions=_longer(batch.positions, size.atoms, 0.0),
        species=torch.cat([batch.species, torch.arange(len(atoms)).repeat_interleave(torch.tensor(more))]),
        frame=_longer(batch.frame, size.atoms, frames - 1),
        atom_ptr=torch.cat([batch.atom_ptr, nothing]),
        cell=torch.cat([batch.cell, cell.expand(size.frames, 3, 3)]),
        sender=torch.cat([batch.sender, image]),
        receiver=torch.cat([batch.receiver, image]),
        shift=torch.cat([batch.shift, shift.expand(size.edges, 3)]),
        row_ptr=torch.cat([batch.row_ptr, rows]),
        energy=_longer(batch.energy, size.frames, torch.nan),
        forces=_longer(batch.forces, size.atoms, torch.nan),
        stress=_longer(batch.stress, size.frames, torch.nan),
        weight=_longer(batch.weight, size.frames, 0.0),
        frame_id=_longer(batch.frame_id, size.frames, -1),
        real=batch.size,
    )


def unpadded(batch: Batch) -> Batch:
    """The batch without its padding, and without a layout."""
    if batch.real is None:
        return replace(batch, layout=None)
    frames, atoms, edges = batch.real.frames, batch.real.atoms, batch.real.edges
    of = {"frame_id": frames, "weight": frames, "energy": frames, "stress": frames, "cell": frames,
          "atom_ptr": frames + 1, "row_ptr": atoms + 1, "positions": atoms, "species": atoms, "frame": atoms,
          "forces": atoms, "sender": edges, "receiver": edges, "shift": edges}  # fmt: skip
    cut: dict[str, Any] = {
        name: None if (t := getattr(batch, name)) is None else t[:count] for name, count in of.items()
    }
    return replace(batch, **cut, real=None, layout=None)


def _longer(values: Tensor | None, count: int, fill: float) -> Any:
    """``count`` entries more, all ``fill``; None for None."""
    if values is None:
        return None
    return torch.cat([values, values.new_full((count, *values.shape[1:]), fill)])
