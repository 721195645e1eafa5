"""Real spherical harmonics: e3nn's order and sign, component normalisation."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msmlff.nn.constant import Constant
from msmlff.nn.e3nn_import import wigner_3j


class SphericalHarmonics(torch.nn.Module):
    """Y_lm of unit vectors for l = 0 .. l_max, with sum over m of Y_lm^2 = 2 l + 1.

    Computed as solid harmonics S_l, homogeneous polynomials of degree l, by coupling with the vector:
    S_l = a_l (S_{l-1} x u)_l. They give their own gradient, dS_l/du = l a_l (S_{l-1} x .)_l, so derivatives
    of any order cost a few small products instead of the chain rule through every polynomial.
    """

    def __init__(self, l_max: int) -> None:
        super().__init__()
        if l_max < 0:
            raise ValueError(f"l_max is {l_max}; it must be 0 or larger")
        self.l_max = l_max
        raising, gradient = _tables(l_max)
        self._raising = [Constant(table) for table in raising]
        self._gradient = Constant(gradient)

    def forward(self, unit: Tensor) -> Tensor:
        """[..., 3] unit vectors -> [..., (l_max + 1)^2], l ascending, within l e3nn's order of m."""
        raising = [table(unit) for table in self._raising]
        flat = unit.reshape(-1, 3)
        values = _SolidHarmonics.apply(flat, self._gradient(unit), *raising)
        return values.reshape(*unit.shape[:-1], (self.l_max + 1) ** 2)


class _SolidHarmonics(torch.autograd.Function):
    """u [n, 3] -> S [n, (l_max + 1)^2]; the backward reads S itself and so is differentiable again."""

    @staticmethod
    def forward(ctx: Any, unit: Tensor, gradient: Tensor, *raising: Tensor) -> Tensor:
        rows = [unit.new_ones(unit.shape[0], 1)]
        for table in raising:
            coupled = rows[-1].unsqueeze(2) * unit.unsqueeze(1)
            rows.append(coupled.flatten(1) @ table)
        values = torch.cat(rows, dim=1)
        ctx.save_for_backward(values, gradient)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, gradient = ctx.saved_tensors
        derivative = (values @ gradient).view(values.shape[0], 3, values.shape[1])
        unit_grad = (derivative @ grads[0].unsqueeze(2)).squeeze(2)
        return (unit_grad, *(None for _ in ctx.needs_input_grad[1:]))


@cache
def _tables(l_max: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Raising tables a_l C [(2l-1) * 3, 2l+1] for l = 1.. and the gradient table [lm', 3 * lm]."""
    size = (l_max + 1) ** 2
    raising, gradient = [], np.zeros((size, 3, size))
    for l in range(1, l_max + 1):
        coupling = wigner_3j(l - 1, 1, l)
        # On the polar axis, which is y in e3nn's convention, only m = 0 survives: S_l0 = sqrt(2 l + 1).
        scale = np.sqrt(2 * l + 1) / (np.sqrt(2 * l - 1) * coupling[l - 1, 1, l])
        raising.append((scale * coupling).reshape(-1, 2 * l + 1))
        lower, upper = slice((l - 1) ** 2, l**2), slice(l**2, (l + 1) ** 2)
        gradient[lower, :, upper] = l * scale * coupling
    return raising, gradient.reshape(size, 3 * size)
