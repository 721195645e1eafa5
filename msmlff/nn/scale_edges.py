"""From edge vectors to the edges of each layer and scale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.nn.edges import RowBlocks, Rows, ScaleEdges
from msmlff.nn.ops.backends import backend_for
from msmlff.nn.radial import RadialBasis
from msmlff.nn.spherical import SphericalHarmonics


def build_scale_edges(
    vectors: Tensor,
    batch: Batch,
    scales: Iterable[tuple[float, SphericalHarmonics, RadialBasis]],
    needed: Sequence[int],
) -> list[list[ScaleEdges]]:
    """For each layer the edges below each scale's cutoff. The scale of longest range takes the short, too.

    Args:
        vectors: [edges, 3] Å, of the batch's edges.
        batch: the frames.
        scales: cutoff in Å, harmonics and radial basis of each scale.
        needed: how many atoms' features are needed before the first layer and after each, descending. A
            layer has the edges that those needed after it receive; layers alike share them.
    """
    lengths = vectors.detach().square().sum(dim=1).sqrt()
    backend = backend_for(vectors.device)
    sizes = list(pairwise(needed))
    layers: dict[tuple[int, int], list[ScaleEdges]] = {size: [] for size in sizes}
    for cutoff, harmonics, basis in scales:
        prepared = batch.layout.within(cutoff) if batch.layout is not None else None
        chosen = prepared.edge if prepared is not None else _chosen(lengths < cutoff, batch, sizes)
        edges = _Edges(
            vectors.index_select(0, chosen),
            batch.sender.index_select(0, chosen),
            batch.receiver.index_select(0, chosen),
        )
        # With shells an edge may be there for a pair term alone, and its receiver beyond those of any layer.
        if backend.padded:
            for (_, receivers), of_layer in layers.items():
                received = edges if batch.shells is None else edges.first(receivers)
                of_layer.append(_padded(received, receivers, cutoff, harmonics, basis, backend.name))
            continue
        length = edges.vector.square().sum(dim=1).sqrt()
        angular = harmonics(edges.vector / length.unsqueeze(1))
        for (senders, receivers), of_layer in layers.items():
            received = edges if batch.shells is None else edges.first(receivers)
            rows = received.rows(senders) if prepared is None else prepared.rows
            count = len(rows.sender)
            found = backend.pairs(rows, edges.vector[:count]) if backend.pairs is not None else None
            items = length[:count] if found is None else length.index_select(0, found.edge[:, 0])
            of_layer.append(
                ScaleEdges(rows, rows.sender, basis(items), angular[:count], backend.name, receivers, found)
            )
    return [layers[size] for size in sizes]


@dataclass(frozen=True)
class _Edges:
    """Edges of a scale: vector [edges, 3], sender and receiver [edges] long, receivers ascending."""

    vector: Tensor
    sender: Tensor
    receiver: Tensor

    def first(self, receivers: int) -> _Edges:
        """Those that the first atoms receive."""
        count = int(torch.searchsorted(self.receiver, receivers))
        return _Edges(self.vector[:count], self.sender[:count], self.receiver[:count])

    def rows(self, atoms: int) -> Rows:
        """Rows of ``atoms`` atoms."""
        return Rows.build(self.sender, self.receiver, atoms)


def _chosen(near: Tensor, batch: Batch, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Which edges are ``near`` [edges] bool, and have a sender with features in every layer they are in.

    Shells are found with lengths in float64: an edge at the cutoff, there for a pair term, may be near in
    float32 alone. Its sender may then lie beyond the layer's atoms.
    """
    if batch.shells is not None:
        for senders, receivers in sizes:
            near = near & ((batch.receiver >= receivers) | (batch.sender < senders))
    return near.nonzero().squeeze(1)


def _padded(
    edges: _Edges,
    receivers: int,
    cutoff: float,
    harmonics: SphericalHarmonics,
    basis: RadialBasis,
    backend: str,
) -> ScaleEdges:
    rows = RowBlocks.build(edges.receiver, receivers)
    # An empty slot gets a vector beyond the cutoff, where the radial basis and all after it are zero.
    vector = rows.pad(edges.vector) + rows.empty.to(edges.vector.dtype).unsqueeze(1) * (2.0 * cutoff)
    length = vector.square().sum(dim=1).sqrt()
    unit = vector / length.unsqueeze(1)
    return ScaleEdges(rows, rows.pad(edges.sender), basis(length), harmonics(unit), backend, receivers)
