"""msmlff simulate as a user runs it: files, messages, crashes, resumption bit for bit."""

from __future__ import annotations

import errno
import json
import re
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from md_command import Simulate, record, results, save_models, simulator, started, wait_for_steps
from safetensors import safe_open
from safetensors.torch import save_file

from msmlff.simulation.restart import RESTART, load_restart
from msmlff.simulation.thermo import read_thermo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.safetensors, other.safetensors (Cu, Al), and starting frames in several formats."""
    folder = tmp_path_factory.mktemp("simulate")
    save_models(folder)
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.numbers[[1, 6]] = 13
    write(folder / "crystal.extxyz", [atoms, bulk("Al", cubic=True)])
    write(folder / "POSCAR", atoms)
    cluster = atoms.copy()
    cluster.pbc, cluster.cell = False, None
    write(folder / "cluster.extxyz", cluster)
    overlapping = atoms.copy()
    overlapping.positions[3] = overlapping.positions[5] + [0.0, 0.0, 0.1]
    write(folder / "overlapping.extxyz", overlapping)
    oxide = atoms.copy()
    oxide.numbers[0] = 8
    write(folder / "oxide.extxyz", oxide)
    write(folder / "tiny.extxyz", Atoms("Cu", cell=0.02 * np.eye(3), pbc=True))
    write(
        folder / "flat.extxyz",
        Atoms("Cu2", [[0, 0, 0], [0, 0, 2]], cell=[[4, 0, 0], [8, 0, 0], [0, 0, 4]], pbc=True),
    )
    (folder / "torn.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["msmlff"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, folder / "old.safetensors", {"msmlff": json.dumps({**header, "format_version": 1})})
    (folder / "trained" / "checkpoints").mkdir(parents=True)
    (folder / "trained" / "record.json").write_text('{"status": "finished"}')
    (folder / "trained" / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    (folder / "running").mkdir()
    (folder / "running" / "record.json").write_text('{"status": "running"}')
    return folder


@pytest.fixture
def simulate(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulate:
    return simulator(folder, tmp_path, monkeypatch)


def test_a_run_to_its_end(simulate: Simulate, capfd: pytest.CaptureFixture[str]) -> None:
    assert simulate("ensemble=nvt", "temperature=500", "repeat=[1,2,1]") == 0
    out = capfd.readouterr().out
    assert "NVT of crystal.extxyz: 16 atoms, 500 K, 1 fs a step" in out
    assert "ns/day" in out
    assert "atoms·steps/s" in out
    frames = read("run/trajectory.extxyz", ":")
    assert [f.info["step"] for f in frames] == list(range(0, 41, 4))
    assert len(frames[0]) == 16
    thermo = read_thermo(Path("run/thermo.csv"))[0]
    assert thermo["step"].tolist() == list(range(0, 41, 2))
    assert np.isfinite(thermo["pressure_GPa"]).all()
    found = record()
    assert found["status"] == "finished"
    assert found["steps_done"] == 40
    assert found["summary"]["temperature_K"] == pytest.approx(thermo["temperature_K"][10:].mean(), abs=0.01)
    assert found["atom_steps_per_second"] > 0
    assert Path("run/thermo.png").read_bytes().startswith(b"\x89PNG")
    page = Path("run/simulation.html").read_text()
    assert "NVT of crystal.extxyz, 16 atoms: 40 steps of 1 fs, 0.04 ps." in page
    assert page.count('data-plot="simulation-') == 4
    assert simulate("ensemble=nvt") == 2
    assert "run holds a finished simulation" in capfd.readouterr().err


def test_model_is_models_and_ase_formats_are_read(simulate: Simulate, folder: Path) -> None:
    """model= of the short way, VASP's POSCAR, frames and replicas, a bath for each, a committee, HDF5."""
    models = f"models=[{folder / 'model.safetensors'},{folder / 'other.safetensors'}]"
    assert simulate(models, "index=all", "replicas=2", "temperature=[100,200,300,400]", "steps=4") == 0
    assert len(record()["models"]) == 2
    thermo = read_thermo(Path("run/thermo.csv"))
    assert sorted(thermo) == [0, 1, 2, 3]
    assert all(np.isfinite(columns["deviation_eV_A"]).all() for columns in thermo.values())
    assert [len(read(f"run/trajectory_{k}.extxyz")) for k in range(4)] == [8, 8, 4, 4]
    assert not np.array_equal(*(read(f"run/trajectory_{k}.extxyz").get_momenta() for k in (0, 1)))
    where = ["hydra.run.dir=second", "output.format=hdf5", "ensemble=nve", "steps=4", "picture=false"]
    assert simulate(f"model={folder / 'model.safetensors'}", f"system={folder / 'POSCAR'}", *where) == 0
    assert Path("second/trajectory.h5").is_file()
    assert not Path("second/thermo.png").exists()


