"""Symmetric contraction with first and second derivatives derived by hand.

For one channel and one output component the result is a polynomial F(x) = sum_k x_k sum_t A[k, t] T_t(x), T_t
the monomials below the highest degree, A symmetrised over all factors. Then by Euler's theorem
J_k = dF/dx_k = sum_t (degree(t) + 1) A[k, t] T_t(x): the gradient costs the same product as the value.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from msmlff.nn.ops import twice
from msmlff.nn.ops.twice import Gradients, Tensors
from msmlff.nn.ops.types import MonomialTable
from msmlff.nn.species import SpeciesGroups

#: Numbers of a work array that is filled, used and dropped: small enough to stay in the cache.
_PIECE = 1 << 19


def symmetric_contraction(
    features: Tensor,
    weights: Sequence[Tensor],
    couplings: Sequence[Tensor],
    table: MonomialTable,
    groups: SpeciesGroups,
) -> Tensor:
    """As ``reference.symmetric_contraction``, differentiable twice.

    The weights are contracted with the couplings first, once for all atoms of a species; what remains for
    each channel is a matrix product with the monomials below the highest degree.
    """
    parts = groups.split(features)
    return groups.join(
        [_of_species(part, [w[z] for w in weights], couplings, table) for z, part in enumerate(parts)]
    )


def _of_species(
    features: Tensor, weights: Sequence[Tensor], couplings: Sequence[Tensor], table: MonomialTable
) -> Tensor:
    channels = features.shape[2]
    matrices = [
        (weight.t() @ coupling.t()).view(channels, -1, len(table.degrees))
        for weight, coupling in zip(weights, couplings, strict=True)
    ]
    x = features.permute(2, 1, 0).contiguous()
    (out,) = twice.apply(_Contraction(table), x, torch.cat(matrices, dim=1))
    return out.permute(2, 1, 0)


def _pieces(x: Tensor, table: MonomialTable) -> list[slice]:
    """Slices of the channels of x [channels, dim, atoms] whose monomials fit the cache."""
    channels, _, atoms = x.shape
    step = max(1, _PIECE // max(1, len(table.degrees) * atoms))
    return [slice(a, min(a + step, channels)) for a in range(0, channels, step)]


def _monomials(x: Tensor, table: MonomialTable) -> Tensor:
    """[channels, dim, atoms] -> [channels, monomials, atoms]."""
    out = x.new_empty(x.shape[0], len(table.degrees), x.shape[2])
    out[:, 0] = 1.0
    if table.correlation > 1:
        out[:, 1 : 1 + table.dim] = x
    for lower, first, rows in table.products:
        torch.mul(out[:, lower : lower + 1], x[:, first:], out=out[:, rows])
    return out


def _monomial_derivative(x: Tensor, v: Tensor, monomials: Tensor, table: MonomialTable) -> Tensor:
    """Derivative of the monomials along v: same shapes as ``_monomials``."""
    out = torch.empty_like(monomials)
    out[:, 0] = 0.0
    if table.correlation > 1:
        out[:, 1 : 1 + table.dim] = v
    for lower, first, rows in table.products:
        torch.mul(out[:, lower : lower + 1], x[:, first:], out=out[:, rows])
        out[:, rows].addcmul_(monomials[:, lower : lower + 1], v[:, first:])
    return out


def _jacobian(x: Tensor, matrix: Tensor, monomials: Tensor, weights: Tensor) -> Tensor:
    """[channels, M, dim, atoms] sum_t weights_t A[M, k, t] monomials_t."""
    channels, dim, atoms = x.shape
    product = torch.bmm(matrix * weights, monomials)
    return product.view(channels, matrix.shape[1] // dim, dim, atoms)


def _outer(x: Tensor, grad: Tensor) -> Tensor:
    """[channels, dim, atoms], [channels, M, atoms] -> [channels, M * dim, atoms]."""
    return (grad.unsqueeze(2) * x.unsqueeze(1)).flatten(1, 2)


class _Contraction:
    """x [channels, dim, atoms], A [channels, M * dim, monomials] -> F [channels, M, atoms]."""

    kinds: tuple[str, ...] = ("features", "weight")

    def __init__(self, table: MonomialTable) -> None:
        self.table = table

    def value(self, inputs: Tensors) -> Tensors:
        x, matrix = inputs
        channels, dim, atoms = x.shape
        out = x.new_empty(channels, matrix.shape[1] // dim, atoms)
        for c in _pieces(x, self.table):
            product = torch.bmm(matrix[c], _monomials(x[c], self.table))
            out[c] = (product.view(*out[c].shape[:2], dim, atoms) * x[c].unsqueeze(1)).sum(dim=2)
        return [out]

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        (x, matrix), (grad,) = inputs, grads
        weights = x.new_tensor(self.table.degrees) + 1
        grad_x = torch.empty_like(x) if needed[0] else None
        grad_matrix = torch.empty_like(matrix) if needed[1] else None
        for c in _pieces(x, self.table):
            monomials = _monomials(x[c], self.table)
            if grad_x is not None:
                jacobian = _jacobian(x[c], matrix[c], monomials, weights)
                grad_x[c] = (jacobian * grad[c].unsqueeze(2)).sum(dim=1)
            if grad_matrix is not None:
                grad_matrix[c] = torch.bmm(_outer(x[c], grad[c]), monomials.transpose(1, 2))
        return [grad_x, grad_matrix]

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        (x, matrix), (grad,), (v_x, v_matrix) = inputs, grads, v
        table, weights = self.table, x.new_tensor(self.table.degrees) + 1
        out_x, out_matrix, out_grad = torch.zeros_like(x), torch.zeros_like(matrix), torch.zeros_like(grad)
        for c in _pieces(x, table):
            monomials = _monomials(x[c], table)
            if v_x is not None:
                # <v, dE/dx> = sum_M g_M J_M v: its derivatives by g, x and A.
                jacobian = _jacobian(x[c], matrix[c], monomials, weights)
                out_grad[c] += (jacobian * v_x[c].unsqueeze(1)).sum(dim=2)
                moved = _monomial_derivative(x[c], v_x[c], monomials, table)
                hessian = _jacobian(x[c], matrix[c], moved, weights)
                out_x[c] += (hessian * grad[c].unsqueeze(2)).sum(dim=1)
                out_matrix[c] += torch.bmm(_outer(v_x[c], grad[c]), monomials.transpose(1, 2)) * weights
            if v_matrix is not None:
                # <vA, dE/dA> = sum_M g_M F_M with vA in the place of A.
                jacobian = _jacobian(x[c], v_matrix[c], monomials, weights)
                out_x[c] += (jacobian * grad[c].unsqueeze(2)).sum(dim=1)
                value = _jacobian(x[c], v_matrix[c], monomials, torch.ones_like(weights))
                out_grad[c] += (value * x[c].unsqueeze(1)).sum(dim=2)
        return [out_x, out_matrix], [out_grad]
