"""Cluster selectors: one frame from each cluster, exact budgets, held frames, oracles."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from sklearn.cluster import Birch as SklearnBirch
from sklearn.cluster import KMeans as SklearnKMeans

from msmlff.distill.clusters import Birch, KMeans, KMedoids, Scene, birch, distinct, frame_points
from msmlff.distill.features import Features
from msmlff.distill.medoids import k_medoids
from msmlff.distill.selector import Selector
from msmlff.errors import InputError

ALL = [KMeans(), KMeans(restarts=3), KMedoids(), Birch()]
every = pytest.mark.parametrize("selector", ALL, ids=lambda s: type(s).__name__)


def one_atom_frames(x: np.ndarray) -> Features:
    n = len(x)
    return Features(np.asarray(x, float), np.arange(n + 1), np.ones(n, dtype=np.int64), "pool")


def islands(sizes: list[int], seed: int = 0) -> tuple[Features, np.ndarray]:
    """Frames around well separated centres, shuffled; and the island of each."""
    rng = np.random.default_rng(seed)
    island = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    angle = 2 * np.pi * island / len(sizes)
    centre = 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return one_atom_frames(centre + 0.2 * rng.normal(size=(len(island), 2))), island


@every
def test_one_frame_from_each_island_the_largest_first(selector: Selector) -> None:
    features, island = islands([5, 30, 12, 20, 9])
    selection = selector.select(features, 5, seed=1)
    assert island[selection.ids].tolist() == [1, 3, 2, 4, 0]
    assert selection.scores.tolist() == [30, 20, 12, 9, 5]


@every
def test_islands_with_a_held_frame_are_served(selector: Selector) -> None:
    features, island = islands([20, 20, 20, 20, 20, 20])
    held = [int(np.flatnonzero(island == i)[3]) for i in (0, 2, 5)]
    selection = selector.select(features, 3, reference=held, seed=1)
    assert sorted(island[selection.ids]) == [1, 3, 4]


@every
@pytest.mark.parametrize("seed", range(4))
def test_exact_budget_beside_many_held_frames_and_copies(selector: Selector, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(25, 3))[rng.integers(25, size=80)]
    held = rng.choice(80, size=int(rng.integers(0, 40)), replace=False).tolist()
    for count in (1, 5, 20, 80 - len(held)):
        ids = selector.select(one_atom_frames(x), count, reference=held, seed=seed).ids
        assert len(set(ids.tolist()) | set(held)) == count + len(held)


@every
def test_copies_come_last(selector: Selector) -> None:
    points = np.random.default_rng(0).normal(size=(10, 3))
    features = one_atom_frames(np.tile(points, (4, 1)))
    ids = selector.select(features, 25, seed=0).ids
    assert sorted(ids[:10]) == list(range(10))
    assert ids[10:].tolist() == list(range(10, 25))
    beside = selector.select(features, 12, reference=[0, 13], seed=0).ids
    assert sorted(beside[:8]) == [1, 2, 4, 5, 6, 7, 8, 9]


def test_kmeans_is_as_good_as_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same mean cost over twenty seeds: alone, beside a held frame too far to matter, and where
    scikit-learn does it."""
    x = np.concatenate([np.random.default_rng(1).normal(size=(200, 3)), [[1e3, 0, 0]]])
    selector = KMeans(standardise=False, variance=1.0)

    def cost(frames: int, **held: list[int]) -> float:
        runs = [selector.select(one_atom_frames(x[:frames]), 12, seed=seed, **held) for seed in range(20)]
        return float(np.mean([run.record["details"]["inertia"] for run in runs]))

    models = [SklearnKMeans(12, n_init=1, random_state=seed).fit(x[:200]) for seed in range(20)]
    reference = float(np.mean([model.inertia_ for model in models]))
    assert cost(200) < 1.03 * reference
    assert cost(201, reference=[200]) < 1.03 * reference
    monkeypatch.setattr("msmlff.distill.clusters.LIBRARY", 0)
    assert cost(200) == pytest.approx(reference, rel=0.03)


