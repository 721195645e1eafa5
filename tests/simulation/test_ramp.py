"""Temperatures and pressures that change in the course of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.units import GPa
from toys import LennardJones, Wells, fcc

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.simulation import NPT, NVE, NVT, Limits, MDSettings, ModelForces, MolecularDynamics
from msmlff.simulation.ensembles import Ensemble
from msmlff.simulation.restart import load_restart, save_restart
from msmlff.simulation.thermo import thermo_rows

ANYTHING = Limits(min_distance=0.0, max_temperature=1e6)


def dynamics(ensemble: Ensemble, replicas: int = 2, **settings: Any) -> MolecularDynamics:
    """Of Lennard-Jones crystals."""
    chosen = MDSettings(**{"timestep_fs": 2.0, "limits": ANYTHING, **settings})
    frames = [fcc(seed=k) for k in range(replicas)]
    return MolecularDynamics(ModelForces(LennardJones()), frames, ensemble, chosen)


def bath(md: MolecularDynamics) -> list[float]:
    return md.integrator.thermostat.temperature.tolist()


class Kinetic:
    """A hook that keeps the mean kinetic temperature and the bath's of every step."""

    every, stress = 1, False

    def __init__(self) -> None:
        self.found: list[tuple[float, float]] = []

    def __call__(self, md: MolecularDynamics) -> None:
        self.found.append((md.system.temperature().mean().item(), bath(md)[0]))


@pytest.mark.parametrize("thermostat", ["csvr", "langevin", "nose_hoover"])
def test_atoms_follow_the_bath(thermostat: str) -> None:
    """Cooled from 800 to 280 K in 1 ps, behind it by no more than the thermostat's time."""
    centres = 6.0 * np.indices((4, 4, 4)).reshape(3, -1).T
    ensemble = NVT(thermostat=thermostat, thermostat_time=20.0)
    settings = MDSettings(
        2.0, 800.0, temperature_end=280.0, ramp_steps=500, limits=ANYTHING, remove_drift=False
    )
    still = Configuration(
        np.ones(len(centres), dtype=np.int64), centres, np.zeros((3, 3)), np.zeros(3, dtype=bool)
    )
    md = MolecularDynamics(ModelForces(Wells(2.0, centres)), [still] * 4, ensemble, settings)
    watch = Kinetic()
    md.hooks.append(watch)
    md.run(600)
    kinetic, given = np.array(watch.found).T
    assert given[[0, 249, 499, 599]] == pytest.approx([798.96, 540.0, 280.0, 280.0])
    assert np.ptp(np.diff(given[:500])) < 1e-9
    for part in (slice(150, 250), slice(350, 450), slice(530, 600)):
        assert kinetic[part].mean() == pytest.approx(given[part].mean(), abs=40.0)


@pytest.mark.parametrize(
    "ensemble",
    [
        NVT(thermostat="csvr", thermostat_time=20.0),
        NVT(thermostat="langevin", thermostat_time=20.0),
        NVT(thermostat="nose_hoover", thermostat_time=20.0),
        NPT(thermostat_time=20.0, barostat_time=100.0, pressure=0.0, pressure_end=8.0),
        NPT(
            thermostat="nose_hoover", thermostat_time=20.0, barostat_time=100.0, pressure_end=8.0, cell="full"
        ),
    ],
)
def test_a_ramp_is_no_drift(ensemble: NVT) -> None:
    """Heat of a bath from 50 to 400 K and work of 8 GPa go into the crystal; the conserved quantity stays."""
    md = dynamics(ensemble, temperature=50.0, temperature_end=400.0, ramp_steps=300)
    energy = [sum(md.energies()[k] + md.kinetic_energies()[k] for k in md.alive)]
    kept = [sum(md.conserved().values())]
    for _ in range(20):
        md.run(20)
        energy.append(sum(md.energies()[k] + md.kinetic_energies()[k] for k in md.alive))
        kept.append(sum(md.conserved().values()))
    assert bath(md) == [400.0, 400.0]
    assert energy[-1] - energy[0] > 2.0
    assert np.ptp(kept) < 0.05 * (energy[-1] - energy[0])


