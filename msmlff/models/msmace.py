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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from msmlff.data.batch import Batch
from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models.architecture import MACEArchitecture, MSMACEArchitecture
from msmlff.models.base import ForceField
from msmlff.nn.constant import Constant
from msmlff.nn.convolution import ScaleConvolution
from msmlff.nn.edges import RowBlocks, ScaleEdges
from msmlff.nn.linear import EquivariantLinear, split_l
from msmlff.nn.radial import PolynomialCutoff, RadialBasis
from msmlff.nn.readout import LinearReadout, NonlinearReadout
from msmlff.nn.segment import segment_sum
from msmlff.nn.species import SpeciesGroups, SpeciesLinear
from msmlff.nn.spherical import SphericalHarmonics
from msmlff.nn.symmetric_contraction import SymmetricContraction


class MSMACE(ForceField):
    """Multiscale MACE.

    Args:
        atomic_numbers: species, ascending.
        e0s: eV, energies of the isolated atoms: a mapping from atomic number or a sequence.
        architecture: scales, channels and all other hyperparameters.
        statistics: mean numbers of neighbours (one a scale), shifts (eV, one a species) and the scale of the
            energy; default: neighbours 1, shifts 0, scale 1.

    Raises:
        InputError: species or E0s as in ``ForceField``; statistics that do not fit scales or species.
    """

    def __init__(
        self,
        atomic_numbers: Sequence[int],
        e0s: Mapping[int, float] | Sequence[float],
        architecture: MSMACEArchitecture | MACEArchitecture,
        statistics: Statistics | None = None,
    ) -> None:
        scales = architecture.scales
        super().__init__(atomic_numbers, e0s, [s.cutoff for s in scales])
        species = len(self.atomic_numbers)
        self.architecture = architecture
        self.statistics = _statistics(statistics, len(scales), species)
        self.embedding = nn.Parameter(torch.randn(species, architecture.channels))
        self.harmonics = nn.ModuleList(SphericalHarmonics(s.l_max) for s in scales)
        self.radial_bases = nn.ModuleList(
            RadialBasis(s.cutoff, architecture.num_bessel, architecture.cutoff_power) for s in scales
        )
        self.envelope = PolynomialCutoff(min(self.scale_cutoffs), architecture.cutoff_power)
        power = 0.5 if architecture.neighbor_norm == "sqrt" else 1.0
        norms = [n**power for n in self.statistics.neighbors]
        self.layers = nn.ModuleList(
            _Layer(architecture, species, norms, i) for i in range(architecture.layers)
        )
        readouts: list[nn.Module] = [LinearReadout(architecture.channels) for _ in self.layers]
        if len(readouts) > 1:
            readouts[-1] = NonlinearReadout(architecture.channels, architecture.readout_hidden)
        self.readouts = nn.ModuleList(readouts)
        self._shift = Constant(list(self.statistics.shift))

    def config(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture.to_dict(),
            "atomic_numbers": list(self.atomic_numbers),
            "e0s": list(self.e0s),
            "statistics": self.statistics.to_dict(),
        }

    def interaction_energies(self, vectors: Tensor, batch: Batch) -> Tensor:
        energy = vectors.new_zeros(batch.num_atoms)
        for readout, h in zip(self.readouts, self._hidden(vectors, batch), strict=True):
            energy = energy + readout(h[:, 0])
        energy = energy * self.statistics.scale
        if self.architecture.shift == "none":
            return energy
        shift = self._shift(energy)[batch.species]
        if self.architecture.shift == "environment":
            shift = shift * self._occupation(vectors, batch)
        return energy + shift

    def features(self, batch: Batch) -> Tensor:
        return torch.cat([h[:, 0] for h in self._hidden(self.edge_vectors(batch), batch)], dim=1)

    def _hidden(self, vectors: Tensor, batch: Batch) -> list[Tensor]:
        """Features [atoms, (l + 1)^2, channels] after each layer."""
        groups = SpeciesGroups.build(batch.species, len(self.atomic_numbers))
        edges = self._scale_edges(vectors, batch)
        table = self.embedding * (1.0 / math.sqrt(self.embedding.shape[0]))
        hidden: list[Tensor] = []
        for layer in self.layers:
            hidden.append(layer(hidden[-1] if hidden else None, table, batch.species, groups, edges))
        return hidden

    def _scale_edges(self, vectors: Tensor, batch: Batch) -> list[ScaleEdges]:
        """The edges below each scale's cutoff. The scale of longest range takes the short edges, too."""
        lengths = vectors.detach().square().sum(dim=1).sqrt()
        edges = []
        for cutoff, harmonics, basis in zip(
            self.scale_cutoffs, self.harmonics, self.radial_bases, strict=True
        ):
            chosen = (lengths < cutoff).nonzero().squeeze(1)
            blocks = RowBlocks.build(batch.receiver.index_select(0, chosen), batch.num_atoms)
            vector = blocks.pad(vectors.index_select(0, chosen))
            # An empty slot gets a vector beyond the cutoff, where the radial basis and all after it are zero.
            vector = vector + blocks.empty.to(vector.dtype).unsqueeze(1) * (2.0 * cutoff)
            length = vector.square().sum(dim=1).sqrt()
            edges.append(
                ScaleEdges(
                    blocks=blocks,
                    sender=blocks.pad(batch.sender.index_select(0, chosen)),
                    radial=basis(length),
                    harmonics=harmonics(vector / length.unsqueeze(1)),
                )
            )
        return edges

    def _occupation(self, vectors: Tensor, batch: Batch) -> Tensor:
        """[atoms] 1 - exp(-sum_j f(r_ij)): 0 for an isolated atom, a half for one neighbour, 1 in matter."""
        weight = self.envelope(vectors.square().sum(dim=1).sqrt())
        return -torch.expm1(-segment_sum(weight, batch.row_ptr))


