"""DIRECT sampling: clusters in weighted principal components, the frame nearest to each cluster's centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.clusters import Scene, birch, check_number, check_whole, distinct, from_clusters
from msmlff.distill.features import POOLINGS
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.distill.space import varying
from msmlff.errors import InputError


@dataclass(frozen=True)
class DIRECT(Selector):
    """DIRECT (Qi, Ko, Wood, Pham and Ong, npj Comput. Mater. 10, 43 (2024), arXiv 2307.13710).

    Pooled features are standardised; the principal components with eigenvalues above 1 are kept (Kaiser's
    rule) and each is weighted by its share of the variance; BIRCH makes budget / k clusters; from each comes
    the frame nearest to the centre of that cluster (k > 1: frames at even steps in the order of that
    distance). Clusters that are too small leave the rest of the budget to the frames farthest from all
    chosen. Clusters with a held frame give none: there are as many clusters without one as picks need.

    Attributes:
        pooling: how atoms become a frame: "mean_std", "mean" or "per_element".
        threshold: radius of BIRCH's subclusters in the weighted components; halved until there are enough.
        k: frames from each cluster.

    Raises:
        InputError: a parameter out of its range.
    """

    nested: ClassVar[bool] = False
    seeded: ClassVar[bool] = False
    pooling: str = "mean_std"
    threshold: float = 0.5
    k: int = 1

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise InputError(
                f"selector.pooling={self.pooling} is unknown: write one of {', '.join(POOLINGS)}"
            )
        check_number("threshold", self.threshold, 0, np.inf)
        check_whole("k", self.k)

    def pick(self, task: Task) -> Picks:
        """The frame nearest to the centre of each cluster, the largest clusters first."""
        features = task.features
        points = features.remember(
            ("direct", self.pooling), lambda: weighted_components(features.pooled(self.pooling))
        )
        scene = Scene.of(points, task)
        clusters = -(-task.count // self.k)
        labels, details = distinct(scene), {"components": points.shape[1]}
        if labels.max(initial=-1) >= clusters:
            labels, further = birch(scene, clusters, self.threshold, branching=50)
            details |= further
        return from_clusters(scene, labels, task.count, self.k, details)


def weighted_components(pooled: np.ndarray) -> np.ndarray:
    """Principal components of standardised columns with eigenvalues above 1, times their shares of variance.

    Args:
        pooled: [frames, columns].

    Returns:
        [frames, components]; one component of zeros where all frames are alike.
    """
    mean, std = pooled.mean(axis=0), pooled.std(axis=0)
    varies = varying(pooled)
    if not varies.any():
        return np.zeros((len(pooled), 1))
    x = (pooled - mean)[:, varies] / std[varies]
    values, vectors = np.linalg.eigh(x.T @ x / (len(x) - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > 1
    # The largest loading is positive, so that signs do not depend on the linear algebra library.
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(len(values))]
    components: np.ndarray = x @ (vectors * np.sign(largest))[:, kept]
    return components * (values[kept] / values.sum())
