"""The statistics of a comparison of selectors: curves, areas, tests, savings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from msmlff.analysis.comparison_cells import BASELINE, FULL, Grid, Study, base_of, grid, masked_mean
from msmlff.analysis.comparison_tests import (
    Permutation,
    area_weights,
    crossed_means,
    draws,
    first_reach,
    holm,
    interval,
    sign_flip_test,
)

ALPHA = 0.05
N_EQ_MARGIN = 1.05
FAILED_FACTOR = 1.1  # in the tests, over the largest finished error of the same budget
COMMON_SHARE = 0.5  # of its fullest budget's cells that a selector needs at a budget for it to be compared


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, None where there are too few repetitions for one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    """Errors of a selector at one budget: geometric mean over the cells that finished.

    Attributes:
        error: None where none finished.
        cells, failed: cells that ended, and those of them that did not finish.
    """

    budget: float | None
    frames: float
    atoms: float
    error: Estimate | None
    cells: int
    failed: int


@dataclass(frozen=True)
class Bound:
    """A number that may be known as a bound only.

    Attributes:
        sign: "", "<" or ">".
        to: the other end, where all that is known is a range.
    """

    value: float
    sign: str = ""
    to: float | None = None


@dataclass(frozen=True)
class Against:
    """A selector compared with another over the budgets and initial weights that both have.

    Attributes:
        ratio: of the areas under the log-log curves in frames: exp of the difference of mean log errors,
            below 1 if the selector is better. None where the curves do not overlap or a budget has no
            finished cell.
        ratio_atoms: the same with atoms as the budget.
        test: sign-flip test of the differences of paired selections; None where there are too few pairs.
        p: its p after Holm's correction.
        smallest_p: what p can be at the least with so many selections and tests.
        verdict: "better", "worse", "tie", or "" without a test.
        budgets: compared.
        pairs: of selections of one seed, both complete.
        failed: cells of the selector among those compared that did not finish.
    """

    other: str
    ratio: Estimate | None
    ratio_atoms: Estimate | None
    test: Permutation | None
    budgets: tuple[float, ...]
    pairs: int
    failed: int
    p: float | None = None
    smallest_p: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Row:
    """One selector in the table.

    Attributes:
        points: one a budget of the study.
        against: the baseline; None for the baseline itself, or without one.
        n_eq: smallest budget equal to the full set; None where there is none, or no full set.
        savings: budget -> share of frames saved against the baseline.
        saving: the median of these.
    """

    label: str
    label_aware: bool
    points: tuple[Point, ...]
    against: Against | None
    n_eq: float | None
    savings: dict[float, Bound]
    saving: Bound | None

    @property
    def failed(self) -> int:
        """Cells that ended without a result."""
        return sum(point.failed for point in self.points)

    @property
    def cells(self) -> int:
        """Cells that ended."""
        return sum(point.cells for point in self.points)


def mean_errors(data: Grid, budgets: Sequence[float | None]) -> tuple[Point, ...]:
    """Geometric mean error at each budget, with the interval of the two-level bootstrap."""
    samples = crossed_means(data.log_error, *_draws(data))
    points = []
    for i, (budget, mean) in enumerate(zip(budgets, data.means, strict=True)):
        finished = np.isfinite(data.log_error[:, i])
        rows = int(finished.any(axis=1).sum())
        error = None
        if math.isfinite(mean):
            n = rows if rows > 1 else int(finished.any(axis=0).sum())
            error = _exponential(float(mean), interval(samples[:, i], n))
        points.append(
            Point(
                budget,
                float(data.frames[i]),
                float(data.atoms[i]),
                error,
                int(data.cells[i]),
                int(data.failed[i]),
            )
        )
    return tuple(points)


def _draws(data: Grid) -> tuple[np.ndarray, np.ndarray]:
    # Initial weights are the same for all selectors and drawn together: what they share cancels in ratios.
    rows, _, inits = data.log_error.shape
    return draws(rows, f"selections of {data.label}"), draws(inits, "initial weights")


def _exponential(mean: float, bounds: tuple[float, float] | None) -> Estimate:
    if bounds is None:
        return Estimate(math.exp(mean))
    return Estimate(math.exp(mean), math.exp(bounds[0]), math.exp(bounds[1]))


def failed_value(grids: Sequence[Grid]) -> np.ndarray:
    """[budgets] log error that the tests give a failed cell: 1.1 times the largest finished one there."""
    stacked = np.concatenate([g.log_error for g in grids])
    worst = np.where(np.isfinite(stacked), stacked, -np.inf).max(axis=(0, 2), initial=-np.inf)
    return np.where(np.isfinite(worst), worst, 0.0) + math.log(FAILED_FACTOR)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Two selectors, pair by pair of selections of one seed, cut to what both have.

    Attributes:
        used: indices of the budgets.
        a, b: [pairs, budgets used, inits used] log errors, NaN where a cell failed.
        done: [pairs, inits used] bool: all budgets of both have ended.
        inits: indices of the initial weights.
    """

    used: np.ndarray
    a: np.ndarray
    b: np.ndarray
    done: np.ndarray
    inits: np.ndarray

    @classmethod
    def of(cls, a: Grid, b: Grid) -> _Pairs | None:
        counts = [g.present.sum(axis=(0, 2)) for g in (a, b)]
        enough = [c >= max(1.0, COMMON_SHARE * c.max(initial=0)) for c in counts]
        used = np.flatnonzero(enough[0] & enough[1])
        pairs = common_seeds(a.seeds, b.seeds)
        if not len(used) or not pairs:
            return None
        done = np.stack(
            [
                a.present[rows_a][:, used].all(axis=(0, 1)) & b.present[rows_b][:, used].all(axis=(0, 1))
                for rows_a, rows_b in pairs
            ]
        )
        kept, inits = np.flatnonzero(done.any(axis=1)), np.flatnonzero(done.any(axis=0))
        if not len(kept):
            return None
        cut = [
            np.stack([masked_mean(g.log_error[pairs[k][side]], 0) for k in kept])[:, used][:, :, inits]
            for side, g in enumerate((a, b))
        ]
        return cls(used, cut[0], cut[1], done[kept][:, inits], inits)


