"""Force fields with known dynamics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.configuration import Configuration
from msmlff.models.base import ForceField, Prediction
from msmlff.simulation.forces import Evaluation


class Toy(ForceField):
    """Base: one species (hydrogen), a dummy parameter that sets the dtype."""

    hops = 1

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


class LennardJones(Toy):
    """4 e ((s/r)^12 - (s/r)^6), s = 2 Å, times a polynomial that ends it smoothly at the cutoff."""

    def __init__(self, depth: float = 0.05, cutoff: float = 5.0) -> None:
        super().__init__(cutoff)
        self.depth = depth

    def interaction_energies(self, vectors: Tensor, batch: Batch) -> Tensor:
        length = vectors.square().sum(dim=1).sqrt()
        x = (length / self.cutoff).clamp(max=1.0)
        envelope = 1.0 - 10.0 * x**3 + 15.0 * x**4 - 6.0 * x**5
        sixth = (2.0 / length) ** 6
        pair = 2.0 * self.depth * (sixth**2 - sixth) * envelope
        return torch.zeros(batch.num_atoms, dtype=pair.dtype).index_add(0, batch.receiver, pair)


class CellEnergy:
    """Forces for ``MolecularDynamics`` without a model: an ideal gas whose cell has an energy of its own.

    energy: [replicas, 3, 3] cells in Å -> [replicas] eV.
    """

    cutoff, atomic_numbers, device = 1e-3, (1,), torch.device("cpu")

    def __init__(self, energy: Callable[[Tensor], Tensor]) -> None:
        self.energy = energy

    def __call__(self, batch: Batch, stress: bool) -> Evaluation:
        return self.of_cells(batch.cell, batch.num_atoms)

    def of_cells(self, cell: Tensor, atoms: int) -> Evaluation:
        cell = cell.detach().requires_grad_()
        energy = self.energy(cell)
        (slope,) = torch.autograd.grad(energy.sum(), cell)
        strain_slope = cell.transpose(1, 2) @ slope  # of h -> h (1 + strain)
        volume = torch.linalg.det(cell).abs().view(-1, 1, 1)
        forces = torch.zeros(atoms, 3, dtype=torch.float64)
        return Evaluation(energy.detach(), forces, (strain_slope / volume).detach())


def fcc(repeat: int = 2, spacing: float = 3.17, rattle: float = 0.05, seed: int = 0) -> Configuration:
    """A rattled crystal of 4 * repeat^3 hydrogen atoms, near the minimum of ``LennardJones``."""
    corners = np.indices((repeat,) * 3).reshape(3, -1).T
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    positions = spacing * (corners[:, None] + basis).reshape(-1, 3)
    positions += rattle * np.random.default_rng(seed).normal(size=positions.shape)
    return Configuration(
        np.ones(len(positions), dtype=np.int64),
        positions,
        spacing * repeat * np.eye(3),
        np.ones(3, dtype=bool),
    )
