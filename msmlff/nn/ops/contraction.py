"""Symmetric contraction with first and second derivatives derived by hand.

For one channel and one output component the result is a polynomial F(x) = sum_k x_k sum_t A[k, t] T_t(x), T_t
the monomials below the highest degree, A symmetrised over all factors. Then by Euler's theorem
J_k = dF/dx_k = sum_t (degree(t) + 1) A[k, t] T_t(x): the gradient costs the same product as the value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from msmlff.nn.ops.types import MonomialTable

#: Numbers of a work array that is filled, used and dropped: small enough to stay in the cache.
_PIECE = 1 << 19


def symmetric_contraction(
    features: Tensor, weights: Sequence[Tensor], couplings: Sequence[Tensor], table: MonomialTable
) -> Tensor:
    """As ``reference.symmetric_contraction``, differentiable twice."""
    channels = features.shape[2]
    matrices = [
        (weight.t() @ coupling.t()).view(channels, -1, len(table.degrees))
        for weight, coupling in zip(weights, couplings, strict=True)
    ]
    matrix = torch.cat(matrices, dim=1)
    x = features.permute(2, 1, 0).contiguous()
    return _Contraction.apply(x, matrix, table).permute(2, 1, 0)


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


class _Contraction(torch.autograd.Function):
    """x [channels, dim, atoms], A [channels, M * dim, monomials] -> F [channels, M, atoms]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, table: MonomialTable) -> Tensor:
        ctx.save_for_backward(x, matrix)
        ctx.table = table
        channels, dim, atoms = x.shape
        out = x.new_empty(channels, matrix.shape[1] // dim, atoms)
        for c in _pieces(x, table):
            product = torch.bmm(matrix[c], _monomials(x[c], table))
            out[c] = (product.view(*out[c].shape[:2], dim, atoms) * x[c].unsqueeze(1)).sum(dim=2)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, matrix = ctx.saved_tensors
        needed = tuple(ctx.needs_input_grad[:2])
        return (*_Gradient.apply(x, matrix, grads[0], ctx.table, needed), None)


def _jacobian(x: Tensor, matrix: Tensor, monomials: Tensor, weights: Tensor) -> Tensor:
    """[channels, M, dim, atoms] sum_t weights_t A[M, k, t] monomials_t."""
    channels, dim, atoms = x.shape
    product = torch.bmm(matrix * weights, monomials)
    return product.view(channels, matrix.shape[1] // dim, dim, atoms)


def _outer(x: Tensor, grad: Tensor) -> Tensor:
    """[channels, dim, atoms], [channels, M, atoms] -> [channels, M * dim, atoms]."""
    return (grad.unsqueeze(2) * x.unsqueeze(1)).flatten(1, 2)


class _Gradient(torch.autograd.Function):
    """(x, A, dE/dF) -> dE/d(x, A)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, matrix: Tensor, grad: Tensor, table: MonomialTable, needed: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(x, matrix, grad)
        ctx.table = table
        ctx.set_materialize_grads(False)
        weights = x.new_tensor(table.degrees) + 1
        grad_x = torch.empty_like(x) if needed[0] else None
        grad_matrix = torch.empty_like(matrix) if needed[1] else None
        for c in _pieces(x, table):
            monomials = _monomials(x[c], table)
            if grad_x is not None:
                jacobian = _jacobian(x[c], matrix[c], monomials, weights)
                grad_x[c] = (jacobian * grad[c].unsqueeze(2)).sum(dim=1)
            if grad_matrix is not None:
                grad_matrix[c] = torch.bmm(_outer(x[c], grad[c]), monomials.transpose(1, 2))
        return grad_x, grad_matrix

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor | None, vmatrix: Tensor | None) -> tuple[Tensor | None, ...]:
        x, matrix, grad = ctx.saved_tensors
        table, weights = ctx.table, x.new_tensor(ctx.table.degrees) + 1
        out_x, out_matrix, out_grad = torch.zeros_like(x), torch.zeros_like(matrix), torch.zeros_like(grad)
        for c in _pieces(x, table):
            monomials = _monomials(x[c], table)
            if v is not None:
                # <v, dE/dx> = sum_M g_M J_M v: its derivatives by g, x and A.
                jacobian = _jacobian(x[c], matrix[c], monomials, weights)
                out_grad[c] += (jacobian * v[c].unsqueeze(1)).sum(dim=2)
                moved = _monomial_derivative(x[c], v[c], monomials, table)
                hessian = _jacobian(x[c], matrix[c], moved, weights)
                out_x[c] += (hessian * grad[c].unsqueeze(2)).sum(dim=1)
                out_matrix[c] += torch.bmm(_outer(v[c], grad[c]), monomials.transpose(1, 2)) * weights
            if vmatrix is not None:
                # <vA, dE/dA> = sum_M g_M F_M with vA in the place of A.
                jacobian = _jacobian(x[c], vmatrix[c], monomials, weights)
                out_x[c] += (jacobian * grad[c].unsqueeze(2)).sum(dim=1)
                value = _jacobian(x[c], vmatrix[c], monomials, torch.ones_like(weights))
                out_grad[c] += (value * x[c].unsqueeze(1)).sum(dim=2)
        return out_x, out_matrix, out_grad, None, None
