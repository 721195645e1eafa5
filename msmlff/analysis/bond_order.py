"""Steinhardt's bond-orientational order parameters, and Lechner and Dellago's averages of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from msmlff.analysis.pairs import Pairs, find_pairs, frame_name
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError

START, GROWTH = 3.0, 1.3  # Å, the first reach of a search for neighbours, and what it grows by
TIE = 1e-4  # relative: neighbours whose distances differ less are as far


@dataclass(frozen=True)
class BondOrder:
    """Order parameters of degree l of one frame.

    Attributes:
        q: [atoms] q_l; NaN for an atom without neighbours.
        w: [atoms] w_l, normalised by the third power of the length of q_lm.
        global_q: Q_l of all bonds of the frame together.
    """

    q: np.ndarray
    w: np.ndarray
    global_q: float


def bond_order(
    frames: Sequence[Configuration],
    degree: int,
    cutoff: float | None = None,
    nearest: int | None = None,
    averaged: bool = False,
) -> list[BondOrder]:
    """q_l and w_l of every atom (Steinhardt, Nelson, Ronchetti, Phys. Rev. B 28, 784 (1983), eq. 1.3 ff.).

    q_lm(i) is the mean of Y_lm over the bonds to the neighbours of i; q_l = sqrt(4 π/(2l+1) Σ_m |q_lm|²);
    w_l = Σ (l l l; m1 m2 m3) q_lm1 q_lm2 q_lm3 / (Σ_m |q_lm|²)^(3/2). Averaged, q_lm is first averaged over
    an atom and its neighbours (Lechner, Dellago, J. Chem. Phys. 129, 114707 (2008), eq. 6).

    Args:
        degree: l, at least 1; 4 and 6 tell fcc, bcc and hcp.
        cutoff: Å, which neighbours count; or
        nearest: the number of nearest ones that count, and all that are as far as the last of them. With
            neither, those of ``solid_angle_neighbours``: 12 in fcc and hcp, 14 in bcc.
        averaged: as above.

    Raises:
        InputError: both of cutoff and nearest; fewer atoms within reach than ``nearest``, or than 3.
    """
    if cutoff is not None and nearest is not None:
        raise InputError("bond_order: give cutoff (Å), or nearest (a number of neighbours), or neither")
    if degree < 1:
        raise InputError(f"bond_order: the degree is {degree}; it must be at least 1")
    results = []
    for frame in frames:
        if cutoff is not None:
            found = find_pairs(frame, cutoff)
        else:
            found = solid_angle_neighbours(frame) if nearest is None else _nearest(frame, nearest)
        results.append(_of_frame(found, len(frame), degree, averaged))
    return results


def solid_angle_neighbours(frame: Configuration) -> Pairs:
    """The neighbours of each atom whose solid angles fill a sphere about it, without a parameter.

    They are the m nearest ones, m the smallest of 3 or more with Σ_(j ≤ m) r_j / (m - 2) ≤ r_(m+1) (van Meel,
    Filion, Valeriani, Frenkel, J. Chem. Phys. 136, 234107 (2012), eq. 5): 12 in fcc and hcp, 14 in bcc.

    Raises:
        InputError: fewer than 4 atoms, and nothing periodic.
    """
    cutoff = START
    while True:
        found, cutoff = _with_at_least(frame, 3, cutoff)
        rank, first = _ranks(found, len(frame))
        sums = np.cumsum(found.distance)
        sums -= (sums[first] - found.distance[first])[found.receiver]
        # the neighbour behind the last one that was found is no nearer than the cutoff
        following = np.append(np.where(rank[1:] > 0, found.distance[1:], cutoff), cutoff)
        full = (rank >= 2) & (sums <= (rank - 1) * following)
        last = np.full(len(frame), len(found))
        np.minimum.at(last, found.receiver[full], rank[full])
        if (last < len(found)).all():
            return found.where(rank <= last[found.receiver])
        cutoff *= GROWTH


def _nearest(frame: Configuration, count: int) -> Pairs:
    """The ``count`` shortest pairs of each atom, and those that are as long as the last of them."""
    if count < 1:
        raise InputError(f"bond_order: nearest={count}; it must be at least 1")
    found, cutoff = _with_at_least(frame, count, START)
    _, first = _ranks(found, len(frame))
    longest = (1.0 + TIE) * found.distance[first + count - 1]
    if longest.max() >= cutoff:
        found = find_pairs(frame, float(longest.max()))
    return found.where(found.distance <= longest[found.receiver])


def _with_at_least(frame: Configuration, count: int, cutoff: float) -> tuple[Pairs, float]:
    """Pairs below a cutoff (Å), this one or a larger, that leaves ``count`` to each atom; and the cutoff."""
    if not frame.pbc.any() and len(frame) <= count:
        raise InputError(
            f"bond_order: {frame_name(frame)} has {len(frame)} atoms; {count} neighbours of an atom need more"
        )
    found = find_pairs(frame, cutoff)
    while np.bincount(found.receiver, minlength=len(frame)).min() < count:
        cutoff *= GROWTH
        found = find_pairs(frame, cutoff)
    return found, cutoff


def _ranks(found: Pairs, atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """[pairs] which neighbour of its receiver each is, from 0; [atoms] the row of the first of each atom."""
    per_atom = np.bincount(found.receiver, minlength=atoms)
    first = np.cumsum(per_atom) - per_atom
    return np.arange(len(found)) - first[found.receiver], first


def _of_frame(found: Pairs, atoms: int, degree: int, averaged: bool) -> BondOrder:
    y = harmonics(found.vector / found.distance[:, None], degree)
    neighbours = np.bincount(found.receiver, minlength=atoms)
    q = np.zeros((atoms, 2 * degree + 1), dtype=complex)
    np.add.at(q, found.receiver, y)
    total = q.sum(axis=0) / max(len(found), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        q /= neighbours[:, None]
        if averaged:
            means = q.copy()
            np.add.at(means, found.receiver, q[found.sender])
            q = means / (neighbours + 1)[:, None]
        square = (np.abs(q) ** 2).sum(axis=1)
        w = _third_order(q, degree) / square**1.5
    scale = 4.0 * math.pi / (2 * degree + 1)
    return BondOrder(np.sqrt(scale * square), w, float(np.sqrt(scale * (np.abs(total) ** 2).sum())))


def harmonics(unit: np.ndarray, degree: int) -> np.ndarray:
    """[vectors, 2l+1] complex spherical harmonics Y_lm, m from -l to l, of unit vectors [vectors, 3].

    The normalised associated Legendre functions come by the recursion in l at fixed m (Press et al.,
    Numerical Recipes, 3rd ed., eqs. 6.7.8 to 6.7.11), which is stable.
    """
    cosine = np.clip(unit[:, 2], -1.0, 1.0)
    sine = np.sqrt(1.0 - cosine**2)
    phase = np.exp(1j * np.arctan2(unit[:, 1], unit[:, 0]))
    y = np.empty((len(unit), 2 * degree + 1), dtype=complex)
    diagonal = np.full(len(unit), math.sqrt(0.25 / math.pi))
    for m in range(degree + 1):
        if m > 0:
            diagonal = -math.sqrt((2 * m + 1) / (2 * m)) * sine * diagonal
        before, legendre, factor = np.zeros_like(diagonal), diagonal, 0.0
        for l in range(m + 1, degree + 1):
            here = math.sqrt((4 * l**2 - 1) / (l**2 - m**2))
            before, legendre = legendre, here * (cosine * legendre - factor * before)
            factor = 1.0 / here
        y[:, degree + m] = legendre * phase**m
        y[:, degree - m] = (-1) ** m * np.conj(y[:, degree + m])
    return y


def _third_order(q: np.ndarray, degree: int) -> np.ndarray:
    """[atoms] Σ over m1 + m2 + m3 = 0 of the 3j symbol times three q_lm."""
    total = np.zeros(len(q))
    for m1, m2, value in wigner_3j(degree):
        total += value * (q[:, degree + m1] * q[:, degree + m2] * q[:, degree - m1 - m2]).real
    return total


@cache
def wigner_3j(l: int) -> tuple[tuple[int, int, float], ...]:
    """(m1, m2, (l l l; m1 m2 -m1-m2)) for all m1, m2, by Racah's formula (Edmonds 1957, eq. 3.6.11)."""
    f = math.factorial
    values = []
    for m1 in range(-l, l + 1):
        for m2 in range(max(-l, -l - m1), min(l, l - m1) + 1):
            m3 = -m1 - m2
            series = sum(
                (-1) ** t / (f(t) * f(l - t) * f(l - m1 - t) * f(l + m2 - t) * f(m1 + t) * f(t - m2))
                for t in range(max(0, -m1, m2), min(l, l - m1, l + m2) + 1)
            )
            roots = math.prod(f(l + m) * f(l - m) for m in (m1, m2, m3))
            size = math.sqrt(f(l) ** 3 / f(3 * l + 1) * roots)
            values.append((m1, m2, (-1) ** m3 * size * series))
    return tuple(values)
