"""Whole operations on the shapes of ``gpu_kernels.py``: our GPU backends and cuEquivariance's modules."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gpu_kernels import Bench, Inputs, Shape


def measure(shape: Shape, inputs: Inputs, bench: Bench) -> list[dict[str, Any]]:
    """Forward, and forward with backward, of each backend that can run and of cuEquivariance's modules."""
    calls = [call for name in ("triton", "cuequivariance") for call in backend_calls(name, shape, inputs)]
    if importlib.util.find_spec("cuequivariance_torch") is not None:
        calls += [cue_convolution(shape, inputs), cue_contraction(shape, inputs)]
    found = []
    for name, call, leaves in calls:

        def both(call: Callable[[], Tensor] = call, leaves: list[Tensor] = leaves) -> Any:
            return torch.autograd.grad(call().square().sum(), leaves)

        with torch.no_grad():
            forward = bench.ms(call)
        found.append(
            {"atoms": shape.atoms, "name": name, "forward_ms": forward, "with_backward_ms": bench.ms(both)}
        )
    return found


def backend_calls(
    name: str, shape: Shape, inputs: Inputs
) -> list[tuple[str, Callable[[], Tensor], list[Tensor]]]:
    """The convolution and the symmetric contraction of a backend; none where it cannot run."""
    from msmlff.nn.convolution import ScaleConvolution
    from msmlff.nn.edges import ScaleEdges
    from msmlff.nn.ops.backends import BACKENDS, kernels, use_backend
    from msmlff.nn.species import SpeciesGroups
    from msmlff.nn.symmetric_contraction import SymmetricContraction

    device = inputs.features.device
    if BACKENDS[name].missing(device.type) is not None:
        return []
    operations = kernels(name)
    four = [t.clone().requires_grad_() for t in inputs.four]
    h, phi, weight, y = four
    edges = ScaleEdges(inputs.rows, inputs.rows.sender, phi, y, name)
    constants = ScaleConvolution(1, shape.l_hidden, 1, shape.l_edge, shape.l_edge, 1, [1], 1.0)._couplings
    couplings = [constant(h) for constant in constants]
    module = SymmetricContraction(
        shape.species, shape.l_edge, shape.l_hidden, shape.channels, shape.correlation
    ).to(device)
    groups = SpeciesGroups.build(inputs.species, shape.species)
    x = torch.randn(shape.atoms, (shape.l_edge + 1) ** 2, shape.channels, device=device).requires_grad_()

    def convolution() -> Tensor:
        parts = operations.convolution(h, phi, weight, couplings, inputs.paths, edges)
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def contraction() -> Tensor:
        with use_backend(name):
            return module(x, groups)

    return [
        (f"{name} backend, convolution", convolution, four),
        (f"{name} backend, contraction", contraction, [x, *module.parameters()]),
    ]


def cue_irreps(l_max: int, channels: int) -> Any:
    """channels x (0e + 1o + ..) up to l_max."""
    import cuequivariance as cue

    return cue.Irreps("O3", "+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(l_max + 1)))


def cue_convolution(shape: Shape, inputs: Inputs) -> tuple[str, Callable[[], Tensor], list[Tensor]]:
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

    return "cuEquivariance convolution", call, [h, phi, y, weight]


def cue_contraction(shape: Shape, inputs: Inputs) -> tuple[str, Callable[[], Tensor], list[Tensor]]:
    """Its symmetric contraction, with weights by integer species."""
    import cuequivariance as cue
    import cuequivariance_torch as cuet

    device, irreps = inputs.features.device, cue_irreps(shape.l_edge, shape.channels)
    contraction = cuet.SymmetricContraction(
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
    return "cuEquivariance contraction", lambda: contraction(x, species), [x, *contraction.parameters()]
