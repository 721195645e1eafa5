"""Relaxation of positions and cell with ASE's optimisers, to a force and a stress in physical units."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa

from msmlff.errors import DivergenceError, InputError
from msmlff.simulation.calculator import MOST_ENERGY
from msmlff.simulation.overlap import COLLAPSED, OVERLAP, closest, push_apart

CELLS = ("none", "isotropic", "full")
OPTIMIZERS: dict[str, type[Optimizer]] = {"lbfgs": LBFGS, "bfgs": BFGS, "fire": FIRE}
#: Volumes, relative to the start, between which a relaxation is believed.
_VOLUME_RANGE = (0.2, 5.0)
#: eV per atom; less is no rise of the energy.
_RISE = 1e-4


@dataclass(frozen=True)
class RelaxSettings:
    """What is relaxed and when it is done.

    Attributes:
        cell: "none": positions alone; "isotropic": the cell's size, too; "full": its size and shape.
        fmax: eV/Å, done when no atom's force is larger,
        stress_GPa: and, with a cell, no component of stress + pressure (isotropic: their mean over the
            diagonal) is.
        pressure_GPa: the outer pressure; positive compresses.
        steps: at most so many of the optimiser.
        optimizer: "lbfgs", "bfgs" or "fire" (slower, and steadier far from the minimum).

    Raises:
        InputError: a value that is none of the above.
    """

    cell: str = "none"
    fmax: float = 0.01
    stress_GPa: float = 0.01  # noqa: N815 (as it is written in the configuration)
    pressure_GPa: float = 0.0  # noqa: N815
    steps: int = 500
    optimizer: str = "lbfgs"

    def __post_init__(self) -> None:
        for name, known in {"cell": CELLS, "optimizer": tuple(OPTIMIZERS)}.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name}={getattr(self, name)!r}: write one of {', '.join(known)}")
        for name in ("fmax", "stress_GPa"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)}: write a positive number")
        if not np.isfinite(self.pressure_GPa):
            raise InputError(f"pressure_GPa={self.pressure_GPa}: write a number")
        if self.cell == "none" and self.pressure_GPa != 0:
            raise InputError(
                f"pressure_GPa={self.pressure_GPa} does nothing at a fixed cell: write cell=isotropic or "
                "cell=full"
            )
        if self.steps < 1:
            raise InputError(f"steps={self.steps}: write a whole number >= 1")


@dataclass(frozen=True)
class Relaxation:
    """A relaxed structure.

    Attributes:
        atoms: the last structure, with the calculator.
        results: a copy of what the calculator said of it.
        converged: whether both criteria were met.
        steps: of the optimiser.
        energy: eV, of the last structure; the term pV is not in it.
        start_energy: eV, of the first; where atoms overlapped, after they had been pushed apart.
        fmax: eV/Å, the largest force.
        stress_GPa: largest component of stress + pressure that was to vanish; NaN at a fixed cell.
        rose: whether energy, or E + pV, is higher than at the start: it went over a barrier, not downhill.
        pushed: Å, between the closest atoms of the structure that was given, where they overlapped; else NaN.
    """

    atoms: Atoms
    results: dict[str, Any]
    converged: bool
    steps: int
    energy: float
    start_energy: float
    fmax: float
    stress_GPa: float  # noqa: N815
    rose: bool = False
    pushed: float = float("nan")


def relax(atoms: Atoms, calculator: Calculator, settings: RelaxSettings) -> Relaxation:
    """Minimise the energy, or with a cell the enthalpy E + pV, from a structure; it is left as it was.

    The cell is strained through the logarithm of its deformation (ASE's FrechetCellFilter). Where atoms are
    closer than 0.6 of the sum of their covalent radii, which no model knows, they are first pushed apart.

    Args:
        atoms: the structure; ASE's constraints on it are kept.
        calculator: of energy, forces and, where the cell is relaxed, stress.
        settings: what to relax, and how far.

    Raises:
        InputError: a cell to be relaxed that is not periodic in all directions; atoms that overlap and have
            no room; what the calculator refuses.
        DivergenceError: the cell shrank below a fifth of its volume or grew beyond five times it; an energy
            that no atoms have; atoms that fell onto each other.
    """
    if settings.cell != "none" and not atoms.pbc.all():
        raise InputError(
            f"cell={settings.cell} needs a cell that is periodic in all directions; pbc is "
            f"{atoms.pbc.tolist()}: write cell=none"
        )
    moving = atoms.copy()
    overlap = closest(moving, OVERLAP)
    if len(overlap.atoms) == 2:  # an atom and its own image are for the cell
        push_apart(moving)
    moving.calc = calculator
    start = float(moving.get_potential_energy())
    target = moving
    if settings.cell != "none":
        target = FrechetCellFilter(
            moving,
            hydrostatic_strain=settings.cell == "isotropic",
            scalar_pressure=settings.pressure_GPa * GPa,
        )
    optimizer = OPTIMIZERS[settings.optimizer](target, logfile=None)
    force, stress, done = _residuals(moving, settings)
    # The criteria are ours: ASE's mixes eV/Å with eV per strain. Its own is never met.
    for _ in optimizer.irun(fmax=0.0, steps=settings.steps):
        force, stress, done = _residuals(moving, settings)
        if done:
            break
        if settings.cell != "none":
            _check_volume(moving, atoms)
    energy = float(moving.get_potential_energy())
    _check_end(moving, energy)
    work = (
        settings.pressure_GPa * GPa * (moving.get_volume() - atoms.get_volume()) if atoms.pbc.all() else 0.0
    )
    return Relaxation(
        moving,
        copy.deepcopy(calculator.results),
        done,
        optimizer.nsteps,
        energy,
        start,
        force,
        stress,
        rose=energy + work - start > _RISE * len(moving),
        pushed=overlap.distance if len(overlap.atoms) == 2 else float("nan"),
    )


def _residuals(atoms: Atoms, settings: RelaxSettings) -> tuple[float, float, bool]:
    """Largest force in eV/Å, stress that is left in GPa, and whether both are small enough."""
    force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    if settings.cell == "none":
        return force, float("nan"), force <= settings.fmax
    tensor = voigt_6_to_full_3x3_stress(atoms.get_stress()) / GPa + settings.pressure_GPa * np.eye(3)
    left = abs(np.trace(tensor)) / 3 if settings.cell == "isotropic" else np.abs(tensor).max()
    return force, float(left), bool(force <= settings.fmax and left <= settings.stress_GPa)


def _check_end(atoms: Atoms, energy: float) -> None:
    """Raises DivergenceError where the last structure is none: models have holes off their data."""
    hole = "the model has a hole there: it was not trained on atoms so close"
    if not abs(energy) <= MOST_ENERGY * len(atoms):
        raise DivergenceError(f"the energy became {energy / len(atoms):.3g} eV per atom: {hole}")
    collapsed = closest(atoms, COLLAPSED)
    if collapsed.atoms:
        raise DivergenceError(
            f"{collapsed.named(atoms)}, {collapsed.ratio:.2f} of the sum of their covalent radii, and the "
            f"energy is {energy / len(atoms):.6g} eV per atom: {hole}"
        )


def _check_volume(atoms: Atoms, start: Atoms) -> None:
    ratio = atoms.get_volume() / start.get_volume()
    low, high = _VOLUME_RANGE
    if not low < ratio < high:
        raise DivergenceError(
            f"the cell's volume became {ratio:.2g} times what it was: the model does not hold this structure "
            "together, or the pressure is far from where it was trained"
        )
