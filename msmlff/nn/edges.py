"""The edges of one scale, laid out for batched matrix products.

Rows of similar length are padded to rectangles ("blocks"), so that a sum over the neighbours of an atom is a
small dense product and nothing of size edges x channels x (l, m) has to be written to memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Rows of a block; more blocks pad less but launch more.
_ROWS_PER_BLOCK = 96
_MAX_BLOCKS = 8


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
class ScaleEdges:
    """Edges of one scale, in the slots of its blocks.

    Attributes:
        blocks: the layout.
        sender: [slots] long; 0 in empty slots, where ``radial`` is zero.
        radial: [slots, num_bessel] radial basis times the cutoff.
        harmonics: [slots, (l_max + 1)^2].
    """

    blocks: RowBlocks
    sender: Tensor
    radial: Tensor
    harmonics: Tensor
