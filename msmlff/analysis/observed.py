"""What observables of a trajectory are made of: the subject, the choices, numbers and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from ase.data import chemical_symbols

from msmlff.analysis.blocking import block_error
from msmlff.analysis.curve import Curve
from msmlff.analysis.stability import (
    EQUILIBRIUM_TOLERANCE,
    MEAN_TOLERANCE,
    RDF_THRESHOLD,
    RDF_WINDOW_FS,
)
from msmlff.analysis.trajectory import Trajectory
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError


@dataclass(frozen=True)
class ObserveSettings:
    """What can be chosen; lengths in Å, times in fs.

    Attributes:
        r_max: reach of the radial distribution functions; None: half the shortest lattice vector, at most 10.
        bins: of the radial distribution functions.
        angle_bins: of the angular one.
        cutoff: of bonds, coordination and order; None: bonds from covalent radii, coordination to the first
            minimum of g, order as ``nearest`` says.
        nearest: neighbours that count for the order parameters; None: those by solid angle (12 in fcc and
            hcp, 14 in bcc).
        degrees: of the order parameters.
        averaged: over neighbours (Lechner and Dellago) as well.
        blocks: parts of the trajectory whose scatter gives the errors of msd, diffusion and vacf.
        fit_fs: lags of the fit of the diffusion coefficient; None: a tenth to a half of a block.
        viscosity: mPa s, for the finite-size correction of diffusion in a cubic cell; None: no correction.
        resolution: THz, of the density of states; None: eight segments.
        temperature: K, of the ideal-gas pressure; None: the run's own, or that of what it is compared with;
            where neither is known there is no such term.
        form: of the equation of state.
        bond_mean, bond_equilibrium: Å, deviations at which a bond has failed.
        rdf_window_fs, rdf_threshold, rdf_partial: of the stability of g, of each pair of elements.
    """

    r_max: float | None = None
    bins: int = 200
    angle_bins: int = 180
    cutoff: float | None = None
    nearest: int | None = None
    degrees: tuple[int, ...] = (4, 6)
    averaged: bool = True
    blocks: int = 5
    fit_fs: tuple[float, float] | None = None
    viscosity: float | None = None
    resolution: float | None = None
    temperature: float | None = None
    form: str = "birch-murnaghan"
    bond_mean: float = MEAN_TOLERANCE
    bond_equilibrium: float = EQUILIBRIUM_TOLERANCE
    rdf_window_fs: float = RDF_WINDOW_FS
    rdf_threshold: float = RDF_THRESHOLD
    rdf_partial: bool = False

    def __post_init__(self) -> None:
        for key in ("r_max", "cutoff", "viscosity", "resolution", "bond_mean", "bond_equilibrium",
                    "rdf_window_fs", "rdf_threshold"):  # fmt: skip
            value = getattr(self, key)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"settings.{key}={value}: write a positive number")
        for key in ("bins", "angle_bins", "nearest"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"settings.{key}={getattr(self, key)}: write a whole number >= 1")
        if self.blocks < 2:
            raise InputError(f"settings.blocks={self.blocks}: write 2 or more")
        if self.temperature is not None and self.temperature < 0:
            raise InputError(f"settings.temperature={self.temperature}: write a number of K >= 0")


@dataclass(frozen=True)
class Subject:
    """What is looked at.

    Attributes:
        trajectory: the frames.
        settings: see ObserveSettings.
        reference: a trajectory of the same atoms whose bonds and g are the yardstick of stability, or None.
        equilibrium: a relaxed frame whose bonds are, or None.
        thermo: columns of the thermo.csv of ``msmlff simulate``: time_fs, pressure_GPa, conserved_eV, ...
        failures: why the simulation ended before its time; () where it did not.
        radius: Å, reach of g that several trajectories share; None: the trajectory's own.
        shells: Å, end of the first shell by (element, neighbour), shared; None: the trajectory's own.
        lent_temperature: K, of the ideal-gas pressure of a trajectory that knows none of its own: that of
            what it is compared with; or None.
    """

    trajectory: Trajectory
    settings: ObserveSettings
    reference: Trajectory | None = None
    equilibrium: Configuration | None = None
    thermo: Mapping[str, np.ndarray] | None = None
    failures: tuple[str, ...] = ()
    radius: float | None = None
    shells: Mapping[tuple[int, int], float | None] | None = None
    lent_temperature: float | None = None


@dataclass(frozen=True)
class Quantity:
    """A number.

    Attributes:
        value: of a trajectory, or the mean over several.
        error: standard error by blocks of the trajectory, or trajectories; NaN where it is not known.
        unit: "" for a bare number.
        over_replicas: standard error by the scatter of several trajectories; NaN for one.
    """

    value: float
    error: float
    unit: str
    over_replicas: float = math.nan


@dataclass(frozen=True)
class NamedCurve:
    """A curve with the words of its axes; ``marks`` are x that a picture points out."""

    curve: Curve
    x_title: str
    y_title: str
    marks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Observed:
    """An observable of one trajectory, or the mean over several.

    Attributes:
        quantities: name -> number.
        curves: name -> curve; those of one observable share their axes.
        notes: sentences that a reader needs.
    """

    quantities: dict[str, Quantity] = field(default_factory=dict)
    curves: dict[str, NamedCurve] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def symbols(*numbers: int) -> str:
    return "-".join(chemical_symbols[z] for z in numbers)


def elements(trajectory: Trajectory) -> list[int]:
    return [int(z) for z in np.unique(trajectory.numbers)]


def mean_of(series: np.ndarray, unit: str) -> Quantity:
    """The mean of a series in time order, its error by blocking; 0 where only rounding varies."""
    value, error = float(np.mean(series)), float(block_error(series))
    return Quantity(value, 0.0 if error < 1e-12 * abs(value) else error, unit)