def test_the_report_of_a_run_shows_it(simulate: Simulate, capfd: pytest.CaptureFixture[str]) -> None:
    assert simulate("report_run=trained") == 2
    assert "report_run=trained: no run there; write the folder of a training run" in capfd.readouterr().err
    Path("trained").mkdir()
    Path("trained/record.json").write_text('{"status": "finished"}')
    hot = ["replicas=2", "temperature=[300,1e5]", "limits.max_temperature=1e4"]
    assert simulate("report_run=trained", *hot) == 0
    report = Path("trained/report.html").read_text()
    assert '<section id="simulation">' in report
    assert "replica 1 failed at 0 fs: temperature" in report
    assert simulate("report_run=trained", "hydra.run.dir=second", "picture=false") == 0
    assert "failed at" not in Path("trained/report.html").read_text()


NPT = ["ensemble=npt", "ensemble.cell=full", "ensemble.thermostat=langevin", "output.format=hdf5"]


@pytest.mark.parametrize("ensemble", [["ensemble=nvt"], NPT])
def test_killed_and_resumed_it_is_the_same_bit_for_bit(
    ensemble: list[str], simulate: Simulate, folder: Path, tmp_path: Path
) -> None:
    ensemble = [*ensemble, "replicas=2", "steps=200", "picture=false"]  # time enough to be killed
    assert simulate(*ensemble, "hydra.run.dir=whole") == 0
    (tmp_path / "killed").mkdir()
    process = started(folder, tmp_path / "killed", *ensemble, "output.save_seconds=0")
    wait_for_steps(tmp_path / "killed" / "run", 8, process)
    process.kill()
    process.communicate()
    run = tmp_path / "killed" / "run"
    assert 8 <= load_restart(run / RESTART).step < 200
    assert record(str(run))["status"] == "running"
    assert simulate(f"resume={run}") == 0
    assert results(run) == results(tmp_path / "whole")
    assert record(str(run))["status"] == "finished"


def test_ctrl_c_saves_and_says_how_to_go_on(simulate: Simulate, folder: Path, tmp_path: Path) -> None:
    assert simulate("picture=false", "hydra.run.dir=whole") == 0
    process = started(folder, tmp_path, "output.save_seconds=0")
    wait_for_steps(tmp_path / "run", 4, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "interrupted: stopped by SIGINT after step" in err
    assert "Continue with: msmlff simulate resume=run" in err
    assert record()["status"] == "interrupted"
    assert Path("run/thermo.png").is_file()
    assert simulate("resume=run") == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_a_full_disk_loses_nothing(simulate: Simulate, folder: Path, tmp_path: Path) -> None:
    """Files may not grow beyond 12 kB: the message says so, what is there can be read, and gone on with."""
    assert simulate("picture=false", "steps=80", "hydra.run.dir=whole") == 0

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))

    process = started(
        folder, tmp_path, "steps=80", "output.save_seconds=0", "picture=false", preexec_fn=limit
    )
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    assert "trajectory.extxyz cannot be written: there is no room left for it" in err
    assert "All up to step" in err
    assert "continue with: msmlff simulate resume=run" in err
    frames = read("run/trajectory.extxyz", ":")
    assert 2 < len(frames) < 20
    assert load_restart(Path("run") / RESTART).step >= frames[-1].info["step"]
    assert record()["status"] == "failed"
    assert simulate("resume=run") == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_an_explosion_names_frame_atoms_and_bond(
    simulate: Simulate, capfd: pytest.CaptureFixture[str]
) -> None:
    assert simulate("ensemble=nve", "timestep=40.0", "temperature=3000", "steps=400") == 1
    err = capfd.readouterr().err
    assert "diverged: replica 0 left the physical range at step" in err
    assert "the bond that changed most, " in err
    assert "Å at the start" in err
    assert "what came before is in run, the frame in failed_0.extxyz" in err
    found = record()
    assert found["status"] == "diverged"
    assert 0 < found["steps_done"] < 400
    assert len(read("run/trajectory.extxyz", ":")) >= 1
    broken = read("run/failed_0.extxyz")
    assert broken.info["step"] == found["steps_done"]
    assert len(broken) == 8
    assert simulate("resume=run") == 2
    assert "all replicas of that simulation have failed" in capfd.readouterr().err


