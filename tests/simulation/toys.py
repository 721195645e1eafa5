"""Force fields with known dynamics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.models.base import ForceField, Prediction


class Toy(ForceField):
    """Base: one species (hydrogen), a dummy parameter that sets the dtype."""

    def __init__(self, cutoff: float = 2.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__([1], [0.0], [cutoff])
        self.dummy = torch.nn.Parameter(torch.zeros(1, dtype=dtype))

    def interaction_energies(self, vectors: Tensor, batch: Batch) -> Tensor:
        raise AssertionError("not used")

    def features(self, batch: Batch) -> Tensor:
        raise AssertionError("not used")

    def config(self) -> dict[str, Any]:
        return {}


class Wells(Toy):
    """Every atom of a frame in its own harmonic well, k eV/Å², about ``centres`` [atoms, 3]."""

    def __init__(self, k: float, centres: np.ndarray) -> None:
        super().__init__(cutoff=1e-6)
        self.k = k
        self.centres = torch.from_numpy(centres)

    def forward(self, batch: Batch, **kwargs: Any) -> Prediction:
        away = batch.positions - self.centres.repeat(batch.num_frames, 1)
        atomic = 0.5 * self.k * (away**2).sum(dim=1)
        energy = torch.zeros(batch.num_frames, dtype=torch.float64).index_add(0, batch.frame, atomic)
        return Prediction(energy, atomic, -self.k * away)


class Pairs(Toy):
    """Soft repulsion (1 - r/cutoff)² * 4 eV between pairs: smooth at the cutoff."""

    def interaction_energies(self, vectors: Tensor, batch: Batch) -> Tensor:
        length = vectors.square().sum(dim=1).sqrt()
        pair = torch.where(length < self.cutoff, 2.0 * (1.0 - length / self.cutoff) ** 2, 0.0)
        return torch.zeros(batch.num_atoms, dtype=pair.dtype).index_add(0, batch.receiver, pair)


class Trap(Pairs):
    """Like Pairs, but a pair closer than 0.8 Å is drawn together ever faster."""

    def interaction_energies(self, vectors: Tensor, batch: Batch) -> Tensor:
        length = vectors.square().sum(dim=1).sqrt()
        pair = torch.where(length < 0.8, -20.0 / length, 0.0)
        return torch.zeros(batch.num_atoms, dtype=pair.dtype).index_add(0, batch.receiver, pair)


class Undefined(Pairs):
    """NaN forces for the frame whose cell is longer than 9 Å, once an atom of it is beyond x = 1 Å."""

    def forward(self, batch: Batch, **kwargs: Any) -> Prediction:
        prediction = super().forward(batch, **kwargs)
        assert prediction.forces is not None
        wrong = (batch.cell[batch.frame, 0, 0] > 9.0) & (batch.positions[:, 0] > 1.0)
        prediction.forces = torch.where(wrong.unsqueeze(1), torch.nan, prediction.forces)
        return prediction
