"""A large configuration evaluated piece by piece: exact, in memory that the size of a piece sets.

The atoms are divided into blocks of space. For each block the energies of its own atoms are computed, with
their derivatives by the positions of these and of the atoms around them, as far as the model's receptive
field reaches (``surroundings``). Summed over the blocks that is what the whole evaluation gives, to rounding.
Neighbours, too, are searched for one block at a time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.collate import collate, species_of
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors_device import neighbor_list_for
from msmlff.errors import InputError
from msmlff.models.base import ForceField, Prediction
from msmlff.simulation.blocks import Space
from msmlff.simulation.surroundings import Surrounded, piece_of, surrounded_batch

#: Atoms of the block that is evaluated to see what memory an edge takes.
_PROBE = 500
#: The largest memory of an evaluation: up to so many times what autograd keeps for the derivatives, and bytes
#: an edge for the neighbour list and the vectors.
_PEAK, _EDGE = 1.5, 200
#: Edges of a batch that is never divided.
_FEW = 50_000
#: Atoms of a piece at the least, where no memory is given.
_LEAST = 64
#: Edges that are enough for a measurement.
_ENOUGH = 500_000
#: Of the free memory, what is taken where nothing is said.
_SHARE = 0.5
#: Of the control group that this process belongs to, on Linux.
_GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes that evaluations of a frame take.

    Attributes:
        kept: bytes autograd keeps for an edge that is in every layer, its share of what is kept for atoms
            included.
        received: edges that an atom receives.
        density: atoms / Å³.
        reaches: of the model (``ForceField.reaches``).
    """

    kept: float
    received: float
    density: float
    reaches: Sequence[tuple[int, float]]

    @property
    def of_edge(self) -> float:
        """For an edge, in one piece."""
        return _EDGE + _PEAK * self.kept

    def of_whole(self, atoms: int) -> float:
        """In one piece."""
        return self.of_edge * self.received * atoms

    def of_pieces(self, sizes: np.ndarray) -> np.ndarray:
        """Of pieces of ``sizes`` atoms and what surrounds them: in each layer fewer atoms receive."""
        side = (sizes / self.density) ** (1 / 3)

        def receiving(away: float) -> np.ndarray:
            return self.density * (side + 2 * away) ** 3

        layers = [
            np.mean([receiving(h * cutoff) for h in range(hops)], axis=0) for hops, cutoff in self.reaches
        ]
        stored = receiving(max((hops - 1) * cutoff for hops, cutoff in self.reaches))
        return self.received * (_EDGE * stored + _PEAK * self.kept * np.max(layers, axis=0))

    def fitting(self, atoms: int, budget: float, least: int) -> int:
        """Atoms of a piece that ``budget`` bytes allow; all where the whole fits.

        Args:
            least: so many are taken in any case; 0: none.

        Raises:
            InputError: the budget does not allow a few.
        """
        if self.of_whole(atoms) <= budget:
            return atoms
        sizes = np.unique(np.geomspace(8, atoms, 200).astype(int))
        takes = self.of_pieces(sizes)
        fitting = sizes[takes <= budget]
        if len(fitting) == 0 and least == 0:
            raise InputError(
                f"memory_gib={budget / 2**30:.3g} is too little for a piece of {sizes[0]} atoms of these, "
                f"which takes {takes[0] / 2**30:.2g} GiB: write more"
            )
        return max(int(fitting.max(initial=0)), min(least, atoms))


