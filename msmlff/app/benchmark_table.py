"""The table of ``msmlff benchmark``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from msmlff.app.benchmark_worker import CUEQ, GRAPH, TASKS, Setting

TITLES = {"train": "training step", "evaluate": "energy + forces"}
_NAMES = {
    "msmlff": "MSMLFF",
    GRAPH: "MSMLFF (CUDA graphs)",
    "msmlff-ms": "MSMLFF (MS-NequIP)",
    CUEQ: "mace-torch + cuEquivariance",
}


def to_markdown(result: dict[str, Any]) -> str:
    """The tables: medians over all calls, their range, peak memory, and how many times less ours takes."""
    setting, runs = result["setting"], result["runs"]
    codes = Setting(**setting).codes
    ours = [code for code in codes if code.startswith("msmlff")]
    peers = [code for code in codes if code not in ours]
    measured = [run for run in runs if "skipped" not in run]
    sizes = {run["task"]: run["atoms"] for run in measured}
    words = {"train": "training step", "evaluate": "evaluation"}
    systems = ", ".join(f"{words[task]} of {sizes[task]} atoms" for task in TASKS if task in sizes)
    dtype = setting["dtype"] + (", dense products in TF32" if setting["tf32"] else "")
    title = {"mace": "MACE", "nequip": "NequIP"}[setting["model"]]
    lines = [
        f"# {title} on {Path(setting['system']).name.split('.')[0]}: MSMLFF against {peers[0]}",
        "",
        *_ours(result.get("ours")),
        f"{_hyperparameters(setting)}, {setting['layers']} layers, {setting['cutoff']} Å, "
        f"{dtype}, {_parameters(measured)}; {systems}, {measured[0]['edges_per_atom']:.1f} edges an atom.",
        f"{result['machine']}, {setting['threads']} threads, load {result['load_average']:.1f} at the end; "
        f"torch {result['versions']['torch']}. Milliseconds: median (range) over all calls of "
        f"{max(run['round'] for run in runs) + 1} processes of each kind, which took turns.",
    ]
    for code in ours:
        for peer in peers:
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
    name, other = (_NAMES.get(c, c) for c in (code, peer))
    lines = [
        "",
        f"| task | allocator | {name} ms | {other} ms | ratio | {name} MB | {other} MB | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task in TASKS:
        for allocator in allocators:
            ours, theirs = (_summary(runs, task, allocator, c) for c in (code, peer))
            time, memory = "", ""
            if ours["mb"] and theirs["mb"]:
                time = f"{theirs['median'] / ours['median']:.2f}"
                memory = f"{theirs['mb'] / ours['mb']:.2f}"
            cells = [ours["text"], theirs["text"], time, ours["mb_text"], theirs["mb_text"], memory]
            lines.append(f"| {TITLES[task]} | {allocator} | {' | '.join(cells)} |")
    return lines


def _summary(runs: list[dict[str, Any]], task: str, allocator: str, code: str) -> dict[str, Any]:
    """Median of the times and of the peaks, and as texts; "mb" is 0 where a measurement was skipped."""
    chosen = [r for r in runs if (r["task"], r["allocator"], r["code"]) == (task, allocator, code)]
    skipped = [r["skipped"] for r in chosen if "skipped" in r]
    if skipped:
        return {"text": skipped[0], "mb": 0.0, "mb_text": ""}
    times = [t for r in chosen for t in r["milliseconds"]]
    median, mb = statistics.median(times), statistics.median(r["peak_mb"] for r in chosen)
    digits = 2 if median < 10.0 else 0
    text = f"{median:.{digits}f} ({min(times):.{digits}f} to {max(times):.{digits}f})"
    return {"median": median, "text": text, "mb": mb, "mb_text": f"{mb:.0f}"}
