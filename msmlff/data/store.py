"""Frames on disk as memory-mapped arrays, named by the hash of what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.data.array_folder import (
    ArrayFolderWriter,
    NpyAppender,
    damage,
    default_cache_dir,
    load_array,
    read_manifest,
)
from msmlff.data.configuration import Configuration, is_isolated_atom, shape_problem
from msmlff.data.fingerprint import FINGERPRINT_SIZE, geometry_fingerprint
from msmlff.errors import InputError

FORMAT = 2
Progress = Callable[[int, int | None], None]

_PER_FRAME: dict[str, tuple[Any, tuple[int, ...]]] = {
    "num_atoms": (np.int64, ()),
    "cell": (np.float64, (3, 3)),
    "pbc": (np.bool_, (3,)),
    "energy": (np.float64, ()),
    "stress": (np.float64, (3, 3)),
    "weight": (np.float64, ()),
    "group": (np.int32, ()),
    "digest": (np.uint8, (16,)),
    "fingerprint": (np.float64, (FINGERPRINT_SIZE,)),
    "text_bytes": (np.int64, ()),
}
_PER_ATOM: dict[str, tuple[Any, tuple[int, ...]]] = {
    "numbers": (np.uint8, ()),
    "positions": (np.float64, (3,)),
    "forces": (np.float64, (3,)),
}


class FrameStore(Sequence[Configuration]):
    """An immutable sequence of frames, read from disk when asked for.

    ``subset`` gives a view on some of them that shares the files. Stores and views can be pickled into worker
    processes: the files are opened again there, not copied.

    Attributes:
        directory: the folder with the arrays.
        ids: [frames] long, the frames of the folder that this store or view shows, in order.
        num_atoms: [frames] long.
        energy: [frames] float64 eV, NaN where unlabelled.
        weight: [frames] float64.
        group: [frames] str.
    """

    def __init__(self, directory: Path, ids: np.ndarray | None = None) -> None:
        """Opens a folder made by ``build``. Raises InputError if it is damaged or something else."""
        self.directory = Path(directory)
        self.manifest = read_manifest(self.directory, "frames", FORMAT)
        # As plain arrays: a slice of a memmap costs ten times as much.
        names = (*_PER_FRAME, *_PER_ATOM, "text")
        self._arrays = {name: np.asarray(load_array(self.directory, name)) for name in names}
        counts = np.array(self._arrays["num_atoms"])
        self._atom_ptr = np.concatenate([[0], np.cumsum(counts)])
        self._text_ptr = np.concatenate([[0], np.cumsum(self._arrays["text_bytes"])])
        self.ids = np.arange(len(counts)) if ids is None else np.asarray(ids, dtype=np.int64)
        self.num_atoms: np.ndarray = counts[self.ids]
        self.energy: np.ndarray = np.array(self._arrays["energy"])[self.ids]
        self.weight: np.ndarray = np.array(self._arrays["weight"])[self.ids]
        groups = np.array(self.manifest["groups"], dtype=np.str_)
        self.group: np.ndarray = groups[np.array(self._arrays["group"])[self.ids]]

    @classmethod
    def open(cls, directory: Path | str) -> FrameStore:
        """The store in a folder. Raises InputError if the folder is absent, damaged or something else."""
        return cls(Path(directory))

    @classmethod
    def build(
        cls,
        frames: Iterable[Configuration],
        cache_dir: Path | str | None = None,
        progress: Progress | None = None,
    ) -> FrameStore:
        """Writes frames, one at a time, and opens the result; equal content is stored once.

        Args:
            frames: read once, in order; need not fit into memory.
            cache_dir: where to put the folder ``frames-HASH`` (default: MSMLFF_CACHE or ~/.cache/msmlff).
            progress: called as progress(done, None) after each frame.

        Raises:
            InputError: no frames, or a frame whose arrays have the wrong shapes.
        """
        parent = default_cache_dir() if cache_dir is None else Path(cache_dir)
        with ArrayFolderWriter(parent) as folder:
            writer = _FrameWriter(folder)
            for done, frame in enumerate(frames, start=1):
                writer.add(frame)
                if progress is not None:
                    progress(done, None)
            return cls(writer.publish())

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
        """The frame at ``index``; a slice gives a view."""
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        i = int(self.ids[index])
        a, atoms, stress = self._arrays, self._atoms(i), np.array(self._arrays["stress"][i])
        text = json.loads(a["text"][self._text_ptr[i] : self._text_ptr[i + 1]].tobytes())
        return Configuration(
            numbers=a["numbers"][atoms].astype(np.int64),
            positions=np.array(a["positions"][atoms]),
            cell=np.array(a["cell"][i]),
            pbc=np.array(a["pbc"][i]),
            energy=float(a["energy"][i]),
            forces=self.forces(index),
            stress=None if np.isnan(stress).all() else stress,
            weight=float(a["weight"][i]),
            group=self.manifest["groups"][a["group"][i]],
            info=text["info"],
            source=text["source"],
        )

    def forces(self, index: int) -> np.ndarray | None:
        """[atoms, 3] float64 of the frame at ``index``, in eV/Å; None where it has none."""
        forces = np.array(self._arrays["forces"][self._atoms(int(self.ids[index]))])
        return None if np.isnan(forces).all() else forces

    def _atoms(self, i: int) -> slice:
        return slice(int(self._atom_ptr[i]), int(self._atom_ptr[i + 1]))

    def __iter__(self) -> Iterator[Configuration]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self.ids)

    def subset(self, ids: Iterable[int]) -> FrameStore:
        """A view on frames ``ids`` of this store, in that order.

        Raises:
            InputError: an id outside 0..len-1.
        """
        chosen = np.asarray(list(ids), dtype=np.int64)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise InputError(
                f"frame ids {chosen.min()} to {chosen.max()} asked of a store of {len(self)} frames"
            )
        return type(self)(self.directory, self.ids[chosen])

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of numbers, positions, cells, pbc, labels, weights and groups of all frames."""
        return hashlib.sha256(np.ascontiguousarray(self._arrays["digest"][self.ids]).tobytes()).hexdigest()

    @cached_property
    def atomic_numbers(self) -> tuple[int, ...]:
        """The elements that occur, ascending."""
        return tuple(int(z) for z in np.flatnonzero(self.composition.any(axis=0)))

    @cached_property
    def composition(self) -> np.ndarray:
        """[frames, 119] long, number of atoms of each element in each frame."""
        table = np.zeros((len(self), 119), dtype=np.int64)
        for row, i in enumerate(self.ids.tolist()):
            table[row] = np.bincount(self._arrays["numbers"][self._atoms(i)], minlength=119)
        return table

    @cached_property
    def numbers(self) -> np.ndarray:
        """[atoms] atomic numbers of all frames, one after the other."""
        parts = [self._arrays["numbers"][self._atoms(i)] for i in self.ids.tolist()]
        return np.concatenate(parts).astype(np.int64)

    @cached_property
    def isolated(self) -> np.ndarray:
        """[frames] bool, the isolated atoms (``is_isolated_atom``)."""
        return np.array([n == 1 and is_isolated_atom(self[i]) for i, n in enumerate(self.num_atoms.tolist())])

    @cached_property
    def fingerprints(self) -> np.ndarray:
        """[frames, 6] float64, ``geometry_fingerprint`` of each frame."""
        return np.array(self._arrays["fingerprint"])[self.ids]

    def verify(self) -> None:
        """Reads every file and compares its checksum. Raises InputError at the first that differs."""
        problem = damage(self.directory, full=True)
        if problem:
            raise InputError(f"{self.directory} is damaged: {problem}. Delete the folder and build it again")


