"""msmlff benchmark md: time and memory of Langevin dynamics, ours against ASE with mace-torch."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from msmlff.app.benchmark_figure import Curve, draw
from msmlff.app.benchmark_growth import described
from msmlff.app.benchmark_md_worker import (
    CODES,
    FRICTION_TIME,
    MSMACE,
    OURS,
    SYSTEMS,
    TEMPERATURE,
    TIMESTEP,
    Cell,
)
from msmlff.app.benchmark_process import (
    add_arguments,
    check_arguments,
    measure_missing,
    run_alone,
    stored_alike,
)
from msmlff.app.benchmark_systems import TITLES, liquid
from msmlff.app.benchmark_worker import CUEQ
from msmlff.errors import InputError
from msmlff.nn.ops.backends import BACKENDS
from msmlff.simulation.chunks import free_bytes

_WORKER = "msmlff.app.benchmark_md_worker"
_NAMES = {
    "msmlff": "MSMLFF",
    "msmace": "MS-MACE",
    "mace-torch": "ASE + mace-torch",
    CUEQ: "ASE + mace-torch + cuEquivariance",
}
#: matplotlib's colour and marker of each.
_STYLES = dict(
    zip(
        CODES,
        (("#0072B2", "o"), ("#009E73", "^"), ("#D55E00", "s"), ("#CC79A7", "D")),
        strict=True,
    )
)
_COMMON = ("channels", "hidden_l_max", "l_max", "cutoff", "memory_gib", "threads", "device")  # of a table
_NS_A_DAY = 1e-6 * TIMESTEP * 86_400  # of one step a second
_ROOM = 0.9  # share of the free memory that a measurement is let try


def md_command(arguments: list[str]) -> int:
    """Measure what is missing, write cells, table and figure; returns the exit code."""
    options = _parser().parse_args(arguments)
    cells = _cells(options)
    unit = liquid(options.molecules) if "fc43" in options.systems else None
    folder = options.out / "md"

    def measure(cell: Cell, before: list[dict[str, Any]]) -> dict[str, Any]:
        packed = unit if cell.system == "fc43" else None
        preload = str(options.tcmalloc) if cell.preload else ""
        result = _too_large(cell, before) or run_alone(_WORKER, cell, packed, options.limit, preload)
        return result | {"versions": {"mace-torch": version("mace-torch")}}

    some = measure_missing(cells, folder, measure, _said)
    results = stored_alike(folder, some[0], _COMMON)
    if all("skipped" in r for r in results):
        raise InputError(
            f"{folder}: nothing was measured; write a larger --limit or smaller --sizes, and remove the files"
        )
    (options.out / "md.md").write_text(to_markdown(results))
    draw(_curves(results), "ns a day", options.out / "md.png")
    Console().print(f"written: {options.out / 'md.md'}, .png, {folder}/*.json", soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="msmlff benchmark md", description=__doc__)
    add_arguments(parser, SYSTEMS)
    both = ["msmlff", "mace-torch"]
    parser.add_argument("--codes", nargs="+", default=both, choices=CODES, help=f"default {' '.join(both)}")
    for key, kind in (("channels", int), ("hidden_l_max", int), ("l_max", int), ("cutoff", float)):
        default = getattr(Cell, key)
        name = f"--{key.replace('_', '-')}"
        parser.add_argument(name, type=kind, default=default, help=f"of MACE; default {default}")
    parser.add_argument("--tcmalloc", type=Path, help="library that mace-torch gets preloaded")
    return parser


def _cells(options: argparse.Namespace) -> list[Cell]:
    """All measurements, the small ones first."""
    check_arguments(options)
    if options.tcmalloc is not None and not options.tcmalloc.is_file():
        raise InputError(f"--tcmalloc {options.tcmalloc}: no such file; write the path of the library")
    missing = BACKENDS["cuequivariance"].missing(options.device) if CUEQ in options.codes else None
    if missing is not None:
        raise InputError(f"--codes {CUEQ}: {missing}")
    common = {key: getattr(options, key) for key in _COMMON}
    preload = {"mace-torch": options.tcmalloc.name} if options.tcmalloc else {}  # no paths of this machine
    return [
        Cell(system, atoms, code, **common, preload=preload.get(code, ""))
        for atoms in sorted(options.sizes)
        for system in options.systems
        for code in options.codes
    ]


def _too_large(cell: Cell, before: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A result that says so, where the memory of the same with fewer atoms, in proportion, is not free."""
    same = [r for r in before if (r["system"], r["code"]) == (cell.system, cell.code)]
    if not same or cell.code in OURS:
        return None
    last = same[-1]
    failed = {**asdict(cell), "real_atoms": cell.atoms}
    if "skipped" in last:
        return failed | {"skipped": "too large already with fewer atoms"}
    needed = last["base_mb"] + (last["peak_mb"] - last["base_mb"]) * cell.atoms / last["real_atoms"]
    if needed * 2**20 <= _ROOM * free_bytes(torch.device(cell.device)):
        return None
    return failed | {"skipped": f"about {needed / 1024:.0f} GiB in proportion to fewer atoms; not free"}


