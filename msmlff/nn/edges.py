"""The edges of one scale, laid out as the operations' backend reads them: sorted rows, or padded blocks.

In blocks, rows of similar length are padded to rectangles, so that a sum over the neighbours of an atom is a
small dense product and nothing of size edges x channels x (l, m) has to be written to memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

#: Rows of a block; more blocks pad less but launch more.
_ROWS_PER_BLOCK = 96
_MAX_BLOCKS = 8


@dataclass(frozen=True)
class Rows:
    """CSR rows: the edges of each receiver one after the other, nothing padded.

    Attributes:
        sender: [edges] long.
        receiver: [edges] long, ascending.
        row_ptr: [atoms + 1] long, edges received by atom i are ``row_ptr[i]:row_ptr[i + 1]``.
        senders: what ``by_sender`` gives, where it was prepared.
    """

    sender: Tensor
    receiver: Tensor
    row_ptr: Tensor
    senders: tuple[Tensor, Tensor] | None = None

    @classmethod
    def build(cls, sender: Tensor, receiver: Tensor, num_atoms: int) -> Rows:
        """Rows of edges [edges] long whose receivers ascend."""
        atoms = torch.arange(num_atoms + 1, device=receiver.device)
        receiver = receiver.contiguous()
        return cls(sender.contiguous(), receiver, torch.searchsorted(receiver, atoms))

    @cached_property
    def by_sender(self) -> tuple[Tensor, Tensor]:
        """[edges] long, the edges sorted by sender (stable); [atoms + 1] long, where each sender's begin."""
        if self.senders is not None:
            return self.senders
        ordered, order = torch.sort(self.sender, stable=True)
        atoms = torch.arange(len(self.row_ptr), device=ordered.device)
        return order, torch.searchsorted(ordered, atoms)


@dataclass(frozen=True)
class RowBlocks:
    """CSR rows sorted by length and padded block by block.

    Attributes:
        shapes: (rows, width) of each block; block b holds rows * width consecutive slots.
        slot: [items] long, the slot of each item.
        empty: [slots] bool, True where a slot holds no item.
        inverse: [rows] long, position of each row in the order of the blocks.
    """

    shapes: tuple[tuple[int, int], ...]
    slot: Tensor
    empty: Tensor
    inverse: Tensor

    @classmethod
    def build(cls, row: Tensor, num_rows: int) -> RowBlocks:
        """Blocks for items whose rows ``row`` [items] long ascend."""
        items = row.shape[0]
        length = torch.bincount(row, minlength=num_rows)
        start = length.cumsum(0) - length
        sorted_length, order = torch.sort(length, descending=True, stable=True)
        blocks = min(_MAX_BLOCKS, max(1, num_rows // _ROWS_PER_BLOCK))
        bounds = [num_rows * b // blocks for b in range(blocks + 1)]
        # A block is as wide as its first row; one slot at least, so that no product has an empty sum.
        widths = sorted_length[bounds[:-1]].clamp(min=1).tolist() if num_rows else [1]
        shapes = tuple((b - a, w) for a, b, w in zip(bounds[:-1], bounds[1:], widths, strict=True))
        width = torch.cat([row.new_full((rows,), w) for rows, w in shapes])
        first = torch.empty_like(length)
        first[order] = width.cumsum(0) - width
        slot = (first - start)[row] + torch.arange(items, device=row.device)
        empty = torch.ones(sum(r * w for r, w in shapes), dtype=torch.bool, device=row.device)
        empty[slot] = False
        return cls(shapes, slot, empty, torch.argsort(order))

    def pad(self, values: Tensor) -> Tensor:
        """[items, ...] -> [slots, ...], zeros in empty slots."""
        padded = values.new_zeros((self.empty.shape[0], *values.shape[1:]))
        return padded.index_copy(0, self.slot, values)

    def split(self, padded: Tensor) -> list[Tensor]:
        """[slots, ...] -> for each block a view [rows, width, ...]."""
        parts = padded.split([rows * width for rows, width in self.shapes])
        return [p.view(*shape, *padded.shape[1:]) for p, shape in zip(parts, self.shapes, strict=True)]

    def unsort(self, rows: Tensor) -> Tensor:
        """[rows, ...] in the order of the blocks -> in the order of the rows."""
        return rows.index_select(0, self.inverse)


@dataclass(frozen=True)
class Pairs:
    """Edges between the same two atoms, there and back: they have the same length and all that depends on it.

    Attributes:
        item: [edges] long, the pair of each edge.
        edge: [pairs, 2] long, its edges; -1 where there is one alone.
    """

    item: Tensor
    edge: Tensor


@dataclass(frozen=True)
class ScaleEdges:
    """Edges of one scale: an item an edge, or, padded, an item a slot of the blocks.

    Attributes:
        rows: the layout.
        sender: [items] long; 0 in empty slots, where ``radial`` is zero.
        radial: [items, num_bessel] radial basis times the cutoff; with ``pairs`` an item is a pair.
        harmonics: [items, (l_max + 1)^2].
        backend: the backend of ``nn.ops`` they are laid out for.
        receivers: atoms that receive, the first ones; None: all. Rows behind theirs are empty (some backends
            want as many rows as atoms with features).
        pairs: the pairs of the edges, for a backend that works on pairs.
    """

    rows: Rows | RowBlocks
    sender: Tensor
    radial: Tensor
    harmonics: Tensor
    backend: str
    receivers: int | None = None
    pairs: Pairs | None = None

    @property
    def blocks(self) -> RowBlocks:
        """The layout, where it is padded."""
        assert isinstance(self.rows, RowBlocks)
        return self.rows

    def received(self, rows: Tensor) -> Tensor:
        """[rows, ...] as the convolution of the backend returns them, without empty rows at the end."""
        if isinstance(self.rows, RowBlocks) or self.receivers is None:
            return rows
        return rows[: self.receivers]

    def in_order_of_atoms(self, rows: Tensor) -> Tensor:
        """What ``received`` returns, or a map of it, -> [receivers, ...] in the order of the atoms."""
        return self.rows.unsort(rows) if isinstance(self.rows, RowBlocks) else rows
