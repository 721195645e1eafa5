"""Kernel sums of a pool's environments over a growing choice of frames, brought up to date where asked
for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from msmlff.distill.entropy import (
    BLOCK,
    EXPONENT_ERROR,
    exponents,
    float32_error,
    left,
    precision,
    reduce_runs,
    right,
    rows_of,
)
from msmlff.distill.features import Features
from msmlff.distill.space import Space

MOST_ENTRIES = 1 << 27  # of the table frames x targets: 512 MiB in float32
KEPT = 1 << 26  # coordinates of the pool's environments that are kept (256 MiB in float32), else read again
WEAK = 1e-25  # sums below it may still grow by what float32 cannot hold
CHUNK = 5  # chosen frames counted at a time where a sum need not be complete


class KernelState:
    """s(e) = sum_{x chosen} K_h(e, x) of every environment e of the pool, x of the element of e.

    Each sum knows how many of the chosen frames it has counted, in the order of the choice; one that is
    behind is a lower bound. All sums count the first frame at once, the others when they are asked for. Where
    the exponents are right to 1e-3 in float32, they are computed in it; sums are in float64.

    Attributes:
        num_atoms: [frames].
        added: frames chosen so far.
        sums: [atoms] float64.
    """

    def __init__(self, features: Features, space: Space, bandwidth: float, capacity: int) -> None:
        """capacity: frames that will be added, at most."""
        self.num_atoms, self.added = features.num_atoms, 0
        self.sums = np.zeros(len(features.rows))
        self._features, self._space, self._h = features, space, bandwidth
        self._numbers = np.asarray(features.numbers)
        self._counted = np.zeros(len(features.rows), dtype=np.int32)
        # Sums over the chosen frame number _extra_from alone; -1: none.
        self._extra = np.zeros(len(features.rows))
        self._extra_from = np.full(len(features.rows), -1, dtype=np.int32)
        # Of each frame the number of the chosen frame with the nearest mean, and the squared distance to it.
        self._means = space(features.pooled("mean"))
        self._like = np.full(len(features), -1, dtype=np.int32)
        self._unlike = np.full(len(features), np.inf)
        elements = np.unique(self._numbers).tolist()
        self._kept: np.ndarray | None = None
        # Rows far from the centre: float32 is too coarse for their distances to what is near them. Its error
        # with rows that only the other side has so far out does not matter: their kernel is 0.
        self._far = np.concatenate([self._is_far(i, j) for i, j in features.blocks()])
        self._chosen = {z: _Rows(capacity) for z in elements}
        self._chosen_64 = {z: _Rows(capacity) for z in elements}

    def _is_far(self, start: int, stop: int) -> np.ndarray:
        points = self._scaled(np.arange(self._features.offsets[start], self._features.offsets[stop]))
        far: np.ndarray = 2 * float32_error(np.einsum("ij,ij->i", points, points)) > EXPONENT_ERROR
        return far

    def add(self, frame: int) -> None:
        """Choose ``frame``."""
        inside = np.arange(self._features.offsets[frame], self._features.offsets[frame + 1])
        rows, numbers = self._scaled(inside), self._numbers[inside]
        for z in self._chosen:
            self._chosen[z].add(right(rows[numbers == z].astype(np.float32)))
            self._chosen_64[z].add(right(rows[numbers == z]))
        unlike = ((self._means - self._means[frame]) ** 2).sum(axis=1)
        self._like[unlike < self._unlike] = self.added
        self._unlike = np.minimum(unlike, self._unlike)
        self.added += 1
        if self.added == 1:
            kept = []
            for start, stop in self._features.blocks():
                block = np.arange(self._features.offsets[start], self._features.offsets[stop])
                if self.sums.size * rows.shape[1] <= KEPT:
                    kept.append(left(self._scaled(block).astype(np.float32)))
                self._update(block, 1)
            self._kept = np.concatenate(kept) if kept else None

    def sums_of(self, frames: np.ndarray, enough: np.ndarray | None = None) -> np.ndarray:
        """Sums of all environments of ``frames``, frame by frame: up to date, or, where a lower bound of them
        exceeds ``enough`` [m] of their frame, that bound."""
        rows, _ = rows_of(self._features, frames)
        if enough is None:
            self._update(rows, self.added)
            return self._bound(rows)
        until = np.repeat(enough, self.num_atoms[frames])
        open_ = self._open(rows, until)
        # The chosen frame that is most like theirs is often enough.
        like = self._like[np.searchsorted(self._features.offsets, open_, side="right") - 1]
        new = (self._counted[open_] <= like) & (self._extra_from[open_] != like)
        open_, like = open_[new], like[new]
        if len(open_):
            self._extra[open_] = self._between(open_, like, like + 1)
            self._extra_from[open_] = like
        while len(open_ := self._open(rows, until)):
            # Not all the others at once.
            self._update(open_, min(int(self._counted[open_].min()) + CHUNK, self.added))
        return self._bound(rows)

    def _open(self, rows: np.ndarray, until: np.ndarray) -> np.ndarray:
        return rows[(self._counted[rows] < self.added) & (self._bound(rows) < until)]

    def _bound(self, rows: np.ndarray) -> np.ndarray:
        """Sums, with what is known of frames that are not counted yet."""
        ahead = self._extra_from[rows] >= self._counted[rows]
        bound: np.ndarray = self.sums[rows] + np.where(ahead, self._extra[rows], 0.0)
        return bound

    def exact(self, rows: np.ndarray) -> np.ndarray:
        """Sums of ``rows``, of one element, over all chosen frames, in float64 throughout."""
        chosen = self._chosen_64[int(self._numbers[rows[0]])].between(0, self.added)
        return kernel_sums(left(self._scaled(rows)), chosen)

    def exact_least(self, frame: int, margin: float) -> float:
        """The least sum of ``frame`` in float64; sums of the state are right to the share ``margin``."""
        rows = np.arange(self._features.offsets[frame], self._features.offsets[frame + 1])
        bound = self._bound(rows)
        rows = rows[bound <= bound.min() * (1 + 2 * margin)]
        parts = [self.exact(rows[self._numbers[rows] == z]) for z in np.unique(self._numbers[rows])]
        return float(min(part.min() for part in parts))

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        coordinates: np.ndarray = self._space(self._features.rows[rows]) / self._h
        return coordinates

    def _left(self, rows: np.ndarray) -> np.ndarray:
        if self._kept is not None:
            return self._kept[rows]
        return left(self._scaled(rows).astype(np.float32))

    def _update(self, rows: np.ndarray, until: int) -> None:
        """Count chosen frames up to number ``until`` in the sums of ``rows``."""
        rows = rows[self._counted[rows] < until]
        if len(rows):
            self.sums[rows] += self._between(rows, self._counted[rows], np.full(len(rows), until))
            self._counted[rows] = until

    def _between(self, rows: np.ndarray, since: np.ndarray, until: np.ndarray) -> np.ndarray:
        """[rows] kernel sums over the chosen frames number ``since`` [rows] to ``until`` [rows] - 1, where
        equal ``since`` have equal ``until``."""
        # float32 underflows, in the end by much, where nothing chosen is near: those rows have exp in
        # float64.
        how = np.where(self._far[rows], 2, (self.sums[rows] < WEAK).astype(np.int64))
        key = (self._numbers[rows].astype(np.int64) * (self.added + 1) + since) * 3 + how
        order, result = np.argsort(key, kind="stable"), np.empty(len(rows))
        key = key[order]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(key)) + 1, [len(rows)]])
        for start, stop in pairwise(starts.tolist()):
            at = order[start:stop]
            part, way = rows[at], key[start] % 3
            table = self._chosen_64 if way == 2 else self._chosen
            points = left(self._scaled(part)) if way == 2 else self._left(part)
            new = table[int(self._numbers[part[0]])].between(int(since[at[0]]), int(until[at[0]]))
            result[at] = kernel_sums(points, new, np.float64 if way else np.float32)
        return result


class _Rows:
    """Rows of the chosen frames, one after the other, in an array that grows."""

    def __init__(self, capacity: int) -> None:
        self._starts = np.zeros(capacity + 1, dtype=np.int64)
        self._frames, self._data = 0, np.empty((0, 0))

    def add(self, rows: np.ndarray) -> None:
        """The rows of one more frame; may be none."""
        used = int(self._starts[self._frames])
        if used + len(rows) > len(self._data):
            grown = np.empty((max(2 * len(self._data), used + len(rows)), rows.shape[1]), rows.dtype)
            if used:
                grown[:used] = self._data[:used]
            self._data = grown
        if len(rows):
            self._data[used : used + len(rows)] = rows
        self._frames += 1
        self._starts[self._frames] = used + len(rows)

    def between(self, first: int, last: int) -> np.ndarray:
        """Rows of frames number ``first`` to ``last`` - 1."""
        return self._data[self._starts[first] : self._starts[last]]


def kernel_sums(a: np.ndarray, b: np.ndarray, kind: type[np.floating] = np.float64) -> np.ndarray:
    """[m] float64 sums of kernels; a: ``left`` rows, b: ``right`` rows, of one precision; the exponential is
    taken in precision ``kind``, below whose smallest number it underflows."""
    sums = np.zeros(len(a))
    across = min(len(b), 1 << 12)
    step = max(1, (BLOCK // 4) // max(1, across))
    for first in range(0, len(b), max(1, across)):
        part = b[first : first + across].T
        for start in range(0, len(a), step):
            kernel = (a[start : start + step] @ part).astype(kind, copy=False)
            sums[start : start + step] += np.exp(kernel, out=kernel).sum(axis=1, dtype=np.float64)
    return sums


def frame_entropies(features: Features, space: Space, bandwidth: float) -> np.ndarray:
    """[frames] information entropy of each frame's own environments, in nats."""
    result = np.empty(len(features))
    for frame in range(len(features)):
        inside = slice(features.offsets[frame], features.offsets[frame + 1])
        points = space(features.rows[inside]) / bandwidth
        kernel = np.exp(exponents(points, points))
        numbers = np.asarray(features.numbers[inside])
        if (numbers != numbers[0]).any():
            kernel *= numbers[:, None] == numbers
        result[frame] = np.log(len(points)) - np.log(kernel.sum(axis=1)).mean()
    return result


