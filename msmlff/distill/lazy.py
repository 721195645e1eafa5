"""Lazy greedy maximisation: when gains only fall as more is chosen, an old gain is an upper bound.

Minoux, Optimization Techniques, 234 (1978). The picks are those of the plain greedy algorithm; only the
number of evaluations differs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BATCH = 16  # elements evaluated at once after the first one; doubled as long as the best is not certain
Evaluate = Callable[[np.ndarray, float], np.ndarray]


def lazy_argmax(bounds: np.ndarray, evaluate: Evaluate, tolerance: float = 0.0) -> int:
    """The element of the largest value; among values that tie, the lowest index.

    Args:
        bounds: [n] upper bounds of the values, -inf for what cannot be taken; the values found replace them.
        evaluate: ([m] indices, best value so far) -> [m] values, none above its bound (but for rounding).
            Where the value is below the best, any bound between the two will do instead.
        tolerance: values nearer to the best than this share of it (of 1 where it is smaller) tie with it.

    Raises:
        ValueError: nothing can be taken.
    """
    if not (bounds > -np.inf).any():
        raise ValueError("lazy_argmax: every bound is -inf")
    stale = bounds > -np.inf
    index = np.arange(len(bounds))
    best, winner, size = -np.inf, len(bounds), 1
    while True:
        margin = _margin(best, tolerance)
        open_ = np.flatnonzero(stale & ((bounds > best) | ((bounds >= best - margin) & (index < winner))))
        if not len(open_):
            return winner
        if len(open_) > size:
            # The largest bounds; of equal ones the lowest indices, which win when the values tie.
            open_ = open_[np.argsort(-bounds[open_], kind="stable")[:size]]
        bounds[open_] = evaluate(open_, float(best))
        stale[open_] = False
        known = ~stale
        best = bounds[known].max()
        winner = int(np.flatnonzero(known & (bounds >= best - _margin(best, tolerance)))[0])
        size = max(BATCH, 2 * size)


def _margin(best: float, tolerance: float) -> float:
    return tolerance * max(1.0, abs(best)) if np.isfinite(best) else 0.0
