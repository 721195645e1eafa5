"""The engine against mechanics, against ASE and against itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import units
from ase.data import atomic_masses
from ase.md.verlet import VelocityVerlet
from ase.units import fs, kB
from toys import LennardJones, Pairs, Toy, Trap, Undefined, Wells, fcc

from msmlff.data.batch import Batch
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.models import MACE, MACEArchitecture
from msmlff.models.base import ForceField
from msmlff.sampling import random_packing
from msmlff.simulation import (
    NPT,
    NVE,
    NVT,
    Biased,
    Committee,
    Evaluation,
    Limits,
    MDSettings,
    ModelForces,
    MolecularDynamics,
    MSMLFFCalculator,
)
from msmlff.simulation.ensembles import Ensemble

MASS = atomic_masses[1]
ANYTHING = Limits(min_distance=0.0, max_temperature=1e6)
CHAIN = NVT(thermostat="nose_hoover")
LANGEVIN = NVT(thermostat="langevin", thermostat_time=50.0)


def cloud(atoms: int, spread: float, seed: int = 0) -> Configuration:
    """Atoms without a cell."""
    positions = spread * np.random.default_rng(seed).normal(size=(atoms, 3))
    return Configuration(np.ones(atoms, dtype=np.int64), positions)


def packing(seed: int, density: float = 0.3, atoms: int = 24) -> Configuration:
    return random_packing(["H"] * atoms, density, min_distance=0.9, seed=seed)


def tilted() -> Configuration:
    frame = packing(1)
    return replace(frame, cell=frame.cell + np.diag([0.1, 0.0], 1))


def dynamics(
    model: ForceField, frames: Sequence[Configuration], ensemble: Ensemble, **settings: Any
) -> MolecularDynamics:
    """A simulation of a model without limits unless they are given."""
    extra = {k: settings.pop(k) for k in ("velocities", "replica_ids", "hooks") if k in settings}
    return MolecularDynamics(
        ModelForces(model), frames, ensemble, MDSettings(**{"limits": ANYTHING, **settings}), **extra
    )


def test_the_oscillator_is_exact_and_conserves_energy() -> None:
    k, x0 = 5.0, 0.1
    frame = Configuration(np.array([1]), np.array([[x0, 0.0, 0.0]]))
    omega = np.sqrt(k / MASS) * fs  # 1/fs
    md = dynamics(
        Wells(k, np.zeros((1, 3))), [frame], NVE(), timestep_fs=0.05, remove_drift=False,
        velocities=[np.zeros((1, 3))],
    )  # fmt: skip
    for _ in range(5):
        md.run(40)
        assert md.frames()[0].positions[0, 0] == pytest.approx(x0 * np.cos(omega * md.time_fs), abs=2e-4 * x0)
        assert md.conserved()[0] == pytest.approx(0.5 * k * x0**2, rel=1e-3)


def test_verlet_follows_its_own_exact_solution() -> None:
    """Discrete: x_n = x0 cos(n W), W = 2 asin(omega dt / 2), for any step below the limit of stability."""
    k, x0, dt = 5.0, 0.1, 2.0
    frame = Configuration(np.array([1]), np.array([[x0, 0.0, 0.0]]))
    md = dynamics(
        Wells(k, np.zeros((1, 3))), [frame], NVE(), timestep_fs=dt, remove_drift=False,
        velocities=[np.zeros((1, 3))],
    )  # fmt: skip
    angle = 2 * np.arcsin(0.5 * np.sqrt(k / MASS) * fs * dt)
    for _ in range(50):
        md.run(1)
        assert md.frames()[0].positions[0, 0] == pytest.approx(x0 * np.cos(md.step * angle), abs=1e-12)


def test_the_error_of_the_energy_shrinks_as_the_square_of_the_step() -> None:
    """NVE of interacting atoms with a skin that is crossed; a stale neighbour list would spoil it."""
    worst = []
    for timestep in (0.4, 0.2):
        md = dynamics(Pairs(), [packing(0)], NVE(), timestep_fs=timestep, temperature=600.0, seed=2, skin=0.2)
        total, most = md.conserved()[0], 0.0
        for _ in range(25):
            md.run(round(4 / timestep))
            most = max(most, abs(md.conserved()[0] - total))
        worst.append(most)
    assert md.edges.searches > 5
    assert worst[0] < 0.05
    assert 0.15 < worst[1] / worst[0] < 0.4


def test_the_same_path_as_ase_takes() -> None:
    """Velocity Verlet of ASE with the same model; momenta, positions and energies to 1e-10."""
    torch.manual_seed(0)
    model = MACE(
        [1, 8], [-1.0, -2.0], MACEArchitecture(cutoff=2.5, channels=4, l_max=2, correlation=2)
    ).double()
    frame = random_packing(["H"] * 8 + ["O"] * 4, 1.2, min_distance=1.0, seed=1)
    md = dynamics(model, [frame], NVE(), timestep_fs=0.5, temperature=500.0)
    atoms = frame.to_ase()
    atoms.calc = MSMLFFCalculator(model)
    atoms.set_velocities(md.velocities()[0] / units.fs)
    peer = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    for _ in range(4):
        md.run(15)
        peer.run(15)
        np.testing.assert_allclose(md.frames()[0].positions, atoms.positions, rtol=0, atol=1e-10)
        np.testing.assert_allclose(md.velocities()[0] / units.fs, atoms.get_velocities(), rtol=0, atol=1e-10)
        assert md.energies()[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        assert md.kinetic_energies()[0] == pytest.approx(atoms.get_kinetic_energy(), abs=1e-10)


@pytest.mark.parametrize("ensemble", [NVE(), NPT(cell="full", barostat_time=50.0, pressure=2.0)])
def test_the_skin_does_not_change_the_trajectory(ensemble: Ensemble) -> None:
    ends = []
    for skin in (0.01, 1.0):
        md = dynamics(LennardJones(), [fcc()], ensemble, temperature=100.0, seed=5, skin=skin)
        md.run(60)
        ends.append((md.frames()[0].positions, md.edges.searches))
    np.testing.assert_allclose(ends[0][0], ends[1][0], atol=1e-9)
    assert ends[0][1] > ends[1][1]


def test_same_seed_same_trajectory() -> None:
    def end(seed: int) -> np.ndarray:
        md = dynamics(Pairs(), [packing(1), packing(2)], LANGEVIN, seed=seed)
        md.run(20)
        return np.concatenate([f.positions for f in md.frames().values()])

    np.testing.assert_array_equal(end(4), end(4))
    assert np.abs(end(4) - end(5)).max() > 1e-3


ENSEMBLES = [
    NVE(),
    NVT(),
    LANGEVIN,
    NVT(thermostat="nose_hoover"),
    NPT(pressure=1.0),
    NPT(thermostat="langevin", cell="full"),
]


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_replica_does_not_depend_on_its_companions(ensemble: Ensemble) -> None:
    frames = [packing(1), packing(2, atoms=30), packing(3, density=0.5)]
    together = dynamics(Pairs(), frames, ensemble, seed=7, temperature=[300.0, 500.0, 400.0])
    alone = dynamics(Pairs(), [frames[1]], ensemble, seed=7, temperature=500.0, replica_ids=[1])
    for md in (together, alone):
        md.run(60)
    np.testing.assert_allclose(together.frames()[1].positions, alone.frames()[0].positions, atol=1e-9)
    np.testing.assert_allclose(together.frames()[1].cell, alone.frames()[0].cell, atol=1e-9)
    assert together.conserved()[1] == pytest.approx(alone.conserved()[0], abs=1e-9)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_restored_run_goes_on_bit_for_bit(ensemble: Ensemble) -> None:
    frames = [packing(1), packing(2, atoms=30)]
    whole = dynamics(Pairs(), frames, ensemble, seed=7)
    whole.run(37)
    state = {name: value.clone() for name, value in whole.state().items()}
    whole.run(40)
    again = dynamics(Pairs(), frames, ensemble, seed=7)
    again.restore(state, 37, {})
    again.run(40)
    assert again.step == whole.step == 77
    for name, value in whole.state().items():
        assert torch.equal(value, again.state()[name]), name
    assert whole.conserved() == again.conserved()


def test_motion_as_a_whole_is_taken_out() -> None:
    """Of a molecule translation and rotation, of a crystal translation; temperatures count what is left."""
    molecule, crystal = cloud(5, 1.0), packing(1)
    md = dynamics(Pairs(), [molecule, crystal], NVE(), temperature=300.0)
    assert md.system.dof.tolist() == [9.0, 69.0]
    v, x = md.velocities(), molecule.positions - molecule.positions.mean(axis=0)
    assert np.abs(np.cross(x, v[0]).sum(axis=0)).max() < 1e-12
    assert max(np.abs(v[k].sum(axis=0)).max() for k in (0, 1)) < 1e-12
    line = Configuration(np.ones(3, dtype=np.int64), np.outer([0.0, 1.5, 3.5], [1.0, 2.0, 0.5]))
    assert dynamics(Pairs(), [line], NVE()).system.dof.tolist() == [4.0]
    assert dynamics(Pairs(), [molecule], LANGEVIN).system.dof.tolist() == [15.0]
    free = dynamics(Pairs(), [molecule], NVE(), remove_drift=False)
    assert free.system.dof.tolist() == [15.0]
    assert np.abs(free.velocities()[0].sum(axis=0)).max() > 1e-4
    md.run(250)
    assert np.abs(md.velocities()[1].sum(axis=0)).max() < 1e-12
    with pytest.raises(InputError, match=r"1 atom\(s\) have no motion left.*remove_drift=false"):
        dynamics(Pairs(), [cloud(1, 1.0)], NVE())


def test_rotation_of_a_molecule_is_kept_away() -> None:
    """What rounding would let grow, put in by hand, is gone after the next removal."""
    md = dynamics(Pairs(), [cloud(5, 1.0), packing(1)], NVE(), temperature=300.0)
    axis = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).expand(5, 3)
    spin = torch.cat([0.01 * torch.linalg.cross(axis, md.system.positions[:5]), torch.zeros(24, 3)])
    md.system.velocities = md.system.velocities + spin

    def angular_momentum() -> float:
        x, v = md.frames()[0].positions, md.velocities()[0]
        return float(np.abs(np.cross(x - x.mean(axis=0), v).sum(axis=0)).max())

    assert angular_momentum() > 1e-3
    md.run(100)
    assert angular_momentum() < 1e-12


def test_temperatures_without_drift_are_unbiased() -> None:
    """The mean over many draws is the bath's, for molecules of three atoms (3 degrees of freedom left)."""
    md = dynamics(Pairs(), [cloud(3, 2.0)] * 3000, NVE(), temperature=400.0)
    assert md.system.dof[0] == 3
    assert np.mean(list(md.temperatures().values())) == pytest.approx(400.0, rel=0.04)