def common_seeds(
    a: Sequence[tuple[int, ...]], b: Sequence[tuple[int, ...]]
) -> list[tuple[list[int], list[int]]]:
    """Rows of two grids that make a pair: those with a selection seed in common.

    Seeds that one of the two gave the same frames are one selection of it, and all they are paired with is
    one pair.

    Args:
        a, b: seeds of each row.
    """
    seeds = sorted(set().union(*a) & set().union(*b))
    row_a, row_b = ({seed: i for i, row in enumerate(rows) for seed in row} for rows in (a, b))
    pairs: list[tuple[set[int], set[int]]] = []
    for seed in seeds:
        joined = ({row_a[seed]}, {row_b[seed]})
        apart = []
        for pair in pairs:
            if pair[0] & joined[0] or pair[1] & joined[1]:
                joined = (pair[0] | joined[0], pair[1] | joined[1])
            else:
                apart.append(pair)
        pairs = [*apart, joined]
    return [(sorted(rows_a), sorted(rows_b)) for rows_a, rows_b in pairs]


def compare(a: Grid, b: Grid, budgets: Sequence[float], failed: np.ndarray) -> Against | None:
    """Compare two selectors; None where they share no budget, selection seed or initial weights.

    Only budgets count at which both have at least half of the cells of their fullest one, and there only
    pairs of selections and initial weights with all of these budgets: a study may be still running.

    Args:
        budgets: of the study.
        failed: [budgets], from ``failed_value``.
    """
    pairs = _Pairs.of(a, b)
    if pairs is None:
        return None
    weights = [_axis_weights(a, b, pairs.used, axis) for axis in ("frames", "atoms")]
    ratios = [None if w is None else _ratio(pairs, w) for w in weights]
    test = None
    if weights[0] is not None and len(pairs.a) > 1:
        filled = [np.where(np.isfinite(y), y, failed[pairs.used][:, None]) for y in (pairs.a, pairs.b)]
        area_a, area_b = (_areas(y, w) for y, w in zip(filled, weights[0], strict=True))
        test = sign_flip_test(masked_mean(np.where(pairs.done, area_a - area_b, np.nan), 1))
    return Against(
        other=b.label,
        ratio=ratios[0],
        ratio_atoms=ratios[1],
        test=test,
        budgets=tuple(budgets[i] for i in pairs.used),
        pairs=len(pairs.a),
        failed=int((pairs.done[:, None, :] & np.isnan(pairs.a)).sum()),
    )


