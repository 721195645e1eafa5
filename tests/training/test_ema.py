"""The averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from msmlff.training.ema import averaged_copy, update_average


def test_equals_torchs_averaging_with_a_rising_decay() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2, dtype=torch.float64)
    average = averaged_copy(model)

    def rising(averaged: torch.Tensor, current: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        decay = min(0.3, (1 + int(n)) / (10 + int(n)))
        return decay * averaged + (1 - decay) * current

    oracle = AveragedModel(model, avg_fn=rising)
    for step in range(8):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        update_average(average, model, step, decay=0.3)
        oracle.update_parameters(model)
    for ours, theirs in zip(average.parameters(), oracle.module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
        assert not ours.requires_grad


def test_an_update_reads_nothing_from_the_device() -> None:
    """Tensors without data raise when a number is asked of them; a GPU would make the host wait."""
    model = nn.Linear(3, 2, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        model.weight.sum().item()
    average = averaged_copy(model)
    update_average(average, model, step=0, decay=0.99)
    update_average(average, model, step=7, decay=0.99)
