"""Symmetric contraction in Triton, with first and second derivatives derived by hand.

For each atom and channel the result is a few polynomials with a coefficient a term; the coefficients,
couplings times weights, are formed once for each species and channel. One program takes some atoms of one
species and some channels: it reads x, evaluates all polynomials in registers and writes the result, so
monomials never reach memory and one launch serves all species. For l_max 3, degree 3 and L up to 1 there are
410 terms, about 1,100 operations an atom and channel forward, where the dense product with all monomials has
20 thousand; x, 16 numbers, and the coefficients, 410 for each channel of a species, are all it reads.

The gradient by the coefficients is summed over parts of a species' atoms, then over the parts: no atomics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from msmlff.nn.constant import Constant
from msmlff.nn.ops import twice
from msmlff.nn.ops.triton_common import FILL, Tile, ceil_div, launch, power_of_two
from msmlff.nn.ops.triton_contraction_source import Polynomials, kernels, polynomials
from msmlff.nn.ops.twice import Gradients, Tensors
from msmlff.nn.ops.types import MonomialTable
from msmlff.nn.species import SpeciesGroups


def symmetric_contraction(
    features: Tensor,
    weights: Sequence[Tensor],
    couplings: Sequence[Tensor],
    table: MonomialTable,
    groups: SpeciesGroups,
) -> Tensor:
    """As ``reference.symmetric_contraction``, differentiable twice.

    The couplings must be those of ``folded_coupling`` for L = 0, 1, ..: the kernels hold their pattern.
    """
    key = (table.dim, table.correlation, len(couplings) - 1)
    coefficients = [matrix(weight) @ weight for matrix, weight in zip(_matrices(*key), weights, strict=True)]
    atoms = SortedAtoms.build(groups, features.device)
    (out,) = twice.apply(Contraction(key, atoms), features, torch.cat(coefficients, dim=1))
    return out


@cache
def _matrices(dim: int, correlation: int, l_out: int) -> tuple[Constant, ...]:
    return tuple(Constant(m) for m in polynomials(dim, correlation, l_out).matrices)


@dataclass(frozen=True)
class SortedAtoms:
    """Atoms by species.

    Attributes:
        order: [atoms] long, sorted by species; not read where there is one species.
        pointer: [species + 1] long, where each species begins in it.
        sizes: atoms of each species.
    """

    order: Tensor
    pointer: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def build(cls, groups: SpeciesGroups, device: torch.device) -> SortedAtoms:
        """Atoms as the model groups them."""
        if groups.order is None:
            empty = torch.empty(0, dtype=torch.long, device=device)
            return cls(empty, empty, groups.sizes)
        if groups.pointer is not None:
            return cls(groups.order, groups.pointer, groups.sizes)
        pointer = torch.tensor([0, *accumulate(groups.sizes)])
        return cls(groups.order, pointer.to(device, non_blocking=True), groups.sizes)


#: The tiles for float32: as many numbers a thread as its variables and their derivatives leave registers for.
TILES = {
    "value": Tile(8, 32, 4),
    "gradient": Tile(8, 32, 4),
    "tangent": Tile(4, 32, 4),
    "weigh": Tile(8, 32, 4),
    "weigh_tangent": Tile(8, 32, 4),
}


def tile_of(kernel: str, channels: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel, of fewer atoms in float64 and narrower for few channels."""
    tile = TILES[kernel]
    atoms = tile.rows // 2 if dtype == torch.float64 else tile.rows
    return Tile(max(4, atoms), power_of_two(channels, 16, tile.channels), tile.warps)


class Contraction:
    """(x, c) -> F_M = sum over the terms of M of c times the monomial; an operation as ``twice`` takes them.

    x [atoms, dim, channels], c [species, terms, channels] -> [atoms, sum of 2 L + 1, channels].
    """

    kinds: tuple[str, ...] = ("features", "weight")

    def __init__(self, key: tuple[int, int, int], atoms: SortedAtoms) -> None:
        self.key, self.atoms = key, atoms

    @property
    def _polynomials(self) -> Polynomials:
        return polynomials(*self.key)

    def value(self, inputs: Tensors) -> Tensors:
        x, c = (t.contiguous() for t in inputs)
        out = x.new_empty(x.shape[0], self._polynomials.components, x.shape[2])
        self._by_atom("value", [x, c], [out])
        return [out]

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        x, c, grad = (t.contiguous() for t in (*inputs, *grads))
        of_x = torch.empty_like(x) if needed[0] else None
        if of_x is not None:
            self._by_atom("gradient", [x, c, grad], [of_x])
        return of_x, self._weigh("weigh", c, [x, grad]) if needed[1] else None

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        x, c, grad = (t.contiguous() for t in (*inputs, *grads))
        vx = torch.zeros_like(x) if v[0] is None else v[0].contiguous()
        vc = c if v[1] is None else v[1].contiguous()
        of_x, of_grad = torch.empty_like(x), torch.empty_like(grad)
        self._by_atom("tangent", [x, c, grad, vx, vc], [of_x, of_grad], v[1] is not None)
        return [of_x, self._weigh("weigh_tangent", c, [x, grad, vx]) if needed[1] else None], [of_grad]

    def _by_atom(self, kernel: str, inputs: list[Tensor], outputs: list[Tensor], moves: bool = False) -> None:
        x = inputs[0]
        tile = tile_of(kernel, x.shape[2], x.dtype)
        pieces = sum(ceil_div(size, tile.rows) for size in self.atoms.sizes)
        grid = (pieces, ceil_div(x.shape[2], tile.channels))
        self._run(kernel, tile, grid, [*inputs, self.atoms.order, self.atoms.pointer, *outputs], 1, moves)

    def _weigh(self, kernel: str, c: Tensor, inputs: list[Tensor]) -> Tensor:
        """[species, terms, channels] sums over atoms, first within parts of them, then over the parts."""
        tile = tile_of(kernel, c.shape[2], c.dtype)
        species, groups = c.shape[0], len(self._polynomials.groups)
        columns = ceil_div(c.shape[2], tile.channels)
        largest = ceil_div(max(self.atoms.sizes), 4 * tile.rows)
        parts = max(1, min(largest, FILL // (groups * columns * species)))
        part = c.new_empty(species, parts * tile.rows, *c.shape[1:])
        tensors = [*inputs, self.atoms.order, self.atoms.pointer, part]
        self._run(kernel, tile, (groups, columns, species * parts), tensors, parts)
        return part.sum(dim=1)

    def _run(
        self,
        kernel: str,
        tile: Tile,
        grid: tuple[int, ...],
        tensors: list[Tensor],
        parts: int,
        moves: bool = False,
    ) -> None:
        atoms, _, channels = tensors[0].shape
        constants: tuple[Any, ...] = (channels, tile.rows, tile.channels, len(self.atoms.sizes), parts)
        launch(kernels(*self.key, moves)[kernel], grid, (*tensors, atoms, *constants), tile.warps)
