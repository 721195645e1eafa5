"""What drives the dynamics: a model, a committee of models, or either with a bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.simulation.chunks import ChunkedEvaluator


@dataclass
class Evaluation:
    """Energies and their derivatives for a batch, in float64, without a graph.

    Attributes:
        energy: [replicas] eV.
        forces: [atoms, 3] eV/Å.
        stress: [replicas, 3, 3] eV/Å³, NaN where there is no volume; None where it was not asked for.
        deviation: [atoms] eV/Å, of a committee: root mean square over models of |F - mean F|; else None.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor | None = None
    deviation: Tensor | None = None

    def keep(self, rows: Sequence[int], atom_ptr: Tensor) -> Evaluation:
        """Of these replicas alone; ``atom_ptr`` [replicas + 1] bounds the atoms of all."""
        kept = torch.tensor(list(rows), dtype=torch.long)
        bounds = atom_ptr.tolist()
        parts = [torch.arange(bounds[r], bounds[r + 1]) for r in rows]
        atoms = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
        atoms, kept = atoms.to(self.forces.device), kept.to(self.forces.device)
        return Evaluation(
            self.energy[kept],
            self.forces[atoms],
            None if self.stress is None else self.stress[kept],
            None if self.deviation is None else self.deviation[atoms],
        )


class ForceProvider(Protocol):
    """Forces of many replicas in one call.

    Attributes:
        cutoff: Å, up to which edges are needed; they come up to a skin beyond it, in any order of length.
        atomic_numbers: the elements it knows, ascending; ``batch.species`` indexes them.
        device: where batches have to be.
    """

    cutoff: float
    atomic_numbers: tuple[int, ...]
    device: torch.device

    def __call__(self, batch: Batch, stress: bool) -> Evaluation:
        """Energies, forces and, if asked for, stresses."""
        ...


class ModelForces:
    """A trained model.

    Args:
        model: it is put into evaluation mode and evaluated where its parameters are. They stay trainable.
        memory_gib: GiB that an evaluation may take; what takes more goes through in pieces. None: half of
            what is free.
    """

    def __init__(self, model: ForceField, memory_gib: float | None = None) -> None:
        self.model = model.eval()
        self._evaluate = ChunkedEvaluator(self.model, memory_gib=memory_gib).of_batch
        self.cutoff, self.atomic_numbers = model.cutoff, model.atomic_numbers
        self.device = next(model.parameters(), torch.zeros(())).device

    def __call__(self, batch: Batch, stress: bool) -> Evaluation:
        prediction = self._evaluate(batch, stress=stress)
        if prediction.forces is None:
            raise RuntimeError("the model returned no forces")
        return Evaluation(prediction.energy.detach(), prediction.forces.detach(), prediction.stress)


class Committee:
    """The mean of several models, and how much their forces differ (arXiv 2312.09490; the loop of DP-GEN).

    Args:
        models: two or more that know the same elements, on one device.
        memory_gib: as ``ModelForces``; each model in its turn.

    Raises:
        InputError: fewer, or models of other elements.
    """

    def __init__(self, models: Sequence[ForceField], memory_gib: float | None = None) -> None:
        if len(models) < 2:
            raise InputError(f"a committee needs two models or more; {len(models)} given")
        self.members = [ModelForces(model, memory_gib) for model in models]
        self.atomic_numbers = self.members[0].atomic_numbers
        for member in self.members:
            if member.atomic_numbers != self.atomic_numbers:
                raise InputError(
                    f"the models of a committee know different elements: {list(self.atomic_numbers)} and "
                    f"{list(member.atomic_numbers)}; give models trained on the same ones"
                )
        self.cutoff = max(member.cutoff for member in self.members)
        self.device = self.members[0].device

    def __call__(self, batch: Batch, stress: bool) -> Evaluation:
        each = [member(batch, stress) for member in self.members]
        forces = torch.stack([e.forces for e in each])
        mean = forces.mean(dim=0)
        deviation = (forces - mean).square().sum(dim=2).mean(dim=0).sqrt()
        stresses = [e.stress for e in each if e.stress is not None]
        energy = torch.stack([e.energy for e in each]).mean(dim=0)
        return Evaluation(energy, mean, torch.stack(stresses).mean(dim=0) if stresses else None, deviation)


Bias = Callable[[Batch, Evaluation], Evaluation]


class Biased:
    """Forces with biases: each sees the batch and what came before it, and returns what counts instead.

    A bias that acts on the energy, as in multicanonical sampling, scales what it is given; one that acts on
    positions adds to it. Its energy belongs to the energy, so that the conserved quantity holds.

    Args:
        forces: without bias.
        biases: applied in this order.
    """

    def __init__(self, forces: ForceProvider, biases: Sequence[Bias]) -> None:
        self.forces, self.biases = forces, list(biases)
        self.cutoff, self.atomic_numbers, self.device = forces.cutoff, forces.atomic_numbers, forces.device

    def __call__(self, batch: Batch, stress: bool) -> Evaluation:
        evaluation = self.forces(batch, stress)
        for bias in self.biases:
            evaluation = bias(batch, evaluation)
        return evaluation
