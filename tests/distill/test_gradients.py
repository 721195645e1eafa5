"""LCMD and MaxDist: picks of a reference implementation, the training set counts, copies come last."""

from __future__ import annotations

import numpy as np
import pytest

from msmlff.distill.features import Features
from msmlff.distill.gradients import LCMD, MaxDistGradients
from msmlff.distill.selector import Rules, Selector
from msmlff.errors import InputError


def frames_of(points: np.ndarray, atoms: int = 1) -> Features:
    """One frame a point, of ``atoms`` equal atoms."""
    rows = np.repeat(points, atoms, axis=0)
    return Features(rows, np.arange(0, len(rows) + 1, atoms), np.ones(len(rows), dtype=int), "pool-a")


def cloud() -> np.ndarray:
    rng = np.random.default_rng(17)
    return rng.normal(size=(120, 6)) * rng.uniform(0.2, 3, size=(120, 1)) + rng.normal(size=6)


# Of bmdal_reg 3.0.2 in float64, linear kernel, for cloud(): LargestClusterMaxDistSelectionMethod and
# MaxDistSelectionMethod with sel_with_train, 25 picks without and with frames 5, 50, 77 as training set.
REFERENCE = [
    (LCMD(), [], "12 34 83 54 115 31 117 60 32 30 42 85 17 25 5 95 89 69 116 91 59 8 56 33 65"),
    (
        LCMD(),
        [5, 50, 77],
        "12 54 31 60 32 34 89 30 58 22 88 114 25 78 91 33 44 21 92 45 10 94 103 17 80",
    ),
    (MaxDistGradients(), [], "12 34 83 71 54 78 53 31 115 8 80 60 32 89 30 5 95 58 19 59 22 114 44 116 25"),
    (
        MaxDistGradients(),
        [5, 50, 77],
        "12 54 71 53 31 80 115 60 83 32 34 89 30 19 116 58 22 88 48 114 25 43 78 67 91",
    ),
]


@pytest.mark.parametrize(("selector", "held", "picks"), REFERENCE)
def test_picks_of_the_reference_implementation(selector: Selector, held: list[int], picks: str) -> None:
    selection = selector.select(frames_of(cloud()), 25, reference=held, seed=0)
    assert selection.ids.tolist() == [int(i) for i in picks.split()]


@pytest.mark.parametrize("selector", [LCMD(), MaxDistGradients()])
def test_near_copy_of_the_training_set_is_not_picked(selector: Selector) -> None:
    """A frame far from all others but beside one that is held: without the held frame it comes first."""
    points = np.random.default_rng(0).normal(size=(40, 3))
    points[7] = [50.0, 0, 0]
    points[21] = [50.0, 1e-3, 0]
    features = frames_of(points)
    assert selector.select(features, 1, seed=0, rules=Rules(forbidden=[21])).ids.tolist() == [7]
    picked = selector.select(features, 38, reference=[21], seed=0).ids.tolist()
    assert 7 not in picked


def test_lcmd_prefers_the_crowd_to_the_outlier() -> None:
    """The size of a cluster decides, then the distance in it: where they differ from MaxDist."""
    rng = np.random.default_rng(3)
    crowd = np.array([0.0, 5.0]) + rng.normal(size=(60, 2))
    points = np.concatenate([[[0.0, 5.0], [40.0, 0.0]], crowd, [[40.0, 6.0]]])
    features = frames_of(points)
    outlier = len(points) - 1
    assert MaxDistGradients().select(features, 1, reference=[0, 1], seed=0).ids.tolist() == [outlier]
    picked = int(LCMD().select(features, 1, reference=[0, 1], seed=0).ids[0])
    assert picked == 2 + int(np.argmax(np.linalg.norm(crowd - points[0], axis=1)))


def test_first_pick_has_the_largest_norm_and_scores_are_distances() -> None:
    points = np.array([[1.0, 0], [0, 2.0], [-3.0, 0]])
    selection = MaxDistGradients().select(frames_of(points), 3, seed=0)
    assert selection.ids.tolist() == [2, 0, 1]
    np.testing.assert_allclose(selection.scores, [3.0, 4.0, np.sqrt(5.0)])


def test_sum_counts_atoms_and_mean_does_not() -> None:
    small, large = np.array([[3.0, 0.0]]), np.tile([[0.0, 1.0]], (5, 1))
    features = Features(np.concatenate([small, large]), np.array([0, 1, 6]), np.ones(6, dtype=int), "pool-a")
    np.testing.assert_allclose(features.pooled("sum"), [[3.0, 0.0], [0.0, 5.0]])
    assert LCMD().select(features, 1, seed=0).ids.tolist() == [1]
    assert LCMD(pooling="mean").select(features, 1, seed=0).ids.tolist() == [0]


@pytest.mark.parametrize("selector", [LCMD(), MaxDistGradients(), LCMD(standardise=True, pooling="mean")])
def test_copies_come_last(selector: Selector) -> None:
    points = np.random.default_rng(5).normal(size=(15, 4)).astype(np.float32) + 100
    features = frames_of(np.concatenate([points, points[::-1]]), atoms=3)
    selection = selector.select(features, 30, seed=0)
    names = np.where(selection.ids < 15, selection.ids, 29 - selection.ids)
    assert sorted(names[:15]) == list(range(15))
    assert sorted(names[15:]) == list(range(15))
    assert (selection.scores[15:] == 0).all()
    held = selector.select(features, 20, reference=[3, 4, 29], seed=0)
    names = np.where(held.ids < 15, held.ids, 29 - held.ids)
    assert sorted(names[:12]) == [1, 2, *range(5, 15)]


@pytest.mark.parametrize("selector", [LCMD(), MaxDistGradients()])
def test_all_frames_alike(selector: Selector) -> None:
    selection = selector.select(frames_of(np.ones((6, 2))), 4, seed=0)
    assert selection.ids.tolist() == [0, 1, 2, 3]


def test_a_shared_offset_costs_no_digits() -> None:
    """Frames that differ by a millionth of their size are told apart."""
    shift = np.full((120, 6), 1e6)
    assert (
        LCMD().select(frames_of(cloud() + shift), 25, reference=[5], seed=0).ids.tolist()
        == LCMD().select(frames_of(cloud()), 25, reference=[5], seed=0).ids.tolist()
    )


def test_unknown_pooling() -> None:
    with pytest.raises(InputError, match=r"selector\.pooling=median is unknown"):
        LCMD(pooling="median")
