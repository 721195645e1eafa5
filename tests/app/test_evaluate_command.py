"""msmlff evaluate, in this process: files and models, pages, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from toys import LennardJones, fcc

from msmlff.analysis.observables_page import with_error
from msmlff.analysis.observe import OBSERVABLES
from msmlff.analysis.observed import Quantity
from msmlff.app import guard
from msmlff.app.evaluate import evaluate_command
from msmlff.errors import InputError
from msmlff.models import MACE, MACEArchitecture
from msmlff.models.files import save_model
from msmlff.simulation import NVE, MDSettings, ModelForces, MolecularDynamics
from msmlff.simulation.restart import save_restart
from msmlff.simulation.thermo import ThermoRow, csv_text, read_thermo

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


def thermo_row(step: int, replica: int) -> ThermoRow:
    """Every 4 fs; as many K, eV and GPa as the replica's number, in the cell of ``salt``."""
    return ThermoRow(step, 4.0 * step, replica, *[float(replica)] * 5, 5.64**3, 2.0, 0.0)


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
    assert "stress" in found["missing"]["error against the reference, pressures of the potential"]
    assert all(0 < value < 100 for value in found["errors"].values())
    assert set(found["reference_observables"]) == {"rdf", "density"}


def stressed(path: Path, gpa: float, velocities: bool, **given: int) -> Path:
    salt(path, velocities=velocities, **given)
    frames = read(path, ":")
    for frame in frames:
        frame.calc = SinglePointCalculator(frame, stress=-gpa * units.GPa * np.array([1, 1, 1, 0, 0, 0]))
    write(path, frames)
    return path


