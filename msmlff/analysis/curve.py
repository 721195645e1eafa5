"""A function as points: what most observables are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """y(x) with the standard error of y.

    Attributes:
        x, y: [points].
        error: [points], NaN where it is not known.
    """

    x: np.ndarray
    y: np.ndarray
    error: np.ndarray