def test_a_collapsing_replica_is_reported_and_the_others_go_on() -> None:
    good, bad = packing(1), packing(2)
    bad.positions[1] = bad.positions[0] + [0.75, 0.0, 0.0]
    settings = {"temperature": 5.0, "seed": 1, "limits": Limits(0.3, 1e9)}
    md = dynamics(Trap(), [good, bad, good], LANGEVIN, replica_ids=[0, 1, 2], **settings)
    reference = dynamics(Trap(), [good, good], LANGEVIN, replica_ids=[0, 2], **settings)
    for run in (md, reference):
        run.run(70)
    assert md.alive == [0, 2]
    failure = md.failures[1]
    assert failure.reason == "pair distance"
    assert failure.value < 0.3
    assert failure.atoms == (0, 1)
    assert failure.bond is not None
    assert failure.bond.atoms == (0, 1)
    assert failure.bond.start == pytest.approx(0.75)
    assert failure.bond.now == pytest.approx(failure.value)
    distance = np.linalg.norm(failure.frame.positions[1] - failure.frame.positions[0])
    assert distance == pytest.approx(failure.value)
    words = failure.message()
    assert "replica 1 left the physical range at step" in words
    assert "atoms H 0, H 1" in words
    assert "H 0 - H 1: 0.75 Å at the start" in words
    assert 0 < failure.step < 70
    assert failure.time_fs == failure.step * 0.5
    assert sorted(md.frames()) == [0, 2]
    np.testing.assert_allclose(md.frames()[2].positions, reference.frames()[1].positions, atol=1e-9)
    assert not reference.failures


