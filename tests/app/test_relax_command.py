"""msmlff relax, in this process: files of structures, crystals, properties, what is refused."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import write
from emt_pool import emt_frames

from msmlff.app import cli, guard
from msmlff.data.formats import read_frames, write_frames
from msmlff.models import MACE, MACEArchitecture
from msmlff.models.files import save_model
from msmlff.simulation import MSMLFFCalculator
from msmlff.simulation import relax as simulation_relax

Relax = Callable[..., int]
AT_REST = "fmax=1000"  # every frame is, at once
VOIGT = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the run folders a and b of small models of Al and Cu that hold crystals together."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in ((7, "a"), (9, "b")):
        torch.manual_seed(seed)
        settings = MACEArchitecture(cutoff=4.5, channels=4, l_max=1, correlation=2, layers=1, zbl=True)
        (folder / name).mkdir()
        model = MACE([13, 29], [0.0, 0.0], settings).double()
        save_model(model, folder / name / "model.safetensors", {})
    return folder


@pytest.fixture
def relax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Relax:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(guard, "exit_code", 0)

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["msmlff"])
        return cli.main(["relax", "threads=1", "hydra.run.dir=out", *arguments])

    return run


@pytest.fixture(scope="module")
def structures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("structures") / "three.extxyz"
    write_frames(file, emt_frames(3, 5))
    return file


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


def test_every_frame_of_a_file_is_relaxed(
    relax: Relax, runs: Path, structures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert relax(f"model={runs / 'a'}", f"system={structures}", "fmax=0.05") == 0
    before, after = list(read_frames(structures)), list(read_frames(tmp_path / "out" / "relaxed.extxyz"))
    assert len(after) == 3
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        assert new.info["frame"] == i
        assert new.info["converged"]
        assert new.energy < new.info["start_energy"]
        assert np.linalg.norm(new.forces, axis=1).max() <= 0.05
        again = MSMLFFCalculator(runs / "a")
        again.calculate(new.to_ase())
        np.testing.assert_allclose(new.forces, again.results["forces"], atol=1e-6)
        np.testing.assert_allclose(new.stress, again.get_stress(new.to_ase())[VOIGT], atol=1e-7)
        np.testing.assert_allclose(new.cell, old.cell, atol=1e-7)
        assert np.abs(new.positions - old.positions).max() > 1e-3
    done = record(tmp_path / "out")
    assert done["status"] == "finished"
    assert done["command"].startswith("msmlff relax")
    out = capfd.readouterr().out
    assert "3 of 3 frames came to rest" in out
    assert "out/relaxed.extxyz" in out


def test_a_committee_relaxes_the_cell_and_says_how_far_it_disagrees(
    relax: Relax, runs: Path, structures: Path, tmp_path: Path
) -> None:
    both = f"model=[{runs / 'a'},{runs / 'b'}]"
    assert relax(both, f"system={structures}", "cell=full", "steps=3", "pressure_GPa=1") == 1
    committee = MSMLFFCalculator([runs / "a", runs / "b"])
    for frame in read_frames(tmp_path / "out" / "relaxed.extxyz"):
        expected = committee.get_property("forces_std_max", frame.to_ase())
        assert frame.info["forces_std_max"] == pytest.approx(expected, rel=1e-5)
        assert frame.info["steps"] == 3
        assert not frame.info["converged"]


def test_one_bad_frame_does_not_stop_the_others(
    relax: Relax, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good, other = emt_frames(2, 1)
    other.numbers[:] = 47
    write_frames(tmp_path / "mixed.extxyz", [other, good])
    assert relax(f"model={runs / 'a'}", "system=mixed.extxyz", AT_REST) == 0
    out = capfd.readouterr().out
    assert "never saw Ag" in " ".join(out.split())
    (frame,) = read_frames(tmp_path / "out" / "relaxed.extxyz")
    assert frame.info["frame"] == 1
    write_frames(tmp_path / "bad.extxyz", [other])
    assert relax(f"model={runs / 'a'}", "system=bad.extxyz", "hydra.run.dir=bad") != 0
    assert "no frame could be relaxed" in capfd.readouterr().err
    assert record(tmp_path / "bad")["status"] == "failed"


@pytest.mark.parametrize("error", [np.linalg.LinAlgError("singular"), MemoryError(), KeyboardInterrupt()])
def test_frames_that_are_done_are_kept(
    error: BaseException, relax: Relax, runs: Path, structures: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An unexpected error costs its frame alone; Ctrl-C ends the loop and keeps those before it."""
    own = simulation_relax.relax
    given: list[Any] = []

    def failing(*arguments: Any) -> Any:
        given.append(arguments)
        if len(given) == 2:  # the first is on the disk, whatever comes
            assert len(list(read_frames(tmp_path / "out" / "relaxed.extxyz"))) == 1
            raise error
        return own(*arguments)

    monkeypatch.setattr(simulation_relax, "relax", failing)
    ended = isinstance(error, KeyboardInterrupt)
    assert relax(f"model={runs / 'a'}", f"system={structures}", AT_REST) == (130 if ended else 0)
    kept = [f.info["frame"] for f in read_frames(tmp_path / "out" / "relaxed.extxyz")]
    assert kept == ([0] if ended else [0, 2])
    assert record(tmp_path / "out")["status"] == ("interrupted" if ended else "finished")
    if ended:
        words = "relaxed.extxyz has the frames that were done, 1 up to number 0"
        assert words in record(tmp_path / "out")["stop_reason"]
        assert words in capfd.readouterr().err


