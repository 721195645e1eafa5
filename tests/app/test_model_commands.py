"""msmlff import-mace and msmlff report, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fake_run import write_run
from test_import_mace import make_mace

from msmlff.app import cli
from msmlff.models.files import load_model
from msmlff.models.import_mace import convert_mace


def test_a_checkpoint_is_converted_when_it_is_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = make_mace("4x0e", layers=1, correlation=2, max_ell=1)
    torch.save(module, tmp_path / "small.model")
    assert cli.main(["import-mace", str(tmp_path / "small.model")]) == 2
    assert "--trust" in capsys.readouterr().err
    assert not (tmp_path / "small.safetensors").exists()
    assert cli.main(["import-mace", str(tmp_path / "small.model"), "--trust"]) == 0
    assert "cutoff 4 Å" in capsys.readouterr().out
    written, expected = load_model(tmp_path / "small.safetensors"), convert_mace(module)
    state = expected.state_dict()
    assert written.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in written.state_dict().items())
    assert (
        cli.main(["import-mace", str(tmp_path / "small.model"), str(tmp_path / "b.safetensors"), "--trust"])
        == 0
    )
    assert (tmp_path / "b.safetensors").is_file()


def test_the_report_of_a_run_is_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert "</html>" in (tmp_path / "report.html").read_text()
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
