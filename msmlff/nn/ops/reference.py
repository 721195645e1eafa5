"""The operations in plain PyTorch, differentiated by autograd to any order: what every backend must equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from msmlff.nn.edges import Rows, ScaleEdges
from msmlff.nn.ops.types import MonomialTable, Path, monomials
from msmlff.nn.radial import SILU_SCALE
from msmlff.nn.species import SpeciesGroups


def convolution(
    features: Tensor,
    phi: Tensor,
    weight: Tensor,
    couplings: Sequence[Tensor],
    paths: Sequence[Path],
    edges: ScaleEdges,
) -> list[Tensor]:
    """A[i, p, m3, k] = sum_j sum_n W[p, n, k] phi_n(r_ij) sum_{m1, m2} C_p[m1, m2, m3] h[j, m1, k] Y[ij, m2].

    Args:
        features: [atoms, (l_hidden + 1)^2, channels].
        phi: [items of the edges, n], last hidden layer of the radial network; zero in empty slots.
        weight: [paths, n, channels], its last layer.
        couplings: for each path [2 l2 + 1, (2 l1 + 1) (2 l3 + 1)].
        paths: ascending in l3.
        edges: the scale's edges.

    Returns:
        for each l3, [atoms, 2 l3 + 1, paths to l3 * channels]; atoms in their order, or in that of the padded
        blocks for a backend that reads those.
    """
    assert isinstance(edges.rows, Rows)
    atoms, sums = len(edges.rows.row_ptr) - 1, dict[int, list[Tensor]]()
    for p, path in enumerate(paths):
        h = features[edges.sender, path.l1**2 : (path.l1 + 1) ** 2]
        y = edges.harmonics[:, path.l2**2 : (path.l2 + 1) ** 2]
        coupling = couplings[p].view(2 * path.l2 + 1, 2 * path.l1 + 1, 2 * path.l3 + 1)
        message = torch.einsum("sk,smk,sn,nma->sak", phi @ weight[p], h, y, coupling)
        total = message.new_zeros(atoms, *message.shape[1:]).index_add(0, edges.rows.receiver, message)
        sums.setdefault(path.l3, []).append(total)
    return [torch.cat(of_paths, dim=2) for _, of_paths in sorted(sums.items())]


def species_convolution(
    table: Tensor, species: Tensor, phi: Tensor, weight: Tensor, paths: Sequence[Path], edges: ScaleEdges
) -> list[Tensor]:
    """``convolution`` of features that depend on the sender's species alone, as in the first layer.

    Args:
        table: [species, channels], the features of each species.
        species: [atoms] long.
        phi, weight, paths, edges: as for ``convolution``, l1 = 0 in all paths.
    """
    couplings = [torch.eye(2 * path.l2 + 1, dtype=phi.dtype, device=phi.device) for path in paths]
    return convolution(table[species].unsqueeze(1), phi, weight, couplings, paths, edges)


def radial_network(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """silu(.. silu(x W_1) .. W_n): [items, inputs] -> [items, outputs]."""
    for weight in weights:
        x = torch.nn.functional.silu(x @ weight)
    return x


def symmetric_contraction(
    features: Tensor,
    weights: Sequence[Tensor],
    couplings: Sequence[Tensor],
    table: MonomialTable,
    groups: SpeciesGroups,
) -> Tensor:
    """out[i, LM, c] = sum_k x_k sum_t A[c, M, k, t] monomial_t(x) with x = features[i, :, c].

    A = couplings weights of the atom's species.

    Args:
        features: [atoms, dim, channels].
        weights: for each L, [species, paths, channels].
        couplings: for each L, [(2 L + 1) * dim * monomials, paths].
        table: the monomials.
        groups: the atoms of each species.

    Returns:
        [atoms, sum of 2 L + 1, channels].
    """
    parts = groups.split(features)
    return groups.join(
        [_contraction(part, [w[z] for w in weights], couplings, table) for z, part in enumerate(parts)]
    )


def _contraction(
    features: Tensor, weights: Sequence[Tensor], couplings: Sequence[Tensor], table: MonomialTable
) -> Tensor:
    """Of the atoms of one species, whose weights are [paths, channels] for each L."""
    rows = [torch.ones_like(features[:, 0])]
    rows += [
        features[:, list(t)].prod(dim=1) for d in range(1, table.correlation) for t in monomials(table.dim, d)
    ]
    basis = torch.stack(rows, dim=1)
    out = []
    for weight, coupling in zip(weights, couplings, strict=True):
        matrix = (coupling @ weight).view(-1, table.dim, basis.shape[1], features.shape[2])
        out.append(torch.einsum("mktc,itc,ikc->imc", matrix, basis, features))
    return torch.cat(out, dim=1)


def gate(features: Tensor, l_max: int) -> Tensor:
    """See ``nn.gate.gate``."""
    scalars = torch.nn.functional.silu(features[:, : l_max + 1]) * SILU_SCALE
    parts = features[:, l_max + 1 :].split([2 * l + 1 for l in range(1, l_max + 1)], dim=1)
    gated = [part * scalars[:, l : l + 1] for l, part in enumerate(parts, start=1)]
    return torch.cat([scalars[:, :1], *gated], dim=1) if gated else scalars
