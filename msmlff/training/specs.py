"""What a user can choose about training, as plain dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field

from msmlff.data.packing import BatchBudget
from msmlff.errors import InputError
from msmlff.training.loss import LossSpec
from msmlff.training.optim import OptimizerSpec, ScheduleSpec


@dataclass(frozen=True)
class TrainingSpec:
    """A training run.

    Attributes:
        steps: optimiser steps in all.
        validations: number of validations, evenly spread; the last is after the last step.
        batch: budget of a training batch.
        validation_batch: budget of a validation or test batch.
        loss, optimizer, schedule: see their classes.
        gradient_clip: largest norm of the gradient; None to leave it.
        ema_decay: decay of the averaged weights that validation, best checkpoint and model file use; None:
            raw weights.
        early_stopping: stop after so many validations without a better score; None: never.
        checkpoint_seconds: time between two writes of checkpoints/last.ckpt.
        divergence_factor: stop when the loss exceeds so many times the smallest running average.
        workers: processes that prepare batches beside the training process.
        log_every: steps between two rows of training loss in the logs.
        compile: "graph": steps are captured as CUDA graphs, one for each size of batch, and replayed, on
            batches padded to few sizes (``training.captured``); "auto": the same where it can be done, on a
            GPU; "none": they are computed as they are written.
    """

    steps: int = 2000
    validations: int = 20
    batch: BatchBudget = field(default_factory=lambda: BatchBudget(frames=5))
    validation_batch: BatchBudget = field(default_factory=lambda: BatchBudget(frames=20))
    loss: LossSpec = field(default_factory=LossSpec)
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    gradient_clip: float | None = 10.0
    ema_decay: float | None = 0.99
    early_stopping: int | None = None
    checkpoint_seconds: float = 60.0
    divergence_factor: float = 1e4
    workers: int = 0
    log_every: int = 10
    compile: str = "none"

    def __post_init__(self) -> None:
        for key, lowest in (("steps", 1), ("validations", 1), ("log_every", 1), ("workers", 0)):
            if getattr(self, key) < lowest:
                raise InputError(f"training.{key}={getattr(self, key)}: write a whole number >= {lowest}")
        if self.early_stopping is not None and self.early_stopping < 1:
            raise InputError(
                f"training.early_stopping={self.early_stopping}: write a whole number >= 1, or null"
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise InputError(f"training.ema_decay={self.ema_decay}: write a number between 0 and 1, or null")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise InputError(f"training.gradient_clip={self.gradient_clip}: write a number > 0, or null")
        if self.compile not in ("auto", "none", "graph"):
            raise InputError(f"training.compile={self.compile}: write auto, none or graph")
        if not self.checkpoint_seconds >= 0:
            raise InputError(f"training.checkpoint_seconds={self.checkpoint_seconds}: write a number >= 0")
        if not self.divergence_factor > 1:
            raise InputError(f"training.divergence_factor={self.divergence_factor}: write a number > 1")

    @property
    def validate_every(self) -> int:
        """Steps between two validations; one more follows the last step where they do not divide."""
        return -(-self.steps // self.validations)
