"""Do the forces belong to the energies? Checks of sign, units and size on whole sets of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase.calculators.calculator import Calculator
from ase.units import Bohr, Hartree, kcal, mol

from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import minimum_image
from msmlff.errors import InputError

MAX_STEP = 0.15  # Å; beyond it the trapezoidal rule says little about the work along the path
MIN_PAIRS = 10
FORCE_WINDOW = (0.03, 30.0)  # eV/Å, usual RMS force components of what force fields are trained on

_UNITS = {
    "energy in hartree": 1 / Hartree,
    "forces in hartree/bohr": Hartree / Bohr,
    "forces in eV/bohr (or all labels in atomic units)": 1 / Bohr,
    "energy in kcal/mol": mol / kcal,
    "forces in kcal/mol/Å": kcal / mol,
    "energy in rydberg": 2 / Hartree,
    "forces in rydberg/bohr": Hartree / Bohr / 2,
}


class WorkCheck:
    """Compares energy differences of consecutive frames with the work of the mean force along the step.

    Along a trajectory dE = -(F1 + F2)/2 . dx up to third order in dx. A negative slope of dE against the work
    is a sign error, a slope far from 1 a unit error. Only steps below 0.15 Å within one cell and group count;
    where there are fewer than ten, there is no verdict.
    """

    def __init__(self) -> None:
        self._last: Configuration | None = None
        self._pairs: list[tuple[float, float]] = []
        self._source = ""

    def add(self, frame: Configuration) -> None:
        """Takes the next frame."""
        last, self._last = self._last, frame
        if last is None or len(frame) != len(last) or len(self._pairs) >= 5000:
            return
        if frame.forces is None or last.forces is None or frame.group != last.group:
            return
        if not ((frame.numbers == last.numbers).all() and np.allclose(frame.cell, last.cell)):
            return
        step = minimum_image(frame.positions - last.positions, frame.cell, frame.pbc)
        if 0 < np.abs(step).max() < MAX_STEP:
            work = float(-0.5 * np.sum((frame.forces + last.forces) * step))
            self._pairs.append((work, frame.energy - last.energy))
            self._source = self._source or frame.source

    def verdict(self) -> tuple[str, str]:
        """("force_sign" or "force_units", message), ("not_checked", reason), or ("", "") if all is well."""
        pairs = np.array([p for p in self._pairs if np.isfinite(p).all()]).reshape(-1, 2)
        if len(pairs) < MIN_PAIRS:
            return "not_checked", (
                f"{len(pairs)} steps between consecutive frames of a group are below {MAX_STEP} Å, "
                f"{MIN_PAIRS} are needed"
            )
        if (pairs.std(axis=0) == 0).any():
            return "not_checked", "energies or forces are the same in all frames"
        work, change = pairs.T
        correlation = float(np.corrcoef(work, change)[0, 1])
        slope = float(np.sum(work * change) / np.sum(work**2))
        found = (
            f"{self._source} and {len(pairs) - 1} more small steps between consecutive frames: energy "
            f"differences are {slope:.3g} times the work of the forces"
        )
        if correlation < -0.5:
            return "force_sign", f"{found}: the forces have the wrong sign"
        if correlation <= 0.9:
            return "not_checked", (
                f"energy differences of {len(pairs)} small steps between consecutive frames correlate by "
                f"{correlation:.2f} with the work of the forces, too little to judge (noise, or labels of "
                "different calculations)"
            )
        return ("", "") if 0.7 < slope < 1.4 else ("force_units", f"{found}, not 1: {unit_hint(slope)}")


class MagnitudeCheck:
    """Warns where forces are so small or large that their units are in doubt."""

    def __init__(self) -> None:
        self._squares = 0.0
        self._count = 0

    def add(self, frame: Configuration) -> None:
        """Takes the next frame."""
        if frame.forces is not None and len(frame) > 1:
            finite = frame.forces[np.isfinite(frame.forces)]
            self._squares += float(finite @ finite)
            self._count += finite.size

    def verdict(self) -> Iterator[str]:
        """A message if the RMS force component leaves 0.03 to 30 eV/Å."""
        rms = float(np.sqrt(self._squares / max(self._count, 1)))
        if self._count and not FORCE_WINDOW[0] < rms < FORCE_WINDOW[1]:
            yield (
                f"the RMS force component of the whole set is {rms:.3g} eV/Å, outside {FORCE_WINDOW[0]} to "
                f"{FORCE_WINDOW[1]}: check the units"
            )


@dataclass(frozen=True)
class EngineCheck:
    """One directional derivative.

    Attributes:
        source: the frame.
        labelled: eV/Å, minus the forces' component along the direction.
        differences: eV/Å, central difference of the engine's energy along it.
    """

    source: str
    labelled: float
    differences: float


def check_forces_against_engine(
    frames: Sequence[Configuration],
    calculator: Calculator,
    n: int = 5,
    step: float = 1e-3,
    tolerance: float = 0.02,
    seed: int = 0,
) -> list[EngineCheck]:
    """Central differences of an engine's energy against the labelled forces, along random directions.

    Args:
        frames: with forces; ``n`` of them, evenly spread, are used.
        calculator: an ASE calculator at the level the labels were made with.
        n: number of frames.
        step: Å, displacement of every atom to either side (RMS).
        tolerance: allowed deviation, relative to the force along the direction plus 0.05 eV/Å.
        seed: of the directions.

    Raises:
        InputError: the forces do not belong to this energy; the message guesses sign or units.
    """
    with_forces = [i for i in range(len(frames)) if frames[i].forces is not None and len(frames[i]) > 1]
    if not with_forces:
        raise InputError("no frame has forces to check against the engine")
    chosen = np.unique(np.linspace(0, len(with_forces) - 1, min(n, len(with_forces))).round().astype(int))
    rng = np.random.default_rng(seed)
    checks = [_directional(frames[with_forces[i]], calculator, step, rng) for i in chosen.tolist()]
    for check in checks:
        if abs(check.labelled - check.differences) > tolerance * (abs(check.differences) + 0.05):
            slope = _ratio(checks)
            raise InputError(
                f"{check.source}: along a random direction the energy changes by {check.differences:.4f} "
                f"eV/Å, the forces say {check.labelled:.4f}: {unit_hint(slope)}"
            )
    return checks


def unit_hint(slope: float) -> str:
    """What a factor between energy differences and the work of the forces suggests."""
    if slope < 0:
        return "the forces have the wrong sign" + ("" if 0.7 < -slope < 1.4 else ", and perhaps other units")
    for name, factor in _UNITS.items():
        if abs(slope / factor - 1) < 0.1:
            return f"the factor {slope:.4g} looks like {name}; this package takes eV and eV/Å"
    return f"energies and forces differ by a factor of {slope:.4g}; this package takes eV and eV/Å"


def _directional(
    frame: Configuration, calculator: Calculator, step: float, rng: np.random.Generator
) -> EngineCheck:
    direction = rng.normal(size=frame.positions.shape)
    direction /= np.sqrt(np.mean(np.sum(direction**2, axis=1)))
    energies = []
    for sign in (1, -1):
        atoms = replace(frame, positions=frame.positions + sign * step * direction).to_ase()
        atoms.calc = calculator
        energy = atoms.get_potential_energy()
        # With smeared occupations the forces belong to the free energy.
        energies.append(calculator.results.get("free_energy", energy))
    forces = np.zeros_like(direction) if frame.forces is None else frame.forces
    scale = np.linalg.norm(direction)
    return EngineCheck(
        frame.source,
        labelled=float(-np.sum(forces * direction) / scale),
        differences=float((energies[0] - energies[1]) / (2 * step * scale)),
    )


def _ratio(checks: Sequence[EngineCheck]) -> float:
    labelled = np.array([c.labelled for c in checks])
    differences = np.array([c.differences for c in checks])
    return float(labelled @ differences / max(labelled @ labelled, 1e-30))
