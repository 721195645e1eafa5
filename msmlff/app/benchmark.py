"""msmlff benchmark: our MACE against mace-torch, our NequIPs against nequip, on the same frames.

``msmlff benchmark growth``: time and memory from 100 to 100,000 atoms. ``msmlff benchmark md``: dynamics
against ASE with mace-torch.
"""

from __future__ import annotations

import argparse
import ctypes.util
import glob
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from msmlff.app.benchmark_growth import growth_command
from msmlff.app.benchmark_md import md_command
from msmlff.app.benchmark_worker import CODES, TASKS, Setting, load_system, nequip_request, request
from msmlff.app.runtime import cpu_model, device_name, versions
from msmlff.errors import InputError
from msmlff.models.files import read_header

_TITLES = {"train": "training step", "evaluate": "energy + forces"}
_NAMES = {"msmlff": "MSMLFF", "msmlff-ms": "MSMLFF (MS-NequIP)"}


def benchmark_command(arguments: list[str]) -> int:
    """Measure, print the table, write it beside its numbers; returns the exit code."""
    if arguments[:1] == ["growth"]:
        return growth_command(arguments[1:])
    if arguments[:1] == ["md"]:
        return md_command(arguments[1:])
    options = _parser().parse_args(arguments)
    setting = Setting(**{f.name: getattr(options, f.name) for f in fields(Setting)})
    load_system(setting.system)
    if setting.device not in ("cpu", "cuda") or (setting.device == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device {setting.device}: write cpu, or cuda where torch sees a GPU")
    if setting.model not in CODES:
        raise InputError(f"--model {setting.model}: write {' or '.join(CODES)}")
    ours = read_header(setting.ours)["model"] if setting.ours else None
    peer = _nequip(options.nequip_python) if setting.model == "nequip" else sys.executable
    allocators = find_allocators("none" if setting.device == "cuda" else options.tcmalloc)
    console = Console()
    runs = _measure_all(setting, allocators, options.rounds, console, peer)
    result = {
        "setting": asdict(setting) | _file_names(setting),
        "ours": ours,
        "allocators": allocators,
        "machine": cpu_model() if setting.device == "cpu" else device_name(setting.device),
        "load_average": os.getloadavg()[0],
        "versions": versions(),
        "runs": runs,
    }
    if setting.codes == CODES["mace"] and not ours and len({run["parameters"] for run in runs}) != 1:
        raise InputError("the two models differ in size, so times mean nothing; please report this setting")
    table = to_markdown(result)
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{setting.model}_{Path(setting.system).name.split('.')[0]}_{setting.channels}_{setting.dtype}"
    name += "" if setting.batch == Setting.batch else f"_batch{setting.batch}"
    name += "_matched" if setting.ours else ""
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / f"{name}.md").write_text(table)
    console.print(table)
    console.print(f"written: {folder / name}.md, .json", soft_wrap=True)
    return 0


