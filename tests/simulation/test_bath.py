"""A bath whose temperature a hook changes: thermostat, barostat and limits follow, and a restart keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from toys import Pairs

from msmlff.data.configuration import Configuration
from msmlff.sampling import random_packing
from msmlff.simulation import NPT, NVE, NVT, Limits, MDSettings, ModelForces, MolecularDynamics
from msmlff.simulation.ensembles import Ensemble

ENSEMBLES = [
    NVE(),
    NVT(),
    NVT(thermostat="langevin", thermostat_time=50.0),
    NVT(thermostat="nose_hoover"),
    NPT(pressure=1.0),
    NPT(thermostat="langevin", cell="full"),
]


def packing(seed: int, atoms: int = 24) -> Configuration:
    return random_packing(["H"] * atoms, 0.3, min_distance=0.9, seed=seed)


def dynamics(frames: Sequence[Configuration], ensemble: Ensemble, **settings: Any) -> MolecularDynamics:
    limits = settings.pop("limits", Limits(min_distance=0.0, max_temperature=1e6))
    hooks = settings.pop("hooks", ())
    return MolecularDynamics(
        ModelForces(Pairs()), frames, ensemble, MDSettings(limits=limits, **settings), hooks=hooks
    )


class Heater:
    """Sets the bath to a temperature at its step."""

    every, stress = 1, False

    def __init__(self, step: int, kelvin: float) -> None:
        self.step, self.kelvin = step, kelvin

    def __call__(self, md: MolecularDynamics) -> None:
        if md.step == self.step:
            bath = md.integrator.thermostat.temperature
            md.integrator.thermostat.temperature = torch.full_like(bath, self.kelvin)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_changed_bath_outlives_a_restart(ensemble: Ensemble) -> None:
    frames = [packing(1), packing(2, atoms=30)]
    whole = dynamics(frames, ensemble, seed=7, hooks=[Heater(5, 700.0)])
    whole.run(10)
    state = whole.state()
    again = dynamics(frames, ensemble, seed=7)
    again.restore(state, 10, {})
    for md in (whole, again):
        md.run(20)
    assert again.integrator.thermostat.temperature.tolist() == [700.0, 700.0]
    np.testing.assert_array_equal(whole.frames()[1].positions, again.frames()[1].positions)
    np.testing.assert_array_equal(whole.frames()[1].cell, again.frames()[1].cell)


def test_the_barostat_has_the_temperature_of_the_bath() -> None:
    """The cell after one step at 900 K is the same however the bath came to it; another at 300 K."""
    ensemble, frames = NPT(barostat_time=50.0), [packing(1), packing(2)]
    started = [dynamics(frames, ensemble, temperature=t, seed=3) for t in (900.0, 300.0, 300.0)]
    for md in started:
        md.system.velocities = torch.zeros_like(md.system.velocities)
    bath = started[1].integrator.thermostat
    bath.temperature = torch.full_like(bath.temperature, 900.0)
    for md in started:
        md.run(1)
    hot, heated, cold = (md.frames()[1].cell for md in started)
    np.testing.assert_array_equal(heated, hot)
    assert np.abs(cold - hot).max() > 1e-6
    started[1].fail(torch.tensor([True, False]), "not finite", torch.zeros(2))
    started[1].run(1)  # the one that is left has a bath of one
    assert bath.temperature.tolist() == [900.0]


def test_the_limit_of_the_temperature_follows_the_bath() -> None:
    """Atoms that their bath heats to 30 times the first temperature have not failed, nor when it cools."""
    ensemble = NVT(thermostat_time=2.0)
    hooks = [Heater(2, 3000.0), Heater(40, 100.0)]
    md = dynamics([packing(1)], ensemble, temperature=100.0, limits=Limits(0.1), hooks=hooks)
    md.run(40)
    assert md.temperatures()[0] > 1000.0
    md.run(5)
    assert md.failures == {}
    md.system.velocities = 100.0 * md.system.velocities
    md.run(1)
    assert md.failures[0].reason == "temperature"
