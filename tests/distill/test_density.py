"""Projection and densities against scikit-learn and against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from msmlff.distill import density as module
from msmlff.distill.density import kde_density, knn_density, loo_bandwidth, project
from msmlff.errors import InputError


def correlated(n: int = 80, columns: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, columns)) @ rng.normal(size=(columns, columns)) + rng.normal(size=columns)


def leave_one_out(points: np.ndarray, h: float) -> np.ndarray:
    """log density of each point by scikit-learn, fitted to the others."""
    return np.array(
        [
            KernelDensity(bandwidth=h).fit(np.delete(points, i, axis=0)).score_samples(points[i : i + 1])[0]
            for i in range(len(points))
        ]
    )


def test_components_are_those_of_scikit_learn() -> None:
    x = correlated()
    ours = project(x, 0.95)
    reference = PCA(0.95, svd_solver="full").fit(StandardScaler().fit_transform(x))
    theirs = reference.transform(StandardScaler().fit_transform(x))
    assert ours.coordinates.shape == theirs.shape
    np.testing.assert_allclose(np.abs(ours.coordinates), np.abs(theirs), atol=1e-10)
    np.testing.assert_allclose(ours.explained, reference.explained_variance_ratio_, atol=1e-12)


@pytest.mark.parametrize("shape", [(80, 6), (20, 60), (400, 6)])
def test_least_number_of_components(shape: tuple[int, int]) -> None:
    explained = project(correlated(*shape), 0.9).explained
    assert explained.sum() >= 0.9 > explained[:-1].sum()
    assert project(correlated(*shape), 1.0).explained.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(80, 6), (20, 60)])
def test_order_of_frames_changes_nothing(shape: tuple[int, int]) -> None:
    """Nor the signs of the components, which are free in a PCA."""
    x = correlated(*shape)
    order = np.random.default_rng(1).permutation(len(x))
    np.testing.assert_allclose(
        project(x, 0.95).coordinates[order], project(x[order], 0.95).coordinates, atol=1e-9
    )


def test_constant_columns_are_left_out_even_with_rounding_noise() -> None:
    x = correlated()
    noise = 1000 + 1e-4 * np.random.default_rng(0).normal(size=(len(x), 3))
    padded = np.concatenate([x, noise, np.zeros((len(x), 1))], axis=1)
    np.testing.assert_allclose(project(padded, 0.95).coordinates, project(x, 0.95).coordinates, atol=1e-10)


def test_frames_alike_and_impossible_variance() -> None:
    with pytest.raises(InputError, match="same features"):
        project(np.ones((5, 3)), 0.95)
    for variance in (0.0, 1.1, -1.0):
        with pytest.raises(InputError, match="share of the variance"):
            project(correlated(), variance)


@pytest.mark.parametrize("dimensions", [1, 3, 12])
@pytest.mark.parametrize("h", [0.05, 0.7, 20.0])
def test_kernel_density_is_that_of_scikit_learn_without_the_frame(dimensions: int, h: float) -> None:
    points = correlated(40, dimensions)
    np.testing.assert_allclose(kde_density(points, h).log, leave_one_out(points, h), rtol=1e-8)


def test_same_order_as_the_density_with_the_frame() -> None:
    points = correlated(60, 2)
    whole = KernelDensity(bandwidth=0.8).fit(points).score_samples(points)
    assert np.argsort(whole).tolist() == np.argsort(kde_density(points, 0.8).log).tolist()


def test_order_survives_where_the_usual_density_is_all_self_term() -> None:
    """30 dimensions, kernels much narrower than the distances: the usual estimate is K(0)/n for every
    frame."""
    rng = np.random.default_rng(0)
    spread = np.sort(rng.uniform(1.0, 4.0, size=50))
    points = spread[:, None] * rng.normal(size=(50, 30))
    log = kde_density(points, 0.2).log
    assert np.isfinite(log).all()
    assert len(np.unique(log)) == 50
    assert log[:10].min() > log[-10:].max()


@pytest.mark.parametrize("dimensions", [1, 2, 8])
def test_bandwidth_is_the_best_of_a_scan_by_scikit_learn(dimensions: int) -> None:
    points = correlated(50, dimensions, seed=4)
    h = loo_bandwidth(points)
    best = leave_one_out(points, h).sum()
    scan = [leave_one_out(points, h * factor).sum() for factor in np.geomspace(0.2, 5, 40)]
    assert best >= max(scan)
    assert best >= leave_one_out(points, h * 1.01).sum()
    assert best >= leave_one_out(points, h / 1.01).sum()


def test_bandwidth_of_a_sample_stands_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bandwidths shrink with the number of points, here by a third; that of a sample must be scaled for
    it."""
    pools = [np.random.default_rng(seed).normal(size=(800, 1)) for seed in range(10)]
    whole = np.array([loo_bandwidth(points) for points in pools])
    monkeypatch.setattr(module, "FIT_POINTS", 100)
    part = np.array([loo_bandwidth(points) for points in pools])
    assert np.exp(np.log(part / whole).mean()) == pytest.approx(1.0, abs=0.15)


def test_density_of_a_large_pool_by_a_sample_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(1500, 2))
    whole = kde_density(points, 0.4).log
    monkeypatch.setattr(module, "CENTRES", 500)
    part = kde_density(points, 0.4).log
    inner = whole > np.quantile(whole, 0.2)
    np.testing.assert_allclose(part[inner], whole[inner], atol=0.5)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    points = correlated(70, 4)
    whole = kde_density(points)
    monkeypatch.setattr(module, "BLOCK", 70 * 9)
    np.testing.assert_allclose(kde_density(points).log, whole.log, rtol=1e-12)


@pytest.mark.parametrize("noise", [0.0, 1e-12, 1e-7])
def test_copies_do_not_decide_the_bandwidth(noise: float) -> None:
    """Nor does it matter whether they differ by rounding."""
    points = correlated(60, 2)
    shifts = noise * np.random.default_rng(1).normal(size=points.shape)
    assert loo_bandwidth(np.concatenate([points, points + shifts])) == pytest.approx(
        loo_bandwidth(points), rel=1e-3
    )
    assert np.isfinite(kde_density(np.concatenate([points, points + shifts])).log).all()
    with pytest.raises(InputError, match="two different frames"):
        loo_bandwidth(np.ones((4, 2)))


def test_nearest_neighbour_density_written_out() -> None:
    points = correlated(30, 2)
    distances = np.sort(np.linalg.norm(points[:, None] - points, axis=2), axis=1)
    expected = np.log(4 / (29 * np.pi * distances[:, 4] ** 2))
    np.testing.assert_allclose(knn_density(points, 4).log, expected, rtol=1e-9)


def test_nearest_neighbour_density_of_duplicates_is_finite() -> None:
    points = np.concatenate([np.zeros((5, 2)), correlated(10, 2)])
    log = knn_density(points, 2).log
    assert np.isfinite(log).all()
    assert log[:5].min() >= log[5:].max()


@pytest.mark.parametrize("k", [0, 30, -1])
def test_impossible_number_of_neighbours(k: int) -> None:
    with pytest.raises(InputError, match="from 1 to 29"):
        knn_density(correlated(30, 2), k)


@pytest.mark.parametrize("h", [0.0, -1.0])
def test_impossible_bandwidth(h: float) -> None:
    with pytest.raises(InputError, match="positive length"):
        kde_density(correlated(30, 2), h)
