"""How much of a pool's atomic environments a set of frames has seen: distances and kernel sums of a
sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from msmlff.distill.entropy import BLOCK, default_bandwidth, left, part_of_frames, right, rows_of
from msmlff.distill.features import Features
from msmlff.distill.row_products import exponential_sums_and_most
from msmlff.distill.space import environment_space

SAMPLE = 1000  # environments of the pool that are looked at
SEARCHED = 100_000  # environments, of whole frames, of the pool and of each choice, among which they look
COMPONENTS = 16
TYPICAL = 0.95
SEEN = 1 - 1e-3  # a kernel sum of 1 in float32: dH = 0


@dataclass(frozen=True, eq=False)
class Nearness:
    """For other environments: ``distances`` to the nearest of the chosen frames; ``radius`` within which they
    count as near."""

    features: Features
    chosen: np.ndarray
    radius: float

    def near(self, rows: np.ndarray) -> np.ndarray:
        """[len(rows)] bool: within the radius of an environment of the chosen frames, of the same element."""
        found = _scan(self.features, rows, [self.chosen], 1.0)
        result: np.ndarray = found.distance[0] <= self.radius
        return result


@dataclass(frozen=True, eq=False)
class _Found:
    """Of each asked environment, against each set of frames: distance [sets, asked] to the nearest, sums
    [sets, asked] of kernels; other: [asked] distance to the nearest in another frame of the first set."""

    distance: np.ndarray
    sums: np.ndarray
    other: np.ndarray

    def dH(self, which: int, bandwidth: float) -> np.ndarray:  # noqa: N802
        """[asked] differential entropy; where float32 underflows, that of the nearest environment alone."""
        far = 0.5 * (self.distance[which] / bandwidth) ** 2
        with np.errstate(divide="ignore"):
            return np.where(self.sums[which] > 1e-30, -np.log(self.sums[which]), far)


def environments(features: Features, ids: np.ndarray, drawn: np.ndarray) -> tuple[dict[str, Any], Nearness]:
    """Coverage of the environments by frames ``ids``, beside that by the random frames ``drawn``.

    Returns:
        ({"environments", "entropy", "elements", "random"}, a Nearness for other environments).
    """
    rng = np.random.default_rng(0)
    sets = [part_of_frames(features, part, SEARCHED, rng) for part in (np.arange(len(features)), ids, drawn)]
    rows, _ = rows_of(features, sets[0])
    asked = np.sort(rng.choice(rows, size=min(len(rows), SAMPLE), replace=False))
    h = default_bandwidth(features, COMPONENTS)
    found = _scan(features, asked, sets, h)
    atoms = [int(features.num_atoms[part].sum()) for part in (ids, drawn)]
    for which, (part, n) in enumerate(zip(sets[1:], atoms, strict=True), start=1):
        # Of a choice that is searched in part, that part stands for the rest.
        found.sums[which] *= n / features.num_atoms[part].sum()
    # A frame without a like environment elsewhere (a pool with one frame of an element) sets no radius.
    others = found.other[np.isfinite(found.other)]
    radius = float(np.quantile(others, TYPICAL)) if len(others) else 0.0
    distances, novelty = found.distance[1], found.dH(1, h)
    numbers, near = np.asarray(features.numbers), distances <= radius
    lost = float(np.where(np.isfinite(distances), distances, 0.0).max())
    result = {
        "environments": {
            "radius": radius,
            "share": float(near.mean()),
            "mean_distance": float(distances[np.isfinite(distances)].mean()),
            "max_distance": lost,
        },
        "entropy": {
            "bandwidth": h,
            "pool": _entropy(found.sums[0], len(rows), len(features.rows)),
            "selection": _own_entropy(features, sets[1], atoms[0], h, rng),
            "overlap": float((found.sums[1] >= SEEN).mean()),
            "mean_dH": float(novelty[np.isfinite(novelty)].mean()),
            "q95_dH": float(np.quantile(novelty[np.isfinite(novelty)], 0.95)),
        },
        "elements": _elements(numbers, numbers[rows_of(features, ids)[0]], numbers[asked], near),
        "random": {
            "environments": float((found.distance[2] <= radius).mean()),
            "overlap": float((found.sums[2] >= SEEN).mean()),
        },
    }
    return result, Nearness(features, sets[1], radius)


def _elements(
    pool: np.ndarray, chosen: np.ndarray, asked: np.ndarray, near: np.ndarray
) -> dict[str, dict[str, Any]]:
    elements, counts = np.unique(pool, return_counts=True)
    return {
        chemical_symbols[int(z)]: {
            "pool": int(count),
            "chosen": int((chosen == z).sum()),
            "share": float(near[asked == z].mean()) if (asked == z).any() else None,
        }
        for z, count in zip(elements, counts, strict=True)
    }


def _entropy(sums: np.ndarray, searched: int, n: int) -> float:
    """In nats, of a set of ``n`` environments; ``sums`` of a sample over ``searched`` of them, each with
    itself; the others stand for the rest."""
    whole = 1 + np.maximum(sums - 1, 0.0) * (n / searched)
    return float(np.log(n) - np.log(whole).mean())


def _own_entropy(features: Features, frames: np.ndarray, n: int, h: float, rng: np.random.Generator) -> float:
    rows, _ = rows_of(features, frames)
    asked = np.sort(rng.choice(rows, size=min(len(rows), SAMPLE // 2), replace=False))
    return _entropy(_scan(features, asked, [frames], h).sums[0], len(rows), n)


def _scan(features: Features, asked: np.ndarray, sets: list[np.ndarray], h: float) -> _Found:
    """The environments ``asked`` (rows) against those of each of ``sets`` (ascending frames), element by
    element; a frame that is in several sets is computed once."""
    space = environment_space(features, COMPONENTS)
    numbers = np.asarray(features.numbers)
    own = np.searchsorted(features.offsets, asked, side="right") - 1
    points = left((space(features.rows[asked]) / h).astype(np.float32))
    top = np.full((len(sets), len(asked)), -np.inf)  # largest exponent
    other, sums = np.full(len(asked), -np.inf), np.zeros((len(sets), len(asked)))
    for rows, frame in _blocks(features, np.unique(np.concatenate(sets)), max(1, BLOCK // len(asked))):
        there = right((space(features.rows[rows]) / h).astype(np.float32))
        for z in np.unique(numbers[rows]):
            mine, theirs = np.flatnonzero(numbers[asked] == z), np.flatnonzero(numbers[rows] == z)
            if not len(mine):
                continue
            cuts = np.concatenate([[0], np.flatnonzero(np.diff(frame[theirs])) + 1])
            frames = frame[theirs][cuts]
            total, most = exponential_sums_and_most(points[mine], there[theirs], cuts)
            for s, members in enumerate(sets):
                inside = np.isin(frames, members)
                if inside.any():
                    top[s, mine] = np.maximum(top[s, mine], most[inside].max(axis=0))
                    sums[s, mine] += total[inside].sum(axis=0, dtype=np.float64)
            apart = np.where(frames[:, None] == own[mine], -np.inf, most)[np.isin(frames, sets[0])]
            if len(apart):
                other[mine] = np.maximum(other[mine], apart.max(axis=0))
    return _Found(_distances(top, h), sums, _distances(other, h))


def _distances(halves: np.ndarray, h: float) -> np.ndarray:
    result: np.ndarray = h * np.sqrt(np.maximum(-2 * halves, 0.0))
    return result


def _blocks(features: Features, frames: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, frame) of runs of whole frames with about ``most`` rows."""
    block = np.cumsum(features.num_atoms[frames]) // most
    for part in np.split(frames, np.flatnonzero(np.diff(block)) + 1):
        yield rows_of(features, part)
