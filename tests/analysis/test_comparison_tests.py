"""Statistics of a comparison on numbers whose answers are known."""

import math

import numpy as np
import pytest
from scipy.stats import permutation_test, spearmanr

from msmlff.analysis.comparison_tests import (
    area_weights,
    crossed_means,
    draws,
    first_reach,
    holm,
    interval,
    rank_correlation,
    sign_flip_test,
)


def test_all_signs_of_differences_of_one_sign():
    result = sign_flip_test(np.arange(1.0, 11.0))
    assert result.permutations == 1024
    assert result.p == result.smallest_p == 2 / 1024
    assert result.difference == 5.5


def test_sign_flip_p_agrees_with_scipy():
    rng = np.random.default_rng(3)
    for n in (3, 8, 12):
        d = 0.4 + rng.normal(size=n)
        expected = permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        assert sign_flip_test(d).p == pytest.approx(expected)


def test_many_signs_are_drawn_and_seeded():
    d = np.random.default_rng(0).normal(size=20)
    first, again = sign_flip_test(d, seed=1), sign_flip_test(d, seed=1)
    assert first == again
    assert first.permutations == 20_000
    apart = sign_flip_test(20 + d)
    assert apart.p <= 3 / 20_001
    assert apart.smallest_p == 1 / 20_001


def test_identical_values_are_no_difference():
    assert sign_flip_test(np.full(5, 0.1 + 0.2) - 0.3).p == 1.0


def test_false_positives_of_the_test_under_no_difference():
    """Also where the two selectors differ in their spread, which an unpaired test would not forgive."""
    rng = np.random.default_rng(0)
    p = [sign_flip_test(rng.normal(size=8) - 3 * rng.normal(size=8)).p for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08


def test_holm():
    # Holm's example of four: 4 p1, max(3 p2), ..., monotone
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).max() == 1.0
    assert holm([]).size == 0


def test_area_of_a_line_is_its_middle():
    x = np.log([25, 50, 100, 400])
    assert area_weights(x) @ (3 - 0.5 * x) == pytest.approx(3 - 0.5 * (x[0] + x[-1]) / 2)
    low, high = math.log(30), math.log(90)
    assert area_weights(x, low, high) @ (3 - 0.5 * x) == pytest.approx(3 - 0.25 * (low + high))


def test_area_is_the_trapezoidal_rule():
    x, y = np.array([0.0, 1.0, 3.0]), np.array([2.0, 0.0, 5.0])
    assert area_weights(x) @ y == pytest.approx((1 + 5) / 3)
    assert area_weights(x, 0.5, 2.0) @ y == pytest.approx((0.25 + 1.25) / 1.5)


def test_area_of_one_point_and_of_nothing():
    assert area_weights(np.array([2.0])) == pytest.approx([1.0])
    assert area_weights(np.array([0.0, 1.0]), 2.0, 3.0) is None
    assert area_weights(np.array([0.0, 1.0]), 0.7, 0.3) is None


def test_bootstrap_means_of_whole_draws():
    values = np.arange(12.0).reshape(2, 2, 3)
    one_of_each = crossed_means(values, np.ones((1, 2)), np.ones((1, 3)))
    assert one_of_each == pytest.approx(values.mean(axis=(0, 2))[None])
    second_row_last_column = crossed_means(values, np.array([[0.0, 2.0]]), np.array([[0.0, 0.0, 3.0]]))
    assert second_row_last_column == pytest.approx(values[1, :, 2][None])


def test_bootstrap_leaves_absent_cells_out():
    values = np.array([[[1.0, np.nan]], [[np.nan, np.nan]]])
    assert crossed_means(values, np.ones((1, 2)), np.ones((1, 2))) == pytest.approx(np.array([[1.0]]))
    assert np.isnan(crossed_means(values, np.array([[0.0, 2.0]]), np.ones((1, 2)))).all()


def test_draws_depend_on_the_name_alone():
    assert (draws(5, "a", 10) == draws(5, "a", 10)).all()
    assert (draws(5, "a", 10) != draws(5, "b", 10)).any()
    assert (draws(5, "a", 10).sum(axis=1) == 5).all()


def test_interval_covers_the_truth():
    """Selections and weights crossed, as in a study, where plain percentiles are too narrow."""
    rng = np.random.default_rng(1)
    hits = []
    for k in range(300):
        y = rng.normal(size=(5, 1)) + 0.5 * rng.normal(size=3) + 0.5 * rng.normal(size=(5, 3))
        low, high = interval(
            crossed_means(y[:, None], draws(5, f"r{k}", 2000), draws(3, f"c{k}", 2000))[:, 0], 5
        )
        hits.append(low <= 0 <= high)
    assert 0.91 < np.mean(hits) <= 1.0


def test_interval_of_one_unit_is_none():
    assert interval(np.zeros(10), 1) is None
    assert interval(np.full(10, np.nan), 5) is None


def test_first_reach():
    x, y = np.array([0.0, 1.0, 2.0]), np.array([4.0, 2.0, 1.0])
    assert first_reach(x, y, 3.0) == (0.5, "")
    assert first_reach(x, y, 1.0) == (2.0, "")
    assert first_reach(x, y, 0.5) == (2.0, ">")
    assert first_reach(x, y, 5.0) == (0.0, "<")
    # a curve that rises again: where it first comes down
    assert first_reach(np.arange(4.0), np.array([4.0, 2.0, 3.0, 1.0]), 2.5) == (0.75, "")


def test_rank_correlation_agrees_with_scipy():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, size=40).astype(float)
    y = x + rng.normal(size=40)
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5.0)))
