"""docs/matched.md from the runs of scripts/matched_study.sh: errors of the peers' models and of multiscale
ones trained alike, and the time of their training steps.

    python scripts/matched_page.py OUT [--docs docs]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

KEYS = {"force_rmse": "forces meV/Å", "energy_rmse": "energy meV/atom"}
PEERS = {"mace": ("msmace", "mace-torch"), "nequip": ("msnequip", "nequip")}


def errors(folder: Path) -> dict[str, list[float]]:
    """Test errors of a model's finished runs, a value a seed."""
    found = [
        json.loads((run / "test_metrics.json").read_text())["overall"]
        for run in sorted(folder.iterdir())
        if (run / "test_metrics.json").is_file()
    ]
    return {key: [float(f[key]) for f in found] for key in KEYS}


def said(values: list[float]) -> str:
    """mean ± standard error"""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{mean(values):.3g} ± {stdev(values) / math.sqrt(len(values)):.2g}"


def times(result: dict[str, Any], code: str, task: str) -> tuple[float, str, float]:
    """(median ms, text, MB) with the faster of the allocators."""
    best: tuple[float, str, float] | None = None
    for allocator in result["allocators"]:
        runs = [
            r for r in result["runs"] if (r["code"], r["task"], r["allocator"]) == (code, task, allocator)
        ]
        values = [t for r in runs for t in r["milliseconds"]]
        middle = median(values)
        if best is None or middle < best[0]:
            text = f"{middle:.0f} ({min(values):.0f} to {max(values):.0f})"
            best = middle, text, median(r["peak_mb"] for r in runs)
    assert best is not None
    return best


def titles(result: dict[str, Any]) -> dict[str, str]:
    """What was measured: title by task. An evaluation takes one frame, whatever the batch is."""
    atoms = {run["task"]: run["atoms"] for run in result["runs"]}
    batch = result["setting"]["batch"]
    found = {"train": f"training step of {batch} frames ({atoms['train']} atoms)"}
    if batch == 5:
        found["evaluate"] = f"energy and forces of {atoms['evaluate']} atoms"
    return found


def section(pool: Path) -> list[str]:
    """Errors and times of a pool."""
    steps = sorted({json.loads(f.read_text())["steps"] for f in pool.glob("*/seed*/record.json")})
    names = [name for pair in PEERS.items() for name in (pair[0], pair[1][0]) if (pool / name).is_dir()]
    lines = [
        "",
        f"## {pool.name}",
        "",
        f"Trained for {', '.join(map(str, steps))} steps.",
        "",
        f"| model | {' | '.join(KEYS.values())} | seeds |",
        "| --- | --- | --- | --- |",
    ]
    for name in names:
        found = errors(pool / name)
        values = " | ".join(said(found[key]) for key in KEYS)
        lines.append(f"| {name} | {values} | {len(found['force_rmse'])} |")
    lines += [
        "",
        "| task | ours ms | peer ms | times faster | ours MB | peer MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    machines = set()
    for peer, (ours, package) in PEERS.items():
        for file in sorted(pool.glob(f"{peer}_*_matched.json")):
            result = json.loads(file.read_text())
            for task, title in titles(result).items():
                a, b = times(result, "msmlff", task), times(result, package, task)
                cells = (f"{title}, {ours} against {package}", a[1], b[1], f"{b[0] / a[0]:.1f}")
                lines.append(f"| {' | '.join(cells)} | {a[2]:.0f} | {b[2]:.0f} |")
            threads, load = result["setting"]["threads"], result["load_average"]
            machines.add(f"{result['machine']}, {threads} threads, load {load:.1f}")
    return [
        *lines,
        "",
        "Frames of the test set, evenly spread; median (range); each code with the allocator that serves it "
        f"best (default or tcmalloc). {'; '.join(sorted(machines))}.",
    ]


def settings(folder: Path) -> list[str]:
    """The settings of each model, from its runs."""
    lines = ["", "## Settings", ""]
    for pool in sorted(p for p in folder.iterdir() if p.is_dir()):
        for name in sorted(p for p in pool.iterdir() if p.is_dir()):
            record = next(iter(sorted(name.glob("seed*/record.json"))), None)
            if record is not None:
                own = [o for o in json.loads(record.read_text())["overrides"] if o.startswith("model")]
                lines.append(f"- {pool.name}, {name.name}: `{' '.join(own)}`")
    return lines


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs")
    arguments = parser.parse_args()
    pools = [p for p in sorted(arguments.folder.iterdir()) if p.is_dir()]
    lines = [
        "# Multiscale against one scale at equal steps",
        "",
        "Each model of a pool is trained for as many steps of two frames on the same 200 frames "
        "(d_optimal), with the same optimiser and schedule, by `scripts/matched_study.sh`. `mace` has the "
        "hyperparameters of mace-torch (128x0e + 128x1o, l ≤ 3, correlation 3, two layers) and, as the tests "
        "show, its numbers; `nequip` those of the nequip package (32 channels, l ≤ 2, four layers). Errors "
        "are of the test set, mean over seeds ± standard error. Times of the peers are those of the packages "
        "themselves on the same frames.",
    ]
    for pool in pools:
        lines += section(pool)
    lines += settings(arguments.folder)
    (arguments.docs / "matched.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
