"""The gate by the compiled kernels (``native/gate.cpp``)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from msmlff.nn.ops import twice
from msmlff.nn.ops.native_library import Numbers, call, cut_last, lanes, pad_last, pointer
from msmlff.nn.ops.twice import Gradients, Tensors
from msmlff.nn.radial import SILU_SCALE


def gate(features: Tensor, l_max: int) -> Tensor:
    """As ``reference.gate``, differentiable twice."""
    (out,) = twice.apply(Gate(l_max), features)
    return out


class Gate:
    """features -> the gated ones; an operation as ``twice`` takes them.

    Channels are padded with zeros to whole vectors of the processor: silu(0) = 0.
    """

    kinds: tuple[str, ...] = ("features",)

    def __init__(self, l_max: int) -> None:
        self.l_max = l_max

    def value(self, inputs: Tensors) -> Tensors:
        x = self._padded(inputs[0])
        out = x.new_empty(x.shape[0], (self.l_max + 1) ** 2, x.shape[2])
        self._call("gate_forward", x, [x, out])
        return [self._cut(out, inputs)]

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        x, grad = self._padded(inputs[0]), self._padded(grads[0])
        of_x = torch.empty_like(x)
        self._call("gate_gradient", x, [x, grad, of_x])
        return [self._cut(of_x, inputs)]

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        assert v[0] is not None
        x, grad, moved = (self._padded(t) for t in (inputs[0], grads[0], v[0]))
        of_x, of_grad = torch.empty_like(x), torch.empty_like(grad)
        self._call("gate_second", x, [x, grad, moved, of_x, of_grad])
        return [self._cut(of_x, inputs)], [self._cut(of_grad, inputs)]

    def _call(self, name: str, x: Tensor, tensors: Sequence[Tensor]) -> None:
        shape = Numbers((x.shape[0], self.l_max, x.shape[2], torch.get_num_threads()), ())
        call(name, x.dtype, shape, ctypes.c_double(SILU_SCALE), *map(pointer, tensors))

    def _padded(self, tensor: Tensor) -> Tensor:
        return pad_last(tensor, lanes(tensor.dtype))

    def _cut(self, tensor: Tensor, inputs: Tensors) -> Tensor:
        cut = cut_last(tensor, inputs[0].shape[2])
        assert cut is not None
        return cut
