"""Run folders as the training writes them, of invented but plausible numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.analysis.errors import Predictions, error_table, save_error_table
from msmlff.analysis.worst_frames import save_worst_frames
from msmlff.data.configuration import Configuration

DENSITIES = [f"{rho:.2f}" for rho in np.linspace(0.98, 1.41, 23)]
N_POOL = 575


def fake_predictions(
    seed: int = 0, per_group: int = 4, groups: list[str] | None = None, atoms: int = 24, stress: bool = True
) -> Predictions:
    """Labels with a trend along the groups; predictions off by a little more where forces are large."""
    rng = np.random.default_rng(seed)
    names = DENSITIES if groups is None else groups
    group = np.repeat(names, per_group)
    n = len(group)
    trend = np.repeat(np.linspace(0.0, 1.0, len(names)), per_group)
    num_atoms = np.full(n, atoms)
    e0 = -13.0 * num_atoms
    energy = e0 + num_atoms * (-2.1 + 0.5 * trend + 0.02 * rng.normal(size=n))
    scale = np.repeat(1.0 + trend, atoms)[:, None]
    forces = scale * rng.laplace(scale=1.2, size=(n * atoms, 3))
    noise = 0.05 + 0.08 * np.abs(forces)
    stress_label = -(0.6 + 0.9 * trend)[:, None, None] * np.eye(3) + 0.03 * rng.normal(size=(n, 3, 3))
    stress_label = 0.5 * (stress_label + stress_label.transpose(0, 2, 1))
    if not stress:
        stress_label = np.full((n, 3, 3), np.nan)
    return Predictions(
        frame_id=np.arange(n),
        num_atoms=num_atoms,
        group=group,
        energy_label=energy,
        energy=energy + num_atoms * 0.004 * rng.normal(size=n),
        e0_energy=e0,
        numbers=np.ones(n * atoms, dtype=int),
        forces_label=forces,
        forces=forces + noise * rng.normal(size=forces.shape),
        stress_label=stress_label,
        stress=stress_label + 0.008 * rng.normal(size=(n, 3, 3)),
    )


def fake_record(**changes: Any) -> dict[str, Any]:
    """A record.json of a finished run; ``changes`` replace keys of the record or of its "data" part."""
    record: dict[str, Any] = {
        "command": "python train.py model=msmace data=cpd_200 seed=1",
        "version": "0.1.0",
        "git_revision": "0123456789abcdef0123456789abcdef01234567",
        "versions": {"torch": "2.13.0", "pytorch_lightning": "2.6.1", "numpy": "2.4.6", "e3nn": "0.4.4"},
        "device": "CPU, 2 cores",
        "backend": "reference",
        "started": "2026-05-04T10:00:00",
        "finished": "2026-05-04T10:09:12",
        "seconds_training": 512.0,
        "seconds_total": 552.0,
        "steps": 2000,
        "epochs": 50,
        "peak_memory_mb": 2310.0,
        "atoms_per_second": 2480.0,
        "data_wait_share": 0.012,
        "status": "finished",
        "stop_reason": "all steps done",
        "model": {
            "name": "MSMACE",
            "parameters": 214_312,
            "scales": [
                {"cutoff": 3.0, "channels": 32, "l_max": 3, "neighbors": 34.2},
                {"cutoff": 5.0, "channels": 16, "l_max": 1, "neighbors": 158.9},
            ],
        },
        "scale_shares": [
            {"cutoff": 3.0, "energy": 0.914, "forces": 0.972},
            {"cutoff": 5.0, "energy": 0.208, "forces": 0.113},
        ],
        "data": {
            "pool": "dense_hydrogen",
            "pool_hash": "9f2c" * 16,
            "n_pool": N_POOL,
            "n_train": 200,
            "n_val": 46,
            "n_test": 92,
            "species": ["H"],
            "e0s": {"H": -13.0123456},
            "e0_source": "least squares",
            "e0_residual_rmse": 0.1512,
            "group_name": "density_g_cm3",
            "label": "PBE",
            "door": {"train": {"counts": {"duplicate": 3}, "examples": {"duplicate": "pool.xyz:7: twice"}}},
            "shared": {"train-test": 2},
        },
    }
    data = record["data"]
    for key, value in changes.items():
        (data if key in data else record)[key] = value
    return record


def write_metrics(
    path: Path, steps: int = 2000, stress: bool = True, until: int | None = None, stability: bool = False
) -> None:
    """metrics.csv: a row every 10 steps, one with validation errors every 100, with dynamics every 200."""
    rng = np.random.default_rng(3)
    columns = ["epoch", "step", "lr", "train/loss", "val/energy_rmse", "val/energy_mae", "val/force_rmse"]
    columns += ["val/force_mae", "val/stress_rmse", "val/stress_mae", "val/score"]
    columns += ["val/stable_time_fs", "val/stable_share"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for step in range(10, (until or steps) + 1, 10):
            decay = (1 + step / 40) ** -0.9
            row: dict[str, Any] = {"epoch": step // 40, "step": step}
            row |= {"lr": 0.01 * 0.5 * (1 + np.cos(np.pi * step / steps)) + 1e-6}
            row["train/loss"] = 300 * decay**2 * np.exp(0.15 * rng.normal())
            writer.writerow(row)
            if step % 100 == 0:
                noise = np.exp(0.05 * rng.normal(size=3))
                values = {"energy": 160 * decay, "force": 2200 * decay + 120, "stress": 90 * decay + 6}
                row = {"epoch": step // 40, "step": step, "val/score": 3 * decay}
                for (name, value), factor in zip(values.items(), noise, strict=True):
                    if name != "stress" or stress:
                        row |= {f"val/{name}_rmse": value * factor, f"val/{name}_mae": 0.7 * value * factor}
                if stability and step % 200 == 0:
                    row |= {"val/stable_time_fs": 1000 * (1 - decay), "val/stable_share": 1 - decay}
                writer.writerow(row)


def fake_coverage(elements: tuple[str, ...] = ("H",)) -> dict[str, Any]:
    """As ``msmlff.distill.coverage`` returns it: of the groups the first ones are covered worse."""
    shares = np.linspace(0.6, 1.0, len(DENSITIES)).tolist()
    tail = {
        "1 %": {"count": 6, "chosen": 0.5, "near": 0.75},
        "5 %": {"count": 29, "chosen": 0.25, "near": 0.8},
    }
    forces = {"q50": 1.25, "q95": 3.1, "q99": 4.8, "max": 11.0}
    energies = {"q05": -13.1, "q50": -12.7, "q95": -12.3}
    return {
        "frames": {"radius": 3.88, "share": 0.927, "mean_distance": 2.11, "max_distance": 5.11},
        "environments": {"radius": 1.49, "share": 0.911, "mean_distance": 0.705, "max_distance": 3.42},
        "entropy": {"bandwidth": 0.6, "pool": 9.57, "selection": 9.18, "overlap": 0.757}
        | {"mean_dH": -0.35, "q95_dH": 2.72},
        "elements": {
            e: {"pool": 9200, "chosen": 2300, "share": 0.93 - 0.2 * i} for i, e in enumerate(elements)
        },
        "components": [{"explained": 0.7 / 2**i, "range": 1.0, "bins": 0.9} for i in range(5)],
        "random": {"frames": 0.9, "environments": 0.88, "overlap": 0.74},
        "groups": {g: {"pool": 25, "chosen": 9, "share": s} for g, s in zip(DENSITIES, shares, strict=True)},
        "tails": dict.fromkeys(("energy_low", "energy_high", "frame_force", "atom_force"), tail),
        "labels": {
            "energy_per_atom": {"pool": energies, "selection": energies, "span_ratio": 1.0},
            "force": {"pool": forces, "selection": forces, "ratio": dict.fromkeys(forces, 1.0)},
        },
    }


def write_selection(run: Path, selector: str = "CPD", budget: int = 200) -> None:
    """selection.json and pool_map.npz."""
    rng = np.random.default_rng(5)
    group = np.repeat(DENSITIES, N_POOL // len(DENSITIES))
    trend = np.repeat(np.linspace(-1.0, 1.0, len(DENSITIES)), N_POOL // len(DENSITIES))
    pca = np.stack(
        [4 * trend + 0.6 * rng.normal(size=N_POOL), 2 * trend**2 + 0.7 * rng.normal(size=N_POOL)], 1
    )
    log_density = -0.5 * np.square(rng.normal(size=N_POOL)) - 2 - 2 * np.abs(trend)
    order = np.argsort(-log_density)
    band = np.full(N_POOL, "middle", dtype="<U10")
    band[order[: N_POOL // 5]], band[order[-(N_POOL // 5) :]] = "central", "peripheral"
    if selector == "CPD":
        edge = np.flatnonzero(band != "middle")
        ids = rng.permutation(edge)[:budget]
    else:
        ids = np.arange(N_POOL) if selector == "FullSelector" else rng.permutation(N_POOL)[:budget]
    chosen = np.isin(np.arange(N_POOL), ids)
    arrays = {"frame_id": np.arange(N_POOL), "pca": pca, "log_density": log_density, "band": band}
    np.savez(run / "pool_map.npz", **arrays, chosen=chosen, group=group)
    record = {
        "pool_hash": "9f2c" * 16,
        "n_pool": N_POOL,
        "descriptor": {"_target_": "msmlff.distill.descriptors.UntrainedMACE", "channels": 32, "seed": 0},
        "selector": selector,
        "parameters": {"bandwidth": None, "central": 0.2, "peripheral": 0.2},
        "seed": 1,
        "nested": True,
        "version": "0.1.0",
        "budget": len(ids),
        "reference": [],
    }
    if selector != "FullSelector":  # the others used a descriptor
        record["coverage"] = fake_coverage()
    document = {"format": "msmlff-selection", "schema": 1, "ids": ids.tolist(), "record": record}
    document |= {"scores": log_density[ids].tolist(), "columns": {"band": band[ids].tolist()}}
    (run / "selection.json").write_text(json.dumps(document))


CONFIG = """model:
  _target_: msmlff.models.msmace.MSMACE
  channels: 32
