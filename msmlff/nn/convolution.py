"""The message passing of one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msmlff.nn.constant import Constant
from msmlff.nn.e3nn_import import wigner_3j
from msmlff.nn.edges import ScaleEdges
from msmlff.nn.linear import EquivariantLinear, split_l
from msmlff.nn.ops import Path, convolution, species_convolution
from msmlff.nn.radial import SILU_SCALE, RadialMLP

#: Up to so many species the first layer sums over neighbours before it meets the channels.
_SPECIES_SUM_UP_TO = 4


def convolution_paths(l_hidden: int, l_edge: int, l_out: int) -> list[Path]:
    """Couplings of natural parity, (-1)^(l1 + l2) = (-1)^l3, with l3 <= l_out, ascending in (l3, l1, l2)."""
    return [
        Path(l1, l2, l3)
        for l3 in range(l_out + 1)
        for l1 in range(l_hidden + 1)
        for l2 in range(l_edge + 1)
        if abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0
    ]


class ScaleConvolution(nn.Module):
    """A_s = Up(Conv(Down(h), Y, R)) / norm, the A-basis of one scale (MS-MACE, arXiv 2312.09490).

    Args:
        channels: channels of the features h and of the A-basis.
        l_hidden: highest l of h.
        scale_channels: channels of the messages; for a one-scale model, where it equals ``channels``, Down
            and Up are MACE's ``linear_up`` and ``linear``.
        l_edge: highest l of the harmonics of the edges.
        l_out: highest l of the A-basis.
        num_bessel: size of the radial basis.
        radial_mlp: hidden layers of the radial network.
        norm: what the sums over neighbours are divided by, n or its square root.
    """

    def __init__(
        self,
        channels: int,
        l_hidden: int,
        scale_channels: int,
        l_edge: int,
        l_out: int,
        num_bessel: int,
        radial_mlp: Sequence[int],
        norm: float,
    ) -> None:
        super().__init__()
        self.norm = float(norm)
        self.paths = convolution_paths(l_hidden, l_edge, l_out)
        reached = [sum(p.l3 == l for p in self.paths) for l in range(l_out + 1)]
        reached = [n for n in reached if n]
        self.down = EquivariantLinear([channels] * (l_hidden + 1), [scale_channels] * (l_hidden + 1))
        self.radial = RadialMLP(num_bessel, radial_mlp)
        self.radial_weight = nn.Parameter(torch.randn(len(self.paths), self.radial.outputs, scale_channels))
        self.up = EquivariantLinear([n * scale_channels for n in reached], [channels] * len(reached))
        self._couplings = [
            Constant(
                math.sqrt(2 * p.l3 + 1)
                * wigner_3j(p.l1, p.l2, p.l3).transpose(1, 0, 2).reshape(2 * p.l2 + 1, -1)
            )
            for p in self.paths
        ]

    def forward(self, features: Tensor, edges: ScaleEdges, species: Tensor | None = None) -> Tensor:
        """The A-basis of this scale: [receiving atoms, (reached l + 1)^2, channels].

        Args:
            features: [atoms, (l_hidden + 1)^2, channels]; or, with ``species``, a table [species, channels].
            edges: the scale's edges.
            species: [atoms] long, given in the first layer, where the features are ``table[species]``.
        """
        return edges.in_order_of_atoms(self.up(self._sums(features, edges, species)) * (1.0 / self.norm))

    def sums(self, features: Tensor, edges: ScaleEdges, species: Tensor | None = None) -> list[Tensor]:
        """What Up is to be applied to, not yet divided by the norm; arguments are those of ``forward``.

        Returns:
            for each l reached [receiving atoms, 2 l + 1, paths to l * scale channels].
        """
        return [edges.in_order_of_atoms(part) for part in self._sums(features, edges, species)]

    def _sums(self, features: Tensor, edges: ScaleEdges, species: Tensor | None) -> list[Tensor]:
        """``sums`` in the order of the backend."""
        if species is not None and features.shape[0] > _SPECIES_SUM_UP_TO:
            return self._sums(features[species].unsqueeze(1), edges, None)
        phi = self.radial(edges.radial)
        weight = self.radial_weight * (SILU_SCALE / math.sqrt(self.radial.outputs))
        if species is None:
            h = self.down(split_l(features))
            couplings = [coupling(h) for coupling in self._couplings]
            sums = convolution(h, phi, weight, couplings, self.paths, edges)
        else:
            table = self.down([features.unsqueeze(1)]).squeeze(1)
            sums = species_convolution(table, species, phi, weight, self.paths, edges)
        return [edges.received(part) for part in sums]
