"""A selector made of steps: filter -> deduplicate -> choose -> fill."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np

from msmlff.distill.clusters import Scene, check_number, check_whole, frame_points, to_nearest
from msmlff.distill.cpd import CPD
from msmlff.distill.histogram import energies_per_atom
from msmlff.distill.selection import jsonable
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.errors import InputError

COPY = 1e-6  # points nearer than this share of the largest coordinate are copies of each other
TYPICAL_FRAMES = 500  # frames whose nearest neighbours give the typical distance, at most
BLOCK = 1 << 22  # distances held at a time: 32 MiB
STEP = 128  # frames compared at once with those that stay
VARIANCE = 0.95  # share of the variance kept where distances between frames are measured


@dataclass(frozen=True)
class Filter(ABC):
    """Base of the filters of a chain: a dataclass whose fields are its parameters.

    uses_features, uses_labels: what it reads.
    """

    uses_features: ClassVar[bool] = False
    uses_labels: ClassVar[bool] = False

    @abstractmethod
    def keep(self, task: Task) -> np.ndarray:
        """[frames] bool: the candidates that stay; what it says of other frames does not matter."""


@dataclass(frozen=True)
class MaxForce(Filter):
    """Takes out frames with a force above ``limit`` (eV/Å) on any atom.

    Raises:
        InputError: limit not above 0; in ``keep``: a candidate without forces.
    """

    uses_labels: ClassVar[bool] = True
    limit: float

    def __post_init__(self) -> None:
        check_number("filters: MaxForce.limit", self.limit, 0, np.inf)

    def keep(self, task: Task) -> np.ndarray:
        """Frames whose forces are all within the limit."""
        assert task.labels is not None
        kept = np.ones(len(task.features), dtype=bool)
        for i in task.candidates.tolist():
            frame = task.labels[i]
            if frame.forces is None or not np.isfinite(frame.forces).all():
                raise InputError(
                    f"frame {i} ({frame.source or 'no source'}) has no forces: label the pool, name "
                    "their key in pool.keys.forces, or take MaxForce out of selector.filters"
                )
            kept[i] = np.linalg.norm(frame.forces, axis=1).max() <= self.limit
        return kept


@dataclass(frozen=True)
class EnergyWindow(Filter):
    """Takes out frames whose energy per atom lies outside [low, high].

    Attributes:
        low: lower end; None: open.
        high: upper end; None: open.
        unit: "eV/atom", or "quantile": ends are shares, 0 to 1, of the candidates and held frames.

    Raises:
        InputError: both ends open, low above high, unknown unit; in ``keep``: a frame without an energy.
    """

    uses_labels: ClassVar[bool] = True
    low: float | None = None
    high: float | None = None
    unit: str = "eV/atom"

    def __post_init__(self) -> None:
        name = "selector.filters: EnergyWindow"
        if self.unit not in ("eV/atom", "quantile"):
            raise InputError(f"{name}.unit={self.unit} is unknown: write one of eV/atom, quantile")
        ends = [end for end in (self.low, self.high) if end is not None]
        if not ends or any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
            raise InputError(f"{name}: write a number for low, for high, or for both")
        if ends != sorted(ends):
            raise InputError(f"{name}: low={self.low} is above high={self.high}")
        if self.unit == "quantile" and not all(0 <= end <= 1 for end in ends):
            raise InputError(f"{name}: with unit=quantile, low and high are shares from 0 to 1")

    def keep(self, task: Task) -> np.ndarray:
        """Frames inside the window, ends included."""
        rows = np.union1d(task.candidates, task.held)
        values = energies_per_atom(task, rows)
        low, high = self.low, self.high
        if self.unit == "quantile":
            low = None if low is None else float(np.quantile(values, low))
            high = None if high is None else float(np.quantile(values, high))
        kept = np.ones(len(task.features), dtype=bool)
        kept[rows] = (values >= (-np.inf if low is None else low)) & (
            values <= (np.inf if high is None else high)
        )
        return kept


@dataclass(frozen=True)
class Groups(Filter):
    """Keeps frames of some groups (state points, trajectories).

    Attributes:
        only: groups that stay; empty: all.
        without: groups that go.

    Raises:
        InputError: nothing named; in ``keep``: a pool without groups, or a group that it does not have.
    """

    only: Sequence[str] = ()
    without: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("only", "without"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise InputError(f"selector.filters: Groups.{name}={value}: write a list, [{value}]")
            object.__setattr__(self, name, tuple(str(group) for group in value))
        if not self.only and not self.without:
            raise InputError("selector.filters: Groups: name groups in only, in without, or in both")

    def keep(self, task: Task) -> np.ndarray:
        """Frames of the groups that stay."""
        if task.groups is None or not (task.groups != "").any():
            raise InputError(
                "the filter Groups needs groups, and the pool has none: name their key in pool.keys.group"
            )
        known = np.unique(task.groups)
        missing = [group for group in (*self.only, *self.without) if group not in known]
        if missing:
            raise InputError(
                f"selector.filters: Groups: the pool has no group {missing[0]!r}. It has: "
                f"{', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
            )
        kept = np.isin(task.groups, self.only) if self.only else np.ones(len(task.groups), dtype=bool)
        kept &= ~np.isin(task.groups, self.without)
        return kept


@dataclass(frozen=True)
class Outliers(Filter):
    """Takes out the frames farthest from their neighbours: broken geometries, far corners of the pool.

    Each frame has its distance to the k-th nearest other frame, in the principal components of the pooled
    features that hold 95 % of the variance; of candidates and held frames, the ``share`` with the largest
    distances is out (rounded down; held frames stay held).

    Attributes:
        share: of the frames, [0, 1).
        neighbors: k.
        pooling: how atoms become a frame: "mean_std", "mean" or "per_element".

    Raises:
        InputError: a parameter out of its range.
    """

    uses_features: ClassVar[bool] = True
    share: float = 0.01
    neighbors: int = 5
    pooling: str = "mean_std"

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 <= self.share < 1:
            raise InputError(
                f"selector.filters: Outliers.share={self.share!r}: write a share from 0 to below 1"
            )
        check_whole("filters: Outliers.neighbors", self.neighbors)

    def keep(self, task: Task) -> np.ndarray:
        """Frames that are not among the farthest."""
        scene = Scene.of(frame_points(task.features, self.pooling, True, VARIANCE), task)
        kept = np.ones(len(task.features), dtype=bool)
        number = int(self.share * len(scene.rows) + 1e-9)
        k = min(self.neighbors, len(scene.rows) - 1)
        if number and k:
            from sklearn.neighbors import NearestNeighbors

            distances = NearestNeighbors(n_neighbors=k).fit(scene.points).kneighbors()[0][:, -1]
            grain = COPY * (distances.max() or 1.0)
            farthest = np.lexsort((-scene.rows, np.rint(distances / grain)))[len(scene.rows) - number :]
            kept[scene.rows[farthest]] = False
        return kept


@dataclass(frozen=True)
class Chain(Selector):
    """Filters, then deduplication, then a selector on what is left, then another to fill the budget.

    A filtered frame is never chosen. Of frames nearer to each other than ``deduplicate`` the first of the
    pool stays, and frames that near to a held one go. When fewer frames are left than asked for, all of them
    are chosen and ``fill`` chooses the rest among the duplicates. The record's details count what each step
    took out.

    Attributes:
        filters: applied one after the other, each to what the ones before left.
        deduplicate: distance below which frames are duplicates, in units of the typical one: the median
            distance of a frame to the nearest frame that is no copy of it; in the principal components of
            the pooled features that hold 95 % of the variance. None: no deduplication.
        pooling: how atoms become a frame for ``deduplicate``: "mean_std", "mean" or "per_element".
        choose: the selector.
        fill: the selector for the rest of the budget; None: a budget that is not reached is an error.

    Raises:
        InputError: a parameter out of its range; in ``select``: too few frames are left, with the number that
            each step took out.
    """

    filters: Sequence[Filter] = ()
    deduplicate: float | None = None
    pooling: str = "mean_std"
    choose: Selector = field(default_factory=CPD)
    fill: Selector | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))
        for i, step in enumerate(self.filters):
            if not isinstance(step, Filter):
                raise InputError(
                    f"selector.filters.{i} is no filter: write _target_: msmlff.distill.chain.MaxForce"
                )
        parts = [self.choose] if self.fill is None else [self.choose, self.fill]
        for name, part in zip(("choose", "fill"), parts, strict=False):
            if not isinstance(part, Selector):
                raise InputError(f"selector.{name} is no selector: write selector@selector.{name}=cpd")
        if self.deduplicate is not None:
            check_number("deduplicate", self.deduplicate, 0, np.inf)
        steps: list[Any] = [*self.filters, *parts]
        for name, value in {
            "nested": all(part.nested for part in parts),
            "seeded": any(part.seeded for part in parts),
            "uses_features": self.deduplicate is not None or any(step.uses_features for step in steps),
            "uses_labels": any(step.uses_labels for step in steps),
            "uses_frames": any(part.uses_frames for part in parts),
        }.items():
            object.__setattr__(self, name, value)

    def parameters(self) -> dict[str, Any]:
        """The settings; filters and selectors as dicts of theirs, with the class as "method"."""
        return {
            "filters": [_described(step) for step in self.filters],
            "deduplicate": self.deduplicate,
            "pooling": self.pooling,
            "choose": _described(self.choose),
            "fill": None if self.fill is None else _described(self.fill),
        }

    def pick(self, task: Task) -> Picks:
        """The steps in turn."""
        removed: list[dict[str, Any]] = []
        left = task.candidates
        for step in self.filters:
            kept = left[step.keep(replace(task, candidates=left))[left]] if len(left) else left
            removed.append({"step": type(step).__name__, "frames": len(left) - len(kept)})
            left = kept
        unique = left
        if self.deduplicate is not None and len(left):
            unique = self._without_duplicates(replace(task, candidates=left), self.deduplicate)
            removed.append({"step": "deduplicate", "frames": len(left) - len(unique)})
        duplicates = np.setdiff1d(left, unique)
        self._check_enough(task, len(unique), len(duplicates), removed)
        first = min(task.count, len(unique))
        parts = [_run(self.choose, replace(task, candidates=unique, count=first))] if first else []
        if task.count > first:
            assert self.fill is not None
            held = np.concatenate([task.held, *(part.ids for part in parts)])
            rest = replace(task, candidates=duplicates, count=task.count - first, held=held)
            parts.append(_run(self.fill, rest))
        details = {
            "candidates": len(task.candidates),
            "removed": removed,
            "filled": task.count - first,
            "choose": parts[0].details if first else {},
        }
        columns = parts[0].pool_columns if first == task.count else {}
        scores = np.concatenate([_scores(part) for part in parts])
        ids = np.concatenate([part.ids for part in parts])
        return Picks(ids, scores=scores, pool_columns=columns, details=details)

    def _without_duplicates(self, task: Task, distance: float) -> np.ndarray:
        """Candidates without a held frame, or a candidate that stays, before them within the distance."""
        scene = Scene.of(frame_points(task.features, self.pooling, True, VARIANCE), task)
        square = (distance * typical_distance(scene.points)) ** 2
        points, rows = scene.points[scene.free], scene.rows[scene.free]
        stay = np.empty(0, dtype=np.int64)
        for start in range(0, len(rows), STEP):
            x = points[start : start + STEP]
            before = np.concatenate([scene.points[~scene.free], points[stay]])
            gone = to_nearest(x, before)[1] <= square
            for i in range(len(x)):
                if not gone[i]:
                    gone[i + 1 :] |= ((x[i + 1 :] - x[i]) ** 2).sum(axis=1) <= square
            stay = np.concatenate([stay, start + np.flatnonzero(~gone)])
        return rows[stay]

    def _check_enough(self, task: Task, unique: int, duplicates: int, removed: list[dict[str, Any]]) -> None:
        left = unique + duplicates if self.fill is not None else unique
        if left >= task.count:
            return
        counts = ", ".join(f"{step['step']} took out {step['frames']}" for step in removed)
        advice = "loosen the filters, or lower the budget"
        if self.fill is None and duplicates:
            advice = f"write +selector@selector.fill=random to fill up with duplicates, {advice}"
        raise InputError(
            f"selector=chain: of {len(task.candidates)} frames that can be chosen, {counts}; {left} are left "
            f"for {task.count} to choose: {advice}"
        )


def typical_distance(points: np.ndarray) -> float:
    """Median distance of a point to the nearest one that is no copy of it; 0 where all are copies.

    Above ``TYPICAL_FRAMES`` points, a fixed random part of them is asked.

    Args:
        points: [n, d].
    """
    from scipy.spatial.distance import cdist

    asked = points
    if len(points) > TYPICAL_FRAMES:
        part = np.random.default_rng(0).choice(len(points), TYPICAL_FRAMES, replace=False)
        asked = points[np.sort(part)]
    grain = COPY * float(np.abs(points).max(initial=0.0))
    step, nearest = max(1, BLOCK // len(points)), []
    for start in range(0, len(asked), step):
        distances = cdist(asked[start : start + step], points)
        distances[distances <= grain] = np.inf
        nearest.append(distances.min(axis=1))
    values = np.concatenate(nearest)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else 0.0


def _run(selector: Selector, task: Task) -> Picks:
    """A selector's picks, shown only the labels and frames that it says it reads."""
    labels = task.labels if selector.uses_labels else None
    frames = task.frames if selector.uses_frames else None
    return selector.pick(replace(task, labels=labels, frames=frames))


def _scores(picks: Picks) -> np.ndarray:
    if picks.pool_scores is not None:
        return picks.pool_scores[picks.ids]
    return np.full(len(picks.ids), np.nan) if picks.scores is None else picks.scores


def _described(part: Filter | Selector) -> dict[str, Any]:
    """The class and the settings of a step, JSON-serialisable."""
    name = f"{type(part).__module__}.{type(part).__qualname__}"
    if isinstance(part, Selector):
        return {"method": name, **part.parameters()}
    return {"method": name} | {f.name: jsonable(getattr(part, f.name)) for f in fields(part)}