def test_undefined_forces_and_heat_are_failures() -> None:
    wide = replace(packing(2), cell=np.eye(3) * 9.5)
    md = dynamics(Undefined(), [packing(1), wide], LANGEVIN)
    assert md.failures[1].reason == "not finite"
    assert md.failures[1].step == 0
    beyond = np.flatnonzero(wide.positions[:, 0] > 1.0)
    np.testing.assert_array_equal(md.failures[1].atoms, beyond)
    crowd = replace(packing(2), positions=0.5 * packing(2).positions)
    md = dynamics(Pairs(), [crowd], LANGEVIN, limits=Limits(0.0, 310.0))
    md.run(50)
    assert md.failures[0].reason == "temperature"
    assert md.failures[0].value > 310.0
    assert md.alive == []
    assert md.frames() == {}
    step = md.step
    md.run(5)
    assert md.step == step


def test_an_atom_that_flies_away_is_a_failure_and_no_search() -> None:
    """A step so long that atoms end up kilometres apart: reported, not searched for neighbours."""
    crowd = replace(packing(2), positions=0.2 * packing(2).positions)
    md = dynamics(LennardJones(), [crowd], NVE(), timestep_fs=50.0, limits=Limits(0.0, 1e9))
    md.run(20)
    assert md.failures[0].reason in ("temperature", "not finite")


