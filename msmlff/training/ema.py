"""Exponential moving average of the weights, beside the raw ones: nothing is ever swapped."""

from __future__ import annotations

import copy

import torch
from torch import nn


def averaged_copy(model: nn.Module) -> nn.Module:
    """A second model for the averaged weights, in eval mode.

    Keeping two models costs the parameters' memory once more and makes it impossible to train on, or to
    save, the wrong ones: the state dict names raw and averaged weights apart.
    """
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move ``average`` towards ``model`` after step ``step`` (counted from 0, on the host).

    The first step copies the weights; the decay then rises as (1 + step) / (10 + step) up to ``decay``.
    """
    weight = 1.0 - min(decay, (1 + step) / (10 + step)) if step > 0 else 1.0
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)
