"""Time of the set-cover selector against QUESTS' own compression ("msc") on the same rows, and whether they
pick the same frames.

    python scripts/benchmark_set_cover.py --peer-python VENV/bin/python      # a Python with ``quests``
    installed python scripts/benchmark_set_cover.py                                    # quests in this
    environment

The pool is a made-up crystal that is heated: 2,000 frames of 108 atoms, of which 100 are kept, with 63
columns an environment, the size of QUESTS' default descriptor. QUESTS makes as many picks as
``--peer-seconds`` allow; the time of all of them is extrapolated in proportion. Times are CPU seconds of the
process, which other work on the machine disturbs less than the clock; ours are measured before and after
QUESTS.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.distill.features import Features
from msmlff.distill.set_cover import SetCover

BANDWIDTH = 0.015  # QUESTS' default
PEER = """
import json, sys, time
import numpy as np
from quests.compression.fps import msc
from quests.entropy import entropy
path, frames, picks, h, limit = sys.argv[1], *(float(a) for a in sys.argv[2:])
rows = list(np.load(path).reshape(int(frames), -1, 63))
small = rows[:3]
msc(small, np.array([entropy(x, h=h) for x in small]), 3, h=h)  # compiles
start = time.process_time()
own = np.array([entropy(x, h=h) for x in rows])
entropies = time.process_time() - start
def timed(n):
    start = time.process_time()
    ids = msc(rows, own, n, h=h)
    return [int(i) for i in ids], time.process_time() - start
