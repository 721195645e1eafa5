"""Weights that depend on an atom's species, applied without one-hot vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from msmlff.nn.ops import linear_maps
from msmlff.nn.ops.maps import LinearMap, LinearMaps


@dataclass(frozen=True)
class SpeciesGroups:
    """Atoms sorted by species.

    Attributes:
        species: [atoms] long.
        order: [atoms] long, atoms by ascending species; None where there is one species and nothing to sort.
        inverse: [atoms] long, its inverse permutation.
        sizes: atoms of each species.
        pointer: [species + 1] long, where each species begins in ``order``, where that was prepared.
    """

    species: Tensor
    order: Tensor | None
    inverse: Tensor | None
    sizes: tuple[int, ...]
    pointer: Tensor | None = None

    @classmethod
    def build(cls, species: Tensor, num_species: int) -> SpeciesGroups:
        """Groups of ``species`` [atoms] long, with values below ``num_species``."""
        if num_species == 1:
            return cls(species, None, None, (species.shape[0],))
        order = torch.argsort(species, stable=True)
        sizes = torch.bincount(species, minlength=num_species).tolist()
        return cls(species, order, torch.argsort(order), tuple(sizes))

    def with_pointer(self) -> SpeciesGroups:
        """The groups with ``pointer`` prepared."""
        return replace(self, pointer=torch.tensor([0, *accumulate(self.sizes)]))

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
    ``gates`` further rows of scalars go out, behind that of l = 0.
    """

    def __init__(self, num_species: int, l_max: int, inputs: int, outputs: int, gates: int = 0) -> None:
        super().__init__()
        self.gates, self.degrees = gates, [0] * gates + list(range(l_max + 1))
        self.weight = nn.Parameter(torch.randn(num_species, len(self.degrees), inputs, outputs))
        self._spec = LinearMaps(tuple(self.maps()), gates + (l_max + 1) ** 2, outputs)

    def maps(self, place: int = 0) -> list[LinearMap]:
        """The map to each l, of input number ``place`` and by weights of that number."""
        num_species, _, inputs, _ = self.weight.shape
        factor = 1.0 / math.sqrt(inputs * num_species)
        return [
            LinearMap(
                input=place,
                first=l * l,
                count=2 * l + 1,
                weight=place,
                degree=i,
                row=l * l + self.gates if l else i,
                factor=factor,
            )
            for i, l in enumerate(self.degrees)
        ]

    def forward(self, features: Tensor, groups: SpeciesGroups) -> Tensor:
        """[atoms, >= (l_max + 1)^2, inputs] -> [atoms, gates + (l_max + 1)^2, outputs]; drops higher l."""
        return linear_maps([features], [self.weight], self._spec, groups)
