"""The two selectors to compare with: chance, and everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.selector import Picks, Selector, Task
from msmlff.errors import InputError


@dataclass(frozen=True)
class RandomSelector(Selector):
    """Frames drawn evenly: a prefix of one seeded permutation of the pool, so that budgets are nested."""

    uses_features: ClassVar[bool] = False

    def pick(self, task: Task) -> Picks:
        """The first candidates of the permutation."""
        order = np.random.default_rng(task.seed).permutation(len(task.features))
        return Picks(order[np.isin(order, task.candidates)][: task.count])


@dataclass(frozen=True)
class FullSelector(Selector):
    """All frames that are not chosen already, in the order of the pool; the budget is null."""

    nested: ClassVar[bool] = False
    uses_features: ClassVar[bool] = False

    def pick(self, task: Task) -> Picks:
        """Every candidate.

        Raises:
            InputError: the budget is smaller than the pool, and so another selector is meant.
        """
        if task.count < len(task.candidates):
            raise InputError(
                f"selector=full takes all {len(task.candidates) + len(task.held)} frames: write "
                "budget=null, or "
                "selector=random or cpd for a part of the pool"
            )
        return Picks(task.candidates)
