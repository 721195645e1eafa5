"""Budgets in atoms and label cost, forbidden frames, quotas: what the base class does for every method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from msmlff.distill.budget import Budget
from msmlff.distill.features import Features
from msmlff.distill.selector import Picks, Rules, Selector, Task
from msmlff.distill.simple import RandomSelector
from msmlff.errors import InputError

MakeFeatures = Callable[..., Features]


class Fresh(Selector):
    """Not nested: another draw for every count."""

    nested = False

    def pick(self, task: Task) -> Picks:
        rng = np.random.default_rng([task.seed, task.count])
        return Picks(rng.permutation(task.candidates)[: task.count])


def test_costs() -> None:
    atoms = np.array([50, 100, 200])
    assert Budget(5).costs(atoms).tolist() == [1, 1, 1]
    assert Budget(5, "atoms").costs(atoms).tolist() == [50, 100, 200]
    assert Budget(5, "cost").costs(atoms).tolist() == [0.125, 1, 8]
    assert Budget(5, "cost", exponent=1.0).costs(atoms).tolist() == [0.5, 1, 2]


@pytest.mark.parametrize("selector", [RandomSelector(), Fresh()], ids=["nested", "not nested"])
@pytest.mark.parametrize(("amount", "unit"), [(40, "atoms"), (7, "atoms"), (0.004, "cost"), (1e-3, "cost")])
def test_never_above_and_nothing_more_fits(
    selector: Selector, make_features: MakeFeatures, amount: float, unit: str
) -> None:
    features, limit = make_features(60), Budget(amount, unit)
    chosen = selector.select(features, limit, seed=3)
    costs = limit.costs(features.num_atoms)
    spent = costs[chosen.ids].sum()
    assert 0 < spent <= amount * (1 + 1e-9)
    if selector.nested:
        left = np.setdiff1d(np.arange(60), chosen.ids)
        assert costs[left].min() > amount - spent
    assert not chosen.record["nested"]
    assert chosen.record["budget_unit"] == unit
    assert chosen.record["atoms"] == features.num_atoms[chosen.ids].sum()


def test_frames_are_taken_in_the_methods_order(make_features: MakeFeatures) -> None:
    features = make_features(60)
    order = RandomSelector().select(features, 60, seed=3).ids
    expected, left = [], 23
    for i in order.tolist():
        if features.num_atoms[i] <= left:
            expected.append(i)
            left -= features.num_atoms[i]
    assert RandomSelector().select(features, Budget(23, "atoms"), seed=3).ids.tolist() == expected


def test_must_frames_cost(make_features: MakeFeatures) -> None:
    features = make_features(60)
    rules = Rules(must=[7, 2])
    chosen = RandomSelector().select(features, Budget(20, "atoms"), rules=rules, seed=1)
    assert chosen.ids[:2].tolist() == [7, 2]
    assert features.num_atoms[chosen.ids].sum() <= 20
    with pytest.raises(InputError, match="is less than the"):
        RandomSelector().select(features, Budget(5, "atoms"), rules=rules, seed=1)


def test_reference_costs_nothing(make_features: MakeFeatures) -> None:
    features = make_features(60)
    chosen = RandomSelector().select(features, Budget(20, "atoms"), reference=range(30), seed=1)
    assert features.num_atoms[chosen.ids].sum() > 20 - 7
    assert chosen.ids.min() >= 30


def test_everything_fits(make_features: MakeFeatures) -> None:
    assert len(RandomSelector().select(make_features(20), Budget(10**6, "atoms"), seed=1)) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "atoms"), "from 1 upwards"),
        ((-1.0, "cost"), "a cost above 0"),
        ((2.5, "frames"), "whole number"),
        ((2.5, "atoms"), "whole number"),
        ((True, "frames"), "whole number"),
        ((float("nan"), "cost"), "above 0"),
        ((3, "electrons"), "frames, atoms, cost"),
        (("many", "cost"), "not a number"),
    ],
)
def test_impossible_budgets(arguments: tuple[float, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Budget(*arguments)


def test_less_than_one_frame(make_features: MakeFeatures) -> None:
    with pytest.raises(InputError, match="the cheapest frame that can be chosen takes 3"):
        RandomSelector().select(make_features(60), Budget(2, "atoms"), seed=1)


def test_forbidden_frames_are_never_chosen(make_features: MakeFeatures) -> None:
    features, rules = make_features(30), Rules(forbidden=list(range(0, 30, 3)))
    chosen = RandomSelector().select(features, None, rules=rules, seed=1)
    assert sorted(chosen.ids) == [i for i in range(30) if i % 3]
    assert chosen.record["forbidden"] == list(range(0, 30, 3))
    with pytest.raises(InputError, match="at most 20"):
        RandomSelector().select(features, 21, rules=rules, seed=1)


GROUPS = np.array(["a"] * 30 + ["b"] * 20 + ["c"] * 2)


def counts(ids: np.ndarray) -> dict[str, int]:
    names, number = np.unique(GROUPS[ids], return_counts=True)
    return dict(zip(names.tolist(), number.tolist(), strict=True))


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ("equal", {"a": 9, "b": 9, "c": 2}),
        ("proportional", {"a": 11, "b": 8, "c": 1}),
        ({"a": 5, "b": 15}, {"a": 5, "b": 15}),
    ],
)
@pytest.mark.parametrize("selector", [RandomSelector(), Fresh()], ids=["nested", "not nested"])
def test_quotas(
    selector: Selector, make_features: MakeFeatures, quotas: object, expected: dict[str, int]
) -> None:
    rules = Rules(quotas=quotas)  # type: ignore[arg-type]
    chosen = selector.select(make_features(52), 20, groups=GROUPS, rules=rules, seed=2)
    assert counts(chosen.ids) == expected
    assert not chosen.record["nested"]
    first = GROUPS[chosen.ids[: len(expected)]]
    assert len(set(first.tolist())) == len(expected)  # groups in turn


def test_must_frames_count_for_their_group(make_features: MakeFeatures) -> None:
    rules = Rules(must=[0, 1, 2, 3, 4, 5, 6], quotas="equal")
    chosen = RandomSelector().select(make_features(52), 12, groups=GROUPS, rules=rules, seed=2)
    assert counts(chosen.ids) == {"a": 7, "b": 3, "c": 2}


@pytest.mark.parametrize(
    ("quotas", "groups", "message"),
    [
        ("equal", None, "pool.keys.group"),
        ("equal", np.full(52, ""), "pool.keys.group"),
        ("most", GROUPS, "equal, proportional"),
        ({"d": 20}, GROUPS, "no group 'd'; its groups are a, b, c"),
        ({"a": 10}, GROUPS, "quotas ask for 10 frames"),
        ({"a": 15, "c": 5}, GROUPS, "quotas.c=5: the group has 2 frames"),
        ({"a": -1, "b": 21}, GROUPS, "quotas.a=-1"),
    ],
)
def test_impossible_quotas(
    make_features: MakeFeatures, quotas: object, groups: np.ndarray | None, message: str
) -> None:
    rules = Rules(quotas=quotas)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        RandomSelector().select(make_features(52), 20, groups=groups, rules=rules, seed=2)


def test_quotas_count_frames(make_features: MakeFeatures) -> None:
    with pytest.raises(InputError, match="unit=frames"):
        RandomSelector().select(
            make_features(52), Budget(99, "atoms"), groups=GROUPS, rules=Rules(quotas="equal"), seed=2
        )