first, second = timed(2)[1], timed(6)[1]
per_pick = max((second - first) / 4, 1e-3)
n = int(max(6, min(picks, (limit - entropies) / per_pick)))
ids, seconds = timed(n)
print(json.dumps({"ids": ids, "seconds": seconds, "entropies": entropies, "picks": n}))
"""


def crystal_rows(frames: int, atoms: int, columns: int = 32, seed: int = 0) -> np.ndarray:
    """[frames * atoms, 2 columns - 1] float64: of each of ``atoms`` atoms of an fcc crystal of 108, at ten
    temperatures and five densities, the switched inverse distances to its nearest neighbours, sorted, and the
    means of successive ones weighted by their difference in rank."""
    rng = np.random.default_rng(seed)
    base = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    cells = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 1, 3)
    sites = (cells + base).reshape(-1, 3)
    rows = np.empty((frames, atoms, 2 * columns - 1))
    for f in range(frames):
        lattice = 3.52 * (1 + 0.02 * (f % 5))
        moved = lattice * sites + 0.04 * (1 + f * 10 // frames) * rng.normal(size=sites.shape)
        apart = moved[:atoms, None] - moved
        apart -= 3 * lattice * np.round(apart / (3 * lattice))
        r = np.sort(np.sqrt((apart**2).sum(axis=-1)), axis=1)[:, 1 : columns + 1]
        weight = np.where(r < 5.0, (1 - (r / 5.0) ** 2) ** 2, 0.0) / r
        pairs = np.sqrt(weight[:, 1:] * weight[:, :-1]) * (1 + np.linspace(0, 1, columns - 1))
        rows[f] = np.concatenate([weight, pairs], axis=1)
    return rows.reshape(frames * atoms, -1)


def ours(rows: np.ndarray, frames: int, picks: int, criterion: str) -> tuple[list[int], float]:
    """(ids, CPU seconds) of a selection from rows that nothing is known of yet."""
    atoms = len(rows) // frames
    features = Features(rows, np.arange(0, len(rows) + 1, atoms), np.ones(len(rows), dtype=int), "crystal")
    selector = SetCover(criterion=criterion, bandwidth=BANDWIDTH, components=None)
    if criterion == "coverage":
        selector = SetCover()
    start = time.process_time()
    ids = selector.select(features, picks, seed=0).ids.tolist()
    return ids, time.process_time() - start


def peer(rows: np.ndarray, python: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What QUESTS picks, and its time, from a process of its own with as many threads."""
    threads = str(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        np.save(path, rows)
        numbers = (arguments.frames, arguments.picks, BANDWIDTH, arguments.peer_seconds)
        environment = os.environ | {"NUMBA_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [python, "-c", PEER, str(path), *(str(number) for number in numbers)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"QUESTS did not run with {python}:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(result: dict[str, Any]) -> str:
    """The page in Markdown."""
    s, q = result["seconds"], result["quests"]
    made = f"{q['picks']} of {result['picks']} picks made"
    if q["picks"] < result["picks"]:
        made += ", the time of the others in proportion"
    rows = [
        ("QUESTS msc", f"{s['quests']:.1f}", "1", made),
        ("set_cover criterion=quests", f"{s['ours']:.2f}", f"{result['ratio']:.0f}", result["agreement"]),
        (
            "set_cover, defaults",
            f"{s['coverage']:.2f}",
            f"{s['quests'] / s['coverage']:.0f}",
            "another criterion",
        ),
    ]
    lines = [
        "# Set cover on atomic environments: MSMLFF against QUESTS",
        "",
        f"{result['picks']} of {result['frames']} frames of {result['atoms']} atoms, {result['columns']} "
        f"columns an environment, h = {BANDWIDTH} (a heated, strained fcc crystal, made by the script).",
        "CPU seconds include the entropy of each frame, for QUESTS "
        f"({q['entropies']:.1f} s) as for ours; its compilation is not counted.",
        f"{result['machine']}, {result['threads']} thread(s) each, load {result['load_before'][0]:.1f} to "
        f"{result['load'][0]:.1f}; numpy {result['numpy']}; ours: the median of 4.",
        "",
        "| method | CPU seconds | times faster | picks |",
        "| --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "Written by `scripts/benchmark_set_cover.py`.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, and writes selectors_set_cover.md and .json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with quests installed")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--atoms", type=int, default=100)
    parser.add_argument("--picks", type=int, default=200)
    parser.add_argument("--peer-seconds", type=float, default=360.0)
    parser.add_argument("--threads", type=int, default=1, help="of both; as OMP_NUM_THREADS of this process")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(arguments.threads):
        sys.exit(
            f"set OMP_NUM_THREADS={arguments.threads} before Python starts, so that both use as many threads"
        )
    rows = crystal_rows(arguments.frames, arguments.atoms)
    load = os.getloadavg()

    def both() -> tuple[tuple[list[int], float], float]:
        mine = ours(rows, arguments.frames, arguments.picks, "quests")
        return mine, ours(rows, arguments.frames, arguments.picks, "coverage")[1]

    runs = [both() for _ in range(2)]
    theirs = peer(rows, arguments.peer_python, arguments)
    runs += [both() for _ in range(2)]
    mine, cover = [run[0] for run in runs], [run[1] for run in runs]
    same = sum(a == b for a, b in zip(mine[0][0], theirs["ids"], strict=False))
    # The first pick costs QUESTS no kernel.
    whole = theirs["seconds"] * (arguments.picks - 1) / (theirs["picks"] - 1) + theirs["entropies"]
    seconds = {
        "ours": float(np.median([s for _, s in mine])),
        "coverage": float(np.median(cover)),
        "quests": whole,
    }
    result = {
        "frames": arguments.frames,
        "atoms": arguments.atoms,
        "columns": rows.shape[1],
        "picks": arguments.picks,
        "bandwidth": BANDWIDTH,
        "seconds": seconds,
        "ratio": seconds["quests"] / seconds["ours"],
        "agreement": f"{same} of {theirs['picks']} the same, in the same order",
        "quests": theirs,
        "ours_ids": mine[0][0],
        "ours_runs": [s for _, s in mine],
        "threads": arguments.threads,
        "load_before": load,
        "load": os.getloadavg(),
        "machine": f"{os.cpu_count()} cores ({platform.machine()})",
        "numpy": np.__version__,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "selectors_set_cover.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "selectors_set_cover.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
