"""What is drawn at the end of a simulation: thermo.png, simulation.html, and the report of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.analysis.report import write_report
from msmlff.analysis.simulation_page import Simulation, keep_simulation, write_simulation_page
from msmlff.analysis.viewer import can_show
from msmlff.app.simulate_figure import save_thermo_figure
from msmlff.app.simulate_folder import PICTURE
from msmlff.app.simulate_setup import Setup
from msmlff.data.configuration import Configuration
from msmlff.simulation import MolecularDynamics
from msmlff.simulation.output import THERMO

MOST_FAILED = 4  # frames of failed replicas that are shown


def save_pictures(
    md: MolecularDynamics,
    setup: Setup,
    folder: Path,
    thermo: dict[int, dict[str, np.ndarray]],
    record: Mapping[str, Any],
    title: str,
) -> None:
    """Write thermo.png and simulation.html; with ``report_run`` a section of the report.html of that run.

    Args:
        folder: of the simulation.
        thermo: of ``read_thermo``.
        record: content of its record.json.
        title: of thermo.png.
    """
    atoms = [len(frame) for frame in setup.starts]
    save_thermo_figure(thermo, atoms, setup.spec.bath(), folder / PICTURE, title)
    simulation = Simulation({**record, "atoms": atoms}, thermo, structures(md, setup))
    write_simulation_page(simulation, folder)
    if setup.spec.report_run is not None:
        run = Path(setup.spec.report_run)
        keep_simulation(simulation, folder / THERMO, run)
        write_report(run)


def structures(md: MolecularDynamics, setup: Setup) -> list[Configuration]:
    """Start and end of the first replica that came to its end, and the frames that failed."""
    found = []
    several = len(setup.starts) > 1
    for k, frame in list(md.frames().items())[:1]:
        who = f", replica {k}" if several else ""
        found += [_named(setup.starts[k], f"start{who}"), _named(frame, f"end{who}")]
    for k, failure in list(md.failures.items())[:MOST_FAILED]:
        who = f"replica {k} " if several else ""
        found.append(_named(failure.frame, f"{who}failed at {failure.time_fs:g} fs: {failure.reason}"))
    return [frame for frame in found if can_show(frame)]


def _named(frame: Configuration, label: str) -> Configuration:
    return replace(frame, info={"label": label})