class ChunkedEvaluator:
    """Energy, forces and stress of large configurations in bounded memory.

    A frame that fits is evaluated in one piece. How many atoms fit is found by evaluating a small block, once
    for frames of one composition and about one volume.

    Attributes:
        piece_size: atoms of a piece at most, in the last call.

    Args:
        model: on its device, in evaluation mode.
        atoms_per_chunk: atoms of a piece at most; None: as ``memory_gib`` allows.
        memory_gib: GiB that an evaluation may take beyond what is there before; None: half of what is free
            on the model's device.

    Raises:
        InputError: both are given, or one is not positive.
    """

    def __init__(
        self, model: ForceField, *, atoms_per_chunk: int | None = None, memory_gib: float | None = None
    ) -> None:
        if atoms_per_chunk is not None and memory_gib is not None:
            raise InputError("atoms_per_chunk and memory_gib are given: write one of them")
        if atoms_per_chunk is not None and atoms_per_chunk < 1:
            raise InputError(f"atoms_per_chunk is {atoms_per_chunk}; write a whole number of at least 1")
        if memory_gib is not None and not memory_gib > 0:
            raise InputError(f"memory_gib is {memory_gib}; write a positive number of GiB")
        self.model = model
        self.atoms_per_chunk, self.memory_gib = atoms_per_chunk, memory_gib
        self.piece_size = 0
        self._measured: dict[Hashable, Memory] = {}
        self._budget = None if memory_gib is None else memory_gib * 2**30
        self._device = next(model.parameters()).device

    def __call__(self, frame: Configuration, *, forces: bool = True, stress: bool = False) -> Prediction:
        """What the model gives for a batch of this one frame.

        Raises:
            InputError: an element that the model does not know; a geometry as in ``neighbor_list``; less
                memory than a block of a few atoms takes.
        """
        species = species_of([frame], self.model.atomic_numbers)
        self.piece_size = self.atoms_per_chunk or self.fitting(frame)
        asked = {"forces": forces, "stress": stress, "create_graph": False}
        if len(frame) <= self.piece_size:
            neighbors = neighbor_list_for(
                self._device, frame.positions, frame.cell, frame.pbc, self.model.cutoff
            )
            batch = collate([frame], [neighbors], self.model.atomic_numbers).to(self._device)
            return self.model(batch, **asked)
        space, total = Space(frame), self._nothing(len(frame), asked)
        for block in space.blocks(self.piece_size):
            piece, atoms = self._piece(space, block, species, frame.cell)
            _add(total, self.model(piece, **asked), atoms, len(block))
        return total

    def of_batch(self, batch: Batch, *, forces: bool = True, stress: bool = False) -> Prediction:
        """What the model gives for a batch, whose edges are known already. Where that does not fit, its
        frames go through in groups, and a frame that does not fit in pieces.

        Raises:
            InputError: less memory than a block of a few atoms takes.
        """
        asked = {"forces": forces, "stress": stress, "create_graph": False}
        if self.atoms_per_chunk is None and batch.num_edges <= _FEW:
            return self.model(batch, **asked)
        if self.atoms_per_chunk is None:
            per_edge, room = self._along(batch).of_edge, self._bytes()
            costs = [per_edge * edges for edges in batch.row_ptr[batch.atom_ptr].diff().tolist()]
        else:
            costs, room = batch.atom_ptr.diff().tolist(), self.atoms_per_chunk
        parts = []
        for first, last in _groups(costs, room):
            some = batch if last - first == len(costs) else batch.frames(first, last)
            whole = last - first > 1 or costs[first] <= room
            parts.append(self.model(some, **asked) if whole else self._in_pieces(some, asked))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _in_pieces(self, whole: Batch, asked: dict[str, bool]) -> Prediction:
        """Of one frame."""
        most = self.atoms_per_chunk
        self.piece_size = most or self._along(whole).fitting(whole.num_atoms, self._bytes(), self._least)
        total = self._nothing(whole.num_atoms, asked)
        for block in Space(self._frame(whole, 0)).blocks(self.piece_size):
            piece = piece_of(self.model.reaches, whole, torch.from_numpy(np.sort(block)).to(self._device))
            _add(total, self.model(piece.batch, **asked), piece.atoms, len(block))
        return total

    def _along(self, batch: Batch) -> Memory:
        """What evaluations take of the frame of a batch that has the most edges; measured once for frames
        with about as many neighbours."""
        edges = batch.row_ptr[batch.atom_ptr].diff()
        number = int(edges.argmax())
        received = float(edges[number] / batch.atom_ptr.diff()[number])
        like = ("along", round(4 * np.log2(received)))
        if like not in self._measured:
            whole = batch.frames(number, number + 1)
            space = Space(self._frame(whole, 0))
            block = next(space.blocks(_PROBE))
            part = torch.from_numpy(np.sort(block)).to(self._device)
            piece = piece_of([(2, self.model.cutoff)], whole, part).batch
            self._measured[like] = self._memory_of_piece(piece, len(block) / space.volume(block))
        return self._measured[like]

    def _nothing(self, atoms: int, asked: dict[str, bool]) -> Prediction:
        like = torch.zeros(0, dtype=torch.float64, device=self._device)
        forces = like.new_zeros(atoms, 3) if asked["forces"] else None
        stress = like.new_zeros(1, 3, 3) if asked["stress"] else None
        return Prediction(like.new_zeros(1), like.new_zeros(atoms), forces, stress)

    def _frame(self, batch: Batch, number: int) -> Configuration:
        """Periodic in the directions that edges go round."""
        first, last = batch.atom_ptr[number : number + 2].tolist()
        edges = slice(int(batch.row_ptr[first]), int(batch.row_ptr[last]))
        periodic = (batch.shift[edges] != 0).any(dim=0).cpu().numpy()
        numbers = np.asarray(self.model.atomic_numbers)[batch.species[first:last].cpu().numpy()]
        positions = batch.positions[first:last].detach().cpu().numpy()
        return Configuration(numbers, positions, batch.cell[number].cpu().numpy(), periodic)

    def _piece(
        self,
        space: Space,
        block: np.ndarray,
        species: np.ndarray,
        cell: np.ndarray,
        probe: bool = False,
    ) -> tuple[Batch, Tensor]:
        """The batch of a block, and [its atoms] long, which atoms of the frame they are.

        A probe has the block's neighbours around it, with all edges among them.
        """
        cutoff = self.model.cutoff
        atoms, positions = space.surrounded(block, cutoff if probe else self.model.receptive_field)
        piece: Surrounded = surrounded_batch(
            [(2, cutoff)] if probe else self.model.reaches,
            torch.from_numpy(positions).to(self._device),
            torch.from_numpy(species[atoms]).to(self._device),
            len(block),
            torch.from_numpy(cell).to(self._device, torch.float64),
        )
        return piece.batch, torch.from_numpy(atoms).to(self._device)[piece.atoms]

    def fitting(self, frame: Configuration) -> int:
        """How many atoms of a piece the memory allows; all of the frame's where it fits as a whole.

        Raises:
            InputError: as a call.
        """
        return self._memory_of(frame).fitting(len(frame), self._bytes(), self._least)

    @property
    def _least(self) -> int:
        """Atoms of a piece that are taken at the least; 0: too little memory is an error."""
        return 0 if self.memory_gib else _LEAST

    def _bytes(self) -> float:
        """The budget; what is free is looked up once."""
        if self._budget is None:
            self._budget = _SHARE * free_bytes(self._device)
        return self._budget

    def _memory_of(self, frame: Configuration) -> Memory:
        """``memory``, measured once for frames alike: of one composition, in volumes within about a tenth."""
        volume = Space(frame).volume(np.arange(len(frame)))
        counts = [tuple(part.tolist()) for part in np.unique(frame.numbers, return_counts=True)]
        like = (*counts, tuple(frame.pbc.tolist()), round(10 * np.log(volume)))
        if like not in self._measured:
            self._measured[like] = self.memory(frame)
        return self._measured[like]

    def memory(self, frame: Configuration) -> Memory:
        """What evaluations of the frame take: a block of it is evaluated to see what memory an edge takes.

        Raises:
            InputError: as a call.
        """
        species, space = species_of([frame], self.model.atomic_numbers), Space(frame)
        block = next(space.blocks(_PROBE))
        batch, _ = self._piece(space, block, species, frame.cell, probe=True)
        return self._memory_of_piece(batch, len(block) / space.volume(block))

    def _memory_of_piece(self, batch: Batch, density: float) -> Memory:
        received = int(batch.row_ptr[batch.num_counted]) / batch.num_counted
        # Without shells every edge is in every layer, as in a frame that is evaluated as a whole.
        kept = kept_bytes(self.model, replace(batch, shells=None)) / max(1, batch.num_edges)
        return Memory(kept, received, density, self.model.reaches)


