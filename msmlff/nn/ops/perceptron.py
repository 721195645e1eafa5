"""Multilayer perceptron of the radial functions, with first and second derivatives derived by hand.

a_l = silu(z_l), z_l = a_{l-1} W_l. Every edge passes through it, so it is computed in pieces, and hidden
layers are computed again in the backward passes rather than stored: memory holds x and a_n of the edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from msmlff.nn.ops import twice
from msmlff.nn.ops.twice import Gradients, Tensors

#: Numbers of one layer's piece on the CPU, where it stays in the cache, and elsewhere, where a launch must be
#: worth its while: the second derivative holds some twenty such layers, 1.4 GiB in float32.
_PIECE, _PIECE_OF_DEVICE = 1 << 16, 1 << 24


def radial_network(x: Tensor, weights: list[Tensor]) -> Tensor:
    """silu(.. silu(x W_1) .. W_n): [items, inputs] -> [items, outputs], differentiable twice."""
    (out,) = twice.apply(_Network(), x, *weights)
    return out


def _pieces(x: Tensor, weights: Sequence[Tensor]) -> Iterator[slice]:
    size = _PIECE if x.device.type == "cpu" else _PIECE_OF_DEVICE
    step = max(1, size // max(w.shape[1] for w in weights))
    return (slice(a, a + step) for a in range(0, x.shape[0], step))


def _forward(x: Tensor, weights: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Activations a_0 .. a_n and arguments z_1 .. z_n."""
    a, z = [x], []
    for weight in weights:
        z.append(a[-1] @ weight)
        a.append(functional.silu(z[-1]))
    return a, z


class _Network:
    """(x, W_1 .. W_n) -> a_n."""

    kinds: tuple[str, ...] = ("geometry", "weight")

    def value(self, inputs: Tensors) -> Tensors:
        x, *weights = inputs
        out = x.new_empty(x.shape[0], weights[-1].shape[1])
        for piece in _pieces(x, weights):
            out[piece] = _forward(x[piece], weights)[0][-1]
        return [out]

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        x, *weights = inputs
        grad_x, grad_weights = torch.empty_like(x), [torch.zeros_like(w) for w in weights]
        need_x, need_weights = needed[0], any(needed[1:])
        for piece in _pieces(x, weights):
            a, z = _forward(x[piece], weights)
            g = grads[0][piece]
            for l in range(len(weights) - 1, -1, -1):
                g = torch.ops.aten.silu_backward(g, z[l])
                if need_weights:
                    grad_weights[l].addmm_(a[l].t(), g)
                if l or need_x:
                    g = g @ weights[l].t()
            if need_x:
                grad_x[piece] = g
        return [grad_x if need_x else None, *(grad_weights if need_weights else [None] * len(weights))]

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        x, *weights = inputs
        out_grad, out_x = torch.empty_like(grads[0]), torch.empty_like(x)
        out_weights = [torch.zeros_like(w) for w in weights]
        for piece in _pieces(x, weights):
            out_grad[piece], out_x[piece] = _second(piece, grads[0], x, weights, v, out_weights)
        return [out_x, *out_weights], [out_grad]


def _second(
    piece: slice,
    grad: Tensor,
    x: Tensor,
    weights: list[Tensor],
    v: Gradients,
    out_weights: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """Gradient of <v, dE/d(x, W)> by dE/da_n and by x; that by W is added to ``out_weights``.

    With g_l = dE/da_l and u_l = g_l silu'(z_l), g_{l-1} = u_l W_l^T. The derivative runs up along g's chain
    and then down along a's.
    """
    layers = range(len(weights))
    a, z = _forward(x[piece], weights)
    sigma = [torch.sigmoid(argument) for argument in z]
    slope = [s * (1 + argument * (1 - s)) for s, argument in zip(sigma, z, strict=True)]
    g, u = grad[piece], [grad] * len(weights)
    by_silu = [grad] * len(weights)
    for l in reversed(layers):
        u[l] = g * slope[l]
        s = sigma[l]
        by_silu[l] = g * (s * (1 - s)).mul_(2 + z[l] * (1 - 2 * s))
        if l:
            g = u[l] @ weights[l].t()
    up = torch.zeros_like(a[0]) if v[0] is None else v[0][piece]
    for l in layers:
        out_weights[l].addmm_(up.t(), u[l])
        along = up @ weights[l]
        vweight = v[l + 1]
        if vweight is not None:
            along.addmm_(a[l], vweight)
        by_silu[l].mul_(along)
        up = along * slope[l]
    down = torch.zeros_like(u[-1])
    for l in reversed(layers):
        total = by_silu[l].addcmul_(down, slope[l])
        out_weights[l].addmm_(a[l].t(), total)
        down = total @ weights[l].t()
        vweight = v[l + 1]
        if vweight is not None:
            down.addmm_(u[l], vweight.t())
    return up, down
