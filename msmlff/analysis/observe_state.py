"""Observables of the thermodynamic state: density, pressure, equation of state."""

from __future__ import annotations

import math

import numpy as np
from ase.units import GPa, kB

from msmlff.analysis.curve import Curve
from msmlff.analysis.observed import NamedCurve, Observed, Quantity, Subject, mean_of
from msmlff.analysis.thermodynamics import density, fit_equation_of_state, pressure, wigner_seitz_radius
from msmlff.analysis.trajectory import Trajectory, temperatures
from msmlff.errors import InputError


def observe_pressure(subject: Subject) -> Observed:
    """From the frames' stresses; where there are none, from the thermo.csv of the simulation."""
    t = subject.trajectory
    notes: tuple[str, ...] = ()
    virial = pressure(t.frames())
    quantities = {}
    if np.isfinite(virial).all():
        values, notes = _with_ideal_gas(subject, virial)
        if values is not virial:
            quantities["pressure of the potential"] = mean_of(virial, "GPa")
    elif subject.thermo is not None and np.isfinite(subject.thermo["pressure_GPa"]).any():
        rows = subject.thermo["pressure_GPa"]
        values = rows[np.isfinite(rows)]
    else:
        raise InputError(f"pressure: frames of {t.source or 'the trajectory'} have no stress")
    quantities = {"pressure": mean_of(values, "GPa"), **quantities}
    counts, edges = np.histogram(values, 40, density=True)
    curve = Curve(0.5 * (edges[1:] + edges[:-1]), counts, np.full(len(counts), np.nan))
    distribution = NamedCurve(curve, "pressure / GPa", "density / 1/GPa")
    return Observed(quantities, {"distribution": distribution}, notes)


def _with_ideal_gas(subject: Subject, virial: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pressures with the ideal-gas term, if a temperature is known; a note if it is not."""
    t, kelvin = subject.trajectory, subject.settings.temperature
    if kelvin is None and t.velocities is None:
        return virial, ("No velocities and no settings.temperature: the ideal-gas term is left out.",)
    heat = temperatures(t) if kelvin is None else np.full(len(t), kelvin)
    return virial + len(t.numbers) * kB * heat / t.volume / GPa, ()


def observe_density(subject: Subject) -> Observed:
    frames = subject.trajectory.frames()
    return Observed(
        {"density": mean_of(density(frames), "g/cm³"), "r_s": mean_of(wigner_seitz_radius(frames), "bohr")}
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
