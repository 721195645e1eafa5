"""Trajectories on disk: extended XYZ or HDF5, written in chunks of whole frames."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from ase.data import atomic_masses, chemical_symbols
from ase.units import fs

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.simulation.files import GrowingFile, explained, write_whole

FORMATS = ("extxyz", "hdf5")
UNWRAPPED = "unwrapped"  # key and attribute: paths do not jump at the faces of the cell


@dataclass(frozen=True)
class Snapshot:
    """A replica at a step.

    Attributes:
        replica: its number.
        step, time_fs: when.
        frame: positions and cell; its energy is the model's, eV, and its stress, eV/Å³, where it is periodic
            in all directions.
        velocities: [atoms, 3] Å/fs.
        temperature: K.
    """

    replica: int
    step: int
    time_fs: float
    frame: Configuration
    velocities: np.ndarray
    temperature: float


class TrajectoryWriter(Protocol):
    """Keeps snapshots in memory until ``flush`` puts them on the disk as a chunk."""

    def add(self, snapshot: Snapshot) -> None:
        """Keep a snapshot."""

    @property
    def pending(self) -> int:
        """Bytes in memory, about."""
        ...

    def flush(self) -> None:
        """Write what is kept; OutputError where that cannot be, with all earlier chunks as they were."""

    def state(self) -> Any:
        """How much is on the disk, as JSON takes it."""

    def restore(self, state: Any) -> None:
        """Cut back to how much there was; InputError where there is less."""


class XYZTrajectory:
    """``trajectory.extxyz``, or ``trajectory_K.extxyz`` for each of several replicas.

    Columns are positions and, where asked for, momenta in ASE's units, which ASE and the readers of this
    package understand; the comment has step, time_fs, temperature_K, energy, stress (where there is one) and
    unwrapped=T.

    Args:
        folder: where.
        replicas: how many there are.
        velocities: write momenta, too.
    """

    def __init__(self, folder: Path, replicas: int, velocities: bool) -> None:
        width = len(str(replicas - 1))
        names = [f"trajectory_{k:0{width}d}.extxyz" for k in range(replicas)]
        self._files = [
            GrowingFile(folder / name) for name in (names if replicas > 1 else ["trajectory.extxyz"])
        ]
        self._texts: list[list[bytes]] = [[] for _ in range(replicas)]
        self._velocities = velocities

    @property
    def pending(self) -> int:
        return sum(len(text) for texts in self._texts for text in texts)

    def add(self, snapshot: Snapshot) -> None:
        self._texts[snapshot.replica].append(extxyz_text(snapshot, self._velocities).encode())

    def flush(self) -> None:
        for file, texts in zip(self._files, self._texts, strict=True):
            file.append(b"".join(texts))
            texts.clear()

    def state(self) -> list[int]:
        return [file.length for file in self._files]

    def restore(self, state: Any) -> None:
        for file, length in zip(self._files, state, strict=True):
            file.restore(length)


def extxyz_text(snapshot: Snapshot, velocities: bool) -> str:
    """A frame of extended XYZ."""
    frame = snapshot.frame
    words = [f'Lattice="{_numbers(frame.cell)}"'] if np.any(frame.cell) else []
    words += [
        "Properties=species:S:1:pos:R:3" + (":momenta:R:3" if velocities else ""),
        f"energy={frame.energy:.10f}",
        *([] if frame.stress is None else [f'stress="{_numbers(frame.stress)}"']),
        f"step={snapshot.step}",
        f"time_fs={snapshot.time_fs:.10g}",
        f"temperature_K={snapshot.temperature:.6g}",
        f"{UNWRAPPED}=T",
        'pbc="{}"'.format(" ".join("T" if p else "F" for p in frame.pbc)),
    ]
    columns, form = frame.positions, " %.8f %.8f %.8f"
    if velocities:
        momenta = atomic_masses[frame.numbers][:, None] * snapshot.velocities / fs
        columns, form = np.hstack([columns, momenta]), 2 * form
    rows = [
        chemical_symbols[z] + form % tuple(row)
        for z, row in zip(frame.numbers, columns.tolist(), strict=True)
    ]
    return "\n".join([str(len(frame)), " ".join(words), *rows, ""])


def _numbers(tensor: np.ndarray) -> str:
    return " ".join(f"{x:.10g}" for x in tensor.ravel())


CHUNKS, INDEX = "trajectory", "trajectory.h5"
_UNITS = {"positions": "angstrom", "velocities": "angstrom/fs", "cell": "angstrom", "time": "fs",
          "energy": "eV", "stress": "eV/angstrom^3", "temperature": "K"}  # fmt: skip


class HDF5Trajectory:
    """``trajectory/N.h5``, one file a chunk, and ``trajectory.h5``, which shows them as one.

    A group ``replica_K`` holds numbers [atoms], pbc [3] and, with the frames as first axis, positions,
    velocities, cell, step, time, energy, temperature and, where it is periodic in all directions, stress (NaN
    where a frame has none); its attribute ``unwrapped`` is true. Chunks are never opened again, so that no
    crash harms what was written; the index has links to them (virtual data sets) and is written anew each
    time.

    Args:
        folder: where.
        velocities: write them, too.
    """

    def __init__(self, folder: Path, velocities: bool) -> None:
        self.folder, self.chunks = folder, 0
        self._velocities = velocities
        self._kept: list[Snapshot] = []
        self._shapes: dict[str, list[tuple[int, dict[str, tuple[tuple[int, ...], np.dtype]]]]] = {}

    @property
    def pending(self) -> int:
        return sum(2 * s.frame.positions.nbytes for s in self._kept)

    def add(self, snapshot: Snapshot) -> None:
        self._kept.append(snapshot)

    def flush(self) -> None:
        if not self._kept:
            return
        path = self._path(self.chunks)
        with explained(path):
            path.parent.mkdir(exist_ok=True)
        write_whole(path, _h5(self._fill))
        self._note(path, self.chunks)
        self.chunks += 1
        self._kept.clear()
        write_whole(self.folder / INDEX, _h5(self._link))

    def state(self) -> int:
        return self.chunks

    def restore(self, state: Any) -> None:
        self.chunks, self._shapes = int(state), {}
        for chunk in range(self.chunks):
            path = self._path(chunk)
            if not path.is_file():
                raise InputError(f"{path} is gone, a part of the trajectory: put it back, or start a new run")
            self._note(path, chunk)
        for path in sorted((self.folder / CHUNKS).glob("*.h5")):
            if path.stem.isdigit() and int(path.stem) >= self.chunks:
                path.unlink()
        if self.chunks:
            write_whole(self.folder / INDEX, _h5(self._link))

    def _path(self, chunk: int) -> Path:
        return self.folder / CHUNKS / f"{chunk:06d}.h5"

    def _fill(self, file: h5py.File) -> None:
        for replica in sorted({s.replica for s in self._kept}):
            own = [s for s in self._kept if s.replica == replica]
            group = file.create_group(f"replica_{replica}")
            group["numbers"], group["pbc"] = own[0].frame.numbers, own[0].frame.pbc
            group.attrs[UNWRAPPED] = True
            columns: dict[str, list[Any]] = {
                "positions": [s.frame.positions for s in own],
                "cell": [s.frame.cell for s in own],
                "step": [s.step for s in own],
                "time": [s.time_fs for s in own],
                "energy": [s.frame.energy for s in own],
                "temperature": [s.temperature for s in own],
            }
            if self._velocities:
                columns["velocities"] = [s.velocities for s in own]
            if own[0].frame.pbc.all():
                unknown = np.full((3, 3), np.nan)
                columns["stress"] = [unknown if s.frame.stress is None else s.frame.stress for s in own]
            for name, rows in columns.items():
                data = group.create_dataset(name, data=np.stack([np.asarray(row) for row in rows]))
                data.attrs["unit"] = _UNITS.get(name, "")

    def _note(self, path: Path, chunk: int) -> None:
        """Remember the shapes of a chunk's data for the index."""
        with h5py.File(path, "r") as file:
            for name, group in file.items():
                parts = {key: (data.shape, data.dtype) for key, data in group.items()}
                self._shapes.setdefault(name, []).append((chunk, parts))

    def _link(self, file: h5py.File) -> None:
        for name, chunks in self._shapes.items():
            group = file.create_group(name)
            group.attrs[UNWRAPPED] = True
            for key in chunks[0][1]:
                if key in ("numbers", "pbc"):
                    group[key] = h5py.ExternalLink(f"{CHUNKS}/{chunks[0][0]:06d}.h5", f"/{name}/{key}")
                    continue
                shape, kind = chunks[0][1][key]
                layout = h5py.VirtualLayout((sum(p[key][0][0] for _, p in chunks), *shape[1:]), kind)
                first = 0
                for chunk, parts in chunks:
                    count = parts[key][0][0]
                    source = f"{CHUNKS}/{chunk:06d}.h5"
                    layout[first : first + count] = h5py.VirtualSource(source, f"{name}/{key}", parts[key][0])
                    first += count
                group.create_virtual_dataset(key, layout).attrs["unit"] = _UNITS.get(key, "")


def _h5(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of an HDF5 file, made in memory: so a full disk is met by one plain write."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def make_writer(kind: str, folder: Path, replicas: int, velocities: bool) -> TrajectoryWriter:
    """The writer of a format.

    Raises:
        InputError: there is no such format.
    """
    if kind == "extxyz":
        return XYZTrajectory(folder, replicas, velocities)
    if kind == "hdf5":
        return HDF5Trajectory(folder, velocities)
    raise InputError(f"output.format={kind}: write {' or '.join(FORMATS)}")