def test_one_replica_may_fail(simulate: Simulate, capfd: pytest.CaptureFixture[str]) -> None:
    """The hot one goes, the other reaches the end."""
    arguments = ["replicas=2", "temperature=[300,3000]", "limits.max_temperature=2000", "steps=10"]
    assert simulate(*arguments) == 0
    out = capfd.readouterr().out
    assert "failed: replica 1 left the physical range" in out
    assert "relaxed first (msmlff relax); where such heat is meant, raise limits.max_temperature" in out
    assert record()["status"] == "finished"
    assert len(record()["failures"]) == 1
    assert read_thermo(Path("run/thermo.csv"))[0]["step"][-1] == 10


def test_more_steps_go_on_where_it_ended(
    simulate: Simulate, tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert simulate("picture=false", "hydra.run.dir=whole") == 0
    assert simulate("picture=false", "steps=20") == 0
    assert simulate("resume=run") == 2
    assert "has done all of its 20 steps; to go on, write resume=run steps=40" in capfd.readouterr().err
    assert simulate("resume=run", "steps=40") == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    assert simulate("resume=run", "temperature=5") == 2
    assert "nothing else" in capfd.readouterr().err
    assert simulate("resume=absent") == 2
    assert "no simulation there" in capfd.readouterr().err
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("model.safetensors", "other.safetensors"))
    assert simulate("resume=run", "steps=60") == 2
    assert "the file changed since run was saved" in capfd.readouterr().err


