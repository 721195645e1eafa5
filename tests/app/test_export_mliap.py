"""msmlff export --format mliap, in this process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from msmlff.app import cli
from msmlff.models import ANI, ANIArchitecture
from msmlff.models.files import save_model


def test_a_run_becomes_a_file_for_lammps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    model = ANI([13, 29], [0.0, 0.0], ANIArchitecture(cutoff=4.0, angular_cutoff=3.0, hidden=(4,)))
    save_model(model, tmp_path / "run" / "model.safetensors", {"label_level": "EMT"})
    assert cli.main(["export", str(tmp_path / "run"), "--format", "mliap", "--dtype", "float64"]) == 0
    path = tmp_path / "run" / "model.mliap"
    out = capsys.readouterr().out
    assert "ANI, float64" in out
    assert f"pair_style mliap unified {path} 0" in out
    assert "of Al Cu" in out
    found = pickle.loads(path.read_bytes())
    assert found.element_types == ["Al", "Cu"]
    assert found.record == {"label_level": "EMT"}
    assert found.model.dtype == torch.float64
