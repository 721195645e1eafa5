"""One measurement of ``msmlff benchmark md``, in a process of its own: its memory is that of it alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from msmlff.app.benchmark_growth_worker import CUTOFFS, MODELS
from msmlff.app.benchmark_process import requested
from msmlff.app.benchmark_systems import nickel, repeated
from msmlff.app.benchmark_worker import CUEQ, Setting, random_model
from msmlff.app.runtime import PeakMemory, keep_freed_memory
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.data.statistics import Statistics
from msmlff.models import ForceField, build_model
from msmlff.simulation import NVT, MDSettings, ModelForces, MolecularDynamics

SYSTEMS = ("fc43", "nickel")
#: Our MACE and MS-MACE, then the peers of our MACE.
CODES = ("msmlff", "msmace", "mace-torch", CUEQ)
OURS = CODES[:2]
MSMACE = "msmace-medium"
TIMESTEP, TEMPERATURE, FRICTION_TIME = 0.5, 300.0, 100.0  # fs, K, fs
_WARM, _STEPS, _SECONDS = 2, 200, 20.0


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        system: "fc43" (liquid C12F27N) or "nickel" (fcc).
        atoms: wanted.
        code: "msmlff" (MACE), "msmace" (``MSMACE`` of ``msmlff benchmark growth``), and in ASE "mace-torch"
            and "mace-cueq", mace-torch with cuEquivariance.
        channels, hidden_l_max, l_max, cutoff: of MACE, the same for all codes; Å.
        memory_gib: that an evaluation of ours may take; beyond it, pieces.
        threads: of torch.
        device: "cpu" or "cuda".
        preload: name of the library that was preloaded, "" for none.
    """

    system: str
    atoms: int
    code: str
    channels: int = 128
    hidden_l_max: int = 1
    l_max: int = 3
    cutoff: float = 5.0
    memory_gib: float = 2.0
    threads: int = 2
    device: str = "cpu"
    preload: str = ""

    @property
    def name(self) -> str:
        """Of its file."""
        allocator = "_preload" if self.preload else ""
        size = "medium" if self.code == "msmace" else f"{self.channels}x{self.hidden_l_max}"
        return f"{self.system}_{self.code}{allocator}_{size}_{self.atoms}_{self.device}"


def measure(cell: Cell, unit: Atoms | None) -> dict[str, Any]:
    """Seconds of a step of Langevin dynamics, neighbours and all, peak memory in MB."""
    torch.set_num_threads(cell.threads)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    frame = nickel(cell.atoms) if unit is None else repeated(unit, cell.atoms)
    model, neighbors = _model(cell, nickel(100) if unit is None else repeated(unit, 100))
    peak = PeakMemory(cell.device)
    run = _ours(cell, model, frame) if cell.code in OURS else _theirs(cell, model, frame)
    run(_WARM)
    steps, seconds = 0, 0.0
    while steps < _STEPS and seconds < _SECONDS:
        start = time.perf_counter()
        run(1)
        if cell.device == "cuda":
            torch.cuda.synchronize()
        seconds += time.perf_counter() - start
        steps += 1
    return {
        **asdict(cell),
        "real_atoms": len(frame),
        "steps": steps,
        "step_s": seconds / steps,
        "edges_per_atom": neighbors,
        "parameters": sum(p.numel() for p in model.parameters()),
        "base_mb": peak.before if cell.device == "cpu" else 0.0,
        "peak_mb": peak.mb(),
    }


def _model(cell: Cell, sample: Configuration) -> tuple[torch.nn.Module, float]:
    """With random weights; and the mean number of neighbours."""
    numbers = tuple(sorted(set(sample.numbers.tolist())))
    cutoffs = CUTOFFS[cell.system] if cell.code == "msmace" else (cell.cutoff,)
    counts = [len(neighbor_list(sample.positions, sample.cell, sample.pbc, r)) / len(sample) for r in cutoffs]
    model: torch.nn.Module
    if cell.code == "msmace":
        zeros = (0.0,) * len(numbers)
        model = build_model(MODELS[MSMACE](*cutoffs), numbers, zeros, Statistics(tuple(counts), zeros, 1.0))
    else:
        setting = Setting(
            cutoff=cell.cutoff,
            channels=cell.channels,
            hidden_l_max=cell.hidden_l_max,
            l_max=cell.l_max,
            device=cell.device,
        )
        model = random_model(setting, cell.code, numbers, counts[0])
    return model.to(cell.device).eval(), counts[-1]


def _ours(cell: Cell, model: torch.nn.Module, frame: Configuration) -> Callable[[int], None]:
    assert isinstance(model, ForceField)
    keep_freed_memory()
    forces = ModelForces(model, cell.memory_gib)
    ensemble = NVT(thermostat="langevin", thermostat_time=FRICTION_TIME)
    md = MolecularDynamics(forces, [frame], ensemble, MDSettings(TIMESTEP, TEMPERATURE))

    def run(steps: int) -> None:
        before = md.step
        md.run(steps)
        if md.step != before + steps:
            raise RuntimeError("; ".join(failure.message() for failure in md.failures.values()))

    return run


def _theirs(cell: Cell, model: torch.nn.Module, frame: Configuration) -> Callable[[int], None]:
    from mace.calculators import MACECalculator

    atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
    atoms.calc = MACECalculator(models=[model], device=cell.device, default_dtype="float32")
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=rng)
    md = Langevin(
        atoms,
        TIMESTEP * units.fs,
        temperature_K=TEMPERATURE,
        friction=1 / (FRICTION_TIME * units.fs),
        rng=rng,
    )

    def run(steps: int) -> None:
        md.run(steps)
        if not np.isfinite(atoms.get_kinetic_energy()):
            raise RuntimeError("the dynamics exploded")

    return run


def main() -> None:
    """Reads a request as JSON from standard input, prints the result as JSON."""
    cell, unit = requested()
    print(json.dumps(measure(Cell(**cell), unit)))


if __name__ == "__main__":
    main()
