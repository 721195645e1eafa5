"""Facility location: apricot's picks, clusters, copies, samples of large pools, blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from msmlff.distill import facility
from msmlff.distill.facility import FacilityLocation
from msmlff.distill.features import Features
from msmlff.distill.space import principal_space
from msmlff.errors import InputError

MakeFeatures = Callable[..., Features]
GAUSSIAN = [43, 46, 20, 21, 6, 44, 40, 19, 1, 42, 38, 37, 10, 3, 0, 4, 7, 16, 28, 14]
DISTANCE = [43, 40, 20, 21, 6, 22, 44, 1, 18, 38, 37, 3, 10, 0, 16, 4, 7, 14, 39, 28]


@pytest.mark.parametrize(("similarity", "picks"), [("gaussian", GAUSSIAN), ("distance", DISTANCE)])
def test_picks_of_apricot(monkeypatch: pytest.MonkeyPatch, similarity: str, picks: list[int]) -> None:
    """apricot-select 0.6.1, optimizer naive, of the similarities exp(-d²/(2 1.3²)), and of d.max() - d. (Its
    lazy optimizer leaves the greedy order at the 14th pick of the first.)"""
    points = np.random.default_rng(9).normal(size=(50, 3))

    def unscaled(rows: np.ndarray, **_: float) -> object:
        space = principal_space(rows)
        return type(space)(rows.mean(axis=0), None, space.explained)

    monkeypatch.setattr(facility, "principal_space", unscaled)
    features = Features(points, np.arange(51), np.ones(50, dtype=int), "pool")
    selector = FacilityLocation(pooling="mean", similarity=similarity, bandwidth=1.3)
    assert selector.select(features, 20, seed=0).ids.tolist() == picks


def test_blocks_do_not_change_the_picks(monkeypatch: pytest.MonkeyPatch, make_features: MakeFeatures) -> None:
    selector = FacilityLocation(pooling="mean")
    kept = selector.select(make_features(60), 25, seed=0)
    monkeypatch.setattr(facility, "STORED", 10)
    monkeypatch.setattr(facility, "BLOCK", 200)
    assert selector.select(make_features(60), 25, seed=0).ids.tolist() == kept.ids.tolist()


def test_each_cluster_once_the_largest_first() -> None:
    rng = np.random.default_rng(2)
    cluster = np.repeat([0, 1, 2, 3], [4, 12, 7, 9])
    rows = 40.0 * np.eye(4)[cluster] + rng.normal(size=(32, 4))
    features = Features(rows, np.arange(33), np.ones(32, dtype=int), "pool")
    selector = FacilityLocation(pooling="mean", variance=1.0, bandwidth=0.5)
    assert cluster[selector.select(features, 4, seed=0).ids].tolist() == [1, 3, 2, 0]
    rest = selector.select(features, 2, reference=[4, 24], seed=0).ids
    assert cluster[rest].tolist() == [2, 0]


def test_copies_come_last_in_the_order_of_the_pool() -> None:
    rows = np.repeat(np.array([[0.0, 1], [5, 2], [3, 8]]), 3, axis=0)
    features = Features(rows, np.arange(10), np.ones(9, dtype=int), "pool")
    ids = FacilityLocation(pooling="mean").select(features, 9, seed=0).ids.tolist()
    assert sorted(i // 3 for i in ids[:3]) == [0, 1, 2]
    assert ids[3:] == sorted(ids[3:])


def test_large_pools_are_sampled_and_every_frame_can_be_chosen(make_features: MakeFeatures) -> None:
    features = make_features(60)
    selection = FacilityLocation(exact_frames=15).select(features, None, seed=0)
    assert sorted(selection.ids) == list(range(60))
    assert selection.record["details"]["frames_stood_for"] == 15
    exact = FacilityLocation().select(features, 1, seed=0)
    assert exact.record["details"]["frames_stood_for"] == 60


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"pooling": "max"}, "pooling"),
        ({"similarity": "cosine"}, "similarity"),
        ({"variance": 0.0}, "variance"),
        ({"bandwidth": -1.0}, "bandwidth"),
        ({"exact_frames": 0}, "exact_frames"),
    ],
)
def test_parameters_out_of_range(wrong: dict[str, object], name: str) -> None:
    with pytest.raises(InputError, match=f"selector.{name}"):
        FacilityLocation(**wrong)  # type: ignore[arg-type]
