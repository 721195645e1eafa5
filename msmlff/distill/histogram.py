"""Flat histograms: equally many frames from every part of the range of an energy or a density."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.clusters import check_whole
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.errors import InputError

GRAMS_PER_CM3 = 1.66053906660  # of one atomic mass unit per Å³ (CODATA 2018)


@dataclass(frozen=True)
class _Flat(Selector):
    """Frames drawn so that the histogram of a value is as flat as the pool allows.

    Bins of equal width lie between two quantiles of the value; the first and the last take what lies beyond.
    Each pick goes to the bin with the fewest frames taken, held ones included, of equal ones to that with
    the fewest frames in the pool; inside a bin chance decides. The score of a frame is its value.

    Attributes:
        bins: number of bins.
        tail: share of the frames beyond each end of the range of equal bins, [0, 0.5).
    """

    uses_features: ClassVar[bool] = False
    bins: int = 20
    tail: float = 0.005

    def __post_init__(self) -> None:
        check_whole("bins", self.bins)
        if isinstance(self.tail, bool) or not isinstance(self.tail, int | float) or not 0 <= self.tail < 0.5:
            raise InputError(f"selector.tail={self.tail!r}: write a share from 0 to below 0.5")

    @abstractmethod
    def _values(self, task: Task, rows: np.ndarray) -> np.ndarray:
        """[rows] value of some frames."""

    def pick(self, task: Task) -> Picks:
        """The emptiest bin first, again and again."""
        rows = np.union1d(task.candidates, task.held)
        values = self._values(task, rows)
        low, high = np.quantile(values, [self.tail, 1 - self.tail])
        inner = np.linspace(low, high, self.bins + 1)[1:-1]
        bins = np.searchsorted(inner, values, side="right")
        taken = np.bincount(bins[np.isin(rows, task.held)], minlength=self.bins)
        free = np.isin(rows, task.candidates)
        left = np.bincount(bins[free], minlength=self.bins)
        turns = _turns(taken, left, task.count)
        numbers = np.bincount(turns, minlength=self.bins)
        keys = np.random.default_rng(task.seed).permutation(len(task.features))[rows[free]]
        queue = rows[free][np.lexsort((keys, bins[free]))]
        starts = np.cumsum(left) - left
        ids = np.empty(task.count, dtype=np.int64)
        for b in np.flatnonzero(numbers):
            ids[turns == b] = queue[starts[b] : starts[b] + numbers[b]]
        n = len(task.features)
        scores, bin_of = np.full(n, np.nan), np.full(n, -1)
        scores[rows], bin_of[rows] = values, bins
        details = {"low": float(low), "high": float(high), "chosen": (numbers + taken).tolist()}
        details |= {"pool": (left + taken).tolist()}
        return Picks(ids, pool_scores=scores, pool_columns={"bin": bin_of}, details=details)


@dataclass(frozen=True)
class FlatEnergy(_Flat):
    """A flat histogram of the energy per atom (eV/atom), from the labels.

    Raises:
        InputError: a parameter out of its range; in ``select``: a frame without an energy.
    """

    uses_labels: ClassVar[bool] = True

    def _values(self, task: Task, rows: np.ndarray) -> np.ndarray:
        return energies_per_atom(task, rows)


@dataclass(frozen=True)
class FlatDensity(_Flat):
    """A flat histogram of the mass density (g/cm³), from cells and elements.

    Raises:
        InputError: a parameter out of its range; in ``select``: a frame without a periodic cell.
    """

    uses_frames: ClassVar[bool] = True

    def _values(self, task: Task, rows: np.ndarray) -> np.ndarray:
        from ase.data import atomic_masses

        assert task.frames is not None
        values = np.empty(len(rows))
        for i, row in enumerate(rows.tolist()):
            frame = task.frames[row]
            if not (np.all(frame.pbc) and frame.volume > 0):
                raise InputError(
                    f"frame {row} ({frame.source or 'no source'}) has no density: its cell is not periodic "
                    "in three directions. Write selector=flat_energy, or forbid the frame"
                )
            values[i] = GRAMS_PER_CM3 * atomic_masses[frame.numbers].sum() / frame.volume
        return values


def energies_per_atom(task: Task, rows: np.ndarray) -> np.ndarray:
    """[rows] energy per atom of some frames, eV.

    Raises:
        InputError: a frame without an energy.
    """
    assert task.labels is not None
    values = np.asarray(task.labels.energy)[rows] / np.asarray(task.labels.num_atoms)[rows]
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        frame = int(rows[bad[0]])
        source = task.labels[frame].source or "no source"
        raise InputError(
            f"frame {frame} ({source}) has no energy: label the pool, name its key in pool.keys.energy, or "
            "take a selector that reads no labels"
        )
    return values


def _turns(taken: np.ndarray, left: np.ndarray, count: int) -> np.ndarray:
    """[count] the bin of each pick. taken, left: [bins] frames chosen already, candidates."""
    size = taken + left
    taken, left = taken.copy(), left.copy()
    turns = np.empty(count, dtype=np.int64)
    for i in range(count):
        filling = np.where(left > 0, taken, np.iinfo(np.int64).max)
        emptiest = np.flatnonzero(filling == filling.min())
        b = turns[i] = emptiest[np.argmin(size[emptiest])]
        taken[b] += 1
        left[b] -= 1
    return turns
