"""What a process says of itself."""

from __future__ import annotations

import shlex
import sys

import numpy as np
import pytest

from msmlff.app import runtime
from msmlff.app.runtime import PeakMemory, command_line


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak can be reset on Linux alone")
def test_memory_of_an_earlier_job_does_not_count() -> None:
    before = PeakMemory("cpu").mb()
    job = PeakMemory("cpu")
    block = np.ones(200 * 2**17)  # 200 MB
    del block
    peak = job.mb()
    later = PeakMemory("cpu").mb()
    assert before is not None
    assert peak is not None
    assert later is not None
    assert peak > before + 150
    assert later < peak - 150


def test_a_peak_that_cannot_be_told_from_an_earlier_one_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system's mark cannot be reset, it is this job's only if the job raised it."""
    monkeypatch.setattr(runtime, "_reset_peak", lambda: False)
    marks = iter([500.0, 500.0, 500.0, 700.0])
    monkeypatch.setattr(runtime, "_resident_peak_mb", lambda: next(marks))
    assert PeakMemory("cpu").mb() is None
    assert PeakMemory("cpu").mb() == 700.0


@pytest.mark.parametrize(
    ("program", "command", "line"),
    [
        ("/repo/train.py", "train", "python train.py 'data.budget=5' 'tags=[a b]'"),
        ("/venv/bin/msmlff", "train", "msmlff train data.budget=5 'tags=[a b]'"),
        ("/venv/bin/msmlff", "distill", "msmlff distill data.budget=5 'tags=[a b]'"),
    ],
)
def test_command_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch, program: str, command: str, line: str
) -> None:
    monkeypatch.setattr("sys.argv", [program])
    assert shlex.split(command_line(command, ["data.budget=5", "tags=[a b]"])) == shlex.split(line)