def _said(result: dict[str, Any]) -> str:
    what = f"{result['system']:7} {result['code']:10} {result['real_atoms']:7}"
    if "skipped" in result:
        return f"{what}  not measured: {result['skipped']}"
    return f"{what} {1e3 * result['step_s']:11.1f} ms a step {result['peak_mb']:8.0f} MB"


def to_markdown(results: list[dict[str, Any]]) -> str:
    """A table a system, ours beside the peer's."""
    first = next(r for r in results if "skipped" not in r)
    loads = [r["load_average"] for r in results]
    hidden = " + ".join(f"{first['channels']}x{l}{'eo'[l % 2]}" for l in range(first["hidden_l_max"] + 1))
    where = "that torch took on the GPU" if first["device"] == "cuda" else "of the process"
    tuned = " with tcmalloc" if any(r.get("preload") for r in results) else ""
    lines = [
        "# Dynamics: MSMLFF against ASE with mace-torch",
        "",
        f"MACE of {hidden}, l_max {first['l_max']}, correlation 3, 2 layers, {first['cutoff']:g} Å, random "
        f"weights, float32; Langevin, {TIMESTEP:g} fs, {TEMPERATURE:g} K, friction 1/({FRICTION_TIME:g} fs).",
        f"{first['machine']}, {first['threads']} threads, load {min(loads):.1f} to {max(loads):.1f}; torch "
        f"{first['versions']['torch']}, ASE {first['versions']['ase']}, mace-torch "
        f"{first['versions']['mace-torch']}{tuned}. Each line is a process of its own: the mean of the steps "
        "of 20 s (up to 200 of them, at least one) after two; peak memory "
        f"{where}, ours in pieces beyond {first['memory_gib']:g} GiB.",
    ]
    for system in SYSTEMS:
        some = [r for r in results if r["system"] == system]
        if some:
            lines += ["", f"## {TITLES[system]}", "", *_of_system(system, some)]
    return "\n".join([*lines, ""])


def _of_system(system: str, results: list[dict[str, Any]]) -> list[str]:
    """The codes beside each other, the peers with how many times more they take than our MACE."""
    codes = [code for code in CODES if any(r["code"] == code for r in results)]
    lines, head = list[str](), "atoms"
    if "msmace" in codes:
        lines += [f"MS-MACE: {described(system, MSMACE)}.", ""]
    for code in codes:
        head += f" | {_NAMES[code]} ms a step | µs an atom | ns a day | MB"
        head += "" if code in OURS else " | times faster | times less memory"
    lines += [f"| {head} |", "| --- |" + " --- |" * head.count("|")]
    return lines + [_row(results, codes, atoms) for atoms in sorted({r["atoms"] for r in results})]


def _row(results: list[dict[str, Any]], codes: list[str], atoms: int) -> str:
    by_code = {r["code"]: r for r in results if r["atoms"] == atoms}
    sizes = [r["real_atoms"] for r in by_code.values() if "skipped" not in r]
    cells, ours = [f"{max(sizes, default=atoms):,}"], by_code.get("msmlff")
    for code in codes:
        found = by_code.get(code)
        cells += _figures(found)
        if code in OURS:
            continue
        if ours and found and "skipped" not in ours and "skipped" not in found:
            cells += [f"{found[key] / ours[key]:.1f}" for key in ("step_s", "peak_mb")]
        else:
            cells += ["", ""]
    return f"| {' | '.join(cells)} |"


def _figures(result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return [""] * 4
    if "skipped" in result:
        return [result["skipped"], "", "", ""]
    step = result["step_s"]
    of_atom = 1e6 * step / result["real_atoms"]  # µs
    digits = f"{of_atom:,.0f}" if of_atom >= 100.0 else f"{of_atom:.3g}"
    return [f"{1e3 * step:,.1f}", digits, f"{_NS_A_DAY / step:.3g}", f"{result['peak_mb']:,.0f}"]


def _curves(results: list[dict[str, Any]]) -> list[Curve]:
    found = []
    kinds = {(r["system"], r["code"]) for r in results}
    for system, code in sorted(kinds, key=lambda kind: (kind[0], CODES.index(kind[1]))):
        own = [r for r in results if (r["system"], r["code"]) == (system, code) and "skipped" not in r]
        own.sort(key=lambda r: r["real_atoms"])
        colour, marker = _STYLES[code]
        found.append(
            Curve(
                system,
                _NAMES[code],
                {"color": colour, "marker": marker},
                [r["real_atoms"] for r in own],
                [_NS_A_DAY / r["step_s"] for r in own],
                [r["peak_mb"] / 1024 for r in own],
            )
        )
    return found
