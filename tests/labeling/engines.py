"""Engines whose behaviour the positions of a frame decide; importable by worker processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.labeling import Labels, SCFError

OK, SCF, HANG, DIE, NAN, HUGE, BUG = range(7)


def frame(kind: int, number: int = 0) -> Configuration:
    """A frame of one atom that makes the scripted engine behave as ``kind``."""
    return Configuration(np.array([1]), np.array([[float(kind), float(number), 0.0]]))


@dataclass(frozen=True)
class Scripted:
    """Does what the first coordinate says and leaves a line in ``log`` for each call."""

    log: str
    stiffness: float = 1.0

    def settings(self) -> dict[str, Any]:
        return {"engine": "scripted", "stiffness": self.stiffness}

    def label(self, configuration: Configuration) -> Labels:
        kind, number = configuration.positions[0, :2]
        with Path(self.log).open("a") as stream:
            stream.write(f"{int(kind)} {int(number)} {os.environ.get('OMP_NUM_THREADS')}\n")
        forces = np.full((1, 3), self.stiffness)
        if kind == SCF:
            raise SCFError("no convergence in 250 cycles")
        if kind == HANG:
            time.sleep(600)
        if kind == DIE:
            os._exit(3)
        if kind == NAN:
            forces[0, 0] = np.nan
        if kind == HUGE:
            forces[0, 0] = 1e6
        if kind == BUG:
            raise ZeroDivisionError("a bug of the engine")
        return Labels(float(number), forces)
