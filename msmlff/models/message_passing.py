"""What the models of the MACE and of the NequIP family share: layers of messages of one or several ranges."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from msmlff.data.batch import Batch
from msmlff.data.statistics import Statistics
from msmlff.models.architecture import MessagePassingArchitecture
from msmlff.models.scaled import ScaledForceField
from msmlff.nn.convolution import ScaleConvolution
from msmlff.nn.edges import ScaleEdges
from msmlff.nn.radial import RadialBasis
from msmlff.nn.scale_edges import build_scale_edges
from msmlff.nn.species import SpeciesGroups
from msmlff.nn.spherical import SphericalHarmonics


class MessagePassingModel(ScaledForceField):
    """E_i = E0 + shift + scale * sum over readouts of Readout(h_i), h the features after the last layers.

    A subclass gives the class of its layers and its readouts. Arguments and errors are those of
    ``ScaledForceField``.
    """

    architecture: MessagePassingArchitecture
    layer: Callable[[Any, int, Sequence[float], int], MessagePassingLayer]

    def __init__(
        self,
        atomic_numbers: Sequence[int],
        e0s: Mapping[int, float] | Sequence[float],
        architecture: MessagePassingArchitecture,
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__(atomic_numbers, e0s, architecture, statistics)
        scales = architecture.scales
        self.hops = architecture.layers
        self.embedding = nn.Parameter(torch.randn(len(self.atomic_numbers), architecture.channels))
        self.harmonics = nn.ModuleList(SphericalHarmonics(s.l_max) for s in scales)
        self.radial_bases = nn.ModuleList(
            RadialBasis(s.cutoff, architecture.num_bessel, architecture.cutoff_power) for s in scales
        )
        make, species = type(self).layer, len(self.atomic_numbers)
        self.layers = nn.ModuleList(
            make(architecture, species, self.norms, i) for i in range(architecture.layers)
        )
        self.readouts = nn.ModuleList(self.make_readouts())

    @property
    def norms(self) -> list[float]:
        """What the sums over neighbours are divided by, one a scale."""
        power = 0.5 if self.architecture.neighbor_norm == "sqrt" else 1.0
        return [n**power for n in self.statistics.neighbors]

    def network(self, vectors: Tensor, batch: Batch) -> Tensor:
        counted = batch.num_counted
        energy = vectors.new_zeros(counted)
        hidden = self._hidden(vectors, batch)[-len(self.readouts) :]
        for readout, h in zip(self.readouts, hidden, strict=True):
            energy = energy + readout(h[:counted, 0])
        return functional.pad(energy, (0, batch.num_atoms - counted))

    def features(self, batch: Batch) -> Tensor:
        hidden = self._hidden(self.edge_vectors(batch), batch)
        return torch.cat([h[: batch.num_counted, 0] for h in hidden], dim=1)

    @abstractmethod
    def make_readouts(self) -> list[nn.Module]:
        """One for each of the last layers."""

    @abstractmethod
    def species_table(self) -> Tensor:
        """[species, channels] the features of the atoms before the first layer."""

    def _hidden(self, vectors: Tensor, batch: Batch) -> list[Tensor]:
        """Features [atoms, (l + 1)^2, channels] after each layer: of the atoms that need them there."""
        scales: Any = zip(self.scale_cutoffs, self.harmonics, self.radial_bases, strict=True)
        needed = needed_atoms(batch, len(self.layers))
        edges = build_scale_edges(vectors, batch, scales, needed)
        sizes = list(pairwise(needed))
        if batch.exchange is not None:  # all layers are alike
            edges, sizes = edges * len(self.layers), sizes * len(self.layers)
        groups: dict[int, SpeciesGroups] = {}
        table = self.species_table()
        hidden: list[Tensor] = []
        for layer, (senders, atoms), of_layer in zip(self.layers, sizes, edges, strict=True):
            if batch.layout is not None:
                groups[atoms] = batch.layout.groups
            elif atoms not in groups:
                groups[atoms] = SpeciesGroups.build(batch.species[:atoms], len(self.atomic_numbers))
            before = hidden[-1] if hidden else None
            if before is not None and batch.exchange is not None:
                before = batch.exchange(before)
            hidden.append(layer(before, table, batch.species[:senders], groups[atoms], of_layer))
        return hidden


class MessagePassingLayer(nn.Module):
    """Base of a layer: the messages of all scales, merged into their mean or sum.

    Args:
        architecture: its scales, one a convolution.
        norms: what their sums over neighbours are divided by.
        index: of the layer, from 0; features are scalars before the first layer and after the last.
        l_out: highest l of the messages.
    """

    def __init__(
        self, architecture: MessagePassingArchitecture, norms: Sequence[float], index: int, l_out: int
    ) -> None:
        super().__init__()
        scales, l_in = architecture.scales, 0 if index == 0 else architecture.hidden_l_max
        self.factor = 1.0 / len(scales) if architecture.merge == "mean" else 1.0
        self.scales = nn.ModuleList(
            ScaleConvolution(
                architecture.channels,
                min(l_in, s.l_max + l_out),  # features of higher l couple to nothing
                s.channels,
                s.l_max,
                l_out,
                architecture.num_bessel,
                s.radial_mlp,
                n,
            )
            for s, n in zip(scales, norms, strict=True)
        )

    def messages(
        self, h: Tensor | None, table: Tensor, species: Tensor, edges: Sequence[ScaleEdges], rows: int
    ) -> Tensor:
        """[receiving atoms, rows, channels], all scales merged.

        Args:
            h: [atoms, (l + 1)^2, channels] features of the layer before; None: those of ``table[species]``.
            table: [species, channels].
            species: [atoms] long.
            edges: those of each scale; they say how many atoms receive.
            rows: of the result; a scale of lower l has fewer, the rest of its rows are zero.
        """
        total: Tensor | None = None
        for convolution, scale_edges in zip(self.scales, edges, strict=True):
            a = convolution(table, scale_edges, species) if h is None else convolution(h, scale_edges)
            a = pad_rows(a, rows)
            total = a if total is None else total + a
        assert total is not None
        return total if self.factor == 1.0 else total * self.factor


def needed_atoms(batch: Batch, layers: int) -> list[int]:
    """How many atoms' features are needed before the first layer and after each.

    Where features are exchanged, before any layer and after it: every layer gives the counted atoms theirs.
    """
    if batch.exchange is not None:
        return [batch.num_atoms, batch.num_counted]
    if batch.shells is None:
        return [batch.num_atoms] * (layers + 1)
    return [batch.shells[layers - i] for i in range(layers + 1)]


def pad_rows(features: Tensor, rows: int) -> Tensor:
    """[atoms, n, channels] -> [atoms, rows, channels], zeros for the rows of higher l."""
    missing = rows - features.shape[1]
    return functional.pad(features, (0, 0, 0, missing)) if missing else features
