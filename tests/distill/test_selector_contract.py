"""What every selector keeps to, run over all of them: add a new one to ALL."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from msmlff.distill.cpd import CPD
from msmlff.distill.features import Features
from msmlff.distill.selection import Selection
from msmlff.distill.selector import Selector
from msmlff.distill.simple import FullSelector, RandomSelector
from msmlff.errors import InputError

PARTIAL = {
    "random": RandomSelector(),
    "cpd": CPD(),
    "cpd-knn": CPD(density="knn", neighbors=5, pooling="mean"),
    "cpd-rank": CPD(weights="rank", central=0.1, peripheral=0.4, central_share=0.7, pooling="per_element"),
    "cpd-overflow": CPD(central=0.05, peripheral=0.3),
}
ALL = PARTIAL | {"full": FullSelector()}

partial = pytest.mark.parametrize("selector", PARTIAL.values(), ids=PARTIAL)
every = pytest.mark.parametrize("selector", ALL.values(), ids=ALL)
MakeFeatures = Callable[..., Features]


def budget_for(selector: Selector, wanted: int) -> int | None:
    return None if isinstance(selector, FullSelector) else wanted


@partial
@pytest.mark.parametrize("budget", [1, 2, 7, 30, 59, 60])
def test_exact_budget(selector: Selector, make_features: MakeFeatures, budget: int) -> None:
    selection = selector.select(make_features(60), budget, seed=1)
    assert len(set(selection.ids.tolist())) == len(selection.ids) == budget
    assert selection.ids.min() >= 0
    assert selection.ids.max() < 60


@every
def test_no_budget_takes_all(selector: Selector, make_features: MakeFeatures) -> None:
    assert sorted(selector.select(make_features(20), None, seed=1).ids) == list(range(20))


@every
def test_no_budget_takes_what_the_reference_leaves(selector: Selector, make_features: MakeFeatures) -> None:
    selection = selector.select(make_features(20), None, reference=[3, 5], must=[19, 7], seed=1)
    assert sorted(selection.ids) == sorted(set(range(20)) - {3, 5})
    assert selection.ids[:2].tolist() == [19, 7]


@partial
def test_nested(selector: Selector, make_features: MakeFeatures) -> None:
    features = make_features(60)
    assert selector.nested
    whole = selector.select(features, 60, seed=4)
    for n in (1, 2, 5, 20, 41, 59):
        part = selector.select(features, n, seed=4)
        assert part.ids.tolist() == whole.first(n).ids.tolist()


@every
def test_deterministic_whatever_the_global_generators(
    selector: Selector, make_features: MakeFeatures
) -> None:
    np.random.seed(1)  # noqa: NPY002  (the legacy global generator is the one that must not matter)
    first = selector.select(make_features(40), budget_for(selector, 13), seed=2)
    np.random.seed(2)  # noqa: NPY002
    again = selector.select(make_features(40), budget_for(selector, 13), seed=2)
    assert first.ids.tolist() == again.ids.tolist()
    np.testing.assert_array_equal(first.scores, again.scores)
    assert first.record == again.record


@partial
def test_seed_matters(selector: Selector, make_features: MakeFeatures) -> None:
    features = make_features(60)
    chosen = {tuple(selector.select(features, 20, seed=seed).ids.tolist()) for seed in range(4)}
    assert len(chosen) == 4


@partial
def test_must_frames_come_first_and_count(selector: Selector, make_features: MakeFeatures) -> None:
    selection = selector.select(make_features(60), 10, must=[42, 3, 17], seed=1)
    assert selection.ids[:3].tolist() == [42, 3, 17]
    assert len(set(selection.ids.tolist())) == 10
    assert selection.record["must"] == [42, 3, 17]


@partial
def test_budget_of_must_frames_alone(selector: Selector, make_features: MakeFeatures) -> None:
    assert selector.select(make_features(60), 2, must=[9, 4], seed=1).ids.tolist() == [9, 4]


@partial
def test_reference_is_not_chosen_again(selector: Selector, make_features: MakeFeatures) -> None:
    selection = selector.select(make_features(60), 30, reference=list(range(30)), seed=1)
    assert sorted(selection.ids) == list(range(30, 60))
    assert selection.record["reference"] == list(range(30))


@partial
@pytest.mark.parametrize("before", [1, 8, 25, 50])
def test_selection_goes_on_from_its_own_beginning(
    selector: Selector, make_features: MakeFeatures, before: int
) -> None:
    features = make_features(60)
    whole = selector.select(features, 60, seed=9)
    rest = selector.select(features, 10, reference=whole.first(before), seed=9)
    assert rest.ids.tolist() == whole.ids[before : before + 10].tolist()


@every
def test_record(selector: Selector, make_features: MakeFeatures) -> None:
    features = make_features(30)
    record = selector.select(features, budget_for(selector, 5), seed=11).record
    assert record["pool_hash"] == features.pool_hash
    assert record["n_pool"] == 30
    assert record["descriptor"] == features.descriptor
    assert record["selector"] == type(selector).__name__
    assert record["seed"] == 11
    assert type(selector)(**record["parameters"]) == selector


@every
def test_labels_are_not_read(selector: Selector, make_features: MakeFeatures) -> None:
    class Unreadable:
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(f"{name} of the labels was read")

    selector.select(make_features(30), budget_for(selector, 5), labels=Unreadable(), seed=1)  # type: ignore[arg-type]


@every
@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0, "from 1 to 30"),
        (-3, "from 1 to 30"),
        (31, "at most 30"),
        (2.5, "whole number"),
        (True, "whole number"),
    ],
)
def test_impossible_budgets(
    selector: Selector, make_features: MakeFeatures, budget: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        selector.select(make_features(30), budget, seed=1)


@every
def test_budget_above_what_the_reference_leaves(selector: Selector, make_features: MakeFeatures) -> None:
    with pytest.raises(InputError, match="at most 20"):
        selector.select(make_features(30), 21, reference=list(range(10)), seed=1)
    with pytest.raises(InputError, match="nothing to choose"):
        selector.select(make_features(30), None, reference=list(range(30)), seed=1)


@every
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"must": [1, 2, 1]}, "must: frame 1 occurs more than once"),
        ({"must": [30]}, "must: frame 30 is not in the pool"),
        ({"must": [-1]}, "must: frame -1 is not in the pool"),
        ({"must": [0.5]}, "must must be a list of frame numbers"),
        ({"reference": [4, 4]}, "reference: frame 4 occurs more than once"),
        ({"reference": [99]}, "reference: frame 99 is not in the pool"),
        ({"reference": [4], "must": [4]}, "frame 4 is in must and in the reference"),
        ({"must": [1, 2, 3, 4, 5, 6]}, "write at least 6"),
        ({"groups": ["a"]}, "1 names for a pool of 30"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed=1.5"),
    ],
)
def test_wrong_arguments(
    selector: Selector, make_features: MakeFeatures, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        selector.select(make_features(30), 5, **({"seed": 1} | arguments))  # type: ignore[arg-type]


@every
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_numbers(selector: Selector, make_features: MakeFeatures, value: float) -> None:
    features = make_features(30)
    features.rows[features.offsets[17] + 1, 3] = value
    with pytest.raises(InputError, match="features of frame 17"):
        selector.select(features, budget_for(selector, 5), seed=1)


@every
def test_reference_of_another_pool(selector: Selector, make_features: MakeFeatures) -> None:
    other = RandomSelector().select(make_features(30, pool_hash="pool-b"), 5, seed=1)
    assert isinstance(other, Selection)
    with pytest.raises(InputError, match="another pool"):
        selector.select(make_features(30), budget_for(selector, 5), reference=other, seed=1)


@every
def test_pool_of_one_frame(selector: Selector, make_features: MakeFeatures) -> None:
    """CPD has no density to speak of and says so; the others take the frame."""
    if isinstance(selector, CPD):
        with pytest.raises(InputError, match="at least two frames"):
            selector.select(make_features(1), 1, seed=1)
    else:
        assert selector.select(make_features(1), budget_for(selector, 1), seed=1).ids.tolist() == [0]


@every
def test_pool_of_duplicates(selector: Selector) -> None:
    """Nothing tells the frames apart: CPD says so; chance and everything need nothing to."""
    rows = np.tile(np.array([[1.0, 2.0], [3.0, 5.0]], dtype=np.float32), (12, 1))
    features = Features(rows, np.arange(0, 25, 2), np.ones(24, dtype=int), "pool-a")
    if isinstance(selector, CPD):
        with pytest.raises(InputError, match="same features"):
            selector.select(features, 3, seed=1)
    else:
        assert len(selector.select(features, budget_for(selector, 3), seed=1)) == (
            budget_for(selector, 3) or 12
        )


@partial
def test_pool_with_some_duplicates(selector: Selector, make_features: MakeFeatures) -> None:
    features = make_features(40)
    half = features.offsets[20]
    rows = np.concatenate([features.rows[:half], features.rows[:half]])
    numbers = np.concatenate([features.numbers[:half], features.numbers[:half]])
    offsets = np.concatenate([features.offsets[:20], features.offsets[:21] + half])
    twice = Features(rows, offsets, numbers, "pool-a")
    selection = selector.select(twice, 40, seed=1)
    assert sorted(selection.ids) == list(range(40))
    assert not np.isinf(selection.scores).any()


def test_full_refuses_a_part(make_features: MakeFeatures) -> None:
    with pytest.raises(InputError, match="takes all 30 frames"):
        FullSelector().select(make_features(30), 5, seed=1)


def test_broken_selector_is_caught(make_features: MakeFeatures) -> None:
    class OneLess(RandomSelector):
        def pick(self, task):  # type: ignore[no-untyped-def]
            picks = super().pick(task)
            return type(picks)(picks.ids[:-1])

    with pytest.raises(RuntimeError, match="broke its contract"):
        OneLess().select(make_features(30), 5, seed=1)
