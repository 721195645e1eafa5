"""msmlff benchmark on tiny models: all codes run the same frames, the table says what was found."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import write

from msmlff.app import benchmark, benchmark_worker
from msmlff.app.benchmark import find_allocators
from msmlff.app.benchmark_table import to_markdown
from msmlff.app.benchmark_worker import (
    CODES,
    CUEQ,
    GRAPH,
    TASKS,
    Setting,
    load_system,
    make_batches,
    measure,
    random_model,
    to_cuequivariance,
)
from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models import MSMACEArchitecture, Scale, build_model
from msmlff.models.files import save_model
from msmlff.models.import_mace import mace_input
from msmlff.nn.ops.backends import BACKENDS
from msmlff.training import captured

SMALL = Setting(
    "nickel", 3.0, channels=4, hidden_l_max=0, l_max=1, correlation=1, layers=1, batch=1, repeats=1, threads=1
)

#: As arguments of the command.
ARGUMENTS = [f"--{k.replace('_', '-')}={v}" for k, v in asdict(SMALL).items() if not isinstance(v, bool)]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What ``measure`` sets for its process is put back."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_float32_matmul_precision("highest")


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
    ours = "4.00 (4.00 to 4.00) | 2.00 (2.00 to 2.00)"
    assert f"| energy + forces | default | {ours} | 0.50 | 50 | 25 | 0.50 |" in table


def test_every_pair_of_codes_has_a_table_and_what_did_not_fit_is_said() -> None:
    setting = replace(SMALL, cueq=True, graph=True, atoms=1000)
    assert setting.codes == ("msmlff", GRAPH, "mace-torch", CUEQ)
    runs = [
        run(task, code, [10.0 * (i + 1)], 100.0) for task in TASKS for i, code in enumerate(setting.codes)
    ]
    kind = {key: runs[2][key] for key in ("round", "task", "allocator", "code")}
    runs[2] = {**kind, "skipped": "out of GPU memory"}
    facts = {"machine": "GPU", "load_average": 0.0, "versions": {"torch": "2"}}
    table = to_markdown({"setting": asdict(setting), "allocators": {"default": ""}, "runs": runs, **facts})
    assert table.count("| task | allocator |") == 4
    assert "| MSMLFF (CUDA graphs) ms | mace-torch + cuEquivariance ms | ratio |" in table
    assert "| training step | default | 20 (20 to 20) | 40 (40 to 40) | 2.00 | 100 | 100 | 1.00 |" in table
    assert "| training step | default | 10 (10 to 10) | out of GPU memory |  | 100 |  |  |" in table
    assert "training step of 6 atoms, evaluation of 6 atoms, 3.0 edges" in table


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.usefixtures("one_thread")
def test_both_codes_are_measured_on_the_same_model(task: str) -> None:
    ours, theirs = (measure(SMALL, code, task) for code in CODES["mace"])
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
    extra = ["--rounds=1", "--tcmalloc=none", f"--out={tmp_path}", f"--system={tmp_path / 'nickel.xyz'}"]
    assert benchmark.benchmark_command([*ARGUMENTS, *extra]) == 0
    (result,) = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert result["setting"]["system"] == "nickel.xyz"  # no folders of this machine
    assert {(r["task"], r["code"]) for r in result["runs"]} == {(t, c) for t in TASKS for c in CODES["mace"]}
    (table,) = [path.read_text() for path in tmp_path.glob("*.md")]
    assert "training step of 108 atoms" in table


def test_nequip_is_given_the_frames_and_compared_with_both_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours run; in nequip's place stands a Python that answers with the frames it was given."""
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
    extra = ["--rounds=1", "--tcmalloc=none", f"--out={tmp_path}", f"--nequip-python={script}"]
    extra += ["--model=nequip", "--short-cutoff=2.6", "--layers=2"]
    assert benchmark.benchmark_command([*ARGUMENTS, *extra]) == 0
    (result,) = [json.loads(path.read_text()) for path in tmp_path.glob("nequip_*.json")]
    assert str(script) not in json.dumps(result)
    of_code = {run["code"]: run for run in result["runs"]}
    assert {run["atoms"] for run in result["runs"]} == {108}
    assert of_code["nequip"]["parameters"] == 4
    assert of_code["msmlff"]["parameters"] != of_code["msmlff-ms"]["parameters"]
    (table,) = [path.read_text() for path in tmp_path.glob("nequip_*.md")]
    assert table.count("| nequip ms |") == 2
    assert "4x0e + 4x1o (MS-NequIP: up to 2.6 Å" in table


