"""A streaming bank of local environments: a frame is taken when it brings environments the bank lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.farthest import Rows, least_products, partners, rounding
from msmlff.distill.fps import element_codes
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.errors import InputError

GROWTH = 1.25  # of the radius when more frames are taken than asked for
SHRINK = 0.7  # of the radius when fewer are
FINEST = 1e-6  # of the largest radius: environments nearer than that are the same
SAMPLE = 1000  # environments that decide the first radius
BLOCK = 1 << 22  # numbers of the rows read at a time
ORDERS = ("random", "file")


@dataclass(frozen=True)
class EnvironmentBank(Selector):
    """Frames in one pass over the pool, each judged by what the bank of local environments lacks.

    A frame is taken when at least ``min_new`` of its environments lie farther than ``radius`` from every
    environment of their element in the bank (and from each other, in the order of the frame's atoms); these
    join the bank. So no two environments of the bank are nearer than the radius, and with ``min_new=1``
    every environment of a frame that was passed over lies within the radius of one (within five times a
    radius that was found): the bank is a net of the pool. The bank starts with the environments of the
    frames that are held. The idea is that of the databases of local reference
    configurations that on-the-fly force fields grow during a simulation, e.g. Jinnouchi, Karsai and Kresse,
    Phys. Rev. B 100, 014105 (2019); the criterion here is geometric, as the leader algorithm of clustering.

    The budget is met exactly. Without a radius it is found in the same pass by the doubling algorithm
    (Charikar, Chekuri, Feder and Motwani, SIAM J. Comput. 33, 1417 (2004)): start small; whenever one frame
    too many is taken, or the bank is full, the radius grows by a quarter and the frames taken are judged
    again, in their order, until no more are left than asked for. If in the end frames are missing, with a
    given radius too, the radius shrinks by 0.7 and the pass is repeated, until the budget is met; copies of
    chosen frames come last, in the order of the pass. A pass with a given radius stops when the budget is
    met. Budgets are not nested, as the radius depends on the budget.

    The score of a frame is the number of environments it brought; columns have unit variance over all atoms
    of the pool. Memory: the bank and one block of rows.

    Attributes:
        radius: in units of the scaled columns; None: found.
        min_new: environments that a frame must bring.
        order: of the pass: "random" (seeded), or "file": that of the pool, as fits a pool on a slow disk (the
            seed then has no influence).
        max_bank: environments in the bank at most.
        by_element: compare an atom with atoms of its own element alone.

    Raises:
        InputError: a parameter out of its range; a bank that is full at the given radius.
    """

    nested: ClassVar[bool] = False

    radius: float | None = None
    min_new: int = 1
    order: str = "random"
    max_bank: int = 100_000
    by_element: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeded", self.order == "random")
        if self.radius is not None and not 0 < self.radius < np.inf:
            raise InputError(
                f"selector.radius={self.radius}: write a positive distance, or null to have it found"
            )
        for name in ("min_new", "max_bank"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise InputError(f"selector.{name}={value}: write a whole number of at least 1")
        if self.order not in ORDERS:
            raise InputError(f"selector.order={self.order} is unknown: write one of {', '.join(ORDERS)}")

    def pick(self, task: Task) -> Picks:
        """The frames in the order in which they were taken; details: radius, bank, passes."""
        order = task.candidates
        if self.order == "random":
            order = np.random.default_rng(task.seed).permutation(order)
        return _Stream(self, task).run(order)


class _Bank:
    """Environments of each element, no two of them certainly nearer than the radius."""

    def __init__(self, radius: float, kinds: int, width: int) -> None:
        self.radius, self.size = radius, 0
        # Products from below: what rounding leaves open counts as near, so that copies are never new.
        self._deflation = 1 - rounding(width)
        self._counts = [0] * kinds
        self._partners = [np.empty((64, width + 1), dtype=np.float32) for _ in range(kinds)]

    def mark(self) -> list[int]:
        """Environments of each element there are now."""
        return list(self._counts)

    def lacks(self, rough: np.ndarray, elements: np.ndarray | None, since: list[int]) -> np.ndarray:
        """[n] bool, which rows [n, d + 1] are farther than the radius from all added since a mark."""
        new = np.ones(len(rough), dtype=bool)
        for e, count in enumerate(self._counts):
            mine = slice(None) if elements is None else np.flatnonzero(elements == e)
            if count > since[e] and len(new[mine]):
                x = rough[mine]
                squares = least_products(x, self._partners[e][since[e] : count]) + self._norms(x)
                new[mine] = squares > self.radius**2
        return new

    def apart(self, rough: np.ndarray, elements: np.ndarray | None) -> np.ndarray:
        """Indices of the rows [m, d + 1] that are farther than the radius from those kept before them."""
        squares = rough @ partners(rough[:, :-1], self._deflation).T + self._norms(rough)[:, None]
        far = squares > self.radius**2
        if elements is not None:
            far |= elements[:, None] != elements
        kept: list[int] = []
        for i in range(len(rough)):
            if far[i, kept].all():
                kept.append(i)
        return np.array(kept, dtype=np.int64)

    def add(self, rough: np.ndarray, elements: np.ndarray | None) -> None:
        """Rows [m, d + 1] join."""
        for e, count in enumerate(self._counts):
            rows = rough if elements is None else rough[elements == e]
            end = count + len(rows)
            if end > len(self._partners[e]):
                grown = np.empty((2 * end, rough.shape[1]), dtype=np.float32)
                grown[:count] = self._partners[e][:count]
                self._partners[e] = grown
            self._partners[e][count:end] = partners(rows[:, :-1], self._deflation)
            self._counts[e] = end
        self.size += len(rough)

    def _norms(self, rough: np.ndarray) -> np.ndarray:
        norms: np.ndarray = np.einsum("ij,ij->i", rough[:, :-1], rough[:, :-1]) * np.float32(self._deflation)
        return norms


@dataclass(frozen=True, eq=False)
class _Block:
    """Frames of a pass; frame k has the rows ``offsets[k]`` to ``offsets[k + 1]`` of ``rough``."""

    frames: np.ndarray
    offsets: np.ndarray
    rough: np.ndarray
    elements: np.ndarray | None

    def part(self, k: int, which: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows and elements of frame k."""
        rows = slice(int(self.offsets[k]), int(self.offsets[k + 1]))
        return self.rough[rows][which], None if self.elements is None else self.elements[rows][which]


class _Stream:
    """Passes over the pool until the budget is met. ``taken``: frame -> environments it brought, in order."""

    def __init__(self, method: EnvironmentBank, task: Task) -> None:
        features = task.features
        self.method, self.features, self.count, self.held = method, features, task.count, task.held
        self.rows = features.remember("environments", lambda: Rows.environments(features))
        self.elements = element_codes(features) if method.by_element else None
        self.free = method.radius is None
        self.taken: dict[int, int] = {}
        self.bank = self._empty(method.radius or self._first_radius())

    def run(self, order: np.ndarray) -> Picks:
        """Frames of ``order``, the candidates in the order of the pass."""
        if not self._refill() and self.free:
            self._grow()
        self._go_through(order)
        if self.bank.size > self.method.max_bank:
            raise InputError(
                f"selector.max_bank={self.method.max_bank}: the bank is full at selector.radius="
                f"{self.method.radius}; raise one of them, or write selector.radius=null"
            )
        self.free = False
        found, passes = self.bank.radius, 1
        details = {"radius": found, "bank_size": self.bank.size, "taken_at_radius": len(self.taken)}
        while len(self.taken) < self.count and SHRINK * self.bank.radius > FINEST * found:
            self.bank = self._empty(SHRINK * self.bank.radius)
            if not self._refill(keep=True):
                break
            self._go_through(order[~np.isin(order, list(self.taken))])
            passes += 1
        for frame in order.tolist():  # copies of what is there, or the bank is full
            if len(self.taken) == self.count:
                break
            self.taken.setdefault(frame, 0)
        details |= {"last_radius": self.bank.radius, "last_bank_size": self.bank.size, "passes": passes}
        scores = np.array(list(self.taken.values()), dtype=np.float64)
        return Picks(np.array(list(self.taken), dtype=np.int64), scores=scores, details=details)

    def _empty(self, radius: float) -> _Bank:
        kinds = 1 if self.elements is None else int(self.elements.max()) + 1
        return _Bank(radius, kinds, self.rows.width)

    def _first_radius(self) -> float:
        """A radius within which no environment of a sample has a neighbour in it."""
        n = len(self.rows)
        x = self.rows.exact(np.sort(np.random.default_rng(0).choice(n, size=min(n, SAMPLE), replace=False)))
        norms = np.einsum("ij,ij->i", x, x)
        squares = norms[:, None] + norms - 2 * x @ x.T
        squares = squares[squares > FINEST * norms.max()]
        return float(np.sqrt(squares.min())) / 2 if len(squares) else 1.0

    def _over(self) -> bool:
        return len(self.taken) > self.count or self.bank.size > self.method.max_bank

    def _done(self) -> bool:
        return self._over() or (not self.free and len(self.taken) == self.count)

    def _grow(self) -> None:
        """Raises the radius until bank and budget hold what is left of the frames taken."""
        while True:
            self.bank = self._empty(GROWTH * self.bank.radius)
            if self._refill():
                return

    def _refill(self, keep: bool = False) -> bool:
        """Fills an empty bank with the held frames and those taken; the latter are judged again, or kept in
        any case. False: they do not fit."""
        before, self.taken = self.taken, {}
        for frame in self.held.tolist():
            self._judge(self._block(np.array([frame])), 0, least=1)
            if self.bank.size > self.method.max_bank:
                break
        self.taken = {}
        for frame in before:
            self._judge(self._block(np.array([frame])), 0, least=1 if keep else self.method.min_new)
        if keep:
            self.taken = before
        return not self._over()

    def _go_through(self, order: np.ndarray) -> None:
        """One pass: to the end of the pool with a free radius, else until bank or budget are full."""
        for block in self._blocks(order):
            start = 0
            while start < len(block.frames):
                if self._done():
                    return
                start = self._judge_block(block, start)
                if self.free and self._over():
                    self._grow()
            self.rows.release()

    def _judge_block(self, block: _Block, start: int) -> int:
        """Judges the frames from ``start`` on; returns where it stopped, at the end or when done."""
        mark, first = self.bank.mark(), int(block.offsets[start])
        elements = None if block.elements is None else block.elements[first:]
        lacks = self.bank.lacks(block.rough[first:], elements, [0] * len(mark))
        brought = np.add.reduceat(lacks, block.offsets[start:-1] - first, dtype=np.int64)
        for k in (start + np.flatnonzero(brought >= self.method.min_new)).tolist():
            rows = slice(int(block.offsets[k]) - first, int(block.offsets[k + 1]) - first)
            self._judge(block, k, np.flatnonzero(lacks[rows]), mark)
            if self._done():
                return k + 1
        return len(block.frames)

    def _judge(
        self,
        block: _Block,
        k: int,
        which: np.ndarray | slice = slice(None),
        mark: list[int] | None = None,
        least: int | None = None,
    ) -> None:
        """Takes frame k if enough of its rows ``which`` are new to what was added since ``mark``."""
        rough, elements = block.part(k, which)
        for find in (self._missing(mark), self.bank.apart):
            new = find(rough, elements)
            rough, elements = rough[new], None if elements is None else elements[new]
            if len(rough) < (least or self.method.min_new):
                return
        self.bank.add(rough, elements)
        self.taken[int(block.frames[k])] = len(rough)

    def _missing(self, mark: list[int] | None) -> Callable[..., np.ndarray]:
        since = mark or [0] * len(self.bank.mark())
        return lambda rough, elements: self.bank.lacks(rough, elements, since)

    def _blocks(self, order: np.ndarray) -> Iterator[_Block]:
        """Blocks of ``order`` that grow from one frame to what memory holds: early frames change the bank."""
        rows = np.concatenate([[0], np.cumsum(self.features.num_atoms[order])])
        start, size, most = 0, 1, max(1, BLOCK // max(1, self.rows.width))
        while start < len(order):
            fits = int(np.searchsorted(rows, rows[start] + most, side="right")) - 1
            stop = max(start + 1, min(start + size, fits, len(order)))
            yield self._block(order[start:stop])
            start, size = stop, 2 * size

    def _block(self, frames: np.ndarray) -> _Block:
        counts = self.features.num_atoms[frames]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        index = np.repeat(self.features.offsets[frames] - offsets[:-1], counts) + np.arange(offsets[-1])
        elements = None if self.elements is None else self.elements[index]
        return _Block(frames, offsets, self.rows.rough(index), elements)
