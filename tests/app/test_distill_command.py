"""msmlff distill, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from msmlff.app import cli, train
from msmlff.data.formats import read_frames


@pytest.fixture
def distill(pool_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSMLFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(train, "exit_code", 0)

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["msmlff"])
        small = ["descriptor.channels=4", "descriptor.layers=1", "threads=1", "hydra.run.dir=run"]
        return cli.main(["distill", "pool=files", f"pool.path={pool_folder}", *small, *arguments])

    return run


def test_chosen_frames_are_written_in_order(distill, pool_folder: Path, tmp_path: Path) -> None:
    assert distill("budget=5") == 0
    ids = json.loads((tmp_path / "run" / "selection.json").read_text())["ids"]
    pool = list(read_frames(pool_folder / "pool.extxyz"))
    chosen = list(read_frames(tmp_path / "run" / "selected.extxyz"))
    assert [frame.energy for frame in chosen] == [pool[i].energy for i in ids]
    assert len(ids) == 5


def test_a_failure_is_recorded_under_its_own_command(distill, tmp_path: Path) -> None:
    assert distill("budget=21") == 2
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "failed"
    assert "budget=21" in record["stop_reason"]
    assert record["command"].startswith("msmlff distill pool=files ")
