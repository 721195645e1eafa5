"""LAMMPS's side of ``pair_style mliap unified``, imitated: domains with ghosts, and exchanges between them.

What is imitated is src/ML-IAP and src/KOKKOS of LAMMPS: the arrays of a domain, that an array of no elements
cannot be had, that exchanges are of contiguous memory and that those of the CPU have room for three numbers
an atom, how pair forces become forces and the virial. Domains run in threads; one that leaves out an exchange
breaks the others' barrier.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msmlff.data.configuration import Configuration

WAIT = 60.0  # seconds for the other domains


@dataclass
class World:
    """All domains of a system, and the memory they exchange by.

    Attributes:
        domains: in the order of their ranks.
    """

    domains: list[Domain] = field(default_factory=list)

    def start(self) -> None:
        """Before a step: forces are zero, nobody has exchanged."""
        self.barrier = threading.Barrier(len(self.domains))
        self.posted: list[Any] = [None] * len(self.domains)
        for domain in self.domains:
            domain.forces[:], domain.virial, domain.exchanges = 0.0, np.zeros((3, 3)), []

    def share(self, rank: int, value: Any) -> list[Any]:
        """What each domain gives."""
        self.posted[rank] = value
        self.barrier.wait(WAIT)
        values = list(self.posted)
        self.barrier.wait(WAIT)
        return values

    def step(self, models: list[Any]) -> None:
        """A call of every domain's model, at the same time."""
        self.start()
        errors: list[BaseException] = []

        def run(domain: Domain, model: Any) -> None:
            try:
                for call in (model.compute_descriptors, model.compute_gradients, model.compute_forces):
                    call(domain)
            except BaseException as error:
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=run, args=pair) for pair in zip(self.domains, models, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])


class Domain:
    """A rank of a LAMMPS without KOKKOS: ``eatoms`` can be set alone, and there are no exchanges.

    Args:
        world: of the domain, which joins it.
        places: [own, 3] Å, of its own atoms.
        ghosts: [ghosts, 3] Å.
        elements: [own + ghosts] int32, of atoms, own ones first.
        owners: for each ghost the rank and the place of the atom it is an image of.
        cutoff: Å, of the pairs.
    """

    def __init__(
        self,
        world: World,
        places: np.ndarray,
        ghosts: np.ndarray,
        elements: np.ndarray,
        owners: np.ndarray,
        cutoff: float,
    ) -> None:
        self.world, self.rank, self.owners = world, len(world.domains), owners
        world.domains.append(self)
        self.nlocal = self.nlistatoms = len(places)
        self.ntotal = len(places) + len(ghosts)
        x = np.concatenate([places, ghosts])
        vectors = x[None, :] - places[:, None]  # x_j - x_i
        square = (vectors**2).sum(axis=2)
        i, j = np.nonzero((square < cutoff**2) & (square > 0))
        self.npairs = len(i)
        self._arrays = {
            "elems": elements.astype(np.int32),
            "pair_i": i.astype(np.int32),
            "pair_j": j.astype(np.int32),
            "rij": np.ascontiguousarray(vectors[i, j]),
        }
        self.forces, self.virial = np.zeros((self.ntotal, 3)), np.zeros((3, 3))
        self.energy, self.atomic = float("nan"), np.full(self.nlocal, np.nan)
        self.exchanges: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in self.__dict__.get("_arrays", {}):
            raise AttributeError(name)
        array: np.ndarray = self._arrays[name]
        if array.shape[0] == 0:  # as Cython's
            raise ValueError("Invalid shape in axis 0: 0.")
        return array

    def _set_eatoms(self, values: np.ndarray) -> None:
        memoryview(values)  # no tensor
        if len(values) == 0:
            raise ValueError("Invalid shape in axis 0: 0.")
        self.atomic[:] = values

    eatoms = property(None, _set_eatoms)

    def update_pair_forces(self, forces: np.ndarray) -> None:
        """mliap_unified.cpp: f_i += fij, f_j -= fij, and -rij fij to the virial."""
        assert isinstance(forces, np.ndarray)
        assert forces.dtype == np.float64
        assert forces.flags.c_contiguous
        forces[0][0]  # its address is taken
        np.add.at(self.forces, self._arrays["pair_i"], forces)
        np.subtract.at(self.forces, self._arrays["pair_j"], forces)
        self.virial -= self._arrays["rij"].T @ forces


