"""The gate and sums of linear maps: what they compute, and the compiled ones against plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from msmlff.nn import ops
from msmlff.nn.linear import EquivariantLinear
from msmlff.nn.ops.maps import LinearMap, LinearMaps
from msmlff.nn.radial import SILU_SCALE
from msmlff.nn.species import SpeciesGroups, SpeciesLinear

OTHERS = [name for name in ops.available_backends("cpu") if name != "reference"]
backends = pytest.mark.parametrize("backend", OTHERS)
dtypes = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])

#: Two shared maps of scalars to rows 0 to 2, a map to the vectors, maps by species that read one input's rows
#: again; row 6 is reached by none.
SPEC = LinearMaps(
    (
        LinearMap(0, 0, 1, 0, None, 0, blocks=3, factor=0.7),
        LinearMap(1, 0, 3, 1, None, 3, factor=-1.3),
        LinearMap(2, 0, 1, 2, 0, 0),
        LinearMap(2, 0, 1, 2, 1, 2, factor=0.5),
        LinearMap(2, 1, 3, 2, 2, 3),
    ),
    rows=7,
    channels=5,
)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def of_maps(channels: int, species: int, atoms: int) -> tuple[LinearMaps, list[Tensor], SpeciesGroups]:
    """``SPEC`` for so many channels; its inputs and weights; the atoms' species, the last without atoms."""
    spec = LinearMaps(SPEC.maps, SPEC.rows, channels)
    inputs = [random(atoms, 1, 9), random(atoms, 3, 16), random(atoms, 4, channels)]
    weights = [random(9, 3 * channels), random(16, channels), random(species, 3, channels, channels)]
    kinds = torch.randint(0, max(1, species - 1), (atoms,))
    return spec, [*inputs, *weights], SpeciesGroups.build(kinds, species)


def mapped(backend: str, spec: LinearMaps, groups: SpeciesGroups) -> Callable[..., Tensor]:
    def function(*tensors: Tensor) -> Tensor:
        with ops.use_backend(backend):
            return ops.linear_maps(tensors[:3], tensors[3:], spec, groups)

    return function


def gated(backend: str, l_max: int) -> Callable[[Tensor], Tensor]:
    def function(features: Tensor) -> Tensor:
        with ops.use_backend(backend):
            return ops.gate(features, l_max)

    return function


def all_derivatives(function: Callable[..., Tensor], arguments: Sequence[Tensor]) -> list[Tensor]:
    """Values, first derivatives and those of an objective in which all first derivatives meet."""
    out = function(*arguments)
    first = torch.autograd.grad((out**3).sum(), arguments, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), arguments)
    return [t.detach() for t in (out, *first, *second)]


def same(ours: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, expected, strict=True):
        scale = b.abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * max(scale, 1e-6))


@pytest.mark.parametrize("atoms", [0, 1, 150])
@pytest.mark.parametrize("species", [1, 3])
@pytest.mark.parametrize("channels", [5, 16])
@dtypes
@backends
def test_linear_maps(
    backend: str, dtype: torch.dtype, tolerance: float, channels: int, species: int, atoms: int
) -> None:
    torch.manual_seed(0)
    spec, tensors, groups = of_maps(channels, species, atoms)
    expected = all_derivatives(mapped("reference", spec, groups), tensors)
    ours = [t.detach().to(dtype).requires_grad_() for t in tensors]
    same(all_derivatives(mapped(backend, spec, groups), ours), expected, tolerance)


@pytest.mark.parametrize("backend", ["reference", *OTHERS])
def test_linear_maps_are_what_they_say(backend: str) -> None:
    torch.manual_seed(1)
    spec, tensors, groups = of_maps(5, 3, 6)
    inputs, weights = tensors[:3], tensors[3:]
    expected = torch.zeros(6, spec.rows, spec.channels, dtype=torch.float64)
    for i, z in enumerate(groups.species.tolist()):
        for m in spec.maps:
            weight = weights[m.weight] if m.degree is None else weights[m.weight][z, m.degree]
            rows = inputs[m.input][i, m.first : m.first + m.count]
            product = (m.factor * rows @ weight).view(-1, spec.channels)
            expected[i, m.row : m.row + len(product)] += product
    torch.testing.assert_close(mapped(backend, spec, groups)(*tensors), expected)
    assert not expected[:, 6].any()


