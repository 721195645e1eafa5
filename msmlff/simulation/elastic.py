"""Elastic constants of a crystal from stresses at small strains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.units import GPa

from msmlff.errors import InputError
from msmlff.simulation.relax import RelaxSettings, relax

#: Voigt's order: xx, yy, zz, yz, xz, xy.
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True)
class Elastic:
    """Elastic constants, in GPa.

    Attributes:
        tensor: [6, 6] in Voigt's order with engineering shear strains: stress = tensor @ strain.
        pressure: of the structure that was strained.
        asymmetry: largest difference between an element and its mirror image before both were averaged: the
            error of differences and of relaxation.
    """

    tensor: np.ndarray
    pressure: float
    asymmetry: float

    @property
    def stable(self) -> bool:
        """Whether every strain costs energy (Born; at pressure for the stress-strain coefficients)."""
        return bool(np.linalg.eigvalsh(self.tensor).min() > 0)

    def moduli(self) -> dict[str, float]:
        """Bulk and shear moduli of a polycrystal (Voigt; Reuss; Hill, Proc. Phys. Soc. A 65, 349 (1952)).

        bulk_X and shear_X in GPa for X in voigt (equal strains, an upper bound), reuss (equal stresses, a
        lower one), hill (their mean); and of Hill's: young in GPa, poisson. Reuss and what builds on it are
        NaN where the tensor is singular.
        """
        c = self.tensor
        bulk = {"voigt": float(c[:3, :3].sum() / 9)}
        shear = {"voigt": _shear(np.trace(c[:3, :3]), c[:3, :3].sum(), np.trace(c[3:, 3:]))}
        try:
            s = np.linalg.inv(c)
        except np.linalg.LinAlgError:
            s = np.full((6, 6), np.nan)
        bulk["reuss"] = float(1 / s[:3, :3].sum())
        # The compliances of shear are those of engineering strains: a quarter of the tensor's.
        shear["reuss"] = 0.25 / _shear(np.trace(s[:3, :3]), s[:3, :3].sum(), np.trace(s[3:, 3:]) / 4)
        for kind in (bulk, shear):
            kind["hill"] = 0.5 * (kind["voigt"] + kind["reuss"])
        b, g = bulk["hill"], shear["hill"]
        found = {f"bulk_{name}": value for name, value in bulk.items()}
        found |= {f"shear_{name}": value for name, value in shear.items()}
        return found | {"young": 9 * b * g / (3 * b + g), "poisson": (3 * b - 2 * g) / (6 * b + 2 * g)}

    def as_json(self) -> dict[str, Any]:
        """Everything, for a record."""
        return {
            "unit": "GPa",
            "tensor": self.tensor.tolist(),
            "pressure": self.pressure,
            "asymmetry": self.asymmetry,
            "stable": self.stable,
            "moduli": self.moduli(),
        }


def _shear(diagonal: float, block: float, shears: float) -> float:
    """The mean shear of a tensor of fourth rank from sums over its Voigt matrix."""
    return float((1.5 * diagonal - 0.5 * block + 3 * shears) / 15)


def elastic_constants(
    atoms: Atoms, calculator: Calculator, strain: float = 0.002, fmax: float = 1e-4, steps: int = 500
) -> Elastic:
    """C[i, j] = (stress_i(+e_j) - stress_i(-e_j)) / 2e, atoms relaxed at each of the twelve strains.

    The structure should be relaxed, cell and all. Under a hydrostatic pressure these are the stress-strain
    coefficients (Wallace, Solid State Physics 25, 301 (1970)), which decide on stability there.

    Args:
        atoms: periodic in all directions.
        calculator: of energy, forces and stress.
        strain: e, of each component; the error grows as its square, that of rounding as its inverse.
        fmax: eV/Å, to which the atoms are relaxed.
        steps: at most so many for each strain.

    Raises:
        InputError: a structure that is not periodic; strains at which the atoms do not come to rest.
    """
    if not atoms.pbc.all():
        raise InputError(f"elastic constants need a periodic crystal; pbc is {atoms.pbc.tolist()}")
    if not 0 < strain < 0.1:
        raise InputError(f"strain={strain}: write a small positive number, for instance 0.002")
    settings = RelaxSettings(fmax=fmax, steps=steps)
    columns = [
        (_stress(atoms, calculator, j, strain, settings) - _stress(atoms, calculator, j, -strain, settings))
        / (2 * strain)
        for j in range(6)
    ]
    raw = np.array(columns).T
    at_rest = _relaxed_stress(atoms, calculator, settings)
    tensor = 0.5 * (raw + raw.T)
    return Elastic(tensor, float(-at_rest[:3].mean()), float(np.abs(raw - raw.T).max()))


def _stress(
    atoms: Atoms, calculator: Calculator, component: int, strain: float, settings: RelaxSettings
) -> np.ndarray:
    """[6] GPa, the stress at a strain of one component."""
    i, j = VOIGT[component]
    deformation = np.eye(3)
    deformation[i, j] += 0.5 * strain
    deformation[j, i] += 0.5 * strain
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return _relaxed_stress(strained, calculator, settings)


def _relaxed_stress(atoms: Atoms, calculator: Calculator, settings: RelaxSettings) -> np.ndarray:
    found = relax(atoms, calculator, settings)
    if not found.converged:
        raise InputError(
            f"elastic constants: after {found.steps} steps a force of {found.fmax:.2g} eV/Å is left at a "
            f"strained cell, above {settings.fmax:g}: relax it first (cell=full), or raise steps or fmax"
        )
    return np.asarray(found.atoms.get_stress() / GPa)