class _Layer(nn.Module):
    """One layer: messages of all scales, merged, multiplied, mixed; skip connection."""

    def __init__(
        self,
        architecture: MSMACEArchitecture | MACEArchitecture,
        species: int,
        norms: Sequence[float],
        index: int,
    ) -> None:
        super().__init__()
        scales, channels = architecture.scales, architecture.channels
        l_in = 0 if index == 0 else architecture.hidden_l_max
        l_out = 0 if index == architecture.layers - 1 else architecture.hidden_l_max
        self.l_max = max(s.l_max for s in scales)
        self.factor = 1.0 / len(scales) if architecture.merge == "mean" else 1.0
        self.scales = nn.ModuleList(
            ScaleConvolution(
                channels, l_in, s.channels, s.l_max, self.l_max, architecture.num_bessel, s.radial_mlp, n
            )
            for s, n in zip(scales, norms, strict=True)
        )
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
        """Features of the atoms, from those of the layer before, or, None, from ``table[species]``."""
        a = self._messages(h, table, species, edges)
        if self.message_by_species is not None:
            a = self.message_by_species(a, groups)
        out = self.linear(split_l(self.product(a, groups)))
        if self.skip is None:
            return out
        skipped = self.skip(table[species].unsqueeze(1) if h is None else h, groups)
        return out + _pad_l(skipped, out.shape[1])

    def _messages(
        self, h: Tensor | None, table: Tensor, species: Tensor, edges: Sequence[ScaleEdges]
    ) -> Tensor:
        """The A-basis [atoms, (l_max + 1)^2, channels], all scales merged."""
        total: Tensor | None = None
        for convolution, scale_edges in zip(self.scales, edges, strict=True):
            a = convolution(table, scale_edges, species) if h is None else convolution(h, scale_edges)
            a = _pad_l(a, (self.l_max + 1) ** 2)
            total = a if total is None else total + a
        assert total is not None
        return total if self.factor == 1.0 else total * self.factor


def _pad_l(features: Tensor, size: int) -> Tensor:
    """[atoms, lm, channels] with zeros for the higher l, up to ``size`` = (l_max + 1)^2."""
    missing = size - features.shape[1]
    return functional.pad(features, (0, 0, 0, missing)) if missing else features


def _statistics(statistics: Statistics | None, num_scales: int, num_species: int) -> Statistics:
    if statistics is None:
        return Statistics((1.0,) * num_scales, (0.0,) * num_species, 1.0)
    if len(statistics.neighbors) != num_scales or len(statistics.shift) != num_species:
        raise InputError(
            f"statistics has {len(statistics.neighbors)} neighbours and {len(statistics.shift)} shifts; the "
            f"model has {num_scales} scales and {num_species} species: compute it for these"
        )
    # A scale without neighbours in the data sends no messages; dividing by one keeps it finite.
    return replace(statistics, neighbors=tuple(n if n > 0 else 1.0 for n in statistics.neighbors))
