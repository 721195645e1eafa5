"""Neighbour lists of a whole store, computed once and memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.data.array_folder import ArrayFolderWriter, damage, load_array, read_manifest
from msmlff.data.neighbors import Neighbors, index_type, neighbor_list
from msmlff.data.store import FrameStore, Progress
from msmlff.errors import InputError

FORMAT = 1


class NeighborCache(Sequence[Neighbors]):
    """The neighbour list of every frame of a store, kept beside the store as ``neighbors-HASH-CUTOFF``.

    Built one frame at a time, so it need not fit into memory; a damaged folder is built again. An edge takes
    5 bytes where frames have fewer than 32768 atoms.

    Attributes:
        cutoff: Å.
        num_edges: [frames] long.
    """

    def __init__(
        self, store: FrameStore, cutoff: float, progress: Progress | None = None, threads: int = 1
    ) -> None:
        """Opens or builds the lists.

        Args:
            store: the frames, a whole store or a view.
            cutoff: Å.
            progress: called as progress(done, total) after each frame that is computed.
            threads: threads of each search.
        """
        self.cutoff = float(cutoff)
        self._store = store
        self.directory = store.directory.parent / f"neighbors-v{FORMAT}-{store.hash[:24]}-{self.cutoff!r}"
        if damage(self.directory):
            self._build(progress, threads)
        stored = read_manifest(self.directory, "neighbors", FORMAT)
        if stored["cutoff"] != self.cutoff:
            raise InputError(f"{self.directory} holds lists at {stored['cutoff']} Å: delete the folder")
        self.num_edges: np.ndarray = np.array(load_array(self.directory, "num_edges"))
        self._edge_ptr = np.concatenate([[0], np.cumsum(self.num_edges)])
        self._atom_ptr = np.concatenate([[0], np.cumsum(store.num_atoms)])
        self._degree = load_array(self.directory, "degree")
        self._sender = load_array(self.directory, "sender")
        self._shift = load_array(self.directory, "shift")

    def __len__(self) -> int:
        return len(self.num_edges)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = range(len(self))[index]
        edges = slice(int(self._edge_ptr[i]), int(self._edge_ptr[i + 1]))
        degree = self._degree[self._atom_ptr[i] : self._atom_ptr[i + 1]]
        receiver = np.repeat(np.arange(len(degree), dtype=self._sender.dtype), degree)
        return Neighbors(np.asarray(self._sender[edges]), receiver, np.asarray(self._shift[edges]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store, self.cutoff)

    def _build(self, progress: Progress | None, threads: int) -> Path:
        store = self._store
        with ArrayFolderWriter(self.directory.parent) as folder:
            num_edges = folder.create("num_edges", np.int64)
            degree = folder.create("degree", np.int32)
            sender = folder.create("sender", index_type(int(store.num_atoms.max())))
            shift = folder.create("shift", _shift_type(store, self.cutoff), (3,))
            for i, frame in enumerate(store):
                found = neighbor_list(frame.positions, frame.cell, frame.pbc, self.cutoff, threads)
                num_edges.append(np.array([len(found)]))
                degree.append(np.bincount(found.receiver, minlength=len(frame)))
                sender.append(found.sender)
                shift.append(found.shift)
                if progress is not None:
                    progress(i + 1, len(store))
            record = {"kind": "neighbors", "format": FORMAT, "frames": len(store), "cutoff": self.cutoff}
            return folder.publish(self.directory.name, record)


def _shift_type(store: FrameStore, cutoff: float) -> type[np.signedinteger]:
    """int8 if no shift can leave it: the spread of the atoms over cells plus the images reached."""
    widest = 0.0
    for frame in store:
        if not frame.pbc.any():
            continue
        periodic = frame.cell[frame.pbc]
        # The pseudo-inverse gives fractional coordinates; its columns are as long as one over a height.
        inverse = np.linalg.pinv(periodic)
        spread = np.ptp(frame.positions @ inverse, axis=0)
        widest = max(widest, float((spread + cutoff * np.linalg.norm(inverse, axis=0)).max()) + 1)
    return np.int8 if widest < np.iinfo(np.int8).max else np.int32
