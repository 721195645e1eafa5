"""What a run may write into: a folder of its own kind, never over what a user has there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emt_pool import emt_frames
from omegaconf import OmegaConf

from msmlff.app import cli, guard
from msmlff.app.record import read_record
from msmlff.data.formats import write_frames

Main = Callable[..., int]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of the folder but Hydra's own."""
    files = (path for path in folder.rglob("*") if path.is_file())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if not name.startswith(".hydra/")}


def leftover(folder: Path, command: str = "python train.py seed=1", **record: str) -> None:
    """What a run that failed leaves."""
    folder.mkdir(exist_ok=True)
    OmegaConf.save({"choices": {}, "overrides": []}, folder / "config.yaml")
    (folder / "record.json").write_text(json.dumps({"command": command, "status": "failed", **record}))


@pytest.mark.parametrize(
    "name", ["metrics.csv", "predictions_val.npz", "record.json", "checkpoints/last.ckpt"]
)
def test_a_folder_of_other_things_is_refused_and_left_alone(
    main: Main, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    run = tmp_path / "run"
    for file in (name, "mine.npz", "my_metrics.json", "tensorboard/notes.txt"):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).write_text("[]")
    before = content(run)
    assert main("report=false") == 2
    err = " ".join(capfd.readouterr().err.split())
    assert f"run is no run folder and has {name}: name another folder (hydra.run.dir=FOLDER" in err
    assert content(run) == before


def test_a_failed_run_is_replaced_and_what_is_beside_it_stays(main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    leftover(run, note="of the earlier run")
    for name in ("predictions_test.npz", "report.html", "tensorboard/events.out.tfevents.1.host"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("of the earlier run")
    mine = ["mine.npz", "my_metrics.json", "tensorboard/notes.txt", "checkpoints/kept.ckpt"]
    for name in mine:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    assert main("data.budget=999") == 2  # fails before training: everything else there is of the earlier run
    after = content(run)
    assert sorted(name for name, data in after.items() if data == b"mine") == sorted(mine)
    assert b"of the earlier run" not in b"".join(after.values())
    assert read_record(run)["status"] == "failed"
    assert main("data.budget=998") == 2
    assert "budget=998" in read_record(run)["stop_reason"]


def test_an_unfinished_run_is_not_written_over(
    main: Main, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    leftover(run, status="interrupted")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_text("state")
    before = content(run)
    assert main("seed=2") == 2
    err = " ".join(capfd.readouterr().err.split())
    assert "run holds an unfinished run (interrupted): continue it with resume=run, or delete it" in err
    assert content(run) == before


def test_a_sweep_leaves_an_unfinished_job_of_other_keys(main: Main, tmp_path: Path) -> None:
    """That job fails, the other one runs."""
    sweep = ("-m", "data.budget=6,999", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${data.budget}")
    run = tmp_path / "sweep" / "6"
    run.parent.mkdir()
    leftover(run, status="interrupted")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_text("state")
    before = content(run)
    assert main(*sweep) == 2
    assert content(run) == before
    assert "budget=999" in read_record(tmp_path / "sweep" / "999")["stop_reason"]


@pytest.mark.parametrize("command", ["python train.py seed=1", "something else"])
def test_distill_does_not_write_into_another_commands_run(
    pool_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
) -> None:
    run = tmp_path / "run"
    leftover(run, command, status="finished")
    np.savez(run / "pool_map.npz", x=np.zeros(2))
    (run / "selection.json").write_text("{}")
    before = content(run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["msmlff"])
    monkeypatch.setattr(guard, "exit_code", 0)
    pool = ["pool=files", f"pool.path={pool_folder}", "budget=5", "selector=random"]
    assert cli.main(["distill", *pool, "hydra.run.dir=run"]) == 2
    assert "record.json there is not of distill" in " ".join(capfd.readouterr().err.split())
    assert content(run) == before


def test_a_sweep_started_again_looks_at_the_pool_and_at_how_jobs_ended(
    main: Main, pool_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(pool_folder, pool)
    sweep = ("-m", f"pool.path={pool}", "seed=1", "report=false", "hydra.sweep.dir=sweep")
    job = ("hydra.sweep.subdir=job", "training.steps=5", "training.validations=1")
    assert main(*sweep, *job) == 0
    run = tmp_path / "sweep" / "job"
    assert main(*sweep, *job) == 0
    assert "finished before, skipped" in capfd.readouterr().out
    (run / "record.json").write_text(json.dumps({**read_record(run), "status": "diverged"}))
    assert main(*sweep, *job) == 1
    assert "diverged before, skipped" in capfd.readouterr().out
    (run / "record.json").write_text(json.dumps({**read_record(run), "status": "finished"}))
    write_frames(pool / "pool.extxyz", emt_frames(20, 9))
    before = content(run)
    assert main(*sweep, *job) == 2
    streams = capfd.readouterr()
    assert "skipped" not in streams.out
    assert "job holds a finished run" in " ".join(streams.err.split())
    assert content(run) == before
