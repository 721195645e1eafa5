"""Synthetic pools whose dense and sparse frames are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from msmlff.data.configuration import Configuration
from msmlff.distill.features import Features

MakeFeatures = Callable[..., Features]


@pytest.fixture
def make_features() -> MakeFeatures:
    """make_features(frames, seed=0, pool_hash=...) -> rows of frames of 3 to 6 atoms, 5 columns, two
    elements."""

    def make(frames: int = 60, seed: int = 0, pool_hash: str = "pool-a") -> Features:
        rng = np.random.default_rng(seed)
        offsets = np.concatenate([[0], np.cumsum(rng.integers(3, 7, size=frames))])
        frame = np.repeat(np.arange(frames), np.diff(offsets))
        centre = rng.normal(size=(frames, 5)) * rng.uniform(0.1, 3.0, size=(frames, 1))
        rows = centre[frame] + 0.1 * rng.normal(size=(offsets[-1], 5))
        numbers = rng.choice([1, 8], size=offsets[-1])
        return Features(rows.astype(np.float32), offsets, numbers, pool_hash, {"descriptor": "synthetic"})

    return make


@pytest.fixture
def frames() -> list[Configuration]:
    """24 frames of 2 to 5 hydrogen atoms, labelled, in three groups."""
    rng = np.random.default_rng(3)
    made = []
    for i in range(24):
        n = int(rng.integers(2, 6))
        positions = np.arange(n)[:, None] * [0.9, 0.3, 0.0] + 0.1 * rng.normal(size=(n, 3))
        made.append(
            Configuration(
                numbers=np.ones(n, dtype=np.int64),
                positions=positions,
                energy=float(rng.normal()),
                forces=rng.normal(size=(n, 3)),
                group=f"run{i % 3}",
                info={"step": i},
                source=f"made:{i}",
            )
        )
    return made
