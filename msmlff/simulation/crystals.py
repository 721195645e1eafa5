"""Perfect crystals of one element: bond lengths and energies of fcc, bcc and hcp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers, covalent_radii, reference_states
from scipy.optimize import minimize, minimize_scalar

from msmlff.errors import InputError, MSMLFFError

IDEAL, SQRT3 = float(np.sqrt(8 / 3)), float(np.sqrt(3))
#: c/a of the hcp rows: relaxed with the bond length, or held.
STRUCTURES: dict[str, float | None] = {"fcc": None, "bcc": None, "hcp": None, "hcp, c/a = √3": SQRT3}
#: Bond lengths that are tried, relative to the guess; the minimum nearest to it is taken.
_SCAN = np.linspace(0.75, 1.3, 23)
_RATIOS = (1.3, 2.1)  # of c/a, where hcp is hcp


@dataclass(frozen=True)
class Crystal:
    """A crystal at the minimum of its energy.

    Attributes:
        structure: one of ``STRUCTURES``.
        bond: Å, distance of nearest neighbours.
        energy: eV per atom.
        ratio: c/a of hcp; NaN of the others.
        atoms: the primitive cell.
        lower: Å, a bond length outside the well of this minimum (of hcp: at the ideal c/a) at which the
            energy is lower still, as in the holes that models have where they were not trained; NaN where
            none was met.
        problem: why there is no minimum, the numbers then being NaN; "" where there is one.
    """

    structure: str
    bond: float
    energy: float
    ratio: float
    atoms: Atoms
    lower: float = np.nan
    problem: str = ""

    @property
    def held(self) -> bool:
        """Whether c/a was held."""
        return STRUCTURES[self.structure] is not None

    def as_json(self) -> dict[str, Any]:
        """All but the atoms, for a record; c/a where there is one."""
        if self.problem:
            return {"structure": self.structure, "problem": self.problem}
        found: dict[str, Any] = {"structure": self.structure, "bond_A": self.bond, "energy_eV": self.energy}
        found |= {} if np.isnan(self.ratio) else {"c/a": self.ratio}
        return found | ({} if np.isnan(self.lower) else {"lower_at_A": self.lower})


def crystal(structure: str, element: str, bond: float, ratio: float = IDEAL) -> Atoms:
    """The primitive cell of a structure.

    Args:
        structure: fcc, bcc, or hcp with anything behind it.
        element: chemical symbol.
        bond: Å, distance of nearest neighbours.
        ratio: c/a, of hcp.
    """
    if structure == "fcc":
        return bulk(element, "fcc", a=bond * np.sqrt(2))
    if structure == "bcc":
        return bulk(element, "bcc", a=bond * 2 / np.sqrt(3))
    nearest = min(1.0, np.sqrt(1 / 3 + ratio**2 / 4))  # in a: within a layer, or to the next one
    return bulk(element, "hcp", a=bond / nearest, c=ratio * bond / nearest)


def relaxed_crystals(element: str, calculator: Calculator, guess: float | None = None) -> list[Crystal]:
    """Minima of the energy per atom of fcc, bcc, hcp, and hcp at c/a = sqrt(3).

    fcc and bcc have the bond length as their one variable, hcp c/a as well. The last row is what a 48-atom
    cell of that shape becomes under isotropic relaxation (the rows of Jung, Lee, Choi, arXiv 2311.05407).
    Energies alone are used, so any calculator will do.

    Args:
        element: chemical symbol.
        calculator: of energies.
        guess: Å, about the bond length of fcc; default: from ASE's table of the elements.

    Raises:
        InputError: no such element; what the calculator refuses.
        MSMLFFError: none of the structures has a minimum between 0.75 and 1.3 times the guess. Of several
            minima the one nearest to the guess is taken.
    """
    if element not in atomic_numbers or element == "X":
        raise InputError(f"crystals: {element!r} is no chemical symbol")
    start = guess if guess is not None else _guess(element)
    rows = [_relaxed(name, element, calculator, start) for name in STRUCTURES]
    if all(row.problem for row in rows):
        raise MSMLFFError(f"{element}: {rows[0].problem}")
    return rows


def _guess(element: str) -> float:
    """Å, the bond length fcc would have at the volume per atom of the element's known crystal."""
    z = atomic_numbers[element]
    state: dict[str, Any] = dict(reference_states[z] or {})
    atoms = {"fcc": 4, "bcc": 2, "diamond": 8, "sc": 1}.get(state.get("symmetry", ""))
    if atoms is not None:
        return float((np.sqrt(2) * state["a"] ** 3 / atoms) ** (1 / 3))
    if state.get("symmetry") == "hcp":
        return float((np.sqrt(2) * state["a"] ** 3 * state["c/a"] * np.sqrt(3) / 4) ** (1 / 3))
    return float(2 * covalent_radii[z])


def _relaxed(structure: str, element: str, calculator: Calculator, guess: float) -> Crystal:
    ratio = STRUCTURES[structure]

    def energy(bond: float, ratio: float = ratio or IDEAL) -> float:
        atoms = crystal(structure, element, bond, ratio)
        atoms.calc = calculator
        return float(atoms.get_potential_energy()) / len(atoms)

    try:
        (bond, best), (deepest, there) = _bond(energy, guess)
        if structure == "hcp":
            bond, ratio, best = _with_ratio(energy, bond)
    except _NoMinimumError as error:
        start = crystal(structure, element, guess, ratio or IDEAL)
        return Crystal(structure, np.nan, np.nan, np.nan, start, problem=f"{structure} {error}")
    atoms = crystal(structure, element, bond, ratio or IDEAL)
    return Crystal(structure, bond, best, ratio or np.nan, atoms, deepest if there < best else np.nan)


class _NoMinimumError(Exception):
    """The energy has no minimum where it is looked for."""


def _bond(energy: Callable[[float], float], guess: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bond length and energy of the minimum nearest to the guess, by a scan and Brent's method in its well;
    and those of the deepest point of the scan."""
    lengths = guess * _SCAN
    values = np.array([energy(float(length)) for length in lengths])
    inner = values[1:-1]
    wells = 1 + np.flatnonzero((inner < values[:-2]) & (inner < values[2:]))
    if not len(wells):
        raise _NoMinimumError(
            f"has no minimum of the energy between bond lengths of {lengths[0]:.2f} and {lengths[-1]:.2f} Å; "
            "if there should be one elsewhere, give bond=LENGTH near it"
        )
    low = int(wells[np.argmin(np.abs(np.log(lengths[wells] / guess)))])
    bracket = (lengths[low - 1], lengths[low], lengths[low + 1])
    found = minimize_scalar(energy, bracket=bracket, method="brent", options={"xtol": 1e-7})
    deepest = int(np.argmin(values))
    return (float(found.x), float(found.fun)), (float(lengths[deepest]), float(values[deepest]))


def _with_ratio(energy: Callable[[float, float], float], bond: float) -> tuple[float, float, float]:
    """Bond length, c/a and energy of hcp, from the best bond length at the ideal c/a."""
    first = np.array([bond, IDEAL])
    options = {"xatol": 1e-4, "fatol": 1e-8, "initial_simplex": first + bond * np.eye(3, 2, k=-1) * 0.02}
    found = minimize(lambda x: energy(x[0], x[1]), first, method="Nelder-Mead", options=options)
    best, ratio = found.x
    if not (_RATIOS[0] < ratio < _RATIOS[1] and found.success):
        raise _NoMinimumError(f"has none: its c/a went to {ratio:.2f}")
    return float(best), float(ratio), float(found.fun)
