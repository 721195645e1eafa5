"""Every backend equals the reference in float64: values, first and second derivatives, whole models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from msmlff.errors import InputError
from msmlff.nn import ops
from msmlff.nn.convolution import ScaleConvolution, convolution_paths
from msmlff.nn.edges import RowBlocks, Rows, ScaleEdges
from msmlff.nn.ops.backends import BACKENDS
from msmlff.nn.ops.types import Path
from msmlff.nn.species import SpeciesGroups
from msmlff.nn.symmetric_contraction import SymmetricContraction

OTHERS = [name for name in ops.available_backends("cpu") if name != "reference"]
#: Backends that are never chosen on the CPU, and why they cannot run there.
ASKED_FOR = {name: BACKENDS[name].missing("cpu") for name in ("cuequivariance",)}
DTYPES = {"float64": (torch.float64, 1e-10), "float32": (torch.float32, 3e-4)}
DEGREES = {
    "mixed": (3, 0, 5, 1, 2, 4, 2),  # rows without edges and with one
    "one neighbour": (1,),
    "no edges": (0, 0, 0),
    "many": (70, 0, 130, 5),  # rows longer than a chunk of the kernels
}
#: hidden l, edges' l, l of A, channels, radial functions
SIZES = [(0, 2, 2, 3, 4), (1, 3, 3, 16, 8), (2, 3, 3, 5, 7), (2, 1, 1, 17, 33)]

backends = pytest.mark.parametrize(
    "backend",
    [
        *OTHERS,
        *(
            pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))
            for name, reason in ASKED_FOR.items()
        ),
    ],
)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def random(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = True) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_(grad)


def same(ours: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    """Equal to ``tolerance`` of the largest element of each."""
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == b.shape
        scale = b.abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * max(scale, 1e-6))


def all_derivatives(function: Callable[..., Sequence[Tensor]], arguments: Sequence[Tensor]) -> list[Tensor]:
    """Values, first derivatives and those of an objective in which all first derivatives meet."""
    out = list(function(*arguments))
    energy = sum((o**3).sum() for o in out)
    first = torch.autograd.grad(energy, arguments, create_graph=True, materialize_grads=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), arguments, materialize_grads=True)
    return [t.detach() for t in (*out, *first, *second)]


@dataclass
class Graph:
    """Random edges of atoms with the given numbers of neighbours."""

    degrees: tuple[int, ...]

    def __post_init__(self) -> None:
        self.atoms = len(self.degrees)
        self.receiver = torch.arange(self.atoms).repeat_interleave(torch.tensor(self.degrees))
        self.sender = torch.randint(0, self.atoms, (len(self.receiver),))

    def lay_out(self, backend: str, phi: Tensor, harmonics: Tensor) -> tuple[Tensor, ScaleEdges]:
        """phi and the edges as the backend reads them."""
        if not BACKENDS[backend].padded:
            rows = Rows.build(self.sender, self.receiver, self.atoms)
            return phi, ScaleEdges(rows, rows.sender, phi, harmonics, backend)
        blocks = RowBlocks.build(self.receiver, self.atoms)
        phi = blocks.pad(phi)
        return phi, ScaleEdges(blocks, blocks.pad(self.sender), phi, blocks.pad(harmonics), backend)


def convolve(backend: str, graph: Graph, paths: list[Path], couplings: list[Tensor]) -> Callable[..., list]:
    """The convolution as a function of h, phi, W, Y."""

    def function(h: Tensor, phi: Tensor, weight: Tensor, harmonics: Tensor) -> list[Tensor]:
        phi, edges = graph.lay_out(backend, phi, harmonics)
        typed = [c.to(h.dtype) for c in couplings]
        out = ops.convolution(h, phi, weight, typed, paths, edges)
        return [edges.in_order_of_atoms(o) for o in out]

    return function


def convolve_species(
    backend: str, graph: Graph, paths: list[Path], species: Tensor
) -> Callable[..., list[Tensor]]:
    """The first layer's convolution as a function of the table, phi, W, Y."""

    def function(table: Tensor, phi: Tensor, weight: Tensor, harmonics: Tensor) -> list[Tensor]:
        phi, edges = graph.lay_out(backend, phi, harmonics)
        out = ops.species_convolution(table, species, phi, weight, paths, edges)
        return [edges.in_order_of_atoms(o) for o in out]

    return function


def couplings_of(l_hidden: int, l_edge: int, l_out: int) -> tuple[list[Path], list[Tensor]]:
    module = ScaleConvolution(1, l_hidden, 1, l_edge, l_out, 1, [1], 1.0)
    return module.paths, [constant(torch.zeros(1, dtype=torch.float64)) for constant in module._couplings]


