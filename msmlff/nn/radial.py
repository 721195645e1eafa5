"""Radial functions: Bessel basis, polynomial cutoff, radial multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from msmlff.nn.constant import Constant

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


class BesselBasis(nn.Module):
    """sqrt(2 / cutoff) sin(n pi r / cutoff) / r, n = 1 .. size (arXiv 2003.03123, eq. 7)."""

    def __init__(self, cutoff: float, size: int) -> None:
        super().__init__()
        self.cutoff, self.size = float(cutoff), int(size)
        self._wave = Constant([n * math.pi / cutoff for n in range(1, size + 1)])

    def forward(self, length: Tensor) -> Tensor:
        """[...] Å, > 0 -> [..., size]."""
        sine = torch.sin(length.unsqueeze(-1) * self._wave(length))
        return sine * (math.sqrt(2.0 / self.cutoff) / length).unsqueeze(-1)


class RadialBasis(nn.Module):
    """Bessel functions times the cutoff: [...] Å -> [..., size], smoothly zero at the cutoff and beyond."""

    def __init__(self, cutoff: float, size: int, power: int) -> None:
        super().__init__()
        self.bessel = BesselBasis(cutoff, size)
        self.envelope = PolynomialCutoff(cutoff, power)

    def forward(self, length: Tensor) -> Tensor:
        return self.bessel(length) * self.envelope(length).unsqueeze(-1)


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
        """[..., inputs] -> [..., hidden[-1]]."""
        scale = 1.0
        for weight in self.weights:
            x = functional.silu(x @ (weight * (scale / math.sqrt(weight.shape[0]))))
            scale = SILU_SCALE
        return x * SILU_SCALE if len(self.weights) else x
