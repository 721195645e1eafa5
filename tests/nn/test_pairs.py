"""Edges there and back as one pair: which they are, and the compiled convolutions that work on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from physics import E0S, SPECIES, evaluate
from systems import crystal, ethanol, make_batch
from torch import Tensor

from msmlff.models import NequIP, NequIPArchitecture
from msmlff.nn import ops
from msmlff.nn.convolution import ScaleConvolution, convolution_paths
from msmlff.nn.edges import Pairs, Rows, ScaleEdges
from msmlff.nn.ops import backends, reference

pytestmark = pytest.mark.skipif("cpu" not in ops.available_backends("cpu"), reason="no compiled kernels")
DTYPES = {"float64": (torch.float64, 1e-10), "float32": (torch.float32, 3e-4)}
#: hidden l, edges' l, l of A, channels, radial functions
SIZES = [(0, 2, 2, 3, 4), (1, 3, 3, 16, 8), (2, 2, 2, 32, 16), (2, 1, 1, 17, 33)]
#: atoms of each frame, the share of pairs that are neighbours, that of edges whose counterpart is missing
GRAPHS = {
    "small": ((1, 4, 2), 0.7, 0.0),
    "frames": ((20, 30, 25), 0.9, 0.0),  # several sections, which end with the frames
    "large": ((110,), 0.9, 0.0),  # sections that edges cross
    "one way": ((6, 5), 0.8, 0.3),
    "no edges": ((3,), 0.0, 0.0),
}


def graph(frames: tuple[int, ...], share: float, missing: float) -> tuple[Rows, Tensor]:
    """Rows of random edges there and back, and their vectors; each atom of a second frame has an image of
    itself for a neighbour.
    """
    sender, receiver, vectors, first = [], [], [], 0
    for number, atoms in enumerate(frames):
        i, j = torch.triu_indices(atoms, atoms, 1)
        chosen = torch.rand(len(i)) < share
        i, j = i[chosen] + first, j[chosen] + first
        if number == 1 and share:
            image = torch.arange(first, first + atoms)
            i, j = torch.cat([i, image]), torch.cat([j, image])
        v = torch.randn(len(i), 3, dtype=torch.float64)
        sender += [i, j]
        receiver += [j, i]
        vectors += [v, -v]
        first += atoms
    kept = torch.rand(sum(map(len, sender))) >= missing
    s, r, v = (torch.cat(parts)[kept] for parts in (sender, receiver, vectors))
    order = torch.argsort(r, stable=True)
    return Rows.build(s[order], r[order], first), v[order]


def pairs_of(rows: Rows, vectors: Tensor) -> Pairs:
    find = backends.BACKENDS["cpu"].pairs
    assert find is not None
    found: Pairs = find(rows, vectors)
    return found


def all_derivatives(function: Callable[..., Sequence[Tensor]], arguments: Sequence[Tensor]) -> list[Tensor]:
    """Values, first derivatives and those of an objective in which all first derivatives meet."""
    out = list(function(*arguments))
    energy = sum((o**3).sum() for o in out)
    first = torch.autograd.grad(energy, arguments, create_graph=True, materialize_grads=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), arguments, materialize_grads=True)
    return [t.detach() for t in (*out, *first, *second)]


def same(ours: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, expected, strict=True):
        scale = b.abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * max(scale, 1e-6))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("kind", GRAPHS)
def test_pairs_are_opposite_edges(kind: str) -> None:
    torch.manual_seed(0)
    rows, vectors = graph(*GRAPHS[kind])
    pairs = pairs_of(rows, vectors)
    assert torch.equal(pairs.edge[:, 0].sort().values.unique(), pairs.edge[:, 0].sort().values)
    there, back = pairs.edge[pairs.edge[:, 1] >= 0].unbind(1)
    assert torch.equal(rows.sender[there], rows.receiver[back])
    assert torch.equal(vectors[there], -vectors[back])
    assert sorted(pairs.edge[pairs.edge >= 0].tolist()) == list(range(len(rows.sender)))
    for column in (0, 1):
        edges = pairs.edge[:, column]
        numbers = torch.arange(len(edges))[edges >= 0]
        assert torch.equal(pairs.item[edges[edges >= 0]], numbers)
    if GRAPHS[kind][2] == 0:
        assert 2 * len(pairs.edge) == len(rows.sender)


def convolve(
    rows: Rows, pairs: Pairs | None, sizes: tuple[int, ...], dtype: torch.dtype
) -> Callable[..., list[Tensor]]:
    """The convolution as a function of h, phi of the pairs, W, Y; without pairs by the reference."""
    l_hidden, l_edge, l_out, *_ = sizes
    module = ScaleConvolution(1, l_hidden, 1, l_edge, l_out, 1, [1], 1.0)
    couplings = [constant(torch.zeros(1, dtype=dtype)) for constant in module._couplings]

    def function(h: Tensor, phi: Tensor, weight: Tensor, harmonics: Tensor) -> list[Tensor]:
        if pairs is None:
            edges = ScaleEdges(rows, rows.sender, phi, harmonics, "reference")
            return reference.convolution(h, phi, weight, couplings, module.paths, edges)
        edges = replace(ScaleEdges(rows, rows.sender, phi, harmonics, "cpu"), pairs=pairs)
        return ops.convolution(h, phi, weight, couplings, module.paths, edges)

    return function


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_convolution(dtype: str, sizes: tuple[int, ...], kind: str) -> None:
    torch.manual_seed(1)
    rows, vectors = graph(*GRAPHS[kind])
    pairs = pairs_of(rows, vectors)
    l_hidden, l_edge, l_out, channels, n = sizes
    paths, (kind_of_number, tolerance) = convolution_paths(l_hidden, l_edge, l_out), DTYPES[dtype]
    arguments = [
        random(len(rows.row_ptr) - 1, (l_hidden + 1) ** 2, channels),
        random(len(pairs.edge), n),
        random(len(paths), n, channels),
        random(len(rows.sender), (l_edge + 1) ** 2),
    ]
    plain = convolve(rows, None, sizes, torch.float64)
    expected = all_derivatives(lambda h, phi, w, y: plain(h, phi[pairs.item], w, y), arguments)
    ours = [a.detach().to(kind_of_number).requires_grad_() for a in arguments]
    same(all_derivatives(convolve(rows, pairs, sizes, kind_of_number), ours), expected, tolerance)


@pytest.mark.parametrize(("species", "l_edge"), [(1, 3), (3, 3), (2, 1)])
@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_species_convolution(dtype: str, kind: str, species: int, l_edge: int) -> None:
    torch.manual_seed(2)
    rows, vectors = graph(*GRAPHS[kind])
    pairs, paths = pairs_of(rows, vectors), convolution_paths(0, l_edge, l_edge)
    kind_of_number, tolerance = DTYPES[dtype]
    of_atom = torch.randint(0, species, (len(rows.row_ptr) - 1,))

    def run(given: Pairs | None, table: Tensor, phi: Tensor, weight: Tensor, y: Tensor) -> list[Tensor]:
        if given is None:
            edges = ScaleEdges(rows, rows.sender, phi, y, "reference")
            return reference.species_convolution(table, of_atom, phi[pairs.item], weight, paths, edges)
        edges = replace(ScaleEdges(rows, rows.sender, phi, y, "cpu"), pairs=given)
        return ops.species_convolution(table, of_atom, phi, weight, paths, edges)

    arguments = [
        random(species, 5),
        random(len(pairs.edge), 9),
        random(len(paths), 9, 5),
        random(len(rows.sender), (l_edge + 1) ** 2),
    ]
    expected = all_derivatives(lambda *a: run(None, *a), arguments)
    ours = [a.detach().to(kind_of_number).requires_grad_() for a in arguments]
    same(all_derivatives(lambda *a: run(pairs, *a), ours), expected, tolerance)


def test_gradgradcheck() -> None:
    torch.manual_seed(3)
    rows, vectors = graph((4,), 0.7, 0.0)
    pairs = pairs_of(rows, vectors)
    function = convolve(rows, pairs, (1, 1, 1), torch.float64)
    paths = convolution_paths(1, 1, 1)
    inputs = (
        random(4, 4, 2), random(len(pairs.edge), 3), random(len(paths), 3, 2), random(len(rows.sender), 4)
    )  # fmt: skip
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("threads", [1, 3])
def test_same_bits_twice(threads: int) -> None:
    torch.manual_seed(4)
    rows, vectors = graph(*GRAPHS["large"])
    pairs, sizes = pairs_of(rows, vectors), SIZES[2]
    shapes = [(110, 9, 32), (len(pairs.edge), 16), (11, 16, 32), (len(rows.sender), 9)]
    arguments = [random(*shape).detach().float().requires_grad_() for shape in shapes]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        function = convolve(rows, pairs, sizes, torch.float32)
        first, second = (all_derivatives(function, arguments) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_model_computes_the_same_with_and_without_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    architecture = NequIPArchitecture(cutoff=4.0, l_max=2, channels=6, layers=3, radial_mlp=(8,))
    model, frames = NequIP(SPECIES, E0S, architecture).double(), (crystal(), ethanol())
    batch = make_batch(model, *frames)
    rows = Rows.build(batch.sender, batch.receiver, batch.num_atoms)
    assert 2 * len(pairs_of(rows, model.edge_vectors(batch)).edge) == batch.num_edges > 0
    with ops.use_backend("cpu"):
        ours = evaluate(model, *frames)
        monkeypatch.setitem(backends.BACKENDS, "cpu", replace(backends.BACKENDS["cpu"], pairs=None))
        plain = evaluate(model, *frames)
    assert plain.forces is not None
    assert plain.forces.abs().max() > 0.05
    for name in ("energy", "forces", "stress"):
        a, b = getattr(ours, name), getattr(plain, name)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, equal_nan=True)
