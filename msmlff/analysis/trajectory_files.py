"""Trajectories from files."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import fs

from msmlff.analysis.trajectory import UNWRAPPED, Trajectory, from_frames, spacing
from msmlff.data.configuration import Configuration
from msmlff.data.formats import from_ase, read_frames
from msmlff.errors import InputError

MOMENTA = "momenta"  # column of extended XYZ as ASE writes it, in its units
VELOCITIES = ("velocities", "vel", "velo")  # as others write them, in Å/fs
MASSES = "masses"  # column of extended XYZ as ASE writes it, atomic mass units
# a frame, [atoms, 3] velocities in Å/fs and [atoms] masses that have been set
Frame = tuple[Configuration, np.ndarray | None, np.ndarray | None]
_HDF5 = (".h5", ".hdf5")
_XYZ = (".xyz", ".extxyz", ".xyz.gz", ".extxyz.gz")


def read_trajectory(
    path: Path | str,
    interval_fs: float | None = None,
    kept: slice = slice(None),
    replica: int | None = None,
) -> Trajectory:
    """The frames of a file, or of a simulation's folder, as one trajectory.

    Everything ``data.formats.read_frames`` reads, and the HDF5 files of ``msmlff simulate``. Velocities come
    from these, from ASE's trajectories, and from the columns ``momenta`` (ASE's units) or ``velocities``,
    ``vel``, ``velo`` (Å/fs) of extended XYZ; masses, as of isotopes, from ASE's trajectories where they have
    been set and from the column ``masses``; the time between frames from their info ``time_fs``.

    Args:
        interval_fs: from frame to frame of the file; None: from the frames.
        kept: which frames.
        replica: which one, where there are several.

    Raises:
        InputError: naming file and frame: no such file, no frames, frames of different atoms, uneven times,
            several replicas.
    """
    path = find_trajectory(Path(path), replica)
    if path.suffix in _HDF5:
        return _read_hdf5(path, interval_fs, kept, replica)
    frames, velocities, masses = [], [], []
    for frame, moving, heavy in _read(path):
        frames.append(frame)
        velocities.append(moving)
        masses.append(heavy)
    whole = from_frames(
        frames,
        interval_fs,
        _of_all(velocities, f"{path}: some frames hold velocities, others none"),
        str(path),
        _of_all(masses, f"{path}: some frames hold masses, others none"),
    )
    return _not_empty(whole[kept], len(whole))


def _of_all(values: list[np.ndarray | None], message: str) -> list[np.ndarray] | None:
    """What every frame has; None where none has it, InputError where some have."""
    known = [value for value in values if value is not None]
    if known and len(known) < len(values):
        raise InputError(message)
    return known or None


class NoFramesError(InputError):
    """A trajectory of which no frame is left."""


def replicas_in(path: Path | str) -> list[int | None]:
    """The replicas of a file or a folder of ``msmlff simulate``, as ``read_trajectory`` takes them.

    Returns:
        Their numbers, ascending; [None] for a file, or a folder, of one trajectory.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    several = {} if path.is_file() or _whole(path) is not None else _of_replicas(path)
    if several:
        return [*sorted(several)]
    path = find_trajectory(path)
    if path.suffix not in _HDF5:
        return [None]
    with _opened(path) as file:
        return [*_replicas(file, path)]


