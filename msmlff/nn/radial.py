"""Radial functions: Bessel basis, polynomial cutoff, radial multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from msmlff.nn.constant import Constant
from msmlff.nn.ops import radial_network

#: Factor that gives silu(z), z standard normal, a second moment of one. The digits are those of e3nn's
#: ``normalize2mom``, a Monte Carlo estimate of fixed seed, so that converted weights keep their meaning.
SILU_SCALE = 1.6791767923989418


class PolynomialCutoff(nn.Module):
    """f(r) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2), x = r / cutoff; 0 beyond the cutoff.

    Its first two derivatives vanish at the cutoff (Gasteiger et al., arXiv 2003.03123, eq. 8).
    """

    def __init__(self, cutoff: float, power: int) -> None:
        super().__init__()
        if power < 2:
            raise ValueError(f"the cutoff's power is {power}; forces need 2 or more to be smooth")
        self.cutoff, self.power = float(cutoff), int(power)

    def forward(self, length: Tensor) -> Tensor:
        """[...] Å -> [...]."""
        p = self.power
        x = (length / self.cutoff).clamp(max=1.0)
        polynomial = (p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2))
        return 1.0 - x**p * polynomial

    def derivatives(self, length: Tensor) -> tuple[Tensor, Tensor]:
        """[...] Å -> f' in 1/Å and f'' in 1/Å^2."""
        p = self.power
        x = (length / self.cutoff).clamp(max=1.0)
        factor = -p * (p + 1) * (p + 2) / 2
        power = x ** (p - 2)
        first = (factor / self.cutoff) * power * x * (1 - x) ** 2
        second = (factor / self.cutoff**2) * power * (1 - x) * (p - 1 - (p + 1) * x)
        return first, second


class RadialBasis(nn.Module):
    """b_n(r) = sqrt(2 / cutoff) f(r) sin(n pi r / cutoff) / r, n = 1 .. size, f the polynomial cutoff.

    Bessel functions (Gasteiger et al., arXiv 2003.03123, eq. 7), smoothly zero at the cutoff and beyond.
    """

    def __init__(self, cutoff: float, size: int, power: int) -> None:
        super().__init__()
        self.envelope = PolynomialCutoff(cutoff, power)
        self._wave = Constant([n * math.pi / cutoff for n in range(1, size + 1)])

    def forward(self, length: Tensor) -> Tensor:
        """[items] Å, > 0 -> [items, size]; differentiable twice."""
        return _Bessel.apply(length, self._wave(length), self.envelope)


class _Bessel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, length: Tensor, wave: Tensor, envelope: PolynomialCutoff) -> Tensor:
        ctx.save_for_backward(length, wave)
        ctx.envelope = envelope
        return _bessel(length, wave, envelope, 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _BesselGradient.apply(grads[0], *ctx.saved_tensors, ctx.envelope), None, None


class _BesselGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, length: Tensor, wave: Tensor, envelope: PolynomialCutoff) -> Tensor:
        ctx.save_for_backward(grad, length, wave)
        ctx.envelope = envelope
        return torch.einsum("sn,sn->s", grad, _bessel(length, wave, envelope, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *v: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad, length, wave = ctx.saved_tensors
        by_grad = _bessel(length, wave, ctx.envelope, 1).mul_(v[0].unsqueeze(1))
        by_length = v[0] * torch.einsum("sn,sn->s", grad, _bessel(length, wave, ctx.envelope, 2))
        return by_grad, by_length, None, None


def _bessel(length: Tensor, wave: Tensor, envelope: PolynomialCutoff, order: int) -> Tensor:
    """The derivative of b(r) = q(r) sin(k r) of an order up to 2, with q = sqrt(2 / cutoff) f / r."""
    r, k = length.unsqueeze(1), wave
    phase = r * k
    scale = math.sqrt(2.0 / envelope.cutoff)
    f = scale * envelope(r)
    if order == 0:
        return phase.sin_().mul_(f / r)
    df, ddf = (scale * d for d in envelope.derivatives(r))
    q, dq = f / r, (df - f / r) / r
    sine, cosine = phase.sin(), phase.cos_()
    if order == 1:
        return sine.mul_(dq).add_(cosine.mul_(q * k))
    ddq = (ddf - 2 * dq) / r
    return sine.mul_(ddq - q * k**2).add_(cosine.mul_(2 * dq * k))


class RadialMLP(nn.Module):
    """Hidden layers of the radial network, without biases: zero in gives zero out.

    Each layer is silu(x W / sqrt(fan in)) times a constant, so unit variance stays (e3nn's normalisation).
    The last, linear layer belongs to the convolution, which need not form its output for every edge.
    """

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.outputs = sizes[-1]
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(a, b)) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """[items, inputs] -> [items, hidden[-1]], second moment 1 / SILU_SCALE^2: the reader scales it."""
        weights = [
            w * ((SILU_SCALE if l else 1.0) / math.sqrt(w.shape[0])) for l, w in enumerate(self.weights)
        ]
        return radial_network(x, weights)