def sample_of(model: ForceField, batch: Batch) -> Batch:
    """The batch, or of a large one a block with what surrounds it: enough to measure what is fastest."""
    if batch.num_edges <= _ENOUGH:
        return batch
    first = batch.frames(0, 1)
    frame = ChunkedEvaluator(model)._frame(first, 0)
    block = torch.from_numpy(np.sort(next(Space(frame).blocks(_PROBE)))).to(batch.positions.device)
    return piece_of(model.reaches, first, block).batch


def _groups(costs: Sequence[float], room: float) -> Iterator[tuple[int, int]]:
    """Ranges (first, last) of frames that cost no more than there is room, or of one that costs more."""
    first, total = 0, 0.0
    for g, cost in enumerate(costs):
        if g > first and total + cost > room:
            yield first, g
            first, total = g, 0.0
        total += cost
    yield first, len(costs)


def _add(total: Prediction, part: Prediction, atoms: Tensor, counted: int) -> None:
    """Adds what a piece of ``atoms`` gives, of which the first ``counted`` count."""
    total.energy += part.energy.detach()
    total.atomic_energies[atoms[:counted]] = part.atomic_energies.detach()
    if total.forces is not None and part.forces is not None:
        total.forces.index_add_(0, atoms, part.forces)
    if total.stress is not None and part.stress is not None:
        total.stress += part.stress


def _joined(parts: Sequence[Prediction]) -> Prediction:
    """Of frames one after the other."""
    forces = [p.forces for p in parts if p.forces is not None]
    stress = [p.stress for p in parts if p.stress is not None]
    return Prediction(
        torch.cat([p.energy for p in parts]),
        torch.cat([p.atomic_energies for p in parts]),
        torch.cat(forces) if forces else None,
        torch.cat(stress) if stress else None,
    )


def kept_bytes(model: ForceField, batch: Batch) -> int:
    """Bytes that autograd keeps for the forces on a batch."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch, create_graph=False)
    return sum(kept.values())


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device; on the CPU also what a control group leaves to this process."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.is_file() else None
    free = int(found.group(1)) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used, shares = (_GROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        # What is cached of files counts as used, but is given up where memory is asked for.
        stat = shares.read_text() if shares.is_file() else ""
        cached = sum(int(size) for size in re.findall(r"^(?:in)?active_file (\d+)$", stat, re.MULTILINE))
        free = min(free, int(limit.read_text()) - int(used.read_text()) + cached)
    return max(0, free)
