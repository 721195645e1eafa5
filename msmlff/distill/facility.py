"""Facility location: choose the frames that stand for all others best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.entropy import exponents
from msmlff.distill.features import POOLINGS, Features
from msmlff.distill.lazy import lazy_argmax
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.distill.space import principal_space
from msmlff.errors import InputError

SIMILARITIES = ("gaussian", "distance")
TIE = 1e-6  # gains of float32 similarities that differ by less are equal
STORED = (
    8192  # up to this many frames the similarities are kept (256 MiB), above they are computed when needed
)
BLOCK = 1 << 20  # similarities held at a time: 4 MiB
TYPICAL = 1000  # frames that decide the median and the largest distance


@dataclass(frozen=True, eq=False)
class _Pool:
    """points: [frames, components] float32; clients: ids of the frames to stand for; scale: the bandwidth, or
    the distance at which the similarity is 0; table: [frames, clients] similarities, or None."""

    points: np.ndarray
    clients: np.ndarray
    scale: float
    gaussian: bool
    table: np.ndarray | None

    def similarities(self, frames: np.ndarray) -> np.ndarray:
        """[m, clients] float32."""
        if self.table is not None:
            rows: np.ndarray = self.table[frames]  # a copy
            return rows
        return _similarities(self.points[frames], self.points[self.clients], self.scale, self.gaussian)


@dataclass(frozen=True)
class FacilityLocation(Selector):
    """Greedy maximum of F(S) = sum_i max_{j in S} s_ij over all frames i of the pool, s their similarity.

    F is monotone and submodular: the choice reaches at least 1 - 1/e of the best (Nemhauser, Wolsey, Fisher,
    Math. Program. 14, 265 (1978)); lazy evaluation (Minoux, 1978) changes no pick. Frames are principal
    components of pooled features. When every frame is stood for (copies are left), the lowest frame goes
    first.

    Attributes:
        pooling: how atoms become a frame: "mean_std", "mean" or "per_element".
        variance: share of the variance of the standardised features that the components keep, (0, 1].
        similarity: "gaussian", exp(-d²/(2 h²)), or "distance", largest distance minus d.
        bandwidth: h of "gaussian", in units of the components; None: the median distance between frames.
        exact_frames: up to so many frames, i runs over the whole pool; above, over so many frames drawn
            evenly (fixed seed), while every frame can still be chosen. Time grows as frames x exact_frames.

    Raises:
        InputError: a parameter out of its range.
    """

    seeded: ClassVar[bool] = False

    pooling: str = "mean_std"
    variance: float = 0.95
    similarity: str = "gaussian"
    bandwidth: float | None = None
    exact_frames: int = 20000

    def __post_init__(self) -> None:
        for name, known in {"pooling": tuple(POOLINGS), "similarity": SIMILARITIES}.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"selector.{name}={getattr(self, name)} is unknown: write one of {', '.join(known)}"
                )
        if not 0 < self.variance <= 1:
            raise InputError(f"selector.variance={self.variance}: write a share of the variance in (0, 1]")
        if self.bandwidth is not None and not 0 < self.bandwidth < np.inf:
            raise InputError(f"selector.bandwidth={self.bandwidth}: write a positive length, or null")
        if self.exact_frames < 1:
            raise InputError(f"selector.exact_frames={self.exact_frames}: write a number from 1")

    def pick(self, task: Task) -> Picks:
        """Lazy greedy choice; ties go to the lowest frame."""
        pool = task.features.remember(self, lambda: self._pool(task.features))
        best = np.zeros(len(pool.clients), dtype=np.float32)
        for start in range(0, len(task.held), 256):
            best = np.maximum(best, pool.similarities(task.held[start : start + 256]).max(axis=0))
        step = max(1, BLOCK // len(pool.clients))

        def gains(frames: np.ndarray, _best: float) -> np.ndarray:
            parts = [frames[start : start + step] for start in range(0, len(frames), step)]
            return np.concatenate([_gains(pool.similarities(part), best) for part in parts])

        bounds = np.full(len(task.features), -np.inf)
        # The first gains are needed of all: in large blocks, not by the small steps of the search.
        bounds[task.candidates] = gains(task.candidates, -np.inf)
        ids, scores = np.empty(task.count, dtype=np.int64), np.empty(task.count)
        # What a float32 sum over all clients cannot tell from nothing.
        nothing = TIE * max(1.0, pool.scale if not pool.gaussian else 1.0)
        for i in range(task.count):
            ids[i] = lazy_argmax(bounds, lambda frames, top: _rounded(gains(frames, top), nothing), TIE)
            scores[i] = bounds[ids[i]] / len(pool.clients)
            bounds[ids[i]] = -np.inf
            best = np.maximum(best, pool.similarities(ids[i : i + 1])[0])
        details = {
            "components": pool.points.shape[1],
            "scale": pool.scale,
            "frames_stood_for": len(pool.clients),
            "mean_similarity": float(best.mean()),
        }
        return Picks(ids, scores, details=details)

    def _pool(self, features: Features) -> _Pool:
        pooled = features.pooled(self.pooling)
        space = principal_space(pooled, variance=self.variance)
        points = space(pooled).astype(np.float32)
        n, gaussian = len(points), self.similarity == "gaussian"
        clients = np.arange(n)
        if n > self.exact_frames:
            clients = np.sort(np.random.default_rng(0).choice(n, size=self.exact_frames, replace=False))
        scale = self._scale(points)
        table = None
        if n <= STORED:
            table = _similarities(points, points[clients], scale, gaussian)
        return _Pool(points, clients, scale, gaussian, table)

    def _scale(self, points: np.ndarray) -> float:
        """The bandwidth, or the distance at which nothing is left of the similarity."""
        if self.similarity == "distance":
            # No two points are further apart than the diameter of a ball about the origin, their mean.
            if len(points) > STORED:
                return 2 * float(np.sqrt((points**2).sum(axis=1).max())) or 1.0
            step = max(1, BLOCK // len(points))
            starts = range(0, len(points), step)
            return float(max(np.sqrt(_squares(points[s : s + step], points).max()) for s in starts)) or 1.0
        if self.bandwidth is not None:
            return self.bandwidth
        n = len(points)
        part = np.sort(np.random.default_rng(0).choice(n, size=min(n, TYPICAL), replace=False))
        squares = _squares(points[part], points[part])[np.triu_indices(len(part), 1)]
        squares = squares[squares > 1e-6 * squares.max(initial=0.0)]
        return float(np.sqrt(np.median(squares))) if len(squares) else 1.0


def _gains(similarities: np.ndarray, best: np.ndarray) -> np.ndarray:
    """[m] what each row adds to the sum of the best similarities."""
    similarities -= best
    return np.maximum(similarities, 0, out=similarities).sum(axis=1, dtype=np.float64)


def _rounded(gains: np.ndarray, nothing: float) -> np.ndarray:
    return np.where(gains > nothing, gains, 0.0)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -2 * exponents(a, b)


def _similarities(a: np.ndarray, b: np.ndarray, scale: float, gaussian: bool) -> np.ndarray:
    if gaussian:
        halves = exponents(a * np.float32(1 / scale), b * np.float32(1 / scale))
        return np.exp(halves, out=halves)
    distances = np.sqrt(_squares(a, b))
    np.subtract(np.float32(scale), distances, out=distances)
    return np.maximum(distances, 0, out=distances)
