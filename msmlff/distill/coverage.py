"""What a selection keeps of its pool: the share of frames and of atomic environments near a chosen one."""

from __future__ import annotations

from typing import Any

import numpy as np

from msmlff.distill.density import project
from msmlff.distill.features import Features
from msmlff.distill.selection import Selection

SAMPLE = 1000  # environments of the pool that are looked at, drawn evenly with a fixed seed
MOST_ROWS = 200_000  # environments searched for the nearest, at most
COMPONENTS = 16  # of the environments' features
TYPICAL = 0.95  # "near": as near as this share of the pool is to its own nearest neighbour


def coverage(
    features: Features, selection: Selection, groups: np.ndarray | None = None, pooling: str = "mean_std"
) -> dict[str, Any]:
    """How well ``selection`` (and the reference it was conditioned on) covers the pool. No labels are read.

    Distances are Euclidean between principal components of standardised features (95 % of the variance
    for frames, the first 16 for atomic environments). The radius is the distance within which 95 % of the
    pool's frames (or environments, a sample of 1000) have another one (in another frame); a full
    selection covers 1.

    Returns:
        {"frames": {"radius", "share", "mean_distance", "max_distance"}, "environments": the same,
        "groups": {name: {"pool", "chosen", "share"}}} with the share of frames within the radius; empty
        where all frames are alike.
    """
    ids = np.union1d(selection.ids, np.asarray(selection.record.get("reference", []), dtype=np.int64))
    pooled = features.pooled(pooling)
    if len(features) < 2 or not np.ptp(pooled, axis=0).any():
        return {}
    points = project(pooled, 0.95).coordinates
    to_chosen = _nearest(points, points[ids])
    frames = _summary(_radius(_nearest_other(points)), to_chosen)
    result: dict[str, Any] = {"frames": frames, "environments": _environments(features, ids)}
    if groups is not None:
        near = to_chosen <= frames["radius"]
        chosen = np.isin(np.arange(len(features)), selection.ids)
        result["groups"] = {
            str(name): {
                "pool": int((groups == name).sum()),
                "chosen": int((groups == name)[chosen].sum()),
                "share": float(near[groups == name].mean()),
            }
            for name in np.unique(groups)
        }
    return result


def _environments(features: Features, ids: np.ndarray) -> dict[str, float]:
    rng = np.random.default_rng(0)
    n = len(features.rows)
    searched = np.sort(rng.choice(n, size=min(n, MOST_ROWS), replace=False))
    sample = np.sort(rng.choice(n, size=min(n, SAMPLE), replace=False))
    frame = np.repeat(np.arange(len(features)), features.num_atoms)
    ours = np.flatnonzero(np.isin(frame, ids))
    if len(ours) > MOST_ROWS:
        ours = np.sort(rng.choice(ours, size=MOST_ROWS, replace=False))
    mean, axes = _axes(np.asarray(features.rows[sample], dtype=np.float64))

    def reduced(rows: np.ndarray) -> np.ndarray:
        # In float64 up to here; distances of standardised features need no more than float32.
        return ((np.asarray(features.rows[rows], dtype=np.float64) - mean) @ axes).astype(np.float32)

    pool, chosen, points = reduced(searched), reduced(ours), reduced(sample)
    radius = _radius(_nearest(points, pool, frame[sample], frame[searched]))
    return _summary(radius, _nearest(points, chosen))


def _axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mean [F] and axes [F, components]: standardise and project in one product."""
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    varies = std > 1e-5 * np.abs(rows).max(axis=0)
    scale = np.where(varies, 1 / np.where(varies, std, 1.0), 0.0)
    _, _, vt = np.linalg.svd((rows - mean) * scale, full_matrices=False)
    return mean, scale[:, None] * vt[:COMPONENTS].T


def _nearest(
    points: np.ndarray, others: np.ndarray, own: np.ndarray | None = None, theirs: np.ndarray | None = None
) -> np.ndarray:
    """[points] distance to the nearest of ``others``; those of the same frame (own == theirs) do not
    count."""
    norms = (others * others).sum(axis=1)
    step = max(1, (1 << 22) // len(others))
    nearest = np.empty(len(points))
    for start in range(0, len(points), step):
        x = points[start : start + step]
        squares = (x * x).sum(axis=1)[:, None] + norms - 2 * (x @ others.T)
        if own is not None and theirs is not None:
            squares[own[start : start + step, None] == theirs] = np.inf
        nearest[start : start + step] = squares.min(axis=1)
    return np.sqrt(np.maximum(nearest, 0.0))


def _nearest_other(points: np.ndarray) -> np.ndarray:
    index = np.arange(len(points))
    return _nearest(points, points, index, index)


def _radius(distances: np.ndarray) -> float:
    return float(np.quantile(distances, TYPICAL))


def _summary(radius: float, distances: np.ndarray) -> dict[str, float]:
    return {
        "radius": radius,
        "share": float((distances <= radius).mean()),
        "mean_distance": float(distances.mean()),
        "max_distance": float(distances.max()),
    }
