"""Ragged rows and the views pooled from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from msmlff.distill import features as module
from msmlff.distill.features import Features
from msmlff.distill.space import standardised, varying
from msmlff.errors import InputError

MakeFeatures = Callable[..., Features]


@pytest.fixture(params=[1 << 22, 23], ids=["one-block", "many-blocks"])
def _block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", request.param)


@pytest.mark.usefixtures("_block")
def test_mean_and_deviation_of_each_frame(make_features: MakeFeatures) -> None:
    features = make_features(17)
    each = [features[i].astype(np.float64) for i in range(17)]
    np.testing.assert_allclose(features.pooled("mean"), [x.mean(axis=0) for x in each], rtol=1e-12)
    both = [np.concatenate([x.mean(axis=0), x.std(axis=0)]) for x in each]
    np.testing.assert_allclose(features.pooled("mean_std"), both, rtol=1e-9)


def test_deviation_of_nearly_equal_rows_keeps_its_digits() -> None:
    rows = 1e4 + np.array([[0.0], [1e-3], [2e-3]])
    features = Features(rows, np.array([0, 3]), np.ones(3, dtype=int), "pool")
    assert features.pooled("mean_std")[0, 1] == pytest.approx(np.sqrt(2 / 3) * 1e-3, rel=1e-6)


@pytest.mark.usefixtures("_block")
def test_mean_of_each_element() -> None:
    rows = np.arange(12, dtype=np.float64).reshape(6, 2)
    features = Features(rows, np.array([0, 2, 5, 6]), np.array([1, 8, 1, 1, 8, 1]), "pool")
    pooled = features.pooled("per_element")
    # share of H, mean of H (2 columns), share of O, mean of O
    np.testing.assert_allclose(pooled[0], [0.5, 0, 1, 0.5, 2, 3])
    np.testing.assert_allclose(pooled[1], [2 / 3, 5, 6, 1 / 3, 8, 9])
    # No oxygen: the pool's mean of the frames that have it.
    np.testing.assert_allclose(pooled[2], [1, 10, 11, 0, 5, 6])


def test_frames_by_index(make_features: MakeFeatures) -> None:
    features = make_features(5)
    np.testing.assert_array_equal(np.concatenate([features[i] for i in range(5)]), features.rows)
    np.testing.assert_array_equal(features[-1], features[4])
    with pytest.raises(IndexError):
        features[5]


def test_blank_features_have_frames_but_no_columns() -> None:
    features = Features.blank(np.array([3, 1, 4]), "pool")
    assert len(features) == 3
    assert features.num_atoms.tolist() == [3, 1, 4]
    assert features.first_bad_frame() is None


@pytest.mark.parametrize(
    ("rows", "offsets", "numbers", "message"),
    [
        (np.zeros(4), [0, 4], 4, "rows \\[atoms, F\\]"),
        (np.zeros((4, 2)), [1, 4], 4, "from 0"),
        (np.zeros((4, 2)), [0, 5], 4, "4 rows, 4 atomic numbers, offsets up to 5"),
        (np.zeros((4, 2)), [0, 4], 3, "3 atomic numbers"),
        (np.zeros((4, 2)), [0, 2, 2, 4], 4, "frame 1 has no atoms"),
    ],
)
def test_parts_that_do_not_fit(rows: np.ndarray, offsets: list[int], numbers: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Features(rows, np.array(offsets), np.ones(numbers, dtype=int), "pool")


def test_unknown_view(make_features: MakeFeatures) -> None:
    with pytest.raises(InputError, match="mean, mean_std, per_element"):
        make_features(3).pooled("median")


def test_noise_of_single_precision_is_no_variation() -> None:
    """Copies of one frame, with rounding as large as the rest of the row makes it, in small columns too."""
    rng = np.random.default_rng(0)
    row = np.array([1.0, 1e-7, 0.0, 30.0])
    copies = row + 30 * 2.0**-24 * rng.normal(size=(50, 4))
    assert not varying(copies).any()
    assert not standardised(copies).any()
    other = copies + np.array([0.0, 0.0, 1e-3, 0.0]) * rng.normal(size=(50, 1))
    assert varying(other).tolist() == [False, False, True, False]
