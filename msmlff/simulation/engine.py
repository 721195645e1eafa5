"""Molecular dynamics of many replicas in one batch: one force evaluation a step for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from ase.units import fs, kB
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.collate import species_of
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.simulation.drift import degrees_of_freedom, free_rotors, remove_rotation, remove_translation
from msmlff.simulation.edges import ReplicaEdges
from msmlff.simulation.ensembles import NPT, Ensemble, bath_temperature
from msmlff.simulation.failure import Failure, Limits, closest_pair, hottest_atom, most_changed_bond
from msmlff.simulation.forces import Evaluation, ForceProvider
from msmlff.simulation.noise import VELOCITIES, generator
from msmlff.simulation.ramp import Ramp
from msmlff.simulation.system import System
from msmlff.simulation.thermostats import Bath

DRIFT_EVERY = 100  # steps between two removals of the motion as a whole that rounding lets grow


@dataclass(frozen=True)
class MDSettings:
    """How replicas move and when one counts as failed.

    Attributes:
        timestep_fs: fs.
        temperature: K of the bath and of the initial velocities: one number, or one a replica.
        temperature_end: K, to which the bath goes along a straight line in ``ramp_steps`` and at which it
            stays: one number, or one a replica; None: it stays where it is.
        ramp_steps: of that, and of the ensemble's ``pressure_end``.
        seed: of velocities and noise; with its replica id it fixes the random numbers of a replica.
        skin: Å, margin of the neighbour lists.
        remove_drift: start without motion as a whole (a molecule: without rotation, too), keep it away and do
            not count it among the degrees of freedom. Not done with Langevin's noise, which gives and takes
            momentum. False where forces do not add up to zero, as with a fixed outer potential.
        limits: what a replica may not leave.
    """

    timestep_fs: float = 0.5
    temperature: float | Sequence[float] = 300.0
    temperature_end: float | Sequence[float] | None = None
    ramp_steps: int | None = None
    seed: int = 0
    skin: float = 0.5
    remove_drift: bool = True
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for key, unit in (("timestep_fs", "fs"), ("skin", "Å")):
            if not 0 < getattr(self, key) < np.inf:
                raise InputError(f"{key}={getattr(self, key)}: write a positive number of {unit}")


class Hook(Protocol):
    """Called with the simulation after each step whose number is a multiple of ``every``.

    It may look at it, change ``integrator.thermostat.temperature`` (where no ramp does), take replicas out
    (``fail``) or ``stop`` it. The barostat has the same temperature; the usual limit of the kinetic one is
    that of the hottest bath so far.

    Attributes:
        every: steps.
        stress: whether the evaluation at these steps must come with stresses.
    """

    every: int
    stress: bool

    def __call__(self, md: MolecularDynamics) -> None: ...


class MolecularDynamics:
    """Replicas that do not feel each other: each has its own cell, random numbers and fate.

    A replica that fails is taken out and reported in ``failures``; the others go on. Positions are never
    wrapped.

    Attributes:
        system: the living replicas.
        evaluation: energies and forces at their present positions.
        step: steps done.
        failures: by the replica's number.
        stopped: why a hook stopped the run; "" if none did.

    Args:
        forces: of a model, a committee, or either with a bias (``simulation.forces``).
        frames: starting configurations; they may differ in size, cell and composition.
        ensemble: ``NVE()``, ``NVT(...)`` or ``NPT(...)``.
        settings: see MDSettings.
        velocities: [atoms, 3] Å/fs for each frame; None draws them from the Maxwell distribution.
        replica_ids: a whole number a frame that, with the seed, fixes its random numbers; default 0, 1, ...
        hooks: called in this order.

    Raises:
        InputError: no frames, an element the model does not know, a replica without motion, or one that is
            not periodic at constant pressure.
    """

    def __init__(
        self,
        forces: ForceProvider,
        frames: Sequence[Configuration],
        ensemble: Ensemble,
        settings: MDSettings | None = None,
        velocities: Sequence[np.ndarray] | None = None,
        replica_ids: Sequence[int] | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        if len(frames) == 0:
            raise InputError("a simulation needs at least one starting frame")
        self.ids = list(range(len(frames))) if replica_ids is None else list(replica_ids)
        if len(self.ids) != len(frames):
            raise InputError(f"{len(self.ids)} replica_ids were given for {len(frames)} frames")
        self.forces, self.ensemble, self.settings = forces, ensemble, settings or MDSettings()
        self.hooks = list(hooks)
        self.failures: dict[int, Failure] = {}
        self.step, self.stopped = 0, ""
        self.system = System.build(frames, forces.device)
        self._volume = self.system.volume
        self._species = self._species_of(frames)
        self.edges = ReplicaEdges(forces.cutoff, self.settings.skin, self.settings.limits.min_distance)
        temperature = bath_temperature(self.settings.temperature, len(frames), forces.device)
        self._start(temperature, velocities)
        bath = Bath(temperature, self.settings.timestep_fs, self.settings.seed, self.ids)
        self.integrator = ensemble.integrator(self.system, bath)
        s = self.settings
        self._ramp = Ramp.of(ensemble, temperature, s.temperature_end, s.ramp_steps)
        limits = [
            self.settings.limits.temperature(t, n)
            for t, n in zip(temperature.tolist(), self.system.dof.tolist(), strict=True)
        ]
        self._hottest = torch.tensor(limits, dtype=torch.float64, device=forces.device)
        self._ratio = self._hottest / temperature  # of the usual limit to the bath's temperature
        self.evaluation = self._evaluate(stress=True)
        self._judge()

    @property
    def time_fs(self) -> float:
        return self.step * self.settings.timestep_fs

    @property
    def alive(self) -> list[int]:
        """Numbers of the replicas that have not failed, ascending."""
        return list(self.system.index.tolist())

    def run(self, steps: int) -> None:
        """Advance all living replicas; returns early when none is left or a hook stops the run.

        Should something be raised in the middle of a step, as where memory ends, all is as it was before that
        step; ``step`` has its number once hooks are called.
        """
        for _ in range(steps):
            if len(self.system) == 0 or self.stopped:
                return
            due = [hook for hook in self.hooks if (self.step + 1) % hook.every == 0]
            self._advance(self.integrator.barostat.needs_stress or any(hook.stress for hook in due))
            self._judge()
            for hook in due:
                if len(self.system):
                    hook(self)

    def call_hooks(self) -> None:
        """Show the start of a run to all hooks, which ``run`` does not call before its first step."""
        for hook in self.hooks:
            if len(self.system):
                hook(self)

    def stop(self, reason: str) -> None:
        """End the run after this step."""
        self.stopped = reason

    def frames(self) -> dict[int, Configuration]:
        """The present configuration of each living replica, without labels."""
        return dict(zip(self.alive, self.system.configurations(), strict=True))

    def velocities(self) -> dict[int, np.ndarray]:
        """[atoms, 3] Å/fs of each living replica."""
        parts = self.system.by_replica(self.system.velocities)
        return {k: v.numpy().copy() for k, v in zip(self.alive, parts, strict=True)}

    def temperatures(self) -> dict[int, float]:
        """K, kinetic temperature of each living replica."""
        return self._named(self.system.temperature())

    def energies(self) -> dict[int, float]:
        """eV, potential energy of each living replica."""
        return self._named(self.evaluation.energy)

    def kinetic_energies(self) -> dict[int, float]:
        """eV of each living replica."""
        return self._named(self.system.kinetic_energy())

    def conserved(self) -> dict[int, float]:
        """eV of each living replica: what would stay constant in infinitely small steps."""
        return self._named(self.integrator.conserved(self.system, self.evaluation))

    def fail(self, bad: Tensor, reason: str, values: Tensor) -> None:
        """Take out the replicas marked in ``bad`` [replicas] bool; ``values`` [replicas] did it."""
        rows = bad.nonzero()[:, 0].tolist()
        if not rows:
            return
        frames, velocities = self.system.configurations(), self.system.by_replica(self.system.velocities)
        for row in rows:
            k, value = int(self.system.index[row]), float(values[row])
            atoms = self._culprits(row, reason, frames[row], velocities[row].numpy())
            bond = most_changed_bond(self.system.frames[row], frames[row])
            self.failures[k] = Failure(k, self.step, self.time_fs, reason, value, atoms, bond, frames[row])
        self._keep([r for r in range(len(self.system)) if r not in rows])

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the run depends on, on the CPU; see ``restore``."""
        origin, origin_cell = self.edges.origins()
        e = self.evaluation
        tensors = {
            "index": torch.from_numpy(self.system.index), "positions": self.system.positions,
            "velocities": self.system.velocities, "cell": self.system.cell, "origin": origin,
            "origin_cell": origin_cell, "energy": e.energy, "forces": e.forces, "hottest": self._hottest,
            **{f"evaluation.{n}": v for n in ("stress", "deviation") if (v := getattr(e, n)) is not None},
            **{f"integrator.{n}": v for n, v in self.integrator.state().items()},
        }  # fmt: skip
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def restore(self, state: dict[str, Tensor], step: int, failures: dict[int, Failure]) -> None:
        """Go on where another simulation of the same frames, ensemble and settings was at ``step``.

        On the CPU, with the same number of threads, the rest is that of the other one, bit for bit.

        Args:
            state: what ``state`` returned there.
            step: its number of steps.
            failures: its failures.
        """
        device = self.forces.device
        state = {name: value.to(device) for name, value in state.items()}
        alive = state["index"].tolist()
        if alive != self.alive:
            self._keep([self.alive.index(k) for k in alive])
        self.step, self.failures = step, dict(failures)
        self.system.positions, self.system.velocities = state["positions"], state["velocities"]
        self.system.cell = state["cell"]
        self.evaluation = Evaluation(
            state["energy"],
            state["forces"],
            state.get("evaluation.stress"),
            state.get("evaluation.deviation"),
        )
        parts = {n.removeprefix("integrator."): v for n, v in state.items() if n.startswith("integrator.")}
        self.integrator.restore(parts)
        if self._ramp is not None:
            self._ramp.restore(self.integrator, step)
        self._hottest = state["hottest"]
        if alive:
            self.edges.restore(self.system, state["origin"], state["origin_cell"])

    @property
    def _removes_drift(self) -> bool:
        return self.settings.remove_drift and self.ensemble.conserves_momentum

    def _named(self, per_replica: Tensor) -> dict[int, float]:
        return dict(zip(self.alive, per_replica.tolist(), strict=True))

    def _start(self, temperature: Tensor, velocities: Sequence[np.ndarray] | None) -> None:
        """Velocities and degrees of freedom."""
        system = self.system
        if velocities is None:
            drawn = [
                generator(self.settings.seed, replica, VELOCITIES).standard_normal((len(frame), 3))
                for replica, frame in zip(self.ids, system.frames, strict=True)
            ]
            width = fs * torch.sqrt(kB * temperature[system.frame].unsqueeze(1) / system.masses)
            system.velocities = width * torch.from_numpy(np.concatenate(drawn)).to(width)
        else:
            system.velocities = torch.from_numpy(np.concatenate(list(velocities))).to(system.positions)
        if self._removes_drift:
            self._remove_drift()
            system.dof = degrees_of_freedom(system)

    def _remove_drift(self) -> None:
        remove_translation(self.system)
        remove_rotation(self.system, free_rotors(self.system))

    def _species_of(self, frames: Sequence[Configuration]) -> Tensor:
        return torch.from_numpy(species_of(frames, self.forces.atomic_numbers)).to(self.forces.device)

    def _advance(self, stress: bool) -> None:
        """A step of all living replicas, not yet judged."""
        # tensors are replaced, not written to: these are the ones of before
        before = replace(self.system), self.evaluation, self.integrator.state()
        self.step += 1
        try:
            if self._ramp is not None:
                self._ramp.move(self.integrator, self.system, self.step)
            evaluate = partial(self._evaluate, stress)
            self.evaluation = self.integrator.advance(self.system, self.evaluation, self.step, evaluate)
            if self._removes_drift and self.step % DRIFT_EVERY == 0:
                self._remove_drift()
        except BaseException:
            self.step -= 1
            self.system, self.evaluation, state = before
            self.integrator.restore(state)
            if self._ramp is not None:
                self._ramp.restore(self.integrator, self.step)
            raise

    def _evaluate(self, stress: bool) -> Evaluation:
        """Energies and forces at the present positions."""
        edges, system = self.edges.at(self.system), self.system
        batch = Batch(
            positions=system.positions,
            species=self._species,
            frame=system.frame,
            atom_ptr=system.atom_ptr,
            cell=system.cell,
            sender=edges.sender,
            receiver=edges.receiver,
            shift=edges.shift,
            row_ptr=edges.row_ptr,
        )
        return self.forces(batch, stress)

    def _judge(self) -> None:
        """Take out the replicas that have failed and go on without them."""
        system, limit = self.system, self.settings.limits.max_deviation
        temperature, shortest = system.temperature(), self.edges.shortest(system)
        if self.settings.limits.max_temperature is None:
            # never lower again: atoms that cool behind their bath have not failed
            bath = self.integrator.thermostat.temperature
            self._hottest = torch.maximum(self._hottest, self._ratio * bath)
        forces = system.total(self.evaluation.forces.abs().sum(dim=1)) + self.evaluation.energy
        finite = torch.isfinite(forces + system.cell.sum(dim=(1, 2)))
        checks = [
            *self._volume_checks(),
            ("not finite", ~finite, torch.full_like(temperature, torch.nan)),
            ("pair distance", shortest < self.settings.limits.min_distance, shortest),
            ("temperature", ~(temperature <= self._hottest), temperature),
        ]
        if limit is not None and self.evaluation.deviation is not None:
            most = torch.zeros_like(temperature)
            most = most.scatter_reduce(0, system.frame, self.evaluation.deviation, "amax")
            checks.append(("committee deviation", most > limit, most))
        bad = torch.stack([check for _, check, _ in checks])
        if not bool(bad.any()):
            return
        values = torch.stack([value for _, _, value in checks])
        for number, (reason, _, _) in enumerate(checks):
            first = bad[number] & ~bad[:number].any(dim=0)
            self.fail(first, reason, values[number])
            left = ~first
            bad, values = bad[:, left], values[:, left]

    def _volume_checks(self) -> list[tuple[str, Tensor, Tensor]]:
        """First of all: a cell that left its limits is why the rest did."""
        if not isinstance(self.ensemble, NPT):
            return []
        factor, share = self.settings.limits.volume, self.system.volume / self._volume
        bad = self.edges.lost
        if factor is not None:
            bad = bad | (share > factor) | (share < 1.0 / factor)
        return [("volume", bad & torch.isfinite(share), share)]

    def _culprits(
        self, row: int, reason: str, frame: Configuration, velocities: np.ndarray
    ) -> tuple[int, ...]:
        """The atoms of a replica that a failure is about."""
        system = self.system
        if reason == "pair distance":
            return closest_pair(frame, self.settings.limits.min_distance)[1]
        if reason == "temperature":
            masses = system.by_replica(system.masses)[row].numpy()
            return (hottest_atom(velocities, masses),)
        if reason == "not finite":
            broken = ~torch.isfinite(system.by_replica(self.evaluation.forces)[row]).all(dim=1)
            return tuple(broken.nonzero()[:, 0].tolist()) or tuple(range(len(frame)))
        if reason == "committee deviation" and self.evaluation.deviation is not None:
            return (int(system.by_replica(self.evaluation.deviation)[row].argmax()),)
        return ()

    def _keep(self, rows: list[int]) -> None:
        """Go on with these rows of the living replicas alone."""
        before = self.system
        self.edges.keep(before, rows)
        self.evaluation = self.evaluation.keep(rows, before.atom_ptr)
        self.system = before.keep(rows)
        self.integrator.keep(rows)
        self._hottest, self._ratio = self._hottest[rows], self._ratio[rows]
        self._volume = self._volume[rows]
        if rows:
            self._species = self._species_of(self.system.frames)
