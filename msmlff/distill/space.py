"""Linear spaces in which distances between atomic environments, or frames, are measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msmlff.distill.features import Features

SAMPLE = 4000  # environments that decide the axes, drawn evenly with a fixed seed
CONSTANT = 1e-5  # a column that varies by less than this share of its size is float32 noise about a constant
NOISE = 1e-6  # and so is one that varies by less than this share of the largest number in all columns


@dataclass(frozen=True, eq=False)
class Space:
    """mean: [F]; axes: [F, components], or None for the columns as they are; explained: [components] share of
    the standardised variance along each axis."""

    mean: np.ndarray
    axes: np.ndarray | None
    explained: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """[n, components] float64 coordinates of rows [n, F]; the mean is the origin."""
        centred = np.asarray(rows, dtype=np.float64) - self.mean
        return centred if self.axes is None else centred @ self.axes


def varying(x: np.ndarray) -> np.ndarray:
    """[F] bool: columns of x [n, F] that are more than float32 noise about a constant."""
    size = np.abs(x).max(axis=0, initial=0.0)
    varies: np.ndarray = x.std(axis=0) > np.maximum(CONSTANT * size, NOISE * size.max(initial=0.0))
    return varies


def standardised(x: np.ndarray) -> np.ndarray:
    """Columns of x [n, F] at zero mean and unit variance; constant ones become 0."""
    varies = varying(x)
    z: np.ndarray = (x - x.mean(axis=0)) / np.where(varies, x.std(axis=0), 1.0)
    z[:, ~varies] = 0.0
    return z


def principal_space(rows: np.ndarray, components: int | None = None, variance: float = 1.0) -> Space:
    """Standardise and project in one product: principal components of the columns at unit variance.

    Args:
        rows: [n, F]; constant columns are left out.
        components: how many to keep at most.
        variance: keep the fewest components that hold this share of the variance, (0, 1].
    """
    x = np.asarray(rows, dtype=np.float64)
    mean, std = x.mean(axis=0), x.std(axis=0)
    varies = varying(x)
    scale = np.where(varies, 1 / np.where(varies, std, 1.0), 0.0)
    z = (x - mean) * scale
    values, vectors = np.linalg.eigh(z.T @ z)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    explained = values / max(values.sum(), np.finfo(float).tiny)
    enough = int(np.searchsorted(np.cumsum(explained), variance - 1e-12)) + 1
    keep = max(1, min(enough, int((explained > 1e-12).sum()), components or len(values)))
    # The largest loading of each axis is positive, so that signs do not depend on the linear algebra library.
    vectors = vectors[:, :keep]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(keep)])
    return Space(mean, scale[:, None] * vectors * signs, explained[:keep])


def environment_space(features: Features, components: int | None) -> Space:
    """The space of a pool's environments, from a sample of ``SAMPLE`` of them; computed once.

    Args:
        components: principal components of the standardised columns to keep; None: the columns as they are.
    """

    def make() -> Space:
        n = len(features.rows)
        part = np.sort(np.random.default_rng(0).choice(n, size=min(n, SAMPLE), replace=False))
        rows = np.asarray(features.rows[part], dtype=np.float64)
        if components is None:
            return Space(rows.mean(axis=0), None, np.empty(0))
        return principal_space(rows, components)

    return features.remember(("environment_space", components), make)
