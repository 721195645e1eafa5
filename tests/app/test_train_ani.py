"""model=ani model.zbl=true through the command that trains, to its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from msmlff.data.pools import PoolSpec, load_pool
from msmlff.distill.descriptors import TrainedModel
from msmlff.models import ANI
from msmlff.models.files import load_model
from msmlff.nn.zbl import ZBL


def test_training(pool_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from msmlff.app import cli, guard

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSMLFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setattr(guard, "exit_code", 0)
    settings = [
        "pool=files", f"pool.path={pool_folder}", "data=random_12", "training.steps=40", "threads=1",
        "training.validations=2", "training.schedule.warmup_steps=4", "hydra.run.dir=run", "model=ani",
        "model/size=small", "model.cutoff=4.5", "model.zbl=true", "model.hidden=[16,8]",
    ]  # fmt: skip
    assert cli.main(["train", *settings]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "finished"
    assert record["model"]["name"] == "ANI"
    assert [scale["cutoff"] for scale in record["model"]["scales"]] == [3.5, 4.5]
    assert "4.5 Å" in (tmp_path / "run" / "report.html").read_text()
    model = load_model(tmp_path / "run" / "model.safetensors", dtype=torch.float64)
    assert isinstance(model, ANI)
    assert [type(term) for term in model.pair_terms] == [ZBL]
    assert model.architecture.hidden == (16, 8)
    frames = load_pool(PoolSpec(name="files", path=str(pool_folder))).train
    rows = TrainedModel(str(tmp_path / "run"))(frames).rows
    assert rows.shape == (sum(len(f) for f in frames), 16 + 8)
    errors = json.loads((tmp_path / "run" / "test_metrics.json").read_text())["overall"]
    assert errors["force_rmse"] < 0.8 * errors["force_rms"]
