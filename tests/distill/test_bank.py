"""The bank of local environments: what is taken, what the bank then covers, and budgets met exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from msmlff.distill.bank import EnvironmentBank, _Stream
from msmlff.distill.features import Features
from msmlff.errors import InputError

MakeFeatures = Callable[..., Features]


def on_a_line(frames: list[list[float]], numbers: list[list[int]] | None = None) -> Features:
    """Frames of atoms with one feature; the columns of a pool are scaled to unit variance."""
    offsets = np.concatenate([[0], np.cumsum([len(f) for f in frames])])
    kinds = np.ones(offsets[-1], dtype=int) if numbers is None else np.concatenate(numbers)
    return Features(np.concatenate(frames)[:, None], offsets, kinds, "pool")


def in_file_order(features: Features, radius: float, **settings: object) -> EnvironmentBank:
    """A bank with a radius in units of the unscaled feature."""
    return EnvironmentBank(radius=radius / features.moments()[1][0], order="file", **settings)  # type: ignore[arg-type]


def test_frames_with_new_environments_are_taken_in_the_order_of_the_pass() -> None:
    features = on_a_line([[0, 0.1], [0.2, 0.5], [3, 0.3], [3.5, 6], [6.2, 9, 9.1, 12]])
    selection = in_file_order(features, 1.0).select(features, 4, seed=0)
    assert selection.ids.tolist() == [0, 2, 3, 4]
    # 9.1 lies within the radius of 9, which its own frame brought.
    assert selection.scores.tolist() == [1, 1, 1, 2]


def test_min_new() -> None:
    features = on_a_line([[0, 0.1], [0.2, 5], [3, 7], [10, 14]])
    selection = in_file_order(features, 1.0, min_new=2).select(features, 2, seed=0)
    # Frame 0 brings one environment, frame 1 two (its bank is empty), frame 2 two.
    assert selection.ids.tolist() == [1, 2]
    assert selection.scores.tolist() == [2, 2]


def test_bank_starts_with_the_held_frames() -> None:
    features = on_a_line([[0], [5], [0.2], [5.1], [9]])
    assert in_file_order(features, 1.0).select(features, 1, reference=[0, 1], seed=0).ids.tolist() == [4]


def test_elements_are_told_apart() -> None:
    features = on_a_line([[0], [0.1], [4]], [[1], [8], [1]])
    assert in_file_order(features, 1.0).select(features, 2, seed=0).ids.tolist() == [0, 1]
    one = in_file_order(features, 1.0, by_element=False)
    assert one.select(features, 2, seed=0).ids.tolist() == [0, 2]


def test_radius_shrinks_until_the_budget_is_met_and_copies_come_last() -> None:
    features = on_a_line([[0], [0], [0.5], [4], [4.2]])
    selection = in_file_order(features, 2.0).select(features, 5, seed=0)
    assert selection.ids.tolist() == [0, 3, 2, 4, 1]
    assert selection.scores.tolist() == [1, 1, 1, 1, 0]
    assert selection.record["details"]["taken_at_radius"] == 2


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.0])
def test_what_was_passed_over_lies_within_the_radius(make_features: MakeFeatures, radius: float) -> None:
    features = make_features(200, seed=2)
    mean, std = features.moments()
    z = (features.rows - mean) / std
    frame = np.repeat(np.arange(200), features.num_atoms)
    method = EnvironmentBank(radius=radius, by_element=False)
    # As many as a pass takes: asked for all, it says how many it took at the radius.
    taken = method.select(features, 200, seed=3).record["details"]["taken_at_radius"]
    ids = method.select(features, taken, seed=3).ids
    chosen = z[np.isin(frame, ids)]
    squares = ((z[:, None] - chosen) ** 2).sum(axis=2).min(axis=1)
    assert np.sqrt(squares.max()) <= radius * (1 + 1e-4)


def test_found_radius_takes_about_the_budget_in_one_pass(make_features: MakeFeatures) -> None:
    features = make_features(400, seed=1)
    details = EnvironmentBank().select(features, 50, seed=0).record["details"]
    assert 25 <= details["taken_at_radius"] <= 50
    assert details["radius"] > 0


@pytest.mark.parametrize("by_element", [True, False])
@pytest.mark.parametrize("held", [[], [3, 40]])
def test_radii_that_are_passed_over_change_nothing(
    make_features: MakeFeatures, monkeypatch: pytest.MonkeyPatch, by_element: bool, held: list[int]
) -> None:
    features = make_features(120, seed=4)
    tried: list[float] = []
    refill = _Stream._refill

    def counted(stream: _Stream, keep: bool = False) -> bool:
        tried.append(stream.bank.radius)
        return refill(stream, keep)

    monkeypatch.setattr(_Stream, "_refill", counted)
    selector = EnvironmentBank(by_element=by_element)
    few = [selector.select(features, n, reference=held, seed=2) for n in (1, 10, 50)]
    number = len(tried)
    monkeypatch.setattr(_Stream, "_all_stay", lambda stream, radius: False)
    for fast in few:
        slow = selector.select(features, len(fast), reference=held, seed=2)
        assert fast.ids.tolist() == slow.ids.tolist()
        assert fast.record["details"] == slow.record["details"]
    assert number < len(tried) - number


def test_size_of_the_bank_is_kept(make_features: MakeFeatures) -> None:
    features = make_features(200)
    selection = EnvironmentBank(max_bank=20).select(features, 60, seed=0)
    assert len(selection) == 60
    assert selection.record["details"]["bank_size"] <= 20
    with pytest.raises(InputError, match=r"selector.max_bank=20: the bank is full at selector.radius=0.01"):
        EnvironmentBank(max_bank=20, radius=0.01).select(features, 60, seed=0)


def test_rows_on_disk_give_the_same_picks(make_features: MakeFeatures, tmp_path: Path) -> None:
    features = make_features(60)
    np.save(tmp_path / "rows.npy", features.rows)
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    on_disk = Features(rows, features.offsets, features.numbers, features.pool_hash, features.descriptor)
    expected = EnvironmentBank().select(features, 20, seed=2).ids
    assert EnvironmentBank().select(on_disk, 20, seed=2).ids.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": 0.0}, "selector.radius=0.0"),
        ({"min_new": 0}, "selector.min_new=0"),
        ({"max_bank": 2.5}, "selector.max_bank=2.5"),
        ({"order": "sorted"}, "selector.order=sorted"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EnvironmentBank(**settings)  # type: ignore[arg-type]
