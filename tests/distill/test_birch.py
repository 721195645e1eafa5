"""The tree of subclusters against scikit-learn's, the merging against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster import hierarchy
from sklearn.cluster import Birch

from msmlff.distill.birch import subclusters, ward


def clouds(n: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 4 * rng.normal(size=(6, width))
    return centres[rng.integers(6, size=n)] + rng.normal(size=(n, width)) * rng.uniform(0.1, 2, size=width)


@pytest.mark.parametrize("branching", [2, 5, 50])
@pytest.mark.parametrize("radius", [0.05, 0.4, 1.5])
@pytest.mark.parametrize(("n", "width"), [(1, 3), (60, 1), (300, 2), (400, 9)])
def test_subclusters_are_those_of_scikit_learn(n: int, width: int, radius: float, branching: int) -> None:
    for seed in range(2):
        points = clouds(n, width, seed)
        model = Birch(threshold=radius, branching_factor=branching, n_clusters=None).fit(points)
        labels, centres = subclusters(points, radius, branching)
        np.testing.assert_allclose(centres, model.subcluster_centers_, rtol=1e-9, atol=1e-12)
        assert labels.tolist() == model.labels_.tolist()


def test_copies_are_in_subclusters_at_the_same_place_as_scikit_learns() -> None:
    points = clouds(80, 4, 0)[np.random.default_rng(1).integers(80, size=500)]
    for radius, branching in ((0.01, 2), (0.3, 5), (0.3, 50)):
        model = Birch(threshold=radius, branching_factor=branching, n_clusters=None).fit(points)
        labels, centres = subclusters(points, radius, branching)
        np.testing.assert_allclose(centres, model.subcluster_centers_, rtol=1e-9, atol=1e-12)
        # Of two subclusters at the same place, a copy may be in either.
        theirs = model.subcluster_centers_[model.labels_]
        np.testing.assert_allclose(centres[labels], theirs, rtol=1e-9, atol=1e-12)


def test_merges_are_those_of_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, n in enumerate([2, 3, 10, 200, 500]):
        points = clouds(n, 5, seed)
        if n == 500:  # copies
            points = points[np.random.default_rng(0).integers(300, size=n)]
        merges = ward(points)
        assert merges.tolist() == hierarchy.ward(points)[:, :2].astype(int).tolist()
        monkeypatch.setattr("msmlff.distill.birch.FEW", 1)
        assert ward(points).tolist() == merges.tolist()
        monkeypatch.undo()


def test_one_point_has_no_merges() -> None:
    assert ward(np.zeros((1, 2))).shape == (0, 2)
