"""What every selector keeps to, run over all of them (methods.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from methods import FULL, IGNORES_HELD, METHODS, REFUSES_COPIES, REFUSES_ONE, Bench, MakeFeatures
from omegaconf import OmegaConf

from msmlff.distill.budget import Budget
from msmlff.distill.features import Features
from msmlff.distill.selection import Selection
from msmlff.distill.selector import Rules, Selector
from msmlff.distill.simple import FullSelector, RandomSelector
from msmlff.errors import InputError

ALL = METHODS | FULL
NESTED = {name: selector for name, selector in METHODS.items() if selector.nested}

partial = pytest.mark.parametrize("selector", METHODS.values(), ids=METHODS)
nested = pytest.mark.parametrize("selector", NESTED.values(), ids=NESTED)
every = pytest.mark.parametrize("selector", ALL.values(), ids=ALL)


@pytest.fixture
def bench(make_features: MakeFeatures, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(make_features, tmp_path_factory.getbasetemp() / "stores")


def budget_for(selector: Selector, wanted: int) -> int | None:
    return None if isinstance(selector, FullSelector) else wanted


@partial
@pytest.mark.parametrize("budget", [1, 2, 7, 30, 59, 60])
def test_exact_budget(selector: Selector, bench: Bench, budget: int) -> None:
    selection = bench.select(selector, bench.features(selector, 60), budget, seed=1)
    assert len(set(selection.ids.tolist())) == len(selection.ids) == budget
    assert selection.ids.min() >= 0
    assert selection.ids.max() < 60


@every
def test_no_budget_takes_all(selector: Selector, bench: Bench) -> None:
    assert sorted(bench.select(selector, bench.features(selector, 20), None, seed=1).ids) == list(range(20))


@every
def test_no_budget_takes_what_the_reference_leaves(selector: Selector, bench: Bench) -> None:
    selection = bench.select(
        selector, bench.features(selector, 20), None, reference=[3, 5], rules=Rules(must=[19, 7]), seed=1
    )
    assert sorted(selection.ids) == sorted(set(range(20)) - {3, 5})
    assert selection.ids[:2].tolist() == [19, 7]


@nested
def test_nested(selector: Selector, bench: Bench) -> None:
    features = bench.features(selector, 60)
    whole = bench.select(selector, features, 60, seed=4)
    for n in (1, 2, 5, 20, 41, 59):
        part = bench.select(selector, features, n, seed=4)
        assert part.ids.tolist() == whole.first(n).ids.tolist()


@partial
def test_the_record_says_whether_a_beginning_is_a_selection(selector: Selector, bench: Bench) -> None:
    selection = bench.select(selector, bench.features(selector, 40), 20, seed=4)
    assert selection.record["nested"] == selector.nested
    if not selector.nested:
        with pytest.raises(InputError, match="not nested"):
            selection.first(10)


@every
def test_deterministic_whatever_the_global_generators(selector: Selector, bench: Bench) -> None:
    np.random.seed(1)  # noqa: NPY002  (the legacy global generator is the one that must not matter)
    first = bench.select(selector, bench.features(selector, 40), budget_for(selector, 13), seed=2)
    np.random.seed(2)  # noqa: NPY002
    again = bench.select(selector, bench.features(selector, 40), budget_for(selector, 13), seed=2)
    assert first.ids.tolist() == again.ids.tolist()
    np.testing.assert_array_equal(first.scores, again.scores)
    assert first.record == again.record


@partial
def test_the_seed_matters_where_the_method_says_so(selector: Selector, bench: Bench) -> None:
    features = bench.features(selector, 60)
    chosen = {tuple(bench.select(selector, features, 20, seed=seed).ids.tolist()) for seed in range(4)}
    assert (len(chosen) > 1) == selector.seeded


@partial
def test_must_frames_come_first_and_count(selector: Selector, bench: Bench) -> None:
    selection = bench.select(
        selector, bench.features(selector, 60), 10, rules=Rules(must=[42, 3, 17]), seed=1
    )
    assert selection.ids[:3].tolist() == [42, 3, 17]
    assert len(set(selection.ids.tolist())) == 10
    assert selection.record["must"] == [42, 3, 17]


@partial
def test_budget_of_must_frames_alone(selector: Selector, bench: Bench) -> None:
    assert bench.select(
        selector, bench.features(selector, 60), 2, rules=Rules(must=[9, 4]), seed=1
    ).ids.tolist() == [9, 4]


@partial
def test_reference_is_not_chosen_again(selector: Selector, bench: Bench) -> None:
    selection = bench.select(selector, bench.features(selector, 60), 30, reference=list(range(30)), seed=1)
    assert sorted(selection.ids) == list(range(30, 60))
    assert selection.record["reference"] == list(range(30))


@nested
@pytest.mark.parametrize("before", [1, 8, 25, 50])
def test_selection_goes_on_from_its_own_beginning(selector: Selector, bench: Bench, before: int) -> None:
    features = bench.features(selector, 60)
    whole = bench.select(selector, features, 60, seed=9)
    rest = bench.select(selector, features, 10, reference=whole.first(before), seed=9)
    assert rest.ids.tolist() == whole.ids[before : before + 10].tolist()


def as_config(value: Any) -> Any:
    """A record's parameters in the words of a configuration file."""
    if isinstance(value, dict):
        return {"_target_" if key == "method" else key: as_config(item) for key, item in value.items()}
    return [as_config(item) for item in value] if isinstance(value, list) else value


