"""A batch of frames as flat tensors: what every model takes and every loss reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from msmlff.nn.layout import Layout


@dataclass(frozen=True)
class BatchSize:
    """How much a batch holds."""

    frames: int
    atoms: int
    edges: int


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
        frame_id: [frames] long, index of each frame in its store; -1: padding.
        shells: of a part of one frame with its surroundings: how many atoms lie within 0, 1, 2, .. messages
            of the atoms whose energies count. Atoms are in this order, so the first ``shells[0]`` count; the
            others are there because those depend on them. None: all count.
        real: what of it is no padding, which comes last (``data.padding``); None: all.
        layout: what models would otherwise read off the batch at each step.
        exchange: of a domain of a distributed system, whose own atoms count and come first, and whose others
            are ghosts of those of all domains: brings features [counted, ...] to all atoms [atoms, ...], and
            their gradients back. Edges are those that the counted atoms receive.
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
    shells: tuple[int, ...] | None = None
    real: BatchSize | None = None
    layout: Layout | None = None
    exchange: Callable[[Tensor], Tensor] | None = None

    @property
    def size(self) -> BatchSize:
        """What it holds, padding left out."""
        return self.real or BatchSize(self.num_frames, self.num_atoms, self.num_edges)

    @property
    def num_counted(self) -> int:
        """Atoms whose energies count: the first ones."""
        return self.num_atoms if self.shells is None else self.shells[0]

    @property
    def num_frames(self) -> int:
        return self.cell.shape[0]

    @property
    def num_atoms(self) -> int:
        return self.positions.shape[0]

    @property
    def num_edges(self) -> int:
        return self.sender.shape[0]

    def frames(self, first: int, last: int) -> Batch:
        """The frames ``first`` to ``last`` - 1, without labels; of a batch of whole frames, not padded."""
        a, b = int(self.atom_ptr[first]), int(self.atom_ptr[last])
        edges = slice(int(self.row_ptr[a]), int(self.row_ptr[b]))
        return Batch(
            positions=self.positions[a:b],
            species=self.species[a:b],
            frame=self.frame[a:b] - first,
            atom_ptr=self.atom_ptr[first : last + 1] - a,
            cell=self.cell[first:last],
            sender=self.sender[edges] - a,
            receiver=self.receiver[edges] - a,
            shift=self.shift[edges],
            row_ptr=self.row_ptr[a : b + 1] - edges.start,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch with every tensor on ``device``."""
        moved: Batch = map_tensors(self, lambda t: t.to(device, non_blocking=non_blocking))
        return moved

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory (called by torch's DataLoader)."""
        pinned: Batch = map_tensors(self, Tensor.pin_memory)
        return pinned


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with ``function`` applied to its tensors, those of dataclasses and tuples inside it, too."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(part, function) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)}
        )
    return value
