"""Batched Langevin dynamics against statistical mechanics and against itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.data import atomic_masses
from ase.units import fs, kB
from toys import Pairs, Toy, Trap, Undefined, Wells

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.sampling import random_packing
from msmlff.simulation import BatchedLangevin, LangevinSettings

MASS = atomic_masses[1]


def cloud(atoms: int, spread: float, seed: int = 0) -> Configuration:
    """Atoms without a cell."""
    positions = spread * np.random.default_rng(seed).normal(size=(atoms, 3))
    return Configuration(np.ones(atoms, dtype=np.int64), positions)


def packing(seed: int, density: float = 0.3, atoms: int = 24) -> Configuration:
    return random_packing(["H"] * atoms, density, min_distance=0.9, seed=seed)


@pytest.mark.parametrize("temperature", [200.0, 1000.0])
def test_harmonic_wells_reach_the_canonical_distribution(temperature: float) -> None:
    """BAOAB samples positions of a harmonic well without error in the step: <x²> = kT/k; velocities to
    O(dt²).
    """
    k, centres = 5.0, 3.0 * np.indices((10, 10, 10)).reshape(3, -1).T.astype(float)
    frame = Configuration(np.ones(1000, dtype=np.int64), centres)
    settings = LangevinSettings(0.5, temperature, friction=0.1, seed=1, min_distance=0.0, max_temperature=1e5)
    md = BatchedLangevin(Wells(k, centres), [frame], settings)
    md.run(150)
    squares, kinetic = [], []
    for _ in range(30):
        md.run(12)
        squares.append(np.mean((md.frames()[0].positions - centres) ** 2))
        kinetic.append(md.temperatures()[0])
    assert np.mean(squares) == pytest.approx(kB * temperature / k, rel=0.02)
    assert np.mean(kinetic) == pytest.approx(temperature, rel=0.02)


def test_free_atoms_diffuse_with_einsteins_coefficient() -> None:
    """Ideal gas: <dx²> = 2 D (t - (1 - exp(-g t)) / g), D = kT / (m g) (Ornstein, Uhlenbeck)."""
    friction, temperature = 0.2, 500.0
    start = cloud(3000, 100.0)
    settings = LangevinSettings(
        1.0, temperature, friction=friction, seed=3, min_distance=0.0, max_temperature=1e5
    )
    md = BatchedLangevin(Pairs(cutoff=1e-6), [start], settings)
    md.run(60)
    moved = np.mean((md.frames()[0].positions - start.positions) ** 2)
    diffusion = kB * temperature * fs**2 / (MASS * friction)
    expected = 2 * diffusion * (60.0 - (1 - np.exp(-friction * 60.0)) / friction)
    assert moved == pytest.approx(expected, rel=0.04)


def test_without_friction_the_oscillator_is_exact_and_conserves_energy() -> None:
    k, x0 = 5.0, 0.1
    frame = Configuration(np.array([1]), np.array([[x0, 0.0, 0.0]]))
    omega = np.sqrt(k / MASS) * fs  # 1/fs
    settings = LangevinSettings(0.05, 300.0, friction=0.0, min_distance=0.0, max_temperature=1e5)
    md = BatchedLangevin(Wells(k, np.zeros((1, 3))), [frame], settings, velocities=[np.zeros((1, 3))])
    for _ in range(5):
        md.run(40)
        assert md.frames()[0].positions[0, 0] == pytest.approx(x0 * np.cos(omega * md.time_fs), abs=2e-4 * x0)
        assert md.energies()[0] + md.kinetic_energies()[0] == pytest.approx(0.5 * k * x0**2, rel=1e-3)


def test_energy_is_conserved_with_a_skin_that_is_crossed() -> None:
    """NVE of interacting atoms: the error shrinks as dt², which a stale neighbour list would spoil."""
    drifts = []
    for timestep in (0.4, 0.2):
        settings = LangevinSettings(
            timestep, 600.0, friction=0.0, seed=2, skin=0.2, min_distance=0.0, max_temperature=1e5
        )
        md = BatchedLangevin(Pairs(), [packing(0)], settings)
        total = md.energies()[0] + md.kinetic_energies()[0]
        worst = 0.0
        for _ in range(25):
            md.run(round(4 / timestep))
            worst = max(worst, abs(md.energies()[0] + md.kinetic_energies()[0] - total))
        drifts.append(worst)
    assert md._edges.searches > 5
    assert drifts[0] < 0.05
    assert drifts[1] < 0.4 * drifts[0]


def test_the_skin_does_not_change_the_trajectory() -> None:
    ends = []
    for skin in (0.01, 1.0):
        settings = LangevinSettings(
            0.5, 500.0, friction=0.02, seed=5, skin=skin, min_distance=0.0, max_temperature=1e5
        )
        md = BatchedLangevin(Pairs(), [packing(1)], settings)
        md.run(60)
        ends.append((md.frames()[0].positions, md._edges.searches))
    np.testing.assert_allclose(ends[0][0], ends[1][0], atol=1e-9)
    assert ends[0][1] > ends[1][1]


def test_same_seed_same_trajectory() -> None:
    def end(seed: int) -> np.ndarray:
        md = BatchedLangevin(
            Pairs(),
            [packing(1), packing(2)],
            LangevinSettings(seed=seed, min_distance=0.0, max_temperature=1e5),
        )
        md.run(20)
        return np.concatenate([f.positions for f in md.frames().values()])

    np.testing.assert_array_equal(end(4), end(4))
    assert np.abs(end(4) - end(5)).max() > 1e-3


def test_a_replica_does_not_depend_on_its_companions() -> None:
    frames = [packing(1), packing(2, atoms=30), packing(3, density=0.5)]
    settings = LangevinSettings(seed=7, min_distance=0.0, max_temperature=1e5)
    together = BatchedLangevin(Pairs(), frames, settings)
    alone = BatchedLangevin(Pairs(), [frames[1]], settings, replica_ids=[1])
    for md in (together, alone):
        md.run(100)
    np.testing.assert_allclose(together.frames()[1].positions, alone.frames()[0].positions, atol=1e-9)


def test_a_collapsing_replica_is_reported_and_the_others_go_on() -> None:
    good, bad = packing(1), packing(2)
    bad.positions[1] = bad.positions[0] + [0.75, 0.0, 0.0]
    settings = LangevinSettings(0.5, 5.0, seed=1, min_distance=0.3, max_temperature=1e9)

    md = BatchedLangevin(Trap(), [good, bad, good], settings, replica_ids=[0, 1, 2])
    reference = BatchedLangevin(Trap(), [good, good], settings, replica_ids=[0, 2])
    for run in (md, reference):
        run.run(70)
    assert md.alive == [0, 2]
    failure = md.failures[1]
    assert failure.reason == "pair distance"
    assert failure.value < 0.3
    assert 0 < failure.step < 70
    assert failure.time_fs == failure.step * 0.5
    assert sorted(md.frames()) == [0, 2]
    np.testing.assert_allclose(md.frames()[2].positions, reference.frames()[1].positions, atol=1e-9)
    assert not reference.failures


def test_undefined_forces_and_heat_are_failures() -> None:
    settings = LangevinSettings(0.5, 300.0, seed=1, min_distance=0.0, max_temperature=1e5)
    wide = replace(packing(2), cell=np.eye(3) * 9.5)
    md = BatchedLangevin(Undefined(), [packing(1), wide], settings)
    assert md.failures[1].reason == "not finite"
    assert md.failures[1].step == 0
    hot = LangevinSettings(0.5, 300.0, seed=1, min_distance=0.0, max_temperature=310.0)
    crowd = replace(packing(2), positions=0.5 * packing(2).positions)
    md = BatchedLangevin(Pairs(), [crowd], hot)
    md.run(50)
    assert md.failures[0].reason == "temperature"
    assert md.failures[0].value > 310.0
    assert md.alive == []
    assert md.frames() == {}
    step = md.step
    md.run(5)
    assert md.step == step


def test_equilibrium_of_few_atoms_is_no_failure() -> None:
    """Single free atoms, newly drawn: the hottest of so many is far above five times the temperature."""
    atom = Configuration(np.array([1]), np.zeros((1, 3)))
    atoms = [atom] * 20000
    settings = LangevinSettings(temperature=300.0, min_distance=0.0)
    md = BatchedLangevin(Wells(1.0, atom.positions), atoms, settings)
    assert max(md.temperatures().values()) > 5.5 * 300.0
    assert md.failures == {}
    assert settings.temperature_limit(1) < 30 * 300.0
    assert settings.temperature_limit(100) == 5 * 300.0
    hot = BatchedLangevin(
        Wells(1.0, atom.positions), [atom], settings, velocities=[np.full((1, 3), 0.2)], replica_ids=[0]
    )
    assert hot.failures[0].reason == "temperature"


def test_the_start_is_left_as_it_was() -> None:
    frame = packing(1)
    before = frame.positions.copy()
    md = BatchedLangevin(Pairs(), [frame], LangevinSettings(min_distance=0.0, max_temperature=1e5))
    md.run(5)
    np.testing.assert_array_equal(frame.positions, before)
    assert np.isnan(md.frames()[0].energy)


def test_bad_input_is_named() -> None:
    def start(model: ForceField, frames: list[Configuration]) -> None:
        BatchedLangevin(model, frames, LangevinSettings(min_distance=0.0, max_temperature=1e5))

    with pytest.raises(InputError, match="at least one"):
        start(Toy(), [])
    with pytest.raises(InputError, match=r"\[2\]"):
        start(Pairs(), [Configuration(np.array([2]), np.zeros((1, 3)))])
    with pytest.raises(InputError, match="timestep_fs"):
        LangevinSettings(timestep_fs=0.0)
    with pytest.raises(InputError, match="friction"):
        LangevinSettings(friction=-1.0)
    with pytest.raises(InputError, match="replica_ids"):
        BatchedLangevin(Pairs(), [packing(1)], LangevinSettings(), replica_ids=[1, 2])
