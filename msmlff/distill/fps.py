"""Farthest-point selectors: over frames, over atomic environments, and weighted by force."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from msmlff.distill.farthest import FarthestPoints, Rows
from msmlff.distill.features import POOLINGS, Features
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.distill.space import varying
from msmlff.errors import InputError

if TYPE_CHECKING:
    from msmlff.data.store import FrameStore

STARTS = ("random", "centre")
FORCES = ("max", "rms")
LEAST_FORCE = 1e-3  # of the pool's median: forces below it count as this, so that distances still matter


@dataclass(frozen=True)
class FPS(Selector):
    """Farthest-point sampling of frames: next comes the frame farthest from all that are chosen.

    Gonzalez, Theor. Comput. Sci. 38, 293 (1985); for atomistic data e.g. Imbalzano et al., J. Chem. Phys.
    148, 241730 (2018). Distances are Euclidean between pooled features. With a ``reference`` the first pick
    is already the frame farthest from it. Ties go to the lowest frame; copies of chosen frames come last, in
    order. The score of a frame is its distance from all chosen before, NaN for a start.

    Attributes:
        pooling: how atoms become a frame: "mean_std", "mean" or "per_element".
        standardise: scale each pooled column to unit variance.
        variance: share of the variance that principal components keep, (0, 1]; None: no projection.
        start: the first frame where nothing is chosen yet: "random", or "centre": the frame nearest to the
            pool's mean (the seed then has no influence).

    Raises:
        InputError: a parameter out of its range.
    """

    pooling: str = "mean_std"
    standardise: bool = True
    variance: float | None = None
    start: str = "random"

    def __post_init__(self) -> None:
        _check_choice("pooling", self.pooling, tuple(POOLINGS))
        _check_choice("start", self.start, STARTS)
        object.__setattr__(self, "seeded", self.start == "random")
        if self.variance is not None and not 0 < self.variance <= 1:
            raise InputError(
                f"selector.variance={self.variance}: write a share of the variance in (0, 1], or null"
            )

    def pick(self, task: Task) -> Picks:
        """The farthest frames, one after the other."""
        rows = self._rows(task.features)
        return _greedy(FarthestPoints(rows, task.candidates, weights=self._weights(task)), task, self._start)

    def _rows(self, features: Features) -> Rows:
        key = ("fps", self.pooling, self.standardise, self.variance)
        return features.remember(key, lambda: Rows.of(self._points(features)))

    def _points(self, features: Features) -> np.ndarray:
        pooled = features.pooled(self.pooling)
        mean, std = pooled.mean(axis=0), pooled.std(axis=0)
        varies = varying(pooled)
        if self.variance is not None and varies.any():
            from msmlff.distill.density import project

            return project(pooled, self.variance, self.standardise).coordinates
        scale = np.where(varies, 1 / np.where(varies, std, 1.0), 0.0) if self.standardise else varies
        points: np.ndarray = (pooled - mean) * scale
        return points

    def _weights(self, task: Task) -> np.ndarray | None:
        """[frames] factors of the distances."""
        return None

    def _start(self, task: Task) -> int:
        if self.start == "random":
            return int(np.random.default_rng(task.seed).choice(task.candidates))
        points = self._rows(task.features).raw
        squares = ((points[task.candidates] - points.mean(axis=0)) ** 2).sum(axis=1)
        return int(task.candidates[squares.argmin()])


@dataclass(frozen=True)
class EnvironmentFPS(Selector):
    """Farthest-point sampling by atomic environments: the frame with the environment that the chosen frames
    represent worst comes next.

    The score of a frame is its directed Hausdorff distance to all frames chosen before: the largest, over its
    atoms, of the distance to the nearest chosen atom; the score of a pick is then the Hausdorff distance
    between pool and selection, which this greedy rule keeps within twice the smallest possible for frames
    of one atom (Gonzalez, 1985). Columns have unit variance over all atoms of the pool. Frames with an
    element of which nothing is chosen come first, in order, with a score of NaN. Rows on disk are read in
    blocks; an atom whose distance is known to be small is not measured again.

    Attributes:
        by_element: compare an atom with atoms of its own element alone.
        start: the first frame where nothing is chosen yet: "random", or "centre": the frame whose mean row is
            nearest to the pool's (the seed then has no influence).

    Raises:
        InputError: a parameter out of its range.
    """

    by_element: bool = True
    start: str = "random"

    def __post_init__(self) -> None:
        _check_choice("start", self.start, STARTS)
        object.__setattr__(self, "seeded", self.start == "random")

    def pick(self, task: Task) -> Picks:
        """The farthest frames, one after the other; details: the distance that is left."""
        features = task.features
        elements = element_codes(features) if self.by_element else None
        rows = features.remember("environments", lambda: Rows.environments(features))
        engine = FarthestPoints(rows, task.candidates, offsets=features.offsets, elements=elements)
        picks = _greedy(engine, task, self._start)
        picks.details["hausdorff_distance"] = engine.largest()
        return picks

    def _start(self, task: Task) -> int:
        if self.start == "random":
            return int(np.random.default_rng(task.seed).choice(task.candidates))
        mean, std = task.features.moments()
        scaled = (task.features.pooled("mean")[task.candidates] - mean) / np.where(std > 0, std, 1.0)
        return int(task.candidates[(scaled**2).sum(axis=1).argmin()])


@dataclass(frozen=True)
class ForceWeightedFPS(FPS):
    """Farthest-point sampling where distances count the more, the larger the forces of the frame.

    Next comes the frame with the largest w_i min_j |x_i - x_j| over the chosen j, with
    w_i = (f_i / median of f)^power and f_i the largest or root-mean-square force of the frame. Of two frames
    equally far from all that is known it takes the one off equilibrium, where errors of a force field are
    largest. It is the weighted k-centre problem, greedily: Dyer and Frieze, Oper. Res. Lett. 3, 285 (1985);
    the weight is this project's choice. The score of a pick is its weighted distance. Forces below a
    thousandth of the median count as that, so that frames at rest are still told apart.

    Attributes:
        power: of the force; 0 gives FPS.
        force: of a frame: "max" (over atoms) or "rms".

    Raises:
        InputError: a parameter out of its range.
    """

    uses_labels: ClassVar[bool] = True

    power: float = 1.0
    force: str = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("force", self.force, FORCES)
        if not 0 <= self.power < np.inf:
            raise InputError(f"selector.power={self.power}: write a number from 0 upwards")

    def _weights(self, task: Task) -> np.ndarray:
        """Raises InputError if a frame has no forces, or none of the frames has forces other than zero."""
        assert task.labels is not None
        forces = frame_forces(task.labels, self.force)
        median = float(np.median(forces))
        if not median > 0:
            raise InputError(
                "selector=fps_forces: at least half of the frames have no force on any atom, so forces "
                "cannot weight them; take selector=fps"
            )
        weights: np.ndarray = np.maximum(forces / median, LEAST_FORCE) ** self.power
        return weights


def frame_forces(frames: FrameStore, kind: str) -> np.ndarray:
    """[frames] eV/Å: largest ("max") or root-mean-square ("rms") norm of the forces on a frame's atoms.

    Raises:
        InputError: a frame without forces, or with NaN among them; the message names it.
    """
    values = np.empty(len(frames))
    for i, frame in enumerate(frames):
        if frame.forces is None or not np.isfinite(frame.forces).all():
            problem = "has no forces" if frame.forces is None else "has forces that are NaN or infinite"
            raise InputError(
                f"frame {i} {problem}: label the pool, take the frame out of it, or take selector=fps"
            )
        squares = (np.asarray(frame.forces) ** 2).sum(axis=1)
        values[i] = np.sqrt(squares.max() if kind == "max" else squares.mean())
    return values


def element_codes(features: Features) -> np.ndarray | None:
    """[atoms] uint8 element of each atom, numbered from 0 in the order of the atomic numbers; None where the
    pool has one element. Computed once."""

    def make() -> np.ndarray | None:
        numbers = np.asarray(features.numbers)
        if numbers.min() == numbers.max():
            return None
        table = np.zeros(int(numbers.max()) + 1, dtype=np.uint8)
        kinds = np.flatnonzero(np.bincount(numbers))
        table[kinds] = np.arange(len(kinds))
        return table[numbers]

    return features.remember("element_codes", make)


def _greedy(engine: FarthestPoints, task: Task, start: Any) -> Picks:
    """``task.count`` frames of the engine; ``start`` gives the first where none is held."""
    for frame in task.held:
        engine.add(int(frame))
    first: list[int] = []
    if not len(task.held):
        first = [start(task)]
        engine.add(first[0])
    ids, scores = engine.choose(task.count - len(first))
    return Picks(
        np.concatenate([first, ids]).astype(np.int64), np.concatenate([[np.nan] * len(first), scores])
    )


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"selector.{name}={value} is unknown: write one of {', '.join(known)}")
