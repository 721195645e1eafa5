"""``msmlff simulate`` for tests: a tiny model, its defaults, a process of its own, what a run computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from msmlff.app import cli
from msmlff.models import MACE, MACEArchitecture
from msmlff.models.files import save_model
from msmlff.simulation.restart import RESTART, load_restart

SMALL = [
    "threads=1",
    "ops.backend=torch",
    "steps=40",
    "output.every=4",
    "output.thermo_every=2",
    "timestep=1.0",
]


def save_models(folder: Path) -> None:
    """model.safetensors and other.safetensors: of Al and Cu, with random weights."""
    for name, seed in (("model", 0), ("other", 1)):
        torch.manual_seed(seed)
        architecture = MACEArchitecture(cutoff=3.5, channels=4, l_max=1, correlation=2, zbl=True)
        save_model(MACE([13, 29], [0.0, 0.0], architecture), folder / f"{name}.safetensors", {})


def defaults(folder: Path, run: str) -> list[str]:
    return [
        f"models={folder / 'model.safetensors'}", f"system={folder / 'crystal.extxyz'}", *SMALL,
        f"hydra.run.dir={run}",
    ]  # fmt: skip


def started(folder: Path, where: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command as a process."""
    command = [sys.executable, "-m", "msmlff.app", "simulate", *defaults(folder, "run"), *arguments]
    return subprocess.Popen(
        command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}, **options,
    )  # fmt: skip


def wait_for_steps(run: Path, steps: int, process: subprocess.Popen[str]) -> None:
    """Until the restart file has so many steps."""
    begin = time.monotonic()
    while not (run / RESTART).is_file() or load_restart(run / RESTART).step < steps:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - begin < 200
        time.sleep(0.01)


def results(run: Path) -> dict[str, bytes]:
    """All that a run computed."""
    files = [*run.glob("trajectory*.extxyz"), *run.glob("trajectory/*.h5"), run / "thermo.csv"]
    found = {p.name: p.read_bytes() for p in files if p.suffix != ".h5"}
    state = load_restart(run / RESTART).state
    return found | {name: value.numpy().tobytes() for name, value in state.items()}


def record(run: str = "run") -> dict[str, Any]:
    return json.loads(Path(run, "record.json").read_text())


Simulate = Callable[..., int]


def simulator(folder: Path, where: Path, monkeypatch: pytest.MonkeyPatch, *always: str) -> Simulate:
    """``msmlff simulate`` in this process, in the folder ``run`` unless it resumes; returns the exit code."""
    monkeypatch.chdir(where)

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["msmlff"])
        monkeypatch.setattr("msmlff.app.guard.exit_code", 0)
        if arguments and arguments[0].startswith("resume="):
            return cli.main(["simulate", *arguments])
        return cli.main(["simulate", *defaults(folder, "run"), *always, *arguments])

    return run