@every
def test_record(selector: Selector, bench: Bench) -> None:
    features = bench.features(selector, 30)
    record = bench.select(selector, features, budget_for(selector, 5), seed=11).record
    assert record["pool_hash"] == features.pool_hash
    assert record["n_pool"] == 30
    assert record["descriptor"] == features.descriptor
    assert record["selector"] == type(selector).__name__
    assert record["seed"] == 11
    parameters = as_config(json.loads(json.dumps(record["parameters"])))
    target = f"{type(selector).__module__}.{type(selector).__qualname__}"
    assert instantiate({"_target_": target, **parameters}, _convert_="all") == selector


@every
def test_frames_are_read_by_those_alone_who_say_so(selector: Selector, bench: Bench) -> None:
    class Unreadable:
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(f"{name} of the frames was read")

    features, budget = bench.features(selector, 30), budget_for(selector, 5)
    if selector.uses_labels or selector.uses_frames:
        with pytest.raises(InputError, match="choose another selector"):
            bench.select(selector, features, budget, frames=None, seed=1)
    else:
        bench.select(selector, features, budget, frames=Unreadable(), seed=1)


@every
def test_frames_of_another_pool(selector: Selector, bench: Bench) -> None:
    """As many frames of the same sizes, and others all the same."""
    features, budget = bench.features(selector, 30), budget_for(selector, 5)
    others = bench.frames(features, seed=6)
    if selector.uses_labels or selector.uses_frames:
        with pytest.raises(InputError, match="frames is another pool"):
            bench.select(selector, features, budget, frames=others, seed=1)
    else:
        ids = bench.select(selector, features, budget, seed=1).ids.tolist()
        assert bench.select(selector, features, budget, frames=others, seed=1).ids.tolist() == ids


@partial
def test_forbidden_frames(selector: Selector, bench: Bench) -> None:
    rules = Rules(must=[5], forbidden=list(range(10, 40)))
    selection = bench.select(selector, bench.features(selector, 60), 30, rules=rules, seed=1)
    assert sorted(selection.ids) == [*range(10), *range(40, 60)]
    assert selection.ids[0] == 5


