"""Whole operations on the shapes of ``gpu_kernels.py``: our GPU backends and cuEquivariance's modules."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gpu_kernels import Bench
    from gpu_work import Inputs, Shape


#: A call and the tensors that its gradient is taken by.
Operation = tuple[Callable[[], Tensor], list[Tensor]]


def operations(shape: Shape, inputs: Inputs) -> Iterator[tuple[str, Callable[[], Operation]]]:
    """Name of, and what makes, the whole operations of each backend that can run and cuEquivariance's own."""
    from msmlff.nn.ops.backends import BACKENDS

    for name in ("triton", "cuequivariance"):
        if BACKENDS[name].missing(inputs.features.device.type) is None:
            yield f"{name} backend, convolution", partial(convolution, name, shape, inputs)
            yield f"{name} backend, contraction", partial(contraction, name, shape, inputs)
    if importlib.util.find_spec("cuequivariance_torch") is not None:
        yield "cuEquivariance convolution", partial(cue_convolution, shape, inputs)
        yield "cuEquivariance contraction", partial(cue_contraction, shape, inputs)


def measured(make: Callable[[], Operation], bench: Bench) -> dict[str, float]:
    """Milliseconds of an operation, and of it with its gradient."""
    call, leaves = make()
    with torch.no_grad():
        forward = bench.ms(call)
    both = bench.ms(lambda: torch.autograd.grad(call().square().sum(), leaves))
    return {"forward_ms": forward, "with_backward_ms": both}


def convolution(name: str, shape: Shape, inputs: Inputs) -> Operation:
    """The convolution of one of our backends."""
    from msmlff.nn.convolution import ScaleConvolution
    from msmlff.nn.edges import ScaleEdges
    from msmlff.nn.ops.backends import kernels

    four = [t.clone().requires_grad_() for t in inputs.four]
    h, phi, weight, y = four
    edges = ScaleEdges(inputs.rows, inputs.rows.sender, phi, y, name)
    constants = ScaleConvolution(1, shape.l_hidden, 1, shape.l_edge, shape.l_edge, 1, [1], 1.0)._couplings
    couplings = [constant(h) for constant in constants]

    def call() -> Tensor:
        parts = kernels(name).convolution(h, phi, weight, couplings, inputs.paths, edges)
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    return call, four


def contraction(name: str, shape: Shape, inputs: Inputs) -> Operation:
    """The symmetric contraction of one of our backends."""
    from msmlff.nn.ops.backends import use_backend
    from msmlff.nn.species import SpeciesGroups
    from msmlff.nn.symmetric_contraction import SymmetricContraction

    device = inputs.features.device
    sizes = (shape.species, shape.l_edge, shape.l_hidden, shape.channels, shape.correlation)
    module = SymmetricContraction(*sizes).to(device)
    groups = SpeciesGroups.build(inputs.species, shape.species)
    x = torch.randn(shape.atoms, (shape.l_edge + 1) ** 2, shape.channels, device=device).requires_grad_()

    def call() -> Tensor:
        with use_backend(name):
            return module(x, groups)

    return call, [x, *module.parameters()]


def cue_irreps(l_max: int, channels: int) -> Any:
    """channels x (0e + 1o + ..) up to l_max."""
    import cuequivariance as cue

    return cue.Irreps("O3", "+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(l_max + 1)))


def cue_convolution(shape: Shape, inputs: Inputs) -> Operation:
    """The last radial layer as a product of matrices, then the fused tensor product with gather and sum."""
    import cuequivariance as cue
    import cuequivariance_torch as cuet

    device = inputs.features.device
    product = cuet.ChannelWiseTensorProduct(
        cue_irreps(shape.l_hidden, shape.channels),
        cue_irreps(shape.l_edge, 1),
        list(cue.Irreps("O3", "+".join(f"{l}{'eo'[l % 2]}" for l in range(shape.l_edge + 1)))),
        layout=cue.ir_mul,
        shared_weights=False,
        internal_weights=False,
        device=device,
        dtype=torch.float32,
    )
    h = inputs.features.flatten(1).clone().requires_grad_()
    phi, y = inputs.phi.clone().requires_grad_(), inputs.harmonics.clone().requires_grad_()
    weight = inputs.weight.permute(1, 0, 2).flatten(1)[:, : product.weight_numel].clone().requires_grad_()
    sender, receiver = inputs.rows.sender, inputs.rows.receiver

    def call() -> Tensor:
        return product(h, y, phi @ weight, indices_1=sender, indices_out=receiver, size_out=shape.atoms)

    return call, [h, phi, y, weight]


def cue_contraction(shape: Shape, inputs: Inputs) -> Operation:
    """Its symmetric contraction, with weights by integer species."""
    import cuequivariance as cue
    import cuequivariance_torch as cuet

    device, irreps = inputs.features.device, cue_irreps(shape.l_edge, shape.channels)
    module = cuet.SymmetricContraction(
        irreps,
        cue_irreps(shape.l_hidden, shape.channels),
        shape.correlation,
        shape.species,
        layout=cue.ir_mul,
        device=device,
        dtype=torch.float32,
        original_mace=True,
    )
    x = torch.randn(shape.atoms, irreps.dim, device=device).requires_grad_()
    species = inputs.species.int()
    return lambda: module(x, species), [x, *module.parameters()]