def test_a_refused_total_of_steps_changes_nothing(
    simulate: Simulate, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert simulate("picture=false", "steps=20") == 0
    before = Path("run/config.yaml").read_bytes()
    for steps in (0, 12, 20):
        assert simulate("resume=run", f"steps={steps}") == 2
        assert "has done all of its 20 steps" in capfd.readouterr().err
        assert Path("run/config.yaml").read_bytes() == before

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert simulate("resume=run", "steps=24") == 1
    assert "config.yaml cannot be written: there is no room left" in capfd.readouterr().err
    assert Path("run/config.yaml").read_bytes() == before
    assert simulate("resume=run", "steps=24") == 0
    assert b"steps: 24" in Path("run/config.yaml").read_bytes()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_lost_record_does_not_end_a_simulation(
    damaged: bool, simulate: Simulate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert simulate("picture=false", "steps=24", "hydra.run.dir=whole") == 0
    assert simulate("picture=false", "steps=20") == 0
    path = Path("run/record.json")
    path.unlink()
    if damaged:
        path.write_text('{"command": "msm')
        assert simulate("resume=run", "steps=24") == 2
        assert "record.json is damaged" in " ".join(capfd.readouterr().err.split())
    assert simulate("picture=false", "steps=20") == 2  # not written over
    assert "continue it with resume=run" in capfd.readouterr().err
    path.unlink(missing_ok=True)
    assert simulate("resume=run", "steps=24") == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    assert record()["status"] == "finished"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model={}/absent"], "model=.*absent does not exist"),
        (["model={}/running"], r"has no model.safetensors \(that run is running"),
        (["model={}/torn.safetensors"], "torn.safetensors: not a readable model file"),
        (["model={}/old.safetensors"], "model format 1, .* reads format 3"),
        (["models=[{}/model.safetensors,{}/model.safetensors]"], "the same model"),
        (["system={}/absent.xyz"], "system=.*absent.xyz: there is no such file"),
        (["system={}/oxide.extxyz"], "oxide.extxyz:0: the model never saw O, it knows Al, Cu"),
        (["system={}/overlapping.extxyz"], "overlapping.extxyz:0: atoms Cu 3 and Cu 5 are 0.1 Å apart"),
        (["system={}/tiny.extxyz"], "tiny.extxyz:0: 1 atoms in a cell of 8e-06 Å³.* in Å"),
        (
            ["system={}/flat.extxyz"],
            "flat.extxyz:0: the frame is periodic but its lattice vectors span no volume",
        ),
        (["system={}/cluster.extxyz", "ensemble=npt"], "cluster.extxyz:0: constant pressure needs a cell"),
        (["system={}/cluster.extxyz", "repeat=[2,1,1]"], "is not periodic along a; write 1 there"),
        (["index=2"], "index=2: .*crystal.extxyz has frames 0 to 1"),
        (["steps=0"], "steps=0: write a whole number >= 1"),
        (["steps=many"], "steps='many'"),
        (["timestep=-1"], "timestep=-1: write a positive number of fs"),
        (["temperature=inf"], "temperature=inf: write a finite number of K"),
        (["skin=50"], r"skin=50: 8 atoms in a cell.*more than 20000 neighbours.*write less"),
        (["ensemble=npt", "ensemble.pressure=nan"], "ensemble.pressure=nan: write a number of GPa"),
        (["limits.volume=1"], "limits.volume=1.0: write a factor above 1, or null"),
        (
            ["model={}/trained/checkpoints/best.ckpt"],
            "that run is .*trained/model.safetensors: write model=",
        ),
        (["repeat=[1,1]"], "repeat"),
        (["temperature=[100,200]"], "temperature has 2 values for 1 replica"),
        (["ensemble=nph"], "(?s)nph.*npt"),
        (["ensemble.thermostat=berendsen"], "ensemble.thermostat=berendsen: write csvr, langevin"),
        (["ensemble.pressure=1"], "'ensemble.pressure'.*Keys of ensemble"),
        (["limits.max_temperatur=1"], "'limits.max_temperatur'. Did you mean limits.max_temperature"),
        (["limits.max_deviation=1"], "needs a committee"),
        (["limits.min_distance=abc"], "limits.min_distance='abc'"),
        (["output.format=dcd"], "output.format=dcd: write extxyz or hdf5"),
        (["output.every=0"], "output.every=0"),
        (["dtype=float16"], "write float32 or float64"),
        (["ops.backend=fast"], "ops.backend='fast'"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], words: str, simulate: Simulate, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert simulate(*(a.replace("{}", str(folder)) for a in arguments)) == 2
    assert re.search(words, capfd.readouterr().err)
    assert not list(Path("run").glob("trajectory*"))


def test_a_ramp_keeps_its_length_when_the_run_is_made_longer(
    simulate: Simulate, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From 500 to 100 K in the 40 steps there were at first, 1 GPa with it; then the ends hold."""
    ramp = ["ensemble=npt", "temperature=500", "temperature_end=100", "ensemble.pressure_end=1"]
    assert simulate(*ramp, "repeat=[1,2,1]") == 0
    out = capfd.readouterr().out
    assert "16 atoms, 500 to 100 K, 0 to 1 GPa, 1 fs a step" in out
    assert "(second half, of a ramp)" in out
    assert (record()["temperature_end"], record()["ramp_steps"]) == (100.0, 40)
    state = load_restart(Path("run", RESTART)).state
    assert state["integrator.thermostat.temperature"].tolist() == [100.0]
    assert simulate("resume=run", "steps=60") == 0
    parts = results(Path("run"))
    assert simulate(*ramp, "repeat=[1,2,1]", "ramp_steps=40", "steps=60", "hydra.run.dir=whole") == 0
    assert parts == results(Path("whole"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ensemble=nve", "temperature_end=100"], "temperature_end=100.0: constant energy has no bath"),
        (["temperature_end=-5"], "temperature_end=-5.0: write K, not below 0"),
        (["temperature_end=[1,2]"], "temperature_end has 2 values for 1 replicas"),
        (["temperature_end=100", "ramp_steps=0"], "ramp_steps=0: write in how many steps"),
        (["ensemble=npt", "ensemble.pressure_end=high"], "ensemble.pressure_end='high': write"),
    ],
)
def test_ramps_that_make_no_sense(
    simulate: Simulate, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert simulate(*arguments) == 2
    assert message in " ".join(capfd.readouterr().err.split())
