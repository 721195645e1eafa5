"""The many-body product of MACE: symmetric polynomials of the A-basis."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from msmlff.nn.constant import Constant
from msmlff.nn.coupling import folded_coupling
from msmlff.nn.ops import MonomialTable, symmetric_contraction
from msmlff.nn.species import SpeciesGroups


class SymmetricContraction(nn.Module):
    """B[i, LM, k] = sum over degree n and paths p of W[z_i, L, n, p, k] C[L, n, p] A[i, k]^n.

    Batatia et al., arXiv 2206.07697, eq. 10 and 11: degree n = 1 .. correlation, per channel k.

    Args:
        num_species: species that have weights of their own.
        l_max: of the A-basis.
        l_out_max: of the result; at most l_max.
        channels: of both.
        correlation: the highest degree; messages then are (correlation + 1)-body.
    """

    def __init__(self, num_species: int, l_max: int, l_out_max: int, channels: int, correlation: int) -> None:
        super().__init__()
        if l_out_max > l_max:
            raise ValueError(f"the product's l is {l_out_max}, larger than {l_max} of its factors")
        self.l_max, self.l_out_max, self.correlation = l_max, l_out_max, correlation
        dim = (l_max + 1) ** 2
        self._table = MonomialTable.build(dim, correlation)
        self._couplings: list[Constant] = []
        self.weights = nn.ParameterList()
        for l_out in range(l_out_max + 1):
            tables = [folded_coupling(l_max, n, l_out) for n in range(1, correlation + 1)]
            self._couplings.append(Constant(_stack(tables)))
            for table in tables:
                paths = table.shape[-1]
                self.weights.append(nn.Parameter(torch.randn(num_species, paths, channels) / paths))

    def weight(self, l_out: int, degree: int) -> nn.Parameter:
        """[species, paths, channels]: weights of the terms of one degree in one output l."""
        return self.weights[l_out * self.correlation + degree - 1]

    def forward(self, features: Tensor, groups: SpeciesGroups) -> Tensor:
        """[atoms, (l_max + 1)^2, channels] -> [atoms, (l_out_max + 1)^2, channels]."""
        n = self.correlation
        weights = [
            torch.cat(list(self.weights[l * n : (l + 1) * n]), dim=1) for l in range(self.l_out_max + 1)
        ]
        couplings = [coupling(features) for coupling in self._couplings]
        return symmetric_contraction(features, weights, couplings, self._table, groups)


def _stack(tables: list[np.ndarray]) -> np.ndarray:
    """Tables of all degrees as one [(m, k, monomial of degree 0 .. n - 1), path], zero off the diagonal."""
    m, dim = tables[0].shape[:2]
    rows = sum(t.shape[2] for t in tables)
    columns = sum(t.shape[3] for t in tables)
    stacked = np.zeros((m, dim, rows, columns))
    row = column = 0
    for t in tables:
        stacked[:, :, row : row + t.shape[2], column : column + t.shape[3]] = t
        row, column = row + t.shape[2], column + t.shape[3]
    return stacked.reshape(-1, columns)
