"""scripts/gpu_checks.sh with a stand-in for Python: every section's commands, what fails, what is there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "gpu_checks.sh"

STAND_IN = """#!/bin/bash
if [ "$1" = -W ]; then printf '1\\n%s\\n\\n\\n' "$MISSING"; exit; fi
echo "$@" | tee -a "$LOG"
case "$*" in *profile_steps*) exit 3 ;; esac
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Writes down what it is asked for, and fails for one section."""
    file = tmp_path / "python"
    file.write_text(STAND_IN)
    file.chmod(0o755)
    return file


def checks(
    python: Path, *arguments: str, missing: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The process, and what Python was asked for."""
    log = python.with_name("log")
    log.unlink(missing_ok=True)
    told = {"PYTHON_BIN": str(python), "LOG": str(log), "MISSING": missing, "TINY": "1"}
    out = str(python.with_name("out"))
    done = subprocess.run(
        [str(SCRIPT), out, *arguments],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, log.read_text().splitlines() if log.exists() else []


def test_a_failed_section_stops_none_and_what_is_there_is_kept(python: Path) -> None:
    done, _ = checks(python, "kernels", "small", "tiles")
    out = python.with_name("out")
    assert done.returncode == 1
    assert (out / "kernels.txt").read_text() == f"scripts/gpu_kernels.py --interpret --out {out}\n"
    assert (out / "small.failed.txt").is_file()
    assert not (out / "small.txt").exists()
    assert (out / "tiles.txt").is_file()
    assert "small: FAILED, see" in (out / "summary.txt").read_text()

    _, asked = checks(python)
    summary = (out / "summary.txt").read_text().splitlines()
    assert "kernels: there already" in summary
    assert not any("gpu_kernels" in line for line in asked)
    assert any("profile_steps" in line for line in asked)  # it failed before
    assert [line for line in summary if "FAILED" in line] == [f"small: FAILED, see {out}/small.failed.txt"]
    assert len(summary) == 20

    _, asked = checks(python, "kernels")
    assert len([line for line in asked if "gpu_kernels" in line]) == 1  # named: again


def test_what_is_not_installed_is_said_and_left_out(python: Path) -> None:
    done, asked = checks(python, "steps_1000", "md_peers")
    assert "!!!" not in done.stdout
    assert [("--cueq" in line, "mace-cueq" in line) for line in asked if "benchmark" in line] == [
        (True, False),
        (False, True),
    ]
    done, asked = checks(python, "steps_1000", "md_peers", "cueq_backend", missing="pip install it")
    assert done.stdout.count("!!! pip install it\n!!! Without it mace-torch with cuEquivariance is not") == 2
    assert not any("cueq" in line for line in asked)
    assert done.returncode == 1  # the section that needs it


def test_sections_are_told_and_others_refused(python: Path) -> None:
    told = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True, check=True).stdout
    rows = [
        line.split(maxsplit=2) for line in told[told.index("Sections") :].splitlines()[1:] if line.strip()
    ]
    assert len(rows) == 20
    assert [name for name, minutes, _ in rows if int(minutes) > 10] == ["comparison"]
    assert [name for name, *_ in rows][:5] == ["tests", "steps_108", "steps_1000", "steps_10000", "million"]
    done, asked = checks(python, "everything")
    assert done.returncode == 2
    assert "everything is no section" in done.stderr
    assert not any("benchmark" in line for line in asked)