def test_nothing_at_rest_is_a_failure_that_keeps_its_frames(
    relax: Relax, runs: Path, structures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert relax(f"model={runs / 'a'}", f"system={structures}", "steps=1", "fmax=1e-9") == 1
    shown = capfd.readouterr()
    assert "0 of 3 frames came to rest" in shown.out
    assert "came to rest in 1 steps; relaxed.extxyz has them" in shown.err
    assert len(list(read_frames(tmp_path / "out" / "relaxed.extxyz"))) == 3
    assert record(tmp_path / "out")["status"] == "failed"
    assert "steps: 1" in (tmp_path / "out" / "config.yaml").read_text()


def test_atoms_that_overlap_are_pushed_apart_and_it_is_said(
    relax: Relax, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    crystal = bulk("Cu", cubic=True).repeat(2)
    crystal.positions[5] = crystal.positions[3] + [0.0, 0.0, 0.2]
    crystal.write(tmp_path / "close.extxyz")
    assert relax(f"model={runs / 'a'}", "system=close.extxyz", AT_REST) == 0
    (frame,) = read_frames(tmp_path / "out" / "relaxed.extxyz")
    assert frame.info["overlap"] == pytest.approx(0.2)
    distances = frame.to_ase().get_all_distances(mic=True)
    assert distances[distances > 0].min() > 1.9
    assert "overlapped (0.2 Å)" in " ".join(capfd.readouterr().out.split())


def test_a_frame_that_ends_higher_is_marked(
    relax: Relax, runs: Path, structures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    own = simulation_relax.relax
    monkeypatch.setattr(simulation_relax, "relax", lambda *given: replace(own(*given), rose=True))
    assert relax(f"model={runs / 'a'}", f"system={structures}", AT_REST) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert out.count("energy rose") == 3
    assert "3 of 3 frames came to rest, 3 ended with more energy than they began with" in out
    assert all(f.info["energy_rose"] for f in read_frames(tmp_path / "out" / "relaxed.extxyz"))


def test_held_atoms_are_warned_of(
    relax: Relax, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    crystal = bulk("Cu", cubic=True)
    free = crystal.copy()
    crystal.set_constraint(FixAtoms([0]))
    write(tmp_path / "free.extxyz", free)
    write(tmp_path / "held.extxyz", crystal, columns=["symbols", "positions", "move_mask"])
    write(tmp_path / "POSCAR", crystal)
    for name, held in (("free.extxyz", False), ("held.extxyz", True), ("POSCAR", True)):
        assert relax(f"model={runs / 'a'}", f"system={name}", AT_REST, f"hydra.run.dir=out_{name}") == 0
        out = " ".join(capfd.readouterr().out.split())
        assert (f"{name}: frame 0 holds atoms (FixAtoms), which relax does not" in out) == held


@pytest.mark.parametrize("when", ["start", "frames"])
def test_a_full_disk_is_named(
    when: str, relax: Relax, runs: Path, structures: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The record cannot be written; or the second frame cannot."""
    written: list[Any] = []

    def full(*given: Any) -> None:
        written.append(given)
        if when == "start" or len(written) == 3:  # config.yaml and a frame came before
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("msmlff.app.record.os.replace" if when == "start" else "os.fsync", full)
    assert relax(f"model={runs / 'a'}", f"system={structures}", AT_REST) == 1
    err = capfd.readouterr().err
    assert "there is no room left" in err
    assert "Traceback" not in err
    if when == "frames":
        assert [f.info["frame"] for f in read_frames(tmp_path / "out" / "relaxed.extxyz")] == [0]
        assert "relaxed.extxyz has the frames that were done, 1 up to number 0" in err
        assert record(tmp_path / "out")["status"] == "failed"


def test_eam_crystals_with_elastic_constants(
    relax: Relax, reference_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = reference_data / "eam" / "Al1.eam.fs"
    assert relax(f"model={file}", "crystals=[Al]", "properties=[elastic]") == 0
    rows = json.loads((tmp_path / "out" / "crystals.json").read_text())["Al"]["model"]
    assert rows[0] == {
        "structure": "fcc",
        "bond_A": pytest.approx(2.860, abs=6e-4),
        "energy_eV": pytest.approx(-3.4107, abs=1e-4),
    }
    assert "-3.41" in capfd.readouterr().out
    found = json.loads((tmp_path / "out" / "properties.json").read_text())
    assert sorted(found) == ["Al bcc (model)", "Al fcc (model)", "Al hcp (model)"]
    fcc = found["Al fcc (model)"]["elastic"]
    assert fcc["stable"]
    assert 100 < fcc["tensor"][0][0] < 125


def test_a_model_and_a_reference_stand_side_by_side(
    relax: Relax, runs: Path, reference_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = reference_data / "eam" / "Al1.eam.fs"
    arguments = [f"model={runs / 'a'}", "crystals=[Al]", f"reference={file}"]
    code = relax(*arguments)
    assert code == 0
    found = json.loads((tmp_path / "out" / "crystals.json").read_text())["Al"]
    assert [row["structure"] for row in found["model"]] == [row["structure"] for row in found["reference"]]
    assert found["model"][0]["energy_eV"] != found["reference"][0]["energy_eV"]
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    for source in ("model", "reference"):
        bond, energy = found[source][1]["bond_A"], found[source][1]["energy_eV"]
        name = ["bcc"] if source == "model" else []
        assert [*name, source, f"{bond:.4f}", f"{energy:.5f}"] in lines
    assert relax(f"model={runs / 'a'}", "crystals=[Cu]", f"reference={file}", "hydra.run.dir=cu") == 2
    assert "there is no Cu in the reference, which has Al" in capfd.readouterr().err


def test_crystals_without_a_minimum_are_a_failure_and_no_bad_input(
    relax: Relax, reference_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the search is beyond the reach of the potential."""
    file = reference_data / "eam" / "Al1.eam.fs"
    assert relax(f"model={file}", "crystals=[Al]", "bond=20") == 1
    assert "fcc has no minimum of the energy between bond lengths of 15.00 and" in capfd.readouterr().err
    assert record(tmp_path / "out")["status"] == "failed"
    assert not (tmp_path / "out" / "crystals.json").exists()


@pytest.mark.skipif(find_spec("phonopy") is None, reason="phonopy is not installed")
def test_phonons_are_drawn(relax: Relax, reference_data: Path, tmp_path: Path) -> None:
    atoms = bulk("Al", a=4.045)
    atoms.write(tmp_path / "al.extxyz")
    file = reference_data / "eam" / "Al1.eam.fs"
    small = ["phonons.length=7", "phonons.points=20", "phonons.mesh=4"]
    assert relax(f"model={file}", "system=al.extxyz", "cell=full", "properties=[phonons]", *small) == 0
    found = json.loads((tmp_path / "out" / "properties.json").read_text())["frame 0"]["phonons"]
    assert np.array(found["frequencies"]).shape == (20, 3)
    assert 5 < np.max(found["frequencies"]) < 15
    assert (tmp_path / "out" / "phonons.png").read_bytes().startswith(b"\x89PNG")


def test_a_property_that_fails_is_recorded(
    relax: Relax, runs: Path, structures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Elastic constants of structures that were not relaxed far enough."""
    arguments = [AT_REST, "properties=[elastic]", "elastic.fmax=1e-9", "elastic.steps=1"]
    assert relax(f"model={runs / 'a'}", f"system={structures}", *arguments) == 0
    found = json.loads((tmp_path / "out" / "properties.json").read_text())
    assert all("relax it first" in of["error"] for of in found.values())


def test_a_finished_folder_is_not_written_over(
    relax: Relax, runs: Path, structures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"model={runs / 'a'}", f"system={structures}", AT_REST]
    assert relax(*arguments) == 0
    assert relax(*arguments) == 2
    assert "holds a finished relaxation" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["system=x.xyz"], "models has no value"),
        (["model=nowhere", "system=x.xyz"], "nowhere does not exist"),
        (["model=RUN"], "nothing to relax"),
        (["model=RUN", "system=x.xyz"], "system=x.xyz: there is no such file"),
        (["model=RUN", "system=FILE", "cell=shape"], "none, isotropic, full"),
        (["model=RUN", "system=FILE", "fmax=small"], "fmax='small'"),
        (["model=RUN", "system=FILE", "pressure_GPa=3"], "does nothing at a fixed cell"),
        (["model=RUN", "system=FILE", "properties=[colour]"], "elastic, phonons"),
        (["model=RUN", "system=FILE", "properties=elastic"], "write a list"),
        (["model=RUN", "system=FILE", "properties=[phonons]", "phonons.mesh=1"], "phonons.mesh=1"),
        (["model=RUN", "system=FILE", "elastic.strain=much"], "elastic.strain"),
        (["model=RUN", "system=FILE", "reference=x.eam.fs"], "for crystals alone"),
        (["model=RUN", "crystals=[Al]", "reference=x.eam.fs"], "there is no file x.eam.fs"),
        (["model=RUN", "crystals=[Al]", "bond=-2"], "bond=-2"),
        (["model=RUN", "system=FILE", "fmx=1"], "fmax"),
    ],
)
def test_bad_input_is_named(
    relax: Relax,
    runs: Path,
    structures: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    filled = [a.replace("RUN", str(runs / "a")).replace("FILE", str(structures)) for a in arguments]
    assert relax(*filled) == 2
    assert words in " ".join(capfd.readouterr().err.split())


def test_an_element_that_a_potential_lacks_is_named(
    relax: Relax, structures: Path, reference_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = reference_data / "eam" / "Al1.eam.fs"
    assert relax(f"model={file}", f"system={structures}") == 1
    assert "there is no Cu in the model, which has Al" in " ".join(capfd.readouterr().err.split())


def test_a_file_that_is_no_potential_is_named(
    relax: Relax, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "not.eam.fs").write_text("nothing of the kind\n" * 8)
    assert relax("model=not.eam.fs", "crystals=[Al]") == 2
    assert "not an EAM file" in capfd.readouterr().err
