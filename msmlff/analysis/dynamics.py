"""Motion: mean squared displacement, diffusion, velocity autocorrelation, vibrational density of states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from scipy.fft import irfft, next_fast_len, rfft

from msmlff.analysis.blocking import block_error
from msmlff.analysis.curve import Curve
from msmlff.analysis.trajectory import Trajectory, unwrapped
from msmlff.errors import InputError

BLOCKS = 5
YEH_HUMMER = 2.837297  # of a cubic lattice of periodic images
BOLTZMANN_SI = 1.380649e-23  # J/K
CHUNK = 64  # atoms that are transformed at once: bounds the memory


@dataclass(frozen=True)
class Diffusion:
    """A diffusion coefficient.

    Attributes:
        value, error: 1e-5 cm²/s; the standard error is that of the blocks' mean.
        fit_fs: lags between which the MSD was fitted.
        exponent: slope of log MSD against log time there: 1 for diffusion, 2 for free flight, 0 in a solid.
    """

    value: float
    error: float
    fit_fs: tuple[float, float]
    exponent: float


def msd(trajectory: Trajectory, element: int | None = None, blocks: int = BLOCKS) -> Curve:
    """Mean squared displacement over all time origins, the drift of the centre of mass taken off.

    MSD(t) = <|r_i(s + t) - r_i(s)|²> over atoms i and origins s, by fast Fourier transforms (Calandrini et
    al., Collection SFN 12, 201 (2011), section 4.4.3).

    Args:
        trajectory: at least 2 frames; wrapped positions are unwrapped.
        element: atomic number of the atoms that are counted; None for all.
        blocks: consecutive parts whose scatter gives the errors, as far as their length reaches.

    Returns:
        x lags in fs from 0 to half the trajectory, y in Å².
    """
    paths = _paths(trajectory, element)
    interval = trajectory.need_interval("msd")
    lags = max(2, len(paths) // 2 + 1)
    values = _msd(paths)[:lags]
    return Curve(interval * np.arange(lags), values, _block_errors(_msd, paths, blocks, lags))


def diffusion(
    trajectory: Trajectory,
    element: int | None = None,
    blocks: int = BLOCKS,
    fit_fs: tuple[float, float] | None = None,
) -> Diffusion:
    """D = slope of the MSD / 6 (Einstein), the mean over consecutive blocks with its standard error.

    In a periodic cell it is smaller than in an infinite system: see ``finite_size_correction``.

    Args:
        fit_fs: lags of the linear fit; None: a tenth to a half of a block's length.

    Raises:
        InputError: fewer than 10 frames a block, or lags outside a block.
    """
    paths = _paths(trajectory, element)
    interval = trajectory.need_interval("diffusion")
    length = len(paths) // blocks
    if length < 10:
        raise InputError(
            f"diffusion: {len(paths)} frames make {blocks} blocks of {length}; at least 10 frames a block "
            "are needed"
        )
    first, last = fit_fs or (0.1 * length * interval, 0.5 * length * interval)
    low, high = max(1, round(first / interval)), round(last / interval)
    if not 1 <= low < high < length:
        raise InputError(
            f"diffusion: fit_fs=[{first:g}, {last:g}] must lie within a block of {length * interval:g} fs, "
            f"two frames ({2 * interval:g} fs) apart or more"
        )
    time = interval * np.arange(low, high + 1)
    parts = np.stack([_msd(paths[b * length : (b + 1) * length])[low : high + 1] for b in range(blocks)])
    slopes = np.polyfit(time, parts.T, 1)[0] / 6.0 * 1e4  # Å²/fs = 0.1 cm²/s = 1e4 of 1e-5 cm²/s
    mean = np.maximum(parts.mean(axis=0), 1e-300)
    exponent = float(np.polyfit(np.log(time), np.log(mean), 1)[0])
    error = float(slopes.std(ddof=1) / math.sqrt(blocks)) if blocks > 1 else math.nan
    return Diffusion(float(slopes.mean()), error, (float(time[0]), float(time[-1])), exponent)


def finite_size_correction(temperature: float, viscosity: float, length: float) -> float:
    """What to add to D of a cubic periodic cell for D of an infinite system, in 1e-5 cm²/s.

    2.837297 kB T / (6 π η L): Yeh, Hummer, J. Phys. Chem. B 108, 15873 (2004), eq. 12.

    Args:
        temperature: K.
        viscosity: mPa s.
        length: Å, edge of the cell.
    """
    metres2_per_second = YEH_HUMMER * BOLTZMANN_SI * temperature
    metres2_per_second /= 6.0 * math.pi * viscosity * 1e-3 * length * 1e-10
    return metres2_per_second * 1e9


def vacf(trajectory: Trajectory, element: int | None = None, blocks: int = BLOCKS) -> Curve:
    """Normalised velocity autocorrelation <v(s) v(s + t)> / <v²> over atoms and origins, without the drift
    of the centre of mass.

    Returns:
        x lags in fs from 0 to half the trajectory, y from 1, errors as those of ``msd``.
    """
    _need_frames(trajectory, 2, "vacf")
    interval = trajectory.need_interval("vacf")
    velocities = _without_drift(trajectory, trajectory.need_velocities("vacf"))
    velocities = velocities[:, _atoms(trajectory, element)]
    lags = len(velocities) // 2 + 1
    correlation = _normalised(velocities)[:lags]
    error = _block_errors(_normalised, velocities, blocks, lags)
    return Curve(interval * np.arange(lags), correlation, error)


def _block_errors(
    curve: Callable[[np.ndarray], np.ndarray], frames: np.ndarray, blocks: int, lags: int
) -> np.ndarray:
    """[lags] standard error of a curve from its scatter over consecutive parts; NaN beyond their length."""
    error, length = np.full(lags, np.nan), len(frames) // blocks
    if blocks > 1 and length > 1:
        parts = np.stack([curve(frames[b * length : (b + 1) * length]) for b in range(blocks)])
        known = min(length, lags)
        error[:known] = parts[:, :known].std(axis=0, ddof=1) / math.sqrt(blocks)
    return error


def vdos(trajectory: Trajectory, resolution: float | None = None, element: int | None = None) -> Curve:
    """Vibrational density of states: power spectrum of the mass-weighted velocities, its integral over all
    frequencies 1 (of an element: that element's share of it).

    The spectrum is the Fourier transform of the mass-weighted velocity autocorrelation function (Dickey,
    Paskin, Phys. Rev. 188, 1407 (1969)), averaged over Hann-windowed segments that overlap by half (Welch,
    IEEE Trans. Audio Electroacoust. 15, 70 (1967)).

    Args:
        trajectory: with velocities, stored often enough: the largest frequency is 1/(2 interval).
        resolution: THz, spacing of the frequencies; None: eight segments.
        element: atomic number whose share is given; None for all.

    Returns:
        x frequencies in THz, y in 1/THz, errors from the scatter of the segments.

    Raises:
        InputError: no velocities, or fewer than 8 frames a segment.
    """
    interval = 1e-3 * trajectory.need_interval("vdos")  # ps
    velocities = _without_drift(trajectory, trajectory.need_velocities("vdos"))
    frames = len(velocities)
    length = 2 * frames // 9 if resolution is None else math.ceil(1.0 / (resolution * interval))
    if not 8 <= length <= frames:
        raise InputError(
            f"vdos: {frames} frames {1e3 * interval:g} fs apart make segments of {length}, which must be 8 "
            "frames or more and no more than there are; store more frames or change resolution (THz)"
        )
    counted = np.zeros(len(trajectory.numbers), dtype=bool)
    counted[_atoms(trajectory, element)] = True
    window = np.hanning(length + 1)[:length, None, None]
    spectra, totals = [], []
    for start in range(0, frames - length + 1, max(1, length // 2)):
        part = np.zeros((2, length // 2 + 1))
        for atoms in _chunks(len(counted)):
            power = np.abs(rfft(window * velocities[start : start + length, atoms], axis=0)) ** 2
            weighted = np.einsum("wai,a->wa", power, trajectory.masses[atoms])
            part += np.stack([weighted[:, counted[atoms]].sum(axis=1), weighted.sum(axis=1)])
        spectra.append(part[0])
        totals.append(part[1])
    frequencies = np.fft.rfftfreq(length, interval)
    area = np.trapezoid(np.mean(totals, axis=0), frequencies)
    y = np.stack(spectra) / (area or 1.0)
    return Curve(frequencies, y.mean(axis=0), block_error(y))


def _paths(trajectory: Trajectory, element: int | None) -> np.ndarray:
    """[frames, atoms, 3] Å, unwrapped, relative to the centre of mass of all atoms."""
    _need_frames(trajectory, 2, "msd")
    return _without_drift(trajectory, unwrapped(trajectory))[:, _atoms(trajectory, element)]


def _without_drift(trajectory: Trajectory, values: np.ndarray) -> np.ndarray:
    """Positions or velocities [frames, atoms, 3] less the centre of mass's; a lone atom's unchanged."""
    if values.shape[1] == 1:
        return values
    masses = trajectory.masses
    return values - np.einsum("a,fai->fi", masses / masses.sum(), values)[:, None]


def _atoms(trajectory: Trajectory, element: int | None) -> np.ndarray:
    """[atoms] indices of the atoms of an element, or of all."""
    if element is None:
        return np.arange(len(trajectory.numbers))
    chosen = np.flatnonzero(trajectory.numbers == element)
    if not len(chosen):
        raise InputError(f"{trajectory.source or 'the trajectory'} holds no {chemical_symbols[element]}")
    return chosen


def _need_frames(trajectory: Trajectory, least: int, what: str) -> None:
    if len(trajectory) < least:
        raise InputError(
            f"{what}: {trajectory.source or 'the trajectory'} holds {len(trajectory)} frame; motion needs "
            f"{least} or more"
        )


def _chunks(atoms: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, atoms, CHUNK)]


def _msd(paths: np.ndarray) -> np.ndarray:
    """[frames] mean squared displacement at each lag, in the square of the unit of ``paths``."""
    n = len(paths)
    origin = paths.mean(axis=0)  # small numbers: the two terms below nearly cancel
    total = np.zeros(n)
    for atoms in _chunks(paths.shape[1]):
        part = paths[:, atoms] - origin[atoms]
        prefix = np.append(0.0, np.cumsum(np.einsum("fai,fai->f", part, part)))
        lag = np.arange(n)
        ends = (prefix[n] - prefix[lag] + prefix[n - lag]) / (n - lag)
        total += ends - 2.0 * _correlation(part)
    return np.maximum(total / paths.shape[1], 0.0)


def _normalised(velocities: np.ndarray) -> np.ndarray:
    total = np.zeros(len(velocities))
    for atoms in _chunks(velocities.shape[1]):
        total += _correlation(velocities[:, atoms])
    return total / (total[0] or 1.0)


def _correlation(values: np.ndarray) -> np.ndarray:
    """[frames] mean over origins of the scalar product with itself at each lag, summed over atoms."""
    n = len(values)
    flat = values.reshape(n, -1)
    size = next_fast_len(2 * n, real=True)
    power = np.abs(rfft(flat, size, axis=0)) ** 2
    return irfft(power.sum(axis=1), size)[:n] / np.arange(n, 0, -1)
