"""Bond stretching: frames with a bond shortened or drawn out, so that a model learns what breaking costs.

The augmentation of MS-MACE (Hu, Zhou, Jiang, arXiv 2312.09490): without such frames a force field has never
seen a long bond, and in hot dynamics molecules fall apart. The frames come without labels; ``labeling`` gives
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase.data import covalent_radii

from msmlff.analysis.pairs import Pairs, find_pairs, frame_name
from msmlff.analysis.structure import bonds
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError


@dataclass(frozen=True)
class BondStretching:
    """How bonds are stretched.

    Attributes:
        low, high: a bond's length is multiplied by a number between, uniformly distributed.
        count: bonds of a frame that are stretched at once.
        bond_tolerance: a pair closer than this times the sum of its covalent radii is a bond.
        min_separation: no pair may come closer than this times that sum by the stretching; other bonds and
            factors are tried instead.
        attempts: of them, before a frame is given up.
    """

    low: float = 0.85
    high: float = 2.0
    count: int = 1
    bond_tolerance: float = 1.25
    min_separation: float = 0.7
    attempts: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise InputError(f"bond_stretching: low={self.low}, high={self.high}; write 0 < low <= high")
        for key in ("count", "attempts"):
            if getattr(self, key) < 1:
                raise InputError(f"bond_stretching.{key}={getattr(self, key)}: write a whole number >= 1")
        if not 0 <= self.min_separation < self.bond_tolerance:
            raise InputError(
                f"bond_stretching.min_separation={self.min_separation}: write a number below "
                f"bond_tolerance={self.bond_tolerance}"
            )


def stretch_bonds(
    frames: Sequence[Configuration], copies: int, settings: BondStretching, seed: int
) -> list[Configuration]:
    """For each frame ``copies`` frames with random bonds stretched.

    The smaller part beyond the bond moves rigidly along it. Bonds of rings and of networks part nothing and
    are left alone.

    Args:
        frames: of molecules, isolated or in a cell.
        copies: of each frame.
        settings: see BondStretching.
        seed: with its place among ``frames`` it fixes the random numbers of a frame.

    Returns:
        Unlabelled frames in the order of ``frames``; info has ``stretched``, [i, j, factor] of each bond.

    Raises:
        InputError: a frame without a bond that can be stretched, or too crowded for it.
    """
    if copies < 1:
        raise InputError(f"copies={copies}: write a whole number >= 1")
    made = []
    for i, frame in enumerate(frames):
        rng = np.random.default_rng((seed, i))
        parts = separable_bonds(frame, settings.bond_tolerance)
        if len(parts) < settings.count:
            raise InputError(
                f"{frame_name(frame)} has {len(parts)} bonds that part a molecule, and {settings.count} "
                "are to be stretched: bonds of rings and networks cannot be"
            )
        made += [_stretched(frame, parts, settings, rng) for _ in range(copies)]
    return made


@dataclass(frozen=True)
class SeparableBond:
    """A bond that holds two parts of a molecule together.

    Attributes:
        fixed, moved: the atoms at its ends.
        vector: [3] Å, from ``fixed`` to ``moved``.
        part: [atoms] bool, what moves with ``moved``: the smaller of the two parts.
    """

    fixed: int
    moved: int
    vector: np.ndarray
    part: np.ndarray


def separable_bonds(frame: Configuration, tolerance: float = 1.25) -> list[SeparableBond]:
    """The bonds without which a molecule falls into two parts."""
    found = bonds(frame, tolerance)
    neighbours: list[list[int]] = [[] for _ in range(len(frame))]
    for receiver, sender in zip(found.receiver.tolist(), found.sender.tolist(), strict=True):
        neighbours[receiver].append(sender)
    separable = []
    for row in np.flatnonzero(found.sender < found.receiver):
        sender, receiver = int(found.sender[row]), int(found.receiver[row])
        beyond = _beyond(neighbours, receiver, sender)
        if beyond is None:
            continue
        before = _beyond(neighbours, sender, receiver)
        assert before is not None  # what parts the one end parts the other
        if len(beyond) <= len(before):
            fixed, moved, vector, part = sender, receiver, found.vector[row], beyond
        else:
            fixed, moved, vector, part = receiver, sender, -found.vector[row], before
        mask = np.zeros(len(frame), dtype=bool)
        mask[list(part)] = True
        separable.append(SeparableBond(fixed, moved, vector, mask))
    return separable


def _beyond(neighbours: list[list[int]], start: int, other: int) -> set[int] | None:
    """Atoms reached from ``start`` without the bond to ``other``; None where they come back to it."""
    if neighbours[start].count(other) > 1:  # bound to two of its images
        return None
    reached, left = {start}, [start]
    while left:
        atom = left.pop()
        for near in neighbours[atom]:
            if near == other:
                if atom != start:
                    return None
            elif near not in reached:
                reached.add(near)
                left.append(near)
    return reached


def _stretched(
    frame: Configuration, parts: list[SeparableBond], settings: BondStretching, rng: np.random.Generator
) -> Configuration:
    """A copy with ``settings.count`` of the bonds stretched."""
    before = _closeness(frame, find_pairs(frame, _reach(frame, settings)))
    for _ in range(settings.attempts):
        positions = frame.positions.copy()
        chosen = []
        for k in rng.choice(len(parts), settings.count, replace=False):
            bond, factor = parts[k], float(rng.uniform(settings.low, settings.high))
            # a part that another stretching moved took its bonds along: their vectors are as they were
            positions[bond.part] += (factor - 1.0) * bond.vector
            chosen.append([bond.fixed, bond.moved, factor])
        new = replace(
            frame,
            positions=positions,
            energy=float("nan"),
            forces=None,
            stress=None,
            info={**frame.info, "stretched": [x for bond in chosen for x in bond]},
        )
        closest = _closeness(new, find_pairs(new, _reach(new, settings)))
        if closest >= min(settings.min_separation, before):
            return new
    raise InputError(
        f"{frame_name(frame)}: no bond could be stretched in {settings.attempts} attempts without atoms "
        f"closer than {settings.min_separation:g} times the sum of their covalent radii; write a smaller "
        "min_separation or high"
    )


def _reach(frame: Configuration, settings: BondStretching) -> float:
    """Å, beyond which no pair of the frame is too close."""
    return 2.0 * settings.bond_tolerance * float(covalent_radii[frame.numbers].max())


def _closeness(frame: Configuration, found: Pairs) -> float:
    """The smallest distance of a pair over the sum of its covalent radii."""
    radii = covalent_radii[frame.numbers]
    return float(np.min(found.distance / (radii[found.receiver] + radii[found.sender]), initial=np.inf))
