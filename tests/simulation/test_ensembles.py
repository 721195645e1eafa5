"""Thermostats and barostats against statistical mechanics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase.data import atomic_masses
from ase.units import GPa, fs, kB
from torch import Tensor
from toys import CellEnergy, LennardJones, Pairs, Wells, fcc

from msmlff.data.configuration import Configuration
from msmlff.simulation import NPT, NVE, NVT, Evaluation, Limits, MDSettings, ModelForces, MolecularDynamics
from msmlff.simulation.system import System
from msmlff.simulation.thermo import thermo_rows
from msmlff.simulation.thermostats import Bath

MASS = atomic_masses[1]
KELVIN = 600.0
WIDTH = float(fs * np.sqrt(kB * KELVIN / MASS))  # Å/fs, of a velocity's component
ANYTHING = Limits(min_distance=0.0, max_temperature=1e6)


def test_oscillators_reach_the_canonical_distribution() -> None:
    """<x²> = kT/k, <K> = dof kT/2, var K = dof (kT)²/2 over replicas of 8 atoms, at 200 and at 1000 K.

    BAOAB samples positions of a harmonic well without error of the step; velocities to (omega dt)²/4.
    """
    k, centres = 5.0, 3.0 * np.indices((2, 2, 2)).reshape(3, -1).T.astype(float)
    frame = Configuration(np.ones(8, dtype=np.int64), centres)
    bath = np.repeat([200.0, 1000.0], 60)
    settings = MDSettings(0.5, bath.tolist(), seed=1, skin=2.0, limits=ANYTHING)
    ensemble = NVT(thermostat="langevin", thermostat_time=15.0)
    md = MolecularDynamics(ModelForces(Wells(k, centres)), [frame] * 120, ensemble, settings)
    md.run(150)
    squares, temperatures = [], []
    for _ in range(60):
        md.run(12)
        away = (md.system.positions.view(120, 8, 3) - torch.from_numpy(centres)).square().mean(dim=(1, 2))
        squares.append(away.numpy() / (kB * bath / k))
        temperatures.append(np.array(list(md.temperatures().values())) / bath)
    for part in (slice(0, 60), slice(60, 120)):
        t = np.stack(temperatures)[:, part]
        assert np.mean(np.stack(squares)[:, part]) == pytest.approx(1.0, rel=0.03)
        assert t.mean() == pytest.approx(1.0, rel=0.02)
        assert t.var() == pytest.approx(2.0 / 24.0, rel=0.1)


@pytest.fixture(scope="module")
def langevin_energies() -> np.ndarray:
    return crystal_samples("langevin")[1]


def crystal_samples(thermostat: str) -> tuple[np.ndarray, np.ndarray]:
    """Temperatures and potential energies (eV) of an anharmonic crystal of 4 atoms at 300 K."""
    settings = MDSettings(2.0, 300.0, seed=1, limits=ANYTHING)
    ensemble = NVT(thermostat=thermostat, thermostat_time=40.0)
    md = MolecularDynamics(ModelForces(LennardJones(cutoff=4.0)), [fcc(1)] * 40, ensemble, settings)
    md.run(100)
    temperatures, energies = [], []
    for _ in range(40):
        md.run(12)
        temperatures.append(list(md.temperatures().values()))
        energies.append(list(md.energies().values()))
    return np.array(temperatures), np.array(energies)


@pytest.mark.parametrize("thermostat", ["csvr", "nose_hoover"])
def test_a_crystal_reaches_the_canonical_distribution(thermostat: str, langevin_energies: np.ndarray) -> None:
    """<T> and var T = 2 T²/dof; energies as with Langevin's noise, with one degree more a direction there."""
    temperatures, energies = crystal_samples(thermostat)
    assert temperatures.mean() == pytest.approx(300.0, rel=0.03)
    assert temperatures.var() == pytest.approx(2.0 * 300.0**2 / 9.0, rel=0.15)
    scale = langevin_energies.std()
    assert abs(energies.mean() - langevin_energies.mean()) < 0.12 * scale
    assert energies.std() == pytest.approx(scale, rel=0.12)