def _file_names(setting: Setting) -> dict[str, str]:
    """Of files, without the folders of this machine: of a run's model, the run and its sweep remain."""
    return {"system": Path(setting.system).name, "ours": "/".join(Path(setting.ours).parts[-3:])}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="msmlff benchmark", description=__doc__)
    for field in fields(Setting):
        kind = type(field.default)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            default=field.default,
            help=f"default {field.default}",
        )
    parser.add_argument(
        "--rounds", type=int, default=3, help="processes of each kind, interleaved; default 3"
    )
    parser.add_argument(
        "--tcmalloc",
        default="auto",
        help="library to preload, auto (where it is installed) or none; default auto",
    )
    parser.add_argument(
        "--nequip-python", default="", help="Python of an environment with nequip; for --model nequip"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder of the results")
    return parser


def _nequip(python: str) -> str:
    """The Python that imports nequip.

    Raises:
        InputError: it does not.
    """
    advice = "write --nequip-python PYTHON, that of an environment where nequip is installed"
    if not python:
        raise InputError(f"--model nequip: {advice}")
    try:
        done = subprocess.run([python, "-c", "import nequip"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"--nequip-python {python}: {error.strerror}; {advice}") from error
    if done.returncode != 0:
        raise InputError(f"--nequip-python {python}: {done.stderr.strip().splitlines()[-1]}; {advice}")
    return python


def find_allocators(tcmalloc: str) -> dict[str, str]:
    """Allocators to measure with: name -> library to preload ("" for the default one).

    Raises:
        InputError: a library that is not there.
    """
    if tcmalloc == "none":
        return {"default": ""}
    if tcmalloc != "auto":
        if not Path(tcmalloc).is_file():
            raise InputError(
                f"--tcmalloc {tcmalloc}: no such file; write auto, none or the path of the library"
            )
        return {"default": "", "tcmalloc": tcmalloc}
    named = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    candidates = (
        [named] if named else sorted(glob.glob("/usr/lib/**/libtcmalloc_minimal.so*", recursive=True))
    )
    return {"default": "", **({"tcmalloc": candidates[0]} if candidates else {})}


def _measure_all(
    setting: Setting, allocators: dict[str, str], rounds: int, console: Console, peer: str
) -> list[dict[str, Any]]:
    """All measurements; within a round the codes take turns, so that a slow spell meets them alike."""
    runs = []
    for round_number in range(rounds):
        for task in TASKS:
            for allocator, library in allocators.items():
                for code in setting.codes:
                    result = _run(setting, code, task, library, peer)
                    kind = {"round": round_number, "task": task, "allocator": allocator, "code": code}
                    runs.append({**kind, **result})
                    median = statistics.median(result["milliseconds"])
                    console.print(
                        f"round {round_number + 1}/{rounds}  {_TITLES[task]:16} {allocator:9} {code:11}"
                        f"{median:9.1f} ms {result['peak_mb']:7.0f} MB"
                    )
    return runs


def _run(setting: Setting, code: str, task: str, library: str, peer: str) -> dict[str, Any]:
    """One measurement in a process of its own; ``peer`` is the Python that runs a peer's code."""
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    if library:
        environment["LD_PRELOAD"] = library
    environment["OMP_NUM_THREADS"] = str(setting.threads)
    if code == "nequip":
        command = [peer, "-W", "ignore", str(Path(__file__).with_name("benchmark_nequip.py"))]
        told = nequip_request(setting, task)
    else:
        command = [sys.executable, "-W", "ignore", "-m", "msmlff.app.benchmark_worker"]
        told = request(setting, code, task)
    done = subprocess.run(
        command, input=json.dumps(told), capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode != 0:
        raise InputError(f"{code}, {task}: the measurement failed\n{done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def to_markdown(result: dict[str, Any]) -> str:
    """The tables: medians over all calls, their range, peak memory, and how many times less ours takes."""
    setting, runs = result["setting"], result["runs"]
    sizes = {run["task"]: run for run in runs}
    *ours, peer = Setting(**setting).codes
    title = {"mace": "MACE", "nequip": "NequIP"}[setting["model"]]
    lines = [
        f"# {title} on {Path(setting['system']).name.split('.')[0]}: MSMLFF against {peer}",
        "",
        *_ours(result.get("ours")),
        f"{_hyperparameters(setting)}, {setting['layers']} layers, {setting['cutoff']} Å, "
        f"{setting['dtype']}, {_parameters(runs)}; training step of {sizes['train']['atoms']} atoms, "
        f"evaluation of {sizes['evaluate']['atoms']}, {runs[0]['edges_per_atom']:.1f} edges an atom.",
        f"{result['machine']}, {setting['threads']} threads, load {result['load_average']:.1f} at the end; "
        f"torch {result['versions']['torch']}. Milliseconds: median (range) over all calls of "
        f"{max(run['round'] for run in runs) + 1} processes of each kind, which took turns.",
    ]
    for code in ours:
        lines += _table(runs, result["allocators"], code, peer)
    return "\n".join([*lines, "", "Ratios above 1: MSMLFF takes less.", ""])


def _ours(model: dict[str, Any] | None) -> list[str]:
    """What stands against the peer, where it is not the same model."""
    if model is None:
        return []
    node = dict(model["architecture"])
    name = node.pop("_target_").rpartition(".")[2].removesuffix("Architecture")
    keys = ("scales", "cutoff", "l_max", "radial_mlp", "channels", "hidden_l_max", "correlation", "layers")
    said = ", ".join(f"{key} {json.dumps(node[key])}" for key in keys if key in node)
    return [f"MSMLFF: a trained {name}, {said}. The peer:", ""]


def _hyperparameters(setting: dict[str, Any]) -> str:
    mace = setting["model"] == "mace"
    highest = setting["hidden_l_max" if mace else "l_max"]
    hidden = " + ".join(f"{setting['channels']}x{l}{'eo'[l % 2]}" for l in range(highest + 1))
    if mace:
        return f"{hidden}, l_max {setting['l_max']}, correlation {setting['correlation']}"
    mode = f"nequip's mode {setting['nequip_mode']}"
    if setting["ours"]:
        return f"{hidden}, {mode}"
    shorter = f"MS-NequIP: up to {setting['short_cutoff']} Å, beyond it a quarter of them and l_max 1"
    return f"{hidden} ({shorter}), {mode}"


def _parameters(runs: list[dict[str, Any]]) -> str:
    """How many, for each code where they differ (nequip's self-connections go through an embedding)."""
    counts = {run["code"]: run["parameters"] for run in runs}
    if len(set(counts.values())) == 1:
        return f"{runs[0]['parameters']:,} parameters"
    return "parameters: " + ", ".join(f"{_NAMES.get(code, code)} {n:,}" for code, n in counts.items())


def _table(runs: list[dict[str, Any]], allocators: dict[str, str], code: str, peer: str) -> list[str]:
    name = _NAMES[code]
    lines = [
        "",
        f"| task | allocator | {name} ms | {peer} ms | ratio | {name} MB | {peer} MB | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task in TASKS:
        for allocator in allocators:
            ours, theirs = (_summary(runs, task, allocator, c) for c in (code, peer))
            lines.append(
                f"| {_TITLES[task]} | {allocator} | {ours['text']} | {theirs['text']} "
                f"| {theirs['median'] / ours['median']:.2f} | {ours['mb']:.0f} | {theirs['mb']:.0f} "
                f"| {theirs['mb'] / ours['mb']:.2f} |"
            )
    return lines


def _summary(runs: list[dict[str, Any]], task: str, allocator: str, code: str) -> dict[str, Any]:
    chosen = [r for r in runs if (r["task"], r["allocator"], r["code"]) == (task, allocator, code)]
    times = [t for r in chosen for t in r["milliseconds"]]
    median = statistics.median(times)
    return {
        "median": median,
        "text": f"{median:.0f} ({min(times):.0f} to {max(times):.0f})",
        "mb": statistics.median(r["peak_mb"] for r in chosen),
    }