class _FrameWriter:
    """Appends frames to the arrays of a folder under construction."""

    def __init__(self, folder: ArrayFolderWriter) -> None:
        self._folder = folder
        self._arrays: dict[str, NpyAppender] = {
            name: folder.create(name, *kind) for name, kind in (_PER_FRAME | _PER_ATOM).items()
        }
        self._text = folder.create("text", np.uint8)
        self._groups: dict[str, int] = {}
        self._content = hashlib.sha256()
        self._texts = hashlib.sha256()
        self._count = 0

    def add(self, frame: Configuration) -> None:
        problem = shape_problem(frame)
        if problem:
            raise InputError(f"{frame.source or f'frame {self._count}'}: {problem}")
        digest = frame_digest(frame)
        text = json.dumps({"source": frame.source, "info": frame.info}, default=_plain).encode()
        n = len(frame)
        self._append("num_atoms", n)
        self._append("cell", frame.cell)
        self._append("pbc", frame.pbc)
        self._append("energy", frame.energy)
        self._append("stress", np.full((3, 3), np.nan) if frame.stress is None else frame.stress)
        self._append("weight", frame.weight)
        self._append("group", self._groups.setdefault(frame.group, len(self._groups)))
        self._append("digest", np.frombuffer(digest, np.uint8))
        self._append("fingerprint", geometry_fingerprint(frame))
        self._append("text_bytes", len(text))
        self._arrays["numbers"].append(frame.numbers)
        self._arrays["positions"].append(frame.positions)
        self._arrays["forces"].append(np.full((n, 3), np.nan) if frame.forces is None else frame.forces)
        self._text.append(np.frombuffer(text, np.uint8))
        self._content.update(digest)
        self._texts.update(text)
        self._count += 1

    def publish(self) -> Path:
        if self._count == 0:
            raise InputError("there are no frames to store")
        name = f"frames-v{FORMAT}-{self._content.hexdigest()[:24]}-{self._texts.hexdigest()[:8]}"
        record = {"kind": "frames", "format": FORMAT, "frames": self._count, "groups": list(self._groups)}
        return self._folder.publish(name, record)

    def _append(self, name: str, value: Any) -> None:
        self._arrays[name].append(np.asarray(value)[None])


def frame_digest(frame: Configuration) -> bytes:
    """16 bytes that name a frame's content: geometry, labels, weight and group; not its info and source."""
    digest = hashlib.sha256()
    digest.update(np.asarray(frame.numbers, np.int64).tobytes())
    for array in (frame.positions, frame.cell, frame.energy, frame.weight):
        digest.update(np.ascontiguousarray(array, np.float64).tobytes())
    digest.update(np.asarray(frame.pbc, np.bool_).tobytes())
    for label in (frame.forces, frame.stress):
        digest.update(b"-" if label is None else np.ascontiguousarray(label, np.float64).tobytes())
    digest.update(frame.group.encode())
    return digest.digest()[:16]


def _plain(value: Any) -> Any:
    """numpy values of a frame's info as JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
