"""Frames shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from msmlff.data.configuration import Configuration


@pytest.fixture
def make_frames() -> Callable[..., list[Configuration]]:
    """make_frames(count, seed=0) -> frames of 2 to 7 atoms, molecules and crystals in turn."""

    def make(count: int, seed: int = 0) -> list[Configuration]:
        rng = np.random.default_rng(seed)
        frames = []
        for i in range(count):
            n = int(rng.integers(2, 8))
            grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), axis=-1).reshape(-1, 3)[:n]
            positions = grid * 1.8 + rng.normal(0, 0.05, (n, 3))
            numbers = rng.choice([1, 6, 8], n)
            if i % 2 == 0:
                frame = Configuration(
                    numbers,
                    positions,
                    energy=float(rng.normal()),
                    forces=rng.normal(size=(n, 3)),
                    group="molecules",
                    info={"step": i},
                    source=f"made:{i}",
                )
            else:
                frame = Configuration(
                    numbers,
                    positions,
                    cell=np.diag([4.0, 4.2, 4.4]),
                    pbc=np.ones(3, bool),
                    stress=np.diag(rng.normal(size=3)),
                    weight=2.0,
                    group="crystals",
                    source=f"made:{i}",
                )
            frames.append(frame)
        return frames

    return make
