"""Commands as subprocesses, on a tiny pool in files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from emt_pool import emt_frames

from msmlff.app import cli
from msmlff.data.formats import write_frames

TINY = [
    "model.scales=[{cutoff: 3.2, channels: 8, l_max: 2, radial_mlp: [8]}, "
    "{cutoff: 4.0, channels: 4, l_max: 0, radial_mlp: [8]}]",
    "model.channels=8",
    "model.correlation=2",
    "descriptor.channels=4",
    "descriptor.layers=1",
    "data.budget=12",
    "training.steps=24",
    "training.validations=3",
    "training.schedule.warmup_steps=4",
    "threads=1",
    "ops.backend=torch",  # a measurement could choose another in each of two runs, and bits would differ
]

Command = Callable[..., subprocess.CompletedProcess[str]]
Main = Callable[..., int]


@pytest.fixture(scope="session")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pool (20 frames), val (5) and test (6) as extended XYZ."""
    folder = tmp_path_factory.mktemp("pool")
    for name, count, seed in (("pool", 20, 1), ("val", 5, 2), ("test", 6, 3)):
        write_frames(folder / f"{name}.extxyz", emt_frames(count, seed))
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of the commands: a cache of their own, no network, one thread."""
    return {
        **os.environ,
        "MSMLFF_CACHE": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "COLUMNS": "120",
    }


@pytest.fixture(scope="session")
def tiny(pool_folder: Path) -> list[str]:
    """Overrides that make a run small."""
    return ["pool=files", f"pool.path={pool_folder}", *TINY]


@pytest.fixture(scope="session")
def start(
    repository: Path, environment: dict[str, str]
) -> Callable[[Sequence[str], Path], subprocess.Popen[str]]:
    """Start ``python train.py ARGUMENTS`` in a folder."""

    def run(arguments: Sequence[str], folder: Path) -> subprocess.Popen[str]:
        folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, str(repository / "train.py"), *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def train(start: Callable[[Sequence[str], Path], subprocess.Popen[str]]) -> Command:
    """Run ``python train.py ARGUMENTS`` in a folder to its end."""

    def run(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        process = start(arguments, folder)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture
def main(tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Main:
    """``python train.py`` in this process, with a small run in the folder ``run`` unless the arguments
    resume one; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSMLFF_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["train.py"])
        monkeypatch.setattr("msmlff.app.guard.exit_code", 0)
        if arguments and arguments[0].startswith("resume="):
            return cli.main(["train", *arguments])
        return cli.main(["train", *tiny, "hydra.run.dir=run", *arguments])

    return run