@pytest.mark.usefixtures("one_thread")
def test_a_trained_model_stands_against_the_peer_on_frames_of_a_file(tmp_path: Path) -> None:
    frames = [molecule(name) for name in ("H2O", "CH4", "CO2", "C2H6", "CH3OH")]
    write(tmp_path / "frames.xyz", frames)
    scales = (Scale(2.0, 4, 1, (8,)), Scale(4.0, 2, 0, (8,)))
    architecture = MSMACEArchitecture(scales=scales, channels=4, hidden_l_max=0, correlation=2, layers=1)
    model = build_model(architecture, (1, 6, 7, 8), (0.0,) * 4, Statistics((2.0, 4.0), (0.0,) * 4, 1.0))
    file = save_model(model, tmp_path / "model.safetensors", {})
    setting = replace(SMALL, ours=str(file), system=str(tmp_path / "frames.xyz"), batch=2)
    assert setting.codes == ("msmlff", "mace-torch")
    found = {code: measure(setting, code, "train") for code in setting.codes}
    assert {r["atoms"] for r in found.values()} == {3 + 3}  # the first and the third, evenly spread
    assert found["msmlff"]["parameters"] == sum(p.numel() for p in model.parameters())
    both = [
        {"round": 0, "task": t, "allocator": "default", "code": c, **found[c]} for t in TASKS for c in found
    ]
    facts = {"machine": "CPU", "load_average": 0.0, "versions": {"torch": "2"}, "ours": model.config()}
    table = to_markdown({"setting": asdict(setting), "allocators": {"default": ""}, "runs": both, **facts})
    assert "# MACE on frames: MSMLFF against mace-torch" in table
    assert 'a trained MSMACE, scales [{"cutoff": 2.0, "channels": 4, "l_max": 1' in table


@pytest.mark.skipif(
    importlib.util.find_spec("cuequivariance_torch") is None, reason="cuEquivariance is not installed"
)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.usefixtures("one_thread")
def test_mace_torch_with_cuequivariance_is_the_same_model(device: str) -> None:
    """Energies and forces of the converted model; and it is measured, though with fewer weights."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    setting = replace(
        SMALL, system="cluster", cutoff=4.0, hidden_l_max=1, correlation=3, layers=2, dtype="float64"
    )
    torch.set_default_dtype(torch.float64)
    _, single, numbers, neighbors = make_batches(setting, setting.cutoff)
    plain = benchmark_worker._their_model(setting, CUEQ, numbers, neighbors).to(device)
    found = []
    for model in (plain, to_cuequivariance(plain, device)):
        data = mace_input(single.to(device), len(numbers), torch.float64)
        found.append(model(data, compute_force=True))
    np.testing.assert_allclose(*(out["energy"].detach().cpu() for out in found), rtol=1e-9)
    np.testing.assert_allclose(*(out["forces"].detach().cpu() for out in found), atol=1e-9)
    assert found[0]["forces"].abs().max() > 1e-3
    small = replace(SMALL, device=device, correlation=2)
    ours, theirs = (random_model(small, code, (28,), 12.0) for code in CODES["mace"])
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert measure(small, CUEQ, "train")["parameters"] > 0


@pytest.mark.skipif(
    importlib.util.find_spec("cuequivariance_torch") is not None, reason="cuEquivariance is installed"
)
def test_without_cuequivariance_its_peer_is_refused(tmp_path: Path) -> None:
    for arguments in (["--cueq"], ["md", "--codes", CUEQ, "--out", str(tmp_path)]):
        with pytest.raises(InputError, match=r"cueq: .*pip install 'msmlff\[cuequivariance\]'"):
            benchmark.benchmark_command(arguments)
    with pytest.raises(InputError, match=r"cannot be imported .*pip install 'msmlff\[cuequivariance\]'"):
        random_model(SMALL, CUEQ, (28,), 12.0)


def test_kernels_of_cuequivariance_are_asked_for_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "cuequivariance_torch" or None)
    assert BACKENDS["cuequivariance"].missing("cpu") is None
    with pytest.raises(InputError, match=r"--cueq: .*pip install cuequivariance-ops-torch-cu"):
        benchmark.benchmark_command(["--device", "cuda", "--cueq"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.usefixtures("one_thread")
def test_captured_steps_are_checked_and_leave_the_same_weights(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is captured on a GPU is called as it is here; padding changes nothing."""
    calls = captured.Captured(lambda function, batch: function, torch.float64)
    monkeypatch.setattr(captured, "captured_calls", lambda *_: calls)
    setting = replace(SMALL, system="cluster", dtype="float64", batch=2, repeats=2)
    models: list[torch.nn.Module] = []
    real = benchmark_worker.random_model

    def kept(*arguments: Any) -> torch.nn.Module:
        models.append(real(*arguments))
        return models[-1]

    monkeypatch.setattr(benchmark_worker, "random_model", kept)
    for code in ("msmlff", GRAPH):
        found = measure(setting, code, task)
        assert len(found["milliseconds"]) == 2
        assert found["atoms"] == (240 if task == "train" else 120)
    assert calls.failed is None
    before = real(setting, "msmlff", (1, 6), 12.0)
    learnt, again, start = (
        torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (*models, before)
    )
    torch.testing.assert_close(again, learnt, rtol=1e-8, atol=1e-10)
    if task == "train":
        assert (learnt - start).abs().max() > 1e-3  # a step of Adam moves by its rate of learning
    calls.failed = "not on this GPU"
    assert measure(setting, GRAPH, task) == {"skipped": "not captured: not on this GPU"}


