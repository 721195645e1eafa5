"""Sums of linear maps by the compiled kernels (``native/maps.cpp``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from msmlff.nn.ops import twice
from msmlff.nn.ops.maps import LinearMaps
from msmlff.nn.ops.native_library import Numbers, call, pointer, pointers
from msmlff.nn.ops.twice import Gradients, Tensors
from msmlff.nn.species import SpeciesGroups


def linear_maps(
    inputs: Sequence[Tensor], weights: Sequence[Tensor], spec: LinearMaps, groups: SpeciesGroups | None
) -> Tensor:
    """As ``maps.linear_maps``, all maps in one pass over the atoms; differentiable twice."""
    (out,) = twice.apply(Maps(spec, len(inputs), groups), *inputs, *weights)
    return out


class Maps:
    """(x_1 .., W_1 ..) -> the sum; an operation as ``twice`` takes them, linear in x and in W."""

    def __init__(self, spec: LinearMaps, count: int, groups: SpeciesGroups | None) -> None:
        self.spec, self.count = spec, count
        self.kinds: tuple[str, ...] = (*["features"] * count, "weight")
        self.species = torch.empty(0, dtype=torch.long) if groups is None else groups.species

    def value(self, inputs: Tensors) -> Tensors:
        x = _contiguous(inputs)
        out = x[0].new_empty(x[0].shape[0], self.spec.rows, self.spec.channels)
        self._apply(x, out, more=False)
        return [out]

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        x = _contiguous(inputs)
        return self._adjoints(x, x, grads[0].contiguous(), needed)

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        x, grad, n = _contiguous(inputs), grads[0].contiguous(), self.count
        moved = [torch.zeros_like(t) if d is None else d.contiguous() for t, d in zip(x, v, strict=True)]
        moves_x, moves_weight = (any(d is not None for d in part) for part in (v[:n], v[n:]))
        out = torch.zeros_like(grad)
        if moves_x:
            self._apply([*moved[:n], *x[n:]], out, more=True)
        if moves_weight:
            self._apply([*x[:n], *moved[n:]], out, more=True)
        wanted = [need and moves_weight for need in needed[:n]] + [need and moves_x for need in needed[n:]]
        return self._adjoints([*moved[:n], *x[n:]], [*x[:n], *moved[n:]], grad, wanted), [out]

    def _apply(self, x: Tensors, out: Tensor, more: bool) -> None:
        arrays = pointers(x[: self.count]), pointers(x[self.count :])
        call("maps_apply", out.dtype, self._shape(x), *arrays, pointer(out), int(more))

    def _adjoints(self, x: Tensors, weights: Tensors, grad: Tensor, needed: Sequence[bool]) -> Gradients:
        """Gradients by the features, of maps with ``weights``, and by the weights, of maps of ``x``."""
        n, shape = self.count, self._shape(x)
        of_x = [torch.empty_like(t) if need else None for t, need in zip(x[:n], needed[:n], strict=True)]
        of_weight = [torch.zeros_like(t) if need else None for t, need in zip(x[n:], needed[n:], strict=True)]
        if any(needed[:n]):
            call("maps_adjoint", grad.dtype, shape, pointer(grad), pointers(weights[n:]), pointers(of_x))
        if any(needed[n:]):
            call("maps_weigh", grad.dtype, shape, pointers(x[:n]), pointer(grad), pointers(of_weight))
        return [*of_x, *of_weight]

    def _shape(self, x: Tensors) -> Numbers:
        spec, n = self.spec, self.count
        rows, weights = (tuple(t.shape[i:] for t in part) for i, part in ((1, x[:n]), (0, x[n:])))
        terms, factors, sizes, species = _table(spec, rows, weights)
        integers = (x[0].shape[0], len(terms), len(sizes), spec.rows, spec.channels, species)
        tensors = (self.species, terms, factors, sizes)
        return Numbers((*integers, torch.get_num_threads()), tensors)


def _contiguous(tensors: Tensors) -> list[Tensor]:
    return [t.contiguous() for t in tensors]


@cache
def _table(
    spec: LinearMaps, rows: tuple[torch.Size, ...], weights: tuple[torch.Size, ...]
) -> tuple[Tensor, Tensor, Tensor, int]:
    """The maps as the kernels read them, their factors, the sizes of the weights, the number of species.

    Args:
        spec: the maps.
        rows: (rows, channels) of each input.
        weights: shapes of the weights.
    """
    terms, species = [], 1
    for m in spec.maps:
        shape, offset, step = weights[m.weight], 0, 0
        if m.degree is not None:
            one = shape[2] * shape[3]
            offset, step, species = m.degree * one, shape[1] * one if shape[0] > 1 else 0, shape[0]
        num_rows, depth = rows[m.input]
        if shape[-2] != depth or shape[-1] != m.blocks * spec.channels:
            raise ValueError(f"weights of shape {tuple(shape)} for {depth} channels and {m}")
        source = (m.input, num_rows, m.first, m.count, depth)
        terms.append([*source, m.weight, offset, step, m.row, m.blocks])
    factors = torch.tensor([m.factor for m in spec.maps], dtype=torch.float64)
    return torch.tensor(terms), factors, torch.tensor([w.numel() for w in weights]), species
