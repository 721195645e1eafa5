"""D-optimal design on atomic environments: the frames that teach most about atomic energies.

Moment tensor and ACE potentials grade extrapolation by the same determinant, environment by environment
(Podryabinkin, Shapeev, Comput. Mater. Sci. 140, 171 (2017)); here whole frames are chosen by it, from a
descriptor, before there is a potential.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.features import Features
from msmlff.distill.lazy import Evaluate, lazy_argmax
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.distill.space import SAMPLE, Space, environment_space
from msmlff.errors import InputError

TIE = 1e-9
FRAMES = 256  # whose determinants are computed at a time
MEMORY = 1 << 30  # bytes of all frames' moments; fewer components are kept where they would take more


@dataclass(frozen=True)
class DOptimal(Selector):
    """The frames after which a Bayesian linear model of atomic energies knows most, greedily.

    The energy of an environment of element z is w_z . (1, x), x its principal components scaled to unit mean
    square length, with w_z ~ N(0, 1). Forces and energies of a frame tell about each of its atoms, not about
    their mean; so a frame shows all its environments, each with noise of variance ``noise``. The next frame
    is the one that adds most to

        sum_z log det A_z,    A_z = 1 + sum_{chosen frames} sum_{atoms of z} (1, x) (1, x)^T / noise,

    twice the information about w in nats. Max-det (D-optimality) does this with one row a frame; here a frame
    is a block of rows, and one odd atom among many usual ones counts in full. The sum is monotone and
    submodular: the choice reaches at least 1 - 1/e of the best (Nemhauser, Wolsey, Fisher, Math. Program. 14,
    265 (1978)), lazy evaluation is exact, and the order is nested. A large frame adds more than a small one:
    where sizes differ and labels are paid by the atom, write per_atom=true.

    Attributes:
        components: principal components of the environments' standardised columns; fewer, as the details then
            say, where the frames' moments would take more than 1 GiB.
        noise: variance of an environment's noise, in units of the prior variance of its energy; the smaller,
            the more a direction counts that nothing chosen has shown.

    Raises:
        InputError: a parameter out of its range.
    """

    seeded: ClassVar[bool] = False

    components: int = 32
    noise: float = 0.01
    per_atom: bool = False

    def __post_init__(self) -> None:
        if self.components < 1:
            raise InputError(f"selector.components={self.components}: write a whole number >= 1")
        if not self.noise > 0:
            raise InputError(f"selector.noise={self.noise}: write a number above 0")

    def pick(self, task: Task) -> Picks:
        """The largest gain of information next."""
        moments = task.features.remember(("d_optimal", self.components), lambda: self._moments(task.features))
        state = np.eye(moments.shape[-1]) + moments[task.held].sum(axis=0, dtype=np.float64) / self.noise
        price = task.features.num_atoms if self.per_atom else np.ones(len(moments))
        bounds = np.full(len(moments), -np.inf)
        bounds[task.candidates] = np.inf
        ids, scores = np.empty(task.count, dtype=np.int64), np.empty(task.count)
        for i in range(task.count):
            ids[i] = lazy_argmax(bounds, self._gains(state, moments, price), TIE)
            scores[i] = bounds[ids[i]]
            bounds[ids[i]] = -np.inf
            state = state + moments[ids[i]] / self.noise
        details = {"information": float(np.linalg.slogdet(state)[1].sum() / 2)}
        kept = moments.shape[-1] - 1
        if kept < len(environment_space(task.features, self.components).explained):
            details["components"] = kept
        return Picks(ids, scores, details=details)

    def _gains(self, state: np.ndarray, moments: np.ndarray, price: np.ndarray) -> Evaluate:
        before = np.linalg.slogdet(state)[1].sum()

        def evaluate(frames: np.ndarray, _: float) -> np.ndarray:
            after = np.empty(len(frames))
            for start in range(0, len(frames), FRAMES):  # lazy searches ask for many at once at first
                part = slice(start, start + FRAMES)
                held = state + moments[frames[part]] / self.noise
                after[part] = np.linalg.slogdet(held)[1].sum(axis=1)
            gains: np.ndarray = (after - before) / price[frames]
            return gains

        return evaluate

    def _moments(self, features: Features) -> np.ndarray:
        """[frames, elements, 1 + components, 1 + components] sum of (1, x) (1, x)^T over atoms, float32."""
        elements, index = np.unique(features.numbers, return_inverse=True)
        most = math.isqrt(MEMORY // (4 * len(features) * len(elements))) - 1
        space = environment_space(features, max(1, min(self.components, most)))
        scale = _root_mean_square(features, space)
        size = 1 + len(space.explained)
        moments = np.zeros((len(features), len(elements), size, size), dtype=np.float32)
        for start, stop in features.blocks():
            first, last = features.offsets[[start, stop]]
            x = np.ones((last - first, size))
            x[:, 1:] = space(features.rows[first:last]) / scale
            for frame in range(start, stop):
                own = slice(*(features.offsets[frame : frame + 2] - first))
                for e in range(len(elements)):
                    of_e = x[own][index[first:last][own] == e]
                    moments[frame, e] = of_e.T @ of_e
        return moments


def _root_mean_square(features: Features, space: Space) -> float:
    """Length of a typical environment in the space, from a sample."""
    n = len(features.rows)
    part = np.sort(np.random.default_rng(0).choice(n, size=min(n, SAMPLE), replace=False))
    return float(np.sqrt((space(features.rows[part]) ** 2).sum(axis=1).mean())) or 1.0
