"""Frames and neighbour lists as batches, in an order that depends on the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from msmlff.data.batch import Batch
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbor_cache import NeighborCache
from msmlff.data.neighbors import Neighbors
from msmlff.data.packing import BatchBudget, BudgetBatchSampler
from msmlff.data.padding import pad, padded_size
from msmlff.data.store import FrameStore
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.nn.layout import lay_out
from msmlff.training.loss import group_factor
from msmlff.training.specs import TrainingSpec


@dataclass(frozen=True)
class FrameSet:
    """Frames with their neighbour lists at the model's longest cutoff, index by index."""

    frames: FrameStore
    neighbors: NeighborCache

    @classmethod
    def at_cutoff(cls, frames: FrameStore, cutoff: float) -> FrameSet:
        """Frames with their cached neighbour lists up to ``cutoff`` Å."""
        return cls(frames, NeighborCache(frames, cutoff))

    def __len__(self) -> int:
        return len(self.frames)

    def check_budget(self, budget: BatchBudget, key: str, name: str) -> None:
        """Raises InputError, with the configuration key, for a frame that no batch of ``budget`` can hold."""
        for kind, counts in (("atoms", self.frames.num_atoms), ("edges", self.neighbors.num_edges)):
            limit = getattr(budget, kind)
            largest = int(np.argmax(counts)) if len(counts) else -1
            if limit is not None and largest >= 0 and counts[largest] > limit:
                raise InputError(
                    f"{key}.{kind}={limit}: frame {largest} of {name} alone has {counts[largest]} {kind}; "
                    "write that number or more, or null for no bound"
                )


class _Frames(Dataset):
    """(index, frame, neighbours), what ``collate`` takes."""

    def __init__(self, frames: FrameSet) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[int, Configuration, Neighbors]:
        return index, self.frames.frames[index], self.frames.neighbors[index]


class StepStream(Sampler[list[int]]):
    """The batches of steps ``start`` to ``steps - 1``: epoch after epoch, each in its own seeded order.

    Its length is ``steps`` whatever ``start`` is, because Lightning counts on from the step it resumes at.
    """

    def __init__(self, batches: BudgetBatchSampler, steps: int, start: int) -> None:
        self.batches = batches
        self.steps = steps
        self.start = start

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        step, epoch = 0, 0
        while step < self.steps:
            self.batches.set_epoch(epoch)
            for batch in self.batches:
                if step >= self.steps:
                    return
                if step >= self.start:
                    yield batch
                step += 1
            epoch += 1


@dataclass(frozen=True)
class Preparation:
    """What is found out about a batch where it is made, so that no step waits for it on a GPU.

    Attributes:
        cutoffs: Å, those up to which the model asks for edges.
        num_species: of the model.
        padded: whether batches are padded to few sizes.
    """

    cutoffs: tuple[float, ...]
    num_species: int
    padded: bool

    @classmethod
    def of(cls, model: ForceField, padded: bool) -> Preparation:
        """For batches of this model."""
        terms: Any = model.pair_terms
        cutoffs = (*model.scale_cutoffs, *(term.cutoff for term in terms))
        return cls(cutoffs, len(model.atomic_numbers), padded)

    def __call__(self, batch: Batch) -> Batch:
        if self.padded:
            batch = pad(batch, *padded_size(batch, self.num_species))
        return lay_out(batch, self.cutoffs, self.num_species)


class FrameDataModule(pl.LightningDataModule):
    """Loaders over training and validation frames.

    Args:
        train, val: the frames; ``val`` may be None.
        atomic_numbers: the model's species.
        spec: batch budgets, steps and workers.
        seed: of the order.
        start_step: the first step (resume).
        pin_memory: put batches into page-locked memory, for a GPU.
        prepare: what is done to each batch; None: nothing.
    """

    def __init__(
        self,
        train: FrameSet,
        val: FrameSet | None,
        atomic_numbers: tuple[int, ...],
        spec: TrainingSpec,
        *,
        seed: int,
        start_step: int = 0,
        pin_memory: bool = False,
        prepare: Preparation | None = None,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.atomic_numbers = atomic_numbers
        self.spec, self.seed, self.start_step = spec, seed, start_step
        self.pin_memory, self.prepare = pin_memory, prepare

    def sampler(self, frames: FrameSet, budget: BatchBudget, shuffle: bool) -> BudgetBatchSampler:
        """Batches of ``frames`` within ``budget``."""
        return BudgetBatchSampler(
            frames.frames.num_atoms, frames.neighbors.num_edges, budget, shuffle=shuffle, seed=self.seed
        )

    def _collate(self, items: list[tuple[int, Configuration, Neighbors]]) -> Batch:
        ids, frames, neighbors = zip(*items, strict=True)
        weights = self.spec.loss.group_weights
        if weights:
            frames = tuple(replace(f, weight=f.weight * group_factor(weights, f.group)) for f in frames)
        batch = collate(list(frames), list(neighbors), self.atomic_numbers, list(ids))
        return batch if self.prepare is None else self.prepare(batch)

    def _loader(self, frames: FrameSet, batches: Sampler[list[int]] | list[list[int]]) -> DataLoader:
        workers = self.spec.workers
        return DataLoader(
            _Frames(frames),
            batch_sampler=batches,
            collate_fn=self._collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.pin_memory,
            generator=torch.Generator().manual_seed(self.seed),
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Lightning's waits for the GPU after every tensor."""
        return batch.to(device, non_blocking=True)

    def train_dataloader(self) -> DataLoader:
        batches = self.sampler(self.train, self.spec.batch, shuffle=True)
        return self._loader(self.train, StepStream(batches, self.spec.steps, self.start_step))

    def val_dataloader(self) -> DataLoader | list:
        return self.evaluation_loader(self.val) if self.val is not None else []

    def evaluation_loader(self, frames: FrameSet) -> DataLoader:
        """Every frame once, in order."""
        return self._loader(frames, list(self.sampler(frames, self.spec.validation_batch, shuffle=False)))
