"""Selectors that cut the pool into clusters and take one frame from each: k-means, k-medoids, BIRCH.

All of them complement what is held: no pick is spent on a cluster that a held frame represents already. None
is nested. Where the candidates have fewer different points than the budget, each point gives one frame, and
the copies follow.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from msmlff.distill.birch import subclusters, ward
from msmlff.distill.density import project
from msmlff.distill.features import POOLINGS, Features
from msmlff.distill.medoids import k_medoids
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.errors import InputError

COPY = 1e-6  # points that agree to this share of the largest coordinate are copies of each other
BLOCK = 1 << 22  # squared distances held at a time: 32 MiB
LIBRARY = 1 << 23  # distances of a step of k-means above which scikit-learn is worth its import
LEAVES = 4000  # subclusters of BIRCH that are merged hierarchically (cost: their square), if it can be helped


@dataclass(frozen=True, eq=False)
class Scene:
    """The frames that take part in a choice.

    Attributes:
        rows: [n] their ids, ascending: candidates and held frames.
        points: [n, d] float64.
        free: [n] bool, candidates.
    """

    rows: np.ndarray
    points: np.ndarray
    free: np.ndarray

    @staticmethod
    def of(points: np.ndarray, task: Task) -> Scene:
        """points: [frames, d] of the whole pool."""
        rows = np.union1d(task.candidates, task.held)
        return Scene(rows, points[rows], np.isin(rows, task.candidates))


@dataclass(frozen=True)
class _Clustering(Selector):
    """One frame from each of as many clusters as there are frames to pick.

    Points are the principal components of the pooled features.

    Attributes:
        pooling: how atoms become a frame: "mean_std", "mean" or "per_element".
        standardise: scale each pooled column to unit variance before the PCA.
        variance: share of the variance that the principal components keep, (0, 1].
    """

    nested: ClassVar[bool] = False
    pooling: str = "mean_std"
    standardise: bool = True
    variance: float = 0.95

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise InputError(
                f"selector.pooling={self.pooling} is unknown: write one of {', '.join(POOLINGS)}"
            )
        check_number("variance", self.variance, 0, 1)

    def pick(self, task: Task) -> Picks:
        """One frame of each cluster, the largest clusters first."""
        points = frame_points(task.features, self.pooling, self.standardise, self.variance)
        scene = Scene.of(points, task)
        labels = distinct(scene)
        if labels.max(initial=-1) < task.count:
            return from_clusters(scene, labels, task.count)
        return self._of_clusters(scene, task.count, task.seed)

    @abstractmethod
    def _of_clusters(self, scene: Scene, count: int, seed: int) -> Picks:
        """``count`` free frames, where there are more different points than that."""


@dataclass(frozen=True)
class KMeans(_Clustering):
    """k-means (Lloyd), from each cluster the frame nearest to its centre.

    With held frames, their points are centres that do not move: the others minimise the squared distance of
    every candidate to the nearest centre or held frame.

    Attributes:
        restarts: seedings by k-means++, the best of which is kept.
        iterations: of Lloyd's algorithm, at most.

    Raises:
        InputError: a parameter out of its range.
    """

    restarts: int = 1
    iterations: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("restarts", self.restarts)
        check_whole("iterations", self.iterations)

    def _of_clusters(self, scene: Scene, count: int, seed: int) -> Picks:
        points, labels = scene.points[scene.free], np.full(len(scene.rows), -1)
        cap = to_nearest(points, scene.points[~scene.free])[1]
        rng = np.random.default_rng(seed)
        if scene.free.all() and count * len(points) > LIBRARY:
            from sklearn.cluster import KMeans as Lloyd

            # sklearn's seed is below 2^32; ours need not be.
            state = int(rng.integers(1 << 31))
            model = Lloyd(count, n_init=self.restarts, max_iter=self.iterations, random_state=state)
            centres = model.fit(points).cluster_centers_
        else:
            runs = [_lloyd(points, cap, count, self.iterations, rng) for _ in range(self.restarts)]
            centres = min(runs, key=lambda run: run[1])[0]
        nearest, squares = to_nearest(points, centres)
        labels[scene.free] = np.where(squares < cap, nearest, -1)
        details = {"inertia": float(np.minimum(squares, cap).sum())}
        return from_clusters(scene, labels, count, details=details)


@dataclass(frozen=True)
class KMedoids(_Clustering):
    """k-medoids: the frames with the least sum of distances of all candidates to the nearest of them.

    Swaps as in FasterPAM (Schubert and Rousseeuw, Inf. Syst. 101, 101804 (2021)) from a seeding in the manner
    of k-means++. Held frames are medoids that are never swapped. Above ``medoids.SAMPLE`` candidates, samples
    are clustered and the best medoids for all candidates kept (CLARA, Kaufman and Rousseeuw 1990).

    Attributes:
        passes: over all candidates for swaps, at most.
        samples: of CLARA.

    Raises:
        InputError: a parameter out of its range; in ``select``: more medoids than a distance matrix allows.
    """

    passes: int = 100
    samples: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("passes", self.passes)
        check_whole("samples", self.samples)

    def _of_clusters(self, scene: Scene, count: int, seed: int) -> Picks:
        points, rows = scene.points[scene.free], scene.rows[scene.free]
        cap = np.sqrt(to_nearest(points, scene.points[~scene.free])[1])
        medoids = k_medoids(points, cap, count, passes=self.passes, samples=self.samples, seed=seed)
        nearest, squares = to_nearest(points, points[medoids])
        distances = np.sqrt(squares)
        sizes = np.bincount(nearest[distances < cap], minlength=count)
        order = np.lexsort((medoids, -sizes))
        details = {"clusters": count, "loss": float(np.minimum(distances, cap).sum())}
        return Picks(rows[medoids[order]], scores=sizes[order].astype(np.float64), details=details)


@dataclass(frozen=True)
class Birch(_Clustering):
    """BIRCH (Zhang, Ramakrishnan and Livny, SIGMOD 1996) with Ward's merging of its subclusters; from each
    cluster the frame nearest to its centre.

    Candidates and held frames are clustered together, and the tree of merges is cut where exactly as many
    clusters are without a held frame as there are frames to pick.

    Attributes:
        threshold: radius of a subcluster; halved until there are subclusters enough.
        branching: subclusters in a node of the tree, at most.

    Raises:
        InputError: a parameter out of its range.
    """

    seeded: ClassVar[bool] = False
    threshold: float = 0.5
    branching: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("threshold", self.threshold, 0, np.inf)
        check_whole("branching", self.branching, 2)

    def _of_clusters(self, scene: Scene, count: int, seed: int) -> Picks:
        labels, details = birch(scene, count, self.threshold, self.branching)
        return from_clusters(scene, labels, count, details=details)


def frame_points(features: Features, pooling: str, standardise: bool, variance: float) -> np.ndarray:
    """[frames, components] principal components of the pooled features; zeros where all frames are alike."""

    def make() -> np.ndarray:
        try:
            return project(features.pooled(pooling), variance, standardise).coordinates
        except InputError:  # all frames are alike
            return np.zeros((len(features), 1))

    return features.remember(("components", pooling, standardise, variance), make)


def distinct(scene: Scene) -> np.ndarray:
    """[n] the different points of the free frames numbered from 0; -1 for held frames and their copies."""
    scale = np.abs(scene.points).max(initial=0.0) or 1.0
    keys = np.unique(np.rint(scene.points / (COPY * scale)), axis=0, return_inverse=True)[1].ravel()
    labels = np.full(len(keys), -1)
    new = scene.free & ~np.isin(keys, keys[~scene.free])
    if new.any():
        labels[new] = np.unique(keys[new], return_inverse=True)[1]
    return labels


def from_clusters(
    scene: Scene, labels: np.ndarray, count: int, per_cluster: int = 1, details: dict[str, Any] | None = None
) -> Picks:
    """Frames of each cluster, the largest clusters first, then again from each, up to ``count``.

    From a cluster comes the frame nearest to the mean of the cluster; of several, frames at even steps in the
    order of that distance. What clusters too few or too small leave open is filled with the free frame
    farthest from all taken and held ones. The score is the number of frames in the pick's cluster (0 for
    those filled in).

    Args:
        scene: the frames.
        labels: [n] cluster of each frame, 0 to clusters - 1; -1: in none that matters. A cluster has no held
            frame.
        count: frames to pick.
        per_cluster: frames from each cluster.
        details: into the record.
    """
    inside = np.flatnonzero(labels >= 0)
    sizes = np.bincount(labels[inside]) if len(inside) else np.empty(0, dtype=np.int64)
    # Nearest first inside a cluster; distances are rounded so that two frames, each as far from their mean as
    # the other, are in the order of their ids.
    far = np.rint(_from_means(scene.points[inside], labels[inside], sizes) / 1e-9)
    inside = inside[np.lexsort((inside, far, labels[inside]))]
    starts = np.cumsum(sizes) - sizes
    places = [_even_steps(int(size), per_cluster) for size in sizes]
    order = np.lexsort((starts, -sizes))
    slots = [(c, starts[c] + places[c][r]) for r in range(per_cluster) for c in order if r < len(places[c])]
    slots = slots[:count]
    picked = inside[[slot for _, slot in slots]] if slots else np.empty(0, dtype=np.int64)
    scores = np.array([sizes[c] for c, _ in slots] + [0] * (count - len(slots)), dtype=np.float64)
    further = _farthest(scene, picked, count - len(picked))
    details = {"clusters": int((sizes > 0).sum()), "filled": len(further)} | (details or {})
    return Picks(scene.rows[np.concatenate([picked, further])], scores=scores, details=details)


def _even_steps(size: int, number: int) -> np.ndarray:
    """Positions 0 to size - 1 at even steps, the first among them; all where there are not more."""
    if size <= number:
        return np.arange(size)
    return np.unique(np.linspace(0, size - 1, number).astype(np.int64)) if number > 1 else np.zeros(1, int)


def _from_means(points: np.ndarray, labels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[n] distance of each point from its cluster's mean, in units of the largest."""
    distances: np.ndarray = np.linalg.norm(points - _means(points, labels, sizes)[labels], axis=1)
    return distances / (distances.max(initial=0.0) or 1.0)


