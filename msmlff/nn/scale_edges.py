"""From edge vectors to the edges of each scale."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.nn.edges import RowBlocks, Rows, ScaleEdges
from msmlff.nn.ops.backends import backend_for
from msmlff.nn.radial import RadialBasis
from msmlff.nn.spherical import SphericalHarmonics


def build_scale_edges(
    vectors: Tensor, batch: Batch, scales: Iterable[tuple[float, SphericalHarmonics, RadialBasis]]
) -> list[ScaleEdges]:
    """The edges below each scale's cutoff. The scale of longest range takes the short edges, too.

    Args:
        vectors: [edges, 3] Å, of the batch's edges.
        batch: the frames.
        scales: cutoff in Å, harmonics and radial basis of each scale.
    """
    lengths = vectors.detach().square().sum(dim=1).sqrt()
    backend = backend_for(vectors.device)
    edges = []
    for cutoff, harmonics, basis in scales:
        chosen = (lengths < cutoff).nonzero().squeeze(1)
        vector = vectors.index_select(0, chosen)
        sender, receiver = batch.sender.index_select(0, chosen), batch.receiver.index_select(0, chosen)
        rows: Rows | RowBlocks
        if backend.padded:
            rows = RowBlocks.build(receiver, batch.num_atoms)
            sender = rows.pad(sender)
            # An empty slot gets a vector beyond the cutoff, where the radial basis and all after it are zero.
            vector = rows.pad(vector) + rows.empty.to(vector.dtype).unsqueeze(1) * (2.0 * cutoff)
        else:
            rows = Rows.build(sender, receiver, batch.num_atoms)
        length = vector.square().sum(dim=1).sqrt()
        unit = vector / length.unsqueeze(1)
        edges.append(ScaleEdges(rows, sender, basis(length), harmonics(unit), backend.name))
    return edges
