"""Repulsion of atomic cores (Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids, 1985).

    V(r) = Z_i Z_j e^2 / (4 pi eps0 r) * phi(r / a) * f(r)
    phi(x) = 0.18175 exp(-3.1998 x) + 0.50986 exp(-0.94229 x)
             + 0.28022 exp(-0.4029 x) + 0.02817 exp(-0.20162 x)
    a = 0.8854 a0 / (Z_i^0.23 + Z_j^0.23)

f: the polynomial cutoff at the sum of the covalent radii, so that bonded atoms hardly notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import covalent_radii
from ase.units import Bohr, Hartree
from torch import Tensor, nn

from msmlff.data.batch import Batch
from msmlff.nn.constant import Constant
from msmlff.nn.layout import edges_within
from msmlff.nn.radial import PolynomialCutoff
from msmlff.nn.segment import segment_sum


@dataclass(frozen=True)
class Screening:
    """phi(x) = sum_k c_k exp(-b_k x), a = length / (Z_i^power + Z_j^power); default: the universal one.

    Attributes:
        coefficients: c_k.
        decays: b_k.
        length: Å.
        power: of the atomic numbers.
    """

    coefficients: tuple[float, ...] = (0.18175, 0.50986, 0.28022, 0.02817)
    decays: tuple[float, ...] = (3.19980, 0.94229, 0.40290, 0.20162)
    length: float = 0.8854 * Bohr
    power: float = 0.23


class ZBL(nn.Module):
    """The pair potential; it has no weights.

    Attributes:
        hops: as those of a model: an atom's energy depends on its neighbours alone.

    Args:
        atomic_numbers: species, ascending.
        screening: of the nuclei's charges.
        cutoff_power: p of the polynomial cutoff.
    """

    hops = 1

    def __init__(
        self, atomic_numbers: Sequence[int], screening: Screening | None = None, cutoff_power: int = 6
    ) -> None:
        super().__init__()
        screening = screening or Screening()
        z = np.array(atomic_numbers, dtype=np.float64)
        radii = covalent_radii[list(atomic_numbers)]
        powers = z**screening.power
        self.cutoff = 2.0 * float(radii.max())
        self.envelope = PolynomialCutoff(1.0, cutoff_power)
        self._charges = Constant(Hartree * Bohr * np.outer(z, z).ravel())
        self._waves = Constant((powers[:, None] + powers).ravel() / screening.length)
        self._ranges = Constant((radii[:, None] + radii).ravel())
        self._coefficients, self._decays = Constant(screening.coefficients), Constant(screening.decays)
        self._species = len(z)

    def forward(self, vectors: Tensor, batch: Batch) -> Tensor:
        """[atoms] eV, to each atom of a pair one half, from edge vectors [edges, 3] in Å."""
        near = edges_within(vectors, batch, self.cutoff)
        pair = batch.species[near.rows.receiver] * self._species + batch.species[near.rows.sender]
        length = vectors.index_select(0, near.edge).square().sum(dim=1).sqrt()
        x = (length * self._waves(length)[pair]).unsqueeze(1)
        phi = (torch.exp(-self._decays(x) * x) * self._coefficients(x)).sum(dim=1)
        envelope = self.envelope(length / self._ranges(length)[pair])
        energy = 0.5 * self._charges(length)[pair] / length * phi * envelope
        return segment_sum(energy, near.rows.row_ptr)
