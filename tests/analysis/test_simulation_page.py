"""A simulation as a page and as a section of a report (tests/browser opens such pages)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from fake_run import write_run

from msmlff.analysis.report import write_report
from msmlff.analysis.simulation_page import (
    Simulation,
    keep_simulation,
    thermo_panels,
    write_simulation_page,
)
from msmlff.data.formats import from_ase
from msmlff.simulation.thermo import COLUMNS, read_thermo

ABOUT = {
    "command": "msmlff simulate models=run system=start.xyz",
    "system": "start.xyz",
    "ensemble": {"kind": "NVT", "thermostat": "langevin", "thermostat_time": 100.0},
    "models": ["9f5750fd53d1e4e0"],
    "atoms": [3, 3],
    "timestep_fs": 0.5,
    "steps_done": 40,
    "time_fs": 20.0,
    "failures": ["replica 1: atoms 0 and 2 are 0.31 Å apart"],
    "summary": {"temperature_K": 301.26, "temperature_std_K": 12.0, "pressure_GPa": None},
    "ns_per_day": 1.5,
    "atom_steps_per_second": 2000.0,
    "device": "CPU",
    "backend": "cpu",
}


def thermo_file(path: Path) -> Path:
    """Two replicas without volume, the second one shorter; energies fall by 3 meV/atom a row."""
    rows = [",".join(COLUMNS)]
    for step in (0, 20, 40):
        for k in (0, 1)[: 2 if step < 40 else 1]:
            energy = -10.0 - 0.009 * step / 20
            rows.append(f"{step},{0.5 * step},{k},{300 + k},{energy},0.1,{energy + 0.1},,,,")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def simulation(tmp_path: Path) -> Simulation:
    frame = from_ase(molecule("H2O"))
    scenes = [replace(frame, info={"label": label}) for label in ("start", "failed: <replica 1>")]
    return Simulation(ABOUT, read_thermo(thermo_file(tmp_path / "thermo.csv")), scenes)


def test_panels_are_what_is_defined(simulation: Simulation) -> None:
    panels = dict(thermo_panels(simulation.thermo, [3, 3]))
    assert list(panels) == [
        "temperature (K)",
        "potential energy (meV/atom)",
        "conserved quantity (meV/atom)",
    ]
    np.testing.assert_allclose(panels["potential energy (meV/atom)"][0], [0.0, -3.0, -6.0], atol=1e-9)
    assert len(panels["temperature (K)"][1]) == 2


def test_page_shows_numbers_curves_structures_and_failures(simulation: Simulation, tmp_path: Path) -> None:
    page = write_simulation_page(simulation, tmp_path).read_text()
    assert "NVT of 2 replicas of start.xyz, 3 atoms: 40 steps of 0.5 fs, 0.02 ps." in page
    for text in ("301.3", "± 12", "failed: replica 1: atoms 0 and 2", ABOUT["command"], "thermo.csv"):
        assert str(text) in page
    assert page.count('data-plot="simulation-') == 3
    assert 'data-scene="1"' in page
    assert "<replica 1>" not in page.replace("&lt;replica 1&gt;", "")


def test_report_of_a_run_has_it_once(simulation: Simulation, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert 'id="simulation"' not in write_report(run).read_text()
    for command in ("msmlff simulate earlier", "msmlff simulate later"):
        about = {**ABOUT, "command": command}
        keep_simulation(replace(simulation, about=about), tmp_path / "thermo.csv", run)
    page = write_report(run).read_text()
    assert page.count('<section id="simulation">') == 1
    assert "simulate later" in page
    assert "simulate earlier" not in page
    (run / "simulation" / "about.json").write_text(json.dumps({"command": "x"}))
    assert "is damaged (KeyError" in write_report(run).read_text()


def test_what_is_too_large_is_not_shown(simulation: Simulation, tmp_path: Path) -> None:
    assert "3Dmol" in write_simulation_page(simulation, tmp_path).read_text()
    large = from_ase(bulk("Ni", cubic=True) * (18, 18, 18))
    assert "3Dmol" not in write_simulation_page(replace(simulation, structures=[large]), tmp_path).read_text()
