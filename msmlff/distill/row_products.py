"""Products of rows with other rows, reduced at once: the least of them, or the sum of their exponentials.

Most of the time of selection goes here. The compiled kernels (``msmlff.native``) keep the products in
registers; without them numpy does the same in blocks that stay in the cache.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from itertools import pairwise

import numpy as np

from msmlff import native

BLOCK = 1 << 18  # products held at a time by numpy: 1 to 2 MiB
FEW = 4  # rows; fewer fill no vector, and the products are read from memory anyway
THREADED = 1 << 21  # multiplications that are worth a thread


def least_products(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n] least of rows [n, d] @ others [m, d].T over m (at least 1); float32 or float64, both the same."""
    least = np.empty(len(rows), dtype=rows.dtype)
    if len(others) == 1:
        return np.matmul(rows, others[0], out=least)
    if _compiled() is not None and len(rows) >= FEW:
        _call("least", rows, others, np.array([0, len(others)]), least)
        return least
    down = min(len(others), 1024)
    step = max(1, BLOCK // down)
    for start in range(0, len(rows), step):
        part = rows[start : start + step].T
        best = least[start : start + step]
        best[:] = np.inf
        for first in range(0, len(others), down):
            # The least of each column: whole rows of the product are compared at a time.
            np.minimum(best, (others[first : first + down] @ part).min(axis=0), out=best)
    return least


def exponential_sums(rows: np.ndarray, others: np.ndarray, starts: np.ndarray | None = None) -> np.ndarray:
    """[runs, n] sums of exp(rows [n, d] @ others [m, d].T) over runs of others that begin at ``starts``
    (ascending from 0; None: one run of all). One precision for all; exponentials of less than -87 (float32)
    or -708 count for next to nothing."""
    return _exponentials(rows, others, starts, with_most=False)[0]


def exponential_sums_and_most(
    rows: np.ndarray, others: np.ndarray, starts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`exponential_sums`, and beside them [runs, n] the largest product of each run."""
    return _exponentials(rows, others, starts, with_most=True)


def exponential_sums_within(rows: np.ndarray, others: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[n] sums of exp(rows [n, d] @ others [n, d].T) over the others of a row's own run alone; runs begin at
    ``starts`` (ascending from 0)."""
    ends, sums = np.append(starts, len(rows)), np.empty(len(rows), rows.dtype)
    if _compiled() is None:
        for first, last in pairwise(ends.tolist()):
            sums[first:last] = exponential_sums(rows[first:last], others[first:last])[0]
        return sums
    assert rows.dtype == others.dtype
    rows, others = np.ascontiguousarray(rows), np.ascontiguousarray(others)
    d, runs = ctypes.c_int64(rows.shape[1]), ctypes.c_int64(len(starts))
    threads = _threads(int((np.diff(ends) ** 2).sum()) * rows.shape[1])
    where = (_at(rows), _at(others), d, _at(ends), runs, _at(sums))
    _library()[f"exponentials_within_{rows.dtype}"](*where, threads)
    return sums


class GrowingOthers:
    """Others that become more; rows meet them only as far as is needed.

    Attributes:
        count: others so far.
        others: [count, d].
    """

    def __init__(self, depth: int, kind: type[np.floating], capacity: int = 256) -> None:
        """depth: d; kind: float32 or float64."""
        self.count, self._data = 0, np.empty((capacity, depth), dtype=kind)
        library = _compiled()
        self._width = 0 if library is None else int(library[f"panel_width_{self._data.dtype}"]())
        self._panels = self._empty_panels(capacity)

    @property
    def others(self) -> np.ndarray:
        """[count, d]"""
        return self._data[: self.count]

    def add(self, others: np.ndarray) -> None:
        """others: [m, d], m may be 0."""
        end = self.count + len(others)
        if end > len(self._data):
            size = max(2 * len(self._data), end)
            self._data = np.concatenate([self.others, self._data[:1].repeat(size - self.count, 0)])
            panels = self._empty_panels(size)
            panels[: len(self._panels)] = self._panels
            self._panels = panels
        self._data[self.count : end] = others
        if self._width:
            index = np.arange(self.count, end)
            self._panels[index // self._width, :, index % self._width] = others
        self.count = end

    def count_until(
        self,
        rows: np.ndarray,
        sums: np.ndarray,
        counted: np.ndarray,
        enough: np.ndarray,
        until: np.ndarray | None = None,
    ) -> None:
        """Count others in ``sums`` [n] float64 of rows [n, d], of the kind of the others: from number
        ``counted`` [n] int64 to ``until`` [n] int64 (None: all), some at a time, while a sum does not exceed
        ``enough`` [n]. Sums and counted change in place."""
        until = np.full(len(rows), self.count) if until is None else np.ascontiguousarray(until)
        if self._width:
            self._meet("sums_until", rows, until, enough, sums, counted)
        else:
            self._count_by_numpy(rows, sums, counted, enough, until)

    def least_until(self, rows: np.ndarray, enough: np.ndarray, since: int = 0) -> np.ndarray:
        """[n] float64 least product of each of rows [n, d] with the others from number ``since`` on; where it
        is at most ``enough`` [n], perhaps another product that is. Infinite without others."""
        if not self._width:
            others = self.others[since:]
            return (
                least_products(rows, others).astype(np.float64) if len(others) else np.full(len(rows), np.inf)
            )
        found, met = np.full(len(rows), np.inf), np.full(len(rows), since)
        self._meet("least_until", rows, np.full(len(rows), self.count), enough, found, met)
        return found

    def _meet(
        self,
        name: str,
        rows: np.ndarray,
        until: np.ndarray,
        enough: np.ndarray,
        found: np.ndarray,
        met: np.ndarray,
    ) -> None:
        assert rows.dtype == self._data.dtype
        assert rows.shape[1] == self._data.shape[1]
        rows, enough = np.ascontiguousarray(rows), np.ascontiguousarray(enough, dtype=np.float64)
        n, d = (ctypes.c_int64(number) for number in rows.shape)
        threads = _threads(int((until - met).sum()) * rows.shape[1])
        others = (_at(self._panels), _at(until), _at(enough))
        _library()[f"{name}_{rows.dtype}"](_at(rows), n, d, *others, _at(found), _at(met), threads)

    def _count_by_numpy(
        self,
        rows: np.ndarray,
        sums: np.ndarray,
        counted: np.ndarray,
        enough: np.ndarray,
        until: np.ndarray,
    ) -> None:
        while len(open_ := np.flatnonzero((counted < until) & (sums <= enough))):
            first = int(counted[open_].min())
            last = min((first // 512 + 1) * 512, int(until[open_[counted[open_] == first]].min()))
            open_ = open_[(counted[open_] == first) & (until[open_] >= last)]
            sums[open_] += exponential_sums(rows[open_], self._data[first:last])[0]
            counted[open_] = last

    def _empty_panels(self, size: int) -> np.ndarray:
        shape = (-(-size // max(1, self._width)), self._data.shape[1], self._width)
        return np.zeros(shape, self._data.dtype)


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(native.LIBRARIES["rows"]))


def _compiled() -> ctypes.CDLL | None:
    return _library() if native.missing("rows", _library) is None else None


def _at(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def _threads(multiplications: int) -> int:
    """No more than there are processors, or OMP_NUM_THREADS, and than the work is worth."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    most = int(named) if named.isdigit() else _processors()
    return max(1, min(most, multiplications // THREADED))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _call(
    name: str,
    rows: np.ndarray,
    others: np.ndarray,
    ends: np.ndarray,
    *results: np.ndarray | None,
) -> None:
    assert rows.dtype == others.dtype
    assert rows.shape[1] == others.shape[1]
    rows, others = np.ascontiguousarray(rows), np.ascontiguousarray(others)
    ends = np.ascontiguousarray(ends, dtype=np.int64)
    n, d, runs = (ctypes.c_int64(number) for number in (*rows.shape, len(ends) - 1))
    out = [_at(result) for result in results]
    threads = _threads(len(rows) * len(others) * rows.shape[1])
    _library()[f"{name}_{rows.dtype}"](_at(rows), n, d, _at(others), _at(ends), runs, *out, threads)


def _exponentials(
    rows: np.ndarray, others: np.ndarray, starts: np.ndarray | None, with_most: bool
) -> tuple[np.ndarray, np.ndarray]:
    ends = np.append(np.zeros(1, np.int64) if starts is None else starts, len(others))
    shape = (len(ends) - 1, len(rows))
    sums = np.zeros(shape, rows.dtype)
    most = np.full(shape if with_most else (0, 0), -np.inf, rows.dtype)
    if _compiled() is not None and len(rows) >= FEW:
        _call("exponentials", rows, others, ends, sums, most if with_most else None)
        return sums, most
    # Others down: whole rows of the product are reduced at a time.
    down = max(1, min(len(others), 1024))
    step = max(1, BLOCK // down)
    for left in range(0, len(rows), step):
        mine = slice(left, left + step)
        for first in range(0, len(others), down):
            last = min(first + down, len(others))
            runs = slice(int(np.searchsorted(ends, first, "right")) - 1, int(np.searchsorted(ends, last)))
            cuts = np.maximum(ends[runs], first) - first
            product = others[first:last] @ rows[mine].T
            if with_most:
                largest = reduce_runs(np.maximum, product, cuts)
                most[runs, mine] = np.maximum(most[runs, mine], largest)
            sums[runs, mine] += reduce_runs(np.add, np.exp(product, out=product), cuts)
    return sums, most


def reduce_runs(ufunc: np.ufunc, table: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """``ufunc.reduceat(table, starts, axis=0)``, ascending starts from 0; ten times as fast and more where
    runs are long, as each is reduced along whole rows."""
    out = np.empty((len(starts), table.shape[1]), dtype=table.dtype)
    stops = [*starts[1:].tolist(), len(table)]
    for i, (start, stop) in enumerate(zip(starts.tolist(), stops, strict=True)):
        ufunc.reduce(table[start:stop], axis=0, out=out[i])
    return out
