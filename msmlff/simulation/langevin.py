"""Langevin dynamics of many replicas in one batch, one force evaluation a step for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase.data import atomic_masses
from ase.units import fs, kB
from scipy.stats import chi2
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.simulation.edges import ReplicaEdges, atom_species

NOISE_BLOCK = 64  # steps of noise drawn at once for each replica


@dataclass(frozen=True)
class LangevinSettings:
    """How replicas move and when one counts as failed.

    Attributes:
        timestep_fs: fs.
        temperature: of the bath and of the initial velocities.
        friction: 1/fs; 0 gives constant energy.
        seed: of velocities and noise; with its replica id it fixes the random numbers of a replica.
        skin: Å, margin of the neighbour lists.
        min_distance: Å, a closer pair is a failure.
        max_temperature: kinetic temperature that is a failure; None for 5 times ``temperature``, or more for
            few atoms (``temperature_limit``).
        device: where positions, velocities and the model are.
    """

    timestep_fs: float = 0.5
    temperature: float = 300.0
    friction: float = 0.01
    seed: int = 0
    skin: float = 0.3
    min_distance: float = 0.3
    max_temperature: float | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for key in ("timestep_fs", "skin"):
            if not getattr(self, key) > 0:
                raise InputError(f"simulation.{key}={getattr(self, key)} must be positive")
        for key in ("temperature", "friction", "min_distance"):
            if not getattr(self, key) >= 0:
                raise InputError(f"simulation.{key}={getattr(self, key)} must not be negative")
        if self.max_temperature is None and self.temperature == 0:
            raise InputError("simulation.temperature=0 needs simulation.max_temperature")

    def temperature_limit(self, atoms: int) -> float:
        """K, the kinetic temperature of a replica of so many atoms above which it has failed.

        The kinetic energy of n atoms at equilibrium follows a chi-squared distribution of 3 n degrees of
        freedom: the default limit is passed by chance once in 1e15 steps at the most.
        """
        if self.max_temperature is not None:
            return self.max_temperature
        return self.temperature * max(5.0, float(chi2.isf(1e-15, 3 * atoms)) / (3 * atoms))


@dataclass(frozen=True)
class Failure:
    """A replica that left the physical range.

    Attributes:
        replica: its index among the frames given.
        step, time_fs: when.
        reason: "not finite", "pair distance" or "temperature".
        value: the offending distance (Å) or temperature (K); NaN for "not finite".
    """

    replica: int
    step: int
    time_fs: float
    reason: str
    value: float


class BatchedLangevin:
    """BAOAB integrator (Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34, eq. 1.4) over replicas.

    Replicas do not feel each other: each has its own cell, random numbers and fate. A replica that fails is
    taken out of the batch and reported in ``failures``; the others go on. Positions are never wrapped.

    Args:
        model: in evaluation mode, on ``settings.device``; positions and velocities are float64 whatever its
            dtype.
        frames: starting configurations; they may differ in size, cell and composition.
        settings: see LangevinSettings.
        velocities: [atoms, 3] Å/fs for each frame; None draws them from the Maxwell distribution.
        replica_ids: a whole number a frame that, with the seed, fixes its random numbers; default 0, 1, ...
    """

    def __init__(
        self,
        model: ForceField,
        frames: Sequence[Configuration],
        settings: LangevinSettings,
        velocities: Sequence[np.ndarray] | None = None,
        replica_ids: Sequence[int] | None = None,
    ) -> None:
        if len(frames) == 0:
            raise InputError("BatchedLangevin needs at least one starting frame")
        ids = range(len(frames)) if replica_ids is None else replica_ids
        if len(ids) != len(frames):
            raise InputError(f"{len(ids)} replica_ids were given for {len(frames)} frames")
        self.model, self.settings, self.start = model, settings, list(frames)
        self.failures: dict[int, Failure] = {}
        self.step = 0
        self._random = [np.random.default_rng((settings.seed, i)) for i in ids]
        self._live = np.arange(len(frames))
        self._edges = ReplicaEdges(model.cutoff, settings.skin)
        self._noise: list[np.ndarray] = []
        drawn = [self._maxwell(k) for k in range(len(frames))] if velocities is None else velocities
        self._assemble([f.positions for f in frames], drawn)
        self._evaluate()
        self._judge()

    @property
    def time_fs(self) -> float:
        return self.step * self.settings.timestep_fs

    @property
    def alive(self) -> list[int]:
        """Indices of the replicas that have not failed, ascending."""
        return self._live.tolist()

    def run(self, steps: int) -> None:
        """Advance all living replicas; returns early when none is left."""
        for _ in range(steps):
            if len(self._live) == 0:
                return
            self._advance()
            self._judge()

    def frames(self) -> dict[int, Configuration]:
        """The present configuration of each living replica, without labels."""
        return {
            k: replace(self.start[k], positions=rows, energy=float("nan"), forces=None, stress=None)
            for k, rows in zip(self.alive, self._by_replica(self._positions), strict=True)
        }

    def velocities(self) -> dict[int, np.ndarray]:
        """[atoms, 3] Å/fs of each living replica."""
        return dict(zip(self.alive, self._by_replica(self._velocities), strict=True))

    def temperatures(self) -> dict[int, float]:
        """K, kinetic temperature of each living replica (3 degrees of freedom an atom)."""
        return dict(zip(self.alive, self._temperatures().tolist(), strict=True))

    def energies(self) -> dict[int, float]:
        """eV, potential energy of each living replica."""
        return dict(zip(self.alive, self._energy.tolist(), strict=True))

    def kinetic_energies(self) -> dict[int, float]:
        """eV of each living replica."""
        return dict(zip(self.alive, self._kinetic().tolist(), strict=True))

    def _by_replica(self, per_atom: Tensor) -> list[np.ndarray]:
        """A copy of the rows of each living replica."""
        rows = per_atom.cpu().numpy()
        return [rows[a:b].copy() for a, b in itertools.pairwise(self._ptr)]

    def _maxwell(self, k: int) -> np.ndarray:
        masses = atomic_masses[self.start[k].numbers][:, None]
        width = np.sqrt(kB * self.settings.temperature / masses) * fs
        return width * self._random[k].normal(size=(len(masses), 3))

    def _assemble(self, positions: Sequence[np.ndarray], velocities: Sequence[np.ndarray]) -> None:
        """Tensors of the living replicas, from one array each."""
        device = self.settings.device
        frames = [self.start[k] for k in self._live]
        counts = [len(f) for f in frames]
        self._ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        numbers = np.concatenate([f.numbers for f in frames])
        self._positions = torch.from_numpy(np.concatenate(positions)).to(device)
        self._velocities = torch.from_numpy(np.concatenate(velocities)).to(device)
        self._masses = torch.from_numpy(atomic_masses[numbers][:, None]).to(device)
        self._frame = torch.from_numpy(np.repeat(np.arange(len(frames)), counts)).to(device)
        self._count = torch.tensor(counts, dtype=torch.float64, device=device)
        limits = [self.settings.temperature_limit(n) for n in counts]
        self._limit = torch.tensor(limits, dtype=torch.float64, device=device)
        self._species = atom_species(frames, self.model.atomic_numbers).to(device)
        self._cell = torch.from_numpy(np.stack([f.cell for f in frames])).to(device)
        self._edges.reset(frames, self._ptr, torch.device(device))

    def _advance(self) -> None:
        s = self.settings
        kick = 0.5 * s.timestep_fs * fs**2 / self._masses
        half = 0.5 * s.timestep_fs
        self._velocities = self._velocities + kick * self._forces
        self._positions = self._positions + half * self._velocities
        if s.friction > 0:
            keep = float(np.exp(-s.friction * s.timestep_fs))
            width = torch.sqrt((1.0 - keep**2) * kB * s.temperature / self._masses) * fs
            self._velocities = keep * self._velocities + width * self._next_noise()
        self._positions = self._positions + half * self._velocities
        self.step += 1
        self._evaluate()
        self._velocities = self._velocities + kick * self._forces

    def _next_noise(self) -> Tensor:
        """[atoms, 3] standard normal numbers of this step."""
        row = self.step % NOISE_BLOCK
        if row == 0 or not self._noise:
            self._noise = [
                self._random[k].normal(size=(NOISE_BLOCK, len(self.start[k]), 3)) for k in self._live
            ]
        return torch.from_numpy(np.concatenate([block[row] for block in self._noise])).to(
            self.settings.device
        )

    def _evaluate(self) -> None:
        """Forces [atoms, 3], energies and shortest pairs [replicas] at the present positions."""
        edges = self._edges.at(
            self._positions, self._cell, self._frame, ordered=len(self.model.scale_cutoffs) > 1
        )
        batch = Batch(
            positions=self._positions,
            species=self._species,
            frame=self._frame,
            atom_ptr=torch.from_numpy(self._ptr).to(self._positions.device),
            cell=self._cell,
            sender=edges.sender,
            receiver=edges.receiver,
            shift=edges.shift,
            row_ptr=edges.row_ptr,
        )
        prediction = self.model(batch, forces=True, stress=False)
        if prediction.forces is None:
            raise RuntimeError("the model returned no forces")
        self._forces = prediction.forces.detach()
        self._energy = prediction.energy.detach()
        self._shortest = edges.shortest

    def _kinetic(self) -> Tensor:
        per_atom = 0.5 * (self._masses * self._velocities**2).sum(dim=1) / fs**2
        return torch.zeros_like(self._count).index_add_(0, self._frame, per_atom)

    def _temperatures(self) -> Tensor:
        return 2.0 * self._kinetic() / (3.0 * self._count * kB)

    def _judge(self) -> None:
        """Record the replicas that have failed and go on without them."""
        broken = ~torch.isfinite(self._forces).all(dim=1)
        not_finite = torch.zeros_like(self._count).index_add_(0, self._frame, broken.to(torch.float64)) > 0
        temperature = self._temperatures()
        close = self._shortest < self.settings.min_distance
        hot = ~(temperature <= self._limit)
        bad = not_finite | close | hot
        if not bool(bad.any()):
            return
        for row in bad.nonzero()[:, 0].tolist():
            if bool(not_finite[row]):
                reason, value = "not finite", float("nan")
            elif bool(close[row]):
                reason, value = "pair distance", float(self._shortest[row])
            else:
                reason, value = "temperature", float(temperature[row])
            k = int(self._live[row])
            self.failures[k] = Failure(k, self.step, self.time_fs, reason, value)
        self._keep((~bad).cpu().numpy())

    def _keep(self, kept: np.ndarray) -> None:
        """Go on with the replicas marked in ``kept`` [replicas] alone."""
        rows = np.flatnonzero(kept)
        positions, velocities = self._by_replica(self._positions), self._by_replica(self._velocities)
        self._live = self._live[rows]
        if self._noise:
            self._noise = [self._noise[r] for r in rows]
        if len(rows) == 0:
            self._positions, self._velocities = self._positions[:0], self._velocities[:0]
            self._ptr, self._energy = np.zeros(1, dtype=np.int64), self._energy[:0]
            self._masses, self._frame, self._count = self._masses[:0], self._frame[:0], self._count[:0]
            return
        self._assemble([positions[r] for r in rows], [velocities[r] for r in rows])
        self._evaluate()
