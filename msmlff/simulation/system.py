"""Replicas that move together: flat tensors of their atoms, and what is summed over them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase.data import atomic_masses
from ase.units import fs, kB
from torch import Tensor

from msmlff.data.configuration import Configuration
from msmlff.nn.segment import segment_sum


@dataclass
class System:
    """The replicas that are alive, one after the other. Reals are float64.

    Attributes:
        frames: the configuration each replica started from.
        index: [replicas] its number among those given at the start.
        positions: [atoms, 3] Å, never wrapped.
        velocities: [atoms, 3] Å/fs.
        cell: [replicas, 3, 3] Å, rows are lattice vectors.
        masses: [atoms, 1] atomic mass units.
        frame: [atoms] long, the replica of each atom.
        atom_ptr: [replicas + 1] long, where the atoms of each replica begin.
        dof: [replicas] degrees of freedom that the kinetic energy is shared by.
        volume_known: [replicas] bool, True where a replica is periodic in all directions.
    """

    frames: list[Configuration]
    index: np.ndarray
    positions: Tensor
    velocities: Tensor
    cell: Tensor
    masses: Tensor
    frame: Tensor
    atom_ptr: Tensor
    dof: Tensor
    volume_known: Tensor

    @classmethod
    def build(cls, frames: Sequence[Configuration], device: torch.device | str) -> System:
        """The frames at rest, with three degrees of freedom an atom."""
        counts = np.array([len(f) for f in frames])

        def real(array: np.ndarray) -> Tensor:
            return torch.tensor(array, dtype=torch.float64, device=device)

        positions = real(np.concatenate([f.positions for f in frames]))
        return cls(
            frames=list(frames),
            index=np.arange(len(frames)),
            positions=positions,
            velocities=torch.zeros_like(positions),
            cell=real(np.stack([f.cell for f in frames])),
            masses=real(atomic_masses[np.concatenate([f.numbers for f in frames])])[:, None],
            frame=torch.from_numpy(np.repeat(np.arange(len(frames)), counts)).to(device),
            atom_ptr=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])).to(device),
            dof=real(3.0 * counts),
            volume_known=torch.tensor([bool(np.all(f.pbc)) for f in frames], device=device),
        )

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def counts(self) -> list[int]:
        """Atoms of each replica."""
        return [len(f) for f in self.frames]

    @property
    def volume(self) -> Tensor:
        """[replicas] Å³; NaN where a replica is not periodic in all directions."""
        return torch.linalg.det(self.cell).abs().where(self.volume_known, torch.nan)

    def keep(self, rows: Sequence[int]) -> System:
        """These replicas alone, by their place; rows ascend."""
        parts = self.by_replica(torch.arange(len(self.positions)))
        atoms = torch.cat([parts[r] for r in rows] or [self.frame.new_zeros(0).cpu()]).to(self.frame.device)
        counts = torch.tensor([len(self.frames[r]) for r in rows], dtype=torch.long)
        kept = torch.tensor(list(rows), dtype=torch.long)
        return replace(
            self,
            frames=[self.frames[r] for r in rows],
            index=self.index[list(rows)],
            positions=self.positions[atoms],
            velocities=self.velocities[atoms],
            cell=self.cell[kept],
            masses=self.masses[atoms],
            frame=torch.repeat_interleave(torch.arange(len(rows)), counts).to(self.frame.device),
            atom_ptr=torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]).to(self.frame.device),
            dof=self.dof[kept],
            volume_known=self.volume_known[kept],
        )

    def total(self, per_atom: Tensor) -> Tensor:
        """[atoms, ...] -> [replicas, ...], summed in the order of the atoms."""
        return segment_sum(per_atom, self.atom_ptr)

    def by_replica(self, per_atom: Tensor) -> list[Tensor]:
        """The rows of each replica, on the CPU."""
        bounds = itertools.pairwise(self.atom_ptr.tolist())
        values = per_atom.detach().cpu()
        return [values[a:b] for a, b in bounds]

    def kinetic_energy(self) -> Tensor:
        """[replicas] eV."""
        return self.total(0.5 * (self.masses * self.velocities**2).sum(dim=1)) / fs**2

    def kinetic_tensor(self) -> Tensor:
        """[replicas, 3, 3] eV: sum of m v v."""
        v = self.velocities
        outer = (self.masses * v).unsqueeze(2) * v.unsqueeze(1)
        return self.total(outer.flatten(1)).view(-1, 3, 3) / fs**2

    def temperature(self) -> Tensor:
        """[replicas] K, kinetic temperature 2 K / (degrees of freedom k)."""
        return 2.0 * self.kinetic_energy() / (self.dof * kB)

    def pressure_tensor(self, stress: Tensor) -> Tensor:
        """[replicas, 3, 3] eV/Å³: (sum of m v v) / V - stress, with the stress of the potential."""
        return self.kinetic_tensor() / self.volume.view(-1, 1, 1) - stress

    def configurations(self) -> list[Configuration]:
        """The present configuration of each replica, without labels."""
        return [
            replace(
                start,
                positions=positions.numpy().copy(),
                cell=cell.numpy().copy(),
                energy=float("nan"),
                forces=None,
                stress=None,
            )
            for start, positions, cell in zip(
                self.frames, self.by_replica(self.positions), self.cell.detach().cpu(), strict=True
            )
        ]
