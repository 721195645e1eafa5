"""A sweep's folders and its summary; the jobs write a record and train nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from msmlff.app import cli, guard, train
from msmlff.app.record import write_json


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``python train.py -m ARGUMENTS`` in an empty folder, with jobs that do nothing; returns the folder."""

    def job(config: DictConfig, folder: Path, console: Console, resume: bool = False) -> None:
        OmegaConf.save(config, folder / "config.yaml")
        content = {"status": "finished", "overrides": list(config.overrides), "model": config.choices.model}
        write_json(folder / "record.json", content)

    monkeypatch.setattr(train, "run", job)
    monkeypatch.setattr(guard, "exit_code", 0)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Path:
        monkeypatch.setattr("sys.argv", ["train.py"])
        assert cli.main(["train", "-m", *arguments]) == 0
        return tmp_path / "multirun"

    return run


def summary(folder: Path) -> list[tuple[str, str]]:
    rows = list(csv.DictReader((folder / "summary.csv").open()))
    assert (folder / "summary.md").read_text().count("| finished |") == len(rows)
    return sorted((row["overrides"], row["seed"]) for row in rows)


def test_each_job_of_a_swept_choice_has_a_folder_of_its_own(sweep: Any) -> None:
    folder = sweep("model=mace,msmace", "pool=organics,dense_hydrogen", "seed=1")
    records = [json.loads(path.read_text()) for path in folder.glob("*/record.json")]
    assert sorted(record["model"] for record in records) == ["mace", "mace", "msmace", "msmace"]
    assert len(summary(folder)) == 4


def test_the_summary_has_all_runs_of_the_folder(sweep: Any) -> None:
    sweep("data=cpd_50,cpd_100", "seed=1")
    folder = sweep("data=cpd_100,cpd_200", "seed=1")
    assert summary(folder) == [(f"data=cpd_{n}", "1") for n in (100, 200, 50)]
