"""Pressure, density, equations of state and energy drift with known answers."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.eos import EquationOfState as AseEquationOfState
from ase.units import GPa, fs

from msmlff.analysis.thermodynamics import (
    FORMS,
    density,
    energy_drift,
    fit_equation_of_state,
    pressure,
    total_energy,
    wigner_seitz_radius,
)
from msmlff.analysis.trajectory import Trajectory
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError


def to_frame(atoms: Atoms, **labels) -> Configuration:
    return Configuration(atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc, **labels)


def test_density_and_radius_of_known_crystals():
    aluminium = to_frame(bulk("Al", "fcc", 4.05, cubic=True))
    assert density([aluminium])[0] == pytest.approx(2.697, abs=2e-3)
    # 128 H atoms at r_s = 1.40 bohr
    side = (128 * 4 / 3 * np.pi * 1.4**3) ** (1 / 3) * 0.529177210903
    hydrogen = to_frame(Atoms("H128", np.zeros((128, 3)), cell=[side] * 3, pbc=True))
    assert wigner_seitz_radius([hydrogen])[0] == pytest.approx(1.4, rel=1e-6)
    with pytest.raises(InputError, match="not periodic"):
        density([to_frame(Atoms("H"))])


def test_pressure_from_stress_and_ideal_gas():
    atoms = Atoms("H2", [[0, 0, 0], [1, 1, 1]], cell=[10, 10, 10], pbc=True)
    stress = np.diag([-0.01, -0.02, -0.03])
    frames = [to_frame(atoms, stress=stress), to_frame(atoms)]
    virial = pressure(frames)
    assert virial[0] == pytest.approx(0.02 * 160.2176634, rel=1e-6)
    assert np.isnan(virial[1])
    # 2 k T / V at 1000 K in 1000 Å³: 2 * 1.380649e-20 J / 1e-27 m³
    assert pressure(frames, 1000.0)[0] - virial[0] == pytest.approx(2 * 1.380649e-20 / 1e-27 / 1e9, rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_equation_of_state_finds_its_own_parameters(form):
    volumes = np.linspace(9.0, 13.5, 12)
    energies = FORMS[form](volumes, -5.0, 11.0, 180.0 * GPa, 4.6)
    found = fit_equation_of_state(volumes, energies, form)
    assert (found.energy, found.volume) == pytest.approx((-5.0, 11.0), rel=1e-6)
    assert (found.bulk_modulus, found.derivative) == pytest.approx((180.0, 4.6), rel=1e-4)
    assert found.rmse < 1e-8
    # E'' V = B at the minimum, and no pressure there
    step = 1e-3
    curvature = np.diff(found.energy_at(np.array([11 - step, 11, 11 + step])), 2)[0] / step**2
    assert curvature * 11.0 / GPa == pytest.approx(180.0, rel=1e-4)
    assert found.pressure_at(np.array([11.0]))[0] == pytest.approx(0.0, abs=1e-3)
    assert found.pressure_at(np.array([10.0]))[0] > 0


def test_equation_of_state_of_a_crystal_is_that_of_ase():
    volumes, energies = [], []
    for strain in np.linspace(0.96, 1.04, 9):
        atoms = bulk("Cu", "fcc", 3.6 * strain)
        atoms.calc = EMT()
        volumes.append(atoms.get_volume())
        energies.append(atoms.get_potential_energy())
    for ours, theirs in (("birch-murnaghan", "birchmurnaghan"), ("vinet", "vinet")):
        found = fit_equation_of_state(np.array(volumes), np.array(energies), ours)
        volume, energy, modulus = AseEquationOfState(volumes, energies, eos=theirs).fit()
        assert (found.volume, found.energy) == pytest.approx((volume, energy), rel=1e-4)
        assert found.bulk_modulus == pytest.approx(modulus / GPa, rel=1e-2)


def test_equation_of_state_refuses():
    volumes = np.linspace(9, 13, 8)
    with pytest.raises(InputError, match="5 different volumes"):
        fit_equation_of_state(volumes[:4], volumes[:4])
    with pytest.raises(InputError, match="no minimum"):
        fit_equation_of_state(volumes, volumes)
    with pytest.raises(InputError, match=r"form=murnaghan; write birch-murnaghan or vinet"):
        fit_equation_of_state(volumes, volumes, "murnaghan")


def energies(total_per_atom: np.ndarray, atoms: int = 10, seed: int = 0) -> Trajectory:
    """Frames whose potential energy makes up for their kinetic energy."""
    rng = np.random.default_rng(seed)
    frames = len(total_per_atom)
    velocities = 1e-3 * rng.normal(size=(frames, atoms, 3))
    kinetic = 0.5 * 39.948 * (velocities**2).sum(axis=(1, 2)) / fs**2
    return Trajectory(
        numbers=np.full(atoms, 18),
        positions=np.zeros((frames, atoms, 3)),
        cell=np.zeros((frames, 3, 3)),
        pbc=np.zeros(3, bool),
        interval_fs=10.0,
        velocities=velocities,
        energy=atoms * total_per_atom - kinetic,
    )


def test_total_energy_counts_what_moves():
    per_atom = np.linspace(-3.0, -2.9, 7)
    np.testing.assert_allclose(total_energy(energies(per_atom)), per_atom, rtol=1e-12)


def test_drift_of_an_energy():
    time = 10.0 * np.arange(1000)  # fs
    noise = 1e-4 * np.random.default_rng(1).normal(size=1000)
    found = energy_drift(time, -3.0 + 2e-6 * time + noise)
    assert found.slope == pytest.approx(2.0, abs=4 * found.error)
    assert found.error == pytest.approx(0.1 / (np.sqrt(1000) * (1e-3 * time).std()), rel=0.5)
    assert found.fluctuation == pytest.approx(0.1, rel=0.1)


def test_drift_refuses():
    good = energies(np.zeros(20))
    with pytest.raises(InputError, match="no energy"):
        total_energy(Trajectory(**{**vars(good), "energy": None}))
    with pytest.raises(InputError, match="no velocities"):
        total_energy(Trajectory(**{**vars(good), "velocities": None}))
    with pytest.raises(InputError, match="2 frames; 3 or more"):
        energy_drift(np.arange(2.0), np.zeros(2))
    with pytest.raises(InputError, match="not finite"):
        energy_drift(np.arange(4.0), np.array([0, 1, np.nan, 2]))