def test_equilibrium_of_few_atoms_is_no_failure() -> None:
    """Single free atoms, newly drawn: the hottest of so many is far above five times the temperature."""
    atom = Configuration(np.array([1]), np.zeros((1, 3)))
    limits = Limits(min_distance=0.0)
    model = Wells(1.0, atom.positions)
    md = dynamics(model, [atom] * 6000, LANGEVIN, limits=limits)
    assert max(md.temperatures().values()) > 5.2 * 300.0
    assert md.failures == {}
    assert limits.temperature(300.0, 3) < 30 * 300.0
    assert limits.temperature(300.0, 300) == 5 * 300.0
    hot = dynamics(model, [atom], LANGEVIN, limits=limits, velocities=[np.full((1, 3), 0.2)])
    assert hot.failures[0].reason == "temperature"


class Slow:
    """A hook: notes when it was called and with what, and stops the run at a step."""

    def __init__(self, every: int, stress: bool, last: int) -> None:
        self.every, self.stress, self.last = every, stress, last
        self.calls: list[tuple[int, bool]] = []

    def __call__(self, md: MolecularDynamics) -> None:
        self.calls.append((md.step, md.evaluation.stress is not None))
        if md.step >= self.last:
            md.stop("enough")


def test_hooks_are_called_in_time_and_can_stop_the_run() -> None:
    often, seldom = Slow(2, False, 100), Slow(3, True, 9)
    md = dynamics(Pairs(), [packing(1)], NVE(), hooks=[often, seldom])
    md.run(50)
    assert md.step == 9
    assert md.stopped == "enough"
    assert often.calls == [(2, False), (4, False), (6, True), (8, False)]
    assert seldom.calls == [(3, True), (6, True), (9, True)]


