"""The one interface of all selectors, and the checks that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

import msmlff
from msmlff.distill.budget import Budget, shares
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
        frames: the pool, for selectors with ``uses_frames``; they read geometry alone.
        groups: [frames] state point or trajectory of each frame, or None.
    """

    features: Features
    count: int
    candidates: np.ndarray
    held: np.ndarray
    seed: int
    labels: FrameStore | None = None
    frames: FrameStore | None = None
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
class Rules:
    """What holds for the choice whatever the method.

    Attributes:
        must: frames that are chosen first, in this order; they count.
        forbidden: frames that are never chosen, and that the method does not complement either.
        quotas: frames of each group: "equal", "proportional", or a number for each group, those of ``must``
            included; None: the groups do not matter. The method then picks group by group, each time
            complementing what the groups before gave.
    """

    must: Sequence[int] = ()
    forbidden: Sequence[int] = ()
    quotas: str | Mapping[str, int] | None = None


@dataclass(frozen=True)
class Selector(ABC):
    """Base of all selectors. A method is a dataclass: its fields are its parameters; it implements
    ``pick``.

    nested: a smaller budget gives the beginning of a larger one, and with that beginning as reference the
        selection goes on as it would have.
    seeded: the seed matters.
    uses_features: it looks at descriptors.
    uses_labels: it reads energies or forces.
    uses_frames: it reads cells, positions or species.
    """

    nested: ClassVar[bool] = True
    seeded: ClassVar[bool] = True
    uses_features: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False
    uses_frames: ClassVar[bool] = False

    @abstractmethod
    def pick(self, task: Task) -> Picks:
        """Choose ``task.count`` of ``task.candidates``; may be called with more to choose than there are
        reasons for."""

    def select(
        self,
        features: Features,
        budget: int | Budget | None,
        *,
        reference: Selection | Sequence[int] | None = None,
        frames: FrameStore | None = None,
        groups: Sequence[str] | np.ndarray | None = None,
        rules: Rules | None = None,
        seed: int,
    ) -> Selection:
        """Choose frames of the pool, in order.

        A budget in frames is met exactly. One in atoms or label cost is never exceeded: frames are taken in
        the method's order, those that no longer fit are passed over, until none fits; a method that is not
        nested is asked for the largest number of frames that fits, then for single ones.

        Args:
            features: descriptors of the pool.
            budget: frames in the Selection, those of ``rules.must`` included, or a Budget; None for all
                that are not in ``reference``.
            reference: frames that are chosen (labelled, trained on) already: they are not chosen again,
                they cost nothing, and the method picks what complements them.
            frames: the pool itself, for selectors that read labels or geometry; the others never look at
                it.
            groups: [frames] state point or trajectory of each frame.
            rules: must, forbidden, quotas.
            seed: the same seed gives the same Selection.

        Raises:
            InputError: a budget that is not in 1..number of frames that can be chosen or that the first
                frame exceeds, ids that repeat or are not in the pool, features with NaN or of another pool
                than ``reference`` or ``frames``, labels that are missing, quotas that cannot be met.
        """
        _check_features(features)
        rules = rules or Rules()
        ids = _Ids.of(features, reference, rules)
        limit = budget if isinstance(budget, Budget) else Budget(budget)
        checked_groups = _checked_groups(groups, len(features))
        self._check_frames(frames, features)
        task = Task(
            features=features,
            count=0,
            candidates=np.setdiff1d(np.arange(len(features)), np.concatenate([ids.held, ids.forbidden])),
            held=ids.held,
            seed=_checked_seed(seed),
            labels=frames if self.uses_labels else None,
            frames=frames if self.uses_frames else None,
            groups=checked_groups,
        )
        if limit.unit == "frames" or limit.amount is None:
            task = replace(task, count=_frames_left(limit.amount, len(task.candidates), len(ids.must)))
            picks = self._pick_by_group(task, ids.must, rules.quotas) if rules.quotas else self._pick(task)
        else:
            if rules.quotas:
                raise InputError(f"quotas count frames: write unit=frames, not unit={limit.unit}")
            picks = self._pick_within(task, ids.must, limit)
        nested = self.nested and limit.unit == "frames" and not rules.quotas
        return self._selection(picks, task, ids, limit, {"nested": nested, "quotas": rules.quotas})

    def parameters(self) -> dict[str, Any]:
        """The settings of the method, JSON-serialisable."""
        return {f.name: jsonable(getattr(self, f.name)) for f in fields(self)}

    def _check_frames(self, frames: FrameStore | None, features: Features) -> None:
        if not (self.uses_labels or self.uses_frames):
            return
        if frames is None:
            what = "labels: give a labelled pool" if self.uses_labels else "the frames: give the pool"
            raise InputError(f"{type(self).__name__} reads {what}, or choose another selector")
        if frames.hash != features.pool_hash:
            raise InputError(
                f"frames is another pool ({len(frames)} frames, hash {frames.hash[:12]}) than that of the "
                f"features ({len(features)} frames, hash {features.pool_hash[:12]}): give the frames that "
                "the features were computed from"
            )

    def _pick(self, task: Task) -> Picks:
        """``pick``, checked; nothing to choose is no call."""
        if not task.count:
            return Picks(np.empty(0, dtype=np.int64))
        picks = self.pick(task)
        allowed = np.isin(picks.ids, task.candidates)
        if len(np.unique(picks.ids)) != task.count or len(picks.ids) != task.count or not allowed.all():
            raise RuntimeError(
                f"{type(self).__name__} broke its contract: asked for {task.count} different "
                f"candidates, it returned {len(picks.ids)} ids, {len(np.unique(picks.ids))} of them "
                f"different, {int((~allowed).sum())} no candidates"
            )
        return picks

    def _pick_by_group(self, task: Task, must: np.ndarray, quotas: str | Mapping[str, int]) -> Picks:
        if task.groups is None or not (task.groups != "").any():
            raise InputError("quotas need groups, and the pool has none: name their key in pool.keys.group")
        numbers = shares(quotas, task.groups, task.candidates, must, task.count)
        held, parts = task.held, {}
        for name, number in numbers.items():
            inside = task.candidates[task.groups[task.candidates] == name]
            part = self._pick(replace(task, count=number, candidates=inside, held=held))
            held = np.concatenate([held, part.ids])
            if number:
                parts[name] = part
        return _in_turns(parts)

    def _pick_within(self, task: Task, must: np.ndarray, limit: Budget) -> Picks:
        costs, amount = limit.costs(task.features.num_atoms), limit.amount
        assert amount is not None
        left = amount - float(costs[must].sum())
        if left < -1e-9 * amount:
            raise InputError(
                f"budget={amount} {limit.unit} is less than the {costs[must].sum():g} of the must-frames"
            )
        cheapest_first = np.sort(costs[task.candidates])
        most = int(np.searchsorted(np.cumsum(cheapest_first), left * (1 + 1e-9), side="right"))
        if not most and not len(must):
            raise InputError(
                f"budget={amount} {limit.unit}: the cheapest frame that can be chosen takes "
                f"{cheapest_first[0]:g}"
                if len(cheapest_first)
                else "nothing to choose"
            )
        if self.nested:
            return self._pick_what_fits(task, most, costs, left)
        return self._pick_largest(task, most, costs, left)

    def _pick_what_fits(self, task: Task, most: int, costs: np.ndarray, left: float) -> Picks:
        """The method's order, as long as it must be, without the frames that no longer fit."""
        length = min(most, len(task.candidates))
        while True:
            picks = self._pick(replace(task, count=length))
            keep, rest = _affordable(costs[picks.ids], left)
            others = np.setdiff1d(task.candidates, picks.ids)
            if not length or not len(others) or costs[others].min() > rest:
                return _part(picks, keep)
            length = min(2 * length, len(task.candidates))

    def _pick_largest(self, task: Task, most: int, costs: np.ndarray, left: float) -> Picks:
        """The largest number of frames that fits, by bisection over the count; what then still fits one at a
        time, with those before as held."""
        low, high, best = 0, most, self._pick(replace(task, count=0))
        while low < high:
            middle = (low + high + 1) // 2
            picks = self._pick(replace(task, count=middle))
            if costs[picks.ids].sum() <= left * (1 + 1e-9):
                low, best = middle, picks
            else:
                high = middle - 1
        parts, left = [best], left * (1 + 1e-9) - float(costs[best.ids].sum())
        while True:
            taken = np.concatenate([part.ids for part in parts])
            free = np.setdiff1d(task.candidates, taken)
            free = free[costs[free] <= left]
            if not len(free):
                return _joined(parts)
            held = np.concatenate([task.held, taken])
            parts.append(self._pick(replace(task, count=1, candidates=free, held=held)))
            left -= float(costs[parts[-1].ids].sum())

    def _selection(
        self, picks: Picks, task: Task, ids: _Ids, limit: Budget, further: dict[str, Any]
    ) -> Selection:
        chosen = np.concatenate([ids.must, picks.ids])
        if not len(chosen):
            raise InputError(
                f"budget={limit.amount} {limit.unit}: {type(self).__name__} found no frame that fits; "
                "raise the budget"
            )
        if picks.pool_scores is not None:
            scores = picks.pool_scores[chosen]
        else:
            scores = np.full(len(chosen), np.nan)
            if picks.scores is not None:
                scores[len(ids.must) :] = picks.scores
        record = {
            "pool_hash": task.features.pool_hash,
            "n_pool": len(task.features),
            "budget": len(chosen),
            "budget_unit": limit.unit,
            "budget_amount": limit.amount,
            "atoms": int(task.features.num_atoms[chosen].sum()),
            "descriptor": task.features.descriptor,
            "selector": type(self).__name__,
            "parameters": self.parameters(),
            "seed": task.seed,
            "uses_labels": self.uses_labels,
            "must": ids.must.tolist(),
            "forbidden": ids.forbidden.tolist(),
            "reference": ids.reference.tolist(),
            "details": jsonable(picks.details),
            "version": msmlff.__version__,
            **jsonable(further),
        }
        return Selection(
            chosen, scores, record, {name: values[chosen] for name, values in picks.pool_columns.items()}
        )


