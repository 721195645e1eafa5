"""What is seen of a running simulation: a bar, a row of T, P and E now and then, the speed; and its end."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from msmlff.analysis.tables import step_bar
from msmlff.app.runtime import shown_path
from msmlff.simulation.engine import MolecularDynamics
from msmlff.simulation.output import Output
from msmlff.simulation.thermo import ThermoRow

ROWS = 20  # of the table, over the whole run
_ROW = "{:>9} {:>8} {:>8} {:>8} {:>11} {:>9} {:>5} {:>8}"
HEADER = _ROW.format("step", "time", "T", "P", "E pot", "drift", "alive", "speed")
UNITS = _ROW.format("", "ps", "K", "GPa", "eV/atom", "meV/atom", "", "ns/day")


class RunProgress:
    """A hook that shows the run; called after every step.

    Attributes:
        seconds: since the start of this process's part of the run.
        steps_done: in that time.
        atom_steps: atoms times steps, in that time.

    Args:
        console: where.
        output: whose rows are shown.
        steps: of the whole run.
        origin: eV, the conserved quantity at the start of each replica.
    """

    every, stress = 1, False

    def __init__(self, console: Console, output: Output, steps: int, origin: dict[int, float]) -> None:
        self.console, self.output, self.steps, self.origin = console, output, steps, origin
        thermo = output.spec.thermo_every
        self.row_every = thermo * max(1, math.ceil(steps / ROWS / thermo))
        self.seconds, self.steps_done, self.atom_steps = 0.0, 0, 0
        self._bar: Progress | None = None
        self._task: Any = None

    def start(self, step: int) -> None:
        """Show the header, and the bar where the console is a terminal."""
        self._begin = time.perf_counter()
        self.console.print(HEADER, style="bold", highlight=False, soft_wrap=True)
        self.console.print(UNITS, style="dim", highlight=False, soft_wrap=True)
        if self.console.is_terminal:
            self._bar = step_bar(self.console)
            self._task = self._bar.add_task("simulating", total=self.steps, completed=step, rate="")
            self._bar.start()

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, md: MolecularDynamics) -> None:
        self.seconds = time.perf_counter() - self._begin
        self.steps_done += 1
        self.atom_steps += len(md.system.positions)
        if self._bar is not None:
            rate = f"{self.ns_per_day(md):.3g} ns/day · {self.atom_steps_per_second:,.0f} atoms·steps/s"
            self._bar.update(self._task, completed=md.step, rate=rate)
        if md.step % self.row_every == 0:
            self.print_row(md)

    @property
    def atom_steps_per_second(self) -> float:
        return self.atom_steps / self.seconds if self.seconds > 0 else 0.0

    def ns_per_day(self, md: MolecularDynamics) -> float:
        """Of each replica."""
        done = self.steps_done * md.settings.timestep_fs
        return 1e-6 * done * 86400.0 / self.seconds if self.seconds > 0 else 0.0

    def print_row(self, md: MolecularDynamics) -> None:
        """The mean over the living replicas of the last row of thermo.csv."""
        rows = self.output.latest
        atoms = {int(k): len(f) for k, f in zip(md.system.index, md.system.frames, strict=True)}
        rows = [row for row in rows if row.replica in atoms]
        if not rows:
            return
        drift = [1e3 * (r.conserved_eV - self.origin[r.replica]) / atoms[r.replica] for r in rows]
        energy = [r.potential_eV / atoms[r.replica] for r in rows]
        pressure = _mean([r.pressure_GPa for r in rows])
        speed = self.ns_per_day(md) if self.steps_done else math.nan
        text = _ROW.format(
            md.step, f"{1e-3 * md.time_fs:.4g}", f"{_mean([r.temperature_K for r in rows]):.1f}",
            _shown(pressure, 3), f"{_mean(energy):.5f}", f"{_mean(drift):.3f}", len(rows), _shown(speed, 3),
        )  # fmt: skip
        (self._bar.console if self._bar is not None else self.console).print(
            text, highlight=False, soft_wrap=True
        )


def origins(rows: Sequence[ThermoRow]) -> dict[int, float]:
    """eV, the conserved quantity of each replica in these rows."""
    return {row.replica: row.conserved_eV for row in rows}


def summary(thermo: dict[int, dict[str, np.ndarray]], atoms: Sequence[int]) -> dict[str, Any]:
    """Means over the second half of a run, over all replicas, and the drift of the conserved quantity.

    Args:
        thermo: of ``read_thermo``.
        atoms: of each replica.

    Returns:
        {"temperature_K", "temperature_std_K", "pressure_GPa", "density_g_cm3", "potential_eV_per_atom",
        "drift_meV_per_atom_ps"}: null where not defined. The drift is the slope of a straight line through
        the conserved quantity of the whole run, the mean over replicas.
    """
    halves = {k: {n: v[len(v) // 2 :] for n, v in columns.items()} for k, columns in thermo.items()}
    temperatures = np.concatenate([h["temperature_K"] for h in halves.values()])
    found: dict[str, float] = {
        "temperature_K": float(temperatures.mean()),
        "temperature_std_K": float(temperatures.std()),
        "pressure_GPa": _mean([v for h in halves.values() for v in h["pressure_GPa"]]),
        "density_g_cm3": _mean([v for h in halves.values() for v in h["density_g_cm3"]]),
        "potential_eV_per_atom": _mean([v / atoms[k] for k, h in halves.items() for v in h["potential_eV"]]),
        "drift_meV_per_atom_ps": _mean([_slope(c, atoms[k]) for k, c in thermo.items()]),
    }
    return {name: round(v, 6) if math.isfinite(v) else None for name, v in found.items()}


def show_summary(found: dict[str, Any], speed: dict[str, Any], console: Console, ramp: bool = False) -> None:
    """The averages and the speed as a small table; with ``ramp`` it says that the averages are of one."""
    half = "second half, of a ramp" if ramp else "second half"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    spread = found["temperature_std_K"]
    table.add_row("  temperature", f"{found['temperature_K']:.1f} ± {spread:.1f} K ({half})")
    for name, key, unit in (("pressure", "pressure_GPa", "GPa"), ("density", "density_g_cm3", "g/cm³")):
        if found[key] is not None:
            table.add_row(f"  {name}", f"{found[key]:.4g} {unit} ({half})")
    if found["drift_meV_per_atom_ps"] is not None:
        table.add_row(
            "  drift", f"{found['drift_meV_per_atom_ps']:.3g} meV/atom/ps of the conserved quantity"
        )
    table.add_row(
        "  speed", f"{speed['ns_per_day']:.3g} ns/day, {speed['atom_steps_per_second']:,.0f} atoms·steps/s"
    )
    console.print(table)


def show_files(folder: Path, names: Sequence[str], console: Console) -> None:
    """Where the files are that there are."""
    for name in names:
        if (folder / name).exists():
            console.print(f"  {escape(str(shown_path(folder / name)))}", highlight=False, soft_wrap=True)


def _slope(columns: dict[str, np.ndarray], atoms: int) -> float:
    """meV/atom/ps of the conserved quantity."""
    time_ps, conserved = 1e-3 * columns["time_fs"], columns["conserved_eV"]
    if len(time_ps) < 3 or not np.isfinite(conserved).all():
        return math.nan
    return float(1e3 * np.polyfit(time_ps, conserved - conserved[0], 1)[0] / atoms)


def _mean(values: Sequence[float]) -> float:
    """Of what is defined; NaN where nothing is."""
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else math.nan


def _shown(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}g}"