def test_pressures_beside_a_reference_have_the_same_ideal_part(
    evaluate: Evaluate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The reference knows stresses alone: the pressures differ as those of the potentials, by 7 GPa."""
    stressed(tmp_path / "md.extxyz", 5.0, velocities=True)
    stressed(tmp_path / "ref.extxyz", 12.0, velocities=False, frames=40, seed=1)
    for ours, theirs in (("md", "ref"), ("ref", "md")):
        given = f"trajectory={ours}.extxyz", f"reference={theirs}.extxyz", "observables=[pressure]"
        assert evaluate(*given) == 0
        found = document(tmp_path / "out")
        mine, other = (
            {n: q["value"] for n, q in found[part]["pressure"]["quantities"].items()}
            for part in ("observables", "reference_observables")
        )
        assert mine["pressure of the potential"] == pytest.approx(5.0 if ours == "md" else 12.0)
        for name in ("pressure", "pressure of the potential"):
            assert abs(mine[name] - other[name]) == pytest.approx(7.0)
        assert mine["pressure"] - mine["pressure of the potential"] > 0.01
        assert found["errors"]["pressure_mae"] == pytest.approx(7.0)
        shown = capfd.readouterr().out
        assert f"Pressure: {'The reference: ' * (ours == 'md')}No velocities and no temperature: the" in shown
        # 60 frames of the one, 40 of the other
        longer, shorter = ("0.236", "0.156") if ours == "md" else ("0.156", "0.236")
        words = f"{longer} ps of the trajectory, a frame every 4.00 fs; {shorter} ps of the reference"
        assert words in shown
        assert "Errors against the reference: the first 0.156 ps of both." in shown
        assert words in (tmp_path / "out" / "observables.html").read_text()


def test_the_reference_may_hold_less(
    evaluate: Evaluate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    salt(tmp_path / "md.extxyz")
    salt(tmp_path / "ref.extxyz", velocities=False, seed=1)
    assert evaluate("trajectory=md.extxyz", "reference=ref.extxyz", "observables=[vacf,density]") == 0
    reason = document(tmp_path / "out")["missing"]["Velocity autocorrelation of the reference"]
    assert "ref.extxyz holds no velocities" in reason
    assert "no Velocity autocorrelation of the reference: vacf: ref.extxyz" in capfd.readouterr().out


@pytest.mark.parametrize("width", [40, 80])
def test_labels_are_folded_and_numbers_are_not(
    evaluate: Evaluate,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    simulated(tmp_path / "run")
    salt(tmp_path / "ref.extxyz", seed=9)
    monkeypatch.setenv("COLUMNS", str(width))
    given = "trajectory=run", "reference=ref.extxyz", "observables=[order,temperature]"
    assert evaluate(*given) == 0
    shown = capfd.readouterr().out
    assert "…" not in shown
    for quantity in ("q4", "q6", "w4", "Q6"):
        assert re.search(rf"\b{quantity}\b", shown)
    found = document(tmp_path / "out")
    for part in ("observables", "reference_observables"):
        value = found[part]["temperature"]["quantities"]["temperature"]
        assert with_error(Quantity(value["value"], value["error"], "K")) in shown
    assert "Bond-orientational order: Neighbours of an atom are those whose solid angles" in shown
    assert "Bond-orientational order: replica 2: The simulation failed" in shown


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
        (["trajectory=bare.extxyz", "observables=[elastic]"], "msmlff relax model=RUN system=FILE cell=full"),
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
    # of a frame every 2 fs and a row every 10 fs; a second such run has a stress in every frame, too
    ours = "trajectory=out/simulation", "reference=out/simulation", "observables=[pressure]"
    assert evaluate(*ours, "out=twice") == 0
    twice = document(tmp_path / "twice")
    assert twice["errors"]["pressure_mae"] == twice["errors"]["pressure_error"] == 0.0
    assert twice["observables"]["pressure"] == twice["reference_observables"]["pressure"]
    rows = read_thermo(tmp_path / "out" / "simulation" / "thermo.csv")[0]["pressure_GPa"]
    mean = found["observables"]["pressure"]["quantities"]["pressure"]["value"]
    assert mean == pytest.approx(rows.mean(), abs=rows.std())
    assert (tmp_path / "out" / "simulation" / "thermo.csv").is_file()
    assert "thermo.csv" in " ".join(found["observables"]["drift"]["notes"])


def stable(folder: Path) -> list[float]:
    """Of the bonds; windows of g are longer than ``salt``."""
    quantities = document(folder)["observables"]["stability"]["quantities"]
    return [quantities[name]["value"] for name in sorted(quantities) if re.search("bonds.*: stable$", name)]


def test_simulations_that_failed_are_known_without_their_record(
    evaluate: Evaluate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From failed_K.extxyz; from the restart file, where a killed simulation had not come to its end."""
    for name in ("lost", "killed"):
        simulated(tmp_path / name)
        (tmp_path / name / "record.json").unlink()
        assert evaluate(f"trajectory={name}", "observables=[stability]") == 0
        assert stable(tmp_path / "out") == [1, 1]
    frame = read(tmp_path / "lost" / "trajectory_2.extxyz")
    frame.info = {"reason": "pair distance", "time_fs": 11.5}
    write(tmp_path / "lost" / "failed_2.extxyz", frame)
    record = {"command": "msmlff simulate x", "status": "running"}
    (tmp_path / "killed" / "record.json").write_text(json.dumps(record))
    starts = [fcc()] * 3
    md = MolecularDynamics(ModelForces(LennardJones()), starts, NVE(), MDSettings(temperature=9.0))
    md.fail(torch.tensor([False, False, True]), "temperature", torch.full((3,), 9e4))
    save_restart(tmp_path / "killed" / "restart.safetensors", md, starts, {})
    for name, words in (("lost", "pair distance at 11.5 fs"), ("killed", "temperature 9e+04 K")):
        capfd.readouterr()
        assert evaluate(f"trajectory={name}", "observables=[stability]") == 0
        assert stable(tmp_path / "out") == pytest.approx([2 / 3, 2 / 3])
        assert words in capfd.readouterr().out


def test_a_failed_simulation_is_named_whatever_is_observed(
    evaluate: Evaluate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    simulated(tmp_path / "run")
    assert evaluate("trajectory=run", "replica=2", "observables=[density]") == 0
    assert "Density: The simulation failed: replica 2 left" in capfd.readouterr().out
    # without one frame of it that is looked at, it is lost all the same
    assert evaluate("trajectory=run", "first=10", "observables=[stability]") == 0
    assert stable(tmp_path / "out") == pytest.approx([2 / 3, 2 / 3])
    assert "2 of 3 replicas, a share between 0.09 and 0.99" in capfd.readouterr().out


def test_some_replicas(evaluate: Evaluate, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Those of one temperature, of a folder with several."""
    simulated(tmp_path / "run", "temperature: [300.0, 300.0, 900.0]\n")
    assert evaluate("trajectory=run", "replica=[1,0]", "observables=[pressure]") == 0
    found = document(tmp_path / "out")
    assert found["trajectory"]["replicas"] == [60, 60]
    assert found["observables"]["pressure"]["quantities"]["pressure"]["value"] == pytest.approx(0.5)
    salt(tmp_path / "md.extxyz")
    for given, message in (
        (("trajectory=run", "replica=[0,2]"), "replica=[K,L,...] for those of one state"),
        (("trajectory=run", "replica=[0,3]"), "replica=3: run holds replicas 0 to 2; leave replica out"),
        (("trajectory=run/trajectory_1.extxyz", "replica=0"), "holds replica 1; leave"),
        (("trajectory=md.extxyz", "replica=0"), "md.extxyz holds one trajectory without a number; leave"),
        (("trajectory=run", "replica=[0,0]"), "replica=[0, 0]: write the number of one"),
        (("trajectory=run", "replica=[]"), "replica=[]: write the number of one"),
        (("trajectory=run", "replica=first"), "replica=first: write the number of one"),
        (("trajectory=run", "replica=-1"), "replica=-1: write the number of one"),
    ):
        assert evaluate(*given) == 2
        assert message in error(capfd)


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
    rows = [thermo_row(i, k) for i in range(60) for k in (0, 3)]
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
        assert stable(tmp_path / "out") == [0, 0]
    assert evaluate("trajectory=run/md.extxyz", "observables=[stability]") == 0
    assert stable(tmp_path / "out") == [1, 1]
    assert "failed" not in " ".join(document(tmp_path / "out")["observables"]["stability"]["notes"])
    assert evaluate("trajectory=run/md.extxyz", "observables=[pressure]") == 2


def simulated(folder: Path, config: str = "temperature: 300.0\n") -> Path:
    """Three replicas as ``msmlff simulate`` leaves them, the third ended after 3 frames."""
    folder.mkdir()
    for k in range(3):
        salt(folder / f"trajectory_{k}.extxyz", frames=3 if k == 2 else 60, seed=k)
    (folder / "config.yaml").write_text(config)
    rows = [thermo_row(i, k) for i in range(60) for k in range(3)]
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
    assert "replica 2: The simulation failed: replica 2 left the physical range" in notes
    assert "± replicas" in capfd.readouterr().out
    assert evaluate("trajectory=run", "observables=[pressure]", "first=5") == 0
    found = document(tmp_path / "out")
    assert found["trajectory"]["replicas"] == [55, 55]
    assert found["observables"]["pressure"]["quantities"]["pressure"]["value"] == pytest.approx(0.5)
    assert "Without replica 2: " in found["observables"]["pressure"]["notes"][0]
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
    assert "replica 1 holds other atoms" in error(capfd)
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