def test_the_pressure_goes_where_it_is_sent() -> None:
    ensemble = NPT(
        thermostat_time=50.0, pressure=0.0, pressure_end=5.0, barostat_time=150.0, compressibility=0.02
    )
    md = dynamics(ensemble, 6, timestep_fs=4.0, temperature=150.0, ramp_steps=200)
    md.run(100)
    half = md.integrator.barostat.pressure / GPa  # type: ignore[attr-defined]
    middle = md.system.volume.mean().item()
    md.run(140)
    found = []
    for _ in range(15):
        md.run(10)
        md.evaluation = md._evaluate(stress=True)
        found.append(np.mean([row.pressure_GPa for row in thermo_rows(md)]))
    assert half == pytest.approx(2.5)
    assert np.mean(found) == pytest.approx(5.0, abs=0.8)
    assert md.system.volume.mean().item() < 0.99 * middle < 0.99 * 0.995 * (2 * 3.17) ** 3


@pytest.mark.parametrize("at", [13, 40])
def test_it_goes_on_bit_for_bit(tmp_path: Path, at: int) -> None:
    """Saved in the ramp and after its end; each replica on a ramp of its own."""
    ensemble = NPT(thermostat="nose_hoover", pressure=1.0, pressure_end=6.0, barostat_time=50.0)
    ramp = {"temperature": [100.0, 300.0], "temperature_end": [250.0, 50.0], "ramp_steps": 30, "seed": 4}
    whole = dynamics(ensemble, **ramp)
    whole.run(60)
    first = dynamics(ensemble, **ramp)
    first.run(at)
    save_restart(tmp_path / "restart.safetensors", first, first.system.frames, {})
    kept = load_restart(tmp_path / "restart.safetensors")
    again = dynamics(ensemble, **ramp)
    again.restore(kept.state, kept.step, kept.failures)
    again.run(60 - at)
    for name, value in whole.state().items():
        assert torch.equal(value, again.state()[name]), name
    assert whole.conserved() == again.conserved()
    assert bath(again) == [250.0, 50.0]


def test_a_failed_replica_takes_its_ramp_along() -> None:
    md = dynamics(NVT(), 3, temperature=[100.0, 200.0, 300.0], temperature_end=[0.0, 400.0, 300.0],
                  ramp_steps=10)  # fmt: skip
    md.run(5)
    assert bath(md) == [50.0, 300.0, 300.0]
    md.fail(torch.tensor([True, False, False]), "not finite", torch.zeros(3))
    md.run(3)
    assert bath(md) == pytest.approx([360.0, 300.0])
    md.run(4)
    assert bath(md) == [400.0, 300.0]
    md.integrator.thermostat.temperature = torch.tensor([500.0, 600.0], dtype=torch.float64)
    md.run(1)  # the ramp has ended: what a hook sets stays
    assert bath(md) == [500.0, 600.0]


def test_one_end_alone_leaves_the_other_as_it_is() -> None:
    md = dynamics(NPT(pressure=1.0, pressure_end=2.0), temperature=150.0, ramp_steps=4)
    md.run(6)
    assert bath(md) == [150.0, 150.0]
    assert md.integrator.barostat.pressure == pytest.approx(2.0 * GPa)  # type: ignore[attr-defined]
    md = dynamics(NPT(pressure=1.0), temperature=150.0, temperature_end=100.0, ramp_steps=4)
    md.run(6)
    assert bath(md) == [100.0, 100.0]
    assert md.integrator.barostat.pressure == 1.0 * GPa  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("ensemble", "settings", "message"),
    [
        (NVE(), {"temperature_end": 100.0, "ramp_steps": 5}, "constant energy has no bath"),
        (NVT(), {"temperature_end": 100.0}, r"ramp_steps=None: write in how many steps"),
        (NPT(pressure_end=1.0), {"ramp_steps": 0}, r"ramp_steps=0: write in how many steps"),
        (NVT(), {"temperature_end": -1.0, "ramp_steps": 5}, r"temperature_end=-1.0: write K, not below 0"),
        (
            NVT(),
            {"temperature_end": [1.0, 2.0, 3.0], "ramp_steps": 5},
            "temperature_end has 3 values for 2 replicas",
        ),
        (
            NVT(thermostat="nose_hoover"),
            {"temperature_end": 0.0, "ramp_steps": 5},
            "nose_hoover needs K above 0",
        ),
    ],
)
def test_bad_input_is_explained(ensemble: Ensemble, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dynamics(ensemble, **settings)
