"""What each scale of a multiscale model contributes to energies and forces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msmlff.models.message_passing import MessagePassingModel
from msmlff.training.data_module import FrameSet
from msmlff.training.evaluate import predict
from msmlff.training.specs import TrainingSpec


@dataclass(frozen=True)
class ScaleShare:
    """How much of a prediction is gone when a scale sends no messages, in all layers.

    The scales meet before a product, so the shares of all scales do not add up to one.

    Attributes:
        cutoff: Å.
        energy: root mean square of the change of the energies per atom, over that of energies less E0.
        forces: root mean square of the change of the forces, over that of the forces.
    """

    cutoff: float
    energy: float
    forces: float


def scale_shares(
    model: MessagePassingModel, frames: FrameSet, spec: TrainingSpec, device: str = "cpu"
) -> list[ScaleShare]:
    """The share of each scale, in their order, on given frames; one evaluation a scale, and one of all."""
    whole = predict(model, frames, spec, device)
    shares = []
    for s, cutoff in enumerate(model.scale_cutoffs):
        with without_scale(model, s):
            rest = predict(model, frames, spec, device)
        per_atom = 1.0 / whole.num_atoms
        shares.append(
            ScaleShare(
                cutoff,
                _ratio((whole.energy - rest.energy) * per_atom, (whole.energy - whole.e0_energy) * per_atom),
                _ratio(whole.forces - rest.forces, whole.forces),
            )
        )
    return shares


def _ratio(change: np.ndarray, whole: np.ndarray) -> float:
    size = float(np.sqrt(np.mean(whole**2)))
    return float(np.sqrt(np.mean(change**2))) / size if size > 0 else 0.0


@contextmanager
def without_scale(model: MessagePassingModel, scale: int) -> Iterator[None]:
    """Inside, no layer of the model gets messages of a scale."""
    layers: Any = model.layers
    hooks = [layer.scales[scale].register_forward_hook(_nothing) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _nothing(module: torch.nn.Module, given: Any, messages: Tensor) -> Tensor:
    return torch.zeros_like(messages)
