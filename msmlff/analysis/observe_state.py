"""Observables of the thermodynamic state: density, pressure, equation of state."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase.units import GPa, kB

from msmlff.analysis.curve import Curve
from msmlff.analysis.observed import NamedCurve, Observed, Quantity, Subject, mean_of
from msmlff.analysis.thermodynamics import density, fit_equation_of_state, pressure, wigner_seitz_radius
from msmlff.analysis.trajectory import Trajectory, temperatures
from msmlff.errors import InputError


@dataclass(frozen=True)
class _Pressures:
    """Pressures in time order.

    Attributes:
        potential: [rows] GPa, of the stresses.
        ideal: [rows] GPa, N kB T / V, or None where no temperature is known.
        note: what is to be said of it, or "".
    """

    potential: np.ndarray
    ideal: np.ndarray | None
    note: str = ""


def observe_pressure(subject: Subject) -> Observed:
    """Of the frames' stresses or, where it has more rows, of the thermo.csv of the simulation.

    "pressure" has the ideal-gas term and is absent where no temperature is known; "pressure of the potential"
    never has it: so numbers of one name are of one quantity.
    """
    found = _pressures(subject)
    quantities, values, name = {}, found.potential, "distribution, of the potential"
    if found.ideal is not None:
        values, name = found.potential + found.ideal, "distribution"
        quantities["pressure"] = mean_of(values, "GPa")
    quantities["pressure of the potential"] = mean_of(found.potential, "GPa")
    counts, edges = np.histogram(values, 40, density=True)
    curve = Curve(0.5 * (edges[1:] + edges[:-1]), counts, np.full(len(counts), np.nan))
    distribution = NamedCurve(curve, "pressure / GPa", "density / 1/GPa")
    return Observed(quantities, {name: distribution}, (found.note,) if found.note else ())


def kinetic_temperature(subject: Subject) -> float | None:
    """K, the mean of T in N kB T / V, the ideal-gas pressure of a trajectory; None where it is not known.

    3 degrees of freedom an atom: in a run without motion as a whole it is a little below the bath's.
    """
    t, thermo = subject.trajectory, subject.thermo
    if subject.settings.temperature is not None:
        return subject.settings.temperature
    if thermo is not None and len(thermo["kinetic_eV"]):
        return float(2.0 * thermo["kinetic_eV"].mean() / (3 * len(t.numbers) * kB))
    if t.velocities is not None:
        return float(temperatures(t).mean())
    if t.temperature is not None and np.isfinite(t.temperature).all():
        return float(t.temperature.mean())
    return None


def _pressures(subject: Subject) -> _Pressures:
    t, thermo = subject.trajectory, subject.thermo
    virial = pressure(t.frames())
    of_frames = len(t) if np.isfinite(virial).all() else 0
    rows = np.isfinite(thermo["pressure_GPa"]) if thermo is not None else np.zeros(0, dtype=bool)
    if thermo is not None and rows.sum() > of_frames:
        volume = thermo["volume_A3"][rows]
        ideal = 2.0 / 3.0 * thermo["kinetic_eV"][rows] / volume / GPa
        potential = thermo["pressure_GPa"][rows] - ideal
        kelvin = subject.settings.temperature
        return _Pressures(potential, ideal if kelvin is None else _ideal_gas(t, kelvin, volume))
    if not of_frames:
        raise InputError(f"pressure: frames of {t.source or 'the trajectory'} have no stress")
    return _with_ideal_gas(subject, virial)


def _with_ideal_gas(subject: Subject, virial: np.ndarray) -> _Pressures:
    """The frames' pressures with the ideal-gas term, as far as a temperature is known."""
    t, kelvin = subject.trajectory, subject.settings.temperature
    if kelvin is not None:
        return _Pressures(virial, _ideal_gas(t, kelvin, t.volume))
    if t.velocities is not None:
        return _Pressures(virial, _ideal_gas(t, temperatures(t), t.volume))
    if t.temperature is not None and np.isfinite(t.temperature).all():
        return _Pressures(virial, _ideal_gas(t, t.temperature, t.volume))
    kelvin = subject.lent_temperature
    if kelvin is not None:
        note = (
            "No velocities and no temperature: the ideal-gas term N kB T/V is that of what it is compared "
            f"with, at {kelvin:.1f} K (3 degrees of freedom an atom)."
        )
        return _Pressures(virial, _ideal_gas(t, kelvin, t.volume), note)
    note = (
        "No velocities and no temperature: the ideal-gas term N kB T/V is not known, and the pressure is "
        "that of the potential alone; set settings.temperature (K)."
    )
    return _Pressures(virial, None, note)


def _ideal_gas(trajectory: Trajectory, kelvin: float | np.ndarray, volume: np.ndarray) -> np.ndarray:
    """[rows] GPa."""
    return np.asarray(len(trajectory.numbers) * kB * kelvin / volume / GPa)


def observe_density(subject: Subject) -> Observed:
    frames, masses = subject.trajectory.frames(), subject.trajectory.masses
    return Observed(
        {
            "density": mean_of(density(frames, masses), "g/cm³"),
            "r_s": mean_of(wigner_seitz_radius(frames), "bohr"),
        }
    )


def observe_equation_of_state(subject: Subject) -> Observed:
    t = subject.trajectory
    if t.energy is None or not np.isfinite(t.energy).all():
        raise InputError(f"equation_of_state: frames of {t.source or 'the trajectory'} have no energy")
    atoms = len(t.numbers)
    found = fit_equation_of_state(t.volume / atoms, t.energy / atoms, subject.settings.form)
    volumes = np.linspace(t.volume.min() / atoms, t.volume.max() / atoms, 100)
    nothing = np.full(100, np.nan)
    order = np.argsort(t.volume)
    points = Curve(t.volume[order] / atoms, t.energy[order] / atoms, np.full(len(t), np.nan))
    values = (found.energy, found.volume, found.bulk_modulus, found.derivative)
    names = ("energy", "volume", "bulk modulus", "its derivative by pressure")
    units = ("eV/atom", "Å³/atom", "GPa", "")
    quantities = {n: Quantity(v, e, u) for n, v, e, u in zip(names, values, found.errors, units, strict=True)}
    quantities["RMSE of the fit"] = Quantity(1e3 * found.rmse, math.nan, "meV/atom")
    axes = ("volume / Å³/atom", "energy / eV/atom")
    curves = {
        "frames": NamedCurve(points, *axes),
        found.form: NamedCurve(Curve(volumes, found.energy_at(volumes), nothing), *axes),
    }
    note = "of moving atoms, with a thermal part" if moves(t) else "relaxed, or all at rest"
    return Observed(quantities, curves, (f"Energies as the frames have them: {note}.",))


def moves(trajectory: Trajectory) -> bool:
    """Whether the frames are those of a motion: they have velocities or times."""
    return trajectory.velocities is not None or trajectory.interval_fs is not None
