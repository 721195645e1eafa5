"""MS-NequIP (Hu, Zhou, Jiang, arXiv 2312.09490): NequIP whose convolution sums messages of several ranges.

    M_s = SelfInteraction_s( sum_j R_s(r_ij) Down_s(h_j) x Y(r_ij) ) / n_s   messages of scale s, edges below
                                                       its cutoff (n_s: neighbours on average, or their root)
    M   = mean_s M_s   or   sum_s M_s
    h'  = Gate( M + SelfConnection(h) )
    E_i = E0 + scale * Readout(h after the last layer)

The scales meet before the gate, where their self-interactions add up to one of the messages of all scales
side by side. The self-connection is a linear map for each species. The first layer has none, so that an atom
without neighbours has no energy but its E0.

Features have natural parity, (-1)^l: 0e + 1o + 2e .. With one scale this is NequIP (Batzner et al.,
arXiv 2101.03164), number for number that of the nequip package with ``parity: false``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from msmlff.models.architecture import MSNequIPArchitecture, NequIPArchitecture
from msmlff.models.message_passing import MessagePassingLayer, MessagePassingModel
from msmlff.nn.edges import ScaleEdges
from msmlff.nn.gate import gate
from msmlff.nn.linear import EquivariantLinear
from msmlff.nn.ops import linear_maps
from msmlff.nn.ops.maps import LinearMap, LinearMaps
from msmlff.nn.readout import LinearReadout, NonlinearReadout
from msmlff.nn.species import SpeciesGroups, SpeciesLinear


class _Layer(MessagePassingLayer):
    """One layer: messages of all scales, merged; self-connection; gate."""

    def __init__(
        self,
        architecture: MSNequIPArchitecture | NequIPArchitecture,
        species: int,
        norms: Sequence[float],
        index: int,
    ) -> None:
        l_out = 0 if index == architecture.layers - 1 else architecture.hidden_l_max
        super().__init__(architecture, norms, index, l_out)
        channels = architecture.channels
        convolutions: Any = self.scales
        for convolution in convolutions:  # NequIP's self-interaction gives the gates, too
            inputs = [len(weight) for weight in convolution.up.weights]
            convolution.up = EquivariantLinear(inputs, [channels] * len(inputs), gates=l_out)
        self.l_out = l_out
        self.skip = SpeciesLinear(species, l_out, channels, channels, gates=l_out) if index else None
        maps: list[LinearMap] = []
        for convolution in convolutions:
            maps += convolution.up.maps(first=len(maps), factor=self.factor / convolution.norm)
        if self.skip is not None:
            maps += self.skip.maps(place=len(maps))
        self._spec = LinearMaps(tuple(maps), l_out + (l_out + 1) ** 2, channels)

    def forward(
        self,
        h: Tensor | None,
        table: Tensor,
        species: Tensor,
        groups: SpeciesGroups,
        edges: Sequence[ScaleEdges],
    ) -> Tensor:
        """Features of the atoms of ``groups`` from those of the layer before or, None, ``table[species]``."""
        inputs: list[Tensor] = []
        weights: list[Tensor] = []
        convolutions: Any = self.scales
        for convolution, of_scale in zip(convolutions, edges, strict=True):
            source = (table, of_scale, species) if h is None else (h, of_scale)
            inputs += convolution.sums(*source)
            weights += convolution.up.weights
        if self.skip is not None:
            assert h is not None
            inputs.append(h[: inputs[0].shape[0]])
            weights.append(self.skip.weight)
        return gate(linear_maps(inputs, weights, self._spec, groups), self.l_out)


class MSNequIP(MessagePassingModel):
    """Multiscale NequIP; arguments and errors are those of ``MessagePassingModel``."""

    architecture: MSNequIPArchitecture | NequIPArchitecture
    layer = _Layer

    def make_readouts(self) -> list[nn.Module]:
        channels, hidden = self.architecture.channels, self.architecture.readout_hidden
        return [NonlinearReadout(channels, hidden) if hidden else LinearReadout(channels)]

    def species_table(self) -> Tensor:
        return self.embedding
