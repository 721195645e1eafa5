"""What the benchmarks of the selectors have in common: facts about the machine, and writing the result."""

from __future__ import annotations

import json
import os
import platform
import re
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msmlff


def machine(threads: int, packages: tuple[str, ...] = ("numpy", "scipy", "scikit-learn")) -> dict[str, Any]:
    """Processor, threads, versions, date and the load when asked."""
    versions = {"msmlff": msmlff.__version__, "python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "machine": f"CPU, {os.cpu_count()} cores ({platform.machine()})",
        "threads": threads,
        "date": date.today().isoformat(),
        "versions": versions,
        "load_average": os.getloadavg(),
    }


def setting_line(facts: dict[str, Any], load_at_start: float) -> str:
    """The machine in a sentence for the page."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{facts['machine']}, {facts['threads']} threads; {versions}; {facts['date']}. Load average "
        f"(1 minute) {load_at_start:.1f} at the start, {facts['load_average'][0]:.1f} at the end; other work "
        "ran where it exceeds the threads."
    )


def peak_mb() -> float:
    """Largest resident memory of this process in MB, mapped files included."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit("/proc/self/status has no VmHWM: this benchmark needs Linux")
    return int(found.group(1)) / 2**10


def write(out: Path, name: str, page: str, figures: dict[str, Any]) -> None:
    """NAME.md and NAME.json in the folder; the page is printed too."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(page, encoding="utf-8")
    (out / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(page)
