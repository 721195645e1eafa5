"""Temperature, pressure and energies of each replica: rows of a table, kept and written as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from ase.units import GPa

from msmlff.errors import InputError
from msmlff.simulation.engine import MolecularDynamics

AMU_PER_A3_IN_G_PER_CM3 = 1.66053906660


@dataclass(frozen=True)
class ThermoRow:
    """A replica at a step; NaN where a quantity is not defined (pressure without volume).

    Attributes:
        step, time_fs, replica: when and which.
        temperature_K: kinetic.
        potential_eV, kinetic_eV: of all atoms.
        conserved_eV: their sum less what thermostat and barostat gave.
        pressure_GPa: a third of the trace of the pressure tensor.
        volume_A3, density_g_cm3: of the cell.
        deviation_eV_A: largest force deviation of a committee on an atom.
    """

    step: int
    time_fs: float
    replica: int
    temperature_K: float  # noqa: N815  (names of columns, with units)
    potential_eV: float  # noqa: N815
    kinetic_eV: float  # noqa: N815
    conserved_eV: float  # noqa: N815
    pressure_GPa: float  # noqa: N815
    volume_A3: float  # noqa: N815
    density_g_cm3: float
    deviation_eV_A: float  # noqa: N815


COLUMNS = tuple(f.name for f in fields(ThermoRow))


def thermo_rows(md: MolecularDynamics) -> list[ThermoRow]:
    """The living replicas, now. Pressures are NaN where the evaluation came without stresses."""
    system, e = md.system, md.evaluation
    volume = system.volume
    mass = system.total(system.masses)[:, 0]
    pressure = volume * float("nan")
    if e.stress is not None:
        tensor = system.pressure_tensor(e.stress)
        pressure = tensor.diagonal(dim1=1, dim2=2).mean(dim=1) / GPa
    deviation = volume * float("nan")
    if e.deviation is not None:
        deviation = volume.new_zeros(len(system)).scatter_reduce(0, system.frame, e.deviation, "amax")
    columns = [system.temperature(), e.energy, system.kinetic_energy(), md.integrator.conserved(system, e),
               pressure, volume, mass / volume * AMU_PER_A3_IN_G_PER_CM3, deviation]  # fmt: skip
    values = [column.tolist() for column in columns]
    return [
        ThermoRow(md.step, md.time_fs, k, *(column[row] for column in values))
        for row, k in enumerate(md.alive)
    ]


def csv_text(rows: Sequence[ThermoRow], header: bool) -> str:
    """Lines of CSV; numbers that are not defined are left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    for row in rows:
        cells = [v if isinstance(v, int) else "" if np.isnan(v) else f"{v:.10g}" for v in astuple(row)]
        writer.writerow(cells)
    return text.getvalue()


def read_thermo(path: Path) -> dict[int, dict[str, np.ndarray]]:
    """The columns of thermo.csv for each replica; a last line that was not written to its end does not count.

    Raises:
        InputError: no such file, other columns, or a line that does not hold a number for each.
    """
    if not path.is_file():
        raise InputError(f"there is no {path}: give the folder of a simulation")
    text = path.read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise InputError(f"{path}: its first line is not that of a thermo.csv")
    numbers = []
    for line, row in enumerate(rows[1:], 2):
        try:
            numbers.append([float(cell or "nan") for cell in row])
        except ValueError as error:
            raise InputError(f"{path}:{line}: {error}") from None
        if len(row) != len(COLUMNS):
            raise InputError(f"{path}:{line} has {len(row)} columns in place of {len(COLUMNS)}")
    table = np.array(numbers).reshape(-1, len(COLUMNS))
    replicas = np.unique(table[:, COLUMNS.index("replica")]).astype(int)
    return {
        int(k): dict(zip(COLUMNS, table[table[:, COLUMNS.index("replica")] == k].T, strict=True))
        for k in replicas
    }
