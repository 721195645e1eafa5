"""One measurement of ``msmlff benchmark growth``, in a process of its own: its memory is that of it alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from ase import Atoms

from msmlff.app.benchmark_process import requested
from msmlff.app.benchmark_systems import nickel, repeated
from msmlff.app.runtime import PeakMemory, keep_freed_memory
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors_device import neighbor_list_for
from msmlff.data.statistics import Statistics
from msmlff.models import (
    ForceField,
    MACEArchitecture,
    MSMACEArchitecture,
    Prediction,
    Scale,
    build_model,
)
from msmlff.models.architecture import MessagePassingArchitecture
from msmlff.simulation.chunks import ChunkedEvaluator, free_bytes

SYSTEMS = ("fc43", "nickel")
MODES = ("whole", "chunked")
#: Å: of MACE and of MS-MACE's short scale; of its long scale.
CUTOFFS = {"fc43": (4.5, 7.0), "nickel": (4.5, 7.0)}
#: Calls are repeated up to so often, or until so many seconds have passed.
_REPEATS, _SECONDS = 3, 4.0


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        system: "fc43" (liquid C12F27N) or "nickel" (fcc).
        atoms: wanted.
        model: a key of ``MODELS``.
        mode: "whole" or "chunked".
        memory_gib: of a piece, where chunked.
        threads: of torch.
        device: "cpu" or "cuda".
    """

    system: str
    atoms: int
    model: str
    mode: str
    memory_gib: float = 2.0
    threads: int = 2
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.system}_{self.model}_{self.mode}_{self.atoms}_{self.device}"


def _msmace(channels: int, hidden_l_max: int, l_max: int, mlp: tuple[int, ...]) -> Callable[..., Any]:
    def make(short: float, long: float) -> MessagePassingArchitecture:
        scales = (
            Scale(short, channels, l_max, mlp),
            Scale(long, channels // 4, 1, (*mlp[:-1], max(8, mlp[-1] // 4))),
        )
        return MSMACEArchitecture(scales=scales, channels=channels, hidden_l_max=hidden_l_max)

    return make


def _mace(short: float, long: float) -> MessagePassingArchitecture:
    return MACEArchitecture(cutoff=short, channels=64, hidden_l_max=1, l_max=3, radial_mlp=(32, 32, 16))


#: Architectures by name: functions of the short and the long cutoff.
MODELS: dict[str, Callable[[float, float], MessagePassingArchitecture]] = {
    "msmace-small": _msmace(32, 0, 2, (16, 16, 8)),
    "msmace-medium": _msmace(64, 1, 3, (32, 32, 16)),
    "msmace-large": _msmace(128, 1, 3, (64, 64, 64)),
    "mace-medium": _mace,
}


def make_system(cell: Cell, unit: Atoms | None) -> Configuration:
    """The frame of a cell; ``unit`` is the packed cell of the liquid."""
    return nickel(cell.atoms) if unit is None else repeated(unit, cell.atoms)


def make_model(cell: Cell, frame: Configuration) -> ForceField:
    """The model with random weights, float32."""
    torch.manual_seed(0)
    architecture = MODELS[cell.model](*CUTOFFS[cell.system])
    numbers = sorted(set(frame.numbers.tolist()))
    zeros = (0.0,) * len(numbers)
    statistics = Statistics((40.0,) * len(architecture.cutoffs), zeros, 1.0)
    return build_model(architecture, numbers, zeros, statistics).to(cell.device).eval()


def measure(cell: Cell, unit: Atoms | None) -> dict[str, Any]:
    """Least seconds of a search for neighbours and of energy and forces, peak memory in MB, facts.

    ``search_s`` is null where chunked: pieces search their own neighbours, which is part of ``seconds``.
    ``base_mb`` is what was resident before, when all code and the smallest system had been evaluated once.
    """
    keep_freed_memory()
    torch.set_num_threads(cell.threads)
    frame = make_system(cell, unit)
    model = make_model(cell, frame)
    _whole(model, make_system(replace(cell, atoms=100), unit))
    if cell.mode == "whole" and not _fits(model, frame):
        return {**asdict(cell), "real_atoms": len(frame), "skipped": "more than the memory that is free"}
    peak = PeakMemory(cell.device)
    size = len(frame)
    if cell.mode == "chunked":  # found out once, and then kept for all steps of a simulation
        size = ChunkedEvaluator(model, memory_gib=cell.memory_gib).fitting(frame)
    evaluator = ChunkedEvaluator(model, atoms_per_chunk=size)
    searches: list[float] = []
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < _REPEATS and (not times or time.perf_counter() - start < _SECONDS):
        begin = time.perf_counter()
        if cell.mode == "whole":
            prediction, searched = _whole(model, frame)
            searches.append(searched)
        else:
            prediction = evaluator(frame)
        assert prediction.forces is not None
        largest_force = float(prediction.forces.abs().max())  # waits for the device
        times.append(time.perf_counter() - begin - (searches[-1] if searches else 0.0))
    return {
        **asdict(cell),
        "real_atoms": len(frame),
        "energy": float(prediction.energy[0]),
        "search_s": min(searches) if searches else None,
        "seconds": min(times),
        "calls": len(times),
        "base_mb": peak.before if cell.device == "cpu" else 0.0,
        "peak_mb": peak.mb(),
        "atoms_per_chunk": size,
        "largest_force": largest_force,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _whole(model: ForceField, frame: Configuration) -> tuple[Prediction, float]:
    """Energy and forces in one piece, and seconds of the search for neighbours."""
    begin = time.perf_counter()
    device = next(model.parameters()).device
    neighbors = neighbor_list_for(device, frame.positions, frame.cell, frame.pbc, model.cutoff)
    searched = time.perf_counter() - begin
    batch = collate([frame], [neighbors], model.atomic_numbers).to(device)
    del neighbors
    return model(batch, create_graph=False), searched


def _fits(model: ForceField, frame: Configuration) -> bool:
    free = free_bytes(next(model.parameters()).device)
    return ChunkedEvaluator(model).memory(frame).of_whole(len(frame)) <= 0.9 * free


def main() -> None:
    """Reads a request as JSON from standard input, prints the result as JSON."""
    cell, unit = requested()
    print(json.dumps(measure(Cell(**cell), unit)))


if __name__ == "__main__":
    main()
