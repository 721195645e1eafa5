"""The first layer's sum over neighbours in Triton: D[i, lm, z, n] = sum over senders j of species z of Y phi.

For each receiver it is a product of small matrices, Y^T phi over its edges, and its gradients by Y and phi
are products of the same kind, one for each block of edges: two kernels serve all orders of derivative. Each
reads phi and Y once and writes D, or their gradients, once; that traffic is its floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from msmlff.nn.edges import Rows, ScaleEdges
from msmlff.nn.ops import twice
from msmlff.nn.ops.triton_common import dot_precision, launch, power_of_two
from msmlff.nn.ops.twice import Gradients, Tensors
from msmlff.nn.ops.types import Path

_EDGES = 16


def species_convolution(
    table: Tensor, species: Tensor, phi: Tensor, weight: Tensor, paths: Sequence[Path], edges: ScaleEdges
) -> list[Tensor]:
    """As ``reference.species_convolution``, differentiable twice."""
    num_species, channels = table.shape
    assert isinstance(edges.rows, Rows)
    kind = species.index_select(0, edges.rows.sender)
    (density,) = twice.apply(Density(edges.rows, kind, num_species), edges.harmonics, phi)
    out = []
    for p, path in enumerate(paths):
        matrix = (table.unsqueeze(1) * weight[p]).view(-1, channels)
        out.append(density[:, path.l3**2 : (path.l3 + 1) ** 2].flatten(2) @ matrix)
    return out


class Density:
    """(Y, phi) -> D [atoms, lm, species, n]; linear in both; an operation as ``twice`` takes them."""

    kinds: tuple[str, ...] = ("geometry", "features")

    def __init__(self, rows: Rows, kind: Tensor, num_species: int) -> None:
        self.rows, self.kind, self.num_species = rows, kind, num_species

    def value(self, inputs: Tensors) -> Tensors:
        y, phi = inputs
        return [self._sum([(y, phi)])]

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        return self._spread(inputs, grads[0])

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        (y, phi), (vy, vphi) = inputs, v
        vy = torch.zeros_like(y) if vy is None else vy
        vphi = torch.zeros_like(phi) if vphi is None else vphi
        return self._spread((vy, vphi), grads[0]), [self._sum([(vy, phi), (y, vphi)])]

    def _sum(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """D of one pair (Y, phi), or the sum of the D of two."""
        (y, phi), (y2, phi2) = (tuple(t.contiguous() for t in pair) for pair in (pairs[0], pairs[-1]))
        atoms = len(self.rows.row_ptr) - 1
        out = phi.new_empty(atoms, y.shape[1], self.num_species, phi.shape[1])
        arguments = (y, phi, y2, phi2, self.kind, self.rows.row_ptr, out)
        constants = (*self._constants(y, phi), len(pairs) == 2)
        launch(density_sum, (atoms, self.num_species), (*arguments, *constants), 2)
        return out

    def _spread(self, inputs: Tensors, grad: Tensor) -> Gradients:
        """dE/dY and dE/dphi from dE/dD."""
        y, phi = (t.contiguous() for t in inputs)
        of_y, of_phi = torch.empty_like(y), torch.empty_like(phi)
        arguments = (y, phi, grad.contiguous(), self.kind, self.rows.row_ptr, of_y, of_phi)
        launch(density_spread, (len(self.rows.row_ptr) - 1,), (*arguments, *self._constants(y, phi)), 2)
        return of_y, of_phi

    def _constants(self, y: Tensor, phi: Tensor) -> tuple[Any, ...]:
        sizes = y.shape[1], power_of_two(y.shape[1], 16, 1 << 16), phi.shape[1]
        padded = power_of_two(phi.shape[1], 16, 1 << 16)
        return (*sizes, padded, self.num_species, _EDGES, dot_precision(phi.dtype))


# Triton would look an annotation up, except that of a constant: the tensors have none.
@triton.jit
def density_sum(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    y,
    phi,
    y2,
    phi2,
    kind,
    row_ptr,
    out,
    LM: tl.constexpr,
    LMP: tl.constexpr,
    N: tl.constexpr,
    NP: tl.constexpr,
    SPECIES: tl.constexpr,
    BE: tl.constexpr,
    PRECISION: tl.constexpr,
    TWO: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    z = tl.program_id(1)
    lm = tl.arange(0, LMP)
    n = tl.arange(0, NP)
    start = tl.load(row_ptr + row)
    end = tl.load(row_ptr + row + 1)
    total = tl.zeros([LMP, NP], dtype=phi.dtype.element_ty)
    for first in range(start, end, BE):
        e = first + tl.arange(0, BE)
        live = (e < end) & (tl.load(kind + e, mask=e < end, other=-1) == z)
        at_y = e[None, :] * LM + lm[:, None]
        at_phi = e[:, None] * N + n[None, :]
        in_y = live[None, :] & (lm < LM)[:, None]
        in_phi = live[:, None] & (n < N)[None, :]
        a = tl.load(y + at_y, mask=in_y, other=0.0)
        b = tl.load(phi + at_phi, mask=in_phi, other=0.0)
        total = tl.dot(a, b, acc=total, input_precision=PRECISION, out_dtype=phi.dtype.element_ty)
        if TWO:
            a = tl.load(y2 + at_y, mask=in_y, other=0.0)
            b = tl.load(phi2 + at_phi, mask=in_phi, other=0.0)
            total = tl.dot(a, b, acc=total, input_precision=PRECISION, out_dtype=phi.dtype.element_ty)
    place = ((row * LM + lm[:, None]) * SPECIES + z) * N + n[None, :]
    tl.store(out + place, total, mask=(lm < LM)[:, None] & (n < N)[None, :])


@triton.jit
def density_spread(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    y,
    phi,
    grad,
    kind,
    row_ptr,
    of_y,
    of_phi,
    LM: tl.constexpr,
    LMP: tl.constexpr,
    N: tl.constexpr,
    NP: tl.constexpr,
    SPECIES: tl.constexpr,
    BE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    lm = tl.arange(0, LMP)
    n = tl.arange(0, NP)
    start = tl.load(row_ptr + row)
    end = tl.load(row_ptr + row + 1)
    for first in range(start, end, BE):
        e = first + tl.arange(0, BE)
        live = e < end
        z_of = tl.load(kind + e, mask=live, other=-1)
        at_y = e[:, None] * LM + lm[None, :]
        at_phi = e[:, None] * N + n[None, :]
        in_y = live[:, None] & (lm < LM)[None, :]
        in_phi = live[:, None] & (n < N)[None, :]
        a = tl.load(y + at_y, mask=in_y, other=0.0)
        b = tl.load(phi + at_phi, mask=in_phi, other=0.0)
        da = tl.zeros([BE, LMP], dtype=phi.dtype.element_ty)
        db = tl.zeros([BE, NP], dtype=phi.dtype.element_ty)
        for z in range(SPECIES):
            place = ((row * LM + lm[:, None]) * SPECIES + z) * N + n[None, :]
            g = tl.load(grad + place, mask=(lm < LM)[:, None] & (n < N)[None, :], other=0.0)
            ours = (z_of == z)[:, None]
            a_z = tl.where(ours, a, 0.0)
            b_z = tl.where(ours, b, 0.0)
            db = tl.dot(a_z, g, acc=db, input_precision=PRECISION, out_dtype=phi.dtype.element_ty)
            da = tl.dot(b_z, tl.trans(g), acc=da, input_precision=PRECISION, out_dtype=phi.dtype.element_ty)
        tl.store(of_y + at_y, da, mask=in_y)
        tl.store(of_phi + at_phi, db, mask=in_phi)
