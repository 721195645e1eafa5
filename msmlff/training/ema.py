"""Exponential moving average of the weights, beside the raw ones: nothing is ever swapped."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged_model(model: nn.Module, decay: float) -> AveragedModel:
    """A second model whose weights follow ``model`` with ``decay``, at the start with (1 + n) / (10 + n).

    Keeping two models costs the parameters' memory once more and makes it impossible to train on, or to
    save, the wrong ones: the state dict names raw and averaged weights apart.
    """

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        n = int(updates)
        torch._foreach_lerp_(averaged, current, 1.0 - min(decay, (1 + n) / (10 + n)))

    copy = AveragedModel(model, multi_avg_fn=average)
    copy.requires_grad_(False)
    return copy.eval()
