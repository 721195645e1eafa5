"""Splits keep groups whole, or cut them into consecutive blocks."""

from __future__ import annotations

import numpy as np
import pytest

from msmlff.data.splits import shared_groups, split_by_group, split_in_blocks
from msmlff.errors import InputError

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def _groups(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([f"t{i}" for i in range(30) for _ in range(rng.integers(5, 15))])


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_and_shares_are_met(seed: int) -> None:
    groups = _groups(seed)
    parts = split_by_group(groups, FRACTIONS, seed)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(groups)))
    assert shared_groups({name: groups[ids] for name, ids in parts.items()}) == {}
    for name, share in FRACTIONS.items():
        assert abs(len(parts[name]) - share * len(groups)) <= 15  # the largest group


def test_the_seed_decides() -> None:
    groups = _groups(0)
    a, b, c = (split_by_group(groups, FRACTIONS, seed)["test"].tolist() for seed in (1, 1, 2))
    assert a == b
    assert a != c


def test_every_part_gets_a_group_even_if_groups_are_few() -> None:
    parts = split_by_group(["a"] * 50 + ["b"] * 2 + ["c"], {"train": 0.98, "val": 0.01, "test": 0.01})
    assert all(len(ids) for ids in parts.values())
    with pytest.raises(InputError, match="2 groups cannot be split into 3 parts"):
        split_by_group(["a", "b"], FRACTIONS)


def test_blocks_are_consecutive_within_each_group() -> None:
    groups = np.array(["a", "b"] * 20)
    parts = split_in_blocks(groups, {"train": 0.8, "val": 0.2})
    for name in "ab":
        members = np.flatnonzero(groups == name)
        train = [i for i in members if i in parts["train"]]
        val = [i for i in members if i in parts["val"]]
        assert len(val) == 4
        assert max(train) < min(val)
    gapped = split_in_blocks(groups, {"train": 0.8, "val": 0.2}, gap=2)
    assert len(gapped["val"]) == 4
    assert np.isin(gapped["val"], parts["val"]).all()
    assert gapped["train"].tolist() == parts["train"].tolist()
    with pytest.raises(InputError, match="val get no frame"):
        split_in_blocks(groups, {"train": 0.99, "val": 0.01})


def test_groups_too_small_to_be_cut_are_named() -> None:
    groups = np.array(["long"] * 40 + ["short"] * 4 + [""] * 3)
    with pytest.warns(UserWarning, match="too small to be cut") as caught:
        parts = split_in_blocks(groups, {"train": 0.8, "val": 0.1, "test": 0.1}, gap=1)
    assert [len(ids) for ids in parts.values()] == [32 + 3 + 2, 3, 3]
    messages = [str(w.message) for w in caught]
    assert len(messages) == 2
    for part, message in zip(("val", "test"), messages, strict=True):
        assert message.startswith(f"{part} has no frame of 2 of the 3 groups")
        assert "the frames without a group (3), short (4)" in message


@pytest.mark.parametrize("split", [split_by_group, split_in_blocks])
@pytest.mark.parametrize("fractions", [{"train": 0.9}, {"train": 1.5, "val": -0.5}])
def test_bad_fractions_are_refused(split, fractions) -> None:
    with pytest.raises(InputError, match="add up to 1"):
        split(["a", "b", "c"], fractions)