def test_a_bias_adds_and_its_energy_is_conserved() -> None:
    """A spring between two atoms: its forces act, energy and bias together are conserved."""

    def spring(batch: Batch, e: Evaluation) -> Evaluation:
        away = batch.positions[1] - batch.positions[0]
        forces = e.forces.clone()
        forces[0] += 3.0 * away
        forces[1] -= 3.0 * away
        return replace(e, energy=e.energy + 1.5 * away.square().sum(), forces=forces)

    settings = MDSettings(timestep_fs=0.1, temperature=100.0, limits=ANYTHING)
    frame = cloud(2, 1.0)
    md = MolecularDynamics(Biased(ModelForces(Pairs()), [spring]), [frame], NVE(), settings)
    bare = MolecularDynamics(ModelForces(Pairs()), [frame], NVE(), settings)
    stretch = frame.positions[1] - frame.positions[0]
    assert md.energies()[0] - bare.energies()[0] == pytest.approx(1.5 * stretch @ stretch)
    start = md.conserved()[0]
    md.run(500)
    assert md.conserved()[0] == pytest.approx(start, abs=2e-3)
    bare.run(500)
    apart = [float(np.linalg.norm(np.diff(run.frames()[0].positions, axis=0))) for run in (md, bare)]
    assert apart[0] < 1.7 < apart[1]  # the repulsion of 4 eV ends at 2 Å; the spring holds them


def test_a_committee_moves_on_mean_forces_and_stops_where_it_disagrees() -> None:
    models = [LennardJones(depth) for depth in (0.04, 0.05, 0.09)]
    frame = fcc()
    md = MolecularDynamics(Committee(models), [frame, fcc(seed=1)], NVE(), MDSettings(limits=ANYTHING))
    single = [MolecularDynamics(ModelForces(m), [frame], NVE(), MDSettings(limits=ANYTHING)) for m in models]
    forces = np.stack([s.evaluation.forces.numpy() for s in single])
    atoms = slice(0, 32)
    np.testing.assert_allclose(md.evaluation.forces[atoms], forces.mean(axis=0), atol=1e-12)
    spread = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
    assert md.evaluation.deviation is not None
    np.testing.assert_allclose(md.evaluation.deviation[atoms], spread, atol=1e-12)
    assert md.energies()[0] == pytest.approx(np.mean([s.energies()[0] for s in single]))
    limits = Limits(0.0, 1e6, max_deviation=0.5 * float(spread.max()))
    bad = MolecularDynamics(Committee(models), [frame], NVE(), MDSettings(limits=limits))
    assert bad.failures[0].reason == "committee deviation"
    assert bad.failures[0].value == pytest.approx(spread.max())
    assert bad.failures[0].atoms == (int(spread.argmax()),)
    with pytest.raises(InputError, match="two models or more"):
        Committee(models[:1])


def test_the_start_is_left_as_it_was() -> None:
    frame = packing(1)
    before = frame.positions.copy(), frame.cell.copy()
    md = dynamics(Pairs(), [frame], NPT(barostat_time=10.0))
    md.run(5)
    np.testing.assert_array_equal(frame.positions, before[0])
    np.testing.assert_array_equal(frame.cell, before[1])
    assert np.abs(md.frames()[0].cell - before[1]).max() > 0
    assert np.isnan(md.frames()[0].energy)


