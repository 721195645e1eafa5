"""What a labelling engine is: settings that identify it, and a function from a frame to labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.errors import MSMLFFError

Status = Literal["ok", "scf_failed", "timeout", "nan", "implausible", "error"]


class SCFError(MSMLFFError):
    """The electronic structure of one frame did not converge."""


@dataclass(frozen=True)
class Labels:
    """Labels of one frame.

    Attributes:
        energy: eV.
        forces: [atoms, 3] eV/Å.
        stress: [3, 3] eV/Å³, (1/V) dE/d(strain); None for a frame without a periodic cell.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None


class Engine(Protocol):
    """A labelling engine. It is pickled once into each worker process."""

    def settings(self) -> dict[str, Any]:
        """Everything the labels depend on besides the frame, as JSON values; part of the cache key."""
        ...

    def label(self, frame: Configuration) -> Labels:
        """Labels of one frame; raises SCFError where the electronic structure does not converge."""
        ...


@dataclass(frozen=True)
class LabelResult:
    """What became of one frame.

    Attributes:
        status: "ok"; "scf_failed" (no convergence), "timeout", "nan" (a label is not finite), "implausible"
            (a force above the limit), "error" (the engine raised something else, or its process died).
        energy: eV, NaN unless ok.
        forces: [atoms, 3] eV/Å, None unless ok.
        stress: [3, 3] eV/Å³, None unless ok and periodic.
        seconds: wall time of the calculation.
        message: why there is no label; "" when ok.
        cached: whether the result was read from the cache.
    """

    status: Status
    energy: float = float("nan")
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    seconds: float = 0.0
    message: str = ""
    cached: bool = False

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def with_labels(frame: Configuration, result: LabelResult) -> Configuration:
    """The frame with the labels of ``result``; ValueError where the result is not ok."""
    if not result.ok:
        raise ValueError(f"{frame.source or 'frame'} has no labels: {result.status}, {result.message}")
    return replace(frame, energy=result.energy, forces=result.forces, stress=result.stress)