@pytest.mark.parametrize("degrees", DEGREES.values(), ids=DEGREES)
@pytest.mark.parametrize(
    "sizes", [(0, 2, 2, 3, 4), (1, 3, 3, 16, 8), (2, 3, 3, 5, 7), (2, 1, 1, 17, 33)], ids=str
)
@dtypes
@backends
def test_convolution(backend: str, dtype: str, sizes: tuple[int, ...], degrees: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    l_hidden, l_edge, l_out, channels, n = sizes
    paths, couplings = couplings_of(l_hidden, l_edge, l_out)
    graph = Graph(degrees)
    edges = len(graph.receiver)
    kind, tolerance = DTYPES[dtype]
    arguments = [
        random(graph.atoms, (l_hidden + 1) ** 2, channels),
        random(edges, n),
        random(len(paths), n, channels),
        random(edges, (l_edge + 1) ** 2),
    ]
    expected = all_derivatives(convolve("reference", graph, paths, couplings), arguments)
    ours = [a.detach().to(kind).requires_grad_() for a in arguments]
    same(all_derivatives(convolve(backend, graph, paths, couplings), ours), expected, tolerance)


@backends
def test_convolution_gradgradcheck(backend: str) -> None:
    torch.manual_seed(1)
    paths, couplings = couplings_of(1, 1, 1)
    graph = Graph((2, 0, 3))
    function = convolve(backend, graph, paths, couplings)
    inputs = (random(3, 4, 2), random(5, 3), random(len(paths), 3, 2), random(5, 4))
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("degrees", DEGREES.values(), ids=DEGREES)
@pytest.mark.parametrize(("species", "l_edge"), [(1, 3), (2, 3), (4, 3), (2, 0), (4, 1), (1, 2)])
@dtypes
@backends
def test_species_convolution(
    backend: str, dtype: str, species: int, l_edge: int, degrees: tuple[int, ...]
) -> None:
    torch.manual_seed(2)
    graph, (kind, tolerance) = Graph(degrees), DTYPES[dtype]
    paths, edges = convolution_paths(0, l_edge, l_edge), len(graph.receiver)
    of_atom = torch.randint(0, species, (graph.atoms,))
    arguments = [
        random(species, 5), random(edges, 9), random(len(paths), 9, 5), random(edges, (l_edge + 1) ** 2)
    ]  # fmt: skip
    expected = all_derivatives(convolve_species("reference", graph, paths, of_atom), arguments)
    ours = [a.detach().to(kind).requires_grad_() for a in arguments]
    same(all_derivatives(convolve_species(backend, graph, paths, of_atom), ours), expected, tolerance)


@pytest.mark.parametrize("l_edge", [1, 3])
@backends
def test_species_convolution_gradgradcheck(backend: str, l_edge: int) -> None:
    torch.manual_seed(2)
    paths, graph = convolution_paths(0, l_edge, l_edge), Graph((2, 0, 3))
    function = convolve_species(backend, graph, paths, torch.tensor([1, 0, 1]))
    inputs = random(2, 2), random(5, 3), random(len(paths), 3, 2), random(5, (l_edge + 1) ** 2)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


CONTRACTIONS = [(1, 1, 1, 1), (2, 1, 2, 3), (2, 2, 3, 4), (3, 1, 3, 2), (1, 0, 4, 1)]


def contract(module: SymmetricContraction, species: Tensor, backend: str) -> Callable[..., list[Tensor]]:
    """The contraction as a function of x and of the weights of each L."""
    count = len(module.weights[0])
    groups = SpeciesGroups.build(species, count)

    def function(x: Tensor, *weights: Tensor) -> list[Tensor]:
        couplings = [constant(x) for constant in module._couplings]
        with ops.use_backend(backend):
            return [ops.symmetric_contraction(x, weights, couplings, module._table, groups)]

    return function


def contraction_weights(module: SymmetricContraction) -> list[Tensor]:
    n = module.correlation
    grouped = [module.weights[l * n : (l + 1) * n] for l in range(module.l_out_max + 1)]
    return [torch.cat(list(group), dim=1).detach().double().requires_grad_() for group in grouped]


@pytest.mark.parametrize("case", CONTRACTIONS, ids=str)
@dtypes
@backends
def test_contraction(backend: str, dtype: str, case: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    l_max, l_out, correlation, species = case
    module = SymmetricContraction(species, l_max, l_out, 3, correlation)
    kind, tolerance = DTYPES[dtype]
    of_atom = torch.tensor([0, *torch.randint(0, species, (299,))])
    arguments = [random(300, (l_max + 1) ** 2, 3), *contraction_weights(module)]
    expected = all_derivatives(contract(module, of_atom, "reference"), arguments)
    ours = [a.detach().to(kind).requires_grad_() for a in arguments]
    same(all_derivatives(contract(module, of_atom, backend), ours), expected, tolerance)


@backends
def test_constants_keep_their_digits(backend: str) -> None:
    """After a call in float32, one in float64 is exact still."""
    torch.manual_seed(7)
    module = SymmetricContraction(1, 2, 2, 2, 2)
    x, weights = random(4, 9, 2), contraction_weights(module)
    contract(module, torch.zeros(4, dtype=torch.long), backend)(x.float(), *(w.float() for w in weights))
    ours = contract(module, torch.zeros(4, dtype=torch.long), backend)(x, *weights)
    same(ours, contract(module, torch.zeros(4, dtype=torch.long), "reference")(x, *weights), 1e-12)


@backends
def test_contraction_gradgradcheck(backend: str) -> None:
    torch.manual_seed(4)
    module = SymmetricContraction(2, 1, 1, 2, 3)
    function = contract(module, torch.tensor([1, 0, 1]), backend)
    inputs = (random(3, 4, 2), *contraction_weights(module))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("items", [0, 1, 200])
@pytest.mark.parametrize("hidden", [[4], [16, 16], [5, 33, 4]], ids=str)
@dtypes
@backends
def test_radial_network(backend: str, dtype: str, hidden: list[int], items: int) -> None:
    torch.manual_seed(5)
    kind, tolerance = DTYPES[dtype]
    sizes = [3, *hidden]
    arguments = [random(items, 3), *(random(a, b) for a, b in pairwise(sizes))]

    def run(name: str, x: Tensor, *weights: Tensor) -> list[Tensor]:
        with ops.use_backend(name):
            return [ops.radial_network(x, list(weights))]

    expected = all_derivatives(lambda *a: run("reference", *a), arguments)
    ours = [a.detach().to(kind).requires_grad_() for a in arguments]
    same(all_derivatives(lambda *a: run(backend, *a), ours), expected, tolerance)
    if items == 1:
        assert torch.autograd.gradcheck(lambda *a: run(backend, *a), arguments)
        assert torch.autograd.gradgradcheck(lambda *a: run(backend, *a), arguments)


@backends
def test_radial_network_far_from_zero(backend: str) -> None:
    """silu of large arguments is their positive part."""
    x = torch.tensor([[-1e4], [-200.0], [-30.0], [0.0], [30.0], [200.0], [1e4]])
    for dtype in (torch.float32, torch.float64):
        with ops.use_backend(backend):
            y = ops.radial_network(x.to(dtype), [torch.ones(1, 1, dtype=dtype)])
        torch.testing.assert_close(y, torch.nn.functional.silu(x.to(dtype)), rtol=1e-6, atol=1e-11)


@backends
def test_same_bits_twice(backend: str) -> None:
    torch.manual_seed(6)
    paths, couplings = couplings_of(1, 3, 3)
    graph = Graph((40, 3, 0, 90, 12, 55))
    edges = len(graph.receiver)
    kind = torch.float32
    arguments = [
        random(6, 4, 16, dtype=kind), random(edges, 8, dtype=kind),
        random(len(paths), 8, 16, dtype=kind), random(edges, 16, dtype=kind),
    ]  # fmt: skip
    function = convolve(backend, graph, paths, couplings)
    first, second = (all_derivatives(function, arguments) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_unknown_backends_are_named() -> None:
    with pytest.raises(InputError, match=r"ops\.backend='cuda'.*none of that name.*torch, reference"):
        ops.set_backend("cuda")
    with pytest.raises(InputError, match=r"ops\.backend=cpu: it runs on the CPU, not on cuda.*torch"):
        ops.check_backend("cpu", "cuda")


MISSING_LIBRARY = """
import warnings
from pathlib import Path
import torch
from msmlff.errors import InputError
from msmlff import native
from msmlff.nn import ops

native.LIBRARIES["operations"] = Path("/nowhere/operations.so")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        print(ops.radial_network(torch.ones(1, 1), [torch.ones(1, 1)]).item())
print([str(w.message) for w in caught])
try:
    ops.check_backend("cpu")
except InputError as error:
    print(error)
"""


def test_without_the_library_pytorch_serves_and_one_warning_says_how_to_build_it() -> None:
    done = subprocess.run([sys.executable, "-c", MISSING_LIBRARY], capture_output=True, text=True, check=True)
    first, second, caught, error = done.stdout.splitlines()
    assert first == second == str(torch.nn.functional.silu(torch.ones(1)).item())
    assert caught.count("python -m msmlff.native") == 1
    assert "slower" in caught
    assert "ops.backend=cpu: the kernels are not compiled" in error
    assert "python -m msmlff.native" in error


def test_a_library_for_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if "cpu" not in OTHERS:
        pytest.skip("no compiled kernels")
    from msmlff import native
    from msmlff.nn.ops import native_library

    native.missing.cache_clear()
    monkeypatch.setattr(native.build, "processor", lambda: {"machine": "x86_64", "flags": "sse2"})
    try:
        assert "another processor" in (native_library.missing() or "")
    finally:
        native.missing.cache_clear()
