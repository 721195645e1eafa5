"""msmlff benchmark growth: systems at their density, cells measured once, exponents of what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write
from scipy.spatial.transform import Rotation

from msmlff.app import benchmark_growth, benchmark_growth_worker
from msmlff.app.benchmark import benchmark_command
from msmlff.app.benchmark_growth import power, to_markdown
from msmlff.app.benchmark_growth_worker import Cell, measure
from msmlff.app.benchmark_systems import near_cube, nickel, pack, read_molecules, repeated
from msmlff.data.neighbors import edge_vectors, neighbor_list
from msmlff.errors import InputError


@pytest.fixture(scope="module")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tetrafluoromethanes in a file."""
    cluster = Atoms()
    for k in range(3):
        one = molecule("CF4")
        one.positions = Rotation.random(random_state=k).apply(one.positions)
        one.translate([6.0 * k, 0.0, 0.0])
        cluster += one
    file = tmp_path_factory.mktemp("molecules") / "cf4.xyz"
    write(file, cluster)
    return file


def test_packed_liquid_has_its_density_and_no_overlaps(molecules: Path) -> None:
    shapes = read_molecules(molecules)
    assert [str(s.symbols) for s in shapes] == ["CF4"] * 3
    unit = pack(shapes, 1.6)
    assert unit.get_masses().sum() / unit.get_volume() / 0.602214076 == pytest.approx(1.6)
    for k, shape in enumerate(shapes):  # rigid
        placed = unit[5 * k : 5 * k + 5]
        np.testing.assert_allclose(placed.get_all_distances(), shape.get_all_distances(), atol=1e-9)
    frame = repeated(unit, 400)
    assert len(frame) == 405
    pairs = neighbor_list(frame.positions, frame.cell, frame.pbc, 4.0)
    lengths = np.linalg.norm(edge_vectors(frame.positions, frame.cell, pairs), axis=1)
    other = (pairs.sender // 5 != pairs.receiver // 5) | pairs.shift.any(axis=1)
    assert lengths[other].min() > 2.2


def test_systems_have_about_the_atoms_that_are_asked_for() -> None:
    for wanted in (100, 1000, 30_000):
        frame = nickel(wanted)
        assert len(frame) == pytest.approx(wanted, rel=0.2)
        assert np.ptp(frame.cell.diagonal()) < 0.4 * frame.cell.diagonal().max()
    assert near_cube(8) == (2, 2, 2)
    assert near_cube(0.3) == (1, 1, 1)


def test_molecules_of_one_kind_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.xyz: write a file that ASE reads"):
        read_molecules(tmp_path / "absent.xyz")
    mixed = molecule("CF4") + Atoms("H2", [[9.0, 0, 0], [9.7, 0, 0]])
    write(tmp_path / "mixed.xyz", mixed)
    with pytest.raises(InputError, match="different molecules"):
        read_molecules(tmp_path / "mixed.xyz")


def test_whole_and_chunked_measure_the_same_energy() -> None:
    threads = torch.get_num_threads()
    try:
        whole, chunked = (
            measure(Cell("nickel", 1372, "msmace-small", mode, memory_gib=0.08, threads=1), None)
            for mode in ("whole", "chunked")
        )
    finally:
        torch.set_num_threads(threads)
    assert whole["real_atoms"] == chunked["real_atoms"] == 1372
    assert chunked["atoms_per_chunk"] < 1372
    assert chunked["energy"] == pytest.approx(whole["energy"], rel=1e-5)
    assert chunked["largest_force"] == pytest.approx(whole["largest_force"], rel=1e-3)
    assert whole["search_s"] > 0.0
    assert whole["peak_mb"] >= whole["base_mb"] > 50.0


def test_without_free_memory_the_whole_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_growth_worker, "free_bytes", lambda device: 0)
    threads = torch.get_num_threads()
    try:
        found = measure(Cell("nickel", 100, "msmace-small", "whole", threads=1), None)
    finally:
        torch.set_num_threads(threads)
    assert found["skipped"] == "more than the memory that is free"


def result(atoms: int, mode: str, **keys: Any) -> dict[str, Any]:
    found = {"system": "nickel", "model": "msmace-small", "mode": mode, "atoms": atoms, "real_atoms": atoms}
    found |= {"threads": 2, "seconds": 1e-4 * atoms, "search_s": None, "base_mb": 300.0, "device": "cpu"}
    found |= {"peak_mb": 300.0 + 0.1 * atoms, "atoms_per_chunk": 500, "load_average": 0.0, "memory_gib": 2.0}
    return found | {"machine": "CPU", "versions": {"torch": "2"}} | keys


