"""Sums over the rows of a CSR structure and their adjoint, differentiable to any order.

torch-scatter's ``segment_csr`` and ``gather_csr`` are each other's adjoint, so each is the other's backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_scatter import gather_csr, segment_csr


def on_gpu(values: Tensor) -> bool:
    """Whether PyTorch's own operators are taken."""
    return values.is_cuda


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, pointer: Tensor) -> Tensor:
        ctx.save_for_backward(pointer)
        ctx.items = values.shape[0]
        if on_gpu(values):  # torch-scatter is built for the CPU: its CUDA build needs torch's own nvcc
            # "unsafe": without checks of the pointer, which would be read back from the GPU
            return torch.segment_reduce(
                values.contiguous(), "sum", offsets=pointer, axis=0, unsafe=True, initial=0
            )
        return segment_csr(values.contiguous(), pointer, reduce="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _SegmentSpread.apply(grads[0], *ctx.saved_tensors, ctx.items), None


class _SegmentSpread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, pointer: Tensor, items: int | None) -> Tensor:
        ctx.save_for_backward(pointer)
        if on_gpu(values):  # without their number it would be read back from the GPU
            return values.repeat_interleave(pointer.diff(), dim=0, output_size=items)
        return gather_csr(values.contiguous(), pointer)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _SegmentSum.apply(grads[0], *ctx.saved_tensors), None, None


def segment_sum(values: Tensor, pointer: Tensor) -> Tensor:
    """out[i] = sum of values[pointer[i]:pointer[i + 1]]: [items, ...], [rows + 1] long -> [rows, ...]."""
    return _SegmentSum.apply(values, pointer)


def segment_spread(values: Tensor, pointer: Tensor) -> Tensor:
    """out[pointer[i]:pointer[i + 1]] = values[i]: [rows, ...], [rows + 1] long -> [items, ...]."""
    return _SegmentSpread.apply(values, pointer, None)


def row_pointer(row: Tensor, rows: int) -> Tensor:
    """[rows + 1] long, where the items of each row begin: the pointer of ascending ``row`` [items] long."""
    counts = torch.bincount(row, minlength=rows)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