def _axis_weights(a: Grid, b: Grid, used: np.ndarray, axis: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Area weights of both over the range of budgets, in frames or atoms, that both cover."""
    x, y = (np.log(getattr(g, axis)[used]) for g in (a, b))
    # where no selection was made: as if it were the other's size, so that its failures are tested
    x, y = np.where(np.isfinite(x), x, y), np.where(np.isfinite(y), y, x)
    if not np.isfinite([x, y]).all():
        return None
    if len(used) == 1:
        # one budget: its error, if it is the same budget (within 5 %) for both
        return (np.ones(1), np.ones(1)) if abs(x[0] - y[0]) < 0.05 else None
    if (np.diff(x) <= 0).any() or (np.diff(y) <= 0).any():
        return None
    low, high = max(x[0], y[0]), min(x[-1], y[-1])
    first, second = area_weights(x, low, high), area_weights(y, low, high)
    return None if first is None or second is None else (first, second)


def _areas(log_error: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[rows, inits] weighted sums over the budgets of [rows, budgets, inits]."""
    return np.asarray(np.tensordot(log_error, weights, axes=(1, 0)))


def _ratio(pairs: _Pairs, weights: tuple[np.ndarray, np.ndarray]) -> Estimate | None:
    """Ratio of the areas, of cells that finished, with its interval from a bootstrap of pairs and weights."""
    rows, columns = draws(len(pairs.a), "pairs"), draws(pairs.a.shape[2], "initial weights")
    values, samples = [], []
    for cut, w in ((pairs.a, weights[0]), (pairs.b, weights[1])):
        kept = np.where(pairs.done[:, None, :], cut, np.nan)
        values.append(float(masked_mean(kept, (0, 2)) @ w))
        samples.append(crossed_means(kept, rows, columns) @ w)
    if not math.isfinite(values[0] - values[1]):
        return None
    return _exponential(values[0] - values[1], interval(samples[0] - samples[1], len(pairs.a)))


def adjust(results: Sequence[Against | None]) -> list[Against | None]:
    """Holm's correction over one table, and the verdicts: a tie unless the adjusted p is below 0.05."""
    tested = [(i, r, r.test) for i, r in enumerate(results) if r is not None and r.test is not None]
    out = list(results)
    adjusted = holm([test.p for _, _, test in tested])
    smallest = holm([test.smallest_p for _, _, test in tested])
    for (i, result, test), p, least in zip(tested, adjusted, smallest, strict=True):
        verdict = "tie" if p >= ALPHA else "better" if test.difference < 0 else "worse"
        out[i] = replace(result, p=float(p), smallest_p=float(least), verdict=verdict)
    return out


def equal_budget(points: Sequence[Point], full: Point | None) -> float | None:
    """n_eq: the smallest budget whose upper 95 % bound is within 5 % of the full set's mean error.

    A budget at which a training failed does not count.
    """
    if full is None or full.error is None:
        return None
    for point in points:
        error = point.error
        if error is None or error.high is None or point.failed:
            continue
        if error.high <= N_EQ_MARGIN * full.error.value:
            return point.budget
    return None


def savings(points: Sequence[Point], baseline: Sequence[Point]) -> dict[float, Bound]:
    """Share of data saved at each budget: 1 - b / b_random(error reached with b).

    b_random is where the baseline's mean curve, interpolated in log-log, first comes down to that error;
    where it lies outside the baseline's budgets the saving is a bound.
    """
    curve = [(p.frames, p.error.value) for p in baseline if p.error is not None]
    if not curve:
        return {}
    x, y = np.log(np.array(curve).T)
    found = {}
    for point in points:
        if point.error is None or point.budget is None:
            continue
        reached, sign = first_reach(x, y, math.log(point.error.value))
        found[point.budget] = Bound(1 - point.frames / math.exp(reached), sign)
    return found


def median_saving(found: dict[float, Bound]) -> Bound | None:
    """Median over budgets; a range or a bound where the bounds among them leave it open."""
    if not found:
        return None
    low = float(np.median([-math.inf if bound.sign == "<" else bound.value for bound in found.values()]))
    high = float(np.median([math.inf if bound.sign == ">" else bound.value for bound in found.values()]))
    if low == high:
        return Bound(low)
    if math.isfinite(low):
        return Bound(low, to=high) if math.isfinite(high) else Bound(low, ">")
    return Bound(high, "<") if math.isfinite(high) else None


class Comparison:
    """Everything the page says of one metric of a study.

    Args:
        metric: key of the cells' errors.
    """

    def __init__(self, study: Study, metric: str) -> None:
        self.study, self.metric = study, metric
        self.budgets = study.budgets
        self.grids = {label: grid(study, label, metric) for label in study.selectors}
        self.failed_value = failed_value(list(self.grids.values())) if self.grids else np.empty(0)
        self.full: Point | None = None
        if any(cell.selector == FULL for cell in study.cells):
            self.full = mean_errors(grid(study, FULL, metric), [None])[0]

    @cached_property
    def points(self) -> dict[str, tuple[Point, ...]]:
        """Label -> errors at the budgets; variations too."""
        return {label: mean_errors(data, self.budgets) for label, data in self.grids.items()}

    @property
    def has_values(self) -> bool:
        """Some cell finished with this metric."""
        return any(point.error is not None for points in self.points.values() for point in points)

    def against(self, labels: Sequence[str], other: str) -> dict[str, Against | None]:
        """Each label against another selector, Holm-corrected over these labels."""
        if other not in self.grids:
            return dict.fromkeys(labels)
        results = [
            None
            if label == other
            else compare(self.grids[label], self.grids[other], self.budgets, self.failed_value)
            for label in labels
        ]
        return dict(zip(labels, adjust(results), strict=True))

    def rows(self, label_aware: bool) -> list[Row]:
        """The table of the label-free or of the label-aware selectors, the best first; the baseline, which
        is label-free, has its place in both."""
        labels = [
            label
            for label, data in self.grids.items()
            if base_of(label) is None and (label == BASELINE or data.label_aware == label_aware)
        ]
        if label_aware and labels == [BASELINE]:
            return []
        results = self.against(labels, BASELINE)
        rows = [self._row(label, results[label]) for label in labels]
        return sorted(rows, key=_order)

    def _row(self, label: str, against: Against | None) -> Row:
        points = self.points[label]
        saved: dict[float, Bound] = {}
        if BASELINE in self.grids and label != BASELINE:
            saved = savings(points, self.points[BASELINE])
        return Row(
            label=label,
            label_aware=self.grids[label].label_aware,
            points=points,
            against=against,
            n_eq=equal_budget(points, self.full),
            savings=saved,
            saving=median_saving(saved),
        )

    def variations(self) -> dict[str, dict[str, Against | None]]:
        """Base -> variation -> compared with the base; Holm over the variations of one base."""
        bases: dict[str, list[str]] = {}
        for label in self.grids:
            base = base_of(label)
            if base is not None:
                bases.setdefault(base, []).append(label)
        return {base: self.against(labels, base) for base, labels in bases.items()}


def _order(row: Row) -> float:
    if row.label == BASELINE:
        return 1.0
    ratio = row.against.ratio if row.against else None
    return math.inf if ratio is None else ratio.value
