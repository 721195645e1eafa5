"""python train.py as a user runs it: one run, killed runs, sweeps, loggers, wrong input."""

from __future__ import annotations

import csv
import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from msmlff.data.store import FrameStore
from msmlff.distill.selection import Selection
from msmlff.models.files import load_model

Command = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[[Sequence[str], Path], subprocess.Popen]
GROUPS = ("model", "pool", "data", "descriptor", "training", "logger", "experiment")


@pytest.fixture(scope="module")
def whole(train: Command, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run from start to end: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    done = train([*tiny, "hydra.run.dir=run"], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run", done.stdout


def test_a_run_leaves_everything(whole: tuple[Path, str]) -> None:
    folder, out = whole
    expected = {
        "config.yaml", "record.json", "selection.json", "selected.extxyz", "pool_map.npz", "metrics.csv",
        "predictions_val.npz", "predictions_test.npz", "test_metrics.json", "model.safetensors",
        "report.html", "checkpoints", "tensorboard",
    }  # fmt: skip
    assert expected <= {path.name for path in folder.iterdir()}
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "finished"
    assert record["steps"] == 24
    assert record["data"]["n_train"] == 12
    assert record["command"].startswith("python train.py pool=files")
    for words in ("MS-MACE", "12 frames", "Reference energies", "E RMSE", "meV/atom", "report.html"):
        assert words in out, words
    assert "Traceback" not in out


def test_the_model_file_gives_the_test_errors(whole: tuple[Path, str]) -> None:
    """The shipped model, loaded anew, predicts what the run wrote."""
    folder, _ = whole
    from msmlff.data.formats import read_frames
    from msmlff.simulation.calculator import MSMLFFCalculator

    model = load_model(folder / "model.safetensors", dtype=torch.float64)
    with np.load(folder / "predictions_test.npz") as predictions:
        energies, forces = predictions["energy"], predictions["forces"]
    pool = (
        json.loads((folder / "record.json").read_text())["command"]
        .split("pool.path=")[1]
        .split()[0]
        .strip("'")
    )
    frames = list(read_frames(Path(pool) / "test.extxyz"))
    atoms = frames[0].to_ase()
    atoms.calc = MSMLFFCalculator(model)
    assert atoms.get_potential_energy() == pytest.approx(energies[0], abs=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), forces[:8], atol=1e-3)


def test_the_selection_belongs_to_the_pool(whole: tuple[Path, str], environment: dict[str, str]) -> None:
    selection = Selection.load(whole[0] / "selection.json")
    assert len(selection) == 12
    store = [s for s in Path(environment["MSMLFF_CACHE"]).glob("frames-*") if len(FrameStore.open(s)) == 20]
    assert [FrameStore.open(s).hash for s in store] == [selection.record["pool_hash"]]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait until ``condition`` holds; the process must not end before."""
    limit = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)


def rows(folder: Path) -> int:
    path = folder / "metrics.csv"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def test_killed_and_resumed_equals_uninterrupted(
    start: Start, train: Command, tiny: list[str], tmp_path: Path
) -> None:
    """kill -9 between two validations, at whatever step that is."""
    overrides = [
        *tiny,
        "training.steps=90",
        "training.checkpoint_seconds=0",
        "training.log_every=1",
        "report=false",
    ]
    whole = train([*overrides, "hydra.run.dir=whole"], tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    process = start([*overrides, "hydra.run.dir=parts"], tmp_path)
    parts = tmp_path / "parts"
    wait_for(lambda: rows(parts) > 40 and (parts / "checkpoints" / "last.ckpt").is_file(), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert json.loads((parts / "record.json").read_text())["status"] == "running"
    resumed = train(["resume=parts"], tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (parts / "metrics.csv").read_text()
    before = (parts / "record.json").read_bytes()
    again = train(["resume=parts"], tmp_path)
    assert (parts / "record.json").read_bytes() == before
    assert again.returncode == 2
    assert "is finished" in again.stderr


def test_sigterm_leaves_a_resumable_run(
    start: Start, train: Command, tiny: list[str], tmp_path: Path
) -> None:
    process = start([*tiny, "training.steps=5000", "hydra.run.dir=run"], tmp_path)
    wait_for(lambda: rows(tmp_path / "run") > 2, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "resume=" in err
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
    refused = train(["resume=run", "seed=3"], tmp_path)
    assert refused.returncode == 2
    assert "leave out: seed=3" in refused.stderr


def test_sweep(train: Command, tiny: list[str], tmp_path: Path) -> None:
    """Two jobs and one that cannot work; started again, what is finished is skipped."""
    overrides = [o for o in tiny if not o.startswith("data.budget")]
    command = ["-m", *overrides, "data.budget=6,9,999", "report=false", "hydra.sweep.dir=sweep"]
    first = train(command, tmp_path)
    assert first.returncode == 2
    assert "budget=999 is more than the 20 frames" in first.stderr
    folders = sorted(p for p in (tmp_path / "sweep").iterdir() if p.is_dir())
    status = [json.loads((f / "record.json").read_text())["status"] for f in folders]
    assert sorted(status) == ["failed", "finished", "finished"]
    table = list(csv.DictReader((tmp_path / "sweep" / "summary.csv").open()))
    assert [row["status"] for row in table] == ["finished", "finished", "failed"]
    assert (tmp_path / "sweep" / "summary.md").is_file()
    times = {
        f: (f / "model.safetensors").stat().st_mtime_ns for f in folders if (f / "model.safetensors").exists()
    }
    second = train(command, tmp_path)
    assert second.stdout.count("finished before, skipped") == 2
    assert times == {f: (f / "model.safetensors").stat().st_mtime_ns for f in times}


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of an offline run's file: a LevelDB log of 32 kB blocks, chunks with 7 bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, message = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        message += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole message, or the last part of one
            yield Record.FromString(message)
            message = b""


def test_weights_and_biases_gets_one_finished_run_for_each_job(
    train: Command, tiny: list[str], tmp_path: Path
) -> None:
    sweep = ["-m", "seed=1,2", "logger=wandb", "report=false", "hydra.sweep.dir=sweep"]
    done = train([*tiny, *sweep, "hydra.sweep.subdir=${seed}"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    ids = set()
    for job in ("1", "2"):
        (file,) = (tmp_path / "sweep" / job / "wandb").glob("offline-run-*/*.wandb")
        records = list(wandb_records(file))
        (run,) = {r.run.run_id for r in records if r.HasField("run")}
        ids.add(run)
        assert [r.exit.exit_code for r in records if r.HasField("exit")] == [0]
        logged = {item.nested_key[0] if item.nested_key else item.key
                  for r in records if r.HasField("history") for item in r.history.item}  # fmt: skip
        assert {"train/loss", "val/force_rmse", "test/parity", "test/force_rmse"} <= logged
        assert "model" in [r.artifact.type for r in records if r.HasField("artifact")]
    assert len(ids) == 2


def test_help_lists_every_group_and_choice(train: Command, repository: Path, tmp_path: Path) -> None:
    done = train(["--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    for group in GROUPS:
        choices = sorted(p.stem for p in (repository / "conf" / group).glob("*.yaml"))
        assert f"{group}: {', '.join(choices)}" in done.stdout
    listed = done.stdout.split("choices ==\n")[1].split("\n\n")[0].splitlines()
    shown = [
        *GROUPS,
        "model/size",
        "selector@data.selector",
        "training/loss",
        "training/optimizer",
        "training/schedule",
    ]
    assert [line.partition(":")[0] for line in listed] == sorted(shown)
    assert "python train.py [GROUP=CHOICE ...] [KEY=VALUE ...]" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_of_distill_is_its_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from msmlff.app import cli

    monkeypatch.setattr("sys.argv", ["msmlff"])
    with pytest.raises(SystemExit) as end:
        cli.main(["distill", "--help"])
    assert end.value.code == 0
    out = capfd.readouterr().out
    assert "msmlff distill [GROUP=CHOICE ...] [KEY=VALUE ...]" in out
    listed = next(line for line in out.splitlines() if line.startswith("selector: "))
    assert {"cpd", "full", "random", "d_optimal"} <= set(listed.removeprefix("selector: ").split(", "))
    assert "training" not in out
    assert "train.py" not in out


def test_the_configuration_is_shown_and_nothing_started(
    train: Command, tiny: list[str], tmp_path: Path
) -> None:
    done = train([*tiny, "seed=7", "--cfg", "job", "--resolve"], tmp_path)
    assert done.returncode == 0, done.stderr
    shown = OmegaConf.create(done.stdout)
    assert (shown.seed, shown.data.name, shown.model.channels) == (7, "cpd_12", 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["modle=mace"], "no configuration key 'modle'. Did you mean model"),
        (["training.stps=3"], "no configuration key 'training.stps'. Did you mean training.steps"),
        (["model=mase"], "Available options in 'model'"),
        (["training.steps=many"], "training.steps='many'"),
        (["training/optimizer=sgd"], "Available options in 'training/optimizer'"),
        (["training.optimizer.name=sgd"], "write one of adam, amsgrad, adamw"),
        (["model.channels=abc"], "model"),
        (["data.selector.central=3"], "central"),
        (["device=tpu"], "device='tpu': write auto, cpu or cuda"),
        (["dtype=bfloat16"], "dtype='bfloat16': write float32 or float64"),
        (["pool.path=nowhere"], "set pool.path=FOLDER"),
        (["pool.keys.energy=REF_energy"], "REF_energy"),
        (["data.budget=0"], "budget=0"),
        (["training.loss.group_weights={g9: 2.0}"], "frame is of group 'g9'; groups: g0, g1, g2"),
        (["training.loss.group_weights={g1: -1.0}"], "group_weights.g1=-1.0: write a number >= 0"),
        (["training.loss.stages=[{start: 0.5, weights: {force: 1.0}}]"], "unknown target 'force'; write"),
        (["training.loss.stages=[{start: late, weights: {}}]"], "training.loss.stages.0.start='late'"),
        (["training.loss.stages=[{begin: 0.5, weights: {}}]"], "'training.loss.stages.0.begin'"),
        (["training.steps=0"], "training.steps=0: write a whole number >= 1"),
        (["training.validations=0"], "training.validations=0: write a whole number >= 1"),
        (["training.batch.frames=0"], "training: the batch budget has frames=0"),
        (["training.batch.edges=50"], "training.batch.edges=50: frame"),
        (["training.validation_batch.atoms=7"], "validation_batch.atoms=7: frame 0 of val"),
        (["training.batch={frames: null, edges: null}"], "training: the batch budget is empty: set"),
        (["training.gradient_clip=-1"], "training.gradient_clip=-1.0: write a number > 0, or null"),
        (["training.checkpoint_seconds=-1"], "training.checkpoint_seconds=-1.0: write a number >= 0"),
        (["training.divergence_factor=1"], "training.divergence_factor=1.0: write a number > 1"),
        (["training.early_stopping=0"], "training.early_stopping=0: write a whole number >= 1, or null"),
        (["seed=1", "-m", "model=msmace,mcae"], "mcae"),
        (["resume=nowhere"], "give the folder of a run"),
    ],
)  # fmt: skip
def test_wrong_input_is_explained(
    tiny: list[str],
    overrides: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In this process: starting one a case would take minutes."""
    from msmlff.app import cli, guard

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSMLFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setattr(guard, "exit_code", 0)
    only = overrides if overrides[0].startswith("resume") else [*tiny, *overrides]
    before = os.getcwd()
    assert cli.main(["train", *only]) == 2
    assert os.getcwd() == before
    err = " ".join(capfd.readouterr().err.split())
    assert words in err
    assert "Traceback" not in err
