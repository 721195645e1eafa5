"""How crowded feature space is around each frame: standardise, project, estimate the density.

All logarithms are natural; densities are per unit of the projected coordinates. A density is that of the
OTHER frames (leave-one-out). For a Gaussian kernel it orders the frames exactly as the usual estimate
does, which adds the same self-term K(0)/n to every frame; in many dimensions that term would swamp the
rest in floating point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from msmlff.distill.space import varying
from msmlff.errors import InputError

FIT_POINTS = 2000  # frames that decide the bandwidth, at most (cost: their square, some forty times)
CENTRES = 20000  # frames that carry a kernel, at most
BLOCK = 1 << 22  # squared distances held at a time: 32 MiB
COPY = 1e-6  # points nearer than this share of the largest distance are copies of each other


@dataclass(frozen=True, eq=False)
class Projection:
    """Principal components of pooled features.

    Attributes:
        coordinates: [frames, components] float64, the first component has the largest variance.
        explained: [components] share of the (standardised) variance in each.
    """

    coordinates: np.ndarray
    explained: np.ndarray


@dataclass(frozen=True, eq=False)
class Density:
    """log: [frames] log density; bandwidth: of the kernels in units of the coordinates, None for nearest
    neighbours."""

    log: np.ndarray
    bandwidth: float | None


def project(pooled: np.ndarray, variance: float, standardise: bool = True) -> Projection:
    """Principal components that hold at least the share ``variance`` of the variance, with a fixed sign.

    Args:
        pooled: [frames, columns].
        variance: in (0, 1]; 1 keeps every component.
        standardise: scale each column to unit variance first; constant columns are left out either way.

    Raises:
        InputError: ``variance`` is out of range, or all frames are alike.
    """
    if not 0 < variance <= 1:
        raise InputError(f"variance={variance}: write a share of the variance in (0, 1]")
    x = np.asarray(pooled, dtype=np.float64)
    mean, std = x.mean(axis=0), x.std(axis=0)
    varies = varying(x)
    if not varies.any():
        raise InputError(
            f"all {len(x)} frames have the same features, so no density can tell them apart: check "
            "the pool and the "
            "descriptor, or take selector=random or selector=full"
        )
    x = (x - mean)[:, varies]
    if standardise:
        x /= std[varies]
    values, axes = _principal_axes(x, exact=variance == 1)
    explained = values / values.sum()
    keep = len(values) if variance == 1 else int(np.searchsorted(np.cumsum(explained), variance, "right")) + 1
    return Projection(x @ axes[:, :keep], explained[:keep])


def _principal_axes(x: np.ndarray, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares [components] along the axes [columns, components], descending; the largest loading of
    each axis is positive.

    Args:
        x: [frames, columns], centred.
        exact: no shortcut through the columns' covariance, which blurs components below 1e-8 of the largest.
    """
    if exact or len(x) < 10 * x.shape[1]:
        _, singular, vt = np.linalg.svd(x, full_matrices=False)
        values, axes = singular**2, vt.T
    else:
        values, axes = np.linalg.eigh(x.T @ x)
        values, axes = np.maximum(values[::-1], 0.0), axes[:, ::-1]
    largest = np.abs(axes).argmax(axis=0)
    return values, axes * np.sign(axes[largest, np.arange(axes.shape[1])])


def kde_density(points: np.ndarray, bandwidth: float | None = None) -> Density:
    """Leave-one-out Gaussian kernel density of each point.

    p(i) = 1/(n-1) sum_{j != i} N(x_i; x_j, h² 1). Above ``CENTRES`` points, a fixed random part of them
    carries the kernels.

    Args:
        points: [frames, components], at least two different ones.
        bandwidth: h; None for the one of the largest leave-one-out likelihood.
    """
    n, d = points.shape
    h = loo_bandwidth(points) if bandwidth is None else float(bandwidth)
    if not h > 0:
        raise InputError(f"bandwidth={bandwidth}: write a positive length, or null to have it chosen")
    centres = _part(n, CENTRES)
    log = np.empty(n)
    for start, stop, squares in _blocks_of_squares(points, centres):
        others = len(centres) - np.isin(np.arange(start, stop), centres)
        log[start:stop] = _log_kernel_sums(squares, squares.min(axis=1), h) - np.log(others)
    return Density(log - d * np.log(h) - d / 2 * np.log(2 * np.pi), h)


