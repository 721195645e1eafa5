"""Stops a run that has left the road, with the step, the frames of the batch and advice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.errors import DivergenceError

LAG_ON_GPU = 20
AVERAGING = 0.05


class DivergenceGuard:
    """Watches the training loss.

    Attributes:
        lag: losses that are read at a time. On a GPU it is ``LAG_ON_GPU``, so that no step waits for it.
        last: the loss that was read last.

    Args:
        factor: how many times the smallest running average the loss may reach.
        describe: names frames by their index in the training store.
        lr: learning rate, for the advice.
    """

    def __init__(self, factor: float, describe: Callable[[list[int]], str], lr: float) -> None:
        self.factor = factor
        self.describe = describe
        self.lr = lr
        self.average = float("nan")
        self.lowest = float("inf")
        self.last = float("nan")
        self.lag = 1
        self.pending: list[tuple[int, Tensor | None, Tensor]] = []

    def add(self, step: int, batch: Batch, loss: Tensor) -> None:
        """Take the loss of a step.

        Raises:
            DivergenceError: when a loss is not finite or far above the smallest average so far.
        """
        self.pending.append((step, batch.frame_id, loss))
        if len(self.pending) >= self.lag:
            self.check()

    def restart(self) -> None:
        """Forget the averages: the losses that follow do not compare with those before."""
        self.check()
        self.average, self.lowest = float("nan"), float("inf")

    def check(self) -> None:
        """Read the losses that wait."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        for (step, ids, _), loss in zip(pending, torch.stack([p[2] for p in pending]).tolist(), strict=True):
            self.last = loss
            if not abs(loss) < float("inf") or loss > self.factor * self.lowest:
                raise DivergenceError(self._message(step, ids, loss))
            self.average = (
                loss if self.average != self.average else self.average + AVERAGING * (loss - self.average)
            )
            self.lowest = min(self.lowest, self.average)

    def _message(self, step: int, ids: Tensor | None, loss: float) -> str:
        frames = self.describe([i for i in ids.tolist() if i >= 0]) if ids is not None else "unknown"
        return (
            f"training diverged at step {step}: loss {loss:.4g} (smallest average so far "
            f"{self.lowest:.4g}).\n"
            f"Frames of that batch: {frames}.\n"
            f"Look at these frames first; then lower training.optimizer.lr (now {self.lr:g}), lengthen "
            "training.schedule.warmup_steps, or lower training.gradient_clip."
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"average": self.average, "lowest": self.lowest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over from ``state_dict``."""
        self.average, self.lowest = state["average"], state["lowest"]
