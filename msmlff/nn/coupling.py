"""Generalised Clebsch-Gordan coefficients of the symmetric contraction.

The basis, its order and its normalisation are those of mace-torch's ``U_matrix_real`` (Batatia et al.,
arXiv 2206.07697, eq. 10 and 11), so that weights mean the same in both codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np

from msmlff.nn.e3nn_import import wigner_3j
from msmlff.nn.ops.types import monomials

#: Beyond this degree intermediate irreps of unnatural parity are left out, as mace-torch does.
_ALL_INTERMEDIATES_UP_TO = 3


@dataclass(frozen=True)
class _Path:
    """A coupling of ``degree`` factors Y_lm to one irrep: coefficient [2 l + 1, dim, ..., dim]."""

    l: int
    parity: int
    coefficient: np.ndarray


@cache
def _paths(l_max: int, degree: int, natural_only: bool) -> tuple[_Path, ...]:
    """All couplings of ``degree`` factors, by successive addition of one, sorted by (l, parity)."""
    dim = (l_max + 1) ** 2
    if degree == 1:
        unit = np.eye(dim)
        return tuple(_Path(l, (-1) ** l, unit[l * l : (l + 1) ** 2]) for l in range(l_max + 1))
    found = [
        _extend(left, l_right, l, dim)
        for left in _paths(l_max, degree - 1, natural_only)
        for l_right in range(l_max + 1)
        for l in range(abs(left.l - l_right), left.l + l_right + 1)
        if not natural_only or left.parity * (-1) ** l_right == (-1) ** l
    ]
    return tuple(sorted(found, key=lambda path: (path.l, path.parity)))


def _extend(left: _Path, l_right: int, l: int, dim: int) -> _Path:
    """Couples one more factor of angular momentum ``l_right`` to ``left``, giving l."""
    coupling = np.sqrt(2 * l + 1) * wigner_3j(l, left.l, l_right)
    shape = left.coefficient.shape[1:]
    coefficient = np.zeros((2 * l + 1, *shape, dim))
    block = np.einsum("jx,ijk->ixk", left.coefficient.reshape(2 * left.l + 1, -1), coupling)
    coefficient[..., l_right**2 : (l_right + 1) ** 2] = block.reshape(2 * l + 1, *shape, -1)
    return _Path(l, left.parity * (-1) ** l_right, coefficient)


@cache
def coupling_paths(l_max: int, degree: int, l_out: int) -> tuple[np.ndarray, ...]:
    """Couplings of ``degree`` factors Y_lm, l <= l_max, to the irrep l_out of natural parity.

    Returns:
        one array [2 l_out + 1, (l_max + 1)^2, ... (degree times)] for each path. They are neither symmetric
        in the factors nor independent of each other: only their symmetric parts enter an energy.
    """
    natural = degree > _ALL_INTERMEDIATES_UP_TO
    dim = (l_max + 1) ** 2
    if degree == 1:
        chosen = [p for p in _paths(l_max, 1, natural) if p.l == l_out]
    else:
        chosen = [
            _extend(left, l_right, l_out, dim)
            for left in _paths(l_max, degree - 1, natural)
            for l_right in range(l_max + 1)
            if abs(left.l - l_right) <= l_out <= left.l + l_right
            and left.parity * (-1) ** l_right == (-1) ** l_out
        ]
    return tuple(path.coefficient for path in chosen)


def symmetric_part(coefficient: np.ndarray) -> np.ndarray:
    """Mean over all orders of the factors: [2 l + 1, dim, ..., dim] of the same shape."""
    degree = coefficient.ndim - 1
    orders = [(0, *(1 + i for i in order)) for order in permutations(range(degree))]
    return np.mean([coefficient.transpose(order) for order in orders], axis=0)


@cache
def folded_coupling(l_max: int, degree: int, l_out: int) -> np.ndarray:
    """Symmetrised couplings as tables over (m, last factor, monomial of the other factors, path).

    sum_{i1..in} C[m, i1, .., in] x_i1 .. x_in = sum_k x_k sum_t table[m, k, t] monomial_t(x), where t runs
    over ``monomials(dim, degree - 1)``.

    Returns:
        [2 l_out + 1, dim, number of monomials, paths] float64.
    """
    dim = (l_max + 1) ** 2
    indices = monomials(dim, degree - 1)
    multiplicity = np.array([len(set(permutations(t))) for t in indices], dtype=np.float64)
    columns = np.array(indices, dtype=np.int64).reshape(len(indices), degree - 1).T
    strides = dim ** np.arange(degree - 2, -1, -1)
    tables = []
    for coefficient in coupling_paths(l_max, degree, l_out):
        symmetric = np.moveaxis(symmetric_part(coefficient), -1, 1)
        flat = symmetric.reshape(2 * l_out + 1, dim, -1)
        tables.append(flat[:, :, strides @ columns] * multiplicity)
    table = np.stack(tables, axis=-1)
    table[np.abs(table) < 1e-14] = 0.0
    table.setflags(write=False)
    return table
