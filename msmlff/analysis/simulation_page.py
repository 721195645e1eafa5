"""What a simulation looks like: a page of its own, and a section in the report of a run."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from msmlff.analysis.figure_style import BLUE, GREEN, GREY, INK, ORANGE, FigureBlock, empty_figure, small
from msmlff.analysis.page import write_page
from msmlff.analysis.report_blocks import Section, TableBlock, Tile
from msmlff.analysis.tables import figure as number
from msmlff.analysis.viewer import Scene, ViewerBlock, can_show
from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames, write_frames
from msmlff.errors import InputError
from msmlff.simulation.thermo import read_thermo

PAGE = "simulation.html"
KEPT = "simulation"  # folder in that of a run
ABOUT, THERMO, STRUCTURES = "about.json", "thermo.csv", "structures.extxyz"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", INK)  # Okabe and Ito's
MOST_POINTS = 1500  # of a line
MOST_LINES = 20  # of a picture; the replicas beyond are left out
#: entry of the summary -> title and unit of its tile
TILES = {
    "temperature_K": ("Temperature", "K"),
    "pressure_GPa": ("Pressure", "GPa"),
    "density_g_cm3": ("Density", "g/cm³"),
    "drift_meV_per_atom_ps": ("Drift of the conserved quantity", "meV/atom/ps"),
}


@dataclass(frozen=True)
class Simulation:
    """A simulation that has ended.

    Attributes:
        about: entries of its record.json: command, system, ensemble, timestep_fs, steps_done, time_fs,
            failures, summary, ns_per_day, atom_steps_per_second, device, backend; atoms of each replica.
        thermo: of ``read_thermo``.
        structures: frames to look at, with a word in their info "label".
    """

    about: Mapping[str, Any]
    thermo: dict[int, dict[str, np.ndarray]]
    structures: Sequence[Configuration]


def thermo_panels(
    thermo: dict[int, dict[str, np.ndarray]], atoms: Sequence[int]
) -> list[tuple[str, dict[int, np.ndarray]]]:
    """Quantity with unit, and a line a replica, for each that is defined; energies per atom from their start.

    Args:
        thermo: of ``read_thermo``.
        atoms: of each replica.
    """
    each = thermo.items()
    found = [
        ("temperature (K)", {k: c["temperature_K"] for k, c in each}),
        ("potential energy (meV/atom)", {k: _change(c["potential_eV"], atoms[k]) for k, c in each}),
        ("pressure (GPa)", {k: c["pressure_GPa"] for k, c in each}),
        ("conserved quantity (meV/atom)", {k: _change(c["conserved_eV"], atoms[k]) for k, c in each}),
        ("density (g/cm³)", {k: c["density_g_cm3"] for k, c in each if np.ptp(c["volume_A3"]) > 0}),
        ("force deviation (eV/Å)", {k: c["deviation_eV_A"] for k, c in each}),
    ]
    return [(name, lines) for name, lines in found if any(np.isfinite(v).any() for v in lines.values())]


def _change(energy: np.ndarray, atoms: int) -> np.ndarray:
    """meV/atom since the start."""
    return 1e3 * (energy - energy[0]) / atoms


def write_simulation_page(simulation: Simulation, folder: Path) -> Path:
    """Write simulation.html into the folder of a simulation; returns its path."""
    section = _fill(Section("simulation", "Simulation"), simulation)
    words, section.text = f"{section.text} Averages: of its second half.", ""  # it stands above
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    files = sorted(p.relative_to(folder).as_posix() for p in found)
    return write_page(
        folder / PAGE,
        "observables.html.j2",
        [section],
        files=files[:60],
        tiles=_tiles(simulation),
        title=f"{simulation.about['ensemble']['kind']} of {Path(simulation.about['system']).name}",
        summary=words,
        command=simulation.about["command"],
    )


def keep_simulation(simulation: Simulation, thermo: Path, run: Path) -> None:
    """Put what the report of a run shows into its folder; that of an earlier simulation is replaced.

    Args:
        thermo: thermo.csv of the simulation.
        run: folder of the run.
    """
    folder = run / KEPT
    folder.mkdir(exist_ok=True)
    (folder / ABOUT).unlink(missing_ok=True)
    shutil.copyfile(thermo, folder / THERMO)
    write_frames(folder / STRUCTURES, list(simulation.structures))
    temporary = folder / f".{ABOUT}.{os.getpid()}"
    temporary.write_text(json.dumps(dict(simulation.about), indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / ABOUT)  # last: whoever finds it finds all


def simulation_section(run: Path) -> Section | None:
    """The simulation kept in a run folder as a section of its report; None where there is none."""
    folder = run / KEPT
    if not (folder / ABOUT).is_file():
        return None
    section = Section("simulation", "Simulation")
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        frames = list(read_frames(folder / STRUCTURES))
        section.lead.append(TableBlock([("command", about["command"])]))
        return _fill(section, Simulation(about, read_thermo(folder / THERMO), frames))
    except (InputError, ValueError, KeyError, TypeError) as error:
        section.missing.append(f"{folder} is damaged ({type(error).__name__}: {error}); simulate again")
        return section


def _fill(section: Section, simulation: Simulation) -> Section:
    about = simulation.about
    section.text = _words(about)
    section.missing += [f"failed: {message}" for message in about["failures"]]
    lines = dict(list(simulation.thermo.items())[:MOST_LINES])
    panels = thermo_panels(lines, about["atoms"])
    section.figures = [_figure(name, values, lines) for name, values in panels]
    if len(simulation.thermo) > MOST_LINES:
        section.text += f" {MOST_LINES} of {len(simulation.thermo)} replicas are drawn."
    section.tables.append(TableBlock(_rows(about), title="How it was made"))
    scenes = [Scene(str(f.info.get("label", "")), f) for f in simulation.structures if can_show(f)]
    if scenes:
        caption = "Drag to turn, scroll to come nearer, point at an atom for its element and number."
        section.viewers.append(ViewerBlock("simulation-structures", "Structures", caption, scenes))
    return section


def _words(about: Mapping[str, Any]) -> str:
    atoms = " to ".join(f"{n:,}" for n in sorted({min(about["atoms"]), max(about["atoms"])}))
    several = f"{len(about['atoms'])} replicas of " if len(about["atoms"]) > 1 else ""
    return (
        f"{about['ensemble']['kind']} of {several}{Path(about['system']).name}, {atoms} atoms: "
        f"{about['steps_done']:,} steps of {about['timestep_fs']:g} fs, "
        f"{1e-3 * about['time_fs']:g} ps."
    )


def _tiles(simulation: Simulation) -> list[Tile]:
    found = simulation.about.get("summary") or {}
    tiles = [
        Tile(title, number(found[key], 4), unit, f"± {number(spread)} over time" if spread else "")
        for key, (title, unit) in TILES.items()
        if found.get(key) is not None
        for spread in [found.get(key.replace("_K", "_std_K")) if key == "temperature_K" else None]
    ]
    speed = simulation.about.get("ns_per_day")
    return [*tiles, *([Tile("Speed", number(speed), "ns/day", "")] if speed else [])]


def _rows(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    ensemble = {k: v for k, v in about["ensemble"].items() if k != "kind" and v is not None}
    rows = [
        ("ensemble", ", ".join([about["ensemble"]["kind"], *(f"{k} {v}" for k, v in ensemble.items())])),
        ("model", ", ".join(h[:12] for h in about["models"]) + " (SHA-256)"),
        ("device", f"{about.get('device', '')}, backend {about.get('backend', '')}"),
    ]
    if about.get("atom_steps_per_second"):
        rows.append(("throughput", f"{number(about['atom_steps_per_second'])} atoms · steps/s"))
    if about.get("peak_memory_mb"):
        rows.append(("peak memory", f"{number(about['peak_memory_mb'])} MB"))
    return rows


def _figure(
    name: str, lines: Mapping[int, np.ndarray], thermo: Mapping[int, Mapping[str, np.ndarray]]
) -> FigureBlock:
    figure = empty_figure("time / ps", name)
    figure.update_layout(showlegend=len(lines) > 1)
    for i, (k, values) in enumerate(lines.items()):
        step = max(1, math.ceil(len(values) / MOST_POINTS))
        time = 1e-3 * thermo[k]["time_fs"]
        colour = COLOURS[i % len(COLOURS)] if len(lines) <= len(COLOURS) else GREY
        figure.add_trace(
            go.Scatter(
                x=small(time[::step]),
                y=small(values[::step]),
                mode="lines",
                name=f"replica {k}",
                line={"color": colour, "width": 1.2},
            )
        )
    title = name.split(" (")[0]
    identity = "simulation-" + title.replace(" ", "-")
    return FigureBlock(identity, title[:1].upper() + title[1:], "", figure, height=280)