class ExchangingDomain(Domain):
    """A rank of a LAMMPS with KOKKOS on the CPU."""

    eatoms = property(lambda self: self.atomic)

    def _columns(self, values: Tensor, width: int) -> np.ndarray:
        assert values.is_contiguous()
        assert values.dtype in (torch.float32, torch.float64)
        assert values.numel() == self.ntotal * width
        assert width <= 3  # what its buffers have room for
        return values.detach().numpy().reshape(self.ntotal, width)

    def forward_exchange(self, source: Tensor, target: Tensor, width: int) -> None:
        """pair_mliap_kokkos.cpp: a copy, then into the ghosts."""
        assert source.dtype == target.dtype
        self.exchanges.append(("forward", width))
        given, taken = self._columns(source, width), self._columns(target, width)
        taken[:] = given
        everyone = self.world.share(self.rank, ("forward", width, given[: self.nlocal].copy()))
        assert all(kind == "forward" and w == width for kind, w, _ in everyone)
        for ghost, (rank, atom) in enumerate(self.owners, start=self.nlocal):
            taken[ghost] = everyone[rank][2][atom]

    def reverse_exchange(self, source: Tensor, target: Tensor, width: int) -> None:
        """A copy, then the ghosts' values are added to their owners', then the ghosts are zero."""
        assert source.dtype == target.dtype
        self.exchanges.append(("reverse", width))
        given, taken = self._columns(source, width), self._columns(target, width)
        taken[:] = given
        everyone = self.world.share(self.rank, ("reverse", width, given[self.nlocal :].copy(), self.owners))
        assert all(kind == "reverse" and w == width for kind, w, *_ in everyone)
        for _, _, of_ghosts, owners in everyone:
            mine = owners[:, 0] == self.rank
            np.add.at(taken, owners[mine, 1], of_ghosts[mine])
        taken[self.nlocal :] = 0.0


def decompose(
    frame: Configuration,
    species: np.ndarray,
    cutoff: float,
    grid: tuple[int, int, int],
    kind: Callable[..., Domain] = ExchangingDomain,
) -> tuple[World, list[np.ndarray]]:
    """A periodic frame in a grid of domains along its lattice vectors, ghosts up to one cutoff.

    Args:
        frame: periodic in all directions.
        species: [atoms], the element of each as LAMMPS counts it.
        cutoff: Å; ghosts are all images within it of the domain, by the distance of lattice planes.
        grid: domains along each vector.
        kind: of domain.

    Returns:
        the domains, and for each which atoms of the frame it owns.
    """
    fraction = frame.positions @ np.linalg.inv(frame.cell) % 1.0 % 1.0
    reach = cutoff * np.linalg.norm(np.linalg.inv(frame.cell), axis=0)
    cells = np.minimum((fraction * grid).astype(int), np.array(grid) - 1)
    rank = np.ravel_multi_index(tuple(cells.T), grid)
    owned = [np.nonzero(rank == r)[0] for r in range(int(np.prod(grid)))]
    place = np.empty(len(frame), dtype=int)
    for atoms in owned:
        place[atoms] = np.arange(len(atoms))
    world, most = World(), np.ceil(reach).astype(int) + 1
    images = np.array(list(itertools.product(*(range(-m, m + 1) for m in most))))
    for r, atoms in enumerate(owned):
        low = np.array(np.unravel_index(r, grid)) / grid
        high = low + 1.0 / np.array(grid)
        ghosts, of = [], []
        for image in images:
            where = fraction + image
            inside = ((where >= low - reach) & (where < high + reach)).all(axis=1)
            if not image.any():
                inside[atoms] = False
            ghosts.append(where[inside] @ frame.cell)
            of.append(np.nonzero(inside)[0])
        which = np.concatenate(of)
        owners = np.stack([rank[which], place[which]], axis=1)
        elements = np.concatenate([species[atoms], species[which]])
        kind(world, fraction[atoms] @ frame.cell, np.concatenate(ghosts), elements, owners, cutoff)
    return world, owned


def collect(world: World, owned: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Energy, atomic energies, forces (those on ghosts added to their owners') and virial of the system."""
    count = sum(len(atoms) for atoms in owned)
    found = {"energies": np.zeros(count), "forces": np.zeros((count, 3)), "virial": np.zeros((3, 3))}
    found["energy"] = np.array(sum(domain.energy for domain in world.domains))
    for domain, atoms in zip(world.domains, owned, strict=True):
        found["energies"][atoms] = domain.atomic
        found["virial"] += domain.virial
        np.add.at(found["forces"], atoms, domain.forces[: domain.nlocal])
        for (rank, atom), force in zip(domain.owners, domain.forces[domain.nlocal :], strict=True):
            found["forces"][owned[rank][atom]] += force
    return found