def test_a_model_that_drove_a_run_can_be_trained_on() -> None:
    model = MACE([1], [0.0], MACEArchitecture(cutoff=3.0, channels=4, l_max=1, correlation=1))
    members = [MACE([1], [0.0], MACEArchitecture(cutoff=3.0, channels=4, l_max=1, correlation=1))] * 2
    given = [model, *members]
    needed = [[p.requires_grad for p in m.parameters()] for m in given]
    ModelForces(model), Committee(members)
    dynamics(model, [packing(1)], NVE()).run(1)
    assert [[p.requires_grad for p in m.parameters()] for m in given] == needed
    assert any(needed[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dynamics(Toy(), [], NVE()), "at least one"),
        (lambda: dynamics(Pairs(), [Configuration(np.array([2]), np.zeros((1, 3)))], NVE()), r"\[2\]"),
        (lambda: MDSettings(timestep_fs=0.0), "timestep_fs"),
        (lambda: MDSettings(timestep_fs=np.inf), "timestep_fs"),
        (lambda: MDSettings(skin=-1.0), "skin"),
        (lambda: Limits(min_distance=-1.0), "min_distance"),
        (lambda: Limits(min_distance=np.nan), "min_distance"),
        (lambda: Limits(max_temperature=0.0), "max_temperature"),
        (lambda: Limits(volume=1.0), "limits.volume=1.0: write a factor above 1"),
        (lambda: Limits(volume=np.nan), "limits.volume"),
        (lambda: NVT(thermostat="nose"), "csvr, langevin, nose_hoover"),
        (lambda: NVT(thermostat_time=0.0), "thermostat_time"),
        (lambda: NVT(thermostat_time=np.inf), "thermostat_time"),
        (lambda: NPT(pressure=np.nan), "ensemble.pressure=nan: write a number of GPa"),
        (lambda: NPT(pressure_end=-np.inf), "ensemble.pressure_end=-inf"),
        (lambda: NPT(barostat_time=np.nan), "barostat_time"),
        (lambda: NPT(cell="shape"), "isotropic, axes, full"),
        (lambda: NPT(compressibility=-1.0), "compressibility"),
        (lambda: dynamics(Pairs(), [packing(1)], NVE(), replica_ids=[1, 2]), "replica_ids"),
        (lambda: dynamics(Pairs(), [packing(1)], NVT(), temperature=[1.0, 2.0]), "2 values for 1 replicas"),
        (lambda: dynamics(Pairs(), [packing(1)], NVT(), temperature=-1.0), "not below 0"),
        (lambda: dynamics(Pairs(), [packing(1)], NVT(), temperature=np.inf), "a finite number of K"),
        (lambda: dynamics(Pairs(), [packing(1)], NVE(), temperature=0.0, limits=Limits()), "max_temperature"),
        (lambda: dynamics(Pairs(), [cloud(4, 2.0)], NPT()), "periodic in all directions"),
        (lambda: dynamics(Pairs(), [tilted()], NPT(cell="axes")), "cell=axes needs a rectangular cell"),
        (lambda: dynamics(Pairs(), [packing(1)], CHAIN, temperature=0.0), "temperature=0 and .*nose_hoover"),
    ],
)  # fmt: skip
def test_bad_input_is_named(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_kinetic_energy_of_the_maxwell_distribution() -> None:
    md = dynamics(Pairs(), [cloud(3000, 100.0)], LANGEVIN, temperature=700.0)
    assert md.kinetic_energies()[0] == pytest.approx(1.5 * 3000 * kB * 700.0, rel=0.03)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_on_a_gpu_it_is_the_same(ensemble: Ensemble) -> None:
    """The same random numbers and forces, to rounding; a replica that fails leaves the others."""
    ends = []
    for device in ("cpu", "cuda"):
        md = dynamics(Pairs().to(device), [packing(1), packing(2, atoms=30)], ensemble, seed=7)
        md.run(20)
        md.fail(torch.tensor([True, False], device=device), "temperature", torch.zeros(2))
        md.run(20)
        ends.append((md.frames()[1].positions, md.conserved()[1]))
    np.testing.assert_allclose(ends[0][0], ends[1][0], atol=1e-7)
    assert ends[0][1] == pytest.approx(ends[1][1], abs=1e-7)
