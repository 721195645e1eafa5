"""Observables of motion: displacement, diffusion, velocities and their spectrum, energy drift, stability."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from ase.data import chemical_symbols

from msmlff.analysis.curve import Curve
from msmlff.analysis.dynamics import diffusion, finite_size_correction, msd, vacf, vdos
from msmlff.analysis.observed import NamedCurve, Observed, Quantity, Subject, elements, mean_of
from msmlff.analysis.stability import Stability, bond_stability, rdf_stability, stability_curves
from msmlff.analysis.thermodynamics import energy_drift, total_energy
from msmlff.analysis.trajectory import Trajectory, longest_step, temperatures
from msmlff.errors import InputError

STABLE = "stable"  # 1 or 0; over replicas the share that survives
FAILED = "The simulation failed"  # so notes of it begin
LONG_STEP = 0.4  # of a lattice vector between two frames: near the half at which a path is lost


def observe_msd(subject: Subject) -> Observed:
    t, s = subject.trajectory, subject.settings
    kinds = elements(t)
    curves = {}
    for z in kinds:
        curves[chemical_symbols[z]] = NamedCurve(msd(t, z, s.blocks), "time / fs", "MSD / Å²")
    return Observed({}, curves, tuple(_folded(t)))


def _folded(trajectory: Trajectory) -> list[str]:
    """A note where steps between frames are too long to be followed across the faces of the cell."""
    step = longest_step(trajectory)
    if step < LONG_STEP:
        return []
    return [
        f"An atom moves by {step:.2f} of a lattice vector between two frames: from 0.5 on the path cannot be "
        "told from one through the cell's face, and displacements come out too small; store more frames."
    ]


def observe_diffusion(subject: Subject) -> Observed:
    t, s = subject.trajectory, subject.settings
    quantities, notes = {}, _folded(t)
    for z in elements(t):
        symbol = chemical_symbols[z]
        found = diffusion(t, z, s.blocks, s.fit_fs)
        quantities[f"D of {symbol}"] = Quantity(found.value, found.error, "1e-5 cm²/s")
        quantities[f"exponent of {symbol}"] = Quantity(found.exponent, math.nan, "")
        if abs(found.exponent - 1.0) > 0.2:
            notes.append(
                f"{symbol}: the MSD grows as t^{found.exponent:.2f} between {found.fit_fs[0]:g} and "
                f"{found.fit_fs[1]:g} fs, not as t: these atoms do not diffuse freely there."
            )
    if s.viscosity is not None:
        notes.append(_finite_size(subject, quantities, s.viscosity))
    elif t.pbc.all():
        notes.append(
            "In a periodic cell D comes out too small by 2.84 kB T/(6 π η L) (Yeh, Hummer 2004); set "
            "settings.viscosity (mPa s) for the corrected value."
        )
    return Observed(quantities, {}, tuple(notes))


def _finite_size(subject: Subject, quantities: dict[str, Quantity], viscosity: float) -> str:
    """Adds the corrected coefficients; returns what was done."""
    t = subject.trajectory
    cell = t.cell.mean(axis=0)
    length = float(np.mean(t.volume)) ** (1 / 3)
    if not t.pbc.all() or not np.allclose(cell, np.eye(3) * length, atol=1e-3 * length):
        raise InputError("settings.viscosity: the finite-size correction is that of a cubic periodic cell")
    kelvin = subject.settings.temperature
    kelvin = float(_temperatures(subject)[0].mean()) if kelvin is None else kelvin
    added = finite_size_correction(kelvin, viscosity, length)
    for name in [n for n in quantities if n.startswith("D of ")]:
        old = quantities[name]
        quantities[f"{name}, infinite cell"] = Quantity(old.value + added, old.error, old.unit)
    return f"For an infinite cell {added:.3g}e-5 cm²/s is added (Yeh, Hummer 2004), at {kelvin:.0f} K."


def observe_vacf(subject: Subject) -> Observed:
    t = subject.trajectory
    curves = {
        chemical_symbols[z]: NamedCurve(vacf(t, z, subject.settings.blocks), "time / fs", "VACF / VACF(0)")
        for z in elements(t)
    }
    return Observed({}, curves)


def observe_vdos(subject: Subject) -> Observed:
    t, resolution = subject.trajectory, subject.settings.resolution
    kinds = elements(t)
    names: dict[str, int | None] = {"all": None}
    names |= {chemical_symbols[z]: z for z in kinds} if len(kinds) > 1 else {}
    curves = {
        name: NamedCurve(vdos(t, resolution, z), "frequency / THz", "density of states / 1/THz")
        for name, z in names.items()
    }
    whole = curves["all"].curve
    mean = float(np.trapezoid(whole.x * whole.y, whole.x))
    peak = float(whole.x[int(np.argmax(whole.y))])
    quantities = {"highest peak": Quantity(peak, math.nan, "THz"), "mean": Quantity(mean, math.nan, "THz")}
    return Observed(quantities, curves)


def observe_temperature(subject: Subject) -> Observed:
    """As the simulation knew it, with its degrees of freedom; else kinetic, with 3 an atom."""
    t = subject.trajectory
    values, notes = _temperatures(subject)
    curves = {}
    if t.interval_fs is not None and len(t) > 1:
        curve = Curve(t.time_fs, values, np.full(len(t), np.nan))
        curves["kinetic"] = NamedCurve(curve, "time / fs", "temperature / K")
    return Observed({"temperature": mean_of(values, "K")}, curves, notes)


def _temperatures(subject: Subject) -> tuple[np.ndarray, tuple[str, ...]]:
    """[frames] K, and what is to be said of them."""
    stored = subject.trajectory.temperature
    if stored is not None and np.isfinite(stored).all():
        return stored, ()
    note = "With 3 degrees of freedom an atom; a run without motion as a whole has fewer, and is hotter."
    return temperatures(subject.trajectory), (note,)


def observe_drift(subject: Subject) -> Observed:
    """Drift of the conserved energy of a simulation's thermo.csv, else of potential plus kinetic energy."""
    t, thermo = subject.trajectory, subject.thermo
    if thermo is not None:
        time, total = thermo["time_fs"], thermo["conserved_eV"] / len(t.numbers)
        what, notes = "conserved energy", ("Of the energy that the ensemble conserves (thermo.csv).",)
    else:
        time, total = t.time_fs, total_energy(t)
        what, notes = "total energy", ("A conserved quantity only in dynamics at constant energy.",)
    found = energy_drift(time, total)
    curve = Curve(time, 1e3 * (total - total[0]), np.full(len(time), np.nan))
    return Observed(
        {
            "drift": Quantity(found.slope, found.error, "meV/atom/ps"),
            "fluctuation": Quantity(found.fluctuation, math.nan, "meV/atom"),
        },
        {"energy": NamedCurve(curve, "time / fs", f"{what} / meV/atom")},
        notes,
    )


