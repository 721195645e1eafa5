"""Constants of a module that keep their digits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Constant:
    """A float64 array handed out in the dtype and on the device of a computation.

    A registered buffer would be rounded by ``module.float()`` and stay rounded after ``module.double()``.
    """

    def __init__(self, values: np.ndarray | float | list[float] | tuple[float, ...]) -> None:
        self.values = np.array(values, dtype=np.float64)
        self._cast: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __call__(self, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The array as a tensor of ``like``'s dtype (or ``dtype``) on ``like``'s device."""
        key = (dtype or like.dtype, like.device)
        if key not in self._cast:
            # The cast outlives the call: a tensor made in inference mode could not be used in training later.
            with torch.inference_mode(False):
                self._cast[key] = torch.tensor(self.values, dtype=key[0], device=key[1])
        return self._cast[key]
