"""Limits of the cell: a replica whose volume leaves them stops, the others go on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import CellEnergy, LennardJones, fcc

from msmlff.data.configuration import Configuration
from msmlff.simulation import NPT, NVE, Limits, MDSettings, ModelForces, MolecularDynamics

WIDE = {"min_distance": 0.0, "max_temperature": 1e9}


def crystal(ensemble: NPT, **limits: Any) -> MolecularDynamics:
    settings = MDSettings(1.0, 100.0, seed=1, limits=Limits(**WIDE, **limits))
    return MolecularDynamics(ModelForces(LennardJones()), [fcc()], ensemble, settings)


@pytest.mark.parametrize("cell", ["isotropic", "axes", "full"])
@pytest.mark.parametrize(("pressure", "factor"), [(-6.0, 4.0), (-6.0, 1.5), (60.0, 1.3)])
def test_a_volume_beyond_its_limit_is_a_failure(cell: str, pressure: float, factor: float) -> None:
    ensemble = NPT(pressure=pressure, cell=cell, barostat_time=20.0)
    md = crystal(ensemble, volume=factor)
    md.run(300)
    failure = md.failures[0]
    assert failure.reason == "volume"
    share = failure.frame.volume / fcc().volume
    assert failure.value == pytest.approx(share)
    assert factor < max(share, 1.0 / share) < 1.5 * factor
    assert (share > 1.0) == (pressure < 0)
    assert f"volume {share:.4g} times that at the start" in failure.message()
    assert failure.atoms == ()
    before = crystal(ensemble, volume=None)
    before.run(failure.step - 1)
    share = before.frames()[0].volume / fcc().volume
    assert 1.0 / factor < share < factor
    before.run(5)
    assert before.failures == {}


def test_the_others_go_on() -> None:
    """A cube that grows without end beside a long cell that is held; what is left moves as if alone."""

    def energy(cell: torch.Tensor) -> torch.Tensor:
        volume = torch.linalg.det(cell)
        cube = cell[:, 2, 2] < 1.2 * cell[:, 0, 0]
        return torch.where(cube, -0.1 * volume, 20.0 * (volume / 1500.0 - 1.0) ** 2)

    def gas(length: float) -> Configuration:
        positions = np.random.default_rng(0).uniform(0.0, 10.0, (8, 3))
        cell = np.diag([10.0, 10.0, length])
        return Configuration(np.ones(8, dtype=np.int64), positions, cell, np.ones(3, dtype=bool))

    def run(frames: list[Configuration], ids: list[int]) -> MolecularDynamics:
        settings = MDSettings(1.0, 300.0, seed=1, limits=Limits(**WIDE))
        md = MolecularDynamics(CellEnergy(energy), frames, NPT(barostat_time=50.0), settings, replica_ids=ids)
        md.run(200)
        return md

    both, alone = run([gas(10.0), gas(15.0)], [0, 1]), run([gas(15.0)], [1])
    assert both.failures[0].reason == "volume"
    assert both.failures[0].value == pytest.approx(4.0, abs=0.5)
    assert both.alive == [1]
    np.testing.assert_allclose(both.frames()[1].cell, alone.frames()[0].cell, atol=1e-10)
    np.testing.assert_allclose(both.frames()[1].positions, alone.frames()[0].positions, atol=1e-10)


@pytest.mark.parametrize("limit", [4.0, None])
@pytest.mark.parametrize(
    "keys",
    [
        {"pressure": 1e9},
        {"pressure": 1e9, "cell": "full"},
        {"pressure": -1e9},
        {"pressure": 1e5},
        {"compressibility": 1e300},
    ],
)
def test_a_cell_that_goes_in_one_step_is_a_failure_and_no_search(
    keys: dict[str, Any], limit: float | None
) -> None:
    """Volumes of nothing, of infinity and with millions of neighbours: reported, not searched."""
    md = crystal(NPT(**keys), volume=limit)
    md.run(3)
    assert md.failures[0].reason in ("volume", "not finite")
    assert md.failures[0].step == 1
    assert md.edges.searches == 1
    assert md.alive == []


def test_a_cell_that_stays_is_not_judged() -> None:
    """At constant energy no volume changes; a slow compression is searched as it goes."""
    settings = MDSettings(1.0, 100.0, limits=Limits(**WIDE, volume=1.0 + 1e-12))
    md = MolecularDynamics(ModelForces(LennardJones()), [fcc()], NVE(), settings)
    md.run(3)
    assert md.failures == {}
    slow = crystal(NPT(pressure=60.0, barostat_time=50.0), volume=None)
    slow.run(150)
    assert slow.frames()[0].volume < 0.75 * fcc().volume
    assert slow.edges.searches >= 3
    assert slow.failures == {}
