"""Spherical harmonics against e3nn, their derivatives against finite differences."""

from __future__ import annotations

import pytest
import torch

from msmlff.nn.e3nn_import import o3
from msmlff.nn.spherical import SphericalHarmonics


def unit_vectors(n: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(n, 3, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("l_max", range(7))
def test_equal_to_e3nn(l_max: int) -> None:
    unit = unit_vectors(20)
    expected = o3.spherical_harmonics(list(range(l_max + 1)), unit, normalize=True, normalization="component")
    torch.testing.assert_close(SphericalHarmonics(l_max)(unit), expected, rtol=1e-12, atol=1e-12)


def test_derivatives() -> None:
    """Of the polynomials, so on vectors of any length."""
    module, vectors = SphericalHarmonics(4), 1.3 * unit_vectors(5)
    assert torch.autograd.gradcheck(module, vectors.requires_grad_())
    assert torch.autograd.gradgradcheck(module, vectors)


def test_precision_survives_a_change_of_dtype() -> None:
    unit = unit_vectors(4)
    before = SphericalHarmonics(3)(unit)
    assert torch.equal(SphericalHarmonics(3).float().double()(unit), before)
