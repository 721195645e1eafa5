"""msmlff benchmark on a tiny model: both codes run the same frames, the table says what was found."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from msmlff.app import benchmark
from msmlff.app.benchmark import find_allocators, to_markdown
from msmlff.app.benchmark_worker import CODES, TASKS, Setting, load_system, measure
from msmlff.errors import InputError

SMALL = Setting(
    "nickel", 3.0, channels=4, hidden_l_max=0, l_max=1, correlation=1, layers=1, batch=1, repeats=1, threads=1
)


def run(task: str, code: str, milliseconds: list[float], peak: float) -> dict[str, object]:
    size = {"atoms": 6, "edges_per_atom": 3.0, "parameters": 1000}
    found = {"milliseconds": milliseconds, "peak_mb": peak}
    return {"round": 0, "task": task, "allocator": "default", "code": code, **found, **size}


def test_table_states_the_ratios() -> None:
    runs = [
        run("train", "msmlff", [10.0, 20.0, 30.0], 100.0),
        run("train", "mace-torch", [60.0, 50.0, 10.0], 400.0),
        run("evaluate", "msmlff", [4.0], 50.0),
        run("evaluate", "mace-torch", [2.0], 25.0),
    ]
    facts = {"machine": "CPU", "load_average": 0.0, "versions": {"torch": "2"}}
    table = to_markdown({"setting": asdict(SMALL), "allocators": {"default": ""}, "runs": runs, **facts})
    assert "| training step | default | 20 (10 to 30) | 50 (10 to 60) | 2.50 | 100 | 400 | 4.00 |" in table
    assert "| energy + forces | default | 4 (4 to 4) | 2 (2 to 2) | 0.50 | 50 | 25 | 0.50 |" in table


@pytest.mark.parametrize("task", TASKS)
def test_both_codes_are_measured_on_the_same_model(task: str) -> None:
    threads = torch.get_num_threads()
    try:
        ours, theirs = (measure(SMALL, code, task) for code in CODES)
    finally:
        torch.set_num_threads(threads)
    assert ours["parameters"] == theirs["parameters"] > 0
    for result in (ours, theirs):
        assert result["atoms"] == 108
        assert result["edges_per_atom"] == 12
        assert len(result["milliseconds"]) == 1


def test_command_writes_what_the_processes_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One real process; the other three repeat its answer."""
    answers: list[dict[str, object]] = []
    real = benchmark._run

    def once(setting: Setting, code: str, task: str, library: str) -> dict[str, object]:
        answers.append(answers[0] if answers else real(setting, code, task, library))
        return answers[-1]

    monkeypatch.setattr(benchmark, "_run", once)
    values = {name.replace("_", "-"): value for name, value in asdict(SMALL).items()}
    arguments = [f"--{name}={value}" for name, value in values.items()]
    extra = ["--rounds=1", "--tcmalloc=none", f"--out={tmp_path}"]
    assert benchmark.benchmark_command([*arguments, *extra]) == 0
    (result,) = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert {(r["task"], r["code"]) for r in result["runs"]} == {(t, c) for t in TASKS for c in CODES}
    (table,) = [path.read_text() for path in tmp_path.glob("*.md")]
    assert "training step of 108 atoms" in table


def test_built_in_cluster_has_no_overlaps() -> None:
    atoms = load_system("cluster")
    assert len(atoms) == 120
    distances = atoms.get_all_distances()
    assert distances[distances > 0].min() > 1.0


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="absent"):
        load_system("absent.xyz")
    with pytest.raises(InputError, match="absent"):
        find_allocators("absent.so")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    for device in ("cuda", "tpu"):
        with pytest.raises(InputError, match=f"--device {device}"):
            benchmark.benchmark_command(["--device", device])
