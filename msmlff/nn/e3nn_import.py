"""The one place that imports e3nn.

e3nn 0.4.4 reads its constants with ``torch.load``; under torch >= 2.6 that needs ``slice`` among the safe
globals.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

torch.serialization.add_safe_globals([slice])

from e3nn import o3  # noqa: E402  (only after the line above)

__all__ = ["o3", "wigner_3j"]


@cache
def _wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    value = o3.wigner_3j(l1, l2, l3, dtype=torch.float64).numpy().copy()
    value.setflags(write=False)
    return value


def wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    """Real Wigner 3j symbols in e3nn's basis and sign: [2 l1 + 1, 2 l2 + 1, 2 l3 + 1] float64, unit norm."""
    return _wigner_3j(l1, l2, l3)