def target_sums(features: Features, space: Space, bandwidth: float, most: int) -> np.ndarray:
    """[frames, targets] float32: sum of K_h(e, x) over the environments x of each frame, for environments e
    that stand for the pool: at most ``most``, fewer where the table would exceed ``MOST_ENTRIES``, drawn
    evenly with a fixed seed."""
    n = len(features.rows)
    count = min(n, most, max(256, MOST_ENTRIES // len(features)))
    targets = np.sort(np.random.default_rng(0).choice(n, size=count, replace=False))
    numbers = np.asarray(features.numbers)
    targets = targets[np.argsort(numbers[targets], kind="stable")]
    points = space(features.rows[targets]) / bandwidth
    table = np.zeros((len(features), count), dtype=np.float32)
    ends = np.concatenate([[0], np.flatnonzero(np.diff(numbers[targets])) + 1, [count]])
    groups = [(slice(a, b), numbers[targets[a]]) for a, b in pairwise(ends.tolist())]
    step = max(1, BLOCK // count)
    for first, last in features.blocks():
        rows = np.arange(features.offsets[first], features.offsets[last])
        frame = np.repeat(np.arange(first, last), features.num_atoms[first:last])
        scaled = space(features.rows[rows[0] : rows[-1] + 1]) / bandwidth
        kind = precision(scaled, points)
        scaled, there = scaled.astype(kind), points.astype(kind)
        for columns, element in groups:
            inside = np.flatnonzero(numbers[rows] == element)
            for start in range(0, len(inside), step):
                part = inside[start : start + step]
                kernel = exponents(scaled[part], there[columns])
                np.exp(kernel, out=kernel)
                # A frame's rows may be cut by the block: its parts are added up.
                cuts = np.concatenate([[0], np.flatnonzero(np.diff(frame[part])) + 1])
                table[frame[part][cuts], columns] += reduce_runs(np.add, kernel, cuts)
    return table
