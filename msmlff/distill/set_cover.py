"""Set cover on atomic environments: choose the frames whose environments cover those of the pool.

A kernel sum s(e) = sum_{x chosen} K_h(e, x) says how well a choice has seen the environment e; its
differential entropy is dH(e) = -log s(e) (entropy.py). Sums only grow as frames are added, so every score
here only falls, and lazy greedy choice is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.entropy import default_bandwidth
from msmlff.distill.kernel_state import KernelState, frame_entropies, target_sums
from msmlff.distill.lazy import lazy_argmax
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.distill.space import environment_space
from msmlff.errors import InputError

CRITERIA = ("coverage", "quests", "max", "mean", "uncovered")
TIE = 1e-6  # gains of float32 sums that differ by less are equal
TIE_64 = 1e-12  # the same of float64 sums
NOTHING = 1e-3  # a frame that adds less than this many environments adds nothing
MARGIN = 4e-3  # of kernel sums, more than float32 exponents make of it
FLOOR = 1e-300  # least kernel sum that is told apart: dH is at most 691


@dataclass(frozen=True)
class SetCover(Selector):
    """Greedy cover of the pool's environments in the manner of QUESTS (arXiv:2404.12367), element by element.

    Criteria:
        coverage: take the frame that adds most to F = sum_e min(c, s(e)) over environments e of the pool,
            c = exp(-threshold). F is monotone and submodular, so the choice reaches at least 1 - 1/e of the
            best (Nemhauser, Wolsey, Fisher, Math. Program. 14, 265 (1978)). Where nothing can be added, c is
            doubled, so the order goes on. At most ``environments`` environments stand for the pool (drawn
            evenly, fixed seed; all of a smaller pool); the frames' own environments are all compared with
            them.
        quests: take the frame with the largest max_e dH(e) + H(frame) over its own environments, first the
            one of the largest entropy H: "msc" of QUESTS' own compression, pick for pick, if ``components``
            is null and ``bandwidth`` is its h (and there is one element).
        max, mean: the largest, or mean, dH of the frame's own environments.
        uncovered: the number of the frame's own environments with dH > threshold, among equals the mean dH.
        The last four see every environment of the pool; without anything chosen they start, as QUESTS does,
        with the frame of the largest entropy.

    Attributes:
        criterion: see above.
        bandwidth: h, in units of the space's coordinates; None: the one at which a random quarter of the pool
            just covers a typical environment (``default_bandwidth``).
        threshold: an environment is covered when dH <= threshold, in nats; 0: the kernels sum to 1.
        components: principal components of the standardised columns in which distances are measured; None:
            the columns as they are.
        environments: of the pool that stand for it (criterion coverage).

    Raises:
        InputError: a parameter out of its range.
    """

    seeded: ClassVar[bool] = False

    criterion: str = "coverage"
    bandwidth: float | None = None
    threshold: float = 0.0
    components: int | None = 16
    environments: int = 4096

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise InputError(
                f"selector.criterion={self.criterion} is unknown: write one of {', '.join(CRITERIA)}"
            )
        if self.bandwidth is not None and not 0 < self.bandwidth < np.inf:
            raise InputError(f"selector.bandwidth={self.bandwidth}: write a positive length, or null")
        if not abs(self.threshold) < 100:
            raise InputError(f"selector.threshold={self.threshold}: write a number of nats, such as 0")
        if self.components is not None and self.components < 1:
            raise InputError(f"selector.components={self.components}: write a number from 1, or null")
        if self.environments < 1:
            raise InputError(f"selector.environments={self.environments}: write a number from 1")

    def pick(self, task: Task) -> Picks:
        """Greedy choice; ties go to the lowest frame."""
        h = self.bandwidth or default_bandwidth(task.features, self.components)
        if self.criterion == "coverage":
            return self._pick_coverage(task, h)
        return self._pick_entropy(task, h)

    def _pick_coverage(self, task: Task, h: float) -> Picks:
        space = environment_space(task.features, self.components)
        table = task.features.remember(
            ("target_sums", self.components, h, self.environments),
            lambda: target_sums(task.features, space, h, self.environments),
        )
        level = np.exp(-self.threshold)
        seen = table[task.held].sum(axis=0, dtype=np.float64)
        choice = _Saturation(table, seen, level)
        bounds = np.full(len(table), -np.inf)
        bounds[task.candidates] = np.inf
        ids, scores = np.empty(task.count, dtype=np.int64), np.empty(task.count)
        for i in range(task.count):
            ids[i] = choice.best(bounds)
            scores[i] = bounds[ids[i]] / table.shape[1]
            bounds[ids[i]] = -np.inf
            choice.add(ids[i])
        details = {
            "bandwidth": h,
            "pool_environments": table.shape[1],
            "covered": float((choice.seen >= level * (1 - 1e-3)).mean()),
            "last_level": float(choice.level),
        }
        return Picks(ids, scores, details=details)

    def _pick_entropy(self, task: Task, h: float) -> Picks:
        features = task.features
        space = environment_space(features, self.components)
        own = features.remember(
            ("frame_entropies", self.components, h), lambda: frame_entropies(features, space, h)
        )
        state = KernelState(features, space, h, bounds=self.criterion in ("quests", "max"))
        bounds = np.full(len(features), -np.inf)
        bounds[task.candidates] = np.inf
        for frame in task.held.tolist():
            state.add(frame)
        score = _Score(self.criterion, self.threshold, state, own)
        ids, scores = np.empty(task.count, dtype=np.int64), np.empty(task.count)
        for i in range(task.count):
            if not state.added:
                allowed = np.where(bounds > -np.inf, own, -np.inf)
                ids[i] = int(np.argmax(allowed >= allowed.max() - TIE_64))
                scores[i] = own[ids[i]]
            else:
                ids[i] = lazy_argmax(bounds, score, TIE_64)
                scores[i] = bounds[ids[i]]
            bounds[ids[i]] = -np.inf
            state.add(int(ids[i]))
        finite = np.isfinite(scores)
        return Picks(ids, np.where(finite, scores, -np.log(FLOOR)), details={"bandwidth": h})


class _Saturation:
    """Gains of F = sum_e min(level, s(e)), and the level as it rises.

    Attributes:
        seen: [targets] s(e) of the choice so far.
        level: at which sums saturate.
    """

    def __init__(self, table: np.ndarray, seen: np.ndarray, level: float) -> None:
        """table: [frames, targets] float32, what each frame adds to each sum."""
        self.table, self.seen, self.level = table, seen, level

    def best(self, bounds: np.ndarray) -> int:
        """The frame that adds most, with the gain in ``bounds``."""
        while True:
            frame = lazy_argmax(bounds, self.gains, TIE)
            if bounds[frame] > NOTHING * self.level or self._adds_nothing(bounds):
                return frame
            self.level *= 2
            bounds[bounds > -np.inf] = np.inf

    def gains(self, frames: np.ndarray, _best: float) -> np.ndarray:
        """[m] what each of ``frames`` would add to F."""
        room = np.maximum(self.level - self.seen, 0.0).astype(np.float32)
        open_ = np.flatnonzero(room)
        if 2 * len(open_) < len(room):
            return np.minimum(self.table[np.ix_(frames, open_)], room[open_]).sum(axis=1, dtype=np.float64)
        return np.minimum(self.table[frames], room).sum(axis=1, dtype=np.float64)

    def add(self, frame: int) -> None:
        """Count the environments of ``frame`` as chosen."""
        self.seen += self.table[frame]

    def _adds_nothing(self, bounds: np.ndarray) -> bool:
        """No frame adds anything at any level: it shares nothing with the environments that stand for the
        pool."""
        if self.level < 2 * self.seen.max(initial=1.0):
            return False
        left = np.flatnonzero(bounds > -np.inf)
        return not any(self.table[i].sum() > NOTHING * self.level for i in left.tolist())


class _Score:
    """Scores of frames from the kernel sums of their own environments."""

    def __init__(self, criterion: str, threshold: float, state: KernelState, entropies: np.ndarray) -> None:
        self.criterion, self.threshold, self.state = criterion, threshold, state
        self.entropies = entropies if criterion == "quests" else np.zeros_like(entropies)
        self.floor = 0.0 if criterion == "quests" else FLOOR

    def __call__(self, frames: np.ndarray, best: float) -> np.ndarray:
        if self.criterion in ("quests", "max"):
            return self._largest(frames, best)
        novelty = self._novelty(self.state.sums_of(frames))
        counts = self.state.num_atoms[frames]
        first = np.cumsum(counts) - counts
        mean = np.add.reduceat(novelty, first) / counts
        if self.criterion == "mean":
            return mean
        covered_to = self.threshold + 1e-5
        uncovered = np.add.reduceat((novelty > covered_to).astype(np.float64), first)
        # The mean lies between -log(atoms of the choice) and 691: as a tie-break it stays below one
        # environment.
        return uncovered + (mean + 50) / 1000

    def _largest(self, frames: np.ndarray, best: float) -> np.ndarray:
        """max dH + entropy, exact for the frames that reach ``best``, an upper bound below it for the
        others."""
        own, counts = self.entropies[frames], self.state.num_atoms[frames]
        # What a frame's sums must exceed for the frame to stay behind the best.
        with np.errstate(over="ignore"):
            enough = np.exp(own - best) * (1 + 4 * MARGIN)
        sums = self.state.sums_of(frames, np.minimum(enough, 1e300))
        values = self._novelty(np.minimum.reduceat(sums, np.cumsum(counts) - counts)) + own + MARGIN
        for i in np.argsort(-values, kind="stable").tolist():
            if values[i] < best:
                break
            values[i] = self._novelty(np.array(self.state.exact_least(int(frames[i]), MARGIN))) + own[i]
            best = max(best, values[i])
        return values

    def _novelty(self, sums: np.ndarray) -> np.ndarray:
        """dH; infinite for "quests" where the kernel underflows, as it is there."""
        with np.errstate(divide="ignore"):
            return -np.log(np.maximum(sums, self.floor))
