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
