"""Trajectories read from files: velocities, times, replicas, and what is wrong with a file."""

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from ase.units import fs

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
    assert (len(t), t.interval_fs) == (2, 4.0)
    assert t.energy.tolist() == [2, 4]
    hdf5(tmp_path / "several.h5", 3)
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
