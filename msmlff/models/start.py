"""Numbers of the training set that a model starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbor_cache import NeighborCache
from msmlff.data.statistics import Statistics, dataset_statistics
from msmlff.data.store import FrameStore
from msmlff.models.architecture import Architecture
from msmlff.models.base import ForceField
from msmlff.models.pair_terms import pair_terms
from msmlff.nn.dispersion import D3
from msmlff.nn.zbl import ZBL


def start_statistics(architecture: Architecture, frames: FrameStore, e0s: Mapping[int, float]) -> Statistics:
    """Statistics of what the network of an architecture has to learn from labelled frames.

    Shift and scale are those of the labels less the energies and forces of the pair terms.

    Args:
        architecture: its cutoffs and pair terms.
        frames: the training frames.
        e0s: eV per atomic number.
    """
    numbers = tuple(sorted(e0s))
    architecture = architecture.for_species(numbers)
    terms = pair_terms(architecture.zbl, architecture.dispersion, numbers)
    pairs = _Pairs(numbers, architecture.cutoffs, terms)
    neighbors = NeighborCache(frames, pairs.cutoff)
    statistics = dataset_statistics(frames, neighbors, architecture.cutoffs, e0s)
    if not terms:
        return statistics
    rest = dataset_statistics(_Rest(frames, neighbors, pairs), neighbors, architecture.cutoffs, e0s, 1)
    return replace(rest, neighbors=statistics.neighbors)


class _Pairs(ForceField):
    """The pair terms alone, in float64."""

    def __init__(self, numbers: Sequence[int], cutoffs: Sequence[float], terms: Sequence[ZBL | D3]) -> None:
        super().__init__(numbers, [0.0] * len(numbers), cutoffs, terms)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64

    def interaction_energies(self, vectors: Tensor, batch: Batch) -> Tensor:
        return vectors.new_zeros(batch.num_atoms)

    def features(self, batch: Batch) -> Tensor:
        return torch.zeros(batch.num_atoms, 0)

    def config(self) -> dict[str, Any]:
        return {}


class _Rest(Sequence[Configuration]):
    """Frames whose energies and forces lack what the pair terms give."""

    def __init__(self, frames: FrameStore, neighbors: NeighborCache, pairs: _Pairs) -> None:
        self._frames, self._neighbors, self._pairs = frames, neighbors, pairs

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> Configuration: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Configuration]: ...

    def __getitem__(self, index: int | slice) -> Configuration | Sequence[Configuration]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        frame = self._frames[index]
        batch = collate([frame], [self._neighbors[index]], self._pairs.atomic_numbers)
        given = self._pairs(batch, create_graph=False)
        forces = None if frame.forces is None else frame.forces - given.forces.numpy()
        return replace(frame, energy=frame.energy - float(given.energy), forces=forces)
