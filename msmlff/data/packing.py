"""Batches packed by what they cost: frames, atoms and edges."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from msmlff.errors import InputError


@dataclass(frozen=True)
class BatchBudget:
    """The most a batch may hold; None sets no limit.

    Attributes:
        frames: frames in a batch.
        atoms: atoms in a batch.
        edges: directed edges in a batch.
    """

    frames: int | None = None
    atoms: int | None = None
    edges: int | None = None

    def __post_init__(self) -> None:
        limits = {"frames": self.frames, "atoms": self.atoms, "edges": self.edges}
        if all(limit is None for limit in limits.values()):
            raise InputError("the batch budget is empty: set frames, atoms or edges")
        for name, limit in limits.items():
            if limit is not None and limit < 1:
                raise InputError(f"the batch budget has {name}={limit}; it must be at least 1")


class BudgetBatchSampler:
    """Lists of frame ids for a DataLoader's ``batch_sampler``; each frame occurs once an epoch.

    The batches are a pure function of (seed, epoch), so an interrupted epoch is continued by setting
    ``start`` to the number of batches done. Frames are taken in order into the open batch; a frame that
    does not fit opens the next one.
    """

    def __init__(
        self,
        atoms: Sequence[int] | np.ndarray,
        edges: Sequence[int] | np.ndarray,
        budget: BatchBudget,
        shuffle: bool,
        seed: int = 0,
    ) -> None:
        """
        Args:
            atoms: [frames] atoms of each frame.
            edges: [frames] edges of each frame.
            budget: limits of a batch.
            shuffle: a new random order every epoch; else the order of the frames.
            seed: of the random order.
        """
        self.budget = budget
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.start = 0
        self._cost = np.stack([np.ones(len(atoms), np.int64), np.asarray(atoms), np.asarray(edges)], axis=1)
        unlimited = np.iinfo(np.int64).max
        self._limit = np.array(
            [unlimited if v is None else v for v in (budget.frames, budget.atoms, budget.edges)]
        )
        self._cached: tuple[int, list[list[int]]] | None = None
        self._report_oversized()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose batches are yielded next, from its first batch."""
        self.epoch = epoch
        self.start = 0

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch."""
        key = epoch if self.shuffle else 0
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, self._pack(self._order(key)))
        return self._cached[1]

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches(self.epoch)[self.start :]

    def __len__(self) -> int:
        """Number of batches that ``iter`` yields in the current epoch."""
        return len(self.batches(self.epoch)) - self.start

    def _order(self, epoch: int) -> np.ndarray:
        count = len(self._cost)
        if not self.shuffle:
            return np.arange(count)
        return np.random.default_rng((self.seed, epoch)).permutation(count)

    def _pack(self, order: np.ndarray) -> list[list[int]]:
        batches: list[list[int]] = []
        limit = [int(v) for v in self._limit]
        used = [0, 0, 0]
        for frame, cost in zip(order.tolist(), self._cost[order].tolist(), strict=True):
            total = [u + c for u, c in zip(used, cost, strict=True)]
            if batches and all(t <= m for t, m in zip(total, limit, strict=True)):
                batches[-1].append(frame)
                used = total
            else:
                batches.append([frame])
                used = cost
        return batches

    def _report_oversized(self) -> None:
        over = np.flatnonzero((self._cost > self._limit).any(axis=1))
        if len(over) == 0:
            return
        largest = int(over[np.argmax(self._cost[over, 2])])
        message = (
            f"{len(over)} frames are over the batch budget by themselves; frame {largest} has "
            f"{self._cost[largest, 1]} atoms and {self._cost[largest, 2]} edges"
        )
        warnings.warn(f"{message}: each makes a batch of its own", stacklevel=3)
