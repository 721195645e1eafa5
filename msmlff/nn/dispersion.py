"""Dispersion as D3 has it, two-body, with Becke-Johnson damping (Grimme et al., J. Comput. Chem. 32, 1456
(2011), eq. 5 and 6), cut off smoothly.

    E = -1/2 sum_ij C6_ij ( s6 / (r^6 + d^6) + s8 R_ij^2 / (r^8 + d^8) ) S(r),     d = a1 R_ij + a2
    R_ij = sqrt(C8_ij / C6_ij) = sqrt(3 q_i q_j)
    C6_ij = sum_ab w_ia w_jb C6ref_ab,     w_ia ~ exp(-4 (CN_i - CNref_a)^2), sum_a w_ia = 1
    CN_i = sum_j S(r) / (1 + exp(-16 ((R_i + R_j) / r - 1)))

(coordination numbers and their weights: Grimme et al., J. Chem. Phys. 132, 154104 (2010), eq. 15 to 17). S
falls from 1 to 0 over the last ``SWITCH`` Å before the cutoff, with two derivatives; D3 itself stops at 32 Å.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase.units import Bohr, Hartree
from torch import Tensor, nn

from msmlff.data.batch import Batch
from msmlff.nn.constant import Constant
from msmlff.nn.layout import edges_within
from msmlff.nn.segment import segment_sum

#: Å before the cutoff over which the energy is switched off.
SWITCH = 2.0
COUNT_DECAY, WEIGHT_DECAY = 16.0, 4.0


@dataclass(frozen=True)
class D3Table:
    """What D3 knows of some species, and of a functional; in atomic units, as it is published.

    Attributes:
        s6, s8, a1: of the functional.
        a2: bohr.
        coordination: [species, references] coordination numbers of the reference systems; negative: none.
        c6: [species, species, references, references] hartree bohr^6.
        radii: [species] bohr, covalent radii, times 4/3.
        r4r2: [species] bohr, q above.
    """

    s6: float
    s8: float
    a1: float
    a2: float
    coordination: list[list[float]]
    c6: list[list[list[list[float]]]]
    radii: list[float]
    r4r2: list[float]


class D3(nn.Module):
    """The dispersion energy; it has no weights.

    Attributes:
        hops: as those of a model: its neighbours' coefficients depend on their neighbours.

    Args:
        table: of the model's species, in their order.
        cutoff: Å, of the pairs and of the coordination numbers; above ``SWITCH``.
    """

    hops = 2

    def __init__(self, table: D3Table, cutoff: float) -> None:
        super().__init__()
        self.cutoff = float(cutoff)
        self._species = len(table.radii)
        coordination, r4r2 = np.array(table.coordination), np.array(table.r4r2)
        radii = np.array(table.radii) * Bohr
        r0 = np.sqrt(3.0 * np.outer(r4r2, r4r2)).ravel() * Bohr
        damping = table.a1 * r0 + table.a2 * Bohr
        self._coordination = Constant(coordination)
        self._absent = Constant(np.where(coordination < 0, -np.inf, 0.0))
        self._c6 = Constant(np.array(table.c6) * (Hartree * Bohr**6))
        self._ranges = Constant((radii[:, None] + radii).ravel())
        self._damping6, self._damping8 = Constant(damping**6), Constant(damping**8)
        self._s6, self._s8 = table.s6, Constant(table.s8 * r0**2)

    def forward(self, vectors: Tensor, batch: Batch) -> Tensor:
        """[atoms] eV, to each atom of a pair one half, from edge vectors [edges, 3] in Å."""
        within = edges_within(vectors, batch, self.cutoff)
        sender, receiver, rows = within.rows.sender, within.rows.receiver, within.rows.row_ptr
        other = batch.species[sender]
        pair = batch.species[receiver] * self._species + other
        square = vectors.index_select(0, within.edge).square().sum(dim=1)
        length = square.sqrt()
        switch = self._switch(length)
        near = torch.sigmoid(COUNT_DECAY * (self._ranges(length)[pair] / length - 1.0))
        weights = self._weights(segment_sum(near * switch, rows), batch.species)
        if batch.exchange is not None:  # ghosts do not have all their neighbours here
            weights = batch.exchange(weights[: batch.num_counted])
        mixed = torch.einsum("na,nzab->nzb", weights, self._c6(length)[batch.species]).flatten(0, 1)
        c6 = (mixed.index_select(0, receiver * self._species + other) * weights.index_select(0, sender)).sum(
            dim=1
        )
        sixth = square**3
        radial = self._s6 / (sixth + self._damping6(length)[pair])
        radial = radial + self._s8(length)[pair] / (sixth * square + self._damping8(length)[pair])
        return segment_sum(-0.5 * c6 * radial * switch, rows)

    def _switch(self, length: Tensor) -> Tensor:
        """1 up to ``SWITCH`` before the cutoff, then down to 0: 1 - 10 x^3 + 15 x^4 - 6 x^5; 0 behind it."""
        x = ((length - (self.cutoff - SWITCH)) / SWITCH).clamp(min=0.0, max=1.0)
        return 1.0 - x**3 * (10.0 - x * (15.0 - 6.0 * x))

    def _weights(self, coordination: Tensor, species: Tensor) -> Tensor:
        """[atoms, references] of the reference systems, from coordination numbers [atoms]."""
        reference, absent = self._coordination(coordination), self._absent(coordination)
        away = coordination.unsqueeze(1) - reference[species]
        return torch.softmax(-WEIGHT_DECAY * away.square() + absent[species], dim=1)
