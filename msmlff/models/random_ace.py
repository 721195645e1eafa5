"""Random features of the atomic cluster expansion: a force field that is linear in its parameters.

Energy = sum over atoms of w . B, with B the invariants up to third order (four bodies) of
A_klm = sum_j R_k(r_ij, Z_j) Y_lm (Drautz, Phys. Rev. B 99, 014104 (2019)) in ``channels`` random radial
channels, as a one-layer MACE has them, and an own w for every species of the centre. With the radial
functions fixed, the best w is one ridge regression, so what a choice of frames is worth can be measured
without an optimiser in between (training/probe.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import Neighbors
from msmlff.errors import InputError
from msmlff.nn.coupling import coupling_paths, symmetric_part
from msmlff.nn.radial import RadialBasis
from msmlff.nn.spherical import SphericalHarmonics

CUTOFF_POWER = 5


@dataclass(frozen=True)
class RandomACE:
    """The features; no training.

    Attributes:
        atomic_numbers: species, ascending.
        cutoff: Å.
        channels: random radial channels K.
        l_max: highest degree of the spherical harmonics.
        num_bessel: radial functions that are mixed.
        seed: of the mixing.
    """

    atomic_numbers: tuple[int, ...]
    cutoff: float = 3.0
    channels: int = 24
    l_max: int = 3
    num_bessel: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest in (("channels", 1), ("l_max", 0), ("num_bessel", 1), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise InputError(f"{name}={getattr(self, name)}: write a whole number >= {lowest}")
        if not self.cutoff > 0:
            raise InputError(f"cutoff={self.cutoff}: write a length in Å above 0")

    @property
    def size(self) -> int:
        """Columns of a design matrix: invariants of every channel and species, then one a species."""
        species = len(self.atomic_numbers)
        return species * self.channels * self._couplings.paths + species

    @cached_property
    def _couplings(self) -> _Couplings:
        return _couplings(self.l_max)

    @cached_property
    def _mixing(self) -> Tensor:
        """[species of the sender, Bessel functions, channels]."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (len(self.atomic_numbers), self.num_bessel, self.channels)
        return torch.randn(shape, generator=generator, dtype=torch.float64) / self.num_bessel**0.5

    def design(self, frame: Configuration, neighbors: Neighbors) -> np.ndarray:
        """Energy and forces of one frame as linear functions of the parameters.

        Args:
            frame: n atoms of known species.
            neighbors: at ``cutoff``.

        Returns:
            [1 + 3 n, size] float32: the energy in the first row, then the forces (x, y, z of atom 0, ...).
            The last columns are the numbers of atoms of each species: their parameters are energies.
        """
        batch = collate([frame], [neighbors], self.atomic_numbers)
        atoms, species = len(frame), len(self.atomic_numbers)
        rows = torch.zeros(1 + 3 * atoms, species, self.channels * self._couplings.paths)
        a, gradient = self._density(batch)
        invariants, by_a = self._couplings.invariants(a)
        rows[0].index_add_(0, batch.species, invariants.flatten(1))
        by_edge = _by_edge(by_a, gradient, batch.row_ptr)
        forces = rows[1:].view(atoms, 3, species, -1)
        for s in range(species):
            of_s = batch.species[batch.receiver] == s
            part = by_edge[of_s]
            forces[:, :, s].index_add_(0, batch.receiver[of_s], part, alpha=-1)
            forces[:, :, s].index_add_(0, batch.sender[of_s], part)
        design = np.zeros((1 + 3 * atoms, self.size), dtype=np.float32)
        design[:, : self.size - species] = rows.flatten(1).numpy()
        design[0, self.size - species :] = np.bincount(batch.species.numpy(), minlength=species)
        return design

    def _density(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A [atoms, K, lm], and its derivative by every edge's vector [K, lm, edges, 3], float32."""
        shift = torch.einsum("ec,ecd->ed", batch.shift, batch.cell[batch.frame[batch.receiver]])
        vector = batch.positions[batch.receiver] - batch.positions[batch.sender] + shift
        length = vector.norm(dim=1)
        unit = vector / length[:, None]
        with torch.enable_grad():
            r, u = length.clone().requires_grad_(), unit.clone().requires_grad_()
            basis = RadialBasis(self.cutoff, self.num_bessel, CUTOFF_POWER)(r)
            harmonics = SphericalHarmonics(self.l_max)(u)
            d_basis = _columns_gradient(basis, r)
            d_harmonics = _columns_gradient(harmonics, u)
        mixing = self._mixing[batch.species[batch.sender]]
        radial = torch.einsum("en,enk->ek", basis.detach(), mixing)
        d_radial = torch.einsum("en,enk->ek", d_basis, mixing)
        # a unit vector turns only across itself: dY/dr = (1 - u u^T) dY/du / r
        across = d_harmonics - torch.einsum("eac,ec,ed->ead", d_harmonics, unit, unit)
        across = across / length[:, None, None]
        y, x = harmonics.detach().float(), unit.float()
        values = radial.float()[:, :, None] * y[:, None]
        along = torch.einsum("ea,ec->aec", y, x)
        gradient = d_radial.float().T[:, None, :, None] * along
        gradient += radial.float().T[:, None, :, None] * across.float().permute(1, 0, 2)
        a = torch.zeros(len(batch.positions), *values.shape[1:])
        return a.index_add_(0, batch.receiver, values), gradient


def _by_edge(by_a: Tensor, gradient: Tensor, row_ptr: Tensor) -> Tensor:
    """dB of each edge's receiver by the edge's vector, [edges, 3, K * paths]; edges by receiver."""
    channels, paths = by_a.shape[1:3]
    result = torch.empty(gradient.shape[2], 3, channels, paths)
    for atom, (start, stop) in enumerate(pairwise(row_ptr.tolist())):
        product = by_a[atom] @ gradient[:, :, start:stop].flatten(2)
        result[start:stop] = product.view(channels, paths, stop - start, 3).permute(2, 3, 0, 1)
    return result.flatten(2)


def _columns_gradient(values: Tensor, by: Tensor) -> Tensor:
    """d values[e, a] / d by[e]: [e, a, ...]; rows do not depend on each other."""
    parts = [
        torch.autograd.grad(values[:, a].sum(), by, retain_graph=True, allow_unused=True)[0]
        for a in range(values.shape[1])
    ]
    return torch.stack([torch.zeros_like(by) if part is None else part for part in parts], dim=1)


@dataclass(frozen=True, eq=False)
class _Couplings:
    """Independent symmetric couplings of one, two and three factors to a scalar.

    Attributes:
        tables: by degree d = 1, 2, 3: [lm^(d - 1), paths * lm], the last factor taken out.
    """

    tables: tuple[Tensor, ...]
    dim: int

    @property
    def paths(self) -> int:
        return sum(table.shape[1] for table in self.tables) // self.dim

    def invariants(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """a [atoms, K, lm] -> B [atoms, K, paths] and dB/da [atoms, K, paths, lm]."""
        flat = a.reshape(-1, self.dim)
        others = flat.new_ones(len(flat), 1)
        values, gradients = [], []
        for degree, table in enumerate(self.tables, start=1):
            derivative = (others @ table).view(len(flat), -1, self.dim)
            values.append(torch.einsum("npa,na->np", derivative, flat))
            gradients.append(degree * derivative)
            others = (others[:, :, None] * flat[:, None]).flatten(1)
        shape = a.shape[:2]
        return (
            torch.cat(values, dim=1).view(*shape, -1),
            torch.cat(gradients, dim=1).view(*shape, -1, self.dim),
        )


@cache
def _couplings(l_max: int) -> _Couplings:
    dim = (l_max + 1) ** 2
    tables = []
    for degree in (1, 2, 3):
        symmetric = [symmetric_part(c)[0].reshape(-1) for c in coupling_paths(l_max, degree, 0)]
        kept: list[np.ndarray] = []
        for candidate in symmetric:
            rest = candidate - sum((k * (k @ candidate) for k in kept), np.zeros_like(candidate))
            if np.linalg.norm(rest) > 1e-8:
                kept.append(rest / np.linalg.norm(rest))
        table = np.stack(kept).reshape(len(kept), dim ** (degree - 1), dim)
        tables.append(torch.from_numpy(table.transpose(1, 0, 2).reshape(dim ** (degree - 1), -1)).float())
    return _Couplings(tuple(tables), dim)
