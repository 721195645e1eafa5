"""What ``gpu_kernels.py`` measures: each kernel's calls on one shape, with their operations and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """What is computed."""

    atoms: int
    channels: int = 128
    neighbors: int = 40
    l_hidden: int = 1
    l_edge: int = 3
    radial: int = 64
    bessel: int = 8
    species: int = 4
    correlation: int = 3


@dataclass(frozen=True)
class Work:
    """One measured call.

    Attributes:
        name: kernel.
        run: the call.
        operations: floating-point operations it must do.
        numbers: numbers it must read and write.
    """

    name: str
    run: Callable[[], Any]
    operations: float
    numbers: float


@dataclass(frozen=True)
class Inputs:
    """Random inputs of all operations: a graph whose senders are near their receivers in number."""

    rows: Any
    edges: Any
    paths: list[Any]
    features: Tensor
    phi: Tensor
    weight: Tensor
    harmonics: Tensor
    species: Tensor

    @classmethod
    def make(cls, shape: Shape, device: str) -> Inputs:
        """Of one shape."""
        from msmlff.nn.convolution import convolution_paths
        from msmlff.nn.edges import Rows, ScaleEdges

        torch.manual_seed(0)
        receiver = torch.arange(shape.atoms, device=device).repeat_interleave(shape.neighbors)
        away = torch.randint(1, max(2, min(shape.atoms, 500)), receiver.shape, device=device)
        rows = Rows.build((receiver + away) % shape.atoms, receiver, shape.atoms)
        paths = convolution_paths(shape.l_hidden, shape.l_edge, shape.l_edge)
        edges, channels = len(receiver), shape.channels
        phi = torch.randn(edges, shape.radial, device=device)
        harmonics = torch.randn(edges, (shape.l_edge + 1) ** 2, device=device)
        return cls(
            rows,
            ScaleEdges(rows, rows.sender, phi, harmonics, "triton"),
            paths,
            torch.randn(shape.atoms, (shape.l_hidden + 1) ** 2, channels, device=device),
            phi,
            torch.randn(len(paths), shape.radial, channels, device=device) / shape.radial,
            harmonics,
            torch.arange(shape.atoms, device=device) % shape.species,
        )

    @property
    def four(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The convolution's inputs."""
        return self.features, self.phi, self.weight, self.harmonics


def all_work(shape: Shape, device: str) -> Iterator[Work]:
    """Every kernel of one shape."""
    inputs = Inputs.make(shape, device)
    yield from convolution_work(shape, inputs)
    yield from radial_work(shape, inputs)
    yield from density_work(shape, inputs)
    yield from contraction_work(shape, inputs)


def convolution_work(shape: Shape, inputs: Inputs) -> Iterator[Work]:
    """The convolution's kernels and their tangents along (h, phi, Y)."""
    from msmlff.nn.ops import triton_convolution as conv

    four = inputs.four
    spec = conv.Spec.build(conv.PathTable(tuple(inputs.paths)), inputs.rows, four)
    v = conv.Direction.build(four, [four[0], four[1], None, four[3]])
    grads = [torch.randn_like(a) for a in conv.receive(spec, four)]
    edges, k = len(inputs.phi), shape.channels
    radial = 2.0 * shape.radial * len(inputs.paths) * k * edges
    coupled = 2.0 * sum((2 * p.l1 + 1) * (2 * p.l3 + 1) for p in inputs.paths) * k * edges
    of_edges, of_h = inputs.phi.numel() + inputs.harmonics.numel(), inputs.features.numel()
    of_a, of_weight = sum(g.numel() for g in grads), inputs.weight.numel()
    base = of_edges + of_h + of_a + of_weight
    yield Work("receive", lambda: conv.receive(spec, four), radial + coupled, base)
    yield Work("send", lambda: conv.send(spec, four, grads), radial + coupled, base)
    yield Work("edge", lambda: conv.edge(spec, four, grads), 2 * (radial + coupled), base + of_edges)
    yield Work("weigh", lambda: conv.weigh(spec, four, grads), radial + coupled, base)
    moved = base + of_edges
    yield Work("receive tangent", lambda: conv.receive(spec, four, v), 2 * (radial + coupled), moved + of_h)
    yield Work("send tangent", lambda: conv.send(spec, four, grads, v), 2 * (radial + coupled), moved)
    numbers = moved + of_edges + of_h
    yield Work("edge tangent", lambda: conv.edge(spec, four, grads, v), 3 * radial + 4 * coupled, numbers)
    yield Work(
        "weigh tangent", lambda: conv.weigh(spec, four, grads, v), 2 * (radial + coupled), moved + of_h
    )


