"""Descriptors of a pool: one row an atom, frames of any size, and views pooled to one row a frame."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from msmlff.errors import InputError

T = TypeVar("T")

BLOCK = 1 << 22  # numbers held at a time while pooling: 32 MiB in float64


@dataclass(frozen=True, eq=False)
class Features:
    """Per-atom rows of every frame of a pool, in the order of the pool; ``rows`` may lie on disk
    (memory-mapped).

    Attributes:
        rows: [atoms, F] float32 or float64, invariant features of each atom.
        offsets: [frames + 1] int64; frame i owns ``rows[offsets[i]:offsets[i + 1]]``.
        numbers: [atoms] atomic numbers.
        pool_hash: content hash of the pool the rows were computed from.
        descriptor: settings of the descriptor, JSON-serialisable; None for rows without a descriptor.

    Raises:
        InputError: shapes that do not belong together, or a frame without atoms.
    """

    rows: np.ndarray
    offsets: np.ndarray
    numbers: np.ndarray
    pool_hash: str
    descriptor: dict[str, Any] | None = None
    _memo: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        offsets = np.asarray(self.offsets, dtype=np.int64)
        object.__setattr__(self, "offsets", offsets)
        if self.rows.ndim != 2 or offsets.ndim != 1 or len(offsets) < 2 or offsets[0] != 0:
            raise InputError(
                f"features need rows [atoms, F] and offsets [frames + 1] from 0, got {self.rows.shape} and "
                f"{offsets.shape}"
            )
        if offsets[-1] != len(self.rows) or len(self.numbers) != len(self.rows):
            raise InputError(
                f"features: {len(self.rows)} rows, {len(self.numbers)} atomic numbers, offsets up to "
                f"{offsets[-1]}"
            )
        empty = np.flatnonzero(np.diff(offsets) <= 0)
        if len(empty):
            raise InputError(f"features: frame {empty[0]} has no atoms; take it out of the pool")

    @staticmethod
    def blank(num_atoms: np.ndarray, pool_hash: str) -> Features:
        """Features with no columns, for selectors that look at no descriptor. num_atoms: [frames]."""
        offsets = np.concatenate([[0], np.cumsum(num_atoms)])
        return Features(np.empty((offsets[-1], 0)), offsets, np.zeros(offsets[-1], dtype=np.int64), pool_hash)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, frame: int) -> np.ndarray:
        """[atoms of the frame, F] rows of one frame."""
        if not -len(self) <= frame < len(self):
            raise IndexError(f"frame {frame} of {len(self)}")
        frame %= len(self)
        return self.rows[self.offsets[frame] : self.offsets[frame + 1]]

    @property
    def num_atoms(self) -> np.ndarray:
        """[frames] atoms of each frame."""
        return np.diff(self.offsets)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges (start, stop) of whole frames whose rows fit in memory together; the pages of rows on disk
        are given back after each."""
        limit = max(1, BLOCK // max(1, self.rows.shape[1]))
        start = 0
        while start < len(self):
            stop = int(np.searchsorted(self.offsets, self.offsets[start] + limit, side="right")) - 1
            stop = min(max(stop, start + 1), len(self))
            yield start, stop
            self.release()
            start = stop

    def release(self) -> None:
        """Give back the memory of rows that were read from disk; they are read again when asked for.

        The kernel keeps the pages of a mapped file in the resident memory of the process for as long as
        nothing else wants them, so that a pass over the rows would otherwise seem to need all of them.
        """
        source: Any = self.rows
        while isinstance(source, np.ndarray) and not isinstance(source.base, mmap.mmap):
            source = source.base
        # Only of a read-only mapping: changes to a private copy would be lost.
        if isinstance(source, np.ndarray) and not source.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
            mapping: Any = source.base
            mapping.madvise(mmap.MADV_DONTNEED)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and (population) standard deviation of each column over all atoms, float64, in one pass;
        computed once. [F], [F]."""
        return self.remember("moments", self._moments)

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        count, mean, squares = 0, np.zeros(self.rows.shape[1]), np.zeros(self.rows.shape[1])
        for start, stop in self.blocks():
            block = self._block(start, stop)
            own = block.mean(axis=0)
            block -= own
            # Two parts together: Chan, Golub and LeVeque, Am. Stat. 37, 242 (1983).
            share = len(block) / (count + len(block))
            squares += np.einsum("ij,ij->j", block, block) + (own - mean) ** 2 * share * count
            mean += (own - mean) * share
            count += len(block)
        return mean, np.sqrt(squares / count)

    def first_bad_frame(self) -> int | None:
        """The first frame with a NaN or infinite feature, or None."""
        for start, stop in self.blocks():
            finite = np.isfinite(self.rows[self.offsets[start] : self.offsets[stop]])
            if not finite.all():
                finite = finite.all(axis=1)
                atom = self.offsets[start] + int(np.argmin(finite))
                return int(np.searchsorted(self.offsets, atom, side="right")) - 1
        return None

    def pooled(self, view: str) -> np.ndarray:
        """One row a frame: "mean", "mean_std", "per_element" or "sum"; computed once. [frames, columns]
        float64.

        Raises:
            InputError: unknown view.
        """
        if view not in POOLINGS:
            raise InputError(f"pooling '{view}' is unknown; write one of {', '.join(POOLINGS)}")
        return self.remember(("pooled", view), lambda: POOLINGS[view](self))

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()``, called once for each ``key`` in the life of these features."""
        if key not in self._memo:
            self._memo[key] = make()
        value: T = self._memo[key]
        return value

    def mean(self) -> np.ndarray:
        """[frames, F] mean over the atoms of each frame."""
        return np.concatenate([self._means(*block) for block in self.blocks()])

    def sum(self) -> np.ndarray:
        """[frames, F] sum over the atoms of each frame, for what adds up as an energy does."""
        return np.concatenate([self._sums(self._block(*block), *block) for block in self.blocks()])

    def mean_std(self) -> np.ndarray:
        """[frames, 2 F] mean and (population) standard deviation over the atoms of each frame."""
        parts = []
        for start, stop in self.blocks():
            count = self.num_atoms[start:stop]
            mean = self._means(start, stop)
            deviation = self._block(start, stop) - np.repeat(mean, count, axis=0)
            variance = self._sums(deviation**2, start, stop) / count[:, None]
            parts.append(np.concatenate([mean, np.sqrt(variance)], axis=1))
        return np.concatenate(parts)

    def per_element(self) -> np.ndarray:
        """[frames, elements * (F + 1)]: for each element of the pool, ascending, its share of the frame's
        atoms and the mean over its atoms; a frame without the element has the pool's mean there, which
        sets it apart by the share alone and not by an invented outlier."""
        elements = np.unique(self.numbers)
        width = self.rows.shape[1]
        pooled = np.empty((len(self), len(elements), width + 1))
        for start, stop in self.blocks():
            block = self._block(start, stop)
            numbers = self.numbers[self.offsets[start] : self.offsets[stop]]
            for e, element in enumerate(elements):
                is_element = (numbers == element)[:, None]
                count = self._sums(is_element.astype(np.float64), start, stop)
                with np.errstate(invalid="ignore"):
                    pooled[start:stop, e, 1:] = self._sums(block * is_element, start, stop) / count
                pooled[start:stop, e, :1] = count / self.num_atoms[start:stop, None]
        for e in range(len(elements)):
            absent = pooled[:, e, 0] == 0
            pooled[absent, e, 1:] = pooled[~absent, e, 1:].mean(axis=0)
        return pooled.reshape(len(self), -1)

    def _block(self, start: int, stop: int) -> np.ndarray:
        return np.asarray(self.rows[self.offsets[start] : self.offsets[stop]], dtype=np.float64)

    def _sums(self, values: np.ndarray, start: int, stop: int) -> np.ndarray:
        return np.add.reduceat(values, self.offsets[start:stop] - self.offsets[start], axis=0)

    def _means(self, start: int, stop: int) -> np.ndarray:
        return self._sums(self._block(start, stop), start, stop) / self.num_atoms[start:stop, None]


POOLINGS: dict[str, Callable[[Features], np.ndarray]] = {
    "mean": Features.mean,
    "mean_std": Features.mean_std,
    "per_element": Features.per_element,
    "sum": Features.sum,
}
