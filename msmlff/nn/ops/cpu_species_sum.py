"""Convolution of features of the sender's species by the compiled kernels (``native/species_sum.cpp``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from msmlff.nn.edges import Rows, ScaleEdges
from msmlff.nn.linear import split_l
from msmlff.nn.ops import twice
from msmlff.nn.ops.native_library import Numbers, call, cut_last, lanes, pad_last, pointer
from msmlff.nn.ops.twice import Gradients, Tensors
from msmlff.nn.ops.types import Path


def species_convolution(
    table: Tensor, species: Tensor, phi: Tensor, weight: Tensor, paths: Sequence[Path], edges: ScaleEdges
) -> list[Tensor]:
    """As ``species_sum.species_convolution``, on edges without padding; differentiable twice."""
    num_species, channels = table.shape
    assert isinstance(edges.rows, Rows)
    kind = species.index_select(0, edges.sender)
    (density,) = twice.apply(Density(edges.rows, kind, num_species), edges.harmonics, phi)
    of_l = split_l(density)
    matrices = [(table.unsqueeze(1) * weight[p]).view(-1, channels) for p in range(len(paths))]
    return [of_l[path.l3] @ matrix for path, matrix in zip(paths, matrices, strict=True)]


class Density:
    """(Y, phi) -> D[i, lm, (z, n)] = sum over the senders j of species z of Y phi; linear in both."""

    kinds: tuple[str, ...] = ("geometry", "features")

    def __init__(self, rows: Rows, kind: Tensor, num_species: int) -> None:
        self.rows, self.kind, self.num_species = rows, kind, num_species

    def value(self, inputs: Tensors) -> Tensors:
        return [self._sum(inputs[0], inputs[1])]

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        return self._adjoint(inputs[0], inputs[1], grads[0], needed)

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        (y, phi), (v_y, v_phi) = inputs, v
        v_y = torch.zeros_like(y) if v_y is None else v_y
        v_phi = torch.zeros_like(phi) if v_phi is None else v_phi
        of_inputs = self._adjoint(v_y, v_phi, grads[0], needed)
        return of_inputs, [self._sum(v_y, phi) + self._sum(y, v_phi)]

    def _sum(self, y: Tensor, phi: Tensor) -> Tensor:
        atoms, n = len(self.rows.row_ptr) - 1, phi.shape[1]
        y, phi = y.contiguous(), pad_last(phi, lanes(phi.dtype))
        out = phi.new_empty(atoms, y.shape[1], self.num_species, phi.shape[1])
        self._density(y, phi, out)
        cut = cut_last(out, n)
        assert cut is not None
        return cut.flatten(2)

    def _adjoint(self, y: Tensor, phi: Tensor, grad: Tensor, needed: Sequence[bool]) -> Gradients:
        n, y = phi.shape[1], y.contiguous()
        grad = pad_last(grad.reshape(*grad.shape[:2], self.num_species, n), lanes(phi.dtype))
        phi = pad_last(phi, lanes(phi.dtype))
        of_y = torch.empty_like(y) if needed[0] else None
        of_phi = torch.empty_like(phi) if needed[1] else None
        self._density_adjoint(y, phi, grad, of_y, of_phi)
        return [of_y, cut_last(of_phi, n)]

    def _density(self, y: Tensor, phi: Tensor, out: Tensor) -> None:
        call("density", phi.dtype, self._shape(y, phi), *map(pointer, (y, phi, out)))

    def _density_adjoint(
        self, y: Tensor, phi: Tensor, grad: Tensor, of_y: Tensor | None, of_phi: Tensor | None
    ) -> None:
        arrays = map(pointer, (y, phi, grad, of_y, of_phi))
        call("density_adjoint", phi.dtype, self._shape(y, phi), *arrays)

    def _shape(self, y: Tensor, phi: Tensor) -> Numbers:
        sizes = (
            len(self.rows.row_ptr) - 1,
            y.shape[1],
            self.num_species,
            phi.shape[1],
            torch.get_num_threads(),
        )
        return Numbers(sizes, (self.rows.row_ptr, self.kind))