def find_trajectory(path: Path, replica: int | None = None) -> Path:
    """The file itself, or the trajectory in a folder of ``msmlff simulate``.

    Raises:
        InputError: there is none, or several and no ``replica`` says which.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"there is no file {path}: write trajectory=FILE")
    if (whole := _whole(path)) is not None:
        return whole
    several = _of_replicas(path)
    if not several:
        raise InputError(f"{path} holds no trajectory.extxyz or trajectory.h5: give the file")
    return several[_chosen(replica, sorted(several), path)]


def _whole(folder: Path) -> Path | None:
    """The file of a folder of ``msmlff simulate`` with all replicas; None where each has its own."""
    files = (folder / name for name in ("trajectory.h5", "trajectory.extxyz"))
    return next((path for path in files if path.is_file()), None)


def _of_replicas(folder: Path) -> dict[int, Path]:
    """The files trajectory_K.extxyz by K."""
    return {k: p for p in folder.glob("trajectory_*.extxyz") if (k := _number(p)) is not None}


def replica_of(path: Path, replica: int | None = None) -> int | None:
    """The number of the replica of ``msmlff simulate`` whose frames ``read_trajectory`` reads.

    Args:
        path: a file, or a folder of ``msmlff simulate``.
        replica: which one, where there are several.

    Returns:
        The number; None for a file whose name does not tell it.

    Raises:
        InputError: see ``find_trajectory``; an HDF5 file that is none of a simulation's.
    """
    path = find_trajectory(path, replica)
    if path.suffix in _HDF5:
        with _opened(path) as file:
            return _chosen(replica, _replicas(file, path), path)
    return 0 if path.name == "trajectory.extxyz" else _number(path)  # it is written for a single replica


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An HDF5 file; InputError where it cannot be read."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: no HDF5 file that can be read ({error})") from error


def _number(path: Path) -> int | None:
    """K of trajectory_K.extxyz; None for other names."""
    match = re.fullmatch(r"trajectory_(\d+)\.extxyz", path.name)
    return int(match[1]) if match else None


def _replicas(file: Any, path: Path) -> list[int]:
    """Numbers of the groups replica_K of an HDF5 file, ascending; InputError where there are none."""
    there = sorted(int(match[1]) for name in file if (match := re.fullmatch(r"replica_(\d+)", name)))
    if not there:
        raise InputError(f"{path}: an HDF5 file, but not one of msmlff simulate (no replica_0)")
    return there


def _chosen(replica: int | None, there: list[int], path: Path) -> int:
    if replica is None and len(there) == 1:
        return there[0]
    if replica not in there:
        which = "which one is meant" if replica is None else f"not replica {replica}"
        raise InputError(f"{path} holds replicas {there[0]} to {there[-1]}, {which}: write replica=...")
    return replica


def _not_empty(trajectory: Trajectory, whole: int) -> Trajectory:
    if not len(trajectory):
        raise NoFramesError(
            f"{trajectory.source}: of its {whole} frames none is left; change first, last or every"
        )
    return trajectory


def _read_hdf5(path: Path, interval_fs: float | None, kept: slice, replica: int | None) -> Trajectory:
    """A group replica_K of the files ``simulation.trajectory.HDF5Trajectory`` writes."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            group = file[f"replica_{_chosen(replica, _replicas(file, path), path)}"]
            times = np.asarray(group["time"])
            trajectory = Trajectory(
                numbers=np.asarray(group["numbers"], dtype=np.int64),
                positions=np.asarray(group["positions"][kept]),
                cell=np.asarray(group["cell"][kept]),
                pbc=np.asarray(group["pbc"], dtype=bool),
                velocities=np.asarray(group["velocities"][kept]) if "velocities" in group else None,
                energy=np.asarray(group["energy"][kept]),
                stress=np.asarray(group["stress"][kept]) if "stress" in group else None,
                temperature=np.asarray(group["temperature"][kept]) if "temperature" in group else None,
                continuous=bool(group.attrs.get(UNWRAPPED, False)),
                stored_masses=np.asarray(group[MASSES], dtype=np.float64) if MASSES in group else None,
                source=str(path),
            )
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as a trajectory of msmlff simulate ({error})") from error
    interval = interval_fs or spacing(times.tolist(), str(path))
    step = 1 if kept.step is None else kept.step
    return _not_empty(replace(trajectory, interval_fs=interval and interval * step), len(times))


def _read(path: Path) -> Iterator[Frame]:
    name = path.name.lower()
    if name.endswith(".traj") or (name.endswith(_XYZ) and _has_columns(path)):
        yield from _read_ase(path)
    else:
        yield from ((frame, None, None) for frame in read_frames(path))


def _has_columns(path: Path) -> bool:
    """Whether the first frame of an extended XYZ file has a column of velocities or masses."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as stream:
            stream.readline()
            comment = str(stream.readline())
    except (OSError, UnicodeDecodeError, EOFError):
        return False  # the reader of frames says what is wrong
    names = "|".join((MOMENTA, *VELOCITIES))
    return re.search(rf"Properties\s*=\s*\S*\b(({names}):R:3|{MASSES}:[RI]:1)\b", comment) is not None


def _read_ase(path: Path) -> Iterator[Frame]:
    from ase.io import iread  # half a second that other files do not need

    index = 0
    images: Iterator[Atoms] = iter(iread(path, index=":"))
    while True:
        try:
            atoms = next(images)
        except StopIteration:
            return
        except Exception as error:  # ASE's parsers raise all kinds on bad files
            raise InputError(f"{path}:{index}: ASE cannot read the frame ({error})") from error
        masses = _masses(atoms, f"{path}:{index}")
        moving = _velocities(atoms, f"{path}:{index}")
        yield from_ase(atoms, source=f"{path}:{index}"), moving, masses
        index += 1


def _masses(atoms: Atoms, source: str) -> np.ndarray | None:
    """[atoms] atomic mass units that have been set; None: those of the elements."""
    if MASSES not in atoms.arrays:
        return None
    values = np.asarray(atoms.arrays[MASSES], dtype=np.float64)
    if values.shape != (len(atoms),) or not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"{source}: the column {MASSES} does not hold a positive number for each atom")
    return values


def _velocities(atoms: Atoms, source: str) -> np.ndarray | None:
    if MOMENTA in atoms.arrays:
        return np.asarray(atoms.get_velocities() * fs)
    name = next((n for n in VELOCITIES if n in atoms.arrays), None)
    if name is None:
        return None
    values = np.asarray(atoms.arrays.pop(name), dtype=np.float64)
    if values.shape != (len(atoms), 3) or not np.isfinite(values).all():
        raise InputError(f"{source}: the column {name} does not hold 3 finite numbers for each atom")
    return values
