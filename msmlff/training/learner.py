"""What learns from a choice of frames when choices are compared: one interface."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from msmlff.analysis.errors import Predictions
from msmlff.data.pools import Pool
from msmlff.data.reference_energies import reference_energies
from msmlff.errors import InputError
from msmlff.models import build_model
from msmlff.models.architecture import Architecture
from msmlff.models.start import start_statistics
from msmlff.training.data_module import FrameSet
from msmlff.training.evaluate import predict
from msmlff.training.fit import Run, fit
from msmlff.training.specs import TrainingSpec


class Learner(ABC):
    """Learns from chosen frames and predicts the test frames; a dataclass whose fields are its settings."""

    @abstractmethod
    def predictions(self, pool: Pool, ids: Sequence[int] | np.ndarray, seed: int) -> Predictions:
        """Errors of the test frames after learning from ``pool.train[ids]``.

        Args:
            pool: with validation frames (to choose the best weights or the regularisation) and test frames.
            ids: [chosen] frames of ``pool.train``.
            seed: of everything random in the learner.

        Raises:
            DivergenceError: the learner found nothing finite.
        """

    def on(self, device: str) -> Learner:
        """The same learner on "cpu" or "cuda", where it makes use of that."""
        return self


@dataclass(frozen=True)
class NetworkLearner(Learner):
    """A network, trained as ``train.py`` trains it: the same number of optimiser steps whatever the budget.

    Attributes:
        model: architecture.
        training: steps, batches, loss, optimiser.
        device: "cpu" or "cuda"; not among the settings that decide.
        dtype: of the network, "float32" or "float64".
    """

    model: Architecture
    training: TrainingSpec
    device: str = field(default="cpu", compare=False)
    dtype: str = "float32"

    def on(self, device: str) -> Learner:
        return replace(self, device=device)

    def predictions(self, pool: Pool, ids: Sequence[int] | np.ndarray, seed: int) -> Predictions:
        if pool.val is None or pool.test is None:
            raise InputError("a comparison needs val and test frames: set pool.fractions or their files")
        chosen = pool.train.subset(np.asarray(ids))
        e0s = reference_energies(chosen, pool.spec.e0s, pool.isolated, pool.atomic_numbers)
        statistics = start_statistics(self.model, chosen, e0s.values)
        torch.manual_seed(seed)
        model = build_model(self.model, tuple(sorted(e0s.values)), e0s.values, statistics)
        model = model.to(getattr(torch, self.dtype))
        train, val, test = (FrameSet.at_cutoff(part, model.cutoff) for part in (chosen, pool.val, pool.test))
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder), seed, self.device, console=Console(quiet=True))
            return predict(fit(model, train, val, self.training, run).model, test, self.training, self.device)
