"""Sums of linear maps of features: which rows of which input are mapped to which rows of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from msmlff.nn.species import SpeciesGroups


@dataclass(frozen=True)
class LinearMap:
    """out[:, row : row + count * blocks] += factor * inputs[input][:, first : first + count] @ W.

    Attributes:
        input: which input.
        first: its first row that is mapped.
        count: how many rows are.
        weight: which of the weights.
        degree: W is [:, degree] of these weights [species, degrees, inputs, outputs], by the atom's species;
            None: W is all of them [inputs, outputs].
        row: the first row of the result.
        blocks: a mapped row gives so many rows, W having as many times the channels of the result.
        factor: of the product.
    """

    input: int
    first: int
    count: int
    weight: int
    degree: int | None
    row: int
    blocks: int = 1
    factor: float = 1.0


@dataclass(frozen=True)
class LinearMaps:
    """A sum of maps to ``rows`` rows of ``channels``; every input is read by one of them at least."""

    maps: tuple[LinearMap, ...]
    rows: int
    channels: int


def linear_maps(
    inputs: Sequence[Tensor], weights: Sequence[Tensor], spec: LinearMaps, groups: SpeciesGroups | None
) -> Tensor:
    """As products of matrices, one for each l (and species)."""
    shared = [m for m in spec.maps if m.degree is None]
    special = [m for m in spec.maps if m.degree is not None]
    given = dict(enumerate(inputs))
    out = _sum(given, [(m, weights[m.weight]) for m in shared], spec) if shared else None
    if not special:
        assert out is not None
        return out
    assert groups is not None
    parts = {i: groups.split(inputs[i]) for i in sorted({m.input for m in special})}
    of_species = []
    for z in range(len(groups.sizes)):
        mine = {i: part[z] for i, part in parts.items()}
        of_species.append(_sum(mine, [(m, weights[m.weight][z, m.degree]) for m in special], spec))
    mapped = groups.join(of_species)
    return mapped if out is None else out + mapped


def _sum(inputs: Mapping[int, Tensor], maps: Sequence[tuple[LinearMap, Tensor]], spec: LinearMaps) -> Tensor:
    """That of some maps with their W; rows that none of them reaches are zero."""
    parts: dict[int, Tensor] = {}
    for m, weight in maps:
        x = inputs[m.input][:, m.first : m.first + m.count]
        part = (x @ (weight * m.factor)).view(x.shape[0], m.count * m.blocks, spec.channels)
        parts[m.row] = parts[m.row] + part if m.row in parts else part
    rows, end = [], 0
    for row in [*sorted(parts), spec.rows]:
        if row > end:
            rows.append(x.new_zeros(x.shape[0], row - end, spec.channels))
        if row in parts:
            rows.append(parts[row])
            end = row + parts[row].shape[1]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
