"""The backend of a run: forced, measured, kept when the run is resumed; always in its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from msmlff.nn import ops
from msmlff.nn.ops import backends

Main = Callable[..., int]
AVAILABLE = [name for name in ops.available_backends("cpu") if name != "reference"]
SHORT = ("training.steps=6", "training.validations=1", "gate=false", "report=false")


def record_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def test_measured(main: Main, tmp_path: Path) -> None:
    assert main("ops.backend=auto", *SHORT) == 0
    record = record_of(tmp_path / "run")
    assert record["backend"] in AVAILABLE
    assert set(record["backend_ms"]) == (set(AVAILABLE) if len(AVAILABLE) > 1 else set())
    assert backends._chosen is None


@pytest.mark.parametrize("name", ["reference", *AVAILABLE])
def test_forced(main: Main, tmp_path: Path, name: str) -> None:
    assert main(f"ops.backend={name}", *SHORT) == 0
    record = record_of(tmp_path / "run")
    assert record["backend"] == name
    assert "backend_ms" not in record


def test_one_that_cannot_run_is_refused(main: Main, capfd: pytest.CaptureFixture[str]) -> None:
    assert main("ops.backend=triton", *SHORT) == 2
    assert "ops.backend=triton" in capfd.readouterr().err


def test_an_unknown_one_is_refused(main: Main, capfd: pytest.CaptureFixture[str]) -> None:
    assert main("ops.backend=fast", *SHORT) == 2
    choices = "auto, reference, torch, cpu, triton or cuequivariance"
    assert f"ops.backend='fast': write {choices}" in capfd.readouterr().err