def knn_density(points: np.ndarray, k: int) -> Density:
    """Density from the distance r to the k-th nearest other point: p = k / ((n - 1) V_d r^d).

    Points with k duplicates have the density of the smallest r > 0, the finest the pool resolves.

    Args:
        points: [frames, components], at least two different ones.
        k: 1 to frames - 1.
    """
    from sklearn.neighbors import NearestNeighbors

    n, d = points.shape
    if not 1 <= k < n:
        raise InputError(
            f"selector.neighbors={k}: write a number from 1 to {n - 1} (the pool's frames but one)"
        )
    r = NearestNeighbors(n_neighbors=k).fit(points).kneighbors()[0][:, -1]
    positive = r[r > 0]
    r = np.maximum(r, positive.min() if len(positive) else 1.0)
    log_ball = d / 2 * np.log(np.pi) - math.lgamma(d / 2 + 1)
    return Density(np.log(k) - np.log(n - 1) - log_ball - d * np.log(r), None)


def loo_bandwidth(points: np.ndarray) -> float:
    """The bandwidth of an isotropic Gaussian kernel with the largest leave-one-out likelihood.

    Above ``FIT_POINTS`` points a fixed random part of them is used and the result scaled to the full
    number by Silverman's n^(-1/(d + 4)). Copies of a point do not count: they would make the likelihood grow
    without bound as h -> 0.

    Args:
        points: [frames, components], at least two different ones.

    Raises:
        InputError: fewer than two different points.
    """
    n, d = points.shape
    part = points[_part(n, FIT_POINTS)]
    squares = np.concatenate([s for _, _, s in _blocks_of_squares(part, np.arange(len(part)))])
    largest = squares[np.isfinite(squares)].max(initial=0.0)
    squares[squares <= COPY**2 * largest] = np.inf
    away = squares[np.isfinite(squares)]
    if not len(away):
        raise InputError(
            "a density needs at least two different frames: take selector=full for so small a pool"
        )

    nearest = squares.min(axis=1)

    def cost(log_h: float) -> float:
        return float(d * log_h - _log_kernel_sums(squares, nearest, np.exp(log_h)).mean())

    low, high = 0.5 * np.log(away.min()) + np.log(0.1), 0.5 * np.log(away.max()) + np.log(2.0)
    grid = np.linspace(low, high, 24)
    best = int(np.argmin([cost(g) for g in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    return float(np.exp(_golden_section(cost, *bounds)) * (n / len(part)) ** (-1 / (d + 4)))


def _golden_section(
    cost: Callable[[float], float], low: float, high: float, tolerance: float = 1e-4
) -> float:
    """The minimum of a function with one valley between ``low`` and ``high``."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = cost(left), cost(right)
    while high - low > tolerance:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = cost(right)
    return (low + high) / 2


def _log_kernel_sums(squares: np.ndarray, nearest: np.ndarray, h: float) -> np.ndarray:
    """[rows] log sum_j exp(-squares / (2 h²)); ``nearest`` [rows] is the least of each row, which keeps
    the sum above 1 whatever h is."""
    exponents = nearest[:, None] - squares
    exponents *= 0.5 / (h * h)
    sums: np.ndarray = np.log(np.exp(exponents, out=exponents).sum(axis=1)) - nearest * (0.5 / (h * h))
    return sums


def _part(n: int, most: int) -> np.ndarray:
    """[min(n, most)] ascending indices: all, or a fixed random part."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, size=most, replace=False))


def _blocks_of_squares(points: np.ndarray, centres: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (start, stop, squared distances [stop - start, centres]), infinite from a point to itself."""
    c = points[centres]
    norms = (c * c).sum(axis=1)
    column = np.full(len(points), -1)
    column[centres] = np.arange(len(centres))
    step = max(1, BLOCK // len(centres))
    for start in range(0, len(points), step):
        x = points[start : start + step]
        squares = np.maximum((x * x).sum(axis=1)[:, None] + norms - 2 * (x @ c.T), 0.0)
        own = column[start : start + step]
        squares[np.flatnonzero(own >= 0), own[own >= 0]] = np.inf
        yield start, start + len(x), squares
