"""The files of a running simulation: trajectory, thermo.csv and restart.safetensors, saved together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.simulation.engine import Hook, MolecularDynamics
from msmlff.simulation.files import GrowingFile
from msmlff.simulation.restart import RESTART, Restart, save_restart
from msmlff.simulation.thermo import ThermoRow, csv_text, thermo_rows
from msmlff.simulation.trajectory import FORMATS, Snapshot, make_writer

THERMO = "thermo.csv"
MOST_PENDING = 64 * 2**20  # bytes of snapshots kept in memory


@dataclass(frozen=True)
class OutputSpec:
    """What a simulation writes.

    Attributes:
        every: steps between the frames of the trajectory.
        thermo_every: steps between the rows of thermo.csv.
        format: "extxyz" or "hdf5".
        velocities: write them into the trajectory, too.
        save_seconds: between two writes of everything to the disk, however seldom frames and rows come; 0:
            after every step.
    """

    every: int = 100
    thermo_every: int = 10
    format: str = "extxyz"
    velocities: bool = True
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        for key in ("every", "thermo_every"):
            if not getattr(self, key) >= 1:
                raise InputError(f"output.{key}={getattr(self, key)}: write a whole number of steps >= 1")
        if self.format not in FORMATS:
            raise InputError(f"output.format={self.format}: write {' or '.join(FORMATS)}")
        if not self.save_seconds >= 0:
            raise InputError(f"output.save_seconds={self.save_seconds}: write seconds, not below 0")


class Output:
    """Collects frames and thermodynamic rows, and saves them in chunks with what is needed to go on.

    After any crash the three files go on from the last save: what was written later is cut off.

    Attributes:
        hooks: for ``MolecularDynamics``, to be called last.
        rows: those of thermo.csv since the last save.
        latest: the last rows, one a living replica.

    Args:
        folder: where; it must exist.
        spec: see OutputSpec.
        starts: the configurations the replicas started from.
        facts: what restart.safetensors is to keep beside the state, as JSON takes it.
    """

    def __init__(
        self, folder: Path, spec: OutputSpec, starts: list[Configuration], facts: Mapping[str, Any]
    ) -> None:
        self.folder, self.spec, self.starts, self.facts = folder, spec, starts, dict(facts)
        self._trajectory = make_writer(spec.format, folder, len(starts), spec.velocities)
        self._thermo = GrowingFile(folder / THERMO)
        self.rows: list[ThermoRow] = []
        self.latest: list[ThermoRow] = []
        self._saved, self._full = time.monotonic(), False
        has_pressure = any(start.pbc.all() for start in starts)
        self.hooks: list[Hook] = [
            _Call(self.add_frames, spec.every, stress=has_pressure),  # a sum over edges: next to nothing
            _Call(self.add_rows, spec.thermo_every, stress=True),
            _Call(self.save_in_time, 1),
        ]

    def restore(self, restart: Restart) -> None:
        """Cut the files back to what they were at a restart file's step.

        Raises:
            InputError: a file is gone, or shorter.
        """
        self._trajectory.restore(restart.facts["trajectory"])
        self._thermo.restore(restart.facts["thermo"])

    def add_frames(self, md: MolecularDynamics) -> None:
        """The living replicas' present frames go into the trajectory."""
        frames, velocities = md.frames(), md.velocities()
        energies, temperatures, stresses = md.energies(), md.temperatures(), _stresses(md)
        for k in md.alive:
            frame = replace(frames[k], energy=energies[k], stress=stresses.get(k))
            self._trajectory.add(Snapshot(k, md.step, md.time_fs, frame, velocities[k], temperatures[k]))
        self._full = self._trajectory.pending > MOST_PENDING

    def add_rows(self, md: MolecularDynamics) -> None:
        """A row of thermo.csv for each living replica."""
        self.latest = thermo_rows(md)
        self.rows += self.latest

    def save_in_time(self, md: MolecularDynamics) -> None:
        """Save if it is time, or if much is kept in memory."""
        if self._full or time.monotonic() - self._saved >= self.spec.save_seconds:
            self.save(md)

    def save(self, md: MolecularDynamics) -> None:
        """Put everything on the disk.

        Raises:
            OutputError: that cannot be done; earlier chunks and the earlier restart file are as they were.
        """
        self._trajectory.flush()
        self._thermo.append(csv_text(self.rows, header=self._thermo.length == 0).encode())
        self.rows = []
        facts = {**self.facts, "trajectory": self._trajectory.state(), "thermo": self._thermo.length}
        save_restart(self.folder / RESTART, md, self.starts, facts)
        self._saved, self._full = time.monotonic(), False


def _stresses(md: MolecularDynamics) -> dict[int, np.ndarray]:
    """[3, 3] eV/Å³, of the potential, of each living replica that is periodic in all directions."""
    if md.evaluation.stress is None:  # a bias may take it away
        return {}
    known, stress = md.system.volume_known.tolist(), md.evaluation.stress.detach().cpu().numpy()
    return {k: stress[row].copy() for row, k in enumerate(md.alive) if known[row]}


class _Call:
    """A hook that calls a function."""

    def __init__(self, function: Any, every: int, stress: bool = False) -> None:
        self.function, self.every, self.stress = function, every, stress

    def __call__(self, md: MolecularDynamics) -> None:
        self.function(md)
