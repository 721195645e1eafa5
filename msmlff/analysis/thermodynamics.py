"""Pressure, density, equation of state, energy drift."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_masses
from ase.units import Bohr, GPa, fs, kB
from scipy.optimize import curve_fit

from msmlff.analysis.blocking import block_error
from msmlff.analysis.pairs import require_cell
from msmlff.analysis.trajectory import Trajectory
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError

_AMU_PER_A3_IN_G_PER_CM3 = 1.66053906660


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
            require_cell(frame, "pressure")
            pressures[i] += len(frame) * kB * temperature / frame.volume / GPa
    return pressures


def density(frames: Sequence[Configuration], masses: np.ndarray | None = None) -> np.ndarray:
    """[frames] mass density in g/cm³. Raises InputError for a frame without a cell.

    Args:
        masses: [atoms] atomic mass units (``Trajectory.masses``); None: the standard ones of the elements.
    """
    values = np.empty(len(frames))
    for i, frame in enumerate(frames):
        require_cell(frame, "density")
        whole = (atomic_masses[frame.numbers] if masses is None else masses).sum()
        values[i] = whole / frame.volume * _AMU_PER_A3_IN_G_PER_CM3
    return values


def wigner_seitz_radius(frames: Sequence[Configuration]) -> np.ndarray:
    """[frames] r_s in bohr: 4/3 π r_s³ is the volume per electron, all electrons of neutral atoms counted.

    Raises InputError for a frame without a cell.
    """
    radii = np.empty(len(frames))
    for i, frame in enumerate(frames):
        require_cell(frame, "wigner_seitz_radius")
        radii[i] = (3.0 * frame.volume / (4.0 * math.pi * frame.numbers.sum())) ** (1.0 / 3.0) / Bohr
    return radii


@dataclass(frozen=True)
class Drift:
    """How an energy that should stay changes.

    Attributes:
        slope, error: meV/atom/ps, least squares over time and its standard error by blocking the residuals.
        fluctuation: meV/atom, standard deviation about the line.
    """

    slope: float
    error: float
    fluctuation: float


def energy_drift(time_fs: np.ndarray, energy: np.ndarray) -> Drift:
    """The drift of an energy, such as the total one of dynamics at constant energy.

    Args:
        time_fs: [frames] fs.
        energy: [frames] eV/atom.

    Raises:
        InputError: fewer than 3 frames, or energies that are not finite.
    """
    if len(time_fs) < 3:
        raise InputError(f"drift: {len(time_fs)} frames; 3 or more are needed")
    if not np.isfinite(energy).all():
        raise InputError("drift: energies are not finite")
    centred = 1e-3 * (time_fs - np.mean(time_fs))
    weight = centred / (centred**2).sum()
    slope = float(weight @ energy)
    residual = energy - energy.mean() - slope * centred
    # the slope is the mean of n w_i e_i, whose error blocking gives
    error = float(block_error(len(centred) * weight * residual))
    return Drift(1e3 * slope, 1e3 * error, 1e3 * float(residual.std(ddof=2)))


def total_energy(trajectory: Trajectory) -> np.ndarray:
    """[frames] eV/atom, potential plus kinetic.

    Raises:
        InputError: frames without energies or velocities.
    """
    velocities = trajectory.need_velocities("drift")
    if trajectory.energy is None or not np.isfinite(trajectory.energy).all():
        raise InputError(f"drift: frames of {trajectory.source or 'the trajectory'} have no energy")
    kinetic = 0.5 * np.einsum("a,fai->f", trajectory.masses, velocities**2) / fs**2
    return np.asarray((trajectory.energy + kinetic) / len(trajectory.numbers))


@dataclass(frozen=True)
class EquationOfState:
    """A fitted equation of state.

    Attributes:
        form: "birch-murnaghan" or "vinet".
        energy: eV, of the minimum.
        volume: Å³, there.
        bulk_modulus: GPa, there.
        derivative: dB/dP there.
        errors: standard errors of these four.
        rmse: eV, of the fit.
    """

    form: str
    energy: float
    volume: float
    bulk_modulus: float
    derivative: float
    errors: tuple[float, float, float, float]
    rmse: float

    def energy_at(self, volume: np.ndarray) -> np.ndarray:
        """eV at volumes in Å³."""
        return FORMS[self.form](volume, self.energy, self.volume, self.bulk_modulus * GPa, self.derivative)

    def pressure_at(self, volume: np.ndarray) -> np.ndarray:
        """GPa, -dE/dV at volumes in Å³, by central differences of 1e-4 of the volume."""
        step = 1e-4 * np.asarray(volume)
        return -(self.energy_at(volume + step) - self.energy_at(volume - step)) / (2 * step) / GPa


def birch_murnaghan(v: np.ndarray, e0: float, v0: float, b0: float, b1: float) -> np.ndarray:
    """Third-order energy (Birch, Phys. Rev. 71, 809 (1947)): all in units of e0, v0 and e0/v0."""
    x = np.cbrt(v0 / np.asarray(v)) ** 2
    return np.asarray(e0 + 9.0 / 16.0 * v0 * b0 * ((x - 1) ** 3 * b1 + (x - 1) ** 2 * (6 - 4 * x)))


def vinet(v: np.ndarray, e0: float, v0: float, b0: float, b1: float) -> np.ndarray:
    """Vinet, Ferrante, Rose, Smith, J. Geophys. Res. 92, 9319 (1987), integrated to the energy."""
    eta = 1.5 * (b1 - 1.0)
    x = eta * (1.0 - np.cbrt(np.asarray(v) / v0))
    return np.asarray(e0 + 9.0 * b0 * v0 / eta**2 * (1.0 + (x - 1.0) * np.exp(x)))


FORMS: dict[str, Callable[..., np.ndarray]] = {"birch-murnaghan": birch_murnaghan, "vinet": vinet}


def fit_equation_of_state(
    volumes: np.ndarray, energies: np.ndarray, form: str = "birch-murnaghan"
) -> EquationOfState:
    """Least-squares fit of E(V).

    Args:
        volumes: [points] Å³, at least 5 different ones on both sides of the minimum.
        energies: [points] eV.
        form: a key of FORMS.

    Raises:
        InputError: an unknown form, too few volumes, or no minimum among them.
    """
    if form not in FORMS:
        raise InputError(f"equation of state: form={form}; write {' or '.join(FORMS)}")
    volumes, energies = np.asarray(volumes, dtype=np.float64), np.asarray(energies, dtype=np.float64)
    if len(np.unique(np.round(volumes, 6))) < 5:
        raise InputError("equation of state: frames of at least 5 different volumes are needed")
    curvature, slope, offset = np.polyfit(volumes, energies, 2)
    start = -slope / (2 * curvature) if curvature > 0 else 0.0
    if not volumes.min() <= start <= volumes.max():
        raise InputError(
            f"equation of state: the energy has no minimum between {volumes.min():.4g} and "
            f"{volumes.max():.4g} Å³; give volumes on both sides of it"
        )
    guess = [offset + slope * start / 2, start, 2 * curvature * start, 4.0]
    try:
        best, covariance = curve_fit(FORMS[form], volumes, energies, guess, maxfev=10000)
    except RuntimeError as error:
        raise InputError(f"equation of state: the fit does not converge ({error})") from None
    rmse = float(np.sqrt(np.mean((FORMS[form](volumes, *best) - energies) ** 2)))
    spread = np.sqrt(np.diag(covariance))
    errors = (float(spread[0]), float(spread[1]), float(spread[2] / GPa), float(spread[3]))
    e0, v0, b0, b1 = map(float, best)
    return EquationOfState(form, e0, v0, b0 / GPa, b1, errors, rmse)
