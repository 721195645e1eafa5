"""Training of the model that drives the MD, and the MD itself, for the dense-hydrogen pool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from dense_hydrogen_plan import Plan, tidy

from msmlff.app.runtime import keep_freed_memory
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.data.packing import BatchBudget
from msmlff.data.statistics import dataset_statistics
from msmlff.data.store import FrameStore
from msmlff.labeling.labeler import one_thread
from msmlff.models import MACE, MACEArchitecture
from msmlff.models.files import load_model, save_model
from msmlff.simulation import NVT, MDSettings, ModelForces, MolecularDynamics
from msmlff.training.data_module import FrameSet
from msmlff.training.fit import Run, fit
from msmlff.training.loss import LossSpec, LossTerm
from msmlff.training.optim import OptimizerSpec, ScheduleSpec
from msmlff.training.specs import TrainingSpec


@dataclass(frozen=True)
class Task:
    """MD of some replicas in one process.

    Attributes:
        model: model file.
        starts: one starting frame a replica.
        ids: a number a replica that fixes its random numbers.
        ensemble, settings: of the dynamics.
        skip: steps before the first snapshot.
        every: steps between snapshots.
        count: snapshots wanted.
    """

    model: str
    starts: list[Configuration]
    ids: list[int]
    ensemble: NVT
    settings: MDSettings
    skip: int
    every: int
    count: int


@dataclass(frozen=True)
class Trajectory:
    """What came of one replica: snapshots (unlabelled), and why and when it failed ("" if it did not)."""

    snapshots: list[Configuration]
    failed: str
    failed_fs: float


def train(
    frames: Sequence[Configuration], plan: Plan, e0: float, previous: Path | None, folder: Path, seed: int
) -> Path:
    """Train on the labelled frames, from the weights of ``previous`` where given; returns the model file."""
    path = folder / "model.safetensors"
    if path.exists():
        return path
    keep_freed_memory()
    torch.set_num_threads(1)  # frames are small: a second thread gains little and suffers from a busy machine
    torch.manual_seed(seed)
    order = np.random.default_rng(seed).permutation(len(frames))
    held = max(1, len(frames) // 12)
    store = FrameStore.build([frames[i] for i in order], folder / "store")
    training, held_out = store.subset(range(held, len(frames))), store.subset(range(held))
    sets = [FrameSet.at_cutoff(part, plan.cutoff) for part in (training, held_out)]
    if previous is None:
        statistics = dataset_statistics(training, sets[0].neighbors, [plan.cutoff], {1: e0})
        architecture = MACEArchitecture(
            cutoff=plan.cutoff,
            channels=plan.channels,
            l_max=plan.l_max,
            radial_mlp=plan.radial_mlp,
            correlation=plan.correlation,
            layers=plan.layers,
        )
        model = MACE([1], [e0], architecture, statistics)
        steps, lr = plan.train_steps[0], 0.02
    else:
        model = load_model(previous)
        model.requires_grad_(True)
        steps, lr = plan.train_steps[1], 0.01
    spec = TrainingSpec(
        steps=steps,
        validations=6,
        batch=BatchBudget(frames=2),
        validation_batch=BatchBudget(frames=8),
        loss=LossSpec(
            energy=LossTerm("huber", 20.0, 0.1),
            forces=LossTerm("huber", 1.0, 0.5),
            stress=LossTerm("huber", 4.0, 0.1),
        ),
        optimizer=OptimizerSpec(lr=lr),
        schedule=ScheduleSpec(warmup_steps=min(50, steps // 4)),
    )
    result = fit(model, *sets, spec, Run(folder, seed=seed, device="cpu"))
    save_model(
        result.model, path, {"purpose": "drives the MD that samples dense hydrogen", "frames": len(frames)}
    )
    return path


def force_errors(model_file: Path, frames: Sequence[Configuration], batch: int = 8) -> dict[str, float]:
    """Force RMSE (eV/Å) and energy RMSE (meV/atom) of a model on labelled frames, and the RMS force
    component.
    """
    model = load_model(model_file).eval()
    residuals, labels, energies = [], [], []
    for first in range(0, len(frames), batch):
        part = frames[first : first + batch]
        lists = [neighbor_list(f.positions, f.cell, f.pbc, model.cutoff) for f in part]
        prediction = model(collate(part, lists, model.atomic_numbers))
        forces = np.concatenate([f.forces for f in part])
        residuals.append(prediction.forces.numpy() - forces)
        labels.append(forces)
        energies += [(float(p) - f.energy) / len(f) for p, f in zip(prediction.energy, part, strict=True)]
    rms = float(np.sqrt(np.mean(np.concatenate(labels) ** 2)))
    rmse = float(np.sqrt(np.mean(np.concatenate(residuals) ** 2)))
    return {
        "force_rmse": rmse,
        "force_rms": rms,
        "ratio": rmse / rms,
        "energy_rmse_mev_atom": 1000 * float(np.sqrt(np.mean(np.square(energies)))),
    }


def run_task(task: Task) -> list[Trajectory]:
    """Body of an MD process."""
    keep_freed_memory()
    torch.set_num_threads(1)
    forces = ModelForces(load_model(task.model))
    md = MolecularDynamics(forces, task.starts, task.ensemble, task.settings, replica_ids=task.ids)
    snapshots: list[list[Configuration]] = [[] for _ in task.starts]
    md.run(task.skip)
    for _ in range(task.count):
        md.run(task.every)
        temperatures = md.temperatures()
        for k, frame in md.frames().items():
            info = {
                **frame.info,
                "kinetic_temperature_K": round(temperatures[k], 1),
                "time_fs": round(md.time_fs, 3),
            }
            snapshots[k].append(tidy(replace(frame, info=info)))
    out = []
    for k, frames in enumerate(snapshots):
        failure = md.failures.get(k)
        reason = "" if failure is None else f"{failure.reason} {failure.value:.3g}"
        out.append(Trajectory(frames, reason, -1.0 if failure is None else failure.time_fs))
    return out


def simulate(task: Task, processes: int) -> list[Trajectory]:
    """Run the replicas of ``task`` shared out evenly over processes; trajectories in the order of
    ``starts``.
    """
    shares = [list(range(p, len(task.starts), processes)) for p in range(processes)]
    parts = [
        replace(task, starts=[task.starts[i] for i in share], ids=[task.ids[i] for i in share])
        for share in shares
        if share
    ]
    if len(parts) == 1:
        return run_task(task)
    out: dict[int, Trajectory] = {}
    with one_thread(), ProcessPoolExecutor(len(parts), mp_context=get_context("spawn")) as pool:
        for share, trajectories in zip(shares, pool.map(run_task, parts), strict=False):
            out.update(zip(share, trajectories, strict=True))
    return [out[i] for i in range(len(task.starts))]


def save_trajectories(path: Path, trajectories: Sequence[Trajectory]) -> None:
    """Write trajectories as JSON (exact numbers), whole or not at all."""
    data = [
        {
            "failed": t.failed,
            "failed_fs": t.failed_fs,
            "snapshots": [_plain(f) for f in t.snapshots],
        }
        for t in trajectories
    ]
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data))
    temporary.replace(path)


def load_trajectories(path: Path) -> list[Trajectory]:
    """The inverse of ``save_trajectories``."""
    return [
        Trajectory([_frame(f) for f in t["snapshots"]], t["failed"], t["failed_fs"])
        for t in json.loads(path.read_text())
    ]


def _plain(frame: Configuration) -> dict:
    kept = {k: v for k, v in asdict(frame).items() if k in ("group", "info")}
    return {**kept, "positions": frame.positions.tolist(), "cell": frame.cell.tolist()}


def _frame(data: dict) -> Configuration:
    positions = np.array(data["positions"])
    numbers = np.ones(len(positions), dtype=np.int64)
    return Configuration(
        numbers,
        positions,
        np.array(data["cell"]),
        np.ones(3, dtype=bool),
        group=data["group"],
        info=data["info"],
    )
