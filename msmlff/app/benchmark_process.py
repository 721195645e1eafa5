"""Measurements of ``msmlff benchmark growth`` and ``md``, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from rich.console import Console

from msmlff.app.runtime import cpu_model, device_name, versions
from msmlff.errors import InputError

#: What torch, Triton and CUDA's libraries write where a GPU's memory does not suffice.
_GPU_MEMORY = re.compile(
    r"\bOutOfMemoryError\b|CUDA error: out of memory|\[CUDA\]: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
)
_SIZES = (100, 300, 1000, 3000, 10_000, 30_000, 100_000)


def add_arguments(parser: argparse.ArgumentParser, systems: Sequence[str]) -> None:
    """What both commands take."""
    parser.add_argument("--systems", nargs="+", default=["nickel"], choices=systems, help="default nickel")
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=list(_SIZES),
        metavar="ATOMS",
        help=f"about so many; default {' '.join(map(str, _SIZES))}",
    )
    parser.add_argument("--molecules", type=Path, help="file with C12F27N molecules; for --systems fc43")
    parser.add_argument(
        "--memory-gib", type=float, default=2.0, help="of an evaluation, beyond it in pieces; default 2"
    )
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="default cpu")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for a cell; default 900")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks"), help="folder of the results; default benchmarks"
    )


def check_arguments(options: argparse.Namespace) -> None:
    """Raises:
    InputError: arguments of :func:`add_arguments` that cannot be measured.
    """
    if "fc43" in options.systems and options.molecules is None:
        raise InputError("--systems fc43 takes its molecules from a file: write --molecules FILE.xyz")
    if min(options.sizes) < 1:
        raise InputError(f"--sizes {min(options.sizes)}: write positive numbers of atoms")
    for name in ("memory_gib", "threads", "limit"):
        if getattr(options, name) <= 0:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag} {getattr(options, name):g}: write a positive number")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; write cpu")


def measure_missing(
    cells: Iterable[Any],
    folder: Path,
    measure: Callable[[Any, list[dict[str, Any]]], dict[str, Any]],
    said: Callable[[dict[str, Any]], str],
) -> list[dict[str, Any]]:
    """Results of the cells: those with a file in ``folder`` are read, others measured and written.

    Args:
        cells: dataclasses with ``name`` (of the file), ``device`` and ``threads``.
        folder: of the files; made where it is not there.
        measure: a cell and the results before it -> its result.
        said: a line on a result.

    Raises:
        InputError: a file has been measured with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console, results = Console(), list[dict[str, Any]]()
    for cell in cells:
        file = folder / f"{cell.name}.json"
        if not file.is_file():
            result = measure(cell, results)
            result |= {
                "load_average": os.getloadavg()[0],
                "versions": versions() | result.get("versions", {}),
                "machine": cpu_model() if cell.device == "cpu" else device_name(cell.device),
            }
            write_result(file, result)
            console.print(said(result))
        results.append(_read(file, cell))
    return results


def _read(file: Path, cell: Any) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(file.read_text())
    for key, value in asdict(cell).items():
        if result.get(key) != value:
            raise InputError(
                f"{file}: measured with {key} {result.get(key)!r}, not {value!r}; write another --out"
            )
    return result


def stored_alike(folder: Path, result: dict[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    """All results in ``folder`` that have the values of ``result`` for ``keys``."""
    stored = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    return [r for r in stored if all(r.get(key) == result[key] for key in keys)]


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
    reason = out_of_memory(done.returncode, done.stderr)
    if reason is not None:
        return {**failed, "skipped": reason}
    if done.returncode != 0:
        raise InputError(f"{cell.name}: the measurement failed\n{done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def out_of_memory(returncode: int, stderr: str) -> str | None:
    """In words, where a process ended for want of memory; None where it did not."""
    if returncode == -9:
        return "the system ended it: out of memory"
    return "out of GPU memory" if returncode != 0 and _GPU_MEMORY.search(stderr) else None


def write_result(file: Path, result: dict[str, Any]) -> None:
    """As JSON; never half of it."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(file)
