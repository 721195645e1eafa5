"""A row of the training loss, in the loggers before a checkpoint of its step is on the disk."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from msmlff.data.batch import Batch
from msmlff.training.module import ForceFieldModule


class StepLog(Callback):
    """Logs ``ForceFieldModule.row`` at the end of its step.

    Lightning would write a step's row after all of its hooks, and so after last.ckpt: a run that is stopped,
    or killed, in between would lack that row for ever, since it goes on with the step that follows.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ForceFieldModule)
        if not pl_module.row:
            return
        row = {name: float(value) for name, value in pl_module.row.items()}
        for logger in trainer.loggers:
            logger.log_metrics({**row, "epoch": trainer.current_epoch}, trainer.global_step - 1)
            logger.save()
