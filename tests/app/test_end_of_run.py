"""How a run ends, in this process: what is there when it is called finished, and what a logger may break."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers.logger import DummyLogger

from msmlff.app import loggers, train
from msmlff.app.record import read_record

Main = Callable[..., int]


def test_a_run_called_finished_has_everything(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen at the last moment before: the report is there and calls itself finished, the record does not."""
    seen: dict[str, Any] = {}

    def close(*args: Any) -> None:
        seen["status"] = read_record(tmp_path / "run")["status"]
        seen["report"] = (tmp_path / "run" / "report.html").read_text()

    monkeypatch.setattr(train, "close_loggers", close)
    assert main() == 0
    assert seen["status"] == "running"
    assert '<span class="badge good">finished</span>' in seen["report"]
    assert read_record(tmp_path / "run")["status"] == "finished"


def test_a_report_that_fails_leaves_a_run_that_is_not_finished(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train, "write_report", full)
    with pytest.raises(SystemExit):
        main()
    assert read_record(tmp_path / "run")["status"] == "failed"


def test_an_upload_that_fails_is_a_warning(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any) -> None:
        raise ConnectionError("the server is away")

    monkeypatch.setattr(loggers, "_send_results", refuse)
    assert main("logger=wandb", "logger.wandb.mode=disabled", "report=false") == 0
    err = capfd.readouterr().err
    assert "warning:" in err
    assert "the server is away" in err
    assert read_record(tmp_path / "run")["status"] == "finished"
    assert json.loads((tmp_path / "run" / "test_metrics.json").read_text())


def test_every_logger_is_closed(capfd: pytest.CaptureFixture[str]) -> None:
    closed = []

    class Broken(DummyLogger):
        def finalize(self, status: str) -> None:
            raise RuntimeError("no connection")

    class Good(DummyLogger):
        def finalize(self, status: str) -> None:
            closed.append(status)

    loggers.close_loggers([Broken(), Good(), Broken(), Good()], "finished")
    assert closed == ["finished", "finished"]
    assert capfd.readouterr().err.count("no connection") == 2


def test_what_weights_and_biases_cannot_take_is_a_warning_once(
    main: Main, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from pytorch_lightning.loggers import WandbLogger

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise BrokenPipeError("the service has died")

    monkeypatch.setattr(WandbLogger, "log_metrics", refuse)
    assert main("logger=wandb", "logger.wandb.mode=disabled", "report=false") == 0
    assert capfd.readouterr().err.count("the service has died") == 1
