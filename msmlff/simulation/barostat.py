"""Barostat: stochastic cell rescaling, of the volume alone, of three axes or of the whole cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.units import GPa, kB
from torch import Tensor

from msmlff.errors import InputError
from msmlff.simulation.forces import Evaluation
from msmlff.simulation.noise import CELL, Noise
from msmlff.simulation.system import System
from msmlff.simulation.thermostats import Bath

COUPLINGS = ("isotropic", "axes", "full")
TILT = 1e-6  # of the longest component: what digits of a file leave of a rectangular cell


@dataclass(frozen=True)
class Coupling:
    """How the cell follows the pressure.

    Attributes:
        pressure: GPa, P0.
        time: fs, tau, the relaxation time of the volume where ``compressibility`` is that of the matter.
        compressibility: 1/GPa, beta; only beta / tau counts.
        kind: "isotropic", "axes" or "full".
    """

    pressure: float
    time: float
    compressibility: float
    kind: str


class Barostat:
    """No barostat, and the base of the one there is.

    Attributes:
        needs_stress: whether every evaluation must come with stresses.
    """

    needs_stress = False

    def middle(self, system: System, evaluation: Evaluation, step: int) -> None:
        """Between the two halves of the motion of the positions; ``evaluation`` is that before the step."""

    def after(self, system: System, evaluation: Evaluation) -> None:
        """With the evaluation at the new positions."""

    def energy(self, system: System) -> Tensor | float:
        """[replicas] eV, what makes the energy of the atoms a conserved quantity when it is added."""
        return 0.0

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these replicas alone."""

    def state(self) -> dict[str, Tensor]:
        """All that the rest of a run depends on, [replicas, ...] each."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what ``state`` returned."""


class CellRescaling(Barostat):
    """Stochastic cell rescaling: first order in time; the isothermal-isobaric ensemble as dt -> 0.

    The cell h (rows are lattice vectors), the positions and the velocities are strained in each step by

        h <- h exp(e),  x <- x exp(e),  v <- v exp(-e)
        e = beta dt / (3 tau) (P - P0) + sqrt(2 k T beta dt / (3 V tau)) R

    with the pressure tensor P = (sum of m v v) / V - stress and R = (G + G^T) / 2, G [3, 3] standard normal:
    no rotations. In its trace this is Bernetti, Bussi, J. Chem. Phys. 153, 114107 (2020), eq. (7) for
    ln V; as a whole the anisotropic form of Del Tatto, Raiteri, Bernetti, Bussi, Appl. Sci. 12, 1139 (2022).
    "axes" keeps the diagonal of e (lengths of a rectangular cell), "isotropic" a third of its trace
    on the diagonal. The distribution of the volume is V^n exp(-(U + P0 V) / k T), n: a third of the degrees
    of freedom.

    Args:
        bath: temperatures, time step and seed.
        coupling: to the pressure outside.
        system: the replicas, periodic in all directions.

    Raises:
        InputError: a replica that is not periodic in all directions; for "axes", one whose lattice vectors do
            not lie along x, y and z.
    """

    needs_stress = True

    def __init__(self, bath: Bath, coupling: Coupling, system: System) -> None:
        open_ = (~system.volume_known).nonzero()[:, 0].tolist()
        if open_:
            frame = system.frames[open_[0]]
            raise InputError(
                f"{frame.source or f'frame {open_[0]}'}: constant pressure needs a cell that is periodic in "
                "all directions; write ensemble=nvt, or set cell and pbc in the file"
            )
        if coupling.kind == "axes":
            _check_rectangular(system)
        self.bath, self.kind = bath, coupling.kind
        self.pressure = coupling.pressure * GPa
        self.rate = coupling.compressibility / GPa * bath.timestep / coupling.time  # Å³/eV
        self.work = torch.zeros_like(bath.temperature)
        self._pending = torch.zeros(len(system), 3, 3, dtype=torch.float64, device=self.work.device)

        def draw(rng: np.random.Generator, row: int, steps: int) -> np.ndarray:
            return rng.standard_normal((steps, 1, 3, 3))

        self._noise = Noise(bath.seed, bath.ids, CELL, draw, self.work.device)

    def middle(self, system: System, evaluation: Evaluation, step: int) -> None:
        assert evaluation.stress is not None
        volume = system.volume.view(-1, 1, 1)
        eye = torch.eye(3, dtype=volume.dtype, device=volume.device)
        noise = self._noise.at(step)
        width = torch.sqrt(2.0 * kB * self.bath.temperature.view(-1, 1, 1) * self.rate / (3.0 * volume))
        drift = self.rate / 3.0 * (system.pressure_tensor(evaluation.stress) - self.pressure * eye)
        strain = self._projected(drift + width * 0.5 * (noise + noise.transpose(1, 2)))
        growth, shrink = torch.linalg.matrix_exp(strain), torch.linalg.matrix_exp(-strain)
        kinetic = system.kinetic_energy()
        system.cell = system.cell @ growth
        system.positions = (system.positions.unsqueeze(1) @ growth[system.frame]).squeeze(1)
        system.velocities = (system.velocities.unsqueeze(1) @ shrink[system.frame]).squeeze(1)
        # the change of K + U + P0 V; of U: V times the strain times the mean of the stresses before and after
        self._pending = volume * strain
        change = system.kinetic_energy() - kinetic
        change = change + self.pressure * (system.volume - volume.view(-1))
        self.work = self.work + change + 0.5 * (self._pending * evaluation.stress).sum(dim=(1, 2))

    def after(self, system: System, evaluation: Evaluation) -> None:
        assert evaluation.stress is not None
        self.work = self.work + 0.5 * (self._pending * evaluation.stress).sum(dim=(1, 2))

    def change_pressure(self, system: System, pressure: float) -> None:
        """From now on ``pressure`` eV/Å³. What P0 V changes by is no drift: it counts as work."""
        self.work = self.work + (pressure - self.pressure) * system.volume
        self.pressure = pressure

    def energy(self, system: System) -> Tensor:
        return self.pressure * system.volume - self.work

    def keep(self, rows: Sequence[int]) -> None:
        self.work = self.work[list(rows)]  # the thermostat keeps the bath's rows
        self._noise.keep(rows)

    def state(self) -> dict[str, Tensor]:
        return {"work": self.work}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.work = state["work"].to(self.work)

    def _projected(self, strain: Tensor) -> Tensor:
        """What the coupling lets through of [replicas, 3, 3]."""
        if self.kind == "full":
            return strain
        diagonal = strain.diagonal(dim1=1, dim2=2)
        if self.kind == "isotropic":
            # the mean of three independent strains: its trace is that of the full one
            diagonal = diagonal.mean(dim=1, keepdim=True).expand(-1, 3)
        return torch.diag_embed(diagonal)


def _check_rectangular(system: System) -> None:
    """Raises InputError for a replica whose cell is not diagonal."""
    lengths = system.cell.diagonal(dim1=1, dim2=2)
    tilt = (system.cell - torch.diag_embed(lengths)).abs().amax(dim=(1, 2))
    tilted = (tilt > TILT * system.cell.abs().amax(dim=(1, 2))).nonzero()[:, 0].tolist()
    if tilted:
        frame = system.frames[tilted[0]]
        raise InputError(
            f"{frame.source or f'frame {tilted[0]}'}: ensemble.cell=axes needs a rectangular cell with "
            "lattice vectors along x, y and z; write ensemble.cell=isotropic or full, or turn the cell"
        )
