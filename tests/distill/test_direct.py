"""DIRECT: Kaiser's rule, weights, and the frame nearest to the centre of its own cluster."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.decomposition import PCA

from msmlff.distill.clusters import Scene, birch
from msmlff.distill.direct import DIRECT, weighted_components
from msmlff.distill.features import Features
from msmlff.errors import InputError

MakeFeatures = Callable[..., Features]


def test_components_are_those_above_one_weighted_by_their_share() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 8)) + 0.3 * rng.normal(size=(50, 8))
    x = np.concatenate([x, np.full((50, 1), 7.0)], axis=1)  # a constant column does not count
    z = (x - x.mean(axis=0))[:, :8] / x.std(axis=0)[:8]
    pca = PCA().fit(z)
    kept = pca.explained_variance_ > 1
    expected = pca.transform(z)[:, kept] * pca.explained_variance_ratio_[kept]
    np.testing.assert_allclose(np.abs(weighted_components(x)), np.abs(expected), atol=1e-10)
    assert 1 <= kept.sum() < 8


# What maml 2025.4.3 (materialsvirtuallab's DIRECT), with scikit-learn 1.9.1, makes of ``pooled()``:
#   z = StandardScaler().fit_transform(pooled())
#   points = PrincipalComponentAnalysis().fit(z).transform(z)
#   made = BirchClustering(n=n, threshold_init=threshold).transform(points)
#   made["labels"], SelectKFromClusters(k=k).transform(made)["selected_indexes"]
# The third eigenvalue is 1.008 with maml's n - 1 in the covariance, and would be below 1 with n.
MAML_POINTS = [
    [1.37315174, 0.03493031, 0.0282228],
    [-0.72262914, -0.27700274, 0.10946325],
    [-0.83109686, 0.32298318, 0.04916925],
    [0.03035348, 0.16743146, 0.01872005],
]  # points[:4]

# (n, threshold, a letter for the cluster of each frame). Where the threshold leaves fewer than n subclusters,
# maml multiplies it by subclusters / n and DIRECT here halves it; the trees are comparable where both end at
# the same one: the case of 32 does (from 0.5 to 0.125), that of 12 starts where maml ended, from 0.5.
MAML_CLUSTERS = [
    (6, 0.5, "200020000222240430022035002022430024253203220332123340242343"),
    (12, 0.5 / 12 * 8, "ba1059aaa07004917aa000780a505017917406a003050777257a10010a1a"),
    (12, 0.2, "0953159997137285a99773a03913175a591276a734313aa1b1a45375345a"),
    (16, 0.3, "cd9ee9dddbfeb7a9fddbb5f85d6e6b9f9df7b3db5456efff261095b9e09d"),
    (30, 0.05, "g1c65e444o5a0npc7140067s6452jqk8e15f9l896hrd2775bjmt3603ai38"),
    (32, 0.5, "gvt54m1rrl4puket0v1uu50q514sdna0m64f2j025hci1004od7b3583p930"),
]

# Picks at n=16, threshold=0.3, by k. maml measures distances from the centre of the cluster's last
# subcluster, so its picks are right only where there is one (16 subclusters here), and no frame left or
# joined it when frames went to the nearest centre at the end. Kept are clusters with that centre at the mean
# of their frames, and not of two frames, which are equally far from it:
#   (labels == c).sum() != 2 and np.allclose(made["label_centers"][c], points[labels == c].mean(axis=0))
MAML_PICKS = {
    1: [0, 7, 12, 14, 15, 16, 23, 37, 41, 43, 48, 50],
    2: [0, 7, 12, 14, 15, 16, 23, 26, 29, 30, 33, 34, 37, 41, 43, 48, 50],
    3: [0, 7, 12, 14, 15, 16, 18, 23, 26, 29, 30, 33, 34, 36, 37, 41, 43, 47, 48, 49, 50, 55],
}


def pooled() -> np.ndarray:
    rng = np.random.default_rng(48)
    return np.round(rng.normal(size=(60, 3)) @ rng.normal(size=(3, 8)) + 0.8 * rng.normal(size=(60, 8)), 2)


def partition(labels: str | np.ndarray) -> list[int]:
    """The first member of each frame's cluster, whatever the clusters are called."""
    names = list(labels)
    return [names.index(name) for name in names]


