"""msmlff simulate where something goes wrong: memory, Ctrl-C, two processes, disks, other folders."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read, write
from md_command import Simulate, record, results, save_models, simulator

from msmlff.app.simulate_folder import locked
from msmlff.simulation.forces import ModelForces
from msmlff.simulation.restart import RESTART, load_restart
from msmlff.simulation.thermo import read_thermo

NPT = ["ensemble=npt", "ensemble.cell=full", "ensemble.thermostat=langevin"]


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.numbers[[1, 6]] = 13
    return atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.safetensors and crystal.extxyz."""
    folder = tmp_path_factory.mktemp("breaks")
    save_models(folder)
    write(folder / "crystal.extxyz", crystal())
    return folder


@pytest.fixture
def simulate(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulate:
    return simulator(folder, tmp_path, monkeypatch, "picture=false")


def breaking(monkeypatch: pytest.MonkeyPatch, number: int, what: Callable[[], None]) -> None:
    """Let ``what`` happen in evaluation ``number`` of forces; the first is that of the start."""
    evaluate, calls = ModelForces.__call__, iter(range(1, 10**6))

    def call(self: ModelForces, *arguments: Any) -> Any:
        if next(calls) == number:
            what()
        return evaluate(self, *arguments)

    monkeypatch.setattr(ModelForces, "__call__", call)


def no_memory() -> None:
    raise MemoryError("no room for a piece")


def twice_ctrl_c() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)


CASES = [
    (no_memory, 1, "failed", "failed: no room for a piece\nOut of memory: simulate fewer replicas"),
    (twice_ctrl_c, 130, "interrupted", "interrupted: stopped at once by Ctrl-C. "),
]


