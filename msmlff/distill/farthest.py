"""Farthest-point sampling without measuring every distance: bounds that only fall, and a small hot set.

The greedy rule is that of Gonzalez, Theor. Comput. Sci. 38, 293 (1985): take what is farthest from all that
is chosen. A distance to the chosen set only falls as the set grows, so a distance measured long ago is an
upper bound. The rows with the largest bounds, the hot ones, see every new choice at once; all others stay as
they are until a cold bound exceeds the best hot row, and then see all choices they missed in one product.

The picks are exact: products are in float32, each squared distance with an interval that holds its rounding,
and rows whose intervals meet at the top are measured again by differences in float64. So the same rows give
the same picks whatever was computed together with what.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from msmlff.distill.features import Features
from msmlff.distill.row_products import least_products
from msmlff.distill.space import CONSTANT, NOISE

BLOCK = 1 << 22  # float32 numbers of a product, or of the rows read for it, held at a time: 16 MiB
HOT = 1 << 20  # numbers of the rows that see every choice at once: 4,096 rows of 256
SCATTERED = 2048  # rows read from all over a file at a time
MOST_HOT = 1 << 24
GATE = 0.8  # rows whose squared bound exceeds this share of the best are brought up to date together
FIRST_BATCH = 16  # rows measured exactly at once at first

Release = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows in the units in which distances are measured: (raw - shift) * scale.

    Attributes:
        raw: [n, d] float32 or float64; may lie on disk.
        shift: [d] float64, near the mean, so that products lose few digits; equal to a float32.
        scale: [d] float64, equal to a float32; 0 leaves a column out.
        ready: [n, d + 1] float32, the rows and a column of ones, where memory holds them; else None.
        release: called after rows were read, to give the pages of a file back.
    """

    raw: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    ready: np.ndarray | None = None
    release: Release = lambda: None

    @staticmethod
    def of(points: np.ndarray) -> Rows:
        """Rows of points [n, d] that are in memory, as they are."""
        points = np.asarray(points, dtype=np.float64)
        shift = points.mean(axis=0).astype(np.float32).astype(np.float64)
        rows = Rows(points, shift, np.ones(points.shape[1]))
        ready = np.empty((len(points), points.shape[1] + 1), dtype=np.float32)
        step = max(1, BLOCK // ready.shape[1])
        for start in range(0, len(points), step):
            part = slice(start, start + step)
            ready[part] = rows.rough(part)
        return Rows(points, shift, rows.scale, ready)

    @staticmethod
    def environments(features: Features) -> Rows:
        """The atoms of a pool, each column at unit variance over the pool; they stay where they are."""
        mean, std = features.moments()
        size = np.maximum(np.abs(mean), std)
        varies = std > np.maximum(CONSTANT * size, NOISE * size.max(initial=0.0))
        scale = np.divide(1.0, std, out=np.zeros(len(std)), where=varies)
        shift, scale = (a.astype(np.float32).astype(np.float64) for a in (mean, scale))
        return Rows(features.rows, shift, scale, release=features.release)

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def width(self) -> int:
        """d"""
        return self.raw.shape[1]

    def exact(self, index: np.ndarray | slice) -> np.ndarray:
        """[m, d] float64."""
        values: np.ndarray = (np.asarray(self._read(index), dtype=np.float64) - self.shift) * self.scale
        return values

    def rough(self, index: np.ndarray | slice) -> np.ndarray:
        """[m, d + 1] float32; the last column is 1."""
        if self.ready is not None:
            part: np.ndarray = self.ready[index]
            return part
        raw = self._read(index)
        rows = np.ones((len(raw), self.width + 1), dtype=np.float32)
        # shift and scale are float32 numbers: this rounds each value by 2^-23 of itself, no more.
        kind = raw.dtype if raw.dtype == np.float32 else np.float64
        difference = raw - self.shift.astype(kind)
        np.multiply(difference, self.scale.astype(kind), out=rows[:, :-1], casting="same_kind")
        return rows

    def _read(self, index: np.ndarray | slice) -> np.ndarray:
        """[m, d] raw rows. Scattered ones are read in parts: each may bring a whole stretch of a mapped file
        into memory."""
        if isinstance(index, slice) or self.ready is not None:
            return self.raw[index]
        out = np.empty((len(index), self.width), dtype=self.raw.dtype)
        for start in range(0, len(index), SCATTERED):
            out[start : start + SCATTERED] = self.raw[index[start : start + SCATTERED]]
            self.release()
        return out


def rounding(width: int) -> float:
    """e: a float32 product of rows of ``width`` columns gives |x - y|² to e (|x|² + |y|²)."""
    return (width + 16) * 2.0**-23


def partners(rows: np.ndarray, norms_times: float) -> np.ndarray:
    """[m, d + 1] float32 such that [x, 1] @ result.T is norms_times |y|² - 2 x.y, y the rows [m, d]."""
    out = np.empty((len(rows), rows.shape[1] + 1), dtype=np.float32)
    out[:, :-1] = -2 * rows
    out[:, -1] = norms_times * np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return out


class _Chosen:
    """The chosen rows of one element, growing."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self._exact = np.empty((16, width))
        self._rough = np.empty((16, width + 1), dtype=np.float32)
        self._norms = np.empty(16)
        self._inflation = 1 + rounding(width)

    def add(self, rows: np.ndarray) -> None:
        """rows: [m, d] float64."""
        end = self.count + len(rows)
        if end > len(self._exact):
            self._exact, self._rough, self._norms = (
                np.concatenate([a[: self.count], np.empty((max(end, self.count), *a.shape[1:]), a.dtype)])
                for a in (self._exact, self._rough, self._norms)
            )
        part = slice(self.count, end)
        self._exact[part] = rows
        self._norms[part] = np.einsum("ij,ij->i", rows, rows)
        self._rough[part] = partners(rows, self._inflation)
        self.count = end

    def upper(self, rough: np.ndarray, norms: np.ndarray, since: int) -> np.ndarray:
        """[n] float64 upper bounds of the squared distance of each row to the choices from ``since`` on."""
        return least_products(rough, self._rough[since : self.count]) + norms * self._inflation

    def squares(self, x: np.ndarray) -> np.ndarray:
        """[n] least squared distance of each row of x [n, d] float64 to all choices, by differences."""
        chosen, norms = self._exact[: self.count], self._norms[: self.count]
        out = np.empty(len(x))
        step = max(1, BLOCK // 8 // self.count)
        for start in range(0, len(x), step):
            part = x[start : start + step]
            own = np.einsum("ij,ij->i", part, part)
            approximate = own[:, None] + norms - 2 * (part @ chosen.T)
            least = approximate.min(axis=1)
            slack = _interval(own, np.maximum(least, 0.0), rounding(x.shape[1]) * 2.0**-28)
            for i in range(len(part)):
                near = np.flatnonzero(approximate[i] <= least[i] + 2 * slack[i])
                out[start + i] = min(
                    ((chosen[near[j : j + 4096]] - part[i]) ** 2).sum(axis=1).min()
                    for j in range(0, len(near), 4096)
                )
        return out


def _interval(norms: np.ndarray, upper: np.ndarray, e: float) -> np.ndarray:
    """How far the least squared distance may lie below its upper bound: 2 e (|x|² + |y|²), where the
    nearest y has |y| <= |x| + sqrt(upper)."""
    finite = np.where(np.isfinite(upper), np.maximum(upper, 0.0), 0.0)
    value: np.ndarray = 2 * e * (norms + (np.sqrt(norms) + np.sqrt(finite)) ** 2) * (1 + 1e-6)
    return value


@dataclass(eq=False)
class _Hot:
    """The rows that see every choice: indices, frames, values, and bounds of their squared distances.

    ``members`` lists the positions of each element."""

    index: np.ndarray
    frame: np.ndarray
    rough: np.ndarray
    norms: np.ndarray
    members: list[np.ndarray]
    lower: np.ndarray
    upper: np.ndarray
    factor: np.ndarray
    cold: float


class FarthestPoints:
    """Greedy choice of frames by the row that is farthest from all chosen rows of its element.

    The value of a frame is the largest, over its rows, of weight² times the squared distance to the nearest
    chosen row of the same element: with one row a frame, farthest-point sampling; with one row an atom, the
    frame that has the directed Hausdorff distance from pool to chosen set. Ties go to the lowest frame.

    Args:
        rows: of all frames.
        offsets: [frames + 1] first row of each frame; None: one row a frame.
        candidates: [m] frames that may be chosen.
        elements: [n] element of each row as a number from 0; None: all are the same.
        weights: [frames] positive factors of the distances; None: 1.
    """

    def __init__(
        self,
        rows: Rows,
        candidates: np.ndarray,
        *,
        offsets: np.ndarray | None = None,
        elements: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        self.rows, self.elements = rows, elements
        self.offsets = np.arange(len(rows) + 1) if offsets is None else offsets
        self._factor = None if weights is None else np.repeat(weights**2, np.diff(self.offsets))
        self._open = np.zeros(len(self.offsets) - 1, dtype=bool)
        self._open[candidates] = True
        self._bound = np.where(np.repeat(self._open, np.diff(self.offsets)), np.inf, -np.inf)
        self._seen = np.zeros(len(rows), dtype=np.int32)
        kinds = 1 if elements is None else int(elements.max()) + 1
        self._chosen = [_Chosen(rows.width) for _ in range(kinds)]
        self._new = list(range(kinds)) if elements is not None else []
        self._hot: _Hot | None = None
        self._e = rounding(rows.width)
        # The hot rows see all rows of each new frame: the more these are, the fewer the hot ones.
        self._width_of_hot = rows.width * max(1.0, len(rows) / max(1, len(self._open))) ** 0.5
        self.refreshes = 0

    def add(self, frame: int) -> None:
        """Count a frame as chosen."""
        part = slice(int(self.offsets[frame]), int(self.offsets[frame + 1]))
        exact = self.rows.exact(part)
        before = [chosen.count for chosen in self._chosen]
        if self.elements is None:
            self._chosen[0].add(exact)
        else:
            for e in np.unique(self.elements[part]):
                self._chosen[e].add(exact[self.elements[part] == e])
        self._open[frame] = False
        self._bound[part] = -np.inf
        if self._hot is not None:
            self._update_hot(self._hot, frame, before)

    def choose(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The next ``count`` frames and their values [count] at the time: weight times distance; NaN for a
        frame that brought an element of which nothing was chosen. Something must be chosen."""
        ids, values = np.empty(count, dtype=np.int64), np.zeros(count)
        for i in range(count):
            frame, square = self._next()
            if square == 0.0:
                # What is left lies on chosen rows.
                ids[i:] = np.flatnonzero(self._open)[: count - i]
                break
            ids[i], values[i] = frame, np.sqrt(square)
            self.add(frame)
        return ids, values

    def largest(self) -> float:
        """The value of the best frame left: the distance from pool to chosen set; 0 if none is left."""
        if not self._open.any():
            return 0.0
        square = self._next()[1]
        return float(np.sqrt(square))

    def _next(self) -> tuple[int, float]:
        new = self._with_new_element()
        if new is not None:
            return new, np.nan
        size = HOT
        if self._hot is None:
            self._refresh(-np.inf, size)
        while True:
            assert self._hot is not None
            best, frame = self._resolve(self._hot)
            cold = self._hot.cold
            if best > cold or (best == cold and (best == 0 or frame < self._lowest_cold(best))):
                return frame, best
            self._refresh(best, size)
            size = min(2 * size, MOST_HOT)

    def _with_new_element(self) -> int | None:
        """The first candidate with an element of which nothing is chosen."""
        found = []
        for e in list(self._new):
            if self._chosen[e].count == 0 and self.elements is not None:
                rows = np.flatnonzero((self.elements == e) & (self._bound > -np.inf))
                if len(rows):
                    found.append(int(np.searchsorted(self.offsets, rows[0], side="right")) - 1)
                    continue
            self._new.remove(e)
        return min(found) if found else None

    def _resolve(self, hot: _Hot) -> tuple[float, int]:
        """Value and frame of the best hot row, certain among the hot ones."""
        batch = FIRST_BATCH
        while True:
            lower, upper = hot.lower * hot.factor, hot.upper * hot.factor
            best = lower.max()
            open_ = np.flatnonzero((upper >= best) & (lower < upper))
            if not len(open_) or upper.max() < hot.cold:
                return float(best), int(hot.frame[lower == best].min())
            if len(open_) > batch:
                open_ = open_[np.argsort(-upper[open_], kind="stable")[:batch]]
            self._measure(hot, open_)
            batch *= 2

    def _measure(self, hot: _Hot, which: np.ndarray) -> None:
        x = self.rows.exact(hot.index[which])
        for e, chosen in enumerate(self._chosen):
            mine = slice(None) if self.elements is None else self.elements[hot.index[which]] == e
            if len(which[mine]):
                squares = chosen.squares(x[mine])
                hot.lower[which[mine]] = hot.upper[which[mine]] = squares

    def _update_hot(self, hot: _Hot, frame: int, before: list[int]) -> None:
        for e, chosen in enumerate(self._chosen):
            members = hot.members[e]
            if chosen.count == before[e] or not len(members):
                continue
            rough = hot.rough if len(members) == len(hot.index) else hot.rough[members]
            norms = hot.norms[members]
            upper = chosen.upper(rough, norms, before[e])
            lower = np.maximum(upper - _interval(norms, upper, self._e), 0.0)
            hot.upper[members] = np.minimum(hot.upper[members], np.maximum(upper, 0.0))
            hot.lower[members] = np.minimum(hot.lower[members], lower)
        gone = hot.frame == frame
        hot.upper[gone] = hot.lower[gone] = -np.inf

    def _lowest_cold(self, value: float) -> int:
        """The lowest frame with a cold bound of this value."""
        assert self._hot is not None
        ties = np.flatnonzero(self._weighted(slice(None)) == value)
        ties = ties[~np.isin(ties, self._hot.index)]
        if not len(ties):
            return len(self._open)
        return int(np.searchsorted(self.offsets, ties[0], side="right")) - 1

    def _weighted(self, index: np.ndarray | slice) -> np.ndarray:
        bound = self._bound[index]
        return bound if self._factor is None else bound * self._factor[index]

    def _refresh(self, best: float, size: int) -> None:
        """Bring all rows with bounds near ``best`` or above up to date and make the largest the hot ones."""
        self.refreshes += 1
        if self._hot is not None:
            counts = np.array([chosen.count for chosen in self._chosen])
            kind = 0 if self.elements is None else self.elements[self._hot.index]
            self._bound[self._hot.index] = self._hot.upper
            self._seen[self._hot.index] = counts[kind]
        gate = GATE * best if best > 0 else -np.inf
        step = max(1, BLOCK // (self.rows.width + 1))
        for start in range(0, len(self.rows), step):
            part = slice(start, min(start + step, len(self.rows)))
            late = np.flatnonzero(self._weighted(part) > gate) + start
            for e, chosen in enumerate(self._chosen):
                mine = late if self.elements is None else late[self.elements[late] == e]
                mine = mine[self._seen[mine] < chosen.count]
                if len(mine):
                    self._catch_up(mine, chosen)
            self.rows.release()
        self._hot = self._hottest(gate, max(1, int(size / self._width_of_hot)))

    def _catch_up(self, index: np.ndarray, chosen: _Chosen) -> None:
        """Rows of one element (ascending, of one block) see the choices they missed."""
        whole = len(index) == index[-1] - index[0] + 1
        rough = self.rows.rough(slice(int(index[0]), int(index[-1]) + 1) if whole else index)
        norms = np.einsum("ij,ij->i", rough[:, :-1], rough[:, :-1]).astype(np.float64)
        seen = self._seen[index]
        for since in np.unique(seen):
            those = slice(None) if (seen == since).all() else np.flatnonzero(seen == since)
            upper = np.maximum(chosen.upper(rough[those], norms[those], int(since)), 0.0)
            rows = index[those]
            self._bound[rows] = np.minimum(self._bound[rows], upper)
            self._seen[rows] = chosen.count

    def _hottest(self, gate: float, most: int) -> _Hot:
        value = self._weighted(slice(None))
        index = np.flatnonzero(value > gate)  # not empty: the best row is among them
        if len(index) > most:
            cut = np.partition(value[index], len(index) - most)[len(index) - most]
            above, equal = index[value[index] > cut], index[value[index] == cut]
            index = np.sort(np.concatenate([above, equal[: most - len(above)]]))
        value = value.copy() if value is self._bound or value.base is not None else value
        upper = self._bound[index]
        value[index] = -np.inf
        exact = self.rows.exact(index)
        norms = np.einsum("ij,ij->i", exact, exact)
        members = (
            [np.arange(len(index))]
            if self.elements is None
            else [np.flatnonzero(self.elements[index] == e) for e in range(len(self._chosen))]
        )
        return _Hot(
            index,
            np.searchsorted(self.offsets, index, side="right") - 1,
            self.rows.rough(index),
            norms,
            members,
            np.maximum(upper - _interval(norms, upper, self._e), 0.0),
            upper.copy(),
            np.ones(len(index)) if self._factor is None else self._factor[index],
            float(value.max()),
        )
