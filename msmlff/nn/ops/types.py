"""What the operations are told besides tensors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement


@dataclass(frozen=True)
class Path:
    """A coupling of features (l1) with harmonics (l2) to the A-basis (l3)."""

    l1: int
    l2: int
    l3: int


@dataclass(frozen=True)
class MonomialTable:
    """The monomials of degree 0 .. correlation - 1 in ``dim`` variables, by degree, then ascending.

    Attributes:
        dim: number of variables.
        correlation: one more than the highest degree.
        degrees: the degree of each monomial.
        products: how those of degree 2 and more arise: (a, i, rows) stands for monomial a times each of the
            variables i .. dim - 1.
    """

    dim: int
    correlation: int
    degrees: tuple[int, ...]
    products: tuple[tuple[int, int, slice], ...]

    @classmethod
    def build(cls, dim: int, correlation: int) -> MonomialTable:
        """The table for a contraction of degree ``correlation``."""
        indices = [t for degree in range(correlation) for t in monomials(dim, degree)]
        row, products = 1 + dim, []
        for a, index in enumerate(indices):
            if 1 <= len(index) < correlation - 1:
                products.append((a, index[-1], slice(row, row + dim - index[-1])))
                row += dim - index[-1]
        return cls(dim, correlation, tuple(len(t) for t in indices), tuple(products))


def monomials(dim: int, degree: int) -> list[tuple[int, ...]]:
    """Ascending index tuples of all monomials of ``degree`` in ``dim`` variables."""
    return list(combinations_with_replacement(range(dim), degree))