@partial
@pytest.mark.parametrize("quotas", ["equal", "proportional", {"a": 6, "b": 2, "c": 1}])
def test_quotas(selector: Selector, bench: Bench, quotas: Any) -> None:
    groups = np.array(["a"] * 30 + ["b"] * 10 + ["c"] * 5)
    rules = Rules(must=[40], quotas=quotas)
    selection = bench.select(selector, bench.features(selector, 45), 9, groups=groups, rules=rules, seed=1)
    names, counts = np.unique(groups[selection.ids], return_counts=True)
    expected = {"equal": {"a": 3, "b": 3, "c": 3}, "proportional": {"a": 6, "b": 2, "c": 1}}
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == expected.get(str(quotas), quotas)


@partial
@pytest.mark.parametrize(("unit", "amount"), [("atoms", 60), ("cost", 0.001)])
def test_budgets_in_atoms_and_cost(selector: Selector, bench: Bench, unit: str, amount: float) -> None:
    features, limit = bench.features(selector, 40), Budget(amount, unit)
    selection = bench.select(selector, features, limit, seed=1)
    costs = limit.costs(features.num_atoms)
    assert 0 < costs[selection.ids].sum() <= amount * (1 + 1e-9)
    assert amount - costs[selection.ids].sum() < costs.max()


