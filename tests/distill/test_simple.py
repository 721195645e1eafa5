"""Uniform in time and stratified by group: known answers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from msmlff.distill.features import Features
from msmlff.distill.selector import Rules
from msmlff.distill.simple import Stratified, Uniform
from msmlff.errors import InputError


def pool(frames: int) -> Features:
    return Features.blank(np.ones(frames, dtype=np.int64), "pool")


def uniform(frames: int, count: int, **arguments: object) -> list[int]:
    return Uniform().select(pool(frames), count, seed=0, **arguments).ids.tolist()  # type: ignore[arg-type]


def test_middle_of_equal_stretches() -> None:
    assert uniform(10, 5) == [1, 3, 5, 7, 9]
    assert uniform(9, 3) == [1, 4, 7]
    assert uniform(9, 1) == [4]
    assert uniform(5, 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", range(1, 41))
def test_spacings_differ_by_one_at_most(count: int) -> None:
    steps = np.diff(uniform(41, count))
    assert len(steps) == count - 1
    assert np.ptp(steps) <= 1 if len(steps) else True


def test_held_frames_are_spaced_around() -> None:
    assert uniform(9, 1, reference=[0, 8]) == [4]
    assert uniform(9, 3, reference=[0, 8]) == [2, 4, 6]
    assert uniform(101, 1, reference=[0, 20, 100]) == [60]
    # One open end, where half a spacing is left beyond the last pick.
    assert uniform(10, 3, reference=[0]) == [3, 5, 8]


@pytest.mark.parametrize("seed", range(20))
def test_any_held_frames_leave_an_exact_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    held = rng.choice(50, size=int(rng.integers(1, 49)), replace=False)
    for count in range(1, 51 - len(held)):
        ids = uniform(50, count, reference=held.tolist())
        assert len(set(ids) | set(held.tolist())) == count + len(held)


def test_forbidden_frames_are_passed_over() -> None:
    assert set(uniform(10, 5, rules=Rules(forbidden=[1, 3, 5, 7, 9]))) == {0, 2, 4, 6, 8}


GROUPS = np.array(["a"] * 60 + ["b"] * 30 + ["c"] * 10)


def stratified(shares: str, count: int, **arguments: object) -> list[str]:
    selection = Stratified(shares).select(pool(100), count, groups=GROUPS, seed=3, **arguments)  # type: ignore[arg-type]
    return GROUPS[selection.ids].tolist()


def test_equal_shares_and_balanced_beginnings() -> None:
    chosen = stratified("equal", 30)
    for n in range(1, 31):
        counts = Counter({"a": 0, "b": 0, "c": 0} | Counter(chosen[:n]))
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_small_group_leaves_its_share_to_the_others() -> None:
    assert Counter(stratified("equal", 50)) == {"a": 20, "b": 20, "c": 10}
    assert Counter(stratified("equal", 95)) == {"a": 55, "b": 30, "c": 10}


def test_proportional_shares_at_every_length() -> None:
    chosen = stratified("proportional", 100)
    for n in range(1, 101):
        counts = Counter(chosen[:n])
        for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
            assert abs(counts[name] - share * n) <= 1


def test_held_frames_count_in_the_shares() -> None:
    held = list(range(10))
    assert Counter(stratified("equal", 20, reference=held)) == {"b": 10, "c": 10}


def test_groups_are_needed() -> None:
    for groups in (None, [""] * 100):
        with pytest.raises(InputError, match=r"pool\.keys\.group"):
            Stratified().select(pool(100), 5, groups=groups, seed=0)
    with pytest.raises(InputError, match=r"selector\.shares=half"):
        Stratified(shares="half")
