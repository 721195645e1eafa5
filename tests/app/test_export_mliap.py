"""msmlff export --format mliap, in this process."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from msmlff.app import cli
from msmlff.models import ANI, ANIArchitecture
from msmlff.models.files import save_model


@pytest.fixture(autouse=True)
def run_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    model = ANI([13, 29], [0.0, 0.0], ANIArchitecture(cutoff=4.0, angular_cutoff=3.0, hidden=(4,)))
    save_model(model, tmp_path / "run" / "model.safetensors", {"label_level": "EMT"})


def test_a_run_becomes_a_file_for_lammps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize("name", ["model.mliap", "model.pt"])
def test_a_full_disk_is_named_and_leaves_what_was_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("earlier")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / name), "--format", "mliap"]) == 1
    assert f"{tmp_path / name} cannot be written: there is no room left for it" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == [name, "run"]
