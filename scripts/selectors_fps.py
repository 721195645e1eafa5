"""Farthest-point sampling of frames: ours against scikit-matter's, on the same points from the same start."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import selectors_report as report

from msmlff.distill.farthest import FarthestPoints, Rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Size of the pool, picks, rounds."""
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--picks", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)


def gaussian(frames: int, columns: int) -> np.ndarray:
    """[frames, columns] independent normal numbers."""
    return np.random.default_rng(0).normal(size=(frames, columns))


def mixture(frames: int, columns: int) -> np.ndarray:
    """[frames, columns] 200 clusters of widths from 0.2 to 1.5, their centres 3 apart in each column."""
    rng = np.random.default_rng(0)
    centres, widths = 3 * rng.normal(size=(200, columns)), rng.uniform(0.2, 1.5, size=200)
    kind = rng.integers(200, size=frames)
    return centres[kind] + widths[kind, None] * rng.normal(size=(frames, columns))


POOLS: dict[str, Callable[[int, int], np.ndarray]] = {"mixture": mixture, "gaussian": gaussian}


def ours(points: np.ndarray, picks: int) -> list[int]:
    """Picks from frame 0 on; everything that the selector does once it has the points."""
    engine = FarthestPoints(Rows.of(points), np.arange(len(points)))
    engine.add(0)
    return [0, *engine.choose(picks - 1)[0].tolist()]


def scikit_matter(points: np.ndarray, picks: int) -> list[int]:
    """The same by scikit-matter."""
    from skmatter.sample_selection import FPS

    chosen: list[int] = FPS(n_to_select=picks, initialize=0).fit(points).selected_idx_.tolist()
    return chosen


def run(arguments: argparse.Namespace) -> None:
    """Rounds in which the two take turns; writes the page."""
    try:
        import skmatter  # noqa: F401
    except ImportError:
        raise SystemExit(
            "scikit-matter is not installed: pip install skmatter (it asks for scikit-learn < 1.9, so rather "
            "in an environment of its own with numpy and scipy)"
        ) from None
    load = os.getloadavg()[0]
    runs = [one for name in POOLS for one in rounds(name, arguments)]
    facts = report.machine(arguments.threads, ("numpy", "scipy", "scikit-learn", "skmatter"))
    setting = {key: getattr(arguments, key) for key in ("frames", "columns", "picks", "rounds")}
    page = f"""# Farthest-point sampling: MSMLFF against scikit-matter

{arguments.frames:,} frames x {arguments.columns} columns in float64, {arguments.picks:,} picks from frame 0;
the two take turns, {arguments.rounds} rounds. `python scripts/benchmark_selectors.py fps`
{report.setting_line(facts, load)}

| points | MSMLFF s | scikit-matter s | ratio | same picks |
| --- | --- | --- | --- | --- |
{chr(10).join(row(name, [r for r in runs if r["points"] == name]) for name in POOLS)}

Median (range) over the rounds; the ratio is taken in each round. Ratios above 1: MSMLFF takes less.
"""
    figures = {"setting": setting, "load_at_start": load} | facts | {"runs": runs}
    report.write(arguments.out, "selectors_fps", page, figures)


def rounds(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of each round, the order swapped every time, and whether the picks agree."""
    points = POOLS[name](arguments.frames, arguments.columns)
    codes = {"msmlff": ours, "scikit_matter": scikit_matter}
    for code in codes.values():
        code(points[:2000], 10)  # imports and first calls
    runs = []
    for number in range(arguments.rounds):
        seconds, picks = {}, {}
        for code in list(codes)[:: 1 if number % 2 == 0 else -1]:
            start = time.perf_counter()
            picks[code] = codes[code](points, arguments.picks)
            seconds[code] = time.perf_counter() - start
        agree = picks["msmlff"] == picks["scikit_matter"]
        runs.append({"points": name, "round": number, "seconds": seconds, "same_picks": agree})
    return runs


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """One line of the table."""
    mine, theirs = ([r["seconds"][code] for r in runs] for code in ("msmlff", "scikit_matter"))
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    columns = ((mine, 2), (theirs, 1), (ratios, 1))
    cells = [f"{median(v):.{d}f} ({min(v):.{d}f} to {max(v):.{d}f})" for v, d in columns]
    same = f"{sum(r['same_picks'] for r in runs)} of {len(runs)} rounds"
    return f"| {name} | {' | '.join(cells)} | {same} |"
