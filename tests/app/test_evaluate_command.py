"""msmlff evaluate, in this process: files and models, pages, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.io import read, write

from msmlff.analysis.observe import OBSERVABLES
from msmlff.app import guard
from msmlff.app.evaluate import evaluate_command
from msmlff.errors import InputError
from msmlff.models import MACE, MACEArchitecture
from msmlff.models.files import save_model
from msmlff.simulation.thermo import ThermoRow, csv_text

Evaluate = Callable[..., int]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(guard, "exit_code", 0)

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["msmlff"])
        return evaluate_command(["threads=1", "out=out", *arguments])

    return run


def salt(path: Path, frames: int = 60, velocities: bool = True, seed: int = 0) -> Path:
    """A vibrating crystal, 4 fs from frame to frame."""
    rng = np.random.default_rng(seed)
    crystal = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    omega, phase = 2 * np.pi * rng.uniform(2, 8, (8, 3)), rng.uniform(0, 6, (8, 3))
    images = []
    for i in range(frames):
        atoms = crystal.copy()
        atoms.positions += 0.1 * np.sin(omega * 0.004 * i + phase)
        if velocities:
            atoms.set_velocities(1e-4 * omega * np.cos(omega * 0.004 * i + phase) / units.fs)
        atoms.info["time_fs"] = 4.0 * i
        images.append(atoms)
    write(path, images)
    return path


def document(folder: Path) -> dict:
    return json.loads((folder / "observables.json").read_text())


def error(capfd: pytest.CaptureFixture[str]) -> str:
    return " ".join(capfd.readouterr().err.split())


def test_all_that_a_file_allows(
    evaluate: Evaluate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    salt(tmp_path / "md.extxyz")
    assert evaluate("trajectory=md.extxyz", "settings.rdf_window_fs=100", "first=10") == 0
    found = document(tmp_path / "out")
    assert found["trajectory"]["frames"] == 50
    assert {"rdf", "adf", "coordination", "msd", "vacf", "vdos", "temperature"} <= set(found["observables"])
    assert set(found["missing"]) >= {"pressure", "molecular_fraction", "equation_of_state"}
    assert (tmp_path / "out" / "observables" / "rdf.csv").is_file()
    page = (tmp_path / "out" / "observables.html").read_text()
    assert "msmlff evaluate threads=1 out=out trajectory=md.extxyz" in page
    shown = capfd.readouterr().out
    assert "Density" in shown
    assert "g/cm³" in shown
    assert "out/observables.html" in shown


def test_beside_a_reference(evaluate: Evaluate, tmp_path: Path) -> None:
    salt(tmp_path / "md.extxyz")
    salt(tmp_path / "ref.extxyz", seed=1)
    assert evaluate("trajectory=md.extxyz", "reference=ref.extxyz", "observables=[rdf, density]") == 0
    found = document(tmp_path / "out")
    assert set(found["errors"]) == {"rdf_error", "adf_error", "vdos_error"}
    assert all(0 < value < 100 for value in found["errors"].values())
    assert set(found["reference_observables"]) == {"rdf", "density"}


def test_into_the_folder_of_a_run(evaluate: Evaluate, tmp_path: Path) -> None:
    salt(tmp_path / "md.extxyz")
    record = {"command": "python train.py model=msmace", "status": "interrupted"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "record.json").write_text(json.dumps(record))
    assert evaluate("trajectory=md.extxyz", "observables=[rdf]") == 0
    assert 'data-plot="observable-rdf"' in (tmp_path / "out" / "report.html").read_text()
    assert not (tmp_path / "out" / "observables.html").exists()
    assert evaluate("trajectory=md.extxyz", "observables=[nothing]") == 2
    assert json.loads((tmp_path / "out" / "record.json").read_text()) == record


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trajectory=bare.extxyz", "observables=[vacf]"], "vacf: bare.extxyz holds no velocities"),
        (["trajectory=one.extxyz", "observables=[msd]"], "holds 1 frame"),
        (["trajectory=molecule.xyz", "observables=[rdf]"], "not periodic"),
        (["trajectory=mixed.xyz"], "mixed.xyz:1 holds other atoms"),
        (["trajectory=bare.extxyz", "observables=[rdfs]"], "no observable 'rdfs'; write observables=[...]"),
        (["trajectory=bare.extxyz", "observables=rdf"], "write a list, as [rdf, msd]"),
        (["trajectory=bare.extxyz", "settings.bins=0"], "settings.bins=0: write a whole number"),
        (["trajectory=bare.extxyz", "interval_fs=-1"], "interval_fs=-1: write a positive number"),
        (["trajectory=bare.extxyz", "every=0"], "every=0: write a whole number >= 1"),
        (["trajectory=absent.xyz"], "trajectory: there is no file absent.xyz"),
        (["trajectory=bare.extxyz", "reference=absent.xyz"], "reference: there is no file absent.xyz"),
        ([], "write trajectory=FILE, or model=RUN system=FILE"),
    ],
)  # fmt: skip
def test_bad_input_is_explained(
    evaluate: Evaluate, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    salt(tmp_path / "bare.extxyz", velocities=False)
    salt(tmp_path / "one.extxyz", frames=1)
    write(tmp_path / "molecule.xyz", Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]))
    write(tmp_path / "mixed.xyz", [Atoms("H2", np.eye(3)[:2]), Atoms("HO", np.eye(3)[:2])])
    assert evaluate(*arguments) == 2
    assert message in error(capfd)
    assert not (tmp_path / "out" / "observables.json").exists()


def test_help_names_all_observables(repository: Path) -> None:
    text = (repository / "conf" / "evaluate.yaml").read_text()
    listed = text.partition("Observables:")[2].partition("From a model")[0].replace(",", " ").split()
    assert listed == list(OBSERVABLES)


def test_an_unknown_key_is_refused(evaluate: Evaluate) -> None:
    with pytest.raises(InputError, match=r"settings\.bin"):
        evaluate("trajectory=md.extxyz", "settings.bin=3")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that holds a crystal of aluminium together."""
    torch.manual_seed(0)
    settings = MACEArchitecture(cutoff=3.5, channels=4, l_max=1, correlation=2, layers=1, zbl=True)
    folder = tmp_path_factory.mktemp("model")
    save_model(MACE([13], [0.0], settings).double(), folder / "model.safetensors", {})
    return folder


