"""Time of ``msmlff distill`` from the command line, imports included, with the descriptor cached.

    python scripts/benchmark_distill.py

Every selector that trains nothing chooses 200 of the 575 frames of dense_hydrogen; the selectors take turns,
three rounds. Tables go to benchmarks/distill_command.{md,json}. An idle machine gives figures worth keeping:
the load average is written beside them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import selectors_report as report

# conf/selector/ without rnd, which trains, committee and atomic_uncertainty, which need trained models, and
# full, which chooses nothing.
SELECTORS = (
    "random", "uniform", "stratified", "cpd", "fps", "fps_forces", "fps_environments", "cur", "max_det",
    "d_optimal", "facility", "set_cover", "bank", "direct", "kmeans", "kmedoids", "birch", "flat_energy",
    "flat_density", "lcmd", "max_dist", "chain",
)  # fmt: skip
LIMIT = 2.0  # seconds


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--selectors", nargs="+", choices=SELECTORS, default=list(SELECTORS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "benchmarks")
    arguments = parser.parse_args()
    load, runs = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as folder:
        measure("random", Path(folder) / "first")  # computes the features, unless they are in the cache
        for number in range(arguments.rounds):
            for name in arguments.selectors:
                seconds = measure(name, Path(folder) / f"{name}_{number}")
                runs.append({"selector": name, "round": number} | seconds)
                print(runs[-1], file=sys.stderr)
    facts = report.machine(
        os.cpu_count() or 1, ("numpy", "scipy", "scikit-learn", "hydra-core", "matplotlib")
    )
    setting = {"pool": "dense_hydrogen", "budget": 200, "rounds": arguments.rounds}
    figures = {"setting": setting, "load_at_start": load} | facts | {"runs": runs}
    text = page(arguments, runs, report.setting_line(facts, load))
    report.write(arguments.out, "distill_command", text, figures)


def measure(selector: str, folder: Path) -> dict[str, float]:
    """Wall and processor (user and system) seconds of one command, from its start to its end."""
    options = ["pool=dense_hydrogen", f"selector={selector}", "budget=200", f"hydra.run.dir={folder}"]
    command = [sys.executable, "-m", "msmlff.app", "distill", *options]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the first command writes what an installation does
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}:\n{output.read().decode()}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime}


def page(arguments: argparse.Namespace, runs: list[dict[str, Any]], setting: str) -> str:
    """The table, the fastest first."""
    by_name = {name: [r for r in runs if r["selector"] == name] for name in arguments.selectors}
    walls = {name: median(r["wall"] for r in some) for name, some in by_name.items()}
    lines = [
        f"| {name} | {_range(by_name[name], 'wall')} | {_range(by_name[name], 'cpu')} |"
        for name in sorted(walls, key=lambda name: walls[name])
    ]
    within = sum(wall < LIMIT for wall in walls.values())
    return f"""# msmlff distill from the command line

`msmlff distill pool=dense_hydrogen selector=NAME budget=200`: 200 of 575 frames of 128 atoms, the features of
the default descriptor in the cache. Seconds of the whole process: imports, reading the pool, the choice, its
coverage, the map, writing. Every selector that trains nothing; they take turns, {arguments.rounds} rounds.
`python scripts/benchmark_distill.py`
{setting}

| selector | wall s | processor s |
| --- | --- | --- |
{chr(10).join(lines)}

Median (range) over the rounds. The median wall time of {within} of {len(walls)} is below {LIMIT:g} s.
"""


def _range(runs: list[dict[str, Any]], key: str) -> str:
    values = [r[key] for r in runs]
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
