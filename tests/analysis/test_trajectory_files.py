"""Trajectories read from files: velocities, times, replicas, and what is wrong with a file."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_masses
from ase.io import write
from ase.units import fs, kB

from msmlff.analysis.dynamics import vdos
from msmlff.analysis.thermodynamics import density, total_energy
from msmlff.analysis.trajectory import temperatures
from msmlff.analysis.trajectory_files import find_trajectory, read_trajectory, replica_of
from msmlff.errors import InputError


def images(count: int = 5, times: bool = True, momenta: bool = True) -> list[Atoms]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        atoms = Atoms("NaCl", rng.random((2, 3)), cell=[5, 6, 7], pbc=True)
        if momenta:
            atoms.set_momenta(rng.normal(size=(2, 3)))
        if times:
            atoms.info["time_fs"] = 4.0 * i
        found.append(atoms)
    return found


@pytest.mark.parametrize("name", ["md.extxyz", "md.xyz.gz", "md.traj"])
def test_velocities_and_times(tmp_path, name):
    frames = images()
    write(tmp_path / name, frames, **({} if name.endswith("traj") else {"format": "extxyz"}))
    t = read_trajectory(tmp_path / name)
    np.testing.assert_allclose(t.velocities[3], frames[3].get_velocities() * fs, atol=1e-7)
    np.testing.assert_allclose(t.positions[3], frames[3].positions, atol=1e-7)
    assert t.interval_fs == 4.0
    assert len(t) == 5
    kept = read_trajectory(tmp_path / name, kept=slice(1, None, 2))
    assert (len(kept), kept.interval_fs) == (2, 8.0)


def test_a_column_of_velocities_is_in_angstroms_per_fs(tmp_path):
    frames = images(3, momenta=False)
    for atoms in frames:
        atoms.arrays["velo"] = np.full((2, 3), 0.01)
    write(tmp_path / "md.extxyz", frames, columns=["symbols", "positions", "velo"])
    assert read_trajectory(tmp_path / "md.extxyz").velocities == pytest.approx(0.01)


@pytest.mark.parametrize("name", ["md.extxyz", "md.traj", "still.extxyz"])
def test_masses_of_isotopes(tmp_path, name):
    """Heavy water at 300 K is that, and as dense as it is, whatever the elements weigh as a rule."""
    rng = np.random.default_rng(2)
    frames = []
    for i in range(100):
        atoms = Atoms("OHH" * 8, rng.random((24, 3)) * 6, cell=[6] * 3, pbc=True)
        atoms.set_masses([15.995, 2.014, 2.014] * 8)
        atoms.set_velocities(rng.normal(size=(24, 3)) * np.sqrt(kB * 300 / atoms.get_masses())[:, None])
        atoms.info["time_fs"] = 1.0 * i
        frames.append(atoms)
    moving = not name.startswith("still")
    columns = ["symbols", "positions", "masses", *(["momenta"] if moving else [])]
    write(tmp_path / name, frames, **({} if name.endswith("traj") else {"columns": columns}))
    t = read_trajectory(tmp_path / name)
    np.testing.assert_allclose(t.masses, frames[0].get_masses())
    np.testing.assert_allclose(t[::2].masses, t.masses)
    assert density(t.frames(), t.masses)[0] == pytest.approx(8 * 20.023 * 1.660539 / 216, rel=1e-5)
    if not moving:
        assert t.velocities is None
        return
    assert temperatures(t).mean() == pytest.approx(300, abs=10)
    kinetic = [atoms.get_kinetic_energy() / 24 for atoms in frames]
    assert total_energy(replace(t, energy=np.zeros(100))) == pytest.approx(kinetic)
    shares = [vdos(t, element=z) for z in (1, 8)]  # of kinetic energy: 2 and 1 thirds of the atoms
    areas = [np.trapezoid(s.y, s.x) for s in shares]
    assert areas[0] / sum(areas) == pytest.approx(2 / 3, abs=0.03)


def test_bad_masses(tmp_path):
    def saved(*weights: list[float] | None) -> str:
        frames = []
        for own in weights:
            atoms = Atoms("OH", [[0, 0, 0], [0.97, 0, 0]], cell=[6] * 3, pbc=True)
            if own is not None:
                atoms.arrays["masses"] = np.array(own)
            frames.append(atoms)
        write(tmp_path / "md.traj", frames)
        return tmp_path / "md.traj"

    with pytest.raises(InputError, match="a positive number for each atom"):
        read_trajectory(saved([16.0, -1.0]))
    with pytest.raises(InputError, match="frame 1 has other masses"):
        read_trajectory(saved([16.0, 1.0], [16.0, 2.0]))
    with pytest.raises(InputError, match="some frames hold masses"):
        read_trajectory(saved([16.0, 1.0], None))


def test_files_without_velocities_have_none(tmp_path):
    write(tmp_path / "md.extxyz", images(momenta=False, times=False))
    t = read_trajectory(tmp_path / "md.extxyz", interval_fs=2.5)
    assert t.velocities is None
    assert t.interval_fs == 2.5


def hdf5(path, replicas: int = 1) -> None:
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        for k in range(replicas):
            group = file.create_group(f"replica_{k}")
            group["numbers"], group["pbc"] = np.array([11, 17]), np.ones(3, bool)
            group["positions"] = rng.random((6, 2, 3)) + k
            group["velocities"] = rng.random((6, 2, 3))
            group["cell"] = np.broadcast_to(5 * np.eye(3), (6, 3, 3))
            group["time"], group["energy"] = 2.0 * np.arange(6), np.arange(6.0)


def test_hdf5_of_a_simulation(tmp_path):
    hdf5(tmp_path / "trajectory.h5")
    t = read_trajectory(tmp_path, kept=slice(2, None, 2))  # the folder
    assert t.masses == pytest.approx(atomic_masses[[11, 17]])
    assert (len(t), t.interval_fs) == (2, 4.0)
    assert t.energy.tolist() == [2, 4]
    hdf5(tmp_path / "several.h5", 3)
    with h5py.File(tmp_path / "several.h5", "a") as file:
        file["replica_1"]["masses"] = np.array([22.0, 37.0])
    assert read_trajectory(tmp_path / "several.h5", replica=1).masses.tolist() == [22.0, 37.0]
    assert read_trajectory(tmp_path / "several.h5", replica=2).positions.min() >= 2
    with pytest.raises(InputError, match=r"replicas 0 to 2, which one is meant: write replica="):
        read_trajectory(tmp_path / "several.h5")
    with pytest.raises(InputError, match="not replica 5"):
        read_trajectory(tmp_path / "several.h5", replica=5)


def test_folder_of_several_replicas(tmp_path):
    for k in range(2):
        write(tmp_path / f"trajectory_{k}.extxyz", images())
    assert find_trajectory(tmp_path, 1).name == "trajectory_1.extxyz"
    with pytest.raises(InputError, match="write replica="):
        find_trajectory(tmp_path)


def test_the_replica_of_a_file(tmp_path):
    for name in ("trajectory_03.extxyz", "trajectory_backup.extxyz", "md.extxyz"):
        write(tmp_path / name, images())
    assert find_trajectory(tmp_path).name == "trajectory_03.extxyz"
    assert replica_of(tmp_path) == 3
    assert replica_of(tmp_path / "trajectory_03.extxyz", 1) == 3
    assert replica_of(tmp_path / "trajectory_backup.extxyz", 1) is None
    assert replica_of(tmp_path / "md.extxyz") is None
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file.create_group("replica_2")
    assert replica_of(tmp_path / "one.h5") == 2
    hdf5(tmp_path / "several.h5", 3)
    assert replica_of(tmp_path / "several.h5", 1) == 1
    write(tmp_path / "trajectory.extxyz", images())
    assert replica_of(tmp_path) == 0


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        read_trajectory(tmp_path / "absent.extxyz")
    with pytest.raises(InputError, match=r"holds no trajectory\.extxyz"):
        read_trajectory(tmp_path)
    (tmp_path / "torn.h5").write_bytes(b"no")
    with pytest.raises(InputError, match=r"torn\.h5: cannot be read"):
        read_trajectory(tmp_path / "torn.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="not one of msmlff simulate"):
        read_trajectory(tmp_path / "other.h5")
    write(tmp_path / "mixed.extxyz", [images()[0], images(momenta=False)[0]])
    with pytest.raises(InputError, match=r"some frames hold velocities|cannot read"):
        read_trajectory(tmp_path / "mixed.extxyz")
    write(tmp_path / "md.extxyz", images())
    with pytest.raises(InputError, match="none is left"):
        read_trajectory(tmp_path / "md.extxyz", kept=slice(10, None))
