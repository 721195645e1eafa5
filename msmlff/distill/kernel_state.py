"""Kernel sums of a pool's environments over a growing choice of frames, brought up to date where asked
for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from msmlff.distill.entropy import (
    EXPONENT_ERROR,
    float32_error,
    left,
    precision,
    right,
    rows_of,
)
from msmlff.distill.features import Features
from msmlff.distill.row_products import GrowingOthers, exponential_sums, exponential_sums_within
from msmlff.distill.space import Space

MOST_ENTRIES = 1 << 27  # of the table frames x targets: 512 MiB in float32
KEPT = 1 << 26  # coordinates of the pool's environments that are kept (256 MiB in float32), else read again
SAMPLE = 4000  # environments that decide the leading axes
REST = 0.02  # mean square of what lies along the others, in bandwidths
ROWS = 4096  # of the pool at a time: some MiB
FEW = 4  # rows counted exactly at a time
WEAK = 1e-25  # sums below it may still grow by what float32 cannot hold


class KernelState:
    """s(e) = sum_{x chosen} K_h(e, x) of every environment e of the pool, x of the element of e.

    Each sum knows how many of the chosen environments of its element it has counted, in the order of the
    choice; one that is behind is a lower bound. All sums count the first frame at once, the others when they
    are asked for. Where the exponents are right to 1e-3 in float32, they are computed in it; sums are in
    float64.

    Where bounds from below will do, they are taken in few coordinates: |x - y|² is at most what the leading
    principal axes give plus 2 |x'|² + 2 |y'|², x' and y' being what lies along the others; these norms cost
    nothing.

    Attributes:
        num_atoms: [frames].
        added: frames chosen so far.
        sums: [atoms] float64.
    """

    def __init__(self, features: Features, space: Space, bandwidth: float, bounds: bool = False) -> None:
        """bounds: ``sums`` need only be bounds from below that are near to most sums; ``exact_least`` is
        exact all the same."""
        self.num_atoms, self.added = features.num_atoms, 0
        self.sums = np.zeros(len(features.rows))
        self._features, self._space, self._h = features, space, bandwidth
        self._elements, self._element = np.unique(np.asarray(features.numbers), return_inverse=True)
        self._counted = np.zeros(len(features.rows), dtype=np.int64)
        # Sums over the chosen frame whose environments begin at number _extra_from alone; -1: none.
        self._extra = np.zeros(len(features.rows))
        self._extra_from = np.full(len(features.rows), -1, dtype=np.int64)
        # Sums in float64 throughout, of those that were asked for, and how many they have counted.
        self._exact = np.zeros(len(features.rows))
        self._exact_counted = np.zeros(len(features.rows), dtype=np.int64)
        # Of each frame the number of the chosen frame with the nearest mean, and the squared distance to it.
        self._means = space(features.pooled("mean"))
        self._like = np.full(len(features), -1, dtype=np.int64)
        self._unlike = np.full(len(features), np.inf)
        self._axes = self._leading_axes() if bounds else None
        width = self._means.shape[1]
        leading = width if self._axes is None else self._axes.shape[1]
        self._chosen = [_Chosen(leading + 2, width + 2) for _ in self._elements]
        # Rows far from the centre: float32 is too coarse for their distances to what is near them. Its error
        # with rows that only the other side has so far out does not matter: their kernel is 0.
        self._far = np.empty(len(features.rows), dtype=bool)
        kept = len(features.rows) * (leading + 2) <= KEPT
        self._kept = np.empty((len(features.rows), leading + 2), np.float32) if kept else None
        for block in self._blocks():
            points = self._scaled(block)
            self._far[block] = 2 * float32_error(np.einsum("ij,ij->i", points, points)) > EXPONENT_ERROR
            if self._kept is not None:
                self._kept[block] = self._near(points, left)

    def _blocks(self) -> Iterator[slice]:
        """The pool's environments, some at a time that stay in the cache."""
        for start, stop in self._features.blocks():
            first, last = self._features.offsets[[start, stop]].tolist()
            for begin in range(first, last, ROWS):
                yield slice(begin, min(begin + ROWS, last))

    def add(self, frame: int) -> None:
        """Choose ``frame``."""
        inside = np.arange(self._features.offsets[frame], self._features.offsets[frame + 1])
        rows, element = self._scaled(inside), self._element[inside]
        for e, chosen in enumerate(self._chosen):
            mine = rows[element == e]
            chosen.add(self._near(mine, right), right(mine))
        unlike = ((self._means - self._means[frame]) ** 2).sum(axis=1)
        self._like[unlike < self._unlike] = self.added
        self._unlike = np.minimum(unlike, self._unlike)
        self.added += 1
        if self.added == 1:
            for block in self._blocks():
                self._count(np.arange(block.start, block.stop), settled=False)

    def sums_of(self, frames: np.ndarray, enough: np.ndarray | None = None) -> np.ndarray:
        """Sums of all environments of ``frames``, frame by frame: up to date, or, where a lower bound of them
        exceeds ``enough`` [m] of their frame, that bound."""
        rows, frame = rows_of(self._features, frames)
        if enough is None:
            self._count(rows)
            return self.sums[rows]
        until = np.repeat(enough, self.num_atoms[frames])
        bound, behind = self._bound(rows)
        open_ = np.flatnonzero(behind & ~(bound > until))
        # The chosen frame that is most like theirs is often enough.
        self._count_ahead(rows[open_], self._like[frame[open_]])
        while True:
            bound, behind = self._bound(rows)
            open_ = np.flatnonzero(behind & ~(bound > until))
            if not len(open_):
                return bound
            part = rows[open_]
            limit = until[open_] - (bound[open_] - self.sums[part])
            self._count(part, np.maximum(limit, self.sums[part]))  # rounding must not end the counting

    def _bound(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums, with what is known of environments that are not counted yet; and which are not complete."""
        counted = self._counted[rows]
        ahead = self._extra_from[rows] >= counted
        bound = self.sums[rows]
        bound[ahead] += self._extra[rows[ahead]]
        return bound, counted < self._totals()[self._element[rows]]

    def _totals(self) -> np.ndarray:
        return np.array([chosen.near.count for chosen in self._chosen])

    def exact_least(self, frame: int, margin: float) -> float:
        """The least sum of ``frame`` in float64 throughout; no sum of the state exceeds its own by more than
        the share ``margin``."""
        rows = np.arange(self._features.offsets[frame], self._features.offsets[frame + 1])
        bound, _ = self._bound(rows)
        order, least = np.argsort(bound), np.inf
        for start in range(0, len(rows), FEW):
            some = order[start : start + FEW]
            if bound[some[0]] * (1 - 2 * margin) > least:
                break
            for part, chosen in self._by(self._element[rows[some]], rows[some]):
                sums, counted = self._exact[part], self._exact_counted[part]
                chosen.exact.count_until(left(self._scaled(part)), sums, counted, np.full(len(part), np.inf))
                self._exact[part], self._exact_counted[part] = sums, counted
            least = min(least, float(self._exact[rows[some]].min()))
        return least

    def _by(self, element: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, _Chosen]]:
        """(those of ``rows`` [m] of an element, its chosen environments), element by element."""
        for e in np.unique(element).tolist():
            yield rows[element == e], self._chosen[e]

    def _leading_axes(self) -> np.ndarray | None:
        """[coordinates, leading] beyond which environments have little; None where that saves little."""
        n = len(self._features.rows)
        some = np.sort(np.random.default_rng(0).choice(n, size=min(n, SAMPLE), replace=False))
        points = self._scaled(some)
        squares, axes = np.linalg.eigh(points.T @ points / len(points))
        beyond = np.append(np.cumsum(np.maximum(squares, 0.0))[::-1], 0.0)
        leading = max(1, int(np.flatnonzero(beyond <= REST)[0]))
        return axes[:, ::-1][:, :leading] if leading <= 0.75 * len(axes) else None

    def _near(self, points: np.ndarray, side: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """[m, leading + 2] float32 rows of ``left`` or ``right`` whose products are bounds from below."""
        if self._axes is None:
            return side(points.astype(np.float32))
        leading = points @ self._axes
        rest = np.einsum("ij,ij->i", points, points) - np.einsum("ij,ij->i", leading, leading)
        rows = side(leading.astype(np.float32))
        half = -2 if side is left else -1  # the column of the squared length
        rows[:, half] -= np.maximum(rest, 0.0)
        return rows

    def _scaled(self, rows: np.ndarray | slice) -> np.ndarray:
        coordinates = self._space(self._features.rows[rows])
        coordinates /= self._h
        return coordinates

    def _left(self, rows: np.ndarray) -> np.ndarray:
        if self._kept is not None:
            return self._kept[rows]
        return self._near(self._scaled(rows), left)

    def _count(self, rows: np.ndarray, enough: np.ndarray | None = None, settled: bool = True) -> None:
        """Count chosen environments in the sums of ``rows``, all of them or until a sum exceeds ``enough``;
        if they need not be ``settled``, not those that need float64."""
        limit = np.full(len(rows), np.inf) if enough is None else enough
        for at, chosen in self._by(self._element[rows], np.arange(len(rows))):
            part, most = rows[at], limit[at]
            sums, counted = self.sums[part], self._counted[part]
            chosen.near.count_until(self._left(part), sums, counted, most)
            again = np.flatnonzero(self._far[part] | (sums < WEAK))
            if not settled:
                sums[again], counted[again] = self.sums[part[again]], self._counted[part[again]]
            elif len(again):
                weak = part[again]
                anew, until = self.sums[weak], self._counted[weak]
                chosen.exact.count_until(left(self._scaled(weak)), anew, until, most[again])
                sums[again], counted[again] = anew, until
            self.sums[part], self._counted[part] = sums, counted

    def _count_ahead(self, rows: np.ndarray, frame: np.ndarray) -> None:
        """Know the sums of ``rows`` over the chosen frames number ``frame`` [rows], where these are not
        counted yet."""
        for e, chosen in enumerate(self._chosen):
            mine = self._element[rows] == e
            part, first = rows[mine], chosen.starts[frame[mine]]
            new = (self._counted[part] <= first) & (self._extra_from[part] != first)
            part, first, like = part[new], first[new], frame[mine][new]
            sums, all_of_it = np.zeros(len(part)), np.full(len(part), np.inf)
            chosen.near.count_until(self._left(part), sums, first.copy(), all_of_it, chosen.starts[like + 1])
            # A bound from below: what is far or underflows may as well be nothing.
            sums[self._far[part] | (sums < WEAK)] = 0.0
            self._extra[part], self._extra_from[part] = sums, first


class _Chosen:
    """The chosen environments of one element, as ``right`` rows.

    Attributes:
        near: in float32, where that will do, perhaps along the leading axes alone.
        exact: in float64.
        starts: [frames + 1] where those of each chosen frame begin.
    """

    def __init__(self, near: int, exact: int) -> None:
        self.near, self.exact = GrowingOthers(near, np.float32), GrowingOthers(exact, np.float64)
        self.starts = np.zeros(1, dtype=np.int64)

    def add(self, near: np.ndarray, exact: np.ndarray) -> None:
        """One more frame's environments; may be none."""
        self.near.add(near)
        self.exact.add(exact)
        self.starts = np.append(self.starts, self.near.count)


def frame_entropies(features: Features, space: Space, bandwidth: float) -> np.ndarray:
    """[frames] information entropy of each frame's own environments, in nats."""
    numbers, frame = np.asarray(features.numbers), np.repeat(np.arange(len(features)), features.num_atoms)
    logs = np.empty(len(features.rows))
    for first, last in features.blocks():
        step = max(1, ROWS // int(features.num_atoms[first:last].max()))
        for some in range(first, last, step):
            rows = np.arange(*features.offsets[[some, min(some + step, last)]])
            rows = rows[np.lexsort((numbers[rows], frame[rows]))]
            starts = np.flatnonzero(np.diff(numbers[rows], prepend=-1) | np.diff(frame[rows], prepend=-1))
            points = space(features.rows[rows]) / bandwidth
            logs[rows] = np.log(exponential_sums_within(left(points), right(points), starts))
    entropies: np.ndarray = np.log(features.num_atoms) - np.add.reduceat(logs, features.offsets[:-1]) / (
        features.num_atoms
    )
    return entropies


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
    for first, last in features.blocks():
        rows = np.arange(features.offsets[first], features.offsets[last])
        frame = np.repeat(np.arange(first, last), features.num_atoms[first:last])
        scaled = space(features.rows[rows[0] : rows[-1] + 1]) / bandwidth
        kind = precision(scaled, points)
        here, there = right(scaled.astype(kind)), left(points.astype(kind))
        for columns, element in groups:
            inside = np.flatnonzero(numbers[rows] == element)
            cuts = np.flatnonzero(np.diff(frame[inside], prepend=-1))
            table[frame[inside][cuts], columns] = exponential_sums(there[columns], here[inside], cuts)
    return table
