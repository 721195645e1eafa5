"""Radial functions against their formulas and against e3nn's network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from msmlff.nn.radial import SILU_SCALE, PolynomialCutoff, RadialBasis, RadialMLP

LENGTHS = torch.tensor([0.3, 1.0, 2.7, 3.9, 3.999999, 4.0, 4.2], dtype=torch.float64)


@pytest.mark.parametrize("power", [2, 5, 6])
def test_cutoff_has_value_and_two_derivatives_zero(power: int) -> None:
    cutoff = PolynomialCutoff(4.0, power)
    r = torch.tensor([4.0 - 1e-9, 4.0, 5.0], dtype=torch.float64)
    assert torch.all(cutoff(r).abs() < 1e-12)
    for derivative in cutoff.derivatives(r):
        assert torch.all(derivative.abs() < 1e-7)
    assert cutoff(torch.zeros(1, dtype=torch.float64)).item() == 1.0


def test_cutoff_derivatives() -> None:
    cutoff = PolynomialCutoff(4.0, 5)
    r = LENGTHS.clone().requires_grad_()
    (first,) = torch.autograd.grad(cutoff(r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    torch.testing.assert_close(cutoff.derivatives(LENGTHS)[0], first.detach())
    torch.testing.assert_close(cutoff.derivatives(LENGTHS)[1], second)


def test_basis_is_bessel_times_cutoff() -> None:
    basis = RadialBasis(4.0, 3, 5)(LENGTHS).numpy()
    r = LENGTHS.numpy()
    x = np.minimum(r / 4.0, 1.0)
    envelope = 1 - 21 * x**5 + 35 * x**6 - 15 * x**7
    for n in (1, 2, 3):
        expected = math.sqrt(2 / 4.0) * np.sin(n * math.pi * r / 4.0) / r * envelope
        np.testing.assert_allclose(basis[:, n - 1], expected, atol=1e-13)


def test_basis_derivatives() -> None:
    r = torch.tensor([0.5, 1.7, 3.2, 3.9, 4.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(RadialBasis(4.0, 4, 5), r)
    assert torch.autograd.gradgradcheck(RadialBasis(4.0, 4, 5), r)


def test_network_is_normalised_as_in_e3nn() -> None:
    """e3nn's FullyConnectedNet with the same weights, its last layer the identity."""
    from e3nn.nn import FullyConnectedNet

    torch.manual_seed(0)
    ours = RadialMLP(4, [6, 5]).double()
    theirs = FullyConnectedNet([4, 6, 5], torch.nn.functional.silu, out_act=True).double()
    layers = [getattr(theirs, f"layer{i}") for i in range(2)]
    for layer, weight in zip(layers, ours.weights, strict=True):
        layer.weight.data.copy_(weight)
    x = torch.randn(7, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(x) * SILU_SCALE, theirs(x), rtol=1e-13, atol=1e-13)