def test_table_states_what_was_measured_and_how_it_grows() -> None:
    whole = [result(n, "whole", search_s=1e-5 * n) for n in (100, 1000, 10_000, 100_000)]
    late = result(300_000, "whole", skipped="more than the memory that is free")
    table = to_markdown([*whole, late, result(1000, "chunked")])
    assert "| msmace-small | whole | 100,000 | 1.000 | 10.000 | 110 | 10300 | all |" in table
    assert "| msmace-small | whole | 300,000 | not measured: more than the memory that is free |" in table
    assert "| msmace-small | chunked | 1,000 | in it | 0.100 | 100 | 400 | 500 |" in table
    assert "| msmace-small | whole | 1.00 ± 0.00 | 1.00 ± 0.00 |" in table


def test_exponent_and_its_interval() -> None:
    """Of a power law with known scatter: 95 of 100 intervals hold the exponent, more or less."""
    atoms, rng, held = np.geomspace(1e3, 1e5, 5), np.random.default_rng(0), 0
    for _ in range(200):
        slope, half = power(atoms, atoms**1.1 * np.exp(0.05 * rng.normal(size=5)))
        held += abs(slope - 1.1) < half
    assert 180 <= held <= 199
    assert np.isnan(power([1.0, 2.0], [1.0, 2.0])[1])


def test_command_measures_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two cells one is measured by a real process; the other's file is there already."""
    arguments = ["growth", "--systems", "nickel", "--models", "msmace-small", "--modes", "whole", "chunked",
                 "--sizes", "100", "--threads", "1", "--out", str(tmp_path)]  # fmt: skip
    there = tmp_path / "growth" / "nickel_msmace-small_whole_100_cpu.json"
    there.parent.mkdir()
    there.write_text(json.dumps(result(100, "whole", search_s=0.001, threads=1)))
    assert benchmark_command(arguments) == 0
    measured = json.loads((tmp_path / "growth" / "nickel_msmace-small_chunked_100_cpu.json").read_text())
    assert measured["real_atoms"] == 108
    assert "| msmace-small | whole | 100 | 0.001 |" in (tmp_path / "growth.md").read_text()
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    monkeypatch.setattr(benchmark_growth, "run_alone", lambda *_: pytest.fail("a cell was measured again"))
    assert benchmark_command(arguments) == 0
    with pytest.raises(
        InputError, match=r"whole_100_cpu\.json: measured with threads 1, not 2; write another"
    ):
        benchmark_command([*arguments, "--threads", "2"])


def test_a_cell_that_takes_too_long_is_said(tmp_path: Path) -> None:
    arguments = [
        "growth",
        "--models",
        "msmace-small",
        "--modes",
        "whole",
        "--sizes",
        "100",
        "--limit",
        "0.01",
    ]
    assert benchmark_command([*arguments, "--out", str(tmp_path)]) == 0
    assert "not measured: it took longer than 0.01 s" in (tmp_path / "growth.md").read_text()


@pytest.mark.parametrize(
    "error",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB",
        "torch.cuda.OutOfMemoryError: CUDA out of memory",
        "RuntimeError: CUDA error: out of memory",
        "RuntimeError: Triton Error [CUDA]: out of memory",
    ],
)
@pytest.mark.parametrize("command", ["growth", "md"])
def test_a_cell_that_a_gpu_cannot_hold_is_said(
    command: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of the second process a Python that ends so."""
    script, answer = tmp_path / "python", result(100, "whole", search_s=0.001)
    answer |= {
        "code": "msmlff",
        "step_s": 0.01,
        "channels": 128,
        "hidden_l_max": 1,
        "l_max": 3,
        "cutoff": 5.0,
    }
    script.write_text(
        f"#!{sys.executable}\nimport json, sys\ncell = json.load(sys.stdin)['cell']\n"
        f"if cell['atoms'] > 100:\n    sys.exit({error!r})\n"
        f"print(json.dumps({{**json.loads({json.dumps(answer)!r}), **cell}}))\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    arguments = ["--models", "msmace-small", "--modes", "whole"] if command == "growth" else []
    arguments += ["--codes", "msmlff"] if command == "md" else []
    sizes = ["--sizes", "100", "300", "--out", str(tmp_path)]
    assert benchmark_command([command, *arguments, *sizes]) == 0
    (late,) = [json.loads(file.read_text()) for file in (tmp_path / command).glob("*_300_*.json")]
    assert late["skipped"] == "out of GPU memory"
    assert "out of GPU memory |" in (tmp_path / f"{command}.md").read_text()


def test_a_cell_that_fails_otherwise_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.read()\nsys.exit('ValueError: no')\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(InputError, match="the measurement failed\nValueError: no"):
        benchmark_command(["growth", "--sizes", "100", "--out", str(tmp_path)])


def test_bad_input_is_named(tmp_path: Path) -> None:
    for arguments, message in (
        (["--systems", "fc43"], "write --molecules FILE.xyz"),
        (["--sizes", "0"], "--sizes 0: write positive numbers"),
        (["--systems", "fc43", "--molecules", str(tmp_path / "no.xyz")], "no.xyz: write a file"),
    ):
        with pytest.raises(InputError, match=message):
            benchmark_command(["growth", *arguments, "--out", str(tmp_path)])