@pytest.mark.parametrize("number", [2, 12])
@pytest.mark.parametrize(("what", "code", "status", "words"), CASES)
def test_what_was_done_before_a_step_that_broke_off_is_kept(
    what: Callable[[], None],
    code: int,
    status: str,
    words: str,
    number: int,
    simulate: Simulate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In the first step and later: files up to the step before, how to go on, the same bits in the end."""
    assert simulate(*NPT, "hydra.run.dir=whole") == 0
    with monkeypatch.context() as patch:
        breaking(patch, number, what)
        assert simulate(*NPT) == code
    err = capfd.readouterr().err
    assert words in err
    done = number - 2
    assert f"All up to step {done} is saved; continue with: msmlff simulate resume=run" in err
    assert (record()["status"], load_restart(Path("run", RESTART)).step) == (status, done)
    assert read_thermo(Path("run/thermo.csv"))[0]["step"].tolist() == list(range(0, done + 1, 2))
    assert [f.info["step"] for f in read("run/trajectory.extxyz", ":")] == list(range(0, done + 1, 4))
    assert simulate("resume=run") == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_an_error_of_the_program_says_how_to_go_on(
    simulate: Simulate, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def defect() -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        breaking(patch, 12, defect)
        with pytest.raises(SystemExit):
            simulate()
    err = capfd.readouterr().err
    assert "RuntimeError: a defect" in err
    assert "All up to step 10 is saved; continue with: msmlff simulate resume=run" in err
    assert record()["stop_reason"] == "RuntimeError: a defect"
    assert simulate("resume=run") == 0


def test_ctrl_c_before_the_first_step(
    simulate: Simulate, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        breaking(patch, 1, stop)
        assert simulate() == 130
    assert "interrupted: stopped at once by Ctrl-C. Nothing was saved before" in capfd.readouterr().err
    assert record()["status"] == "interrupted"
    assert simulate("steps=4") == 0


def test_a_folder_is_one_process_s(simulate: Simulate, capfd: pytest.CaptureFixture[str]) -> None:
    assert simulate("steps=20") == 0
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    with locked(Path("run")):
        for arguments in (["resume=run", "steps=40"], ["steps=40"]):
            assert simulate(*arguments) == 2
            assert "run: another process simulates there" in " ".join(capfd.readouterr().err.split())
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before
    assert simulate("resume=run", "steps=24") == 0


def test_a_run_goes_on_from_another_working_directory(
    simulate: Simulate, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models and system given by relative paths, alone and as a list; the command stays as typed."""
    model, other, system = (
        os.path.relpath(folder / name, tmp_path)
        for name in ("model.safetensors", "other.safetensors", "crystal.extxyz")
    )
    assert simulate(f"models={model}", f"system={system}", "steps=4") == 0
    assert simulate(f"models=[{model},{other}]", "steps=4", "hydra.run.dir=committee") == 0
    command = record()["command"]
    assert f"system={system}" in command
    (tmp_path / "elsewhere" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere" / "below")
    assert simulate("resume=../../run", "steps=8") == 0
    assert simulate("resume=../../committee", "steps=8") == 0
    assert record("../../run")["command"] == command


def test_a_disk_that_is_full_at_the_start(
    simulate: Simulate, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No room for the folder, none for the first file, a folder where there can be none."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name, code, words in (
        ("os.mkdir", 2, "the folder hydra.run.dir=run cannot be made: No space left on device"),
        ("os.fsync", 1, "config.yaml cannot be written: there is no room left for it. Nothing was saved"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            assert simulate("steps=4") == code
        err = " ".join(capfd.readouterr().err.split())
        assert words in err
        assert "Traceback" not in err
    Path("file").write_text("no folder")
    assert simulate("steps=4", "hydra.run.dir=file/run") == 2
    assert "hydra.run.dir=file/run cannot be made: Not a directory" in capfd.readouterr().err
    assert simulate("steps=4") == 0
    assert not Path("run/.hydra").exists()


def test_a_cell_that_flies_apart_ends_as_diverged(
    simulate: Simulate, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = ["ensemble=npt", "ensemble.pressure=-60", "ensemble.barostat_time=20", "steps=300"]
    assert simulate(*keys, "limits.min_distance=0", "limits.max_temperature=1e6") == 1
    err = capfd.readouterr().err
    assert "times that at the start" in err
    assert "Look at ensemble.pressure (GPa), ensemble.compressibility and ensemble.barostat_time" in err
    assert "raise limits.volume" in err
    assert record()["status"] == "diverged"
    failed = read("run/failed_0.extxyz")
    assert failed.info["reason"] == "volume"
    assert failed.get_volume() > 4 * crystal().get_volume()
    assert simulate(*keys, "ensemble.pressure=1e9", "hydra.run.dir=second") == 1
    assert "volume 0 times that at the start" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["held.extxyz", "held.xyz.gz", "held.traj", "POSCAR", "axis.extxyz"])
def test_atoms_that_a_file_holds_are_not_let_go_silently(
    name: str, simulate: Simulate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Fixed atoms and fixed coordinates; another frame of the file is no matter."""
    free, held = crystal(), crystal()
    axis = name.startswith("axis")
    held.set_constraint(FixCartesian([0, 1], (True, False, False)) if axis else FixAtoms([0, 1]))
    one = name == "POSCAR"
    write(tmp_path / name, held if one else [free, held], **({} if one else {"format": formats(name)}))
    assert simulate(f"system={tmp_path / name}", f"index={0 if one else 1}", "steps=2") == 2
    err = " ".join(capfd.readouterr().err.split())
    assert f"{name}:{0 if one else 1} holds atoms (" in err
    assert "but simulate moves all: take the constraint out" in err
    if not one:
        assert simulate(f"system={tmp_path / name}", "index=0", "steps=2") == 0


def formats(name: str) -> str:
    return "traj" if name.endswith("traj") else "extxyz"


def test_a_mask_that_holds_nothing_is_no_constraint(simulate: Simulate, tmp_path: Path) -> None:
    text = '2\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:move_mask:L:{}\n'
    for columns in (1, 3):
        rows = "".join(f"Cu {z} 0 0{' T' * columns}\n" for z in (0.0, 2.5))
        (tmp_path / "free.extxyz").write_text(text.format(columns) + rows)
        system = f"system={tmp_path / 'free.extxyz'}"
        assert simulate(system, "steps=2", f"hydra.run.dir=run{columns}") == 0


def test_dense_products_are_float32_in_full(simulate: Simulate) -> None:
    """As in the calculator: training's TF32, set earlier in this process, is taken back."""
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert simulate("steps=2") == 0
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.isfinite(read("run/trajectory.extxyz").get_potential_energy())
