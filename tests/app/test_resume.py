"""Runs that were stopped, in this process: what a resume takes over, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from msmlff.app.record import read_record
from msmlff.training.module import ForceFieldModule

Main = Callable[..., int]


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Have a batch system end runs in a step; None: no more."""
    real = ForceFieldModule.training_step

    def at(step: int | None) -> None:
        def training_step(self: ForceFieldModule, *args: Any) -> torch.Tensor:
            if self.global_step == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, *args)

        monkeypatch.setattr(ForceFieldModule, "training_step", training_step)

    return at


@pytest.fixture
def stopped(main: Main, stop_at: Callable[[int | None], None], tmp_path: Path) -> Path:
    """A run that was stopped at step 10 of 24."""
    stop_at(10)
    assert main("report=false") == 130
    stop_at(None)
    assert read_record(tmp_path / "run")["status"] == "interrupted"
    return tmp_path / "run"


def edit(folder: Path, key: str, value: Any) -> None:
    config = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(config, key, value)
    OmegaConf.save(config, folder / "config.yaml")


def weights(folder: Path) -> bytes:
    return b"".join(t.numpy().tobytes() for _, t in sorted(load_file(folder / "model.safetensors").items()))


def test_what_does_not_change_the_result_may_be_edited(main: Main, stopped: Path, tmp_path: Path) -> None:
    edit(stopped, "tags", ["second half"])
    edit(stopped, "training.log_every", 5)
    assert main("resume=run") == 0
    assert read_record(stopped)["status"] == "finished"
    assert main("hydra.run.dir=whole", "report=false") == 0
    assert weights(stopped) == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("key", "value", "was"),
    [
        ("model.channels", 16, 8),
        ("training.schedule.warmup_steps", 3, 4),
        ("data.budget", 13, 12),
        ("pool.min_distance", 0.1, None),
        ("seed", 7, 1),
    ],
)
def test_a_changed_configuration_is_refused(
    main: Main, stopped: Path, capfd: pytest.CaptureFixture[str], key: str, value: Any, was: Any
) -> None:
    edit(stopped, key, value)
    before = (stopped / "record.json").read_bytes()
    assert main("resume=run") == 2
    assert f"{key} is {value} there and was {was}" in " ".join(capfd.readouterr().err.split())
    assert (stopped / "record.json").read_bytes() == before


def test_what_may_be_edited_is_named(main: Main, capfd: pytest.CaptureFixture[str]) -> None:
    assert main("resume=run", "device=cpu") == 2
    err = " ".join(capfd.readouterr().err.split())
    assert "leave out: device=cpu. What does not decide the result can be changed in run/config.yaml: " in err
    assert "device, threads" in err


def test_a_run_killed_after_its_last_step(main: Main, tmp_path: Path) -> None:
    """Trained to the end, and killed before it was tested."""
    assert main() == 0
    run = tmp_path / "run"
    before = {name: (run / name).read_bytes() for name in ("metrics.csv", "test_metrics.json")}
    shipped = weights(run)
    record = read_record(run)
    (run / "record.json").write_text(json.dumps({**record, "status": "running"}))
    for name in ("report.html", "model.safetensors", "test_metrics.json", "predictions_test.npz"):
        (run / name).unlink()
    assert main("resume=run") == 0
    assert {name: (run / name).read_bytes() for name in before} == before
    assert weights(run) == shipped
    again = read_record(run)
    assert (again["status"], again["steps"], again["best_step"]) == ("finished", 24, record["best_step"])
    assert (run / "report.html").is_file()


def test_a_finished_run_is_not_written_over(
    main: Main, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main("report=false") == 0
    before = (tmp_path / "run" / "record.json").read_bytes()
    assert main("report=false", "seed=2") == 2
    err = " ".join(capfd.readouterr().err.split())
    assert "run holds a finished run: name another folder (hydra.run.dir=FOLDER" in err
    assert "or delete this one" in err
    assert (tmp_path / "run" / "record.json").read_bytes() == before


def test_an_interrupted_sweep_is_taken_up_where_it_stopped(
    main: Main, stop_at: Callable[[int | None], None], tmp_path: Path
) -> None:
    sweep = ("-m", "seed=1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${seed}", "report=false")
    stop_at(10)
    with pytest.raises(SystemExit) as end:
        main(*sweep)
    assert end.value.code == 130
    first, second = tmp_path / "sweep" / "1", tmp_path / "sweep" / "2"
    assert read_record(first)["status"] == "interrupted"
    assert not second.exists()
    stop_at(None)
    started = read_record(first)["started"]
    assert main(*sweep) == 0
    assert main("hydra.run.dir=whole", "report=false") == 0
    assert weights(first) == weights(tmp_path / "whole")
    assert (first / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    assert read_record(first)["started"] == started
    assert read_record(second)["status"] == "finished"
    assert weights(second) != weights(first)
