"""Convolution over neighbours by the compiled kernels (``native/convolution.cpp``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from msmlff.nn.e3nn_import import wigner_3j
from msmlff.nn.edges import Rows, ScaleEdges
from msmlff.nn.ops import twice
from msmlff.nn.ops.native_library import Numbers, call, cut_last, lanes, pad_last, pointer, pointers
from msmlff.nn.ops.twice import Gradients, Tensors
from msmlff.nn.ops.types import Path

_L_AT_MOST = 4


def convolution(
    features: Tensor,
    phi: Tensor,
    weight: Tensor,
    couplings: Sequence[Tensor],
    paths: Sequence[Path],
    edges: ScaleEdges,
) -> list[Tensor]:
    """As ``reference.convolution``, differentiable twice.

    Raises:
        ValueError: an l above 4.
    """
    assert isinstance(edges.rows, Rows)
    operation = Convolution(_table(tuple(paths)), edges.rows, weight.shape[2])
    return list(twice.apply(operation, features, phi, weight, edges.harmonics))


@dataclass(frozen=True, eq=False)
class _Table:
    """Paths and nonzero couplings as the kernels read them.

    Attributes:
        paths: l1, l2, l3 of each.
        path: [paths, 5] l1, l3, place among the paths to l3, their number, first product.
        entry: [entries, 2] product (path, m1, m3) and (l2, m2), ascending in the latter.
        coefficient: [entries] float64.
        products: number of all (path, m1, m3).
    """

    paths: tuple[Path, ...]
    path: Tensor
    entry: Tensor
    coefficient: Tensor
    products: int


@cache
def _table(paths: tuple[Path, ...]) -> _Table:
    """The table of these paths, with the couplings of ``ScaleConvolution``: those given may be rounded."""
    highest = max(max(p.l1, p.l3) for p in paths)
    if highest > _L_AT_MOST:
        raise ValueError(
            f"the compiled kernels go up to l = {_L_AT_MOST}, not {highest}: use ops.backend=torch"
        )
    of_path, entries, product = [], [], 0
    for p, path in enumerate(paths):
        same = [q for q, other in enumerate(paths) if other.l3 == path.l3]
        of_path.append([path.l1, path.l3, same.index(p), len(same), product])
        coupling = math.sqrt(2 * path.l3 + 1) * wigner_3j(path.l1, path.l2, path.l3).transpose(1, 0, 2)
        flat = coupling.reshape(2 * path.l2 + 1, -1)
        entries += [(path.l2**2 + m2, product + q, flat[m2, q]) for m2, q in np.argwhere(flat).tolist()]
        product += (2 * path.l1 + 1) * (2 * path.l3 + 1)
    entries.sort()
    return _Table(
        paths,
        torch.tensor(of_path),
        torch.tensor([[q, lm] for lm, q, _ in entries]),
        torch.tensor([c for *_, c in entries], dtype=torch.float64),
        product,
    )


class Convolution:
    """(h, phi, W, Y) -> A of each l3; an operation as ``twice`` takes them.

    Channels and radial functions are padded with zeros to whole vectors of the processor.
    """

    kinds: tuple[str, ...] = ("features", "features", "weight", "geometry")

    def __init__(self, table: _Table, rows: Rows, channels: int) -> None:
        self.table, self.rows, self.channels = table, rows, channels

    def value(self, inputs: Tensors) -> Tensors:
        x = self._padded(inputs)
        out = self._outputs(x)
        call("convolution_forward", x[0].dtype, self._shape(x), *map(pointer, x), pointers(out))
        return [self._cut(a) for a in out]

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        x, given = self._padded(inputs), [self._pad_output(g, l) for l, g in enumerate(grads)]
        to = _results(x, needed)
        arguments = (*map(pointer, x), pointers(given), pointers(to))
        call("convolution_gradient", x[0].dtype, self._shape(x), *arguments)
        return self._unpadded(to, inputs)

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        x, given = self._padded(inputs), [self._pad_output(g, l) for l, g in enumerate(grads)]
        moved = [torch.zeros_like(t) if d is None else d for t, d in zip(inputs, v, strict=True)]
        v_x: list[Tensor | None] = list(self._padded(moved))
        if v[2] is None:
            v_x[2] = None
        to = _results(x, needed)
        out = self._outputs(x)
        arguments = [pointers(part) for part in (x, v_x, given, to, out)]
        call("convolution_second", x[0].dtype, self._shape(x), *arguments)
        return self._unpadded(to, inputs), [self._cut(a) for a in out]

    def _padded(self, inputs: Tensors) -> list[Tensor]:
        h, phi, weight, y = inputs
        step = lanes(h.dtype)
        radial_rest = -phi.shape[1] % step
        if radial_rest:
            weight = torch.nn.functional.pad(weight, (0, 0, 0, radial_rest))
        return [pad_last(h, step), pad_last(phi, step), pad_last(weight, step), y.contiguous()]

    def _unpadded(self, padded: Gradients, inputs: Tensors) -> Gradients:
        h, phi, weight, y = padded
        if weight is not None and weight.shape[1] != inputs[2].shape[1]:
            weight = weight[:, : inputs[2].shape[1]]
        sizes = [t.shape[-1] for t in inputs]
        return [cut_last(t, n) for t, n in zip((h, phi, weight, y), sizes, strict=True)]

    def _count(self, l: int) -> int:
        return sum(path.l3 == l for path in self.table.paths)

    def _outputs(self, x: Tensors) -> list[Tensor]:
        """Uninitialised A of each l3; an l3 without paths is empty."""
        atoms, channels = x[0].shape[0], x[2].shape[2]
        return [
            x[0].new_empty(atoms, 2 * l + 1, self._count(l) * channels)
            for l in range(self.table.paths[-1].l3 + 1)
        ]

    def _pad_output(self, grad: Tensor, l: int) -> Tensor:
        if self.channels % lanes(grad.dtype) == 0:
            return grad.contiguous()
        by_path = grad.view(*grad.shape[:2], self._count(l), self.channels)
        return pad_last(by_path, lanes(grad.dtype)).flatten(2)

    def _cut(self, out: Tensor) -> Tensor:
        step = lanes(out.dtype)
        if self.channels % step == 0:
            return out
        width = self.channels + -self.channels % step
        return out.view(*out.shape[:2], -1, width)[..., : self.channels].flatten(2)

    def _shape(self, x: Tensors) -> Numbers:
        h, phi, weight, y = x
        sizes = (h.shape[0], phi.shape[0], h.shape[1], y.shape[1], weight.shape[2], phi.shape[1])
        table = self.table
        counts = (len(table.paths), table.products, len(table.entry), torch.get_num_threads())
        tensors = (self.rows.row_ptr, self.rows.sender, table.path, table.entry, table.coefficient)
        return Numbers((*sizes, *counts), tensors)


def _results(x: Tensors, needed: Sequence[bool]) -> list[Tensor | None]:
    """Uninitialised gradients; that by h is computed always."""
    wanted = (True, *needed[1:])
    return [torch.empty_like(t) if n else None for t, n in zip(x, wanted, strict=True)]
