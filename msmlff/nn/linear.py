"""Linear maps between features of the same angular momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def split_l(features: Tensor) -> list[Tensor]:
    """[n, (l_max + 1)^2, channels] as a list over l of views [n, 2 l + 1, channels]."""
    l_max = math.isqrt(features.shape[1]) - 1
    return list(features.split([2 * l + 1 for l in range(l_max + 1)], dim=1))


class EquivariantLinear(nn.Module):
    """out_l = in_l W_l / sqrt(fan in), separately for each l: mixes channels, never m.

    Args:
        inputs: channels of each l that comes in.
        outputs: channels of each l that goes out, all equal; l with inputs only are dropped.
        gates: so many further rows of scalars go out, behind that of l = 0.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], gates: int = 0) -> None:
        super().__init__()
        if len(outputs) > len(inputs):
            raise ValueError(f"no input for l = {len(inputs)}: {len(inputs)} inputs, {len(outputs)} outputs")
        self.gates = gates
        sizes = [(1 + gates) * outputs[0], *outputs[1:]]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(a, b)) for a, b in zip(inputs, sizes, strict=False)
        )

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """A list over l of [n, 2 l + 1, inputs[l]] -> [n, gates + (l_max + 1)^2, outputs[0]]."""
        mapped = [
            part @ (weight * (1.0 / math.sqrt(weight.shape[0])))
            for part, weight in zip(parts, self.weights, strict=False)
        ]
        if self.gates:
            mapped[0] = mapped[0].view(mapped[0].shape[0], 1 + self.gates, -1)
        return mapped[0] if len(mapped) == 1 else torch.cat(mapped, dim=1)
