"""Selectors from linear algebra: frames that span the features (CUR), frames of largest volume (MaxDet)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.features import POOLINGS, Features
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.distill.space import standardised
from msmlff.errors import InputError

SPANNED = 1e-12  # share of the features' squared norm below which a direction is spanned by the picks
IN_SPAN = 1e-10  # a row whose part orthogonal to the picks is a smaller share of it adds nothing but rounding
TIE = 1e-7  # values this close (relative) are equal; the frame of the lowest id is taken
DENSE = 64  # columns up to which all eigenvectors are computed at once
MOST_ENTRIES = (
    1 << 27
)  # of the triangular factor of a Gaussian kernel: 1 GiB in float64, twice that for a while
WIDTH_FRAMES = 1000  # frames that decide the width of a Gaussian kernel, at most


@dataclass(frozen=True)
class CUR(Selector):
    """CUR row selection by leverage scores (Mahoney and Drineas, PNAS 106, 697 (2009), eq. 3), one frame at
    a time (Imbalzano et al., J. Chem. Phys. 148, 241730 (2018), section II.C).

    The score of frame i is sum_{j <= k} U_ij², with U the leading left singular vectors of the [frames,
    columns] matrix of pooled features. A frame is taken, all rows are made orthogonal to it, and the scores
    are computed again, from the [columns, columns] Gram matrix: O(columns²) for each Lanczos step and
    O(frames x columns) a pick, never an SVD of the whole matrix. Held frames are taken first in the same
    way. When the frames taken span the rest (up to 1e-12 of its squared norm for each column), a new round
    begins with the frames that are left.

    Attributes:
        pooling: how atoms become a frame: "mean_std", "mean" or "per_element".
        standardise: centre each pooled column and scale it to unit variance; False: the columns as they are.
        k: singular vectors that make the scores.
        draw: "greedy": the largest score (no chance in it); "sampled": drawn in proportion to the scores.

    Raises:
        InputError: a parameter out of its range.
    """

    pooling: str = "mean_std"
    standardise: bool = True
    k: int = 1
    draw: str = "greedy"

    def __post_init__(self) -> None:
        _check_choice("pooling", self.pooling, tuple(POOLINGS))
        _check_choice("draw", self.draw, ("greedy", "sampled"))
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise InputError(f"selector.k={self.k!r}: write a number of singular vectors, 1 or more")
        object.__setattr__(self, "seeded", self.draw == "sampled")

    def pick(self, task: Task) -> Picks:
        """One frame after the other by leverage."""
        rows = np.union1d(task.candidates, task.held)
        search = _Leverage(_columns(task.features, self.pooling, self.standardise)[rows], self.k)
        for i in np.searchsorted(rows, task.held):
            search.take(int(i))
        free = np.isin(rows, task.candidates)
        ids, scores = np.empty(task.count, dtype=np.int64), np.empty(task.count)
        for n in range(task.count):
            leverage = search.scores()
            if self.draw == "greedy":
                i = _best(leverage, free)
            else:
                # Largest log(weight) + Gumbel noise: a draw in proportion to the weights. The stream is that
                # of the frames taken so far, so that a selection goes on from its own beginning.
                stream = np.random.default_rng([task.seed, len(task.held) + n])
                noise = stream.gumbel(size=len(task.features))[rows]
                i = _best(np.log(np.maximum(leverage, np.finfo(float).tiny)) + noise, free)
            ids[n], scores[n], free[i] = rows[i], leverage[i], False
            search.take(i)
        return Picks(ids, scores=scores, details={"rounds": search.rounds})


class _Leverage:
    """Leverage scores of rows, made orthogonal to the rows taken so far.

    An eigenvector v of the projected Gram matrix is itself orthogonal to the rows taken, so the projected
    row's component along it is that of the row as it was: the rows are never rewritten.
    """

    def __init__(self, x: np.ndarray, k: int) -> None:
        """x: [rows, columns] float64; k: singular vectors."""
        self.rounds = 0
        self._x, self._k = x.copy(), k
        self._begin_round()

    def scores(self) -> np.ndarray:
        """[rows] sum over the leading k singular vectors of U_ij²; rows taken have about 0."""
        if self._total <= 0:
            return np.zeros(len(self._x))
        values, vectors = self._leading()
        keep = values > SPANNED * self._total
        projected = self._x @ vectors[:, keep]
        return ((projected * projected) / values[keep]).sum(axis=1)

    def take(self, i: int) -> None:
        """Makes all rows orthogonal to row i; begins a new round when nothing is left of them."""
        row = self._x[i].copy()
        for _ in range(2):  # twice is enough for orthogonality to rounding
            row -= self._basis[: self._rank].T @ (self._basis[: self._rank] @ row)
        norm = float(np.linalg.norm(row))
        self._taken.append(i)
        if self._rank < len(self._basis) and norm > IN_SPAN * float(np.linalg.norm(self._x[i])):
            u = row / norm
            self._basis[self._rank] = u
            self._rank += 1
            gu = self._gram @ u
            self._gram += np.outer(u, (u @ gu) * u - gu) - np.outer(gu, u)
        if self._total > 0 and np.trace(self._gram) <= len(self._gram) * SPANNED * self._total:
            self._begin_round()

    def _begin_round(self) -> None:
        """Starts from the rows that are not taken, as they were at first."""
        if self.rounds:
            self._x[self._taken] = 0.0
        self.rounds += 1
        self._taken: list[int] = []
        self._gram = self._x.T @ self._x
        self._total = float(np.trace(self._gram))
        self._basis = np.empty((min(self._x.shape), self._x.shape[1]))
        self._rank = 0

    def _leading(self) -> tuple[np.ndarray, np.ndarray]:
        """[k] eigenvalues and [columns, k] eigenvectors of the projected Gram matrix."""
        columns = len(self._gram)
        if columns <= DENSE or 4 * self._k >= columns:
            values, vectors = np.linalg.eigh(self._gram)
            return values[-self._k :], vectors[:, -self._k :]
        from scipy.sparse.linalg import ArpackNoConvergence, eigsh

        # A fixed start that has a part in every direction left keeps the result free of chance.
        start = self._gram @ np.random.default_rng(0).normal(size=columns)
        try:
            values, vectors = eigsh(self._gram, k=self._k, v0=start, tol=1e-10)
        except ArpackNoConvergence:
            values, vectors = np.linalg.eigh(self._gram)
        return values[-self._k :], vectors[:, -self._k :]


@dataclass(frozen=True)
class MaxDet(Selector):
    """Greedy D-optimality: each pick adds most to log det(K + e 1) over the frames taken, held ones included
    (greedy MAP inference of a determinantal point process, Chen, Zhang and Zhou, NeurIPS 2018, algorithm 1).

    The gain of a frame is log(1 + v / e), with v its variance given the frames taken (a Gaussian process of
    that kernel and noise variance e). For the linear kernel this is a pivoted Cholesky factorisation in
    feature space: log det(1 + X^T X / e), O(frames x columns) a pick and no memory beyond the features; above
    the rank of the features the same e makes it repeat the design on new frames. For the Gaussian kernel it
    is the pivoted Cholesky factorisation of K + e 1, O(frames x taken) a pick, frames x taken numbers of
    memory. Columns are scaled so that a frame's mean kernel value with itself is 1.

    Attributes:
        pooling: how atoms become a frame: "mean_std", "mean" or "per_element".
        standardise: centre each pooled column and scale it to unit variance; False: the columns as they are.
        kernel: "linear", x.y; "gaussian", exp(-|x - y|² / (2 width²)).
        width: of the Gaussian, in units of the median distance between frames.
        regularisation: e, noise variance in units of the mean k(x, x).

    Raises:
        InputError: a parameter out of its range; in ``select``: a Gaussian kernel that needs more than 1 GiB.
    """

    seeded: ClassVar[bool] = False
    pooling: str = "mean_std"
    standardise: bool = True
    kernel: str = "linear"
    width: float = 1.0
    regularisation: float = 1e-6

    def __post_init__(self) -> None:
        _check_choice("pooling", self.pooling, tuple(POOLINGS))
        _check_choice("kernel", self.kernel, ("linear", "gaussian"))
        for name in ("width", "regularisation"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InputError(f"selector.{name}={value!r}: write a number above 0")

    def pick(self, task: Task) -> Picks:
        """One frame after the other by the gain in log det."""
        rows = np.union1d(task.candidates, task.held)
        x = _columns(task.features, self.pooling, self.standardise)[rows]
        search = self._search(x, len(task.held) + task.count)
        search.hold(np.searchsorted(rows, task.held))
        free = np.isin(rows, task.candidates)
        ids, gains = np.empty(task.count, dtype=np.int64), np.empty(task.count)
        for n in range(task.count):
            i = _best(search.variance, free)
            ids[n], gains[n], free[i] = rows[i], np.log1p(max(search.variance[i], 0.0)), False
            search.take(i)
        return Picks(ids, scores=gains)

    def _search(self, x: np.ndarray, most: int) -> _LinearVariance | _GaussianVariance:
        if self.kernel == "linear":
            mean_square = float((x * x).sum() / len(x)) or 1.0
            return _LinearVariance(x / math.sqrt(mean_square * self.regularisation))
        if len(x) * most > MOST_ENTRIES:
            raise InputError(
                f"selector.kernel=gaussian would hold {len(x)} x {most} numbers (frames x frames taken), "
                "more than 1 GiB: write selector.kernel=linear, or a smaller budget"
            )
        return _GaussianVariance(x / (self.width * _median_distance(x)), self.regularisation, most)


class _LinearVariance:
    """Variances of rows in units of the noise, for the kernel x.y: x^T (1 + X_T^T X_T)^-1 x over the rows
    taken T."""

    def __init__(self, x: np.ndarray) -> None:
        """x: [rows, columns] in units of the root of the noise variance."""
        self._x = x
        self._inverse = np.eye(x.shape[1])
        self.variance: np.ndarray = (x * x).sum(axis=1)

    def hold(self, rows: np.ndarray) -> None:
        """Conditions on many rows at once."""
        if not len(rows):
            return
        # Singular values of the rows, not of their squares: the noise is small against them.
        _, singular, axes = np.linalg.svd(np.linalg.qr(self._x[rows], mode="r"))
        shrink = np.ones(len(axes))
        shrink[: len(singular)] = 1 / np.sqrt(1 + singular**2)
        half = axes.T * shrink
        self._inverse = half @ half.T
        self.variance = ((self._x @ half) ** 2).sum(axis=1)

    def take(self, i: int) -> None:
        """Conditions on row i (Sherman and Morrison)."""
        v = self._inverse @ self._x[i]
        v /= math.sqrt(1 + max(float(v @ self._x[i]), 0.0))
        self._inverse -= np.outer(v, v)
        self.variance = self.variance - (self._x @ v) ** 2


class _GaussianVariance:
    """Variances of rows in units of the noise, for a Gaussian kernel of width 1."""

    def __init__(self, x: np.ndarray, noise: float, most: int) -> None:
        """x: [rows, columns] in units of the width; noise: variance; most: rows that will be taken."""
        self._x, self._noise = x, noise
        self._squares = (x * x).sum(axis=1)
        self._factor = np.empty((most, len(x)))
        self._rank = 0
        self.variance: np.ndarray = np.full(len(x), 1 / noise)

    def hold(self, rows: np.ndarray) -> None:
        """The first rows of the factor, for many rows at once."""
        if not len(rows):
            return
        from scipy.linalg import solve_triangular

        kernel = self._kernel(rows)
        lower = np.linalg.cholesky(kernel[:, rows] + self._noise * np.eye(len(rows)))
        part = solve_triangular(lower, kernel, lower=True, overwrite_b=True)
        self._factor[: len(rows)] = part
        self._rank = len(rows)
        self.variance = self.variance - np.einsum("ij,ij->j", part, part) / self._noise

    def take(self, i: int) -> None:
        """One more row of the pivoted Cholesky factor of K + noise."""
        before = self._factor[: self._rank]
        row = self._kernel(np.array([i]))[0] - before[:, i] @ before
        row /= math.sqrt((max(self.variance[i], 0.0) + 1) * self._noise)
        self._factor[self._rank] = row
        self._rank += 1
        self.variance = self.variance - row * row / self._noise

    def _kernel(self, rows: np.ndarray) -> np.ndarray:
        """[rows, n] kernel of some rows with all."""
        squares = self._squares[rows, None] + self._squares - 2 * (self._x[rows] @ self._x.T)
        kernel: np.ndarray = np.exp(-0.5 * np.maximum(squares, 0.0))
        return kernel


def _columns(features: Features, pooling: str, standardise: bool) -> np.ndarray:
    """[frames, columns] float64 pooled features; standardised: constant columns become 0."""
    x = features.pooled(pooling)
    return standardised(x) if standardise else x


def _median_distance(x: np.ndarray) -> float:
    """Median distance between different rows, of a fixed random part where there are many; 1 if all agree."""
    part = x
    if len(x) > WIDTH_FRAMES:
        part = x[np.random.default_rng(0).choice(len(x), size=WIDTH_FRAMES, replace=False)]
    squares = (part * part).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * (part @ part.T), 0.0)[
        np.triu_indices(len(part), 1)
    ]
    positive = distances[distances > TIE * distances.max(initial=0.0)]
    return math.sqrt(float(np.median(positive))) if len(positive) else 1.0


def _best(values: np.ndarray, free: np.ndarray) -> int:
    """The first free row whose value is the largest, up to rounding."""
    masked = np.where(free, values, -np.inf)
    largest = masked.max()
    return int(np.argmax(masked >= largest - TIE * abs(largest)))


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"selector.{name}={value} is unknown: write one of {', '.join(known)}")
