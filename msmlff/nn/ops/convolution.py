"""Convolution over neighbours: messages of one scale, summed into the A-basis.

A[i, p, m3, k] = sum_j R[p, k](r_ij) sum_{m1, m2} C_p[m1, m2, m3] h[j, m1, k] Y[ij, m2]
R[p, k](r) = sum_n W[p, n, k] phi_n(r)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msmlff.nn.edges import ScaleEdges


@dataclass(frozen=True)
class Path:
    """A coupling of features (l1) with harmonics (l2) to the A-basis (l3)."""

    l1: int
    l2: int
    l3: int


def convolution(
    features: Tensor,
    phi: Tensor,
    weight: Tensor,
    couplings: Sequence[Tensor],
    paths: Sequence[Path],
    edges: ScaleEdges,
) -> list[Tensor]:
    """The sum over neighbours as dense products over the blocks of ``edges``.

    Args:
        features: [atoms, (l_hidden + 1)^2, channels].
        phi: [slots, n], last hidden layer of the radial network; zero in empty slots.
        weight: [paths, n, channels], its last layer.
        couplings: for each path [2 l2 + 1, (2 l1 + 1) (2 l3 + 1)].
        paths: ascending in l3.
        edges: the scale's edges.

    Returns:
        for each l3, [atoms, 2 l3 + 1, paths to l3 * channels], atoms in the order of the blocks.
    """
    sent = features.index_select(0, edges.sender)
    sums: dict[int, list[list[Tensor]]] = {}
    for p, path in enumerate(paths):
        radial = phi @ weight[p]
        h = sent[:, path.l1**2 : (path.l1 + 1) ** 2]
        message = radial.unsqueeze(1) * h
        y = edges.harmonics[:, path.l2**2 : (path.l2 + 1) ** 2]
        if path.l1 > 0:
            y = (y @ couplings[p]).view(-1, 2 * path.l1 + 1, 2 * path.l3 + 1)
        else:
            y = y.unsqueeze(1)
        sums.setdefault(path.l3, []).append(_block_products(y, message, edges))
    return [_join(of_paths) for _, of_paths in sorted(sums.items())]


def species_convolution(
    table: Tensor, species: Tensor, phi: Tensor, weight: Tensor, paths: Sequence[Path], edges: ScaleEdges
) -> list[Tensor]:
    """The same for scalar features that depend on the sender's species alone.

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
    density = torch.cat(_block_products(y.flatten(1).unsqueeze(1), phi.unsqueeze(1), edges))
    density = density.view(-1, lm, num_species * phi.shape[1])
    out = []
    for p, path in enumerate(paths):
        matrix = (table.unsqueeze(1) * weight[p]).view(-1, channels)
        out.append(density[:, path.l3**2 : (path.l3 + 1) ** 2] @ matrix)
    return out


def _block_products(left: Tensor, right: Tensor, edges: ScaleEdges) -> list[Tensor]:
    """For each block, sum over a row's slots s and over m: left[s, m, a] right[s, m, k] -> [rows, a, k]."""
    products = []
    for a, b in zip(edges.blocks.split(left), edges.blocks.split(right), strict=True):
        rows, width, m, _ = a.shape
        a = a.reshape(rows, width * m, -1).transpose(1, 2)
        products.append(torch.bmm(a, b.reshape(rows, width * m, -1)))
    return products


def _join(of_paths: list[list[Tensor]]) -> Tensor:
    """Blocks' products of several paths -> [atoms, 2 l3 + 1, paths * channels]."""
    blocks = [
        torch.cat(parts, dim=2) if len(parts) > 1 else parts[0] for parts in zip(*of_paths, strict=True)
    ]
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]
