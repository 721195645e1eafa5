"""What a selection keeps and loses of its pool, in numbers: distances, entropy, components, tails,
elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from msmlff.distill.coverage_environments import environments
from msmlff.distill.coverage_tails import Chosen, tails
from msmlff.distill.entropy import exponents
from msmlff.distill.features import Features
from msmlff.distill.selection import Selection
from msmlff.distill.space import principal_space, varying

if TYPE_CHECKING:
    from msmlff.data.store import FrameStore

MOST_FRAMES = 20_000  # frames that are looked at, and frames among which the nearest is searched
RADIUS_FRAMES = 2000  # frames that decide the radius
TYPICAL = 0.95  # "near": as near as this share of the pool is to its own nearest neighbour
COMPONENTS = 5  # leading components whose range is reported
BINS = 20
PRODUCT = 1 << 22  # squared distances held at a time


def coverage(
    features: Features,
    selection: Selection,
    groups: np.ndarray | None = None,
    pooling: str = "mean_std",
    labels: FrameStore | None = None,
) -> dict[str, Any]:
    """How well ``selection`` (and the reference it was conditioned on) covers the pool.

    Distances are Euclidean between principal components of standardised features (95 % of the variance for
    frames, the first 16 for atomic environments, which compare with those of their element only). The radius
    is the distance within which 95 % of the pool's frames (or environments) have another one (in another
    frame). Environments are a sample of 1000; of very large pools frames are samples, too, all with a fixed
    seed.

    Args:
        features: of the pool.
        selection: of the same pool.
        groups: [frames] state point or trajectory.
        pooling: how atoms become a frame.
        labels: the pool with its energies and forces: they are reported, and have no say in the choice.

    Returns:
        Empty where all frames are alike, else a dictionary of
        "frames": {"radius", "share", "mean_distance", "max_distance"};
        "environments": the same;
        "entropy": {"bandwidth", "pool", "selection" (nats), "overlap" (share with dH <= 0), "mean_dH",
        "q95_dH"};
        "elements": {symbol: {"pool", "chosen" (atoms), "share" (of environments within the radius)}};
        "components": [{"explained", "range", "bins"}, ...]: of each leading component of the frames, the
        share of the pool's 1 to 99 % range between the selection's extremes, and of its occupied bins of 20;
        "groups", if given: {name: {"pool", "chosen", "share"}};
        "tails", "labels", if there are labels: see ``coverage_tails``;
        "random": {"frames", "environments", "overlap"}: the shares that as many frames drawn evenly reach.
    """
    ids = np.union1d(selection.ids, np.asarray(selection.record.get("reference", []), dtype=np.int64))
    pooled = features.pooled(pooling)
    if len(features) < 2 or not varying(pooled).any():
        return {}
    rng = np.random.default_rng(0)
    space = principal_space(pooled, variance=0.95)
    points = space(pooled)
    looked = _part(np.arange(len(points)), MOST_FRAMES, rng)
    if groups is not None:
        # Of every group at least one.
        looked = np.union1d(looked, np.unique(np.asarray(groups), return_index=True)[1])
    to_chosen = nearest(points[looked], points[_part(ids, MOST_FRAMES, rng)])
    radius = _radius(points, rng)
    drawn = np.sort(rng.choice(len(points), size=len(ids), replace=False))
    by_chance = nearest(points[looked], points[_part(drawn, MOST_FRAMES, rng)])
    near, whole = environments(features, ids, drawn)
    result: dict[str, Any] = {
        "frames": summary(radius, to_chosen),
        "environments": near["environments"],
        "entropy": near["entropy"],
        "elements": near["elements"],
        "components": components(points, space.explained, ids),
        "random": {"frames": float((by_chance <= radius).mean()), **near["random"]},
    }
    if groups is not None:
        result["groups"] = _groups(np.asarray(groups), looked, to_chosen <= radius, selection.ids)
    if labels is not None:
        result |= tails(labels, features, Chosen(ids, looked, to_chosen <= radius), whole)
    return result


def components(points: np.ndarray, explained: np.ndarray, ids: np.ndarray) -> list[dict[str, float]]:
    """For each leading column of ``points`` [frames, components], what the frames ``ids`` occupy of its
    range."""
    result = []
    for column in range(min(COMPONENTS, points.shape[1])):
        x = points[:, column]
        low, high = np.quantile(x, [0.01, 0.99])
        kept = np.clip(x[ids], low, high)
        edges = np.linspace(x.min(), x.max(), BINS + 1)[1:-1]
        occupied, theirs = np.unique(np.digitize(x, edges)), np.unique(np.digitize(x[ids], edges))
        result.append(
            {
                "explained": float(explained[column]),
                "range": float((kept.max() - kept.min()) / (high - low)) if high > low else 1.0,
                "bins": len(theirs) / len(occupied),
            }
        )
    return result


def nearest(
    points: np.ndarray, others: np.ndarray, own: np.ndarray | None = None, theirs: np.ndarray | None = None
) -> np.ndarray:
    """[points] distance to the nearest of ``others``; those with ``theirs`` equal to the point's ``own`` do
    not count."""
    step = max(1, PRODUCT // len(others))
    squares = np.empty(len(points))
    for start in range(0, len(points), step):
        halves = exponents(points[start : start + step], others)
        if own is not None and theirs is not None:
            halves[own[start : start + step, None] == theirs] = -np.inf
        squares[start : start + step] = -2 * halves.max(axis=1)
    return np.sqrt(squares)


def summary(radius: float, distances: np.ndarray) -> dict[str, float]:
    """Share of distances within the radius, their mean and their largest."""
    return {
        "radius": radius,
        "share": float((distances <= radius).mean()),
        "mean_distance": float(distances.mean()),
        "max_distance": float(distances.max()),
    }


def _part(ids: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return ids if len(ids) <= most else np.sort(rng.choice(ids, size=most, replace=False))


def _radius(points: np.ndarray, rng: np.random.Generator) -> float:
    asked = _part(np.arange(len(points)), RADIUS_FRAMES, rng)
    return float(np.quantile(nearest(points[asked], points, asked, np.arange(len(points))), TYPICAL))


def _groups(groups: np.ndarray, looked: np.ndarray, near: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
    """share: of the group's frames that were looked at."""
    return {
        str(name): {
            "pool": int((groups == name).sum()),
            "chosen": int((groups[ids] == name).sum()),
            "share": float(near[groups[looked] == name].mean()),
        }
        for name in np.unique(groups)
    }