def test_components_of_maml() -> None:
    points = weighted_components(pooled())
    assert points.shape == (60, 3)
    signs = np.sign(points[0] * MAML_POINTS[0])
    np.testing.assert_allclose(points[:4] * signs, MAML_POINTS, atol=1e-8)


@pytest.mark.parametrize(("clusters", "threshold", "labels"), MAML_CLUSTERS)
def test_clusters_of_maml(clusters: int, threshold: float, labels: str) -> None:
    points = weighted_components(pooled())
    ours, _ = birch(Scene(np.arange(60), points, np.ones(60, dtype=bool)), clusters, threshold, 50)
    assert partition(ours) == partition(labels)
    features = Features(pooled(), np.arange(61), np.ones(60, dtype=np.int64), "pool")
    ids = DIRECT(pooling="mean", threshold=threshold).select(features, clusters, seed=0).ids
    assert {labels[i] for i in ids} == set(labels)


@pytest.mark.parametrize("k", MAML_PICKS)
def test_picks_of_maml_where_it_measures_from_the_clusters_mean(k: int) -> None:
    clusters, threshold, labels = MAML_CLUSTERS[3]
    features = Features(pooled(), np.arange(61), np.ones(60, dtype=np.int64), "pool")
    selection = DIRECT(pooling="mean", threshold=threshold, k=k).select(features, clusters * k, seed=0)
    picks = selection.ids[: len(selection.ids) - selection.record["details"]["filled"]]
    kept = {labels[i] for i in MAML_PICKS[k]}
    assert sorted(i for i in picks.tolist() if labels[i] in kept) == MAML_PICKS[k]


@pytest.mark.parametrize("budget", [5, 20, 60])
def test_every_pick_is_the_nearest_to_its_own_clusters_centre(
    make_features: MakeFeatures, budget: int
) -> None:
    features = make_features(150)
    ids = DIRECT().select(features, budget, seed=0).ids
    points = weighted_components(features.pooled("mean_std"))
    labels, _ = birch(Scene(np.arange(150), points, np.ones(150, dtype=bool)), budget, 0.5, 50)
    assert len(set(labels[ids])) == budget
    for i in ids:
        members = np.flatnonzero(labels == labels[i])
        distances = np.linalg.norm(points[members] - points[members].mean(axis=0), axis=1)
        assert distances[members == i][0] <= distances.min() + 1e-9


def test_clusters_with_held_frames_give_none(make_features: MakeFeatures) -> None:
    features, held = make_features(150), [3, 50, 77, 120]
    ids = DIRECT().select(features, 30, reference=held, seed=0).ids
    points = weighted_components(features.pooled("mean_std"))
    labels, _ = birch(Scene(np.arange(150), points, ~np.isin(np.arange(150), held)), 30, 0.5, 50)
    assert (labels[held] == -1).all()
    assert sorted(labels[ids]) == list(range(30))


def test_k_frames_from_each_cluster(make_features: MakeFeatures) -> None:
    features = make_features(150)
    selection = DIRECT(k=3).select(features, 29, seed=0)
    assert selection.record["details"]["clusters"] == 10
    single = DIRECT().select(features, 10, seed=0)
    assert selection.ids[:10].tolist() == single.ids.tolist()
    assert len(set(selection.ids.tolist())) == 29


def test_no_chance_in_it(make_features: MakeFeatures) -> None:
    picks = {tuple(DIRECT().select(make_features(60), 12, seed=seed).ids.tolist()) for seed in range(3)}
    assert len(picks) == 1
    assert not DIRECT.seeded


def test_wrong_parameters() -> None:
    for make, message in (
        (lambda: DIRECT(k=0), r"selector\.k=0"),
        (lambda: DIRECT(threshold=-1), r"selector\.threshold=-1"),
        (lambda: DIRECT(pooling="max"), r"selector\.pooling=max"),
    ):
        with pytest.raises(InputError, match=message):
            make()
