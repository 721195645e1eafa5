"""Coverage of the selections against their errors, and what selecting costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from msmlff.analysis.comparison import Comparison, Estimate
from msmlff.analysis.comparison_cells import FULL, Cell, Grid, Study, base_of, masked_mean
from msmlff.analysis.comparison_tests import rank_correlation

REPLICATES = 500


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation of a coverage figure with the error, averaged over budgets.

    Attributes:
        x, y: [selections, budgets] the figure and the log error of each selection (``selection_errors``).
        labels: [selections] their selectors.
    """

    name: str
    mean: Estimate
    by_budget: dict[float, float]
    x: np.ndarray
    y: np.ndarray
    labels: tuple[str, ...]


def correlations(comparison: Comparison) -> list[Correlation]:
    """Every coverage figure against the error, the strongest first; variations are left out."""
    grids = [data for label, data in comparison.grids.items() if base_of(label) is None]
    names = dict.fromkeys(name for data in grids for name in data.coverage)
    found = (correlate(grids, name, comparison.budgets, comparison.failed_value) for name in names)
    return sorted(filter(None, found), key=lambda c: -abs(c.mean.value))


def selection_errors(grids: Sequence[Grid], failed: np.ndarray) -> list[np.ndarray]:
    """[rows, budgets] of each grid: log error of a selection over that of all selections with its weights.

    Mean over initial weights; at each budget the mean over all selections with the same weights is
    subtracted.
    """
    filled = [np.where(g.present & np.isnan(g.log_error), failed[:, None], g.log_error) for g in grids]
    common = masked_mean(np.concatenate(filled), 0)
    return [masked_mean(values - common, 2) for values in filled]


def correlate(
    grids: Sequence[Grid], name: str, budgets: Sequence[float], failed: np.ndarray
) -> Correlation | None:
    """Rank correlation of a coverage figure with the error over the selections of equal budget.

    The interval is of a bootstrap that draws selectors, and within each its selections: selections of one
    selector resemble each other. None where no budget has four selections with different values.
    """
    errors = selection_errors(grids, failed)
    nothing = [np.full(e.shape, np.nan) for e in errors]
    values = [g.coverage.get(name, empty) for g, empty in zip(grids, nothing, strict=True)]
    members = np.split(np.arange(sum(map(len, errors))), np.cumsum([len(e) for e in errors])[:-1])
    x, y = np.concatenate(values), np.concatenate(errors)
    by_budget = _correlations(x, y)
    known = np.isfinite(by_budget)
    if not known.any():
        return None
    rng = np.random.default_rng(0)
    samples = np.empty(REPLICATES)
    for i in range(len(samples)):
        drawn = (members[k] for k in rng.integers(len(members), size=len(members)))
        units = np.concatenate([rng.choice(group, len(group)) for group in drawn])
        samples[i] = masked_mean(_correlations(x[units], y[units]), 0)
    samples = samples[np.isfinite(samples)]
    low, high = np.quantile(samples, [0.025, 0.975]) if len(samples) else (None, None)
    mean = Estimate(float(by_budget[known].mean()), low, high)
    labels = tuple(g.label for g in grids for _ in g.seeds)
    each = {budget: float(rho) for budget, rho in zip(budgets, by_budget, strict=True) if np.isfinite(rho)}
    return Correlation(name, mean, each, x, y, labels)


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[budgets] rank correlation of columns of x and y [units, budgets], NaN where too little is known."""
    found = np.full(x.shape[1], np.nan)
    for b in range(x.shape[1]):
        good = np.isfinite(x[:, b]) & np.isfinite(y[:, b])
        if good.sum() >= 4:
            found[b] = rank_correlation(x[good, b], y[good, b])
    return found


def costs(study: Study) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Label -> "selection", "training" -> seconds: median, least, most.

    A selection counts once, however many trainings use it, and of the largest budget that was selected
    alone: smaller ones of a nested selector are its beginnings.
    """
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for label in [*study.selectors, FULL]:
        own = [cell for cell in study.cells if cell.selector == label]
        timed = [cell for cell in own if "selection" in cell.seconds and cell.budget is not None]
        largest = max((cell.budget for cell in timed if cell.budget is not None), default=None)
        once = {c.selection_seed: c for c in timed if c.budget == largest}
        kinds: dict[str, list[Cell]] = {"selection": list(once.values()), "training": own}
        for kind, cells in kinds.items():
            seconds = [c.seconds[kind] for c in cells if kind in c.seconds]
            if seconds:
                figures = float(np.median(seconds)), min(seconds), max(seconds)
                found.setdefault(label, {})[kind] = figures
    return found