@dataclass(frozen=True, eq=False)
class _Ids:
    """Checked lists of frames."""

    reference: np.ndarray
    must: np.ndarray
    forbidden: np.ndarray

    @property
    def held(self) -> np.ndarray:
        return np.concatenate([self.reference, self.must])

    @staticmethod
    def of(features: Features, reference: Selection | Sequence[int] | None, rules: Rules) -> _Ids:
        n = len(features)
        lists = {
            "reference": _reference_ids(reference, features),
            "must": _checked_ids(rules.must, n, "must"),
            "forbidden": _checked_ids(rules.forbidden, n, "forbidden"),
        }
        for one, other in (("must", "reference"), ("must", "forbidden")):
            both = np.intersect1d(lists[one], lists[other])
            if len(both):
                word = "the reference" if other == "reference" else other
                raise InputError(f"frame {both[0]} is in {one} and in {word}: take it out of one of them")
        return _Ids(**lists)


def _affordable(costs: np.ndarray, left: float) -> tuple[np.ndarray, float]:
    """Which of the frames, in order, fit into ``left`` one after the other, and what then is left."""
    keep, slack = np.zeros(len(costs), dtype=bool), 1e-9 * left
    for i, cost in enumerate(costs.tolist()):
        if cost <= left + slack:
            keep[i] = True
            left -= cost
    return keep, left + slack


