"""RND: gradients by finite differences, training that learns, held frames that are learned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from msmlff.distill.features import Features
from msmlff.distill.rnd import MOST_ROWS, RND, _Pair, loss_and_gradients, network, random_weights
from msmlff.distill.selector import Rules
from msmlff.errors import InputError

MakeFeatures = Callable[..., Features]


def frames_of(points: np.ndarray) -> Features:
    return Features(points, np.arange(len(points) + 1), np.ones(len(points), dtype=int), "pool-a")


def test_gradients_are_those_of_finite_differences() -> None:
    rng = np.random.default_rng(0)
    weights = random_weights(rng, 3, 5, 2)
    weights[3] += 0.3
    x, goal = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    loss, gradients = loss_and_gradients(x, goal, weights)
    assert loss == pytest.approx(((network(x, weights)[0] - goal) ** 2).mean())
    h = 1e-6
    for w, gradient in zip(weights, gradients, strict=True):
        for index in np.ndindex(w.shape):
            value = w[index]
            w[index] = value + h
            above = loss_and_gradients(x, goal, weights)[0]
            w[index] = value - h
            below = loss_and_gradients(x, goal, weights)[0]
            w[index] = value
            assert gradient[index] == pytest.approx((above - below) / (2 * h), abs=1e-8)


def test_predictor_learns_what_it_is_shown() -> None:
    points = np.random.default_rng(1).normal(size=(50, 4))
    pair = _Pair(points, RND(steps=500), seed=3)
    before = pair.distances()
    pair.learn(np.arange(10))
    after = pair.distances()
    assert after[:10].max() < 0.1 * before[:10].mean()
    assert after[10:].mean() > 5 * after[:10].mean()


def test_a_region_that_is_held_is_left_alone() -> None:
    """Two clouds alike in number and width: where one is held, the first picks are from the other."""
    rng = np.random.default_rng(2)
    points = np.concatenate([rng.normal(size=(60, 4)) - 3, rng.normal(size=(60, 4)) + 3])
    features = frames_of(points)
    for held, other in ((range(30), range(60, 120)), (range(60, 90), range(60))):
        for rules, reference in ((Rules(), list(held)), (Rules(must=list(held)), [])):
            budget = 8 + len(rules.must)
            ids = RND().select(features, budget, reference=reference, rules=rules, seed=0).ids[-8:]
            assert np.isin(ids, other).sum() >= 6


def test_picks_spread_more_than_chance() -> None:
    """Ten equal clouds, one of them with nine tenths of the frames."""
    rng = np.random.default_rng(4)
    cloud = np.concatenate([np.zeros(450, dtype=int), np.repeat(np.arange(1, 10), 5)])
    points = 6 * rng.normal(size=(10, 5))[cloud] + 0.3 * rng.normal(size=(495, 5))
    for seed in range(3):
        ids = RND().select(frames_of(points), 20, seed=seed).ids
        assert len(set(cloud[ids])) >= 9


def test_nested_only_with_one_pick_an_update(make_features: MakeFeatures) -> None:
    features = make_features(40)
    assert RND().nested
    several = RND(picks_per_update=4)
    assert not several.nested
    assert sorted(several.select(features, 40, seed=1).ids) == list(range(40))
    assert several.select(features, 10, reference=[1, 2, 3, 4, 5], seed=1).record["nested"] is False


def test_more_held_frames_than_one_step_sees() -> None:
    points = np.random.default_rng(6).normal(size=(MOST_ROWS + 60, 3))
    features = frames_of(points)
    selector = RND(steps=1, width=4, embedding=2)
    whole = selector.select(features, MOST_ROWS + 20, seed=2)
    rest = selector.select(features, 10, reference=whole.first(MOST_ROWS + 10), seed=2)
    assert rest.ids.tolist() == whole.ids[MOST_ROWS + 10 :].tolist()


def test_copies_come_last() -> None:
    points = np.random.default_rng(5).normal(size=(15, 4))
    features = frames_of(np.concatenate([points, points[::-1]]))
    ids = RND().select(features, 30, seed=0).ids
    names = np.where(ids < 15, ids, 29 - ids)
    assert sorted(names[:15]) == sorted(names[15:]) == list(range(15))
    held = RND().select(features, 20, reference=[3, 4, 29], seed=0).ids
    assert sorted(np.where(held < 15, held, 29 - held)[:12]) == [1, 2, *range(5, 15)]


def test_whitening_changes_the_view_not_the_contract(make_features: MakeFeatures) -> None:
    features = make_features(40)
    chosen = {tuple(RND(whiten=w).select(features, 10, seed=1).ids.tolist()) for w in (False, True)}
    assert len(chosen) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pooling", "median"),
        ("variance", 0.0),
        ("width", 0),
        ("embedding", 2.5),
        ("learning_rate", 0.0),
        ("steps", 0),
        ("picks_per_update", True),
    ],
)
def test_parameters_out_of_range(key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"selector\.{key}"):
        RND(**{key: value})  # type: ignore[arg-type]
