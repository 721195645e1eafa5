"""msmlff export, in this process."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from msmlff.app import cli
from msmlff.models import MACE, MACEArchitecture
from msmlff.models.files import save_model
from msmlff.simulation.export import load_package


@pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")), reason="needs a C++ compiler"
)
def test_a_run_becomes_a_package_that_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    settings = MACEArchitecture(cutoff=3.5, channels=4, l_max=1, correlation=1, layers=1)
    (tmp_path / "run").mkdir()
    model = MACE([13, 29], [0.0, 0.0], settings).double()
    save_model(model, tmp_path / "run" / "model.safetensors", {"label_level": "EMT"})
    assert cli.main(["export", str(tmp_path / "run"), "--dtype", "float32"]) == 0
    out = capsys.readouterr().out
    difference = re.search(r"differences? of a force from the model's (\S+) eV/Å", out)
    assert difference
    assert 0 < float(difference[1]) < 1e-4
    assert "MACE, float32" in out
    _, description = load_package(tmp_path / "run" / "model.pt2")
    assert description["elements"] == [13, 29]
    assert description["dtype"] == "float32"
    assert description["record"] == {"label_level": "EMT"}


def test_what_is_no_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    (tmp_path / "bad.safetensors").write_bytes(b"none")
    assert cli.main(["export", str(tmp_path / "bad.safetensors")]) == 2
    assert "bad.safetensors" in capsys.readouterr().err
