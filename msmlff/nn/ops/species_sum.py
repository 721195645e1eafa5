"""Convolution of features that depend on the sender's species alone, as in the first layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from msmlff.nn.edges import ScaleEdges
from msmlff.nn.ops.types import Path


def species_convolution(
    table: Tensor, species: Tensor, phi: Tensor, weight: Tensor, paths: Sequence[Path], edges: ScaleEdges
) -> list[Tensor]:
    """As ``convolution`` for scalar features h[j] = table[species of j].

    Then the sum over neighbours needs no channels: D[i, z, lm, n] = sum over j of species z of Y_lm phi_n,
    and A[i, lm, k] = sum_{z, n} D[i, z, lm, n] W[l, n, k] h[z, k].

    Args:
        table: [species, channels], the features h of each species.
        species: [atoms] long.
        phi, weight, paths, edges: as for ``convolution``, l1 = 0 in all paths.
    """
    num_species, channels = table.shape
    lm = edges.harmonics.shape[1]
    y = edges.harmonics.unsqueeze(2)
    if num_species > 1:
        sender = torch.nn.functional.one_hot(species[edges.sender], num_species).to(y.dtype)
        y = y * sender.unsqueeze(1)
    blocks = zip(edges.blocks.split(y.flatten(1)), edges.blocks.split(phi), strict=True)
    density = torch.cat([torch.bmm(left.transpose(1, 2), right) for left, right in blocks])
    density = density.view(-1, lm, num_species * phi.shape[1])
    out = []
    for p, path in enumerate(paths):
        matrix = (table.unsqueeze(1) * weight[p]).view(-1, channels)
        out.append(density[:, path.l3**2 : (path.l3 + 1) ** 2] @ matrix)
    return out