def test_free_atoms_diffuse_with_einsteins_coefficient() -> None:
    """Ideal gas: <dx²> = 2 D (t - (1 - exp(-g t)) / g), D = kT / (m g) (Ornstein, Uhlenbeck)."""
    friction, temperature = 0.2, 500.0
    start = Configuration(
        np.ones(3000, dtype=np.int64), 100.0 * np.random.default_rng(0).normal(size=(3000, 3))
    )
    settings = MDSettings(1.0, temperature, seed=3, skin=9.0, limits=ANYTHING)
    ensemble = NVT(thermostat="langevin", thermostat_time=1.0 / friction)
    md = MolecularDynamics(ModelForces(Pairs(cutoff=1e-6)), [start], ensemble, settings)
    md.run(60)
    moved = np.mean((md.frames()[0].positions - start.positions) ** 2)
    diffusion = kB * temperature * fs**2 / (MASS * friction)
    expected = 2 * diffusion * (60.0 - (1 - np.exp(-friction * 60.0)) / friction)
    assert moved == pytest.approx(expected, rel=0.04)


class Bare:
    """Replicas of an ideal gas moved by an ensemble's integrator alone: no neighbours, nothing judged."""

    def __init__(
        self,
        ensemble: NVT,
        cell: float,
        atoms: int,
        replicas: int,
        energy: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        start = Configuration(
            np.ones(atoms, dtype=np.int64), np.zeros((atoms, 3)), cell * np.eye(3), np.ones(3, dtype=bool)
        )
        self.system = System.build([start] * replicas, "cpu")
        self.system.velocities = WIDTH * torch.randn(
            (atoms * replicas, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        bath = Bath(torch.full((replicas,), KELVIN, dtype=torch.float64), 1.0, 3, range(replicas))
        self.integrator = ensemble.integrator(self.system, bath)
        self.forces = CellEnergy(nothing if energy is None else energy)
        self.evaluation, self.step = self.evaluate(), 0

    def evaluate(self) -> Evaluation:
        return self.forces.of_cells(self.system.cell, len(self.system.positions))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step += 1
            self.evaluation = self.integrator.advance(self.system, self.evaluation, self.step, self.evaluate)

    def cells(self, samples: int, spacing: int) -> np.ndarray:
        """[samples * replicas, 3, 3]"""
        found = []
        for _ in range(samples):
            self.run(spacing)
            found.append(self.system.cell.numpy().copy())
        return np.concatenate(found)


def test_rescaling_relaxes_the_kinetic_energy_in_its_time() -> None:
    """d<K>/dt = (K_bath - <K>) / tau (Bussi et al. 2007, eq. 2), from a cold start of free atoms."""
    gas = Bare(NVT(thermostat_time=30.0), 10.0, 100, 100)
    gas.system.velocities = 0.5 * gas.system.velocities
    start = gas.system.temperature().mean().item()
    for _ in range(3):
        gas.run(20)
        expected = KELVIN + (start - KELVIN) * np.exp(-gas.step / 30.0)
        assert gas.system.temperature().mean().item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "ensemble",
    [
        NVT(thermostat="csvr", thermostat_time=20.0),
        NVT(thermostat="langevin", thermostat_time=20.0),
        NVT(thermostat="nose_hoover", thermostat_time=20.0),
        NPT(thermostat_time=20.0, barostat_time=50.0, compressibility=0.5),
        NPT(
            thermostat_time=20.0, barostat_time=50.0, compressibility=0.5, cell="full", thermostat="langevin"
        ),
    ],
)
def test_the_conserved_quantity_is_conserved(ensemble: NVT) -> None:
    """Heat and work of many times kT pass through; the sum of all stays, better with a shorter step."""
    worst = []
    for timestep, steps in ((1.0, 200), (0.5, 400)):
        settings = MDSettings(timestep, 300.0, seed=3, limits=ANYTHING)
        md = MolecularDynamics(ModelForces(LennardJones()), [fcc()] * 2, ensemble, settings)
        start = np.array(list(md.conserved().values()))
        atoms = np.array([md.energies()[k] + md.kinetic_energies()[k] for k in range(2)])
        off, exchanged = [], []
        for _ in range(10):
            md.run(steps // 10)
            off.append(np.array(list(md.conserved().values())) - start)
            exchanged.append([md.energies()[k] + md.kinetic_energies()[k] for k in range(2)] - atoms)
        worst.append(float(np.sqrt(np.mean(np.square(off)))))
        assert worst[-1] < 0.1 * np.sqrt(np.mean(np.square(exchanged)))
    assert worst[1] < 0.8 * worst[0]


def nothing(cell: Tensor) -> Tensor:
    return 0.0 * cell.sum(dim=(1, 2))


def test_pressure_of_the_ideal_gas() -> None:
    """p V = N kT on average; 2 K / 3 V at every moment; with the motion as a whole taken out N - 1."""
    gas = Configuration(
        np.ones(16, dtype=np.int64), np.random.default_rng(1).uniform(0.0, 12.0, (16, 3)), 12.0 * np.eye(3),
        np.ones(3, dtype=bool),
    )  # fmt: skip
    md = MolecularDynamics(CellEnergy(nothing), [gas] * 600, NVE(), MDSettings(1.0, KELVIN, limits=ANYTHING))
    rows = thermo_rows(md)
    mean = np.mean([row.pressure_GPa for row in rows])
    assert mean == pytest.approx(15 * kB * KELVIN / 12.0**3 / GPa, rel=0.03)
    assert rows[0].pressure_GPa == pytest.approx(2 / 3 * rows[0].kinetic_eV / 12.0**3 / GPa)
    assert rows[0].density_g_cm3 == pytest.approx(16 * MASS * 1.66053906660 / 12.0**3)


@pytest.mark.parametrize("thermostat", ["csvr", "langevin"])
def test_volume_of_the_ideal_gas(thermostat: str) -> None:
    """V has the gamma distribution V^N exp(-p V / kT): mean (N + 1) kT / p, variance (N + 1) (kT / p)²."""
    pressure, atoms = 1.0, 8
    unit = kB * KELVIN / (pressure * GPa)
    ensemble = NPT(
        thermostat=thermostat,
        thermostat_time=30.0,
        pressure=pressure,
        barostat_time=60.0,
        compressibility=1.0,
    )
    gas = Bare(ensemble, ((atoms + 1) * unit) ** (1 / 3), atoms, 300)
    gas.run(150)
    cells = gas.cells(30, 30)
    volume = np.abs(np.linalg.det(cells))
    assert volume.mean() == pytest.approx((atoms + 1) * unit, rel=0.03)
    assert volume.var() == pytest.approx((atoms + 1) * unit**2, rel=0.1)
    np.testing.assert_allclose(cells[-1] / cells[-1, 0, 0], np.eye(3), atol=1e-12)


def stiff(cell: Tensor) -> Tensor:
    """An energy of the cell's metric h h^T, with a minimum at a cube of 9 Å: softer along c."""
    strain = 0.5 * (cell @ cell.transpose(1, 2) / 81.0 - torch.eye(3, dtype=cell.dtype))
    weight = torch.tensor([[8.0, 5.0, 5.0], [5.0, 8.0, 5.0], [5.0, 5.0, 4.0]], dtype=cell.dtype)
    return (weight * strain.square()).sum(dim=(1, 2))


def metropolis(atoms: int, pressure: float, kT: float, coupling: str) -> np.ndarray:
    """[samples, 3, 3] cells from V^(N - 2) exp(-(U + p V) / kT) in the nine numbers of the cell.

    V^-2 of them is V^0 of the volume (Martyna, Tobias, Klein, J. Chem. Phys. 101, 4177 (1994)); of the three
    lengths alone it is the product of 1 / length times V.
    """
    rng = np.random.default_rng(0)
    cells = np.tile(8.0 * np.eye(3), (3000, 1, 1))

    def log_weight(h: np.ndarray) -> np.ndarray:
        volume = np.linalg.det(h)
        energy = stiff(torch.from_numpy(h)).numpy()
        power = atoms - 2 if coupling == "full" else atoms
        with np.errstate(invalid="ignore", divide="ignore"):
            log = power * np.log(volume) - (energy + pressure * volume) / kT
        return np.where(volume > 0, log, -np.inf)

    now, kept = log_weight(cells), []
    mask = np.ones((3, 3)) if coupling == "full" else np.eye(3)
    for sweep in range(600):
        trial = cells + 0.25 * rng.normal(size=cells.shape) * mask
        after = log_weight(trial)
        accept = np.log(rng.uniform(size=len(cells))) < after - now
        cells = np.where(accept[:, None, None], trial, cells)
        now = np.where(accept, after, now)
        if sweep >= 150 and sweep % 15 == 0:
            kept.append(cells)
    return np.concatenate(kept)


@pytest.mark.parametrize("coupling", ["axes", "full"])
def test_shapes_of_a_soft_cell(coupling: str) -> None:
    """Volume and lengths (and, of the whole cell, angles) against a Monte Carlo of the same cell."""
    pressure, atoms = 0.5, 16
    ensemble = NPT(
        thermostat="langevin", thermostat_time=30.0, pressure=pressure, cell=coupling, barostat_time=60.0,
        compressibility=1.0,
    )  # fmt: skip
    gas = Bare(ensemble, 8.0, atoms, 200, stiff)
    gas.run(300)
    found = gas.cells(30, 30)
    expected = metropolis(atoms, pressure * GPa, kB * KELVIN, coupling)

    def features(h: np.ndarray) -> np.ndarray:
        metric = h @ h.transpose(0, 2, 1)
        return np.stack([np.linalg.det(h), metric[:, 0, 0], metric[:, 2, 2], metric[:, 0, 1] ** 2], axis=1)

    a, b = features(found), features(expected)
    np.testing.assert_allclose(a.mean(axis=0)[:3], b.mean(axis=0)[:3], rtol=0.04)
    np.testing.assert_allclose(a.std(axis=0)[:3], b.std(axis=0)[:3], rtol=0.08)
    if coupling == "full":
        np.testing.assert_allclose(a[:, 3].mean(), b[:, 3].mean(), rtol=0.1)
    else:
        assert a[:, 3].max() == 0.0


def test_a_crystal_at_a_pressure_has_that_pressure_at_its_volume() -> None:
    """NPT reaches the pressure outside; NVT at its mean volume has the same, to 1 / N between ensembles."""
    settings = MDSettings(4.0, 150.0, seed=1, limits=ANYTHING)
    ensemble = NPT(pressure=5.0, thermostat_time=50.0, barostat_time=150.0, compressibility=0.02)
    model, squeezed, still = ModelForces(LennardJones(cutoff=4.0)), Pressures(), Pressures()
    md = MolecularDynamics(model, [fcc()] * 6, ensemble, settings)
    md.run(100)
    md.hooks.append(squeezed)
    md.run(250)
    spacing = (np.mean(squeezed.volumes) / 8) ** (1 / 3)
    md = MolecularDynamics(model, [fcc(spacing=spacing)] * 6, NVT(thermostat_time=50.0), settings)
    md.run(70)
    md.hooks.append(still)
    md.run(130)
    assert np.mean(squeezed.found) == pytest.approx(5.0, abs=0.6)
    assert np.mean(still.found) == pytest.approx(np.mean(squeezed.found), abs=0.3)
    assert spacing < 0.985 * 3.17


class Pressures:
    """A hook that collects the mean pressure (GPa) and volume (Å³) of all replicas."""

    every, stress = 10, True

    def __init__(self) -> None:
        self.found: list[float] = []
        self.volumes: list[float] = []

    def __call__(self, md: MolecularDynamics) -> None:
        self.found.append(float(np.mean([row.pressure_GPa for row in thermo_rows(md)])))
        self.volumes.append(md.system.volume.mean().item())
