"""What an experiment or a paper would look at: structure, density and pressure of frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from ase.data import atomic_masses
from ase.units import Bohr, GPa, kB
from scipy.special import erf

from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.errors import InputError

# Cheng, Mazzola, Pickard, Ceriotti, Nature 585, 217 (2020), Methods: a cubic switch of the coordination
# number (Å), the range of it that a molecule's atom has, and the width of the Gaussian that smooths the
# range.
SWITCH_FULL, SWITCH_ZERO = 0.8, 1.1
COORDINATION_RANGE = (0.8, 1.2)
COORDINATION_SMOOTHING = 0.08

_AMU_PER_A3_IN_G_PER_CM3 = 1.66053906660


def rdf(
    frames: Sequence[Configuration], r_max: float, bins: int, pair: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Radial distribution function of periodic frames, averaged over frames.

    Each shell's count is divided by that of an ideal gas of the frame's density in the shell's exact volume.
    Periodic images are counted wherever they are, so ``r_max`` may exceed half the cell.

    Args:
        frames: periodic in all directions.
        r_max: Å.
        bins: number of shells of equal width.
        pair: atomic numbers (centre, neighbour) for a partial function; None for all atoms alike.

    Returns:
        (r [bins] Å, the middle of each shell; g [bins]).

    Raises:
        InputError: no frame, a frame that is not periodic, or one without atoms of ``pair``.
    """
    if not frames:
        raise InputError("rdf: no frames given")
    edges = np.linspace(0.0, r_max, bins + 1)
    shells = 4.0 / 3.0 * math.pi * np.diff(edges**3)
    g = np.zeros(bins)
    for frame in frames:
        _require_cell(frame, "rdf")
        centre = np.ones(len(frame), dtype=bool) if pair is None else frame.numbers == pair[0]
        neighbour = np.ones(len(frame), dtype=bool) if pair is None else frame.numbers == pair[1]
        if not centre.any() or not neighbour.any():
            raise InputError(f"rdf: {_name(frame)} has no atoms of the pair {pair}")
        receiver, sender, distance = _pairs(frame, r_max)
        counted = centre[receiver] & neighbour[sender]
        counts = np.histogram(distance[counted], edges)[0]
        g += counts * frame.volume / (centre.sum() * neighbour.sum() * shells)
    return 0.5 * (edges[:-1] + edges[1:]), g / len(frames)


def molecular_fraction(frames: Sequence[Configuration]) -> np.ndarray:
    """[frames] share of atoms bound in a diatomic molecule of hydrogen.

    Cheng, Mazzola, Pickard, Ceriotti, Nature 585, 217 (2020): an atom's coordination number is the sum of the
    cubic switch s(r) = (y-1)²(1+2y), y = (r-0.8)/0.3, over neighbours (1 below 0.8 Å, 0 above 1.1 Å); the
    atom is molecular when that lies in 0.8 to 1.2, a range whose edges are smoothed with a Gaussian of 0.08
    (PLUMED's BETWEEN). The smoothing leaves 0.988, not 1, for an undisturbed molecule.
    """
    low, high = COORDINATION_RANGE
    width = math.sqrt(2.0) * COORDINATION_SMOOTHING
    fractions = np.empty(len(frames))
    for i, frame in enumerate(frames):
        receiver, _, distance = _pairs(frame, SWITCH_ZERO)
        y = np.clip((distance - SWITCH_FULL) / (SWITCH_ZERO - SWITCH_FULL), 0.0, 1.0)
        number = np.bincount(receiver, (y - 1.0) ** 2 * (1.0 + 2.0 * y), minlength=len(frame))
        fractions[i] = np.mean(0.5 * (erf((number - low) / width) - erf((number - high) / width)))
    return fractions


def pressure(frames: Sequence[Configuration], temperature: float | None = None) -> np.ndarray:
    """[frames] pressure in GPa from the stress label, NaN where there is none.

    Args:
        temperature: K; where given, the ideal-gas term N kB T / V is added.
    """
    pressures = np.full(len(frames), np.nan)
    for i, frame in enumerate(frames):
        if frame.stress is None:
            continue
        pressures[i] = -np.trace(frame.stress) / 3.0 / GPa
        if temperature is not None:
            _require_cell(frame, "pressure")
            pressures[i] += len(frame) * kB * temperature / frame.volume / GPa
    return pressures


def density(frames: Sequence[Configuration]) -> np.ndarray:
    """[frames] mass density in g/cm³. Raises InputError for a frame without a cell."""
    values = np.empty(len(frames))
    for i, frame in enumerate(frames):
        _require_cell(frame, "density")
        values[i] = atomic_masses[frame.numbers].sum() / frame.volume * _AMU_PER_A3_IN_G_PER_CM3
    return values


def wigner_seitz_radius(frames: Sequence[Configuration]) -> np.ndarray:
    """[frames] r_s in bohr: 4/3 π r_s³ is the volume per electron, all electrons of neutral atoms counted.

    Raises InputError for a frame without a cell.
    """
    radii = np.empty(len(frames))
    for i, frame in enumerate(frames):
        _require_cell(frame, "wigner_seitz_radius")
        radii[i] = (3.0 * frame.volume / (4.0 * math.pi * frame.numbers.sum())) ** (1.0 / 3.0) / Bohr
    return radii


def min_pair_distance(frames: Sequence[Configuration]) -> np.ndarray:
    """[frames] Å, shortest distance of two atoms or an atom and a periodic image; inf for a lone atom."""
    shortest = np.full(len(frames), np.inf)
    for i, frame in enumerate(frames):
        if len(frame) < 2 and not frame.pbc.any():
            continue
        # a search that finds any pair finds the shortest one; the first radius is about that of a dense solid
        cutoff, distance = 1.5, np.empty(0)
        while not len(distance):
            distance = _pairs(frame, cutoff)[2]
            cutoff *= 2.0
        shortest[i] = distance.min()
    return shortest


def _pairs(frame: Configuration, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Receiver, sender and distance [pairs] of all pairs below the cutoff, each in both directions."""
    found = neighbor_list(frame.positions, frame.cell, frame.pbc, cutoff)
    receiver, sender = np.asarray(found.receiver), np.asarray(found.sender)
    vectors = frame.positions[receiver] - frame.positions[sender] + np.asarray(found.shift) @ frame.cell
    return receiver, sender, np.linalg.norm(vectors, axis=1)


def _require_cell(frame: Configuration, what: str) -> None:
    if not frame.pbc.all() or frame.volume <= 0.0:
        raise InputError(f"{what}: {_name(frame)} is not periodic in all directions; give frames with a cell")


def _name(frame: Configuration) -> str:
    return f"frame {frame.source}" if frame.source else f"a frame of {len(frame)} atoms"
