"""MS-MACE (Hu, Zhou, Jiang, arXiv 2312.09490): MACE whose A-basis sums messages of several ranges.

    A_s = Up_s( sum_j R_s(r_ij) Down_s(h_j) x Y(r_ij) ) / n_s      messages of scale s, edges below its cutoff
                                                               (n_s: neighbours on average, or their root)
    A   = mean_s A_s   or   sum_s A_s
    h'  = Linear( SymmetricContraction(A) ) + Skip(h)
    E_i = E0 + scale * sum over layers of Readout(h')

The scales meet before the many-body product: there is no separate energy of long range. With one scale this
is MACE (Batatia et al., arXiv 2206.07697), number for number that of mace-torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from msmlff.models.architecture import MACEArchitecture, MSMACEArchitecture
from msmlff.models.message_passing import MessagePassingLayer, MessagePassingModel, pad_rows
from msmlff.nn.edges import ScaleEdges
from msmlff.nn.linear import EquivariantLinear, split_l
from msmlff.nn.readout import LinearReadout, NonlinearReadout
from msmlff.nn.species import SpeciesGroups, SpeciesLinear
from msmlff.nn.symmetric_contraction import SymmetricContraction


class _Layer(MessagePassingLayer):
    """One layer: messages of all scales, merged, multiplied, mixed; skip connection."""

    def __init__(
        self,
        architecture: MSMACEArchitecture | MACEArchitecture,
        species: int,
        norms: Sequence[float],
        index: int,
    ) -> None:
        l_max = max(s.l_max for s in architecture.scales)
        super().__init__(architecture, norms, index, l_max)
        self.l_max, channels = l_max, architecture.channels
        l_in = 0 if index == 0 else architecture.hidden_l_max
        l_out = 0 if index == architecture.layers - 1 else architecture.hidden_l_max
        self.product = SymmetricContraction(species, self.l_max, l_out, channels, architecture.correlation)
        self.linear = EquivariantLinear([channels] * (l_out + 1), [channels] * (l_out + 1))
        # Without features to skip with, the first layer maps its messages by species instead, as MACE does.
        by_species = index == 0 and not architecture.residual_first
        self.message_by_species = (
            SpeciesLinear(species, self.l_max, channels, channels) if by_species else None
        )
        self.skip = None if by_species else SpeciesLinear(species, min(l_in, l_out), channels, channels)

    def forward(
        self,
        h: Tensor | None,
        table: Tensor,
        species: Tensor,
        groups: SpeciesGroups,
        edges: Sequence[ScaleEdges],
    ) -> Tensor:
        """Features of the atoms of ``groups`` from those of the layer before or, None, ``table[species]``."""
        a = self.messages(h, table, species, edges, (self.l_max + 1) ** 2)
        if self.message_by_species is not None:
            a = self.message_by_species(a, groups)
        out = self.linear(split_l(self.product(a, groups)))
        if self.skip is None:
            return out
        skipped = self.skip(table[groups.species].unsqueeze(1) if h is None else h[: out.shape[0]], groups)
        return out + pad_rows(skipped, out.shape[1])


class MSMACE(MessagePassingModel):
    """Multiscale MACE; arguments and errors are those of ``MessagePassingModel``."""

    architecture: MSMACEArchitecture | MACEArchitecture
    layer = _Layer

    def make_readouts(self) -> list[nn.Module]:
        readouts: list[nn.Module] = [LinearReadout(self.architecture.channels) for _ in self.layers]
        if len(readouts) > 1:
            readouts[-1] = NonlinearReadout(self.architecture.channels, self.architecture.readout_hidden)
        return readouts

    def species_table(self) -> Tensor:
        return self.embedding * (1.0 / math.sqrt(self.embedding.shape[0]))
