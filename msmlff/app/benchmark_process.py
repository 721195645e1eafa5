"""Measurements of ``msmlff benchmark growth`` and ``md``, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from ase import Atoms

from msmlff.errors import InputError


class Cell(Protocol):
    """What is measured: a dataclass; ``name`` is that of its file."""

    @property
    def name(self) -> str: ...

    @property
    def atoms(self) -> int: ...

    @property
    def threads(self) -> int: ...


def request(cell: Any, unit: Atoms | None) -> str:
    """What the process reads: the cell, and the packed cell of the liquid if that is the system."""
    packed = None
    if unit is not None:
        packed = {
            "numbers": unit.numbers.tolist(),
            "positions": unit.positions.tolist(),
            "cell": unit.cell.tolist(),
        }
    return json.dumps({"cell": asdict(cell), "unit": packed})


def requested() -> tuple[dict[str, Any], Atoms | None]:
    """(cell, unit) of the request on standard input."""
    told = json.load(sys.stdin)
    return told["cell"], Atoms(**told["unit"], pbc=True) if told["unit"] else None


def run_alone(module: str, cell: Any, unit: Atoms | None, limit: float, preload: str = "") -> dict[str, Any]:
    """What ``python -m module`` prints for the request; one that ends too late, or for want of memory, says
    why as "skipped".

    Raises:
        InputError: it failed otherwise.
    """
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    environment["OMP_NUM_THREADS"] = str(cell.threads)
    if preload:
        environment["LD_PRELOAD"] = preload
    failed = {**asdict(cell), "real_atoms": cell.atoms}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", module],
            input=request(cell, unit),
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {**failed, "skipped": f"it took longer than {limit:g} s"}
    if done.returncode == -9:
        return {**failed, "skipped": "the system ended it: out of memory"}
    if done.returncode != 0:
        raise InputError(f"{cell.name}: the measurement failed\n{done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def write_result(file: Path, result: dict[str, Any]) -> None:
    """As JSON; never half of it."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(file)
