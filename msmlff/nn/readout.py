"""Energies of atoms from their invariant features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from msmlff.nn.radial import SILU_SCALE


class LinearReadout(nn.Module):
    """x W / sqrt(channels), without a bias: no features, no energy."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels))

    def forward(self, invariants: Tensor) -> Tensor:
        """[atoms, channels] -> [atoms]."""
        return invariants @ (self.weight * (1.0 / math.sqrt(self.weight.shape[0])))


class NonlinearReadout(nn.Module):
    """One hidden layer of normalised silu, without biases."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.weight_in = nn.Parameter(torch.randn(channels, hidden))
        self.weight_out = nn.Parameter(torch.randn(hidden))

    def forward(self, invariants: Tensor) -> Tensor:
        """[atoms, channels] -> [atoms]."""
        channels, hidden = self.weight_in.shape
        x = functional.silu(invariants @ (self.weight_in * (1.0 / math.sqrt(channels))))
        return x @ (self.weight_out * (SILU_SCALE / math.sqrt(hidden)))