@every
@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0, "from 1 upwards"),
        (-3, "from 1 upwards"),
        (31, "at most 30"),
        (2.5, "whole number"),
        (True, "whole number"),
    ],
)
def test_impossible_budgets(selector: Selector, bench: Bench, budget: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench.select(selector, bench.features(selector, 30), budget, seed=1)


@every
def test_budget_above_what_the_reference_leaves(selector: Selector, bench: Bench) -> None:
    with pytest.raises(InputError, match="at most 20"):
        bench.select(selector, bench.features(selector, 30), 21, reference=list(range(10)), seed=1)
    with pytest.raises(InputError, match="nothing to choose"):
        bench.select(selector, bench.features(selector, 30), None, reference=list(range(30)), seed=1)


@every
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": Rules(must=[1, 2, 1])}, "must: frame 1 occurs more than once"),
        ({"rules": Rules(must=[30])}, "must: frame 30 is not in the pool"),
        ({"rules": Rules(must=[-1])}, "must: frame -1 is not in the pool"),
        ({"rules": Rules(must=[0.5])}, "must must be a list of frame numbers"),
        ({"reference": [4, 4]}, "reference: frame 4 occurs more than once"),
        ({"reference": [99]}, "reference: frame 99 is not in the pool"),
        ({"reference": [4], "rules": Rules(must=[4])}, "frame 4 is in must and in the reference"),
        ({"rules": Rules(must=[4], forbidden=[4])}, "frame 4 is in must and in forbidden"),
        ({"rules": Rules(forbidden=[30])}, "forbidden: frame 30 is not in the pool"),
        ({"rules": Rules(must=[1, 2, 3, 4, 5, 6])}, "write at least 6"),
        ({"groups": ["a"]}, "1 names for a pool of 30"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed=1.5"),
    ],
)
def test_wrong_arguments(
    selector: Selector, bench: Bench, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bench.select(selector, bench.features(selector, 30), 5, **({"seed": 1} | arguments))  # type: ignore[arg-type]


@every
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_numbers(selector: Selector, bench: Bench, value: float) -> None:
    features = bench.features(selector, 30)
    features.rows[features.offsets[17] + 1, 3] = value
    with pytest.raises(InputError, match="features of frame 17"):
        bench.select(selector, features, budget_for(selector, 5), seed=1)


@every
def test_reference_of_another_pool(selector: Selector, bench: Bench) -> None:
    elsewhere = bench.features(RandomSelector(), 30, pool_hash="pool-b")
    other = bench.select(RandomSelector(), elsewhere, 5, seed=1)
    assert isinstance(other, Selection)
    with pytest.raises(InputError, match="another pool"):
        bench.select(selector, bench.features(selector, 30), budget_for(selector, 5), reference=other, seed=1)


def refused(refusals: dict[str, str], selector: Selector) -> str | None:
    """What this method, or the one inside a chain, says."""
    inner = getattr(selector, "choose", selector)
    return refusals.get(type(inner).__name__)


@every
def test_pool_of_one_frame(selector: Selector, bench: Bench) -> None:
    features, budget = bench.features(selector, 1), budget_for(selector, 1)
    message = refused(REFUSES_ONE, selector)
    if message:
        with pytest.raises(InputError, match=message):
            bench.select(selector, features, budget, seed=1)
    else:
        assert bench.select(selector, features, budget, seed=1).ids.tolist() == [0]


@every
def test_pool_of_copies(selector: Selector, bench: Bench) -> None:
    """Nothing tells the frames apart: a stated error, or the exact budget all the same."""
    rows = np.tile(np.array([[1.0, 2, 3, 4, 5], [3.0, 5, 7, 9, 1]], dtype=np.float32), (12, 1))
    copies = bench.suited(selector, Features(rows, np.arange(0, 25, 2), np.ones(24, dtype=int), "pool-a"))
    message = refused(REFUSES_COPIES, selector)
    if message:
        with pytest.raises(InputError, match=message):
            bench.select(selector, copies, 3, seed=1)
    else:
        budget = budget_for(selector, 3)
        assert len(bench.select(selector, copies, budget, seed=1)) == (budget or 12)


def twice(features: Features, half: int) -> Features:
    """The first ``half`` frames, and copies of them behind."""
    end = features.offsets[half]
    rows, numbers = (np.concatenate([a[:end], a[:end]]) for a in (features.rows, features.numbers))
    offsets = np.concatenate([features.offsets[:half], features.offsets[: half + 1] + end])
    return Features(rows, offsets, numbers, "pool-a", features.descriptor)


@partial
def test_pool_with_some_copies(selector: Selector, bench: Bench) -> None:
    doubled = bench.suited(selector, twice(bench.features(selector, 40), 20))
    selection = bench.select(selector, doubled, 40, seed=1)
    assert sorted(selection.ids) == list(range(40))
    assert not np.isinf(selection.scores).any()


@partial
def test_what_is_chosen_is_complemented(selector: Selector, bench: Bench) -> None:
    """apax's max-dist ignores the training set and begins with a near-duplicate of it: not here."""
    if type(selector).__name__ in IGNORES_HELD:
        pytest.skip("the method says that it does not look at what is held")
    doubled = bench.suited(selector, twice(bench.features(selector, 40), 20))
    selection = bench.select(selector, doubled, 3, reference=list(range(4)), seed=1)
    copies_of_held = set(range(20, 24))
    assert not copies_of_held & set(selection.ids.tolist())


@partial
def test_frames_of_different_size_and_composition(selector: Selector, bench: Bench) -> None:
    """Elements that most frames lack must not be outliers by an invented value."""
    features = bench.features(selector, 30)
    features.numbers[: features.offsets[3]] = 6
    selection = bench.select(selector, features, 10, seed=1)
    assert len(set(selection.ids.tolist())) == 10
    assert not np.isinf(selection.scores).any()


def test_every_selector_of_conf_is_tried(repository: Path) -> None:
    """A file without an entry of its name in METHODS would escape every test above."""
    files = {path.stem: OmegaConf.load(path) for path in (repository / "conf" / "selector").glob("*.yaml")}
    assert len(files) > 20
    assert set(files) <= set(ALL)
    for name, config in files.items():
        assert config["_target_"].rpartition(".")[2] == type(ALL[name]).__name__


def test_full_refuses_a_part(bench: Bench) -> None:
    with pytest.raises(InputError, match="takes all 30 frames"):
        FullSelector().select(bench.features(FullSelector(), 30), 5, seed=1)


def test_broken_selector_is_caught(bench: Bench) -> None:
    class OneLess(RandomSelector):
        def pick(self, task):  # type: ignore[no-untyped-def]
            picks = super().pick(task)
            return type(picks)(picks.ids[:-1])

    with pytest.raises(RuntimeError, match="broke its contract"):
        OneLess().select(bench.features(RandomSelector(), 30), 5, seed=1)
