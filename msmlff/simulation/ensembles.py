"""What is held constant: energy, temperature, or temperature and pressure; and the step that does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from ase.units import fs
from torch import Tensor

from msmlff.errors import InputError
from msmlff.simulation.barostat import COUPLINGS, Barostat, CellRescaling, Coupling
from msmlff.simulation.forces import Evaluation
from msmlff.simulation.system import System
from msmlff.simulation.thermostats import Bath, Langevin, NoseHooverChain, StochasticRescaling, Thermostat

THERMOSTATS: dict[str, Callable[[Bath, float, System], Thermostat]] = {
    "csvr": StochasticRescaling,
    "langevin": Langevin,
    "nose_hoover": NoseHooverChain,
}


@dataclass(frozen=True, kw_only=True)
class NVE:
    """Constant energy: velocity Verlet (Swope et al., J. Chem. Phys. 76, 637 (1982))."""

    conserves_momentum = True

    def integrator(self, system: System, bath: Bath) -> Integrator:
        """The step for these replicas."""
        return Integrator(bath.timestep, Thermostat(bath), Barostat())


@dataclass(frozen=True, kw_only=True)
class NVT:
    """Constant temperature.

    Attributes:
        thermostat: "csvr" (stochastic velocity rescaling), "langevin" (BAOAB) or "nose_hoover" (a chain).
        thermostat_time: fs; csvr: relaxation time of the kinetic energy; langevin: inverse of the friction;
            nose_hoover: tau of the chain's masses.
    """

    thermostat: str = "csvr"
    thermostat_time: float = 100.0

    def __post_init__(self) -> None:
        if self.thermostat not in THERMOSTATS:
            raise InputError(f"ensemble.thermostat={self.thermostat}: write {', '.join(THERMOSTATS)}")
        _check_positive("thermostat_time", self.thermostat_time, "fs")

    @property
    def conserves_momentum(self) -> bool:
        return self.thermostat != "langevin"

    def integrator(self, system: System, bath: Bath) -> Integrator:
        """The step for these replicas."""
        return Integrator(bath.timestep, self._thermostat(system, bath), Barostat())

    def _thermostat(self, system: System, bath: Bath) -> Thermostat:
        return THERMOSTATS[self.thermostat](bath, self.thermostat_time, system)


@dataclass(frozen=True, kw_only=True)
class NPT(NVT):
    """Constant temperature and pressure: a thermostat beside stochastic cell rescaling.

    Attributes:
        pressure: GPa.
        pressure_end: GPa, to which it goes along a straight line in the run's ``ramp_steps``; None: it stays.
        cell: what the barostat changes: "isotropic" (the volume), "axes" (the three lengths of a rectangular
            cell) or "full" (the whole cell).
        barostat_time: fs, relaxation time of the volume if ``compressibility`` is right.
        compressibility: 1/GPa; an estimate: it changes how fast the cell moves, not where to.
    """

    pressure: float = 0.0
    pressure_end: float | None = None
    cell: str = "isotropic"
    barostat_time: float = 1000.0
    compressibility: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cell not in COUPLINGS:
            raise InputError(f"ensemble.cell={self.cell}: write {', '.join(COUPLINGS)}")
        _check_positive("barostat_time", self.barostat_time, "fs")
        _check_positive("compressibility", self.compressibility, "1/GPa")
        for key, value in (("pressure", self.pressure), ("pressure_end", self.pressure_end)):
            if value is not None and not math.isfinite(value):
                raise InputError(f"ensemble.{key}={value}: write a number of GPa")

    def integrator(self, system: System, bath: Bath) -> Integrator:
        coupling = Coupling(self.pressure, self.barostat_time, self.compressibility, self.cell)
        barostat = CellRescaling(bath, coupling, system)
        return Integrator(bath.timestep, self._thermostat(system, bath), barostat)


Ensemble = NVE | NVT


class Integrator:
    """A step of velocity Verlet with the thermostat and the barostat in their places.

    Half a kick, half a step of the positions, Langevin's noise and the strain of the cell, half a step of the
    positions, the forces, half a kick. The thermostats that rescale all velocities act outside of it.

    Args:
        timestep: fs.
        thermostat: acts before, in the middle and after.
        barostat: acts in the middle.
    """

    def __init__(self, timestep: float, thermostat: Thermostat, barostat: Barostat) -> None:
        self.timestep, self.thermostat, self.barostat = timestep, thermostat, barostat

    def advance(
        self,
        system: System,
        evaluation: Evaluation,
        step: int,
        evaluate: Callable[[], Evaluation],
    ) -> Evaluation:
        """One step of ``system``, in place.

        Args:
            system: the replicas.
            evaluation: at their present positions.
            step: number of the step, which fixes its random numbers.
            evaluate: called at the new positions.

        Returns:
            What ``evaluate`` returned.
        """
        kick = 0.5 * self.timestep * fs**2 / system.masses
        half = 0.5 * self.timestep
        self.thermostat.before(system)
        system.velocities = system.velocities + kick * evaluation.forces
        system.positions = system.positions + half * system.velocities
        self.thermostat.middle(system, step)
        self.barostat.middle(system, evaluation, step)
        system.positions = system.positions + half * system.velocities
        evaluation = evaluate()
        system.velocities = system.velocities + kick * evaluation.forces
        self.barostat.after(system, evaluation)
        self.thermostat.after(system, step)
        return evaluation

    def conserved(self, system: System, evaluation: Evaluation) -> Tensor:
        """[replicas] eV: kinetic and potential energy less what bath and barostat gave.

        Constant but for errors of the finite step.
        """
        total = system.kinetic_energy() + evaluation.energy
        return total + self.thermostat.energy() + self.barostat.energy(system)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these replicas alone."""
        self.thermostat.keep(rows)
        self.barostat.keep(rows)

    def state(self) -> dict[str, Tensor]:
        """All that the rest of a run depends on, [replicas, ...] each."""
        parts = {"thermostat": self.thermostat.state(), "barostat": self.barostat.state()}
        return {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what ``state`` returned."""
        for part, target in (("thermostat", self.thermostat), ("barostat", self.barostat)):
            target.restore(
                {n.partition(".")[2]: value for n, value in state.items() if n.startswith(f"{part}.")}
            )


def bath_temperature(
    given: float | Sequence[float], replicas: int, device: torch.device | str, key: str = "temperature"
) -> Tensor:
    """[replicas] K from one temperature for all, or one each; ``key`` is what messages call it.

    Raises:
        InputError: negative ones, or as many as fit neither.
    """
    values = [float(given)] if isinstance(given, int | float) else [float(t) for t in given]
    if len(values) not in (1, replicas):
        raise InputError(f"{key} has {len(values)} values for {replicas} replicas: write one, or one each")
    if not all(t >= 0 for t in values):
        raise InputError(f"{key}={given}: write K, not below 0")
    if math.inf in values:
        raise InputError(f"{key}={given}: write a finite number of K")
    return torch.tensor(values * (replicas // len(values)), dtype=torch.float64, device=device)


def _check_positive(key: str, value: float, unit: str) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"ensemble.{key}={value}: write a positive number of {unit}")
