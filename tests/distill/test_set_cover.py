"""Set cover: QUESTS' picks, plain greedy as the oracle of the lazy one, its bound, copies, elements."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from msmlff.distill.features import Features
from msmlff.distill.kernel_state import target_sums
from msmlff.distill.lazy import lazy_argmax
from msmlff.distill.set_cover import CRITERIA, SetCover
from msmlff.distill.space import environment_space
from msmlff.errors import InputError

MakeFeatures = Callable[..., Features]
MSC = [
    2,
    29,
    4,
    17,
    23,
    15,
    18,
    27,
    24,
    14,
    11,
    10,
    20,
    22,
    0,
    9,
    3,
    8,
    1,
    7,
    12,
    6,
    16,
    5,
    13,
    19,
    25,
    21,
    26,
    28,
]
CONDITIONAL = [12, 18, 13, 6, 10, 22, 17, 19, 24, 9, 15, 4]


def quests_pool() -> Features:
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(30, 5, 4)) * rng.uniform(0.2, 1.5, size=(30, 1, 1))
    return Features(rows.reshape(150, 4), np.arange(0, 151, 5), np.ones(150, dtype=int), "pool")


def test_picks_of_quests() -> None:
    """quests 2026.2.22: msc(descriptors, entropies, 30, h=0.5) and msc_conditional of the last 25 given the
    first 5."""
    selector = SetCover(criterion="quests", bandwidth=0.5, components=None)
    assert selector.select(quests_pool(), None, seed=0).ids.tolist() == MSC
    rest = selector.select(quests_pool(), 12, reference=[0, 1, 2, 3, 4], seed=0)
    assert rest.ids.tolist() == [5 + i for i in CONDITIONAL]


def plain_greedy(features: Features, criterion: str, h: float, count: int) -> list[int]:
    """The dH criteria by their definition."""
    x, frame = features.rows.astype(np.float64), np.repeat(np.arange(len(features)), features.num_atoms)
    kernel = np.exp(-((x[:, None] - x) ** 2).sum(axis=-1) / (2 * h * h))
    kernel *= features.numbers[:, None] == features.numbers
    split = features.offsets[:-1]
    inside = frame[:, None] == frame
    own = (
        np.log(features.num_atoms)
        - np.add.reduceat(np.log((kernel * inside).sum(axis=1)), split) / features.num_atoms
    )
    chosen: list[int] = []
    while len(chosen) < count:
        with np.errstate(divide="ignore"):
            dH = -np.log(np.maximum(kernel[:, np.isin(frame, chosen)].sum(axis=1), 1e-300))
        mean = np.add.reduceat(dH, split) / features.num_atoms
        scores = {
            "max": np.maximum.reduceat(dH, split),
            "mean": mean,
            "uncovered": np.add.reduceat((dH > 1e-5).astype(float), split) + (mean + 50) / 1000,
        }[criterion]
        scores = own.copy() if not chosen else scores
        scores[chosen] = -np.inf
        chosen.append(int(scores.argmax()))
    return chosen


@pytest.mark.parametrize("criterion", ["max", "mean", "uncovered"])
def test_lazy_is_greedy(make_features: MakeFeatures, criterion: str) -> None:
    features = make_features(60)
    selector = SetCover(criterion=criterion, bandwidth=0.4, components=None)
    assert selector.select(features, 60, seed=0).ids.tolist() == plain_greedy(features, criterion, 0.4, 60)


def test_coverage_is_greedy_and_near_the_best(make_features: MakeFeatures) -> None:
    """Each pick adds most to F; three greedy picks reach 1 - 1/e of the best three, and far more here."""
    features = make_features(25)
    space = environment_space(features, None)
    table = target_sums(features, space, 0.5, 10**6).astype(np.float64)

    def value(frames: tuple[int, ...]) -> float:
        return float(np.minimum(table[list(frames)].sum(axis=0), 1.0).sum())

    ids = SetCover(bandwidth=0.5, components=None).select(features, 8, seed=0).ids.tolist()
    for i in range(8):
        gains = {f: value((*ids[:i], f)) for f in range(25) if f not in ids[:i]}
        assert gains[ids[i]] >= max(gains.values()) - 1e-3
    best = max(value(three) for three in combinations(range(25), 3))
    assert value(tuple(ids[:3])) >= 0.95 * best


def test_every_cluster_before_a_second_frame_of_one() -> None:
    """Five clusters of six copies: five picks take one of each, the larger ones first; then the copies
    follow."""
    rng = np.random.default_rng(1)
    centres = 50 * rng.normal(size=(5, 3))
    sizes = [3, 8, 5, 4, 7]
    frames = np.repeat(np.arange(5), sizes)
    rows = np.repeat(centres[frames], 2, axis=0) + 0.01 * rng.normal(size=(54, 3))
    features = Features(rows, np.arange(0, 55, 2), np.ones(54, dtype=int), "pool")
    for criterion in CRITERIA:
        selector = SetCover(criterion=criterion, bandwidth=1.0, components=None)
        ids = selector.select(features, 27, seed=0).ids
        assert sorted(frames[ids[:5]]) == [0, 1, 2, 3, 4], criterion
    ids = SetCover(bandwidth=1.0, components=None).select(features, 5, seed=0).ids
    assert frames[ids].tolist() == [1, 4, 2, 3, 0]


def test_elements_are_covered_one_by_one() -> None:
    """The same rows on another element are not covered by those of the first."""
    rows = np.zeros((8, 2))
    features = Features(rows, np.arange(0, 9, 2), np.array([1, 1, 1, 1, 1, 1, 8, 8]), "pool")
    for criterion in CRITERIA:
        ids = SetCover(criterion=criterion, bandwidth=1.0, components=None).select(features, 2, seed=0).ids
        assert 3 in ids, criterion


@pytest.mark.parametrize("criterion", CRITERIA)
def test_reference_is_complemented(criterion: str) -> None:
    rows = np.array([[0.0, 0], [0.1, 0], [9, 9], [9.1, 9], [0, 0.1]])
    features = Features(rows, np.arange(6), np.ones(5, dtype=int), "pool")
    selector = SetCover(criterion=criterion, bandwidth=0.5, components=None)
    assert selector.select(features, 1, reference=[0], seed=0).ids[0] in (2, 3)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_seed_does_not_matter(make_features: MakeFeatures, criterion: str) -> None:
    features = make_features(40)
    first, second = (SetCover(criterion=criterion).select(features, 10, seed=s).ids.tolist() for s in (1, 2))
    assert first == second


def test_few_environments_stand_for_the_pool(make_features: MakeFeatures) -> None:
    """Frames that share nothing with them come last; the budget is exact all the same."""
    features = make_features(40)
    selector = SetCover(environments=5, bandwidth=1e-3)
    selection = selector.select(features, None, seed=0)
    assert sorted(selection.ids) == list(range(40))
    assert selection.record["details"]["pool_environments"] == 5
    assert (selection.scores[:5] > 0).all()
    assert (selection.scores[5:] == 0).all()


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"criterion": "best"}, "criterion"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"threshold": np.nan}, "threshold"),
        ({"components": 0}, "components"),
        ({"environments": 0}, "environments"),
    ],
)
def test_parameters_out_of_range(wrong: dict[str, object], name: str) -> None:
    with pytest.raises(InputError, match=f"selector.{name}"):
        SetCover(**wrong)  # type: ignore[arg-type]


def test_lazy_argmax_is_argmax_with_the_lowest_index_of_a_tie() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.integers(0, 6, size=70).astype(float)
        bounds = values + rng.integers(0, 5, size=70)
        bounds[rng.random(70) < 0.2] = -np.inf
        allowed = np.where(np.isfinite(bounds), values, -np.inf)

        def evaluate(ids: np.ndarray, _best: float, values: np.ndarray = values) -> np.ndarray:
            return values[ids]

        assert lazy_argmax(bounds, evaluate) == int(allowed.argmax())
    with pytest.raises(ValueError, match="-inf"):
        lazy_argmax(np.full(3, -np.inf), lambda ids, _: ids)