@backends
def test_linear_maps_gradgradcheck(backend: str) -> None:
    torch.manual_seed(2)
    spec, tensors, groups = of_maps(2, 2, 3)
    function = mapped(backend, spec, groups)
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@backends
def test_a_part_of_the_gradients(backend: str) -> None:
    """By some features or some weights alone, as forces and the loss ask for them."""
    torch.manual_seed(3)
    spec, tensors, groups = of_maps(5, 3, 20)
    for chosen in ([1], [2], [0, 2], [3], [5], [4, 5], [1, 4]):
        results = []
        for name in ("reference", backend):
            leaves = [t.detach().requires_grad_(i in chosen) for i, t in enumerate(tensors)]
            results.append(
                all_derivatives(
                    lambda *some, leaves=leaves, name=name: mapped(name, spec, groups)(*leaves),
                    [leaves[i] for i in chosen],
                )
            )
        same(results[1], results[0], 1e-12)


@backends
def test_linear_maps_give_the_same_bits_twice(backend: str) -> None:
    torch.manual_seed(4)
    spec, tensors, groups = of_maps(16, 3, 500)
    inputs = [t.detach().float().requires_grad_() for t in tensors]
    first, second = (all_derivatives(mapped(backend, spec, groups), inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_weights_of_another_shape_are_refused() -> None:
    if "cpu" not in OTHERS:
        pytest.skip("no compiled kernels")
    spec, tensors, groups = of_maps(5, 2, 3)
    with pytest.raises(ValueError, match=r"weights of shape \(8, 15\) for 9 channels"):
        mapped("cpu", spec, groups)(*tensors[:3], random(8, 15), *tensors[4:])


@pytest.mark.parametrize("backend", ["reference", *OTHERS])
def test_layers_are_their_equations(backend: str) -> None:
    torch.manual_seed(5)
    linear = EquivariantLinear([6, 4], [3, 3], gates=2).double()
    by_species = SpeciesLinear(2, 1, 4, 3, gates=1).double()
    scalars, vectors, h = random(7, 1, 6), random(7, 3, 4), random(7, 9, 4)
    species = torch.tensor([0, 1, 1, 0, 0, 1, 0])
    with ops.use_backend(backend):
        out = linear([scalars, vectors])
        skip = by_species(h, SpeciesGroups.build(species, 2))
    torch.testing.assert_close(out[:, :3], (scalars @ linear.weights[0] / math.sqrt(6)).view(7, 3, 3))
    torch.testing.assert_close(out[:, 3:], vectors @ linear.weights[1] / 2)
    for i, z in enumerate(species.tolist()):
        weight = by_species.weight[z] / math.sqrt(4 * 2)
        expected = [h[i, 0] @ weight[0], h[i, 0] @ weight[1], *(h[i, 1:4] @ weight[2])]
        torch.testing.assert_close(skip[i], torch.stack(expected))


@pytest.mark.parametrize("atoms", [0, 1, 70])
@pytest.mark.parametrize(("l_max", "channels"), [(0, 3), (1, 16), (2, 32), (3, 5)])
@dtypes
@backends
def test_gate(
    backend: str, dtype: torch.dtype, tolerance: float, l_max: int, channels: int, atoms: int
) -> None:
    torch.manual_seed(6)
    features = random(atoms, l_max + (l_max + 1) ** 2, channels)
    expected = all_derivatives(gated("reference", l_max), [features])
    ours = features.detach().to(dtype).requires_grad_()
    same(all_derivatives(gated(backend, l_max), [ours]), expected, tolerance)


@pytest.mark.parametrize("backend", ["reference", *OTHERS])
def test_gate_is_what_it_says(backend: str) -> None:
    """One channel: silu of the scalar; the vector times silu of its gate."""
    rows = torch.tensor([0.3, -1.2, 1.0, 2.0, 3.0], dtype=torch.float64).view(1, 5, 1)
    out = gated(backend, 1)(rows).flatten()
    silu = [SILU_SCALE * x / (1 + math.exp(-x)) for x in (0.3, -1.2)]
    expected = torch.tensor([silu[0], silu[1], 2 * silu[1], 3 * silu[1]], dtype=torch.float64)
    torch.testing.assert_close(out, expected)


@backends
def test_gate_gradgradcheck(backend: str) -> None:
    torch.manual_seed(7)
    features = random(3, 2 + 9, 2)
    assert torch.autograd.gradcheck(gated(backend, 2), [features])
    assert torch.autograd.gradgradcheck(gated(backend, 2), [features])