def _means(points: np.ndarray, labels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[clusters, d] mean point of each cluster; 0 for empty ones."""
    sums = [np.bincount(labels, weights=column, minlength=len(sizes)) for column in points.T]
    means: np.ndarray = np.stack(sums, axis=1) / np.maximum(sizes, 1)[:, None]
    return means


def _farthest(scene: Scene, picked: np.ndarray, number: int) -> np.ndarray:
    """[number] free frames that are not picked, each the farthest from all that is taken."""
    chosen = np.empty(number, dtype=np.int64)
    if not number:
        return chosen
    points, free = scene.points, scene.free.copy()
    free[picked] = False
    taken = points[np.concatenate([picked, np.flatnonzero(~scene.free)])]
    # COPY decides what is a copy, so that copies go in the order of their ids.
    grain = (COPY * (np.abs(points).max(initial=0.0) or 1.0)) ** 2
    squares = to_nearest(points, taken)[1]
    for i in range(number):
        best = chosen[i] = int(np.argmax(np.where(free, np.where(squares > grain, squares, 0.0), -1.0)))
        free[best] = False
        squares = np.minimum(squares, ((points - points[best]) ** 2).sum(axis=1))
    return chosen


def to_nearest(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[n] nearest centre of each point, [n] squared distance to it; -1 and infinity without centres."""
    nearest, least = np.full(len(points), -1), np.full(len(points), np.inf)
    if not len(centres):
        return nearest, least
    norms = (centres * centres).sum(axis=1)
    step = max(1, BLOCK // len(centres))
    for start in range(0, len(points), step):
        x = points[start : start + step]
        part = np.argmin(norms - 2 * (x @ centres.T), axis=1)
        nearest[start : start + step] = part
        least[start : start + step] = ((x - centres[part]) ** 2).sum(axis=1)
    return nearest, least


def _lloyd(
    points: np.ndarray, cap: np.ndarray, count: int, iterations: int, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """[count, d] centres, and the sum of squared distances; ``cap`` [n]: squared distance to a held frame."""
    centres = _plus_plus(points, cap, count, rng)
    before = np.inf
    for _ in range(iterations):
        nearest, squares = to_nearest(points, centres)
        cost = float(np.minimum(squares, cap).sum())
        if cost >= before * (1 - 1e-9):
            break
        before = cost
        own = np.flatnonzero(squares < cap)
        sizes = np.bincount(nearest[own], minlength=count)
        centres = _means(points[own], nearest[own], sizes)
        empty = np.flatnonzero(sizes == 0)
        if len(empty):  # a centre that represents nothing goes where representation is worst
            worst = np.argsort(-np.minimum(squares, cap), kind="stable")[: len(empty)]
            centres[empty] = points[worst]
    return centres, before


def _plus_plus(points: np.ndarray, cap: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, d] starting centres by greedy k-means++ (Arthur and Vassilvitskii 2007), beside held frames."""
    trials = 2 + int(np.log(count))
    least, norms = cap.copy(), (points * points).sum(axis=1)
    centres = np.empty((count, points.shape[1]))
    for i in range(count):
        total = least.sum()
        if total > 0:
            draws = np.searchsorted(np.cumsum(least), rng.random(trials) * total, side="right")
        else:
            draws = rng.integers(len(points), size=1)
        draws = np.minimum(draws, len(points) - 1)
        trial = norms[draws, None] - 2 * (points[draws] @ points.T) + norms
        best = draws[int(np.minimum(trial, least).sum(axis=1).argmin())]
        centres[i] = points[best]
        # By differences: copies are at distance 0.
        least = np.minimum(least, ((points - centres[i]) ** 2).sum(axis=1))
    return centres


def birch(scene: Scene, count: int, threshold: float, branching: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Clusters of all frames, exactly ``count`` of them without a held frame, if there are points enough.

    Returns:
        [n] cluster of each frame, 0 to count - 1, or -1 in clusters with a held frame; details.
    """
    leaf, centres, threshold = _leaves(scene, count, threshold, branching)
    has_free = np.bincount(leaf[scene.free], minlength=len(centres)) > 0
    has_held = np.bincount(leaf[~scene.free], minlength=len(centres)) > 0
    of_leaf = _cut(centres, has_free, has_held, count)
    details = {"subclusters": len(centres), "threshold": threshold}
    return of_leaf[leaf], details


def _leaves(
    scene: Scene, count: int, threshold: float, branching: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """BIRCH's subclusters: [n] that of each frame, [m, d] their centres; and the radius that was used.

    The radius is halved until ``count`` subclusters are without a held frame; and where more than ``LEAVES``
    subclusters are left to merge, enlarged as far as that allows.
    """

    def grow(radius: float) -> tuple[np.ndarray, np.ndarray, bool]:
        leaf, centres = subclusters(scene.points, radius, branching)
        unserved = np.setdiff1d(leaf[scene.free], leaf[~scene.free])
        return leaf, centres, len(unserved) >= count

    smallest = COPY * (np.abs(scene.points).max() or 1.0)
    leaf, centres, enough = grow(threshold)
    while not enough and threshold > smallest:
        threshold /= 2
        leaf, centres, enough = grow(threshold)
    factor = 2.0
    while len(centres) > LEAVES and factor > 1.1:
        fewer = grow(factor * threshold)
        if fewer[2]:
            leaf, centres, threshold = fewer[0], fewer[1], factor * threshold
        else:
            factor **= 0.5
    return leaf, centres, threshold


def _cut(centres: np.ndarray, has_free: np.ndarray, has_held: np.ndarray, count: int) -> np.ndarray:
    """[m] cluster of each subcluster, after Ward's merging is undone until ``count`` clusters are good: with
    free frames and without held ones; -1 for those in other clusters.

    Undoing a merge makes at most one more good cluster, so that no count is jumped over.
    """
    m = len(centres)
    children = ward(centres)
    free, held = np.zeros(2 * m - 1, dtype=bool), np.zeros(2 * m - 1, dtype=bool)
    free[:m], held[:m] = has_free, has_held
    for node, pair in enumerate(children, start=m):
        free[node], held[node] = free[pair].any(), held[pair].any()
    good = free & ~held
    number, undone = int(good[-1]), 2 * m - 1  # nodes from ``undone`` on are split
    while number < count and undone > m:
        undone -= 1
        number += int(good[children[undone - m]].sum()) - int(good[undone])
    cluster = np.full(2 * m - 1, -1)
    for node in range(2 * m - 2, -1, -1):
        if node < undone and cluster[node] < 0:
            cluster[node] = node
        if m <= node < undone:
            cluster[children[node - m]] = cluster[node]
    names = cluster[:m]
    kept = good[names]
    result = np.full(m, -1)
    result[kept] = np.unique(names[kept], return_inverse=True)[1]
    return result


def check_number(name: str, value: float, above: float, most: float) -> None:
    """Raise InputError unless ``above`` < value <= ``most`` (or < infinity)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and above < value <= most and value < np.inf):
        limit = "" if most == np.inf else f" and at most {most:g}"
        raise InputError(f"selector.{name}={value!r}: write a number above {above:g}{limit}")


def check_whole(name: str, value: int, least: int = 1) -> None:
    """Raise InputError unless ``value`` is a whole number, at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"selector.{name}={value!r}: write a whole number, {least} or more")
