"""Standard errors of means over correlated series: blocking."""

from __future__ import annotations

import numpy as np

LEAST = 2  # blocks that a level of blocking must have


def block_error(series: np.ndarray) -> np.ndarray:
    """Standard error of the mean of a correlated series, for every column.

    Neighbours are averaged pairwise, again and again (Flyvbjerg, Petersen, J. Chem. Phys. 91, 461 (1989)).
    The error is that of the smallest blocks of B values with B³ > 2 n (s_B / s_1)⁴, s_B the error at that
    level (Lee et al., Phys. Rev. E 83, 066706 (2011), eq. 9). Where no level does that, the series is
    shorter than a few correlation times and the largest error of all levels is given: take it for a lower
    bound.

    Args:
        series: [n, ...] in time order.

    Returns:
        [...]; NaN for fewer than two values.
    """
    blocked = np.asarray(series, dtype=np.float64)
    n = len(blocked)
    if n < LEAST:
        return np.full(blocked.shape[1:], np.nan)
    levels = []
    while len(blocked) >= LEAST:
        levels.append(blocked.std(axis=0, ddof=1) / np.sqrt(len(blocked)))
        even = len(blocked) - len(blocked) % 2
        blocked = 0.5 * (blocked[0:even:2] + blocked[1:even:2])
    errors = np.stack(levels)
    sizes = 2.0 ** np.arange(len(errors)).reshape(-1, *[1] * (errors.ndim - 1))
    ratio = np.divide(errors, errors[0], out=np.ones_like(errors), where=errors[0] > 0)
    good = sizes**3 > 2 * n * ratio**4
    first = np.take_along_axis(errors, np.argmax(good, axis=0)[None], axis=0)[0]
    return np.where(good.any(axis=0), first, errors.max(axis=0))


def block_means(series: np.ndarray, blocks: int) -> np.ndarray:
    """[blocks, ...] means of consecutive, equally long parts of a series; what is left at its end is dropped.

    Args:
        series: [n, ...], n at least ``blocks``.
    """
    length = len(series) // blocks
    return series[: blocks * length].reshape(blocks, length, *series.shape[1:]).mean(axis=1)
