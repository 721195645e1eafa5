"""msmlff benchmark md: steps of both codes by real processes, what does not fit is said, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from msmlff.app import benchmark_md
from msmlff.app.benchmark import benchmark_command
from msmlff.app.benchmark_md import to_markdown
from msmlff.app.benchmark_md_worker import Cell, measure
from msmlff.app.benchmark_worker import CUEQ
from msmlff.errors import InputError


def result(atoms: int, code: str, **keys: Any) -> dict[str, Any]:
    found = {"system": "nickel", "atoms": atoms, "code": code, "real_atoms": atoms, "channels": 16}
    found |= {"hidden_l_max": 0, "l_max": 3, "cutoff": 5.0, "memory_gib": 2.0, "threads": 2, "device": "cpu"}
    found |= {"step_s": 1e-4 * atoms, "base_mb": 300.0, "peak_mb": 300.0 + atoms, "load_average": 0.0}
    versions = {"torch": "2", "ase": "3", "mace-torch": "0.3"}
    return found | {"machine": "CPU", "versions": versions, "preload": ""} | keys


def test_table_sets_both_codes_beside_each_other() -> None:
    slower = result(100, "mace-torch", step_s=0.05, peak_mb=1200.0)
    none = result(1000, "mace-torch", skipped="about 99 GiB")
    table = to_markdown([result(100, "msmlff"), slower, result(1000, "msmlff"), none])
    # 0.5 fs a step of 10 ms: 8.64 million steps, 4.32 ns a day; 100 atoms: 100 µs each
    assert "| 100 | 10.0 | 100 | 4.32 | 400 | 50.0 | 500 | 0.864 | 1,200 | 5.0 | 3.0 |" in table
    assert "| 1,000 | 100.0 | 100 | 0.432 | 1,300 | about 99 GiB |  |  |  |  |  |" in table
    head, rule, *_ = table[table.index("| atoms") :].splitlines()
    assert head.count("|") == rule.count("|") == 12
    assert head.count("µs an atom") == 2


def test_table_of_all_codes() -> None:
    every = {"msmlff": 0.01, "msmace": 0.02, "mace-torch": 0.05, CUEQ: 0.03}
    some = [result(100, code, step_s=step, peak_mb=100.0) for code, step in every.items()]
    table = to_markdown([*some, result(1000, "msmace")])
    assert "MS-MACE: 64x0e + 64x1o, 2 layers, 4.5 Å, 64 channels" in table
    ours = "10.0 | 100 | 4.32 | 100 | 20.0 | 200 | 2.16 | 100"
    theirs = "50.0 | 500 | 0.864 | 100 | 5.0 | 1.0 | 30.0 | 300 | 1.44 | 100 | 3.0 | 1.0"
    assert f"| 100 | {ours} | {theirs} |" in table
    assert "| 1,000 |  |  |  |  | 100.0 | 100 |" in table
    lines = table[table.index("| atoms") :].splitlines()
    assert {line.count("|") for line in lines} == {22}


def test_what_would_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_md, "free_bytes", lambda _: 10_000 * 2**20)
    before = [result(3000, code) for code in ("msmlff", "mace-torch")]
    assert benchmark_md._too_large(Cell("nickel", 8000, "mace-torch"), before) is None
    late = benchmark_md._too_large(Cell("nickel", 9000, "mace-torch"), before)
    assert late is not None
    assert late["skipped"] == "about 9 GiB in proportion to fewer atoms; not free"
    again = benchmark_md._too_large(Cell("nickel", 20_000, "mace-torch"), [*before, late])
    assert again is not None
    assert again["skipped"] == "too large already with fewer atoms"
    assert benchmark_md._too_large(Cell("nickel", 9000, "msmlff"), before) is None  # goes in pieces


def test_command_measures_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["md", "--sizes", "32", "--channels", "4", "--hidden-l-max", "0", "--l-max", "1"]
    options += ["--cutoff", "3.5", "--threads", "1", "--out", str(tmp_path)]
    assert benchmark_command(options) == 0
    sizes = set()
    for code in ("msmlff", "mace-torch"):
        found = json.loads((tmp_path / "md" / f"nickel_{code}_4x0_32_cpu.json").read_text())
        assert found["real_atoms"] == 32
        assert 1 <= found["steps"] <= 200
        sizes.add(found["parameters"])
    assert len(sizes) == 1
    page = (tmp_path / "md.md").read_text()
    assert page.count("\n| 32 |") == 1
    assert (tmp_path / "md.png").stat().st_size > 10_000
    monkeypatch.setattr(benchmark_md, "run_alone", lambda *_: pytest.fail("a cell was measured again"))
    assert benchmark_command(options) == 0
    with pytest.raises(InputError, match=r"32_cpu\.json: measured with cutoff 3\.5, not 4\.0; write another"):
        benchmark_command([*options, "--cutoff", "4.0"])


def test_a_step_of_msmace_is_measured() -> None:
    threads = torch.get_num_threads()
    try:
        found = measure(Cell("nickel", 108, "msmace", threads=1), None)
    finally:
        torch.set_num_threads(threads)
    assert found["steps"] >= 1
    assert found["edges_per_atom"] == pytest.approx(134, abs=8)  # of the scale of 7 Å, with noise: 10 shells
    assert Cell("nickel", 108, "msmace").name == "nickel_msmace_medium_108_cpu"


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing was measured; write a larger --limit"):
        benchmark_command(["md", "--sizes", "32", "--limit", "0.01", "--out", str(tmp_path)])


def test_bad_input_is_named(tmp_path: Path) -> None:
    for arguments, message in (
        (["--systems", "fc43"], "write --molecules FILE.xyz"),
        (["--sizes", "0"], "--sizes 0: write positive numbers"),
        (["--limit", "-1"], "--limit -1: write a positive number"),
        (["--tcmalloc", str(tmp_path / "no.so")], "no.so: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            benchmark_command(["md", *arguments, "--out", str(tmp_path)])
