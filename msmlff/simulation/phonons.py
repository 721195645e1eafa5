"""Phonons of a crystal in the harmonic approximation, from forces at small displacements (phonopy)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from msmlff.errors import InputError

#: THz; acoustic branches are zero at Γ but for so much rounding.
_ROUNDING = 0.05


@dataclass(frozen=True)
class PhononSettings:
    """How phonons are calculated.

    Attributes:
        length: Å, opposite faces of the supercell are so far apart or farther; forces must have died off
            within half of it, which for a message-passing model is its receptive field.
        displacement: Å, of the atoms.
        points: along the path through the Brillouin zone.
        mesh: points of the density of states along each reciprocal vector.
        max_force: eV/Å, the structure must be relaxed to this.

    Raises:
        InputError: a value that is not positive.
    """

    length: float = 12.0
    displacement: float = 0.01
    points: int = 200
    mesh: int = 20
    max_force: float = 0.01

    def __post_init__(self) -> None:
        for name in ("length", "displacement", "max_force"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"phonons.{name}={getattr(self, name)}: write a positive number")
        for name in ("points", "mesh"):
            if getattr(self, name) < 2:
                raise InputError(f"phonons.{name}={getattr(self, name)}: write a whole number >= 2")


@dataclass(frozen=True)
class Phonons:
    """Frequencies in THz; an imaginary one, of an unstable mode, is negative.

    Attributes:
        distances: [points] 1/Å, along the path; 2 pi is in them.
        frequencies: [points, branches].
        labels: (distance, name) of the special points on the path.
        grid: [bins] THz, of the density of states.
        density: [bins] states per THz and cell.
        lowest: the lowest frequency on the path and on the mesh.
        supercell: repetitions of the given cell along its vectors.
        zero_point: eV per cell, the zero-point energy; without the unstable modes.
    """

    distances: np.ndarray
    frequencies: np.ndarray
    labels: list[tuple[float, str]]
    grid: np.ndarray
    density: np.ndarray
    lowest: float
    supercell: tuple[int, int, int]
    zero_point: float

    @property
    def stable(self) -> bool:
        """Whether no mode is unstable, but for rounding of the acoustic ones at Γ."""
        return self.lowest > -_ROUNDING

    def as_json(self) -> dict[str, Any]:
        """Everything, for a record."""
        return {
            "unit": "THz",
            "supercell": list(self.supercell),
            "stable": self.stable,
            "lowest": self.lowest,
            "zero_point_eV": self.zero_point,
            "labels": [[distance, name] for distance, name in self.labels],
            "distances": self.distances.tolist(),
            "frequencies": self.frequencies.tolist(),
            "grid": self.grid.tolist(),
            "density": self.density.tolist(),
        }


def phonons(atoms: Atoms, calculator: Calculator, settings: PhononSettings | None = None) -> Phonons:
    """Dispersion along the standard path of the lattice (ASE's), and density of states.

    Args:
        atoms: a relaxed crystal, best its primitive cell, periodic in all directions.
        calculator: of forces.
        settings: of the calculation.

    Raises:
        InputError: phonopy is not installed; a structure that is not periodic, or not relaxed.
    """
    check_phonopy()
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    settings = settings or PhononSettings()
    if not atoms.pbc.all():
        raise InputError(f"phonons need a periodic crystal; pbc is {atoms.pbc.tolist()}")
    repeats = _repeats(atoms, settings.length)
    cell = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses(),
    )
    calculation = Phonopy(cell, supercell_matrix=np.diag(repeats), primitive_matrix=np.eye(3))
    at_rest = _forces(calculation.supercell, calculator)
    largest = float(np.linalg.norm(at_rest, axis=1).max())
    if largest > settings.max_force:
        raise InputError(
            f"phonons are those of a structure at rest; here a force is {largest:.3g} eV/Å: relax it first "
            f"(fmax={settings.max_force:g})"
        )
    calculation.generate_displacements(distance=settings.displacement)
    # What is left of the forces at rest is no answer to a displacement.
    calculation.forces = [
        _forces(moved, calculator) - at_rest for moved in calculation.supercells_with_displacements or []
    ]
    calculation.produce_force_constants()
    calculation.symmetrize_force_constants()
    return _evaluated(calculation, atoms, settings, repeats)


def check_phonopy() -> None:
    """Raises InputError where phonopy is not installed."""
    try:
        import phonopy  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"phonons need phonopy, which cannot be imported ({error}): pip install 'msmlff[phonons]'"
        ) from error


def _repeats(atoms: Atoms, length: float) -> tuple[int, int, int]:
    """Repetitions after which opposite faces of the cell are ``length`` Å apart."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    a, b, c = (max(1, int(np.ceil(length / height - 1e-9))) for height in heights)
    return a, b, c


def _forces(cell: Any, calculator: Calculator) -> np.ndarray:
    """[atoms, 3] eV/Å of a PhonopyAtoms."""
    atoms = Atoms(numbers=cell.numbers, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
    atoms.calc = calculator
    return np.asarray(atoms.get_forces())


def _evaluated(
    calculation: Any, atoms: Atoms, settings: PhononSettings, repeats: tuple[int, int, int]
) -> Phonons:
    path = atoms.cell.bandpath(npoints=settings.points)
    calculation.run_qpoints(path.kpts)
    frequencies = np.asarray(calculation.qpoints.frequencies)
    distances, at, names = path.get_linear_kpoint_axis()
    calculation.run_mesh([settings.mesh] * 3, is_gamma_center=True)
    on_mesh = np.asarray(calculation.mesh.frequencies)
    weights = calculation.mesh.weights / np.sum(calculation.mesh.weights)
    calculation.run_total_dos()
    total = calculation.total_dos
    planck = 4.135667696e-3  # eV/THz (CODATA 2018)
    return Phonons(
        distances=np.asarray(distances),
        frequencies=frequencies,
        labels=[(float(x), str(name)) for x, name in zip(at, names, strict=True)],
        grid=np.asarray(total.frequency_points),
        density=np.asarray(total.dos),
        lowest=float(min(frequencies.min(), on_mesh.min())),
        supercell=repeats,
        zero_point=float(0.5 * planck * (weights @ np.clip(on_mesh, 0.0, None)).sum()),
    )
