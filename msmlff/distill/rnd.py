"""Random network distillation: take the frames on which a predictor misses a random network most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msmlff.distill.features import POOLINGS, Features
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.distill.space import principal_space
from msmlff.errors import InputError

TIE = 1e-7  # distances this close (relative) are equal; the frame of the lowest id is taken
MOST_ROWS = 512  # frames that one step of training sees, at most; of more, a seeded part for each update
ADAM = (0.9, 0.999, 1e-8)  # Adam: decay of both moments, and what keeps the quotient finite


@dataclass(frozen=True)
class RND(Selector):
    """Random network distillation (Finkbeiner, Tovey, Holm, arXiv 2309.03840).

    Two networks of the same shape and different random weights see a frame: the target, which stays as it
    is, and the predictor. The frame on which they differ most is taken, and the predictor is trained (mean
    square, Adam, going on from the weights and moments it has) to give the target's output on all frames
    taken so far. Held frames are learned first, one after the other, exactly as if they had just been picked:
    so with one pick an update, a selection goes on from its own beginning. Copies of frames that are taken
    come last.

    The networks: y = tanh(x W1 + b1) W2 + b2, of the pooled features: standardised, projected on their
    principal components, and divided by one number so that the mean squared norm is that of the whole
    number of components.

    Attributes:
        pooling: how atoms become a frame: "mean_std", "mean", "per_element" or "sum".
        variance: share of the variance that the principal components keep, (0, 1].
        whiten: scale each principal component to unit variance.
        width: hidden units.
        embedding: outputs.
        learning_rate: of Adam.
        steps: of training after each update.
        picks_per_update: frames taken between two updates; more than one is faster, and then a continued
            selection differs from one made at once.

    Raises:
        InputError: a parameter out of its range.
    """

    pooling: str = "mean_std"
    variance: float = 0.95
    whiten: bool = False
    width: int = 64
    embedding: int = 16
    learning_rate: float = 0.01
    steps: int = 20
    picks_per_update: int = 1

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise InputError(
                f"selector.pooling={self.pooling} is unknown: write one of {', '.join(POOLINGS)}"
            )
        for name in ("width", "embedding", "steps", "picks_per_update"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"selector.{name}={value!r}: write a whole number, 1 or more")
        if not 0 < self.variance <= 1:
            raise InputError(f"selector.variance={self.variance}: write a share of the variance in (0, 1]")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"selector.learning_rate={self.learning_rate}: write a positive number")
        # Held frames are learned to the last one, picks in groups: the two do not meet in general.
        object.__setattr__(self, "nested", self.picks_per_update == 1)

    def pick(self, task: Task) -> Picks:
        """One frame after the other; its score is the distance of the two networks when it was taken."""
        points, copy_of = self._inputs(task.features)
        pair = _Pair(points, self, task.seed)
        every = self.picks_per_update
        for stop in [*range(every, len(task.held), every), len(task.held)] if len(task.held) else []:
            pair.learn(task.held[:stop])
        queue = _Queue(task, copy_of)
        ids, scores = np.empty(task.count, dtype=np.int64), np.empty(task.count)
        for start in range(0, task.count, every):
            distances = pair.distances()
            for n in range(start, min(start + every, task.count)):
                ids[n] = queue.take_largest(distances)
                scores[n] = distances[ids[n]]
            if start + every < task.count:
                pair.learn(np.concatenate([task.held, ids[: start + every]]))
        return Picks(ids, scores=scores, details={"components": points.shape[1]})

    def _inputs(self, features: Features) -> tuple[np.ndarray, np.ndarray]:
        """[frames, components] what the networks see, and [frames] a number that copies share."""

        def make() -> tuple[np.ndarray, np.ndarray]:
            pooled = features.pooled(self.pooling)
            points = principal_space(pooled, variance=self.variance)(pooled)
            scale = points.std(axis=0) if self.whiten else np.sqrt((points**2).mean())
            points /= np.where(scale > 0, scale, 1.0)
            return points, np.unique(pooled, axis=0, return_inverse=True)[1].reshape(-1)

        return features.remember(("rnd", self.pooling, self.variance, self.whiten), make)


class _Queue:
    """The candidates that are left."""

    def __init__(self, task: Task, copy_of: np.ndarray) -> None:
        """copy_of: [frames] the same number for frames that are copies of each other."""
        self._copy_of = copy_of
        self._free = np.zeros(len(copy_of), dtype=bool)
        self._free[task.candidates] = True
        self._new = self._free & ~np.isin(copy_of, copy_of[task.held])
        self._new_left = int(self._new.sum())

    def take_largest(self, distances: np.ndarray) -> int:
        """The candidate of the largest distance that is no copy of a frame taken; those when no other is
        left."""
        allowed = self._new if self._new_left else self._free
        values = np.where(allowed, distances, -1.0)
        largest = values.max()
        i = int(np.argmax(values >= largest - TIE * abs(largest)))
        self._free[i] = False
        if self._new_left:
            self._new &= self._copy_of != self._copy_of[i]
            self._new_left = int(self._new.sum())
        return i


class _Pair:
    """Target and predictor over the frames of a pool."""

    def __init__(self, points: np.ndarray, settings: RND, seed: int) -> None:
        """points: [frames, components]."""
        rng = np.random.default_rng(seed)
        shape = (points.shape[1], settings.width, settings.embedding)
        target = random_weights(rng, *shape)
        self._points, self._settings, self._seed = points, settings, seed
        self._weights = random_weights(rng, *shape)
        self._goal = network(points, target)[0]
        self._first = [np.zeros_like(w) for w in self._weights]
        self._second = [np.zeros_like(w) for w in self._weights]
        self._time = 0

    def distances(self) -> np.ndarray:
        """[frames] Euclidean distance of the two outputs."""
        # Always over the whole pool: the bits of a product depend on its shape, and picks must not.
        difference = network(self._points, self._weights)[0] - self._goal
        return np.sqrt(np.einsum("ij,ij->i", difference, difference))

    def learn(self, ids: np.ndarray) -> None:
        """Trains the predictor on frames ``ids``, from the state it is in, by Adam (Kingma and Ba, arXiv
        1412.6980)."""
        if len(ids) > MOST_ROWS:
            # The newest frame always, the others by chance; a stream of its own for each number of frames.
            rng = np.random.default_rng([self._seed, len(ids)])
            ids = np.append(rng.choice(ids[:-1], size=MOST_ROWS - 1, replace=False), ids[-1])
        x, goal = self._points[ids], self._goal[ids]
        decay_first, decay_second, smallest = ADAM
        for _ in range(self._settings.steps):
            self._time += 1
            rate = self._settings.learning_rate / (1 - decay_first**self._time)
            correction = 1 - decay_second**self._time
            gradients = loss_and_gradients(x, goal, self._weights)[1]
            for w, g, m, v in zip(self._weights, gradients, self._first, self._second, strict=True):
                m += (1 - decay_first) * (g - m)
                v += (1 - decay_second) * (g * g - v)
                w -= rate * m / (np.sqrt(v / correction) + smallest)


def random_weights(rng: np.random.Generator, inputs: int, width: int, outputs: int) -> list[np.ndarray]:
    """W1 [inputs, width], b1 [width], W2 [width, outputs], b2 [outputs], of zero mean; W1 and W2 of
    variance 1 / inputs and 1 / width."""
    return [
        rng.normal(size=(inputs, width)) / np.sqrt(inputs),
        rng.normal(size=width),
        rng.normal(size=(width, outputs)) / np.sqrt(width),
        np.zeros(outputs),
    ]


def network(x: np.ndarray, weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Outputs [rows, outputs] and hidden values [rows, width] for x [rows, inputs]."""
    w1, b1, w2, b2 = weights
    hidden = np.tanh(x @ w1 + b1)
    return hidden @ w2 + b2, hidden


def loss_and_gradients(
    x: np.ndarray, goal: np.ndarray, weights: list[np.ndarray]
) -> tuple[float, list[np.ndarray]]:
    """Mean over rows and outputs of the squared difference to ``goal`` [rows, outputs], and its derivative
    with respect to each of the weights."""
    output, hidden = network(x, weights)
    difference = output - goal
    back = difference * (2.0 / difference.size)
    inner = (back @ weights[2].T) * (1.0 - hidden * hidden)
    gradients = [x.T @ inner, inner.sum(axis=0), hidden.T @ back, back.sum(axis=0)]
    return float((difference * difference).mean()), gradients