pool:
  name: dense_hydrogen
data:
  name: cpd_200
  budget: 200
seed: 1
"""


def fake_frames(p: Predictions) -> list[Configuration]:
    """Geometries of the frames that were predicted: molecules at random in a cube."""
    rng = np.random.default_rng(8)
    frames = []
    for atoms in p.num_atoms:
        centres = 6.0 * rng.random((atoms // 2, 1, 3))
        half = rng.normal(size=(atoms // 2, 1, 3))
        half *= 0.37 / np.linalg.norm(half, axis=2, keepdims=True)
        positions = np.concatenate([centres - half, centres + half], axis=1).reshape(-1, 3)
        frames.append(Configuration(np.ones(atoms, int), positions, 6.0 * np.eye(3), np.ones(3, bool)))
    return frames


def write_run(run: Path, *, stress: bool = True, selector: str = "CPD", **record: Any) -> Path:
    """A complete run folder but for the model and its checkpoints; keyword arguments change the record."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(CONFIG)
    write_metrics(run / "metrics.csv", stress=stress)
    write_selection(run, selector)
    test = fake_predictions(0, stress=stress)
    test.save(run / "predictions_test.npz")
    save_worst_frames(test, fake_frames(test), run)
    fake_predictions(1, per_group=2, stress=stress).save(run / "predictions_val.npz")
    save_error_table(error_table(test), run / "test_metrics.json")
    chosen = len(json.loads((run / "selection.json").read_text())["ids"])
    (run / "record.json").write_text(json.dumps(fake_record(**({"n_train": chosen} | record))))
    return run
