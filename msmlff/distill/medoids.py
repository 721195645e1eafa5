"""k-medoids by swaps: FasterPAM beside medoids that never move, CLARA for many points."""

from __future__ import annotations

import numpy as np

from msmlff.errors import InputError

SAMPLE = 4000  # points of one distance matrix, unless there are more than half as many medoids
MOST_MEDOIDS = 6000  # a distance matrix of 12,000 points takes 1.1 GiB


def k_medoids(
    points: np.ndarray, cap: np.ndarray, count: int, *, passes: int, samples: int, seed: int
) -> np.ndarray:
    """The points with a locally least sum over all points of min(cap, distance to the nearest medoid).

    Above ``SAMPLE`` points, ``samples`` random samples are searched, each with the best medoids so far among
    its points, and the medoids best for all points are kept (CLARA).

    Args:
        points: [n, d].
        cap: [n] distance of each point to a medoid that is given; infinite where there is none.
        count: medoids, fewer than n.
        passes: over all points of a sample, at most.
        samples: of CLARA.
        seed: of seeding and samples.

    Returns:
        [count] different indices of points.

    Raises:
        InputError: more medoids than ``MOST_MEDOIDS``.
    """
    if count > MOST_MEDOIDS:
        raise InputError(
            f"selector=kmedoids keeps all distances in memory, for at most {MOST_MEDOIDS} frames to choose: "
            "write selector=kmeans"
        )
    rng = np.random.default_rng(seed)
    size = max(SAMPLE, 2 * count)
    if len(points) <= size:
        return _search(points, cap, count, passes, rng)
    best, least = np.empty(0, dtype=np.int64), np.inf
    for _ in range(samples):
        others = np.setdiff1d(np.arange(len(points)), best)
        sample = np.sort(np.concatenate([best, rng.choice(others, size - len(best), replace=False)]))
        medoids = sample[_search(points[sample], cap[sample], count, passes, rng)]
        loss = _loss(points, cap, medoids)
        if loss < least:
            best, least = medoids, loss
    return best


def _search(
    points: np.ndarray, cap: np.ndarray, count: int, passes: int, rng: np.random.Generator
) -> np.ndarray:
    """[count] medoids of points whose distances all fit in memory."""
    squares = (points * points).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * (points @ points.T), 0.0))
    np.fill_diagonal(distances, 0.0)
    if count == 1:
        return np.array([int(np.argmin([np.minimum(row, cap).sum() for row in distances]))])
    state = _Swaps(distances, cap, _seeds(distances, cap, count, rng))
    idle = 0
    for _ in range(passes):
        for candidate in range(len(points)):
            idle = 0 if state.try_swap(candidate) else idle + 1
            if idle >= len(points):
                return state.medoids
    return state.medoids


def _seeds(distances: np.ndarray, cap: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count] different points, drawn with chances in proportion to the distance from what is taken."""
    least, chosen = cap.copy(), np.empty(count, dtype=np.int64)
    free = np.ones(len(cap), dtype=bool)
    for i in range(count):
        weights = np.where(free, np.where(np.isfinite(least), least, 1.0), 0.0)
        if weights.sum() <= 0:
            weights = free.astype(np.float64)
        chosen[i] = rng.choice(len(cap), p=weights / weights.sum())
        free[chosen[i]] = False
        least = np.minimum(least, distances[chosen[i]])
    return chosen


class _Swaps:
    """Medoids, and for every point the nearest and the second nearest of them and of the given medoid.

    The given medoid, at distance ``cap``, has the number ``count``; it is never swapped.
    """

    def __init__(self, distances: np.ndarray, cap: np.ndarray, medoids: np.ndarray) -> None:
        n = len(cap)
        self.medoids = medoids.copy()
        self._distances, self._cap = distances, cap
        self._is_medoid = np.isin(np.arange(n), medoids)
        self._slots = np.empty((2, n), dtype=np.int64)  # number of the nearest, of the second
        self._least = np.empty((2, n))  # distance to the nearest, to the second
        self._rank(np.arange(n))
        self._tolerance = 1e-12 * max(float(self._least[0].sum()), np.finfo(float).tiny)

    def try_swap(self, candidate: int) -> bool:
        """Puts the candidate in the place of the medoid for which that lowers the loss most, if it does."""
        if self._is_medoid[candidate]:
            return False
        to = self._distances[candidate]
        (near, second), (d1, d2) = self._slots, self._least
        closer, between = to < d1, to < d2
        gain = (to - d1)[closer].sum()
        # What removing the medoid nearest to a point costs there: it goes to the second, or the candidate.
        removal = np.where(closer, 0.0, np.where(between, to, d2) - d1)
        change = gain + np.bincount(near, weights=removal, minlength=len(self.medoids) + 1)[:-1]
        slot = int(np.argmin(change))
        if change[slot] >= -self._tolerance:
            return False
        self._is_medoid[[self.medoids[slot], candidate]] = False, True
        self.medoids[slot] = candidate
        self._rank(np.flatnonzero((near == slot) | (second == slot) | between))
        return True

    def _rank(self, points: np.ndarray) -> None:
        """Nearest and second nearest medoid of some points, anew."""
        table = np.column_stack([self._distances[np.ix_(points, self.medoids)], self._cap[points]])
        two = np.argpartition(table, 1, axis=1)[:, :2]
        values = np.take_along_axis(table, two, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        self._slots[:, points] = np.take_along_axis(two, order, axis=1).T
        self._least[:, points] = np.take_along_axis(values, order, axis=1).T


def _loss(points: np.ndarray, cap: np.ndarray, medoids: np.ndarray) -> float:
    """Sum over all points of min(cap, distance to the nearest medoid)."""
    chosen, total = points[medoids], 0.0
    norms = (chosen * chosen).sum(axis=1)
    step = max(1, (1 << 22) // len(chosen))
    for start in range(0, len(points), step):
        x = points[start : start + step]
        squares = ((x * x).sum(axis=1) + (norms - 2 * (x @ chosen.T)).min(axis=1)).clip(0)
        total += float(np.minimum(np.sqrt(squares), cap[start : start + step]).sum())
    return total
