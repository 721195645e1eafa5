"""The engine's own share of a step, and the drift of the energy in NVE.

    python scripts/benchmark_md.py MODEL FILE [--atoms 1000] [--steps 100] [--drift-ps 5] [--out FOLDER]

MODEL: a run folder or model file; FILE: frames of molecules or cells. The share is measured on one system of
at least --atoms atoms, copies of the first frame beside each other (a periodic frame is repeated), NVT, with
all output switched on; the drift on the first frames themselves, in float32 and float64.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from msmlff.app.runtime import device_name, keep_freed_memory
from msmlff.app.simulate_setup import model_files, repeated
from msmlff.data.batch import Batch
from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames
from msmlff.models.files import load_model
from msmlff.simulation import NVE, NVT, Evaluation, MDSettings, ModelForces, MolecularDynamics
from msmlff.simulation.output import Output, OutputSpec

GAP = 4.0  # Å between the copies of a molecule


class TimedForces(ModelForces):
    """Notes the time spent in the model."""

    seconds = 0.0

    def __call__(self, batch: Batch, stress: bool) -> Evaluation:
        start = clock(self.device)
        evaluation = super().__call__(batch, stress)
        self.seconds += clock(self.device) - start
        return evaluation


def clock(device: torch.device) -> float:
    """Seconds, after the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def enlarged(frame: Configuration, atoms: int) -> Configuration:
    """Copies of the frame side by side, at least so many atoms in all."""
    side = math.ceil((atoms / len(frame)) ** (1 / 3))
    times = [side, side, math.ceil(atoms / len(frame) / side**2)]
    if frame.pbc.all():
        return repeated(frame, times)
    box = np.diag(np.ptp(frame.positions, axis=0) + GAP)
    crystal = repeated(replace(frame, cell=box, pbc=np.ones(3, bool)), times)
    return replace(crystal, cell=np.zeros((3, 3)), pbc=np.zeros(3, bool))


def share(path: Path, frame: Configuration, steps: int, device: str) -> dict[str, Any]:
    """Milliseconds of a step and of it in the model, with trajectory, thermo.csv and restarts written."""
    forces = TimedForces(load_model(path, torch.float32, device))
    with tempfile.TemporaryDirectory() as folder:
        output = Output(Path(folder), OutputSpec(save_seconds=5.0), [frame], {})
        md = MolecularDynamics(forces, [frame], NVT(), MDSettings(0.5, 300.0), hooks=output.hooks)
        md.run(10)
        forces.seconds, searches, start = 0.0, md.edges.searches, clock(forces.device)
        md.run(steps)
        output.save(md)
        seconds = clock(forces.device) - start
    return {
        "atoms": len(frame),
        "steps": steps,
        "searches": md.edges.searches - searches,
        "step_ms": round(1e3 * seconds / steps, 3),
        "model_ms": round(1e3 * forces.seconds / steps, 3),
        "engine_share": round(1 - forces.seconds / seconds, 4),
        "atom_steps_per_second": round(len(frame) * steps / seconds),
    }


def drift(
    path: Path, frames: list[Configuration], ps: float, dtype: torch.dtype, device: str
) -> dict[str, Any]:
    """meV/atom/ps: slope of a line through the total energy, 0.5 fs, from 300 K after 0.5 ps of NVT."""
    forces = ModelForces(load_model(path, dtype, device))
    start = MolecularDynamics(forces, frames, NVT(thermostat_time=50.0), MDSettings(0.5, 300.0, seed=1))
    start.run(1000)
    velocities = [start.velocities()[k] for k in start.alive]
    frames = [start.frames()[k] for k in start.alive]
    md = MolecularDynamics(forces, frames, NVE(), MDSettings(0.5, 300.0), velocities)
    times, totals = [], []
    for _ in range(round(ps / 0.005)):
        md.run(10)
        times.append(1e-3 * md.time_fs)
        totals.append([md.conserved().get(k, np.nan) / len(frames[k]) for k in range(len(frames))])
    slopes = 1e3 * np.polyfit(times, np.array(totals) - totals[0], 1)[0]
    spread = 1e3 * np.std(np.array(totals) - np.outer(times, slopes) / 1e3, axis=0)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "atoms": [len(f) for f in frames],
        "ps": ps,
        "drift_meV_per_atom_ps": [round(float(s), 5) for s in slopes],
        "largest": round(float(np.nanmax(np.abs(slopes))), 5),
        "fluctuation_meV_per_atom": round(float(spread.mean()), 5),
        "failed": [f.message() for f in (*start.failures.values(), *md.failures.values())],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=str)
    parser.add_argument("file", type=Path)
    parser.add_argument("--atoms", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--drift-ps", type=float, default=5.0)
    parser.add_argument("--frames", type=int, default=6, help="of the drift")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    keep_freed_memory()
    path = model_files(args.model)[0]
    frames = list(islice(read_frames(args.file), args.frames))
    found: dict[str, Any] = {"device": device_name(args.device), "model": load_model(path).config()}
    found["share"] = share(path, enlarged(frames[0], args.atoms), args.steps, args.device)
    print(json.dumps(found["share"]))
    found["drift"] = []
    for dtype in (torch.float32, torch.float64) if args.drift_ps else ():
        found["drift"].append(drift(path, frames, args.drift_ps, dtype, args.device))
        print(json.dumps(found["drift"][-1]))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "md.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
