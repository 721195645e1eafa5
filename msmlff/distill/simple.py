"""The selectors to compare with: chance, evenly in time, evenly over groups, and everything."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.selector import Picks, Selector, Task
from msmlff.errors import InputError


@dataclass(frozen=True)
class RandomSelector(Selector):
    """Frames drawn evenly: a prefix of one seeded permutation of the pool, so that budgets are nested."""

    uses_features: ClassVar[bool] = False

    def pick(self, task: Task) -> Picks:
        """The first candidates of the permutation."""
        order = np.random.default_rng(task.seed).permutation(len(task.features))
        return Picks(order[np.isin(order, task.candidates)][: task.count])


@dataclass(frozen=True)
class FullSelector(Selector):
    """All frames that are not chosen already, in the order of the pool; the budget is null."""

    nested: ClassVar[bool] = False
    uses_features: ClassVar[bool] = False

    def pick(self, task: Task) -> Picks:
        """Every candidate.

        Raises:
            InputError: the budget is smaller than the pool, and so another selector is meant.
        """
        if task.count < len(task.candidates):
            raise InputError(
                f"selector=full takes all {len(task.candidates) + len(task.held)} frames: write "
                "budget=null, or "
                "selector=random or cpd for a part of the pool"
            )
        return Picks(task.candidates)


@dataclass(frozen=True)
class Uniform(Selector):
    """Frames evenly spaced in the order of the pool, which is time where the pool is one trajectory.

    The candidates of the whole pool count, whatever their groups: with groups, trajectories follow each
    other and each gets frames in proportion to its length (quotas change that). Without held frames, the
    candidates are cut into stretches of equal length and the middle of each is taken. With held frames,
    every pick goes to the gap that leaves the widest spacing, and the picks of a gap are spaced evenly
    between its ends. Picks are in the order of the pool.
    """

    nested: ClassVar[bool] = False
    seeded: ClassVar[bool] = False
    uses_features: ClassVar[bool] = False

    def pick(self, task: Task) -> Picks:
        """Evenly spaced candidates."""
        gaps = _gaps(task.candidates, task.held)
        chosen = _share_out(gaps, task.count)
        ids = [gap.frames[gap.places(number)] for gap, number in zip(gaps, chosen, strict=True) if number]
        return Picks(np.concatenate(ids))


@dataclass(frozen=True, eq=False)
class _Gap:
    """Candidates between two held frames; at the pool's beginning or end one side is open, and a half
    spacing is left there.

    frames: [n] ids, ascending; after_held, before_held: a held frame bounds the gap.
    """

    frames: np.ndarray
    after_held: bool
    before_held: bool

    def spacing(self, number: int) -> tuple[int, int]:
        """Spacing of ``number`` picks as a fraction: numerator, denominator (0 where nothing bounds it)."""
        is_open = 2 - self.after_held - self.before_held
        return 2 * len(self.frames) + 2 - is_open, 2 * number + 2 - is_open

    def places(self, number: int) -> np.ndarray:
        """[number] different positions in ``frames``, evenly spaced, rounded to whole frames."""
        length, parts = self.spacing(number)
        j = np.arange(1, number + 1)
        if self.after_held:
            return (2 * length * j + parts) // (2 * parts) - 1
        return (length * (2 * j - 1)) // (2 * parts)


def _gaps(candidates: np.ndarray, held: np.ndarray) -> list[_Gap]:
    """The stretches of candidates that no held frame interrupts."""
    before = np.searchsorted(np.sort(held), candidates)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(before)) + 1])
    ends = [*starts[1:], len(candidates)]
    return [
        _Gap(candidates[start:end], bool(before[start] > 0), bool(before[start] < len(held)))
        for start, end in zip(starts, ends, strict=True)
    ]


def _share_out(gaps: list[_Gap], count: int) -> list[int]:
    """Picks of each gap, given one at a time to the gap of the widest spacing."""

    def entry(gap: int, number: int) -> tuple[float, int]:
        length, parts = gaps[gap].spacing(number)
        return (-length / parts if parts else -np.inf), gap

    numbers = [0] * len(gaps)
    queue = [entry(gap, 0) for gap in range(len(gaps))]
    heapq.heapify(queue)
    for _ in range(count):
        _, gap = heapq.heappop(queue)
        numbers[gap] += 1
        if numbers[gap] < len(gaps[gap].frames):
            heapq.heappush(queue, entry(gap, numbers[gap]))
    return numbers


@dataclass(frozen=True)
class Stratified(Selector):
    """Chance inside each group (state point, trajectory), with a fixed share for every group.

    Each pick goes to the group with the most to claim, claim = size / (frames taken + 1/2), where size is
    1 for "equal" and the group's frames for "proportional" (the rule of Webster and Sainte-Laguë, whose
    seats are nested). Held frames count as taken; a group that is used up leaves its share to the others.

    Attributes:
        shares: "equal" or "proportional".

    Raises:
        InputError: unknown shares; in ``select``: a pool without groups.
    """

    uses_features: ClassVar[bool] = False
    shares: str = "equal"

    def __post_init__(self) -> None:
        if self.shares not in ("equal", "proportional"):
            raise InputError(f"selector.shares={self.shares} is unknown: write one of equal, proportional")

    def pick(self, task: Task) -> Picks:
        """Groups in turn, frames of a group by a seeded permutation."""
        if task.groups is None or not (task.groups != "").any():
            raise InputError(
                "selector=stratified needs groups, and the pool has none: name the key that holds a frame's "
                "state point or trajectory in pool.keys.group, or take selector=random"
            )
        names, group = np.unique(task.groups, return_inverse=True)
        left = np.bincount(group[task.candidates], minlength=len(names))
        taken = np.bincount(group[task.held], minlength=len(names))
        size = left + taken if self.shares == "proportional" else np.ones(len(names))
        turns = _turns(size, taken, left, task.count)
        keys = np.random.default_rng(task.seed).permutation(len(group))[task.candidates]
        queue = task.candidates[np.lexsort((keys, group[task.candidates]))]
        starts = np.cumsum(left) - left
        numbers = np.bincount(turns, minlength=len(names))
        ids = np.empty(task.count, dtype=np.int64)
        for g in np.flatnonzero(numbers):
            ids[turns == g] = queue[starts[g] : starts[g] + numbers[g]]
        details = {"groups": {str(names[g]): int(numbers[g]) for g in np.flatnonzero(left)}}
        return Picks(ids, details=details)


def _turns(size: np.ndarray, taken: np.ndarray, left: np.ndarray, count: int) -> np.ndarray:
    """[count] the group of each pick. size, taken, left: [groups] weight, frames taken, candidates."""
    taken, left = taken.copy(), left.copy()
    claim = np.where(left > 0, size / (taken + 0.5), -np.inf)
    turns = np.empty(count, dtype=np.int64)
    for i in range(count):
        g = turns[i] = int(np.argmax(claim))
        taken[g] += 1
        left[g] -= 1
        claim[g] = size[g] / (taken[g] + 0.5) if left[g] else -np.inf
    return turns
