"""The convolution of a million edges and all its first derivatives.

Edges are alike up to a factor of their sender and one of their receiver, so that one edge, computed by the
reference in float64, and sums of the factors say what all must give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from msmlff.nn import ops
from msmlff.nn.convolution import ScaleConvolution
from msmlff.nn.edges import RowBlocks, Rows, ScaleEdges
from msmlff.nn.ops import reference
from msmlff.nn.ops.backends import BACKENDS
from msmlff.nn.ops.types import Path

#: Atoms on a ring and how far each sees to either side: 1 008 000 edges.
ATOMS, REACH = 8000, 63
EDGES = 2 * ATOMS * REACH
L_HIDDEN, L_EDGE, CHANNELS, RADIAL = 1, 2, 3, 2
ON_GPU = ("torch", "triton", "cuequivariance")
CASES = [
    ("torch", "cpu", False),
    ("cpu", "cpu", False),
    ("cpu", "cpu", True),
    *(pytest.param(name, "cuda", False, marks=pytest.mark.gpu) for name in ON_GPU),
]


@dataclass
class Ring:
    """Senders, receivers, and the vectors of the edges; those there and back are opposite."""

    device: str

    def __post_init__(self) -> None:
        steps = torch.cat([torch.arange(-REACH, 0), torch.arange(1, REACH + 1)])
        receiver = torch.arange(ATOMS).repeat_interleave(len(steps))
        self.vectors = torch.zeros(EDGES, 3)
        self.vectors[:, 0] = steps.repeat(ATOMS)
        sender = (receiver + steps.repeat(ATOMS)) % ATOMS
        self.sender, self.receiver = sender.to(self.device), receiver.to(self.device)

    def edges(self, backend: str, pairs: bool) -> Callable[[Tensor, Tensor], ScaleEdges]:
        """The edges as a function of phi and Y, as the backend reads them."""
        if BACKENDS[backend].padded:
            blocks = RowBlocks.build(self.receiver, ATOMS)
            sender = blocks.pad(self.sender)
            return lambda phi, y: ScaleEdges(blocks, sender, blocks.pad(phi), blocks.pad(y), backend)
        rows = Rows.build(self.sender, self.receiver, ATOMS)
        if not pairs:
            return lambda phi, y: ScaleEdges(rows, rows.sender, phi, y, backend)
        find = BACKENDS[backend].pairs
        assert find is not None
        found = find(rows, self.vectors)
        assert 2 * len(found.edge) == EDGES
        return lambda phi, y: replace(ScaleEdges(rows, rows.sender, phi, y, backend), pairs=found)


def one_edge(
    inputs: list[Tensor], paths: list[Path], couplings: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """A of an atom whose one neighbour it is itself, and the derivatives of A's sum."""
    rows = Rows.build(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), 1)
    h, phi, weight, y = inputs
    edges = ScaleEdges(rows, rows.sender, phi, y, "reference")
    out = reference.convolution(h, phi, weight, couplings, paths, edges)
    return out, list(torch.autograd.grad(sum(o.sum() for o in out), inputs))


@pytest.mark.parametrize(("backend", "device", "pairs"), CASES)
def test_a_million_edges(backend: str, device: str, pairs: bool) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if (reason := BACKENDS[backend].missing(device)) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    module = ScaleConvolution(CHANNELS, L_HIDDEN, CHANNELS, L_EDGE, L_EDGE, RADIAL, [RADIAL], 1.0)
    paths, shapes = module.paths, [((L_HIDDEN + 1) ** 2, CHANNELS), (RADIAL,), ((L_EDGE + 1) ** 2,)]
    h, phi, y = (torch.randn(1, *shape, dtype=torch.float64).requires_grad_() for shape in shapes)
    weight = torch.randn(len(paths), RADIAL, CHANNELS, dtype=torch.float64).requires_grad_()
    couplings = [constant(h) for constant in module._couplings]
    values, slopes = one_edge([h, phi, weight, y], paths, couplings)

    ring = Ring(device)
    of_sender, of_receiver = (1 + 0.5 * torch.randn(2, ATOMS, dtype=torch.float64)).to(device)
    ours = [
        of_sender[:, None, None] * h.to(device),
        phi.repeat(EDGES // 2 if pairs else EDGES, 1),
        weight,
        y.repeat(EDGES, 1),
    ]
    ours = [x.detach().float().to(device).requires_grad_() for x in ours]
    edges = ring.edges(backend, pairs)(ours[1], ours[3])
    typed = [c.float().to(device) for c in couplings]
    out = ops.convolution(ours[0], edges.radial, ours[2], typed, paths, edges)
    out = [edges.in_order_of_atoms(o) for o in out]
    energy = sum((of_receiver.float()[:, None, None] * o).sum() for o in out)
    grads = torch.autograd.grad(energy, ours)

    received = torch.zeros_like(of_sender).index_add(0, ring.receiver, of_sender[ring.sender])
    sent = torch.zeros_like(of_sender).index_add(0, ring.sender, of_receiver[ring.receiver])
    along = of_sender[ring.sender] * of_receiver[ring.receiver]
    factors = [sent, along, along.sum()[None], along]
    if edges.pairs is not None:
        factors[1] = along[edges.pairs.edge].sum(dim=1)
    expected = [received[:, None, None] * value.to(device) for value in values]
    expected += [
        factor.view(-1, *[1] * (slope.dim() - 1)) * slope.to(device)
        for factor, slope in zip(factors, slopes, strict=True)
    ]
    for a, b in zip([*out, *grads], expected, strict=True):
        error = (a.double() - b).abs().max() / b.abs().max()
        assert error < (2e-4 if a is grads[2] else 5e-6)  # dE/dW is a sum over all edges in float32
