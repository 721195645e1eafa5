"""msmlff benchmark on tiny models: all codes run the same frames, the table says what was found."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from ase.build import molecule
from ase.io import write

from msmlff.app import benchmark
from msmlff.app.benchmark import find_allocators, to_markdown
from msmlff.app.benchmark_worker import CODES, TASKS, Setting, load_system, measure
from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models import MSMACEArchitecture, Scale, build_model
from msmlff.models.files import save_model

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
        ours, theirs = (measure(SMALL, code, task) for code in CODES["mace"])
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

    def once(*arguments: object) -> dict[str, object]:
        answers.append(answers[0] if answers else real(*arguments))
        return answers[-1]

    monkeypatch.setattr(benchmark, "_run", once)
    write(tmp_path / "nickel.xyz", load_system(SMALL.system))
    values = {name.replace("_", "-"): value for name, value in asdict(SMALL).items()}
    arguments = [f"--{name}={value}" for name, value in values.items()]
    extra = ["--rounds=1", "--tcmalloc=none", f"--out={tmp_path}", f"--system={tmp_path / 'nickel.xyz'}"]
    assert benchmark.benchmark_command([*arguments, *extra]) == 0
    (result,) = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert result["setting"]["system"] == "nickel.xyz"  # no folders of this machine
    assert {(r["task"], r["code"]) for r in result["runs"]} == {(t, c) for t in TASKS for c in CODES["mace"]}
    (table,) = [path.read_text() for path in tmp_path.glob("*.md")]
    assert "training step of 108 atoms" in table


def test_nequip_is_given_the_frames_and_compared_with_both_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours run; in nequip's place stands a Python that answers with the frames it was given."""
    setting = replace(SMALL, model="nequip", short_cutoff=2.6, layers=2)
    script = tmp_path / "python"
    answer = "{'milliseconds': [2.0], 'peak_mb': 3.0, 'atoms': len(r['frames'][0]['positions']), "
    script.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        "r = json.load(sys.stdin) if sys.argv[1] != '-c' else sys.exit(0)\n"
        f"print(json.dumps({answer}'edges_per_atom': 12.0, 'parameters': r['setting']['channels']}}))\n"
    )
    script.chmod(0o755)
    ours: list[dict[str, object]] = []
    real = benchmark._run

    def run_once(setting: Setting, code: str, *rest: str) -> dict[str, object]:
        """Our two models' training steps are real; their evaluations repeat them."""
        if code != "nequip" and len(ours) == 2:
            return ours[code == "msmlff-ms"]
        result = real(setting, code, *rest)
        ours.extend([result] if code != "nequip" else [])
        return result

    monkeypatch.setattr(benchmark, "_run", run_once)
    values = {name.replace("_", "-"): value for name, value in asdict(setting).items()}
    arguments = [f"--{name}={value}" for name, value in values.items()]
    extra = ["--rounds=1", "--tcmalloc=none", f"--out={tmp_path}", f"--nequip-python={script}"]
    assert benchmark.benchmark_command([*arguments, *extra]) == 0
    (result,) = [json.loads(path.read_text()) for path in tmp_path.glob("nequip_*.json")]
    assert str(script) not in json.dumps(result)
    of_code = {run["code"]: run for run in result["runs"]}
    assert {run["atoms"] for run in result["runs"]} == {108}
    assert of_code["nequip"]["parameters"] == 4
    assert of_code["msmlff"]["parameters"] != of_code["msmlff-ms"]["parameters"]
    (table,) = [path.read_text() for path in tmp_path.glob("nequip_*.md")]
    assert table.count("| nequip ms |") == 2
    assert "4x0e + 4x1o (MS-NequIP: up to 2.6 Å" in table


def test_a_trained_model_stands_against_the_peer_on_frames_of_a_file(tmp_path: Path) -> None:
    frames = [molecule(name) for name in ("H2O", "CH4", "CO2", "C2H6", "CH3OH")]
    write(tmp_path / "frames.xyz", frames)
    scales = (Scale(2.0, 4, 1, (8,)), Scale(4.0, 2, 0, (8,)))
    architecture = MSMACEArchitecture(scales=scales, channels=4, hidden_l_max=0, correlation=2, layers=1)
    model = build_model(architecture, (1, 6, 7, 8), (0.0,) * 4, Statistics((2.0, 4.0), (0.0,) * 4, 1.0))
    file = save_model(model, tmp_path / "model.safetensors", {})
    setting = replace(SMALL, ours=str(file), system=str(tmp_path / "frames.xyz"), batch=2)
    assert setting.codes == ("msmlff", "mace-torch")
    threads = torch.get_num_threads()
    try:
        found = {code: measure(setting, code, "train") for code in setting.codes}
    finally:
        torch.set_num_threads(threads)
    assert {r["atoms"] for r in found.values()} == {3 + 3}  # the first and the third, evenly spread
    assert found["msmlff"]["parameters"] == sum(p.numel() for p in model.parameters())
    both = [
        {"round": 0, "task": t, "allocator": "default", "code": c, **found[c]} for t in TASKS for c in found
    ]
    facts = {"machine": "CPU", "load_average": 0.0, "versions": {"torch": "2"}, "ours": model.config()}
    table = to_markdown({"setting": asdict(setting), "allocators": {"default": ""}, "runs": both, **facts})
    assert "# MACE on frames: MSMLFF against mace-torch" in table
    assert 'a trained MSMACE, scales [{"cutoff": 2.0, "channels": 4, "l_max": 1' in table


def test_built_in_cluster_has_no_overlaps() -> None:
    (atoms,) = load_system("cluster")
    assert len(atoms) == 120
    distances = atoms.get_all_distances()
    assert distances[distances > 0].min() > 1.0


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="absent"):
        load_system("absent.xyz")
    with pytest.raises(InputError, match="absent"):
        find_allocators("absent.so")
    for arguments, message in (
        (["--model", "allegro"], "--model allegro: write mace or nequip"),
        (["--model", "nequip"], "write --nequip-python PYTHON"),
        (["--model", "nequip", "--nequip-python", "absent"], "--nequip-python absent: No such file"),
        (["--model", "nequip", "--nequip-python", sys.executable], "No module named 'nequip'"),
    ):
        with pytest.raises(InputError, match=message):
            benchmark.benchmark_command(arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    for device in ("cuda", "tpu"):
        with pytest.raises(InputError, match=f"--device {device}"):
            benchmark.benchmark_command(["--device", device])
