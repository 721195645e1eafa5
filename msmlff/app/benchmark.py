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
from msmlff.app.benchmark_process import out_of_memory
from msmlff.app.benchmark_table import TITLES, to_markdown
from msmlff.app.benchmark_worker import CODES, TASKS, Setting, load_system, nequip_request, request
from msmlff.app.runtime import cpu_model, device_name, versions
from msmlff.errors import InputError
from msmlff.models.files import read_header
from msmlff.nn.ops.backends import BACKENDS

_FLAGS = {
    "tf32": "dense products of all codes in TF32, as our training has them on a GPU",
    "cueq": "a further peer: mace-torch with cuEquivariance",
    "graph": "our steps as CUDA graphs (training.compile=graph), too",
}


def benchmark_command(arguments: list[str]) -> int:
    """Measure, print the table, write it beside its numbers; returns the exit code."""
    if arguments[:1] == ["growth"]:
        return growth_command(arguments[1:])
    if arguments[:1] == ["md"]:
        return md_command(arguments[1:])
    options = _parser().parse_args(arguments)
    setting = Setting(**{f.name: getattr(options, f.name) for f in fields(Setting)})
    if options.rounds < 1:
        raise InputError(f"--rounds {options.rounds}: write a positive number")
    load_system(setting.system, setting.atoms)
    _check(setting)
    peer = _nequip(options.nequip_python) if setting.model == "nequip" else sys.executable
    result: dict[str, Any] = {
        "setting": asdict(setting) | _file_names(setting),
        "ours": read_header(setting.ours)["model"] if setting.ours else None,
        "allocators": find_allocators("none" if setting.device == "cuda" else options.tcmalloc),
        "machine": cpu_model() if setting.device == "cpu" else device_name(setting.device),
        "versions": versions(),
        "runs": [],
    }
    console, folder = Console(), options.out
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(options.rounds):
        result["runs"] += _measure_round(setting, result, (number, options.rounds), console, peer)
        result["load_average"] = os.getloadavg()[0]
        _check_sizes(setting, result["runs"])
        table = to_markdown(result)  # after each round: what is there is kept when a later one is cut
        (folder / f"{_name(setting)}.json").write_text(json.dumps(result, indent=1) + "\n")
        (folder / f"{_name(setting)}.md").write_text(table)
    console.print(table)
    console.print(f"written: {folder / _name(setting)}.md, .json", soft_wrap=True)
    return 0


def _check(setting: Setting) -> None:
    """Raises:
    InputError: what cannot be measured here.
    """
    if setting.device not in ("cpu", "cuda") or (setting.device == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device {setting.device}: write cpu, or cuda where torch sees a GPU")
    if setting.model not in CODES:
        raise InputError(f"--model {setting.model}: write {' or '.join(CODES)}")
    if setting.graph and setting.device != "cuda":
        raise InputError("--graph captures CUDA graphs: write --device cuda where torch sees a GPU")
    if setting.cueq and setting.model != "mace":
        raise InputError(f"--cueq is a peer of --model mace, not of {setting.model}")
    if setting.cueq and setting.correlation not in (2, 3):
        raise InputError("--cueq: mace-torch converts models of --correlation 2 or 3")
    missing = BACKENDS["cuequivariance"].missing(setting.device) if setting.cueq else None
    if missing is not None:
        raise InputError(f"--cueq: {missing}")


def _check_sizes(setting: Setting, runs: list[dict[str, Any]]) -> None:
    """Raises:
    InputError: nothing was measured, or our MACE and mace-torch's differ in size.
    """
    measured = [run for run in runs if "skipped" not in run]
    if not measured:
        raise InputError(f"nothing was measured: {runs[0]['skipped']}; write a smaller system")
    same = CODES["mace"] if setting.model == "mace" and not setting.ours else ()
    if len({run["parameters"] for run in measured if run["code"] in same}) > 1:
        raise InputError("the two models differ in size, so times mean nothing; please report this setting")


def _name(setting: Setting) -> str:
    """Of the files of a setting."""
    name = f"{setting.model}_{Path(setting.system).name.split('.')[0]}_{setting.channels}_{setting.dtype}"
    name += "" if setting.batch == Setting.batch else f"_batch{setting.batch}"
    name += f"_{setting.atoms}atoms" if setting.atoms else ""
    name += "_tf32" if setting.tf32 else ""
    return name + ("_matched" if setting.ours else "")


def _file_names(setting: Setting) -> dict[str, str]:
    """Of files, without the folders of this machine: of a run's model, the run and its sweep remain."""
    return {"system": Path(setting.system).name, "ours": "/".join(Path(setting.ours).parts[-3:])}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="msmlff benchmark", description=__doc__)
    for field in fields(Setting):
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true", help=_FLAGS[field.name])
            continue
        told = f"default {field.default}" + (", of nickel: about so many" if field.name == "atoms" else "")
        parser.add_argument(flag, type=type(field.default), default=field.default, help=told)
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


def _measure_round(
    setting: Setting, result: dict[str, Any], counted: tuple[int, int], console: Console, peer: str
) -> list[dict[str, Any]]:
    """One round of measurements, in which the codes take turns, so that a slow spell meets them alike.

    What did not fit into memory in an earlier round of ``result`` is not tried again.
    """
    runs, (number, rounds) = list[dict[str, Any]](), counted
    for task in TASKS:
        for allocator, library in result["allocators"].items():
            for code in setting.codes:
                kind = {"task": task, "allocator": allocator, "code": code}
                before = [r for r in result["runs"] if kind.items() <= r.items() and "skipped" in r]
                if before:
                    continue
                found = _run(setting, code, task, library, peer)
                runs.append({"round": number, **kind, **found})
                start = f"round {number + 1}/{rounds}  {TITLES[task]:16} {allocator:9} {code:13}"
                if "skipped" in found:
                    console.print(f"{start}not measured: {found['skipped']}", soft_wrap=True)
                    continue
                median = statistics.median(found["milliseconds"])
                console.print(f"{start}{median:9.1f} ms {found['peak_mb']:7.0f} MB")
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
    reason = out_of_memory(done.returncode, done.stderr)
    if reason is not None:
        return {"skipped": reason}
    if done.returncode != 0:
        raise InputError(f"{code}, {task}: the measurement failed\n{done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
