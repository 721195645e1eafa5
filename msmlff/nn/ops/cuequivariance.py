"""The operations by cuEquivariance, where it is installed.

Its unit is a polynomial of segments: vectors of one length that are multiplied element by element and summed
with constant coefficients. In the layout [atoms, (l, m), channels] a component of all channels is a segment:
nothing is transposed. Each nonzero of our own couplings is a term, so neither its order of irreps nor its
normalisation enters. On a CUDA GPU the kernels of cuequivariance_ops_torch evaluate it and its derivatives;
elsewhere cuEquivariance has plain PyTorch, term by term, which is slow and there for tests.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msmlff.nn.constant import Constant
from msmlff.nn.e3nn_import import wigner_3j
from msmlff.nn.edges import Rows, ScaleEdges
from msmlff.nn.linear import split_l
from msmlff.nn.ops import reference
from msmlff.nn.ops.triton_contraction_source import polynomials
from msmlff.nn.ops.types import MonomialTable, Path
from msmlff.nn.species import SpeciesGroups


def missing(device: str) -> str | None:
    """Why it cannot run for tensors on "cuda" or "cpu", and what to do; None where it can."""
    if importlib.util.find_spec("cuequivariance_torch") is None:
        return "cuEquivariance is not installed: pip install 'msmlff[cuequivariance]'"
    if device == "cuda" and importlib.util.find_spec("cuequivariance_ops_torch") is None:
        cuda = (torch.version.cuda or "12").split(".")[0]
        return f"cuEquivariance's kernels are not installed: pip install cuequivariance-ops-torch-cu{cuda}"
    return None


def convolution(
    features: Tensor,
    phi: Tensor,
    weight: Tensor,
    couplings: Sequence[Tensor],
    paths: Sequence[Path],
    edges: ScaleEdges,
) -> list[Tensor]:
    """As ``reference.convolution``: R = phi W is formed for every edge, what follows is one kernel."""
    assert isinstance(edges.rows, Rows)
    if len(edges.sender) == 0:
        return reference.convolution(features, phi, weight, couplings, paths, edges)
    (_, lm, channels), atoms = features.shape, len(edges.rows.row_ptr) - 1
    product = _tensor_product(tuple(paths), lm, edges.harmonics.shape[1], channels, features.device)
    radial = phi @ weight.permute(1, 0, 2).flatten(1)
    inputs = [radial, features.flatten(1), edges.harmonics]
    out = _sum(product, inputs, {1: edges.sender}, edges.rows.receiver, atoms)
    degrees = sorted({path.l3 for path in paths})
    sizes = [sum(path.l3 == l for path in paths) * (2 * l + 1) * channels for l in degrees]
    parts = out.split(sizes, dim=1)
    return [part.reshape(atoms, 2 * l + 1, -1) for l, part in zip(degrees, parts, strict=True)]


def species_convolution(
    table: Tensor, species: Tensor, phi: Tensor, weight: Tensor, paths: Sequence[Path], edges: ScaleEdges
) -> list[Tensor]:
    """As ``species_sum.species_convolution``, on edges without padding."""
    assert isinstance(edges.rows, Rows)
    if len(edges.sender) == 0:
        return reference.species_convolution(table, species, phi, weight, paths, edges)
    (num_species, channels), (lm, n) = table.shape, (edges.harmonics.shape[1], phi.shape[1])
    row = edges.rows.receiver * num_species + species.index_select(0, edges.sender)
    rows = (len(edges.rows.row_ptr) - 1) * num_species
    density = _sum(_density(lm, n, phi.device), [phi, edges.harmonics], {}, row, rows)
    density = density.view(-1, num_species, lm, n).transpose(1, 2).flatten(2)
    of_l = split_l(density)
    matrices = [(table.unsqueeze(1) * weight[p]).view(-1, channels) for p in range(len(paths))]
    return [of_l[path.l3] @ matrix for path, matrix in zip(paths, matrices, strict=True)]


def symmetric_contraction(
    features: Tensor,
    weights: Sequence[Tensor],
    couplings: Sequence[Tensor],
    table: MonomialTable,
    groups: SpeciesGroups,
) -> Tensor:
    """As ``reference.symmetric_contraction``, with a coefficient for each monomial of each component.

    The coefficients are a fixed linear map of the weights, formed once for each species.
    """
    key = (table.dim, table.correlation, len(couplings) - 1)
    coefficients = [matrix(weight) @ weight for matrix, weight in zip(_matrices(*key), weights, strict=True)]
    polynomial = _contraction(*key, features.shape[2], features.device)
    inputs = [torch.cat(coefficients, dim=1).flatten(1), features.flatten(1)]
    (out,) = polynomial(inputs, input_indices={0: groups.species})
    return out.view(features.shape[0], -1, features.shape[2])


def _sum(
    polynomial: Any, inputs: list[Tensor], gathered: dict[int, Tensor], row: Tensor, rows: int
) -> Tensor:
    """The polynomial's output for every edge, summed into row ``row`` [edges] long of so many."""
    shape = inputs[0].new_empty(rows, 1)
    (out,) = polynomial(inputs, input_indices=gathered, output_shapes={0: shape}, output_indices={0: row})
    return out


