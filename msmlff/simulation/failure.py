"""When a replica has left the physical range, and what went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from scipy.stats import chi2

from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import edge_vectors, neighbor_list
from msmlff.errors import InputError

BOND_FACTOR = 1.25  # a bond is a pair closer than this times the sum of the covalent radii
LIKELY = 5.0  # times the bath's temperature: the usual limit
CHANCE = 1e-15  # of equilibrium passing the limit at a step


@dataclass(frozen=True)
class Limits:
    """What a replica may not leave.

    Attributes:
        min_distance: Å, a closer pair is a failure.
        max_temperature: K, kinetic; None: 5 times the bath's, or more for few atoms (``temperature``).
        max_deviation: eV/Å, of the forces of a committee on any atom; None: no limit.
        volume: a factor > 1: a cell larger than this times the one at the start, or smaller than it divided
            by this, is a failure; None: no limit.
    """

    min_distance: float = 0.4
    max_temperature: float | None = None
    max_deviation: float | None = None
    volume: float | None = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_distance < np.inf:
            raise InputError(f"limits.min_distance={self.min_distance}: write Å, not below 0")
        for key in ("max_temperature", "max_deviation"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise InputError(f"limits.{key}={value}: write a positive number, or null")
        if self.volume is not None and not self.volume > 1:
            raise InputError(f"limits.volume={self.volume}: write a factor above 1, or null")

    def temperature(self, bath: float, dof: float) -> float:
        """K, the kinetic temperature above which a replica has failed.

        The kinetic energy at equilibrium has a chi-squared distribution of ``dof`` degrees of freedom: the
        usual limit is passed by chance once in 1e15 steps at the most.

        Raises:
            InputError: neither a limit nor a bath above 0 K.
        """
        if self.max_temperature is not None:
            return self.max_temperature
        if bath == 0:
            raise InputError(
                "temperature=0 needs limits.max_temperature=..., the K at which a run has failed"
            )
        return bath * _usual_limit(dof)


@cache
def _usual_limit(dof: float) -> float:
    """In units of the bath's temperature."""
    return max(LIKELY, float(chi2.isf(CHANCE, dof)) / dof)


@dataclass(frozen=True)
class Bond:
    """A bond of the starting configuration, as it is now.

    Attributes:
        atoms: its two atoms.
        start: Å, its length at the start.
        now: Å.
    """

    atoms: tuple[int, int]
    start: float
    now: float


@dataclass(frozen=True)
class Failure:
    """A replica that left the physical range.

    Attributes:
        replica: its number among the frames given.
        step, time_fs: when.
        reason: "not finite", "volume", "pair distance", "temperature" or "committee deviation".
        value: the offending volume (over that at the start), distance (Å), temperature (K) or deviation
            (eV/Å); NaN for "not finite".
        atoms: those it happened to; none for "volume".
        bond: the bond that changed most, relative to the start; None where there are none.
        frame: the configuration.
    """

    replica: int
    step: int
    time_fs: float
    reason: str
    value: float
    atoms: tuple[int, ...]
    bond: Bond | None
    frame: Configuration

    def message(self) -> str:
        """What happened, in a line."""
        units = {
            "pair distance": "Å",
            "temperature": "K",
            "committee deviation": "eV/Å",
            "volume": "times that at the start",
        }
        amount = f" {self.value:.4g} {units[self.reason]}" if self.reason in units else ""
        where = f", {self._names(self.atoms)}" if self.atoms else ""
        text = (
            f"replica {self.replica} left the physical range at step {self.step} ({self.time_fs:g} fs): "
            f"{self.reason}{amount}{where}"
        )
        if self.bond is None:
            return text
        return (
            f"{text}; the bond that changed most, {self._names(self.bond.atoms, ' - ')}: "
            f"{self.bond.start:.2f} Å at the start, {self.bond.now:.2f} Å now"
        )

    def _names(self, atoms: Sequence[int], between: str = ", ") -> str:
        shown = between.join(f"{chemical_symbols[self.frame.numbers[a]]} {a}" for a in atoms[:6])
        more = f" and {len(atoms) - 6} more" if len(atoms) > 6 else ""
        return f"atom{'s' if len(atoms) > 1 else ''} {shown}{more}"


def most_changed_bond(start: Configuration, now: Configuration) -> Bond | None:
    """The bond of ``start`` whose length changed by the largest factor; None without bonds or positions.

    Args:
        start: where the bonds are found.
        now: the same atoms, never wrapped since.
    """
    if not np.isfinite(now.positions).all() or not np.isfinite(now.cell).all():
        return None
    radii = covalent_radii[start.numbers]
    found = neighbor_list(start.positions, start.cell, start.pbc, BOND_FACTOR * 2.0 * float(radii.max()))
    before = np.linalg.norm(edge_vectors(start.positions, start.cell, found), axis=1)
    with np.errstate(over="ignore"):  # of a cell that flew apart
        after = np.linalg.norm(edge_vectors(now.positions, now.cell, found), axis=1)
    bonded = before < BOND_FACTOR * (radii[found.sender] + radii[found.receiver])
    if not bonded.any():
        return None
    with np.errstate(divide="ignore"):
        change = np.where(bonded, np.abs(np.log(after / before)), -1.0)
    worst = int(np.argmax(change))
    atoms = int(found.receiver[worst]), int(found.sender[worst])
    return Bond((min(atoms), max(atoms)), float(before[worst]), float(after[worst]))


def hottest_atom(velocities: np.ndarray, masses: np.ndarray) -> int:
    """The atom of the largest kinetic energy, from [atoms, 3] and [atoms, 1]."""
    return int(np.argmax(np.nan_to_num((masses * velocities**2).sum(axis=1), nan=np.inf)))


def closest_pair(frame: Configuration, below: float) -> tuple[float, tuple[int, ...]]:
    """The shortest distance under ``below`` Å and its atoms (one, where it is an image of itself).

    inf and () where there is none.
    """
    found = neighbor_list(frame.positions, frame.cell, frame.pbc, below)
    if len(found) == 0:
        return float("inf"), ()
    length = np.linalg.norm(edge_vectors(frame.positions, frame.cell, found), axis=1)
    worst = int(np.argmin(length))
    pair = {int(found.receiver[worst]), int(found.sender[worst])}
    return float(length[worst]), tuple(sorted(pair))
