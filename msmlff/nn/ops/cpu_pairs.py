"""Convolutions on pairs, compiled (``native/convolution_pairs.cpp``, ``native/species_sum.cpp``).

The edges i <- j and j <- i have one length, so one phi and one R = phi W, which are most of a convolution's
arithmetic: both are computed once for a pair, and their gradients are summed over its edges first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from msmlff.nn.edges import Pairs, Rows, ScaleEdges
from msmlff.nn.linear import split_l
from msmlff.nn.ops import cpu_convolution, cpu_species_sum, twice
from msmlff.nn.ops.native_library import Numbers, call, pointer, pointers
from msmlff.nn.ops.twice import Gradients, Tensors
from msmlff.nn.ops.types import Path


def find_pairs(rows: Rows, vectors: Tensor) -> Pairs:
    """The pairs of edges with vectors [edges, 3]: there and back between two atoms, exactly opposite.

    An edge whose counterpart is missing is a pair by itself.
    """
    item, edge = torch.empty_like(rows.sender), rows.sender.new_empty(len(rows.sender), 2)
    vectors, count = vectors.detach().contiguous(), torch.zeros(1, dtype=torch.long)
    arrays = map(pointer, (rows.row_ptr, rows.sender, vectors, item, edge, count))
    call("find_pairs", vectors.dtype, ctypes.c_int64(len(rows.row_ptr) - 1), *arrays)
    return Pairs(item, edge[: int(count)])


def convolution(
    features: Tensor,
    phi: Tensor,
    weight: Tensor,
    couplings: Sequence[Tensor],
    paths: Sequence[Path],
    edges: ScaleEdges,
) -> list[Tensor]:
    """As ``reference.convolution``; with ``edges.pairs`` phi is that of the pairs.

    Raises:
        ValueError: an l above 4.
    """
    if edges.pairs is None:
        return cpu_convolution.convolution(features, phi, weight, couplings, paths, edges)
    assert isinstance(edges.rows, Rows)
    table = cpu_convolution._table(tuple(paths))
    operation = PairConvolution(table, edges.rows, weight.shape[2], edges.pairs)
    return list(twice.apply(operation, features, phi, weight, edges.harmonics))


class PairConvolution(cpu_convolution.Convolution):
    """(h, phi, W, Y) -> A of each l3, phi being that of the pairs."""

    def __init__(self, table: cpu_convolution._Table, rows: Rows, channels: int, pairs: Pairs) -> None:
        super().__init__(table, rows, channels)
        self.pairs = pairs

    def value(self, inputs: Tensors) -> Tensors:
        x = self._padded(inputs)
        out = self._outputs(x)
        call("pairs_forward", x[0].dtype, self._shape(x), pointers(x), pointers(out))
        return [self._cut(a) for a in out]

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        x, given = self._padded(inputs), [self._pad_output(g, l) for l, g in enumerate(grads)]
        to = _results(x, needed)
        arguments = [pointers(part) for part in (x, given, to)]
        call("pairs_gradient", x[0].dtype, self._shape(x), *arguments)
        return self._unpadded(to, inputs)

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        x, given = self._padded(inputs), [self._pad_output(g, l) for l, g in enumerate(grads)]
        moved = [torch.zeros_like(t) if d is None else d for t, d in zip(inputs, v, strict=True)]
        v_x: list[Tensor | None] = list(self._padded(moved))
        if v[2] is None:
            v_x[2] = None
        to, out = _results(x, needed), self._outputs(x)
        arguments = [pointers(part) for part in (x, v_x, given, to, out)]
        call("pairs_second", x[0].dtype, self._shape(x), *arguments)
        return self._unpadded(to, inputs), [self._cut(a) for a in out]

    def _shape(self, x: Tensors) -> Numbers:
        shape = super()._shape(x)
        return Numbers(tuple(shape.words[:10]), (*shape.tensors, self.pairs.item))


def _results(x: Tensors, needed: Sequence[bool]) -> list[Tensor | None]:
    """Gradients; that by h is computed always. Those by phi and Y are added to."""
    of_h, of_phi, of_weight, of_y = x
    return [
        torch.empty_like(of_h),
        torch.zeros_like(of_phi) if needed[1] else None,
        torch.empty_like(of_weight) if needed[2] else None,
        torch.zeros_like(of_y) if needed[3] else None,
    ]


def species_convolution(
    table: Tensor, species: Tensor, phi: Tensor, weight: Tensor, paths: Sequence[Path], edges: ScaleEdges
) -> list[Tensor]:
    """As ``species_sum.species_convolution``; with ``edges.pairs`` phi is that of the pairs."""
    if edges.pairs is None:
        return cpu_species_sum.species_convolution(table, species, phi, weight, paths, edges)
    num_species, channels = table.shape
    assert isinstance(edges.rows, Rows)
    kind = species.index_select(0, edges.sender)
    operation = PairDensity(edges.rows, kind, num_species, edges.pairs)
    (density,) = twice.apply(operation, edges.harmonics, phi)
    of_l = split_l(density)
    matrices = [(table.unsqueeze(1) * weight[p]).view(-1, channels) for p in range(len(paths))]
    return [of_l[path.l3] @ matrix for path, matrix in zip(paths, matrices, strict=True)]


class PairDensity(cpu_species_sum.Density):
    """(Y, phi) -> D[i, lm, (z, n)], phi being that of the pairs."""

    def __init__(self, rows: Rows, kind: Tensor, num_species: int, pairs: Pairs) -> None:
        super().__init__(rows, kind, num_species)
        self.pairs = pairs

    def _density(self, y: Tensor, phi: Tensor, out: Tensor) -> None:
        arrays = map(pointer, (self.pairs.item, y, phi, out))
        call("density_of_items", phi.dtype, self._shape(y, phi), *arrays)

    def _density_adjoint(
        self, y: Tensor, phi: Tensor, grad: Tensor, of_y: Tensor | None, of_phi: Tensor | None
    ) -> None:
        arrays = map(pointer, (self.pairs.edge, self.rows.receiver, y, phi, grad, of_y, of_phi))
        items = ctypes.c_int64(len(self.pairs.edge))
        call("density_of_items_adjoint", phi.dtype, self._shape(y, phi), items, *arrays)
