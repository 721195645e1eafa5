"""What all networks share: statistics of the training set, and the isolated atom's energy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models.architecture import Architecture
from msmlff.models.base import ForceField
from msmlff.models.pair_terms import pair_terms
from msmlff.nn.constant import Constant
from msmlff.nn.layout import edges_within
from msmlff.nn.radial import PolynomialCutoff
from msmlff.nn.segment import segment_sum


class ScaledForceField(ForceField):
    """E_i = E0 + scale * network_i + shift_i, and the pair terms of the architecture.

    Args:
        atomic_numbers: species, ascending.
        e0s: eV, energies of the isolated atoms: a mapping from atomic number or a sequence.
        architecture: all hyperparameters.
        statistics: mean numbers of neighbours (one a cutoff), shifts (eV, one a species) and the scale of the
            energy; default: neighbours 1, shifts 0, scale 1.

    Raises:
        InputError: species or E0s as in ``ForceField``; statistics that do not fit cutoffs or species;
            a dispersion that cannot be looked up.
    """

    def __init__(
        self,
        atomic_numbers: Sequence[int],
        e0s: Mapping[int, float] | Sequence[float],
        architecture: Architecture,
        statistics: Statistics | None = None,
    ) -> None:
        architecture = architecture.for_species(atomic_numbers)
        terms = pair_terms(architecture.zbl, architecture.dispersion, atomic_numbers)
        super().__init__(atomic_numbers, e0s, architecture.cutoffs, terms)
        self.architecture: Any = architecture
        self.statistics = _checked(statistics, len(architecture.cutoffs), len(self.atomic_numbers))
        self.envelope = PolynomialCutoff(min(self.scale_cutoffs), architecture.cutoff_power)
        self._shift = Constant(list(self.statistics.shift))

    @abstractmethod
    def network(self, vectors: Tensor, batch: Batch) -> Tensor:
        """[atoms], model dtype: what is learned, of the order of one; depends on positions by ``vectors``."""

    def interaction_energies(self, vectors: Tensor, batch: Batch) -> Tensor:
        energy = self.network(vectors, batch) * self.statistics.scale
        if self.architecture.shift == "none":
            return energy
        shift = self._shift(energy)[batch.species]
        if self.architecture.shift == "environment":
            shift = shift * self._occupation(vectors, batch)
        return energy + shift

    def config(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture.to_dict(),
            "atomic_numbers": list(self.atomic_numbers),
            "e0s": list(self.e0s),
            "statistics": self.statistics.to_dict(),
        }

    def _occupation(self, vectors: Tensor, batch: Batch) -> Tensor:
        """[atoms] 1 - exp(-sum_j f(r_ij)): 0 for an isolated atom, a half for one neighbour, 1 in matter."""
        near = edges_within(vectors, batch, self.envelope.cutoff)
        weight = self.envelope(vectors.index_select(0, near.edge).square().sum(dim=1).sqrt())
        return -torch.expm1(-segment_sum(weight, near.rows.row_ptr))


def _checked(statistics: Statistics | None, num_cutoffs: int, num_species: int) -> Statistics:
    if statistics is None:
        return Statistics((1.0,) * num_cutoffs, (0.0,) * num_species, 1.0)
    if len(statistics.neighbors) != num_cutoffs or len(statistics.shift) != num_species:
        raise InputError(
            f"statistics has {len(statistics.neighbors)} neighbours and {len(statistics.shift)} shifts; the "
            f"model has {num_cutoffs} cutoffs and {num_species} species: compute it for these"
        )
    # A scale without neighbours in the data sends no messages; dividing by one keeps it finite.
    return replace(statistics, neighbors=tuple(n if n > 0 else 1.0 for n in statistics.neighbors))
