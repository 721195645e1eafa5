"""Thermostats: what of a step exchanges heat with a bath. Time in fs, energy in eV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.units import fs, kB
from torch import Tensor

from msmlff.errors import InputError
from msmlff.simulation.noise import LANGEVIN, RESCALING, Noise
from msmlff.simulation.system import System


@dataclass
class Bath:
    """What thermostats and barostats are made from; those of one simulation share it.

    Attributes:
        temperature: [replicas] K, of the living replicas.
        timestep: fs.
        seed: of the noise.
        ids: a whole number a replica that, with the seed, fixes its random numbers.
    """

    temperature: Tensor
    timestep: float
    seed: int
    ids: Sequence[int]


class Thermostat:
    """No thermostat, and the base of all: a step of velocity Verlet calls it at three places.

    Attributes:
        conserves_momentum: whether the total momentum stays as it is.
        temperature: [replicas] K of the bath, which the barostat shares; may be changed between steps. What
            that changes of the thermostat's own energy is no drift: ``energy`` leaves it out.
        heat: [replicas] eV given to the atoms, or to a chain by a change of the bath, so far.
    """

    conserves_momentum = True

    def __init__(self, bath: Bath) -> None:
        self.bath, self.timestep = bath, bath.timestep
        self.heat = torch.zeros_like(bath.temperature)

    @property
    def temperature(self) -> Tensor:
        return self.bath.temperature

    @temperature.setter
    def temperature(self, kelvin: Tensor) -> None:
        before = self.energy()
        self.bath.temperature = kelvin
        self.heat = self.heat + (self.energy() - before)

    def before(self, system: System) -> None:
        """At the start of a step."""

    def middle(self, system: System, step: int) -> None:
        """Between the two halves of the motion of the positions."""

    def after(self, system: System, step: int) -> None:
        """At the end of a step."""

    def energy(self) -> Tensor:
        """[replicas] eV, what makes the energy of the atoms a conserved quantity when it is added."""
        return -self.heat

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these replicas alone; so does the bath."""
        self._take({name: value[list(rows)] for name, value in self.state().items()})

    def state(self) -> dict[str, Tensor]:
        """All that the rest of a run depends on, [replicas, ...] each."""
        return {"temperature": self.temperature.clone(), "heat": self.heat}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what ``state`` returned."""
        self._take({name: state[name].to(value, copy=True) for name, value in self.state().items()})

    def _take(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self.bath if name == "temperature" else self, name, value)


class Langevin(Thermostat):
    """The exact Ornstein-Uhlenbeck step of BAOAB (Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34).

    v <- c v + sqrt((1 - c²) k T / m) R, c = exp(-dt / time), in the middle of the positions' step.

    Args:
        bath: temperatures, time step and seed.
        time: fs, inverse of the friction.
        system: the replicas.
    """

    conserves_momentum = False

    def __init__(self, bath: Bath, time: float, system: System) -> None:
        super().__init__(bath)
        self.decay = math.exp(-bath.timestep / time)
        counts = system.counts

        def draw(rng: np.random.Generator, row: int, steps: int) -> np.ndarray:
            return rng.standard_normal((steps, counts[row], 3))

        self._noise = Noise(bath.seed, bath.ids, LANGEVIN, draw, self.heat.device)

    def middle(self, system: System, step: int) -> None:
        before = system.kinetic_energy()
        spread = (1.0 - self.decay**2) * kB * self.temperature[system.frame].unsqueeze(1) / system.masses
        noise = self._noise.at(step)
        system.velocities = self.decay * system.velocities + fs * spread.sqrt() * noise
        self.heat = self.heat + system.kinetic_energy() - before

    def keep(self, rows: Sequence[int]) -> None:
        super().keep(rows)
        self._noise.keep(rows)


class StochasticRescaling(Thermostat):
    """All velocities scaled by one factor a step, so that the kinetic energy is the canonical one.

    Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. (A7), at the end of the step. Arguments
    as of ``Langevin``; ``time`` is the relaxation time of the kinetic energy, whose degrees of freedom are
    those of ``system``.
    """

    def __init__(self, bath: Bath, time: float, system: System) -> None:
        super().__init__(bath)
        self.decay = math.exp(-bath.timestep / time)
        dof = system.dof.tolist()

        def draw(rng: np.random.Generator, row: int, steps: int) -> np.ndarray:
            normal, rest = rng.standard_normal(steps), np.zeros(steps)
            if dof[row] > 1:
                rest = rng.chisquare(dof[row] - 1, steps)
            return np.stack([normal, rest], axis=1)[:, None]

        self._noise = Noise(bath.seed, bath.ids, RESCALING, draw, self.heat.device)

    def after(self, system: System, step: int) -> None:
        kinetic = system.kinetic_energy()
        normal, rest = self._noise.at(step).unbind(dim=1)
        c = self.decay
        unit = (1.0 - c) * 0.5 * kB * self.temperature / kinetic  # (1 - c) K_bath / (dof K)
        square = c + unit * (normal**2 + rest) + 2.0 * normal * torch.sqrt(c * unit)
        sign = torch.sign(normal + torch.sqrt(c / unit))
        factor = torch.where(kinetic > 0, sign * torch.sqrt(square.clamp(min=0.0)), 1.0)
        system.velocities = system.velocities * factor[system.frame].unsqueeze(1)
        self.heat = self.heat + kinetic * (factor**2 - 1.0)

    def keep(self, rows: Sequence[int]) -> None:
        super().keep(rows)
        self._noise.keep(rows)


LINKS = 3
# Suzuki and Yoshida's weights of order 4
_OUTER = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
WEIGHTS = (_OUTER, 1.0 - 2.0 * _OUTER, _OUTER)


class NoseHooverChain(Thermostat):
    """A chain of three thermostats (Martyna, Tuckerman, Tobias, Klein, Mol. Phys. 87, 1117 (1996)).

    Half a step of the chain before and after the velocity Verlet step, each of three parts (Suzuki, Yoshida).
    Masses Q_1 = dof k T time², Q_k = k T time².

    Args:
        bath: temperatures and time step.
        time: fs, of the chain; the period of its oscillation is about 2 pi times as long.
        system: the replicas.

    Raises:
        InputError: a bath at 0 K, where the masses vanish.
    """

    def __init__(self, bath: Bath, time: float, system: System) -> None:
        super().__init__(bath)
        if not bool((bath.temperature > 0).all()):
            raise InputError(
                "temperature=0 and ensemble.thermostat=nose_hoover: the masses of the chain are proportional "
                "to the temperature; write K above 0, or ensemble.thermostat=langevin"
            )
        self.time, self.dof = time, system.dof
        self.position = torch.zeros(len(system), LINKS, dtype=torch.float64, device=self.heat.device)
        self.velocity = torch.zeros_like(self.position)  # 1/fs

    @property
    def _heat_unit(self) -> Tensor:
        """[replicas, links] eV: k T times the degrees of freedom that a link controls."""
        unit = (kB * self.temperature).unsqueeze(1).repeat(1, LINKS)
        unit[:, 0] *= self.dof
        return unit

    def before(self, system: System) -> None:
        self._half_step(system)

    def after(self, system: System, step: int) -> None:
        self._half_step(system)

    def _half_step(self, system: System) -> None:
        kinetic = system.kinetic_energy()
        scale = torch.ones_like(kinetic)
        unit = self._heat_unit
        mass = unit * self.time**2
        v = [self.velocity[:, k].clone() for k in range(LINKS)]
        shift = torch.zeros_like(self.position)

        def force(k: int) -> Tensor:
            driven = 2.0 * kinetic * scale**2 if k == 0 else mass[:, k - 1] * v[k - 1] ** 2
            return (driven - unit[:, k]) / mass[:, k]

        for weight in WEIGHTS:
            h = 0.5 * weight * self.timestep
            v[-1] = v[-1] + 0.5 * h * force(LINKS - 1)
            for k in range(LINKS - 2, -1, -1):
                damp = torch.exp(-0.25 * h * v[k + 1])
                v[k] = (v[k] * damp + 0.5 * h * force(k)) * damp
            scale = scale * torch.exp(-h * v[0])
            shift = shift + h * torch.stack(v, dim=1)
            for k in range(LINKS - 1):
                damp = torch.exp(-0.25 * h * v[k + 1])
                v[k] = (v[k] * damp + 0.5 * h * force(k)) * damp
            v[-1] = v[-1] + 0.5 * h * force(LINKS - 1)
        self.velocity = torch.stack(v, dim=1)
        self.position = self.position + shift
        system.velocities = system.velocities * scale[system.frame].unsqueeze(1)

    def energy(self) -> Tensor:
        unit = self._heat_unit
        kinetic = 0.5 * unit * self.time**2 * self.velocity**2
        return (kinetic + unit * self.position).sum(dim=1) - self.heat

    def state(self) -> dict[str, Tensor]:
        own = {"position": self.position, "velocity": self.velocity, "dof": self.dof}
        return {**super().state(), **own}