def observe_stability(subject: Subject) -> Observed:
    """For each definition whether the run survives ("stable": 1 or 0), for how long, and what it came to.

    A run that the engine stopped has not survived by any definition, whatever its frames show.
    """
    judged: dict[str, Stability] = {}
    reasons = []
    for name, run in _definitions(subject).items():
        try:
            judged[name] = run()
        except InputError as error:
            reasons.append(f"{name}: {error}")
    if not judged:
        raise InputError(reasons[0])
    quantities = {}
    for name, found in judged.items():
        survives = found.stable and not subject.failures
        quantities[f"{name}: {STABLE}"] = Quantity(float(survives), math.nan, "")
        quantities[f"{name}: stable for"] = Quantity(found.time_fs, math.nan, "fs")
        if not math.isnan(found.worst):
            quantities[f"{name}: largest"] = Quantity(found.worst, math.nan, "Å")
        if not found.stable and not math.isnan(found.worst):
            reasons.append(f"Unstable after {found.time_fs:g} fs: {name}.")
    failed = [f"{FAILED}: {message}" for message in subject.failures]
    if subject.reference is None:
        reasons.append("No reference: bonds are compared with the first frame's, g with the run's own mean.")
    return Observed(quantities, {}, (*failed, *reasons))


def _definitions(subject: Subject) -> dict[str, Callable[[], Stability]]:
    """The judge of each definition of stability, by what it is called."""
    t, s = subject.trajectory, subject.settings
    if subject.failures and len(t) == 1 and t.interval_fs is None:
        t = replace(t, interval_fs=s.rdf_window_fs)  # lost before its second frame: after 0 fs

    def structure() -> Stability:
        curves = stability_curves(subject.reference or t, s.rdf_partial)
        if subject.failures and len(t) < max(2, round(s.rdf_window_fs / t.need_interval("stability"))):
            # lost within the first window: its g cannot be judged, its fate is known
            return Stability(float(t.time_fs[-1]), False, math.nan, s.rdf_threshold)
        return rdf_stability(t, curves, s.rdf_window_fs, s.rdf_threshold)

    return {
        f"bonds, mean ± {s.bond_mean:g} Å": lambda: bond_stability(t, subject.reference, s.bond_mean),
        f"bonds, equilibrium ± {s.bond_equilibrium:g} Å": lambda: bond_stability(
            t, subject.equilibrium, s.bond_equilibrium
        ),
        f"g(r), difference < {s.rdf_threshold:g} Å": structure,
    }
