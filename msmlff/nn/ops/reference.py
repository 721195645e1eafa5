"""The operations in plain PyTorch, differentiated by autograd to any order: what every backend must equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from msmlff.nn.edges import ScaleEdges
from msmlff.nn.ops.types import MonomialTable, Path, monomials


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
        sums.setdefault(path.l3, []).append(block_products(y, message, edges))
    return [_join(of_paths) for _, of_paths in sorted(sums.items())]


def block_products(left: Tensor, right: Tensor, edges: ScaleEdges) -> list[Tensor]:
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


def symmetric_contraction(
    features: Tensor, weights: Sequence[Tensor], couplings: Sequence[Tensor], table: MonomialTable
) -> Tensor:
    """out[i, LM, c] = sum_k x_k sum_t A[c, M, k, t] monomial_t(x) with x = features[i, :, c].

    A = couplings weights.

    The weights are contracted with the couplings first, once for all atoms; what remains for each channel is
    a matrix product with the monomials below the highest degree.

    Args:
        features: [atoms, dim, channels], atoms of one species.
        weights: for each L, [paths, channels].
        couplings: for each L, [(2 L + 1) * dim * monomials, paths].
        table: the monomials.

    Returns:
        [atoms, sum of 2 L + 1, channels].
    """
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
