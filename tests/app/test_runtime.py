"""What a process says of itself."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from msmlff.app import runtime
from msmlff.app.runtime import PeakMemory, command_line, git_revision


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
    monkeypatch.setattr(runtime, "resident_peak_mb", lambda: next(marks))
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


def test_revision_of_another_repository_is_not_ours(tmp_path: Path) -> None:
    """An environment with the package installed, inside the checkout of somebody's project."""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", "-C", tmp_path, *identity, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    file = tmp_path / "package" / "runtime.py"
    file.parent.mkdir()
    file.write_text("1\n")
    assert git_revision(file) == ""
    git("init")
    (tmp_path / "theirs.txt").write_text("x")
    git("add", "theirs.txt")
    git("commit", "-m", "theirs")
    assert git_revision(file) == ""
    git("add", "package/runtime.py")
    git("commit", "-m", "ours")
    head = git("rev-parse", "--short=12", "HEAD")
    assert git_revision(file) == head
    file.write_text("2\n")
    assert git_revision(file) == head + "+"
