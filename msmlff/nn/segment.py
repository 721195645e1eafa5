"""Sums over the rows of a CSR structure and their adjoint, differentiable to any order.

torch-scatter's ``segment_csr`` and ``gather_csr`` are each other's adjoint, so each is the other's backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_scatter import gather_csr, segment_csr


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, pointer: Tensor) -> Tensor:
        ctx.save_for_backward(pointer)
        if values.is_cuda:  # torch-scatter is built for the CPU: its CUDA build needs torch's own nvcc
            return torch.segment_reduce(values.contiguous(), "sum", offsets=pointer, axis=0, initial=0)
        return segment_csr(values.contiguous(), pointer, reduce="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _SegmentSpread.apply(grads[0], *ctx.saved_tensors), None


class _SegmentSpread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, pointer: Tensor) -> Tensor:
        ctx.save_for_backward(pointer)
        if values.is_cuda:
            return values.repeat_interleave(pointer.diff(), dim=0)
        return gather_csr(values.contiguous(), pointer)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _SegmentSum.apply(grads[0], *ctx.saved_tensors), None


def segment_sum(values: Tensor, pointer: Tensor) -> Tensor:
    """out[i] = sum of values[pointer[i]:pointer[i + 1]]: [items, ...], [rows + 1] long -> [rows, ...]."""
    return _SegmentSum.apply(values, pointer)


def segment_spread(values: Tensor, pointer: Tensor) -> Tensor:
    """out[pointer[i]:pointer[i + 1]] = values[i]: [rows, ...], [rows + 1] long -> [items, ...]."""
    return _SegmentSpread.apply(values, pointer)


def row_pointer(row: Tensor, rows: int) -> Tensor:
    """[rows + 1] long, where the items of each row begin: the pointer of ascending ``row`` [items] long."""
    counts = torch.bincount(row, minlength=rows)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
