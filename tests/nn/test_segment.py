"""Sums over rows, rows in blocks, and species groups."""

from __future__ import annotations

from itertools import pairwise

import torch

from msmlff.nn.edges import RowBlocks
from msmlff.nn.segment import segment_spread, segment_sum
from msmlff.nn.species import SpeciesGroups, SpeciesLinear

POINTER = torch.tensor([0, 3, 3, 4, 9])


def values(*shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_sum_equals_a_loop() -> None:
    v = values(9, 2)
    expected = torch.stack([v[a:b].sum(dim=0) for a, b in pairwise(POINTER.tolist())])
    torch.testing.assert_close(segment_sum(v, POINTER), expected)


def test_derivatives_of_both_orders() -> None:
    def squared_sum(v: torch.Tensor) -> torch.Tensor:
        return segment_sum(v**2, POINTER) ** 2

    def squared_spread(v: torch.Tensor) -> torch.Tensor:
        return segment_spread(v**2, POINTER) ** 2

    assert torch.autograd.gradgradcheck(squared_sum, values(9, 2))
    assert torch.autograd.gradgradcheck(squared_spread, values(4, 2))


def test_blocks_hold_each_row_in_one_piece() -> None:
    torch.manual_seed(0)
    degree = torch.randint(0, 12, (500,))
    row = torch.arange(500).repeat_interleave(degree)
    blocks = RowBlocks.build(row, 500)
    assert len(blocks.shapes) > 1
    v = torch.randn(len(row), dtype=torch.float64)
    sums = torch.cat([part.sum(dim=1) for part in blocks.split(blocks.pad(v))])
    expected = torch.zeros(500, dtype=torch.float64).index_add(0, row, v)
    torch.testing.assert_close(blocks.unsort(sums), expected)
    assert blocks.empty.sum() < 0.3 * len(blocks.empty)


def test_blocks_without_items() -> None:
    blocks = RowBlocks.build(torch.zeros(0, dtype=torch.long), 3)
    padded = blocks.pad(torch.zeros(0, 2))
    assert padded.shape == (3, 2)
    assert not padded.any()


def test_species_linear_equals_weights_by_atom() -> None:
    torch.manual_seed(0)
    species = torch.tensor([2, 0, 0, 2, 0])
    module = SpeciesLinear(4, 1, 3, 5)
    features = torch.randn(5, 4, 3)
    out = module(features, SpeciesGroups.build(species, 4))
    for i, z in enumerate(species):
        for l in range(2):
            lm = slice(l * l, (l + 1) ** 2)
            expected = features[i, lm] @ module.weight[z, l] / (3 * 4) ** 0.5
            torch.testing.assert_close(out[i, lm], expected)
