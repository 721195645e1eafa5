"""A streaming bank of local environments: a frame is taken when it brings environments the bank lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.farthest import Rows, partners, rounding
from msmlff.distill.fps import element_codes
from msmlff.distill.row_products import GrowingOthers
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.errors import InputError

GROWTH = 1.25  # of the radius when more frames are taken than asked for
SHRINK = 0.7  # of the radius when fewer are
FINEST = 1e-6  # of the largest radius: environments nearer than that are the same
SAMPLE = 1000  # environments that decide the first radius
SOME = 64  # frames judged together at least
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
        self._partners = [GrowingOthers(width + 1, np.float32) for _ in range(kinds)]

    def mark(self) -> list[int]:
        """Environments of each element there are now."""
        return [kept.count for kept in self._partners]

    def squares(self, rough: np.ndarray, elements: np.ndarray | None, since: list[int]) -> np.ndarray:
        """[n] squared distances, from below, of rows [n, d + 1] to the nearest added since a mark; infinite
        without one; of what is within the radius, perhaps to another that is."""
        result = np.full(len(rough), np.inf)
        for e, kept in enumerate(self._partners):
            mine = slice(None) if elements is None else np.flatnonzero(elements == e)
            x = rough[mine]
            if kept.count > since[e] and len(x):
                norms = self._norms(x)
                # Clearly within the radius, whatever rounding does.
                enough = self.radius**2 - norms - 1e-6 * (self.radius**2 + norms)
                result[mine] = kept.least_until(x, enough, since[e]) + norms
        return result

    def apart(self, rough: np.ndarray, elements: np.ndarray | None) -> np.ndarray:
        """Indices of the rows [m, d + 1] that are farther than the radius from those kept before them."""
        squares = rough @ partners(rough[:, :-1], self._deflation).T + self._norms(rough)[:, None]
        far = squares > self.radius**2
        if elements is not None:
            far |= elements[:, None] != elements
        # Column i, as a row: which later rows are near to row i and go if it stays.
        near = np.triu(~far.T, 1)
        kept = np.ones(len(rough), dtype=bool)
        for i in np.flatnonzero(near.any(axis=1)).tolist():
            if kept[i]:
                kept &= ~near[i]
        return np.flatnonzero(kept)

    def add(self, rough: np.ndarray, elements: np.ndarray | None) -> None:
        """Rows [m, d + 1] join."""
        for e, kept in enumerate(self._partners):
            rows = rough if elements is None else rough[elements == e]
            kept.add(partners(rows[:, :-1], self._deflation))
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
    """Passes over the pool until the budget is met.

    Attributes:
        taken: frame -> environments it brought, in order.
        apart: frame -> a distance from below: one of its environments is at least so far from all those of
            the frames taken before it.
        largest: squared length of the longest row read so far.
    """

    def __init__(self, method: EnvironmentBank, task: Task) -> None:
        features = task.features
        self.method, self.features, self.count, self.held = method, features, task.count, task.held
        self.rows = features.remember("environments", lambda: Rows.environments(features))
        self.elements = element_codes(features) if method.by_element else None
        self.free = method.radius is None
        self.taken: dict[int, int] = {}
        self.apart: dict[int, float] = {}
        self.largest = 0.0
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
        radius = GROWTH * self.bank.radius
        while True:
            if not self._all_stay(radius):
                self.bank = self._empty(radius)
                if self._refill():
                    return
            radius *= GROWTH

    def _all_stay(self, radius: float) -> bool:
        """Each of the frames taken, one too many, is certain to bring an environment at this radius too; so
        there is no need to try it."""
        if self.method.min_new > 1 or len(self.taken) <= self.count:
            return False
        return min(self.apart[frame] for frame in self.taken) ** 2 - self._slack() > radius**2

    def _slack(self) -> float:
        """What a squared distance may be larger than the bank finds it."""
        return 4 * rounding(self.rows.width) * self.largest

    def _refill(self, keep: bool = False) -> bool:
        """Fills an empty bank with the held frames and those taken; the latter are judged again, or kept in
        any case. False: they do not fit."""
        before, self.taken = self.taken, {}
        for frame in self.held.tolist():
            self._judge(self._block(np.array([frame])), 0, least=1)
            if self.bank.size > self.method.max_bank:
                break
        self.taken = {}
        for block in self._blocks(np.array(list(before), dtype=np.int64)):
            for k in range(len(block.frames)):
                self._judge(block, k, least=1 if keep else self.method.min_new)
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
        # More than the budget has left, and one, will hardly be judged at this radius.
        stop = min(len(block.frames), start + max(SOME, self.count + 1 - len(self.taken)))
        mark, first, last = self.bank.mark(), int(block.offsets[start]), int(block.offsets[stop])
        elements = None if block.elements is None else block.elements[first:last]
        squares = self.bank.squares(block.rough[first:last], elements, [0] * len(mark))
        lacks = squares > self.bank.radius**2
        brought = np.add.reduceat(lacks, block.offsets[start:stop] - first, dtype=np.int64)
        for k in (start + np.flatnonzero(brought >= self.method.min_new)).tolist():
            rows = slice(int(block.offsets[k]) - first, int(block.offsets[k + 1]) - first)
            self._judge(block, k, squares[rows], mark)
            if self._done():
                return k + 1
        return stop

    def _judge(
        self,
        block: _Block,
        k: int,
        known: np.ndarray | None = None,
        mark: list[int] | None = None,
        least: int | None = None,
    ) -> None:
        """Takes frame k if enough of its rows are new; ``known``: squared distances [atoms] to what the bank
        had at ``mark``."""
        frame, radius = int(block.frames[k]), self.bank.radius
        least = least or self.method.min_new
        which = slice(None) if known is None else np.flatnonzero(known > radius**2)
        rough, elements = block.part(k, which)
        squares = self.bank.squares(rough, elements, mark or [0] * len(self.bank.mark()))
        if known is not None:
            squares = np.minimum(squares, known[which])
        new = np.flatnonzero(squares > radius**2)
        if len(new) < least:
            return
        rough, elements = rough[new], None if elements is None else elements[new]
        new = self.bank.apart(rough, elements)
        if len(new) < least:
            return
        self.bank.add(rough[new], None if elements is None else elements[new])
        self.taken[frame] = len(new)
        if self.bank.size > self.method.max_bank:
            return  # not all held frames need be in it
        # What did not join the bank lies within the radius of what did.
        apart = float(np.sqrt(squares.max())) - float(np.sqrt(radius**2 + self._slack()))
        self.apart[frame] = max(apart, self.apart.get(frame, 0.0))

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
        rough = self.rows.rough(index)
        squares = np.einsum("ij,ij->i", rough[:, :-1], rough[:, :-1])
        self.largest = max(self.largest, float(squares.max(initial=0.0)))
        return _Block(frames, offsets, rough, elements)