def test_straight_from_a_model(evaluate: Evaluate, model: Path, tmp_path: Path) -> None:
    write(tmp_path / "start.extxyz", bulk("Al", "fcc", 4.05, cubic=True).repeat((2, 2, 1)))
    given = [f"model={model}", "system=start.extxyz", "simulate.steps=60", "simulate.timestep=1.0"]
    given += ["simulate.picture=false", "simulate.ops.backend=reference", "simulate.output.every=2"]
    assert evaluate(*given, "settings.rdf_window_fs=20") == 0
    found = document(tmp_path / "out")
    assert found["trajectory"]["interval_fs"] == 2.0
    assert found["trajectory"]["frames"] == 31
    assert {"rdf", "msd", "vacf", "pressure", "drift", "stability"} <= set(found["observables"])
    assert (tmp_path / "out" / "simulation" / "thermo.csv").is_file()
    assert "thermo.csv" in " ".join(found["observables"]["drift"]["notes"])


def test_table_and_failures_are_those_of_the_replica(evaluate: Evaluate, tmp_path: Path) -> None:
    """A file of replica 3 given by itself, beside those of others; an HDF5 file in which it alone is left."""
    run = tmp_path / "run"
    run.mkdir()
    salt(run / "trajectory_3.extxyz", velocities=False)
    salt(run / "md.extxyz", velocities=False)
    with h5py.File(run / "left.h5", "w") as file:
        group, frames = file.create_group("replica_3"), read(run / "md.extxyz", ":")
        group["numbers"], group["pbc"] = frames[0].numbers, frames[0].pbc
        group["positions"] = np.stack([f.positions for f in frames])
        group["cell"] = np.stack([f.cell.array for f in frames])
        group["time"], group["energy"] = 4.0 * np.arange(60), np.zeros(60)
    rows = [ThermoRow(i, 4.0 * i, k, *[float(k)] * 8) for i in range(60) for k in (0, 3)]
    (run / "thermo.csv").write_text(csv_text(rows, header=True))
    failures = [f"replica {k} left the physical range at step 9" for k in (0, 3, 30)]
    (run / "record.json").write_text(json.dumps({"command": "msmlff simulate x", "failures": failures}))
    for name in ("trajectory_3.extxyz", "left.h5"):
        assert evaluate(f"trajectory=run/{name}", "observables=[pressure,stability]") == 0
        found = document(tmp_path / "out")["observables"]
        (pressure,) = [q for name, q in found["pressure"]["quantities"].items() if name == "pressure"]
        assert pressure["value"] == 3.0
        notes = [n for n in found["stability"]["notes"] if "failed" in n]
        assert notes == ["The simulation failed: replica 3 left the physical range at step 9"]
    assert evaluate("trajectory=run/md.extxyz", "observables=[stability]") == 0
    assert "failed" not in " ".join(document(tmp_path / "out")["observables"]["stability"]["notes"])
    assert evaluate("trajectory=run/md.extxyz", "observables=[pressure]") == 2


