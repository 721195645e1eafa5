"""Symmetric contraction of one species' atoms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def symmetric_contraction(
    features: Tensor,
    weights: Sequence[Tensor],
    couplings: Sequence[Tensor],
    factors: Sequence[tuple[list[int], list[int]]],
) -> Tensor:
    """out[i, LM, c] = sum_k x_k sum_t G[c, M, k, t] monomial_t(x) with x = features[i, :, c].

    G = couplings weights.

    The weights are contracted with the couplings first, once for all atoms; what remains for each channel is
    a matrix product with the monomials below the highest degree.

    Args:
        features: [atoms, dim, channels].
        weights: for each L, [paths, channels].
        couplings: for each L, [(2 L + 1) * dim * monomials, paths].
        factors: for each degree from 2 up, which lower monomial and which variable a monomial is made of.

    Returns:
        [atoms, sum of 2 L + 1, channels].
    """
    atoms, dim, channels = features.shape
    x = features.permute(1, 2, 0).contiguous()
    rows = [torch.ones_like(x[:1])]
    if factors or couplings[0].shape[0] > dim:
        rows.append(x)
    for lower, variable in factors:
        rows.append(rows[-1][lower] * x[variable])
    basis = torch.cat(rows).permute(1, 0, 2)
    out = []
    for l, (weight, coupling) in enumerate(zip(weights, couplings, strict=True)):
        matrix = (weight.t() @ coupling.t()).view(channels, (2 * l + 1) * dim, basis.shape[1])
        gradient = torch.bmm(matrix, basis).view(channels, 2 * l + 1, dim, atoms)
        out.append((gradient * x.permute(1, 0, 2).unsqueeze(1)).sum(dim=2))
    return torch.cat(out, dim=1).permute(2, 1, 0).contiguous()