def _part(picks: Picks, keep: np.ndarray) -> Picks:
    scores = None if picks.scores is None else picks.scores[keep]
    return replace(picks, ids=picks.ids[keep], scores=scores)


def _joined(parts: Sequence[Picks]) -> Picks:
    """The picks of all parts, one after the other, with the details of the first."""
    scores = [part.scores for part in parts]
    known = [s for s in scores if s is not None]
    return replace(
        parts[0],
        ids=np.concatenate([part.ids for part in parts]),
        scores=np.concatenate(known) if len(known) == len(parts) else None,
    )


def _in_turns(parts: dict[str, Picks]) -> Picks:
    """One Picks from those of the groups, a frame of each in turn."""
    if not parts:
        return Picks(np.empty(0, dtype=np.int64))
    joined = _joined(list(parts.values()))
    turn = np.concatenate([np.arange(len(part.ids)) for part in parts.values()])
    order = np.argsort(turn, kind="stable")
    scores = None if joined.scores is None else joined.scores[order]
    details = {name: part.details for name, part in parts.items() if part.details}
    return replace(
        joined, ids=joined.ids[order], scores=scores, details={"groups": details} if details else {}
    )


def _frames_left(amount: float | None, candidates: int, n_must: int) -> int:
    """Frames to pick beside the must-frames."""
    available = candidates + n_must
    if available == 0:
        raise InputError("nothing to choose: every frame of the pool is in the reference or forbidden")
    if amount is None:
        return candidates
    if amount > available:
        raise InputError(
            f"budget={amount} is more than the {available} frames that can be chosen: write at most "
            f"{available}, or null for all"
        )
    if amount < n_must:
        raise InputError(f"budget={amount} is less than the {n_must} frames of must: write at least {n_must}")
    return int(amount) - n_must


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
