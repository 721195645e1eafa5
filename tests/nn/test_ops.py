"""The hand-derived operations equal the plain ones, and their derivatives to second order are right."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from msmlff.nn import ops
from msmlff.nn.convolution import ScaleConvolution
from msmlff.nn.edges import RowBlocks, ScaleEdges
from msmlff.nn.ops import reference
from msmlff.nn.symmetric_contraction import SymmetricContraction

ATOMS, CHANNELS, HIDDEN = 7, 3, 4


def random(*shape: int, grad: bool = True) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def make_edges(l_edge: int) -> ScaleEdges:
    """Random edges, among them an atom without any."""
    degree = torch.tensor([3, 0, 5, 1, 2, 4, 2])
    row = torch.arange(ATOMS).repeat_interleave(degree)
    blocks = RowBlocks.build(row, ATOMS)
    sender = blocks.pad(torch.randint(0, ATOMS, (len(row),)))
    harmonics = random(len(blocks.empty), (l_edge + 1) ** 2)
    return ScaleEdges(blocks, sender, random(len(blocks.empty), HIDDEN), harmonics)


@pytest.fixture(params=[(0, 2), (1, 1), (2, 2)], ids=str)
def convolution_case(request: pytest.FixtureRequest) -> tuple[object, ...]:
    torch.manual_seed(0)
    l_hidden, l_edge = request.param
    module = ScaleConvolution(CHANNELS, l_hidden, CHANNELS, l_edge, 2, HIDDEN, [HIDDEN], 1.0)
    edges = make_edges(l_edge)
    h = random(ATOMS, (l_hidden + 1) ** 2, CHANNELS)
    weight = random(len(module.paths), HIDDEN, CHANNELS)
    couplings = [constant(h) for constant in module._couplings]
    return h, edges, weight, couplings, module.paths


def run_convolution(function, case, h, phi, weight, harmonics):  # type: ignore[no-untyped-def]
    _, edges, _, couplings, paths = case
    edges = ScaleEdges(edges.blocks, edges.sender, edges.radial, harmonics)
    return function(h, phi, weight, couplings, paths, edges)


def test_convolution_equals_reference(convolution_case: tuple) -> None:
    h, edges, weight, *_ = convolution_case
    arguments = (h, edges.radial, weight, edges.harmonics)
    ours = run_convolution(ops.convolution, convolution_case, *arguments)
    expected = run_convolution(reference.convolution, convolution_case, *arguments)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert max(b.detach().abs().max().item() for b in expected) > 0.1


def test_convolution_second_derivatives(convolution_case: tuple) -> None:
    """Against autograd of the reference, for an objective in which all first derivatives meet."""
    h, edges, weight, *_ = convolution_case
    arguments = (h, edges.radial, weight, edges.harmonics)

    def second(function) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
        out = run_convolution(function, convolution_case, *arguments)
        energy = sum((o**3).sum() for o in out)
        first = torch.autograd.grad(energy, arguments, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), arguments)

    for a, b in zip(second(ops.convolution), second(reference.convolution), strict=True):
        torch.testing.assert_close(a, b)


def test_convolution_gradgradcheck() -> None:
    torch.manual_seed(1)
    module = ScaleConvolution(2, 1, 2, 1, 1, HIDDEN, [HIDDEN], 1.0)
    edges = make_edges(1)
    couplings = [constant(edges.radial) for constant in module._couplings]

    def function(h: Tensor, phi: Tensor, weight: Tensor, harmonics: Tensor) -> tuple[Tensor, ...]:
        moved = ScaleEdges(edges.blocks, edges.sender, phi, harmonics)
        return tuple(ops.convolution(h, phi, weight, couplings, module.paths, moved))

    inputs = (random(ATOMS, 4, 2), edges.radial, random(len(module.paths), HIDDEN, 2), edges.harmonics)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("species", [1, 3])
def test_species_convolution_equals_general_one(species: int) -> None:
    torch.manual_seed(2)
    module = ScaleConvolution(CHANNELS, 0, CHANNELS, 2, 2, HIDDEN, [HIDDEN], 1.0)
    edges = make_edges(2)
    weight = random(len(module.paths), HIDDEN, CHANNELS)
    table, of_atom = random(species, CHANNELS), torch.arange(ATOMS) % species
    couplings = [constant(table) for constant in module._couplings]
    ours = ops.species_convolution(table, of_atom, edges.radial, weight, module.paths, edges)
    h = table[of_atom].unsqueeze(1)
    expected = reference.convolution(h, edges.radial, weight, couplings, module.paths, edges)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.fixture(params=[(1, 1, 1), (2, 1, 2), (2, 1, 3), (1, 0, 4)], ids=str)
def contraction_case(request: pytest.FixtureRequest) -> SymmetricContraction:
    torch.manual_seed(3)
    l_max, l_out, correlation = request.param
    return SymmetricContraction(1, l_max, l_out, CHANNELS, correlation).double()


def contraction_arguments(module: SymmetricContraction) -> tuple[list[Tensor], list[Tensor]]:
    n = module.correlation
    grouped = [module.weights[l * n : (l + 1) * n] for l in range(module.l_out_max + 1)]
    weights = [torch.cat([w[0] for w in group]).detach().requires_grad_() for group in grouped]
    return weights, [constant(weights[0]) for constant in module._couplings]


def test_contraction_second_derivatives(contraction_case: SymmetricContraction) -> None:
    module = contraction_case
    weights, couplings = contraction_arguments(module)
    x = random(5, (module.l_max + 1) ** 2, CHANNELS)

    def results(function) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
        out = function(x, weights, couplings, module._table)
        first = torch.autograd.grad((out**2).sum(), (x, *weights), create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), (x, *weights))
        return (out, *first, *second)

    for a, b in zip(
        results(ops.symmetric_contraction), results(reference.symmetric_contraction), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_contraction_gradgradcheck() -> None:
    torch.manual_seed(4)
    module = SymmetricContraction(1, 1, 1, 2, 3).double()
    weights, couplings = contraction_arguments(module)

    def function(x: Tensor, *w: Tensor) -> Tensor:
        return ops.symmetric_contraction(x, w, couplings, module._table)

    inputs = (random(3, 4, 2), *weights)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("hidden", [[4], [5, 3, 4]])
def test_radial_network_derivatives(hidden: list[int]) -> None:
    torch.manual_seed(5)
    sizes = [3, *hidden]
    weights = [random(a, b) for a, b in pairwise(sizes)]

    def plain(x: Tensor, *w: Tensor) -> Tensor:
        for matrix in w:
            x = torch.nn.functional.silu(x @ matrix)
        return x

    def ours(x: Tensor, *w: Tensor) -> Tensor:
        return ops.radial_network(x, list(w))

    inputs = (random(6, 3), *weights)
    torch.testing.assert_close(ours(*inputs), plain(*inputs))
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)
