"""What tests of training runs share: a signal at a step, and checkpoints compared bit for bit."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytorch_lightning as pl
import torch


class Stop(pl.Callback):
    """Sends this process a signal at a step, as a batch system would."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def on_before_zero_grad(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def equal(a: Any, b: Any, where: str = "") -> None:
    """Assert that two checkpoints hold the same, bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            equal(*pair, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b or (a != a and b != b), where


def without_clocks(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What two runs must share: everything but the times they took."""
    callbacks = {k: v for k, v in checkpoint["callbacks"].items() if "RunProgress" not in k}
    return {**{k: v for k, v in checkpoint.items() if k != "loops"}, "callbacks": callbacks}