@pytest.mark.parametrize("name", ["torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError"])
def test_what_a_gpu_cannot_hold_is_skipped_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of the processes a Python that says so, where it is asked for training steps."""
    script, log = tmp_path / "python", tmp_path / "asked"
    answer = "{'milliseconds': [2.0], 'peak_mb': 3.0, 'atoms': 108, 'edges_per_atom': 12.0, 'parameters': 1}"
    script.write_text(
        f"#!{sys.executable}\nimport json, sys\nr = json.load(sys.stdin)\n"
        f"open({str(log)!r}, 'a').write(r['task'] + r['code'] + '\\n')\n"
        f"if r['task'] == 'train' and r['code'] == 'mace-torch':\n"
        f"    sys.exit('Traceback\\n{name}: CUDA out of memory. Tried to allocate 9 GiB')\n"
        f"print(json.dumps({answer}))\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    extra = ["--rounds=2", "--tcmalloc=none", f"--out={tmp_path}"]
    assert benchmark.benchmark_command([*ARGUMENTS, *extra]) == 0
    (table,) = [path.read_text() for path in tmp_path.glob("*.md")]
    assert "| training step | default | 2.00 (2.00 to 2.00) | out of GPU memory |" in table
    assert "| energy + forces | default | 2.00 (2.00 to 2.00) | 2.00 (2.00 to 2.00) | 1.00 |" in table
    assert sorted(log.read_text().split()) == sorted(
        ["trainmsmlff", "evaluatemsmlff", "evaluatemace-torch"] * 2 + ["trainmace-torch"]
    )


def test_nickel_of_about_so_many_atoms() -> None:
    for wanted, found in ((1000, 1008), (10_000, 10_192)):
        (frame,) = load_system("nickel", wanted)
        assert len(frame) == found
        assert frame.get_volume() / found == pytest.approx(3.52**3 / 4)
    for system, atoms in (("cluster", 1000), ("nickel", -1)):
        with pytest.raises(
            InputError, match=f"--atoms {atoms}: write a positive number, and --system nickel"
        ):
            load_system(system, atoms)


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
        (["--rounds", "0"], "--rounds 0: write a positive number"),
        (["--model", "nequip"], "write --nequip-python PYTHON"),
        (["--model", "nequip", "--cueq"], "--cueq is a peer of --model mace, not of nequip"),
        (["--cueq", "--correlation", "1"], "--cueq: mace-torch converts models of --correlation 2 or 3"),
        (["--graph"], "--graph captures CUDA graphs: write --device cuda"),
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
