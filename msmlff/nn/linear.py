"""Linear maps between features of the same angular momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msmlff.nn.ops import linear_maps
from msmlff.nn.ops.maps import LinearMap, LinearMaps


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
        self._spec = LinearMaps(tuple(self.maps()), gates + len(outputs) ** 2, outputs[0])

    def maps(self, first: int = 0, factor: float = 1.0) -> list[LinearMap]:
        """The map of each l, of inputs and by weights counted from ``first``; all times ``factor``."""
        return [
            LinearMap(
                input=first + l,
                first=0,
                count=2 * l + 1,
                weight=first + l,
                degree=None,
                row=l * l + self.gates if l else 0,
                blocks=1 if l else 1 + self.gates,
                factor=factor / math.sqrt(weight.shape[0]),
            )
            for l, weight in enumerate(self.weights)
        ]

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """A list over l of [n, 2 l + 1, inputs[l]] -> [n, gates + (l_max + 1)^2, outputs[0]]."""
        return linear_maps(parts[: len(self.weights)], list(self.weights), self._spec)
