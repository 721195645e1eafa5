"""The radial network by the compiled kernels (``native/perceptron.cpp``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from msmlff.nn.ops import twice
from msmlff.nn.ops.native_library import Numbers, call, lanes, pointer, pointers
from msmlff.nn.ops.twice import Gradients, Tensors


def radial_network(x: Tensor, weights: list[Tensor]) -> Tensor:
    """As ``perceptron.radial_network``."""
    (out,) = twice.apply(Network(), x, *weights)
    return out


class Network:
    """(x, W_1 .. W_n) -> silu(.. silu(x W_1) .. W_n); an operation as ``twice`` takes them.

    Layers are padded with zeros to whole vectors of the processor: silu(0) = 0.
    """

    kinds: tuple[str, ...] = ("geometry", "weight")

    def value(self, inputs: Tensors) -> Tensors:
        x, *weights = self._padded(inputs)
        out = x.new_empty(x.shape[0], weights[-1].shape[1])
        call("network_forward", x.dtype, self._shape(x, weights), pointer(x), pointers(weights),
             pointer(out))  # fmt: skip
        return [out[:, : inputs[-1].shape[1]].contiguous()]

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        x, *weights = self._padded(inputs)
        grad = self._pad_columns(grads[0])
        of_x = torch.empty_like(x) if needed[0] else None
        of_w = [torch.empty_like(w) for w in weights] if any(needed[1:]) else None
        call("network_gradient", x.dtype, self._shape(x, weights), pointer(grad), pointer(x),
             pointers(weights), pointer(of_x), pointers(of_w) if of_w else None)  # fmt: skip
        return [of_x, *self._cut(of_w or [None] * len(weights), inputs[1:])]

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        x, *weights = self._padded(inputs)
        grad = self._pad_columns(grads[0])
        v_x = v[0].contiguous() if v[0] is not None else None
        v_w = [None if d is None else self._pad_both(d, i) for i, d in enumerate(v[1:])]
        of_grad, of_w = torch.empty_like(grad), [torch.empty_like(w) for w in weights]
        of_x = torch.empty_like(x) if needed[0] else None
        arguments = [pointer(grad), pointer(x), pointers(weights), pointer(v_x), pointers(v_w)]
        results = [pointer(of_grad), pointer(of_x), pointers(of_w)]
        call("network_second", x.dtype, self._shape(x, weights), *arguments, *results)
        size = grads[0].shape[1]
        return [of_x, *self._cut(of_w, inputs[1:])], [of_grad[:, :size].contiguous()]

    def _padded(self, inputs: Tensors) -> list[Tensor]:
        return [inputs[0].contiguous(), *(self._pad_both(w, i) for i, w in enumerate(inputs[1:]))]

    def _pad_both(self, weight: Tensor, layer: int) -> Tensor:
        """Whole vectors of outputs and, but for the first layer, inputs."""
        step = lanes(weight.dtype)
        rows = -weight.shape[0] % step if layer else 0
        columns = -weight.shape[1] % step
        if not rows and not columns:
            return weight.contiguous()
        return torch.nn.functional.pad(weight, (0, columns, 0, rows))

    def _pad_columns(self, grad: Tensor) -> Tensor:
        rest = -grad.shape[1] % lanes(grad.dtype)
        return torch.nn.functional.pad(grad, (0, rest)) if rest else grad.contiguous()

    def _cut(self, padded: Gradients, like: Tensors) -> Gradients:
        return [
            None if p is None else p[: w.shape[0], : w.shape[1]].contiguous()
            for p, w in zip(padded, like, strict=True)
        ]

    def _shape(self, x: Tensor, weights: Sequence[Tensor]) -> Numbers:
        sizes = torch.tensor([x.shape[1], *(w.shape[1] for w in weights)])
        return Numbers((x.shape[0], len(weights), torch.get_num_threads()), (sizes,))
