"""Selectors for gradient features: farthest from all that is chosen (MaxDist), and LCMD.

The kernel of two frames is the product of their pooled features. With the gradients of the energy
with respect to a model's last weights (descriptor=last_layer) it is the last-layer kernel of Holzmüller,
Zaverkin, Kästner and Steinwart, J. Mach. Learn. Res. 24, 164 (2023); the methods are theirs, in the mode that
counts the training set (TP): the held frames are centres from the start.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.features import POOLINGS
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.distill.space import standardised
from msmlff.errors import InputError

COPY = 1e-12  # share of the largest squared distance from the mean below which a squared distance is rounding


@dataclass(frozen=True)
class _Centred(Selector):
    """Base: frames are picked by their distance to the nearest of the frames taken before.

    Without any, the first pick is the frame of the largest norm, as in the paper. Ties go to the frame of
    the lowest id; copies of frames that are taken come last.

    Attributes:
        pooling: how atoms become a frame: "sum" (the gradient of an energy is the sum over its atoms; larger
            frames weigh more), "mean" (whatever the number of atoms), "mean_std" or "per_element".
        standardise: centre each pooled column and scale it to unit variance, which gradients do not need and
            features of another kind may.

    Raises:
        InputError: an unknown pooling.
    """

    seeded: ClassVar[bool] = False
    pooling: str = "sum"
    standardise: bool = False

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise InputError(
                f"selector.pooling={self.pooling} is unknown: write one of {', '.join(POOLINGS)}"
            )

    def pick(self, task: Task) -> Picks:
        """One frame after the other; its score is the distance to the nearest frame taken before, for the
        first of all its norm."""
        x = task.features.pooled(self.pooling)
        if self.standardise:
            x = standardised(x)
        norms = np.sqrt(np.einsum("ij,ij->i", x, x))
        centres = _Centres(x)
        for i in task.held.tolist():
            centres.add(i)
        free = np.zeros(len(x), dtype=bool)
        free[task.candidates] = True
        ids, scores = np.empty(task.count, dtype=np.int64), np.empty(task.count)
        for n in range(task.count):
            if centres.number:
                i = self._next(centres, free)
                scores[n] = np.sqrt(centres.squares[i])
            else:
                i = int(np.argmax(np.where(free, norms, -1.0)))
                scores[n] = norms[i]
            ids[n], free[i] = i, False
            centres.add(i)
        return Picks(ids, scores=scores)

    @abstractmethod
    def _next(self, centres: _Centres, free: np.ndarray) -> int:
        """The next frame; free: [frames] bool, those that may be taken."""


@dataclass(frozen=True)
class MaxDistGradients(_Centred):
    """MaxDist: the frame that is farthest from its nearest centre (farthest-point sampling in the space of
    the gradients)."""

    def _next(self, centres: _Centres, free: np.ndarray) -> int:
        return int(np.argmax(np.where(free, centres.squares, -1.0)))


@dataclass(frozen=True)
class LCMD(_Centred):
    """Largest cluster, maximum distance (LCMD-TP of the paper).

    Every candidate belongs to its nearest centre. The size of a cluster is the sum of the squared distances
    of its candidates to the centre; from the largest cluster the frame farthest from the centre is taken, and
    becomes a centre.
    """

    def _next(self, centres: _Centres, free: np.ndarray) -> int:
        squares = np.where(free, centres.squares, 0.0)
        size = np.bincount(centres.nearest, weights=squares, minlength=centres.number)
        inside = centres.nearest == np.argmax(size) if size.max() > 0 else True
        return int(np.argmax(np.where(free & inside, squares, -1.0)))


class _Centres:
    """Distances of all frames to their nearest centre.

    number: centres; squares: [frames] squared distance to the nearest; nearest: [frames] which it is, in the
    order of addition.
    """

    def __init__(self, x: np.ndarray) -> None:
        """x: [frames, columns] float64."""
        # About the mean, the expanded square loses fewer digits.
        self._x = x - x.mean(axis=0)
        self._norms = np.einsum("ij,ij->i", self._x, self._x)
        self._copy = COPY * float(self._norms.max())
        self.number = 0
        self.squares = np.full(len(x), np.inf)
        self.nearest = np.zeros(len(x), dtype=np.int64)

    def add(self, i: int) -> None:
        """Makes frame i a centre."""
        # Always over the whole pool: the bits of a product depend on its shape, and picks must not.
        squares = self._norms + self._norms[i] - 2 * (self._x @ self._x[i])
        squares[squares <= self._copy] = 0.0
        squares[i] = 0.0
        nearer = squares < self.squares
        self.squares[nearer] = squares[nearer]
        self.nearest[nearer] = self.number
        self.number += 1
