"""Selectors on pools that lie on disk: seconds and peak memory against the number of environments."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import selectors_report as report

from msmlff.distill.bank import EnvironmentBank
from msmlff.distill.cpd import CPD
from msmlff.distill.features import Features
from msmlff.distill.fps import EnvironmentFPS
from msmlff.distill.selector import Selector

SELECTORS: dict[str, Selector] = {
    "cpd": CPD(),
    "fps_environments": EnvironmentFPS(),
    "bank": EnvironmentBank(),
}
ATOMS, COLUMNS, CLUSTERS = 100, 64, 400  # atoms of a frame, columns, kinds of environments
LIMIT_MB = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes, picks, where the pools are written."""
    parser.add_argument("--environments", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--picks", type=int, default=200)
    parser.add_argument("--selectors", nargs="+", choices=SELECTORS, default=list(SELECTORS))
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder of the pools")


def make_pool(folder: Path, frames: int) -> None:
    """rows.npy and numbers.npy of frames of ``ATOMS`` atoms of two elements.

    Environments belong to kinds of different width, common ones and rare ones (frequency falls as 1/rank); a
    frame is of one of 20 phases, each with its own frequencies, and is shifted as a whole a little, as
    configurations at different densities are.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, COLUMNS)) * np.linspace(2.0, 0.2, COLUMNS)
    widths = rng.uniform(0.05, 0.4, size=CLUSTERS)
    frequency = 1.0 / np.arange(1, CLUSTERS + 1)
    phases = np.stack([rng.permuted(frequency) for _ in range(20)])
    cumulative = np.cumsum(phases / phases.sum(axis=1, keepdims=True), axis=1)
    shape = (frames * ATOMS, COLUMNS)
    rows = np.lib.format.open_memmap(folder / "rows.npy", mode="w+", dtype=np.float32, shape=shape)
    numbers = np.empty(len(rows), dtype=np.uint8)
    for start in range(0, frames, 500):
        n = min(500, frames - start)
        phase = rng.integers(20, size=n)
        kind = np.empty((n, ATOMS), dtype=np.int64)
        for i in range(n):
            kind[i] = np.searchsorted(cumulative[phase[i]], rng.random(ATOMS))
        kind = np.minimum(kind, CLUSTERS - 1)
        noise = rng.standard_normal((n, ATOMS, COLUMNS), dtype=np.float32) * widths[kind][..., None]
        shift = 0.1 * rng.standard_normal((n, 1, COLUMNS))
        part = slice(start * ATOMS, (start + n) * ATOMS)
        rows[part] = (centres[kind] + noise + shift).reshape(-1, COLUMNS)
        numbers[part] = np.where(kind.ravel() % 3, 1, 8)
    rows.flush()
    np.save(folder / "numbers.npy", numbers)


def run(arguments: argparse.Namespace) -> None:
    """Every selector on every pool, each in a process of its own; writes the page."""
    load, runs = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for environments in arguments.environments:
            make_pool(Path(folder), environments // ATOMS)
            for name in arguments.selectors:
                command = [sys.executable, __file__, folder, name, str(arguments.picks)]
                paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
                done = subprocess.run(
                    command, check=True, capture_output=True, text=True,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                )  # fmt: skip
                runs.append({"environments": environments, "selector": name} | json.loads(done.stdout))
                print(runs[-1], file=sys.stderr)
    facts = report.machine(arguments.threads)
    setting = {"columns": COLUMNS, "atoms": ATOMS, "picks": arguments.picks, "kinds": CLUSTERS}
    figures = {"setting": setting, "load_at_start": load} | facts | {"runs": runs}
    text = page(arguments, runs, report.setting_line(facts, load))
    report.write(arguments.out, "selectors_scale", text, figures)


def page(arguments: argparse.Namespace, runs: list[dict[str, Any]], setting: str) -> str:
    """The table, and how time grows from the smallest pool to the largest."""
    lines = [
        f"| {r['selector']} | {r['environments']:,} | {r['frames']:,} | {r['file_mb']:,.0f} | "
        f"{r['seconds']:.1f} | {r['peak_mb']:,.0f} |"
        for r in sorted(runs, key=lambda r: (list(SELECTORS).index(r["selector"]), r["environments"]))
    ]
    by_name = [[r for r in runs if r["selector"] == name] for name in arguments.selectors]
    growth = [line for some in by_name for line in _growth(some)]
    worst = max(r["peak_mb"] for r in runs)
    verdict = "stays within" if worst <= LIMIT_MB else "EXCEEDS"
    return f"""# Selectors on pools that no memory needs to hold

{arguments.picks} picks from synthetic pools on disk: frames of {ATOMS} atoms of two elements, {COLUMNS}
columns, {CLUSTERS} kinds of environments, common and rare. Each run is a process of its own and begins with
the features on disk; seconds are those of `select`, its check of the features included, and not of writing
the pool, which leaves the file in the kernel's cache as far as that holds it. Peak memory is the largest
resident set of the whole process, mapped pages included.
`python scripts/benchmark_selectors.py scale --threads {arguments.threads}`
{setting}

| selector | environments | frames | rows on disk MB | seconds | peak memory MB |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}

{chr(10).join(growth)}

The largest peak, {worst:,.0f} MB, {verdict} {LIMIT_MB:,} MB.
"""


def _growth(runs: list[dict[str, Any]]) -> list[str]:
    first, last = runs[0], runs[-1]
    if len(runs) < 2:
        return []
    factor, slower = last["environments"] / first["environments"], last["seconds"] / first["seconds"]
    return [
        f"- {first['selector']}: {factor:.0f} times the environments take {slower:.1f} times the time "
        f"(exponent {math.log(slower) / math.log(factor):.2f}) and "
        f"{last['peak_mb'] / first['peak_mb']:.1f} times the memory."
    ]


def work(folder: Path, name: str, picks: int) -> None:
    """One selection, measured; prints JSON."""
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    offsets = np.arange(0, len(rows) + 1, ATOMS)
    features = Features(rows, offsets, np.load(folder / "numbers.npy"), f"synthetic-{len(rows)}")
    start = time.perf_counter()
    selection = SELECTORS[name].select(features, picks, seed=0)
    seconds = time.perf_counter() - start
    facts = {"frames": len(features), "file_mb": rows.nbytes / 1e6, "seconds": seconds}
    facts["peak_mb"] = report.peak_mb()
    assert len(set(selection.ids.tolist())) == picks
    details = {k: v for k, v in selection.record["details"].items() if isinstance(v, int | float)}
    print(json.dumps(facts | {"details": details}))


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
