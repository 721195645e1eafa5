"""Weights that depend on an atom's species, applied without one-hot vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SpeciesGroups:
    """Atoms sorted by species.

    Attributes:
        order: [atoms] long, atoms by ascending species; None where there is one species and nothing to sort.
        inverse: [atoms] long, its inverse permutation.
        sizes: atoms of each species.
    """

    order: Tensor | None
    inverse: Tensor | None
    sizes: tuple[int, ...]

    @classmethod
    def build(cls, species: Tensor, num_species: int) -> SpeciesGroups:
        """Groups of ``species`` [atoms] long, with values below ``num_species``."""
        if num_species == 1:
            return cls(None, None, (species.shape[0],))
        order = torch.argsort(species, stable=True)
        sizes = torch.bincount(species, minlength=num_species).tolist()
        return cls(order, torch.argsort(order), tuple(sizes))

    def split(self, values: Tensor) -> list[Tensor]:
        """[atoms, ...] -> one [atoms of the species, ...] for each species."""
        if self.order is None:
            return [values]
        return list(values.index_select(0, self.order).split(list(self.sizes)))

    def join(self, parts: list[Tensor]) -> Tensor:
        """The inverse of ``split``."""
        if self.inverse is None:
            return parts[0]
        return torch.cat(parts).index_select(0, self.inverse)


class SpeciesLinear(nn.Module):
    """out_l = in_l W_{species, l} / sqrt(channels in * species): a linear map of its own for each species.

    It equals the fully connected tensor product of features with one-hot species, normalised as in e3nn.
    """

    def __init__(self, num_species: int, l_max: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.l_max = l_max
        self.weight = nn.Parameter(torch.randn(num_species, l_max + 1, inputs, outputs))

    def forward(self, features: Tensor, groups: SpeciesGroups) -> Tensor:
        """[atoms, >= (l_max + 1)^2, inputs] -> [atoms, (l_max + 1)^2, outputs]; higher l are dropped."""
        num_species, _, inputs, _ = self.weight.shape
        weight = self.weight * (1.0 / math.sqrt(inputs * num_species))
        out = []
        for z, part in enumerate(groups.split(features)):
            mapped = [part[:, l * l : (l + 1) ** 2] @ weight[z, l] for l in range(self.l_max + 1)]
            out.append(mapped[0] if len(mapped) == 1 else torch.cat(mapped, dim=1))
        return groups.join(out)
