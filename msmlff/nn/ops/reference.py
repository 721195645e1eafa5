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
    rows, width = torch.tensor(edges.blocks.shapes, device=phi.device).T
    row = torch.arange(int(rows.sum()), device=phi.device).repeat_interleave(width.repeat_interleave(rows))
    sums: dict[int, list[Tensor]] = {}
    for p, path in enumerate(paths):
        h = features[edges.sender, path.l1**2 : (path.l1 + 1) ** 2]
        y = edges.harmonics[:, path.l2**2 : (path.l2 + 1) ** 2]
        coupling = couplings[p].view(2 * path.l2 + 1, 2 * path.l1 + 1, 2 * path.l3 + 1)
        message = torch.einsum("sk,smk,sn,nma->sak", phi @ weight[p], h, y, coupling)
        total = message.new_zeros(int(rows.sum()), *message.shape[1:]).index_add(0, row, message)
        sums.setdefault(path.l3, []).append(total)
    return [torch.cat(of_paths, dim=2) for _, of_paths in sorted(sums.items())]


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
