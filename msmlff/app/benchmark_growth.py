"""msmlff benchmark growth: time and memory of energies and forces from 100 to 100,000 atoms."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import t as student

from msmlff.app.benchmark_figure import Curve, draw
from msmlff.app.benchmark_growth_worker import CUTOFFS, MODELS, MODES, SYSTEMS, Cell
from msmlff.app.benchmark_process import (
    add_arguments,
    check_arguments,
    measure_missing,
    run_alone,
    stored_alike,
)
from msmlff.app.benchmark_systems import TITLES, liquid

_WORKER = "msmlff.app.benchmark_growth_worker"
_COMMON = ("memory_gib", "threads", "device")  # of all cells of a table
#: Atoms from which on slopes are fitted: below, what every call costs weighs.
_FIT_FROM = 1000


def growth_command(arguments: list[str]) -> int:
    """Measure what is missing, write cells, table and figure; returns the exit code."""
    options = _parser().parse_args(arguments)
    cells = _cells(options)
    unit = liquid(options.molecules) if "fc43" in options.systems else None
    folder = options.out / "growth"

    def measure(cell: Cell, _: list[dict[str, Any]]) -> dict[str, Any]:
        return run_alone(_WORKER, cell, unit if cell.system == "fc43" else None, options.limit)

    some = measure_missing(cells, folder, measure, _said)
    results = stored_alike(folder, some[0], _COMMON)
    (options.out / "growth.md").write_text(to_markdown(results))
    if series(results):
        draw(_curves(results), "s for energy and forces", options.out / "growth.png")
    Console().print(f"written: {options.out / 'growth.md'}, .png, {folder}/*.json", soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="msmlff benchmark growth", description=__doc__)
    add_arguments(parser, SYSTEMS)
    models = ["msmace-medium", "mace-medium"]
    parser.add_argument(
        "--models", nargs="+", default=models, choices=list(MODELS), help=f"default {' '.join(models)}"
    )
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES, help="default both")
    return parser


def _cells(options: argparse.Namespace) -> list[Cell]:
    """All measurements, the small ones first."""
    check_arguments(options)
    common = {key: getattr(options, key) for key in _COMMON}
    return [
        Cell(system, atoms, model, mode, **common)
        for atoms in sorted(options.sizes)
        for system in options.systems
        for model in options.models
        for mode in options.modes
    ]


def _said(result: dict[str, Any]) -> str:
    what = f"{result['system']:7} {result['model']:14} {result['mode']:8} {result['real_atoms']:7}"
    if "skipped" in result:
        return f"{what}  not measured: {result['skipped']}"
    return f"{what} {_seconds(result):9.2f} s {result['peak_mb']:8.0f} MB"


def _seconds(result: dict[str, Any]) -> float:
    return float(result["seconds"] + (result["search_s"] or 0.0))


def power(atoms: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """The exponent of values ~ atoms^exponent by least squares of logarithms, and half its 95 % interval."""
    x, y = np.log(atoms), np.log(values)
    (slope, intercept), free = np.polyfit(x, y, 1), len(x) - 2
    if free < 1:
        return float(slope), float("nan")
    variance = float(np.square(y - slope * x - intercept).sum()) / free
    return float(slope), float(student.ppf(0.975, free) * np.sqrt(variance / np.square(x - x.mean()).sum()))


def series(results: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Measured cells by (system, model, mode), by ascending size."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for result in sorted(results, key=lambda r: r["real_atoms"]):
        if "skipped" not in result:
            found.setdefault((result["system"], result["model"], result["mode"]), []).append(result)
    return found


def to_markdown(results: list[dict[str, Any]]) -> str:
    """All cells, and how time and memory grow."""
    first, loads = results[0], [r["load_average"] for r in results]
    wanted = [r["atoms"] for r in results]
    peak = "process's largest resident set, its base that before the first call"
    if first["device"] == "cuda":
        peak = "largest that torch took on the GPU at once"
    lines = [
        f"# Growth: energy and forces from {min(wanted):,} to {max(wanted):,} atoms",
        "",
        f"{first['machine']}, {first['threads']} threads; torch {first['versions']['torch']}; float32, "
        f"random weights. Load at the ends of the measurements: {min(loads):.1f} to {max(loads):.1f}. Each "
        "cell is a process of its own; seconds are the least of up to three calls, peak memory is the "
        f"{peak}. Chunked: in pieces, which "
        "search for their neighbours themselves. The liquid is a cell of rigid molecules packed at random to "
        "its density and repeated, with noise: not in equilibrium, but with as many neighbours.",
    ]
    for system in SYSTEMS:
        if any(r["system"] == system for r in results):
            lines += _of_system(system, [r for r in results if r["system"] == system])
    return "\n".join([*lines, ""])


def _of_system(system: str, results: list[dict[str, Any]]) -> list[str]:
    lines = ["", f"## {TITLES[system]}", ""]
    for model in sorted({r["model"] for r in results}):
        lines.append(f"{model}: {described(system, model)}.")
    lines += [
        "",
        "| model | mode | atoms | neighbours s | evaluation s | µs an atom | peak MB | atoms of a piece |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in sorted(results, key=lambda r: (r["model"], r["mode"], r["real_atoms"])):
        start = f"| {r['model']} | {r['mode']} | {r['real_atoms']:,}"
        if "skipped" in r:
            lines.append(f"{start} | not measured: {r['skipped']} | | | | |")
            continue
        search = "in it" if r["search_s"] is None else f"{r['search_s']:.3f}"
        piece = f"{r['atoms_per_chunk']:,}" if r["mode"] == "chunked" else "all"
        lines.append(
            f"{start} | {search} | {r['seconds']:.3f} | {1e6 * _seconds(r) / r['real_atoms']:.0f} "
            f"| {r['peak_mb']:.0f} | {piece} |"
        )
    return lines + _powers(results)


def _powers(results: list[dict[str, Any]]) -> list[str]:
    lines = []
    for (_, model, mode), cells in series(results).items():
        fitted = [r for r in cells if r["real_atoms"] >= 0.9 * _FIT_FROM]
        if len(fitted) < 3:
            continue
        atoms = [r["real_atoms"] for r in fitted]
        time = power(atoms, [_seconds(r) for r in fitted])
        memory = power(atoms, [max(1.0, r["peak_mb"] - r["base_mb"]) for r in fitted])
        exponents = " | ".join(f"{slope:.2f} ± {half:.2f}" for slope, half in (time, memory))
        lines.append(f"| {model} | {mode} | {exponents} |")
    head = [
        "",
        f"Exponents of time and of memory above its base, from {_FIT_FROM:,} atoms on (95 % intervals):",
        "",
        "| model | mode | time | memory |",
        "| --- | --- | --- | --- |",
    ]
    return head + lines if lines else []


def described(system: str, model: str) -> str:
    """A model of ``MODELS`` in words, with the cutoffs of a system."""
    architecture = MODELS[model](*CUTOFFS[system])
    scales = " and ".join(
        f"{s.cutoff:g} Å, {s.channels} channels, l_max {s.l_max}" for s in architecture.scales
    )
    hidden = " + ".join(
        f"{architecture.channels}x{l}{'eo'[l % 2]}" for l in range(architecture.hidden_l_max + 1)
    )
    return f"{hidden}, {architecture.layers} layers, {scales}"


def _curves(results: list[dict[str, Any]]) -> list[Curve]:
    found = series(results)
    models = sorted({model for _, model, _ in found})
    colours = dict(zip(models, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=False))
    return [
        Curve(
            system,
            f"{model}, {mode}",
            {
                "color": colours[model],
                "marker": "os"[mode != "whole"],
                "linestyle": ("-", "--")[mode != "whole"],
            },
            [r["real_atoms"] for r in cells],
            [_seconds(r) for r in cells],
            [r["peak_mb"] / 1024 for r in cells],
        )
        for (system, model, mode), cells in found.items()
    ]