def radial_work(shape: Shape, inputs: Inputs) -> Iterator[Work]:
    """The network that makes phi of the Bessel functions, as the backend has it, and with its gradient."""
    from msmlff.nn.ops.backends import kernels

    network = kernels("triton").radial_network
    sizes = [shape.bessel, *[shape.radial] * 3]
    device, edges = inputs.phi.device, len(inputs.phi)
    x = torch.randn(edges, shape.bessel, device=device).requires_grad_()
    pairs = list(pairwise(sizes))
    weights = [(torch.randn(a, b, device=device) / a**0.5).requires_grad_() for a, b in pairs]
    grad = torch.randn_like(inputs.phi)
    products = 2.0 * edges * sum(a * b for a, b in pairs)
    numbers = edges * (shape.bessel + shape.radial) + sum(a * b for a, b in pairs)

    def value() -> Any:
        with torch.no_grad():
            return network(x, weights)

    def both() -> Any:
        return torch.autograd.grad(network(x, weights), [x, *weights], grad)

    yield Work("radial network", value, products, numbers)
    yield Work("radial network and gradient", both, 3 * products, 3 * numbers)


def density_work(shape: Shape, inputs: Inputs) -> Iterator[Work]:
    """The first layer's sum over neighbours."""
    from msmlff.nn.ops.triton_species import Density

    kind = inputs.species[inputs.rows.sender]
    density, pair = Density(inputs.rows, kind, shape.species), (inputs.harmonics, inputs.phi)
    (value,) = density.value(pair)
    products = 2.0 * inputs.harmonics.shape[1] * inputs.phi.numel()
    ends = inputs.harmonics.numel() + inputs.phi.numel()
    both = (True, True)
    yield Work("density", lambda: density.value(pair), products, ends + value.numel())
    yield Work(
        "density gradient",
        lambda: density.gradient(pair, [value], both),
        2 * products,
        2 * ends + value.numel(),
    )
    yield Work(
        "density second",
        lambda: density.second(pair, [value], pair, both),
        4 * products,
        4 * ends + 2 * value.numel(),
    )


def contraction_work(shape: Shape, inputs: Inputs) -> Iterator[Work]:
    """The symmetric contraction with L up to the hidden one."""
    from msmlff.nn.ops.triton_contraction import Contraction, SortedAtoms
    from msmlff.nn.ops.triton_contraction_source import polynomials
    from msmlff.nn.species import SpeciesGroups

    device, dim = inputs.features.device, (shape.l_edge + 1) ** 2
    key = (dim, shape.correlation, shape.l_hidden)
    terms = len(polynomials(*key).terms)
    groups = SpeciesGroups.build(inputs.species, shape.species)
    operation = Contraction(key, SortedAtoms.build(groups, device))
    x = torch.randn(shape.atoms, dim, shape.channels, device=device)
    c = torch.randn(shape.species, terms, shape.channels, device=device)
    (out,) = operation.value((x, c))
    flops, ends = 2.0 * terms * shape.atoms * shape.channels, x.numel() + out.numel() + c.numel()
    forces, both = (True, False), (True, True)
    yield Work("contraction", lambda: operation.value((x, c)), flops, ends)
    gradient = ends + x.numel()
    yield Work("contraction dE/dx", lambda: operation.gradient((x, c), [out], forces), 2 * flops, gradient)
    yield Work("contraction dE/dc", lambda: operation.gradient((x, c), [out], (False, True)), flops, ends)
    yield Work(
        "contraction second",
        lambda: operation.second((x, c), [out], (x, None), both),
        7 * flops,
        2 * gradient + x.numel(),
    )
