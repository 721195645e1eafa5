"""Validation errors as running sums, on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.models.base import Prediction
from msmlff.training.loss import residual

MILLI = 1000.0
NAMES = {"energy": "energy", "forces": "force", "stress": "stress"}
ERRORS = tuple(f"{name}_{measure}" for name in NAMES.values() for measure in ("rmse", "mae"))
SCORE = "score"
HIGHER = ("stable_share", "stable_time_fs")  # the higher the better
STABILITY = (*HIGHER, "temperature_drift", "energy_drift")  # of training.stability


class ErrorSums:
    """Sums of squared and absolute errors of each target over the frames seen since ``reset``."""

    def __init__(self, targets: tuple[str, ...]) -> None:
        self.targets = targets
        self.sums: Tensor | None = None

    def reset(self) -> None:
        """Forget everything seen."""
        self.sums = None

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Add a batch; entries without a label do not count."""
        rows = []
        for target in self.targets:
            error, labelled, _ = residual(target, prediction, batch)
            error = error.detach().double()
            rows.append(torch.stack([error.square().sum(), error.abs().sum(), labelled.sum().double()]))
        sums = torch.stack(rows)
        self.sums = sums if self.sums is None else self.sums + sums

    def compute(self) -> dict[str, float]:
        """{"energy_rmse", "energy_mae" (meV/atom), "force_rmse", "force_mae" (meV/Å), "stress_..." (meV/Å³)}.

        A target without a single label is left out.
        """
        if self.sums is None:
            return {}
        out: dict[str, float] = {}
        for target, (square, absolute, count) in zip(self.targets, self.sums.tolist(), strict=True):
            if count > 0:
                out[f"{NAMES[target]}_rmse"] = MILLI * (square / count) ** 0.5
                out[f"{NAMES[target]}_mae"] = MILLI * absolute / count
        return out


def relative_score(errors: Mapping[str, float], spread: Mapping[str, float]) -> float:
    """Sum over the targets of RMSE / spread of the label: 0 is perfect, 1 a target is the trivial predictor.

    Unlike the loss it does not depend on the stage of the weights, so best checkpoints compare over a whole
    run.

    Args:
        errors: from ``ErrorSums.compute``.
        spread: standard deviation of each label in the training frames, same keys and units ("energy_rmse":
            ...), each positive.

    Returns:
        Infinity where an error of ``spread`` is missing or not finite: never better than another score.
    """
    score = sum(errors.get(key, math.inf) / value for key, value in spread.items())
    return score if math.isfinite(score) else math.inf


def rank(metrics: Mapping[str, float], monitor: str) -> tuple[float, float] | None:
    """What orders validations, the best lowest: the monitored metric, then the score.

    Args:
        metrics: of a validation, "score" among them.
        monitor: the name of one, without "val/".

    Returns:
        None where the metric was not computed or a number is not finite: such weights are never the best.
    """
    value = -metrics.get(monitor, math.nan) if monitor in HIGHER else metrics.get(monitor, math.nan)
    order = value, metrics[SCORE]
    return order if all(map(math.isfinite, order)) else None
