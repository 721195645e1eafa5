"""What the operations are told besides tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Path:
    """A coupling of features (l1) with harmonics (l2) to the A-basis (l3)."""

    l1: int
    l2: int
    l3: int


@dataclass(frozen=True)
class MonomialTable:
    """The monomials of degree 0 .. correlation - 1 in ``dim`` variables.

    Attributes:
        dim: number of variables.
        factors: for each degree from 2 up, which monomial of one degree less times which variable each is.
        correlation: one more than the highest degree.
    """

    dim: int
    factors: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    correlation: int

    @property
    def degrees(self) -> list[int]:
        """The degree of each monomial."""
        counts = [1, self.dim, *(len(variable) for _, variable in self.factors)][: self.correlation]
        return [degree for degree, count in enumerate(counts) for _ in range(count)]
