"""What a user can choose about training, as plain dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from msmlff.data.packing import BatchBudget
from msmlff.errors import InputError
from msmlff.training.loss import LossSpec
from msmlff.training.metrics import ERRORS, HIGHER, SCORE, STABILITY
from msmlff.training.optim import OptimizerSpec, ScheduleSpec

MONITORED = tuple(f"val/{name}" for name in (SCORE, *ERRORS, *HIGHER))


@dataclass(frozen=True)
class StabilitySpec:
    """Short molecular dynamics from validation frames with the weights that are validated.

    Attributes:
        every: validations from one check to the next; one more follows the last step. None: no check.
        frames: validation frames, evenly spread; each is a replica, all move in one batch.
        steps: of the dynamics.
        timestep: fs.
        temperature: K, of the initial velocities and of the bath.
        thermostat: "langevin", "csvr" or "nose_hoover"; None: constant energy.
        thermostat_time: fs, as that of ``simulation.NVT``.
        bonds: Å by which no bond of a starting frame may change; None: bonds are not looked at.
    """

    every: int | None = None
    frames: int = 8
    steps: int = 1000
    timestep: float = 0.5
    temperature: float = 300.0
    thermostat: Literal["langevin", "csvr", "nose_hoover"] | None = "langevin"
    thermostat_time: float = 100.0
    bonds: float | None = None

    def __post_init__(self) -> None:
        for key, lowest in (("every", 1), ("frames", 1), ("steps", 10)):
            value = getattr(self, key)
            if value is not None and value < lowest:
                raise InputError(f"training.stability.{key}={value}: write a whole number >= {lowest}")
        for key in ("timestep", "temperature", "thermostat_time", "bonds"):
            value = getattr(self, key)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"training.stability.{key}={value}: write a positive number")


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
        monitor: of the metrics of a validation, the one whose best value makes its weights the best; among
            equals the lower val/score does.
        stability: a further metric, see its class.
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
    monitor: str = "val/score"
    stability: StabilitySpec = field(default_factory=StabilitySpec)

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
        if self.monitor not in MONITORED:
            raise InputError(f"training.monitor={self.monitor}: write one of {', '.join(MONITORED)}")
        if self.monitor.removeprefix("val/") in STABILITY and self.stability.every is None:
            raise InputError(
                f"training.monitor={self.monitor} needs that metric: write training.stability.every=1, or "
                "another number of validations"
            )
        if self.monitor.removeprefix("val/") in STABILITY and self.early_stopping is not None:
            assert self.stability.every is not None
            if self.stability.every > self.early_stopping:
                raise InputError(
                    f"training.early_stopping={self.early_stopping} may end the training before the first "
                    f"check of training.stability.every={self.stability.every}: write no larger number there"
                )

    @property
    def validate_every(self) -> int:
        """Steps between two validations; one more follows the last step where they do not divide."""
        return -(-self.steps // self.validations)