@cache
def _tensor_product(
    paths: tuple[Path, ...], lm_hidden: int, lm_edge: int, channels: int, device: torch.device
) -> Any:
    """(R, h, Y) -> A, a segment of A for each (l3, m3, path to l3)."""
    import cuequivariance as cue

    product = cue.SegmentedTensorProduct.from_subscripts("u,u,,u")
    segment = (channels,)
    product.add_segments(0, [segment] * len(paths))
    product.add_segments(1, [segment] * lm_hidden)
    product.add_segments(2, [()] * lm_edge)
    product.add_segments(3, [segment] * sum(2 * path.l3 + 1 for path in paths))
    first = 0
    for l3 in sorted({path.l3 for path in paths}):
        same = [p for p, path in enumerate(paths) if path.l3 == l3]
        for place, p in enumerate(same):
            l1, l2 = paths[p].l1, paths[p].l2
            coupling = math.sqrt(2 * l3 + 1) * wigner_3j(l1, l2, l3)
            for m1, m2, m3 in np.argwhere(np.abs(coupling) > 1e-12).tolist():
                to = first + m3 * len(same) + place
                product.add_path(p, l1 * l1 + m1, l2 * l2 + m2, to, c=coupling[m1, m2, m3])
        first += (2 * l3 + 1) * len(same)
    return _evaluated(cue.SegmentedPolynomial.eval_last_operand(product), device)


@cache
def _density(lm: int, radial: int, device: torch.device) -> Any:
    """(phi, Y) -> D, a segment for each lm."""
    import cuequivariance as cue

    product = cue.SegmentedTensorProduct.from_subscripts("u,,u")
    product.add_segment(0, (radial,))
    product.add_segments(1, [()] * lm)
    product.add_segments(2, [(radial,)] * lm)
    for i in range(lm):
        product.add_path(0, i, i, c=1.0)
    return _evaluated(cue.SegmentedPolynomial.eval_last_operand(product), device)


@cache
def _contraction(dim: int, correlation: int, l_out: int, channels: int, device: torch.device) -> Any:
    """(c, x) -> F, a segment of c for each term, one of F for each component."""
    import cuequivariance as cue

    p = polynomials(dim, correlation, l_out)
    operations = []
    for degree in range(1, correlation + 1):
        product = cue.SegmentedTensorProduct.from_subscripts(",".join("u" * (degree + 2)))
        for operand, segments in enumerate([len(p.terms), *[dim] * degree, p.components]):
            product.add_segments(operand, [(channels,)] * segments)
        for t, (component, monomial) in enumerate(p.terms):
            if len(monomial) == degree:
                product.add_path(t, *monomial, component, c=1.0)
        operations.append((cue.Operation((0, *[1] * degree, 2)), product))
    c, x, *_, out = product.operands
    return _evaluated(cue.SegmentedPolynomial([c, x], [out], operations), device)


@cache
def _matrices(dim: int, correlation: int, l_out: int) -> tuple[Constant, ...]:
    return tuple(Constant(m) for m in polynomials(dim, correlation, l_out).matrices)


def _evaluated(polynomial: Any, device: torch.device) -> Any:
    """What evaluates a polynomial on the device; its constants outlive an inference mode it is made in."""
    import cuequivariance_torch

    method = "uniform_1d" if device.type == "cuda" else "naive"
    with torch.inference_mode(False):
        return cuequivariance_torch.SegmentedPolynomial(polynomial, method=method).to(device)