def test_kmedoids_finds_the_best_of_all_subsets() -> None:
    x = np.random.default_rng(3).normal(size=(14, 2))
    distances = np.linalg.norm(x[:, None] - x, axis=2)
    cap = np.full(14, np.inf)
    best = min(distances[list(c)].min(axis=0).sum() for c in combinations(range(14), 3))
    runs = [k_medoids(x, cap, 3, passes=100, samples=1, seed=seed) for seed in range(5)]
    losses = [distances[run].min(axis=0).sum() for run in runs]
    assert min(losses) == pytest.approx(best)
    assert max(losses) < 1.1 * best


@pytest.mark.parametrize("held", [[], [2, 9]])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_kmedoids_ends_where_no_swap_helps(count: int, held: list[int]) -> None:
    x = np.random.default_rng(5).normal(size=(40, 3))
    distances = np.linalg.norm(x[:, None] - x, axis=2)
    cap = distances[held].min(axis=0) if held else np.full(40, np.inf)

    def loss(medoids: list[int]) -> float:
        return float(np.minimum(distances[medoids].min(axis=0), cap).sum())

    found = k_medoids(x, cap, count, passes=100, samples=1, seed=0).tolist()
    for slot in range(count):
        for other in set(range(40)) - set(found):
            assert loss([*found[:slot], other, *found[slot + 1 :]]) >= loss(found) - 1e-9


def test_kmedoids_of_samples_is_nearly_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(2).normal(size=(600, 3))
    cap = np.full(600, np.inf)

    def loss(medoids: np.ndarray) -> float:
        return float(np.linalg.norm(x[:, None] - x[medoids], axis=2).min(axis=1).sum())

    whole = loss(k_medoids(x, cap, 10, passes=100, samples=5, seed=0))
    monkeypatch.setattr("msmlff.distill.medoids.SAMPLE", 150)
    sampled = k_medoids(x, cap, 10, passes=100, samples=5, seed=0)
    assert len(set(sampled.tolist())) == 10
    assert whole <= loss(sampled) < 1.15 * whole
    with pytest.raises(InputError, match="selector=kmeans"):
        k_medoids(x, cap, 7000, passes=1, samples=1, seed=0)


@pytest.mark.parametrize("count", [3, 10, 40])
def test_birch_without_held_frames_is_that_of_scikit_learn(
    make_features: Callable[..., Features], count: int
) -> None:
    points = frame_points(make_features(120), "mean", True, 0.95)
    scene = Scene(np.arange(120), points, np.ones(120, dtype=bool))
    labels, details = birch(scene, count, 0.5, 50)
    reference = SklearnBirch(threshold=details["threshold"], n_clusters=count).fit(points).labels_
    assert len(set(labels.tolist())) == count
    assert len(set(zip(labels.tolist(), reference.tolist(), strict=True))) == count


def test_birch_enlarges_its_radius_where_there_are_too_many_subclusters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = np.random.default_rng(0).normal(size=(400, 2))
    monkeypatch.setattr("msmlff.distill.clusters.LEAVES", 50)
    scene = Scene(np.arange(400), points, np.ones(400, dtype=bool))
    labels, details = birch(scene, 20, 0.01, 50)
    assert details["subclusters"] <= 50
    assert set(labels.tolist()) == set(range(20))


def test_distinct_points_leave_out_copies_of_held_frames() -> None:
    points = np.array([[0.0], [1.0], [1.0], [2.0], [0.0]])
    free = np.array([False, True, True, True, True])
    assert distinct(Scene(np.arange(5), points, free)).tolist() == [-1, 0, 0, 1, -1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KMeans(pooling="max"), r"selector\.pooling=max"),
        (lambda: KMeans(variance=0), r"selector\.variance=0"),
        (lambda: KMeans(restarts=0), r"selector\.restarts=0"),
        (lambda: KMedoids(samples=0), r"selector\.samples=0"),
        (lambda: Birch(threshold=0.0), r"selector\.threshold=0"),
        (lambda: Birch(branching=1), r"selector\.branching=1"),
    ],
)
def test_wrong_parameters(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
