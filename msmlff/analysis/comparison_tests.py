"""Statistics of a comparison: areas under curves, bootstrap, permutation test, Holm's correction."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata, t

MOST_PERMUTATIONS = 20_000
REPLICATES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Permutation:
    """Outcome of a permutation test.

    Attributes:
        difference: mean of the differences.
        p: two-sided.
        permutations: assignments of signs looked at.
        smallest_p: what p could be at the least with so many pairs.
    """

    difference: float
    p: float
    permutations: int
    smallest_p: float


def sign_flip_test(differences: np.ndarray, seed: int = 0) -> Permutation:
    """Two-sided paired permutation test of the mean of differences [pairs] against zero.

    If the two of a pair are exchangeable, every difference has either sign with equal right. All 2^pairs
    assignments of signs are taken where there are at most MOST_PERMUTATIONS: p = #{|mean| >= |observed|} /
    #assignments. Else as many seeded random ones, with the observed one counted: p = (1 + #) / (1 + drawn)
    (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 39 (2010)).
    """
    n = len(differences)
    exact = 2**n <= MOST_PERMUTATIONS
    if exact:
        signs = 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(MOST_PERMUTATIONS, n))
    means, observed = signs @ differences / n, float(np.mean(differences))
    # equal up to rounding is equal
    count = int((np.abs(means) >= abs(observed) - 1e-12 * (1 + np.abs(differences).max())).sum())
    if not exact:
        return Permutation(observed, (1 + count) / (1 + len(signs)), len(signs), 1 / (1 + len(signs)))
    return Permutation(observed, count / len(signs), len(signs), min(1.0, 2 / len(signs)))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """[tests] p values adjusted for their number (Holm, Scand. J. Stat. 6, 65 (1979)).

    The i-th smallest of m is multiplied by m - i (i from 0), made monotone, and cut at 1.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def area_weights(x: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray | None:
    """[points] weights w, of sum 1, with which ``w @ y`` is the mean of the curve (x, y) between two bounds.

    The curve is piecewise linear, so that its integral by the trapezoidal rule over [low, high], divided by
    high - low, is linear in y. With x = log budget and y = log error: the area under the log-log curve.

    Args:
        x: [points] ascending.
        low, high: bounds inside the curve; None: its ends.

    Returns:
        None where the bounds enclose nothing. A single point has the weight 1.
    """
    if len(x) == 1 and low in (None, x[0]) and high in (None, x[0]):
        return np.ones(1)
    low, high = (x[0] if low is None else low), (x[-1] if high is None else high)
    if len(x) < 2 or not low < high or low < x[0] - 1e-9 or high > x[-1] + 1e-9:
        return None
    nodes = np.unique(np.concatenate([[low, high], x[(x > low) & (x < high)]]))
    values = np.column_stack([np.interp(nodes, x, unit) for unit in np.eye(len(x))])
    return np.asarray(np.trapezoid(values, nodes, axis=0) / (high - low))


def draws(n: int, name: str, replicates: int = REPLICATES) -> np.ndarray:
    """[replicates, n] how often each of n is drawn when n are drawn with replacement.

    Seeded by ``name``: what a selector is given does not depend on who else is compared.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.multinomial(n, np.full(n, 1 / n), size=replicates).astype(float)


def crossed_means(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """[replicates, points] means under a bootstrap of rows and columns at once.

    Selections and initial weights are crossed: each is drawn with replacement, a cell counts with the
    product of its row's and its column's count (the pigeonhole bootstrap, Owen, Ann. Appl. Stat. 1, 386
    (2007)). Cells that are NaN count for nothing.

    Args:
        values: [rows, points, columns].
        rows: [replicates, rows] counts, from ``draws``.
        columns: [replicates, columns].
    """
    n, points, m = values.shape
    good = np.isfinite(values)
    flat = np.where(good, values, 0.0).reshape(n, points * m)
    sums = ((rows @ flat).reshape(-1, points, m) * columns[:, None, :]).sum(axis=2)
    counts = (
        (rows @ good.reshape(n, points * m).astype(float)).reshape(-1, points, m) * columns[:, None]
    ).sum(2)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def interval(samples: np.ndarray, n: int) -> tuple[float, float] | None:
    """95 % interval of bootstrap means of n units: expanded percentiles.

    Plain percentiles are too narrow for few units. Here the tail is Phi(-sqrt(n / (n - 1)) t), t the quantile
    of Student's distribution with n - 1 degrees of freedom (Hesterberg, Am. Stat. 69, 371 (2015), section
    4.4).

    Args:
        samples: [replicates], those that are NaN are left out.
        n: units; below 2 there is no interval.
    """
    samples = samples[np.isfinite(samples)]
    if n < 2 or not len(samples):
        return None
    quantile = t.ppf(0.5 + LEVEL / 2, n - 1)
    tail = float(norm.cdf(-math.sqrt(n / (n - 1)) * quantile))
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def first_reach(x: np.ndarray, y: np.ndarray, level: float) -> tuple[float, str]:
    """Where a falling, piecewise linear curve first comes down to a level.

    Returns:
        (x, ""), or (the first x, "<") where it begins below the level, or (the last x, ">") where it
        never comes down to it.
    """
    below = np.flatnonzero(y <= level)
    if not len(below):
        return float(x[-1]), ">"
    i = int(below[0])
    if i == 0:
        return float(x[0]), "" if y[0] == level else "<"
    share = (y[i - 1] - level) / (y[i - 1] - y[i])
    return float(x[i - 1] + share * (x[i] - x[i - 1])), ""


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of x and y [units], ties with mean ranks; NaN where one is constant."""
    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else float("nan")
