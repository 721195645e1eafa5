"""Symmetric contraction by the compiled kernels (``native/contraction.cpp``).

The couplings are made symmetric in all factors and sparse: with l up to 3, correlation 3 and the output l = 0
alone, a hundred terms stand for 16 x 153 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from msmlff.nn.constant import Constant
from msmlff.nn.coupling import folded_coupling
from msmlff.nn.ops import twice
from msmlff.nn.ops.native_library import Numbers, call, cut_last, lanes, pad_last, pointer
from msmlff.nn.ops.twice import Gradients, Tensors
from msmlff.nn.ops.types import MonomialTable, monomials
from msmlff.nn.species import SpeciesGroups


def symmetric_contraction(
    features: Tensor,
    weights: Sequence[Tensor],
    couplings: Sequence[Tensor],
    table: MonomialTable,
    groups: SpeciesGroups,
) -> Tensor:
    """As ``reference.symmetric_contraction``, differentiable twice."""
    tree = _tree(table.dim, table.correlation, len(couplings))
    coefficients = [matrix(weight) @ weight for matrix, weight in zip(tree.matrices, weights, strict=True)]
    operation = Contraction(tree, groups)
    (out,) = twice.apply(operation, features, torch.cat(coefficients, dim=1))
    return out


@dataclass(frozen=True, eq=False)
class _Tree:
    """The terms c x_a x_b .. of each output component, by all factors but the last. Integers are int32.

    The products of all factors but the last, "lower monomials", form a tree, by degree, then ascending;
    node 0 is the constant 1.

    Attributes:
        outputs: number of output components.
        variable: [nodes] the last factor of each lower monomial.
        child: [nodes + 1] where the children of each node, monomials of one more factor, begin.
        output: [outputs + 1] where the groups of each output component begin.
        node: [groups] the lower monomial of each group.
        group: [groups + 1] where the terms of each group begin.
        last: [terms] the last factor of each term.
        matrices: for each L, [terms of its components, paths].
    """

    outputs: int
    variable: Tensor
    child: Tensor
    output: Tensor
    node: Tensor
    group: Tensor
    last: Tensor
    matrices: tuple[Constant, ...]


@cache
def _tree(dim: int, correlation: int, count: int) -> _Tree:
    """The tree of the couplings to L = 0 .. count - 1, computed anew: those given may be rounded."""
    terms: list[tuple[int, tuple[int, ...]]] = []
    matrices, outputs = [], 0
    for L in range(count):
        rows = {(outputs + m, t): row for (m, t), row in _symmetric_terms(dim, correlation, L).items()}
        kept = sorted((term for term, row in rows.items() if np.abs(row).max() > 1e-12), key=_by_component)
        matrices.append(Constant(np.array([rows[term] for term in kept]).reshape(len(kept), -1)))
        terms += kept
        outputs += 2 * L + 1
    nodes = sorted({t[:n] for _, t in terms for n in range(len(t))}, key=lambda t: (len(t), t))
    place = {t: i for i, t in enumerate(nodes)}
    parents = np.array([-1, *(place[t[:-1]] for t in nodes[1:])])
    groups = list(dict.fromkeys((m, place[t[:-1]]) for m, t in terms))
    of_term = {group: i for i, group in enumerate(groups)}
    return _Tree(
        outputs,
        _int32([0, *(t[-1] for t in nodes[1:])]),
        _int32(np.searchsorted(parents, np.arange(len(nodes) + 1))),
        _int32(np.searchsorted([m for m, _ in groups], np.arange(outputs + 1))),
        _int32([p for _, p in groups]),
        _int32(np.searchsorted([of_term[m, place[t[:-1]]] for m, t in terms], np.arange(len(groups) + 1))),
        _int32([t[-1] for _, t in terms]),
        tuple(matrices),
    )


def _int32(values: Sequence[int] | np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32))


def _symmetric_terms(dim: int, correlation: int, L: int) -> dict[tuple[int, tuple[int, ...]], np.ndarray]:
    """{(m, monomial): coefficient of each path}, the paths of degree 1 first."""
    tables = [folded_coupling(math.isqrt(dim) - 1, n, L) for n in range(1, correlation + 1)]
    paths = [t.shape[3] for t in tables]
    rows: dict[tuple[int, tuple[int, ...]], np.ndarray] = {}
    for degree, table in enumerate(tables, start=1):
        lower, first = monomials(dim, degree - 1), sum(paths[: degree - 1])
        for m, k, t in np.argwhere(np.abs(table).max(axis=3) > 0).tolist():
            term = (m, tuple(sorted((*lower[t], k))))
            row = rows.setdefault(term, np.zeros(sum(paths)))
            row[first : first + paths[degree - 1]] += table[m, k, t]
    return rows


def _by_component(term: tuple[int, tuple[int, ...]]) -> tuple[int, int, tuple[int, ...]]:
    return term[0], len(term[1]), term[1]


class Contraction:
    """(x, c) -> F_M = sum over the terms of M of c times the monomial; an operation of ``twice``."""

    kinds: tuple[str, ...] = ("features", "weight")

    def __init__(self, tree: _Tree, groups: SpeciesGroups) -> None:
        self.tree, self.species = tree, groups.species
        atoms = len(groups.species)
        self.order = torch.arange(atoms) if groups.order is None else groups.order

    def value(self, inputs: Tensors) -> Tensors:
        x, c = self._padded(inputs)
        out = x.new_empty(x.shape[0], self.tree.outputs, x.shape[2])
        call("contraction_forward", x.dtype, self._shape(x, c), *map(pointer, (x, c, out)))
        return self._cut([out], inputs)

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        x, c, grad = self._padded((*inputs, *grads))
        to = [torch.empty_like(t) if n else None for t, n in zip((x, c), needed, strict=True)]
        call("contraction_gradient", x.dtype, self._shape(x, c), *map(pointer, (x, c, grad, *to)))
        return self._cut(to, inputs)

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        x, c, grad = self._padded((*inputs, *grads))
        v_x = torch.zeros_like(x) if v[0] is None else pad_last(v[0], lanes(x.dtype))
        v_c = None if v[1] is None else pad_last(v[1], lanes(x.dtype))
        to = [torch.empty_like(x), torch.empty_like(c) if needed[1] else None, torch.empty_like(grad)]
        call("contraction_second", x.dtype, self._shape(x, c),
             *map(pointer, (x, c, grad, v_x, v_c, *to)))  # fmt: skip
        of_x, of_c, of_grad = self._cut(to, inputs)
        assert of_grad is not None
        return [of_x, of_c], [of_grad]

    def _padded(self, tensors: Tensors) -> list[Tensor]:
        return [pad_last(t, lanes(t.dtype)) for t in tensors]

    def _cut(self, tensors: Sequence[Tensor | None], inputs: Tensors) -> list:
        return [cut_last(t, inputs[0].shape[2]) for t in tensors]

    def _shape(self, x: Tensor, c: Tensor) -> Numbers:
        tree, (atoms, dim, channels) = self.tree, x.shape
        counts = (tree.outputs, len(tree.variable), len(tree.last), c.shape[0], torch.get_num_threads())
        integers = (tree.variable, tree.child, tree.output, tree.node, tree.group, tree.last)
        return Numbers((atoms, dim, channels, *counts), (*integers, self.order, self.species))
