"""Random numbers that depend on seed, replica, purpose and step alone: nothing has to be kept of the past.

Each replica has its own key of the counter-based generator Philox (Salmon, Moraes, Dror, Shaw, SC11), each
block of steps its own range of the counter. So a replica draws the same numbers whatever runs beside it, and
from whatever step it is taken up again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 16  # steps whose numbers are drawn at once

VELOCITIES, LANGEVIN, RESCALING, CELL = range(4)  # purposes


def generator(seed: int, replica: int, purpose: int, block: int = 0) -> np.random.Generator:
    """The generator of one replica's block of steps."""
    key = np.random.SeedSequence((seed, replica, purpose)).generate_state(2, np.uint64)
    counter = np.array([0, 0, 0, block], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class Noise:
    """The numbers of all replicas at a step, on a device.

    Args:
        seed: of the run.
        ids: a whole number >= 0 a replica.
        purpose: so that no two uses draw the same numbers.
        draw: (generator, row of the replica, steps) -> [steps, n, ...]; joined along n.
        device: where they are used.
    """

    def __init__(
        self,
        seed: int,
        ids: Sequence[int],
        purpose: int,
        draw: Callable[[np.random.Generator, int, int], np.ndarray],
        device: torch.device | str,
    ) -> None:
        self.seed, self.purpose, self.device = seed, purpose, device
        self._replicas = [(replica, row) for row, replica in enumerate(ids)]
        self._draw = draw
        self._block = -1

    def at(self, step: int) -> Tensor:
        """[sum of n, ...] of this step, replica after replica."""
        block, row = divmod(step, BLOCK)
        if block != self._block:
            drawn = [
                self._draw(generator(self.seed, replica, self.purpose, block), at, BLOCK)
                for replica, at in self._replicas
            ]
            self._numbers = torch.from_numpy(np.concatenate(drawn, axis=1)).to(self.device)
            self._block = block
        return self._numbers[row]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these replicas alone."""
        self._replicas = [self._replicas[r] for r in rows]
        self._block = -1