def simulated(folder: Path, config: str = "temperature: 300.0\n") -> Path:
    """Three replicas as ``msmlff simulate`` leaves them, the third ended after 3 frames."""
    folder.mkdir()
    for k in range(3):
        salt(folder / f"trajectory_{k}.extxyz", frames=3 if k == 2 else 60, seed=k)
    (folder / "config.yaml").write_text(config)
    rows = [ThermoRow(i, 4.0 * i, k, *[float(k)] * 8) for i in range(60) for k in range(3)]
    (folder / "thermo.csv").write_text(csv_text(rows, header=True))
    failure = "replica 2 left the physical range at step 9"
    (folder / "record.json").write_text(json.dumps({"command": "msmlff simulate x", "failures": [failure]}))
    return folder


def test_all_replicas_of_a_simulation(
    evaluate: Evaluate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Their mean, each with its own rows of thermo.csv; one alone by its number; those of a list."""
    simulated(tmp_path / "run")
    assert evaluate("trajectory=run", "observables=[temperature,pressure,stability]") == 0
    found = document(tmp_path / "out")
    assert found["trajectory"]["replicas"] == [60, 60, 3]
    mean = found["observables"]["pressure"]["quantities"]["pressure"]
    assert mean["value"] == pytest.approx(0.5)
    assert mean["over_replicas"] == pytest.approx(0.5)
    assert "it ended after 12 of 240 fs" in " ".join(found["observables"]["pressure"]["notes"])
    notes = " ".join(found["observables"]["stability"]["notes"])
    assert "replica 2 of run: The simulation failed: replica 2 left the physical range" in notes
    assert "± replicas" in capfd.readouterr().out
    assert evaluate("trajectory=run", "observables=[pressure]", "first=5") == 0
    found = document(tmp_path / "out")
    assert found["trajectory"]["replicas"] == [55, 55]
    assert found["observables"]["pressure"]["quantities"]["pressure"]["value"] == pytest.approx(0.5)
    assert "Without replica 2 of run" in found["observables"]["pressure"]["notes"][0]
    assert evaluate("trajectory=run", "observables=[pressure]", "replica=1") == 0
    found = document(tmp_path / "out")
    assert "replicas" not in found["trajectory"]
    assert found["observables"]["pressure"]["quantities"]["pressure"]["value"] == 1.0
    salt(tmp_path / "ref.extxyz", seed=9)
    files = "trajectory=[run/trajectory_0.extxyz,run/trajectory_1.extxyz]"
    assert evaluate(files, "observables=[rdf]", "reference=ref.extxyz") == 0
    found = document(tmp_path / "out")
    assert found["trajectory"]["source"] == "run/trajectory_0.extxyz, run/trajectory_1.extxyz"
    assert 0 < found["errors"]["rdf_error"] < 100


def test_replicas_that_have_no_mean(
    evaluate: Evaluate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    simulated(tmp_path / "run", "temperature: [300.0, 300.0, 900.0]\n")
    files = [f"run/trajectory_{k}.extxyz" for k in range(3)]
    assert evaluate("trajectory=run", "replica=2", "observables=[density]") == 0
    assert evaluate(f"trajectory=[{files[0]},{files[1]}]", "observables=[density]") == 0
    assert evaluate("trajectory=run") == 2
    message = (
        "temperature=300.0 (run, replica 0) and 900.0 (run, replica 2), which have no mean: write replica"
    )
    assert message in error(capfd)
    assert evaluate(f"trajectory=[{files[0]},{files[2]}]") == 2
    assert f"temperature=300.0 ({files[0]}) and 900.0 ({files[2]})" in error(capfd)
    simulated(tmp_path / "cold", "temperature: 100.0\n")
    assert evaluate(f"trajectory=[{files[0]},cold/trajectory_0.extxyz]") == 2
    assert f"temperature=300.0 ({files[0]}) and 100.0 (cold" in error(capfd)
    write(tmp_path / "run" / "trajectory_1.extxyz", bulk("Al", cubic=True))
    (tmp_path / "run" / "config.yaml").write_text("temperature: 300.0\n")
    assert evaluate("trajectory=run") == 2
    assert "replica 1 of run holds other atoms" in error(capfd)
    assert evaluate("trajectory=[run,run]") == 2
    assert "each once" in error(capfd)
    assert evaluate("trajectory=run", "first=100") == 2
    assert "none is left; change first, last or every" in error(capfd)


def test_a_model_is_not_simulated_for_what_cannot_be_evaluated(
    evaluate: Evaluate, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no observable 'rfd'"):
        evaluate(f"model={model}", "system=start.extxyz", "observables=[rfd]")
    with pytest.raises(InputError, match="go together"):
        evaluate(f"model={model}")
    with pytest.raises(InputError, match="simulate first"):
        evaluate("-m", f"model={model}", "system=start.extxyz", "first=0,10")
    with pytest.raises(InputError, match="not both"):
        evaluate(f"model={model}", "system=start.extxyz", "trajectory=md.extxyz")
    assert not (tmp_path / "out").exists()
