"""Blocking gives the error of the mean of correlated series."""

import numpy as np
import pytest

from msmlff.analysis.blocking import block_error, block_means


def chain(correlation: float, length: int, seed: int, columns: int) -> np.ndarray:
    """First-order autoregressive series of unit variance."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(length, columns))
    series = np.empty_like(noise)
    series[0] = noise[0]
    for i in range(1, length):
        series[i] = correlation * series[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
    return series


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95])
def test_error_of_correlated_series(correlation):
    n = 4096
    series = chain(correlation, n, 0, 200)
    # variance of the mean of a stationary AR(1) series: (1 + ρ)/(1 - ρ)/n for n large
    expected = np.sqrt((1 + correlation) / (1 - correlation) / n)
    assert series.mean(axis=0).std() == pytest.approx(expected, rel=0.15)
    assert np.median(block_error(series)) == pytest.approx(expected, rel=0.15)


def test_short_and_constant_series():
    assert np.isnan(block_error(np.ones((1, 3)))).all()
    assert block_error(np.ones((50, 3))).tolist() == [0, 0, 0]
    assert block_error(np.array([1.0, 3.0])) == pytest.approx(1.0)


def test_block_means_drop_the_rest():
    means = block_means(np.arange(11.0), 3)
    np.testing.assert_allclose(means, [1.0, 4.0, 7.0])
