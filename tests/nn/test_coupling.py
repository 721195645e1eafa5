"""Coupling coefficients against mace-torch's, and against rotations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msmlff.models.import_mace import mace_modules
from msmlff.nn.coupling import coupling_paths, folded_coupling
from msmlff.nn.e3nn_import import o3
from msmlff.nn.ops.types import monomials
from msmlff.nn.species import SpeciesGroups
from msmlff.nn.symmetric_contraction import SymmetricContraction


@pytest.mark.parametrize(
    ("l_max", "degree", "l_out"), [(3, 1, 1), (3, 2, 0), (3, 2, 2), (2, 3, 0), (2, 3, 1)]
)
def test_equal_to_mace(l_max: int, degree: int, l_out: int) -> None:
    mace_modules()
    from mace.tools.cg import U_matrix_real

    irreps = o3.Irreps.spherical_harmonics(l_max)
    out = o3.Irreps([(1, (l_out, (-1) ** l_out))])
    expected = U_matrix_real(irreps, out, degree, dtype=torch.float64)[-1].numpy()
    ours = np.stack(coupling_paths(l_max, degree, l_out), axis=-1)
    np.testing.assert_allclose(ours.reshape(expected.shape), expected, atol=1e-12)


def test_folding_keeps_the_polynomial() -> None:
    x = np.random.default_rng(0).normal(size=9)
    table = folded_coupling(2, 3, 1)
    values = np.array([x[list(t)].prod() for t in monomials(9, 2)])
    for p, coupling in enumerate(coupling_paths(2, 3, 1)):
        expected = np.einsum("mijk,i,j,k->m", coupling, x, x, x)
        np.testing.assert_allclose(np.einsum("mkt,k,t->m", table[..., p], x, values), expected, atol=1e-10)


def test_contraction_turns_with_its_factors() -> None:
    torch.manual_seed(0)
    module = SymmetricContraction(2, 2, 2, 3, 3).double()
    groups = SpeciesGroups.build(torch.tensor([0, 1, 1, 0]), 2)
    features = torch.randn(4, 9, 3, dtype=torch.float64)
    rotation = o3.rand_matrix(dtype=torch.float64)
    matrix = o3.Irreps("0e+1o+2e").D_from_matrix(-rotation)
    turned = module(torch.einsum("ab,ibc->iac", matrix, features), groups)
    torch.testing.assert_close(turned, torch.einsum("ab,ibc->iac", matrix, module(features, groups)))
