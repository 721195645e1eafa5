"""The one interface of all selectors, and the checks that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

import msmlff
from msmlff.distill.features import Features
from msmlff.distill.selection import Selection, jsonable
from msmlff.errors import InputError

if TYPE_CHECKING:
    from msmlff.data.store import FrameStore


@dataclass(frozen=True, eq=False)
class Task:
    """A checked request, as a selector's ``pick`` sees it.

    Attributes:
        features: of the whole pool.
        count: frames to pick now; at least 1 and at most ``len(candidates)``.
        candidates: [n] ids that may be picked, ascending.
        held: ids that are taken already and that the picks should complement: the reference, then the
            must-frames.
        seed: every random number comes from it.
        labels: the labelled pool, for selectors with ``uses_labels``.
        groups: [frames] state point or trajectory of each frame, or None.
    """

    features: Features
    count: int
    candidates: np.ndarray
    held: np.ndarray
    seed: int
    labels: FrameStore | None = None
    groups: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Picks:
    """What ``pick`` returns.

    Attributes:
        ids: [count] picked frames, the most wanted first.
        scores: [count] score of each pick, or None.
        pool_scores: [frames] score of every frame of the pool, where the method knows it; used instead of
            ``scores``.
        pool_columns: name -> [frames], a further value of every frame (CPD: its band).
        details: what the method found out (bandwidth, number of clusters, ...); goes into the record.
    """

    ids: np.ndarray
    scores: np.ndarray | None = None
    pool_scores: np.ndarray | None = None
    pool_columns: dict[str, np.ndarray] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Selector(ABC):
    """Base of all selectors. A method is a dataclass: its fields are its parameters; it implements
    ``pick``."""

    nested: ClassVar[bool] = True
    uses_features: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False

    @abstractmethod
    def pick(self, task: Task) -> Picks:
        """Choose ``task.count`` of ``task.candidates``; may be called with more to choose than there are
        reasons for."""

    def select(
        self,
        features: Features,
        budget: int | None,
        *,
        reference: Selection | Sequence[int] | None = None,
        labels: FrameStore | None = None,
        groups: Sequence[str] | np.ndarray | None = None,
        must: Sequence[int] = (),
        seed: int,
    ) -> Selection:
        """Choose exactly ``budget`` frames of the pool, in order.

        Args:
            features: descriptors of the pool.
            budget: frames in the Selection, those of ``must`` included; None for all that are not in
                ``reference``.
            reference: frames that are chosen (labelled, trained on) already: they are not chosen again,
                and the method picks what complements them.
            labels: the labelled pool, for selectors that read labels; the others never look at it.
            groups: [frames] state point or trajectory of each frame.
            must: frames that are chosen first, in this order.
            seed: the same seed gives the same Selection.

        Raises:
            InputError: a budget that is not in 1..number of frames that can be chosen, ids that repeat or
                are not in the pool, features with NaN or of another pool than ``reference``, labels that
                are missing.
        """
        _check_features(features)
        reference_ids = _reference_ids(reference, features)
        must_ids = _checked_ids(must, len(features), "must")
        both = np.intersect1d(reference_ids, must_ids)
        if len(both):
            raise InputError(f"frame {both[0]} is in must and in the reference: take it out of one of them")
        budget = _checked_budget(budget, len(features) - len(reference_ids), len(must_ids))
        checked_groups = _checked_groups(groups, len(features))
        if self.uses_labels and labels is None:
            raise InputError(
                f"{type(self).__name__} reads labels: give a labelled pool, or choose another selector"
            )
        held = np.concatenate([reference_ids, must_ids])
        task = Task(
            features=features,
            count=budget - len(must_ids),
            candidates=np.setdiff1d(np.arange(len(features)), held),
            held=held,
            seed=_checked_seed(seed),
            labels=labels if self.uses_labels else None,
            groups=checked_groups,
        )
        picks = self.pick(task) if task.count else Picks(np.empty(0, dtype=np.int64))
        self._check_picks(picks, task)
        return self._selection(picks, task, must_ids, reference_ids)

    def parameters(self) -> dict[str, Any]:
        """The settings of the method, JSON-serialisable."""
        return {f.name: jsonable(getattr(self, f.name)) for f in fields(self)}

    def _check_picks(self, picks: Picks, task: Task) -> None:
        allowed = np.isin(picks.ids, task.candidates)
        if len(np.unique(picks.ids)) != task.count or len(picks.ids) != task.count or not allowed.all():
            raise RuntimeError(
                f"{type(self).__name__} broke its contract: asked for {task.count} different "
                "candidates, it returned "
                f"{len(picks.ids)} ids, {len(np.unique(picks.ids))} of them different, "
                f"{int((~allowed).sum())} "
                "no candidates"
            )

    def _selection(self, picks: Picks, task: Task, must: np.ndarray, reference: np.ndarray) -> Selection:
        ids = np.concatenate([must, picks.ids])
        if picks.pool_scores is not None:
            scores = picks.pool_scores[ids]
        else:
            scores = np.full(len(ids), np.nan)
            if picks.scores is not None:
                scores[len(must) :] = picks.scores
        record = {
            "pool_hash": task.features.pool_hash,
            "n_pool": len(task.features),
            "budget": len(ids),
            "descriptor": task.features.descriptor,
            "selector": type(self).__name__,
            "parameters": self.parameters(),
            "seed": task.seed,
            "nested": self.nested,
            "uses_labels": self.uses_labels,
            "must": must.tolist(),
            "reference": reference.tolist(),
            "details": jsonable(picks.details),
            "version": msmlff.__version__,
        }
        return Selection(
            ids, scores, record, {name: values[ids] for name, values in picks.pool_columns.items()}
        )


def _check_features(features: Features) -> None:
    bad = features.first_bad_frame()
    if bad is not None:
        raise InputError(
            f"features of frame {bad} are NaN or infinite: check that frame's positions, or compute "
            "the descriptor again"
        )


def _reference_ids(reference: Selection | Sequence[int] | None, features: Features) -> np.ndarray:
    if isinstance(reference, Selection):
        reference.check_pool(features.pool_hash, len(features), "the pool of the features")
        return reference.ids
    return _checked_ids(reference if reference is not None else (), len(features), "reference")


def _checked_ids(ids: Sequence[int], n_pool: int, name: str) -> np.ndarray:
    array = np.asarray(ids)
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} must be a list of frame numbers, got {ids!r}")
    outside = array[(array < 0) | (array >= n_pool)]
    if len(outside):
        raise InputError(f"{name}: frame {outside[0]} is not in the pool; its frames are 0 to {n_pool - 1}")
    unique, counts = np.unique(array, return_counts=True)
    if len(unique) < len(array):
        raise InputError(f"{name}: frame {unique[counts > 1][0]} occurs more than once")
    return array.astype(np.int64)


def _checked_budget(budget: int | None, available: int, n_must: int) -> int:
    if available == 0:
        raise InputError("nothing to choose: every frame of the pool is in the reference already")
    if budget is None:
        return available
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer):
        raise InputError(
            f"budget={budget!r} is not a number of frames: write a whole number, or null for all"
        )
    if budget < 1:
        raise InputError(f"budget={budget}: write a number of frames from 1 to {available}, or null for all")
    if budget > available:
        raise InputError(
            f"budget={budget} is more than the {available} frames that can be chosen: write at most "
            f"{available}, or "
            "null for all"
        )
    if budget < n_must:
        raise InputError(f"budget={budget} is less than the {n_must} frames of must: write at least {n_must}")
    return int(budget)


def _checked_groups(groups: Sequence[str] | np.ndarray | None, n_pool: int) -> np.ndarray | None:
    if groups is None:
        return None
    if len(groups) != n_pool:
        raise InputError(f"groups: {len(groups)} names for a pool of {n_pool} frames")
    return np.asarray(groups, dtype=str)


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed={seed!r}: write a whole number from 0 upwards")
    return int(seed)
