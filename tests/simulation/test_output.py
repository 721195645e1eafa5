"""The files of a simulation: what is in them, and that no crash takes anything from them."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from ase.io import read
from ase.units import GPa, fs, kB
from safetensors.torch import save_file
from toys import LennardJones, fcc

from msmlff.analysis.thermodynamics import pressure
from msmlff.analysis.trajectory import longest_step, temperatures, unwrapped
from msmlff.analysis.trajectory_files import read_trajectory
from msmlff.data.formats import read_frames
from msmlff.errors import InputError
from msmlff.simulation import NPT, NVT, Limits, MDSettings, ModelForces, MolecularDynamics
from msmlff.simulation.files import GrowingFile, OutputError, write_whole
from msmlff.simulation.output import THERMO, Output, OutputSpec
from msmlff.simulation.restart import RESTART, load_restart
from msmlff.simulation.thermo import read_thermo
from msmlff.simulation.trajectory import Snapshot, make_writer

STARTS = [fcc(), fcc(seed=1)]
SPEC = OutputSpec(every=4, thermo_every=2, save_seconds=0.0)


def started(
    folder: Path, spec: OutputSpec = SPEC, ensemble: NVT | None = None
) -> tuple[MolecularDynamics, Output]:
    folder.mkdir(exist_ok=True)
    output = Output(folder, spec, STARTS, {"note": "kept"})
    settings = MDSettings(1.0, [100.0, 200.0], seed=3, limits=Limits(0.1))
    md = MolecularDynamics(
        ModelForces(LennardJones()),
        STARTS,
        ensemble or NPT(barostat_time=100.0),
        settings,
        hooks=output.hooks,
    )
    return md, output


def content(folder: Path) -> dict[str, Any]:
    """Bytes of the text files; arrays of the HDF5 index; tensors of the restart file."""
    found: dict[str, Any] = {p.name: p.read_bytes() for p in (*folder.glob("*.extxyz"), folder / THERMO)}
    if (folder / "trajectory.h5").is_file():
        with h5py.File(folder / "trajectory.h5") as file:
            found |= {
                f"{k}/{n}": data[()].tobytes() for k, group in file.items() for n, data in group.items()
            }
    restart = load_restart(folder / RESTART)
    return found | {name: value.numpy().tobytes() for name, value in restart.state.items()}


def test_ase_reads_the_trajectory(tmp_path: Path) -> None:
    md, output = started(tmp_path)
    md.call_hooks()
    md.run(10)
    output.save(md)
    frames = read(tmp_path / "trajectory_1.extxyz", ":")
    assert [f.info["step"] for f in frames] == [0, 4, 8]
    thermo = read_thermo(tmp_path / THERMO)
    assert thermo[1]["step"].tolist() == [0, 2, 4, 6, 8, 10]
    for frame in frames:
        row = int(np.flatnonzero(thermo[1]["step"] == frame.info["step"])[0])
        assert frame.info["time_fs"] == frame.info["step"] * 1.0
        assert frame.get_potential_energy() == pytest.approx(thermo[1]["potential_eV"][row])
        assert frame.get_kinetic_energy() == pytest.approx(thermo[1]["kinetic_eV"][row], rel=1e-6)
        assert frame.get_volume() == pytest.approx(thermo[1]["volume_A3"][row])
        assert thermo[1]["temperature_K"][row] == pytest.approx(frame.info["temperature_K"], rel=1e-5)
    own = list(read_frames(tmp_path / "trajectory_1.extxyz"))
    np.testing.assert_allclose(own[-1].positions, frames[-1].positions)
    assert own[-1].info["time_fs"] == 8.0


def test_hdf5_shows_its_chunks_as_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    md, output = started(tmp_path / "run", replace(SPEC, format="hdf5"))
    md.call_hooks()
    md.run(9)
    output.save(md)
    assert len(list((tmp_path / "run" / "trajectory").iterdir())) == 3
    monkeypatch.chdir(tmp_path)  # links are relative to the file, not to where it is read
    with h5py.File("run/trajectory.h5") as file:
        group = file["replica_1"]
        assert group["step"][()].tolist() == [0, 4, 8]
        assert group["positions"].shape == (3, 32, 3)
        assert group["positions"].attrs["unit"] == "angstrom"
        np.testing.assert_array_equal(group["numbers"], STARTS[1].numbers)
        np.testing.assert_array_equal(group["positions"][0], STARTS[1].positions)
        thermo = read_thermo(tmp_path / "run" / THERMO)[1]
        rows = np.isin(thermo["step"], [0, 4, 8])
        np.testing.assert_allclose(group["energy"], thermo["potential_eV"][rows])
        np.testing.assert_allclose(np.linalg.det(group["cell"]), thermo["volume_A3"][rows])
        v = group["velocities"][-1] / fs
        kinetic = 0.5 * (md.system.masses[:32].numpy() * v**2).sum()
        assert kinetic == pytest.approx(thermo["kinetic_eV"][rows][-1])


@pytest.mark.parametrize("ensemble", [NPT(barostat_time=100.0), NVT()], ids=["npt", "nvt"])
@pytest.mark.parametrize("kind", ["extxyz", "hdf5"])
def test_what_was_written_after_the_last_save_is_cut_off(tmp_path: Path, kind: str, ensemble: NVT) -> None:
    """A run of 20 steps, and one that crashes after writing more than it saved, gone on with: equal files.

    Frames and rows are of different steps, so at constant volume the stress is asked for by each alone.
    """
    spec = replace(SPEC, every=3, format=kind, save_seconds=1e9)
    whole, output = started(tmp_path / "whole", spec, ensemble)
    whole.call_hooks()
    for _ in range(2):
        whole.run(10)
        output.save(whole)

    broken, output = started(tmp_path / "broken", spec, ensemble)
    broken.call_hooks()
    broken.run(10)
    output.save(broken)
    restart = (tmp_path / "broken" / RESTART).read_bytes()
    broken.run(7)
    output.save(broken)
    (tmp_path / "broken" / RESTART).write_bytes(restart)  # as if killed before it was replaced

    again, output = started(tmp_path / "broken", spec, ensemble)
    saved = load_restart(tmp_path / "broken" / RESTART)
    assert saved.step == 10
    assert saved.facts["note"] == "kept"
    again.restore(saved.state, saved.step, saved.failures)
    output.restore(saved)
    again.run(10)
    output.save(again)
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["extxyz", "hdf5"])
def test_frames_have_the_stress_of_the_potential(tmp_path: Path, kind: str) -> None:
    """At constant volume, whose steps need none: with the kinetic part it is the pressure of thermo.csv."""
    md, output = started(tmp_path, replace(SPEC, every=3, format=kind), NVT())
    md.call_hooks()
    md.run(12)
    output.save(md)
    t, thermo = read_trajectory(tmp_path, replica=1), read_thermo(tmp_path / THERMO)[1]
    assert t.stress is not None
    assert t.stress.shape == (5, 3, 3)
    np.testing.assert_allclose(t.stress, t.stress.transpose(0, 2, 1), atol=1e-9)
    total = pressure(t.frames()) + len(t.numbers) * kB * temperatures(t) / t.volume / GPa
    rows = [np.flatnonzero(thermo["step"] == step)[0] for step in (0, 6, 12)]
    np.testing.assert_allclose(total[::2], thermo["pressure_GPa"][rows], atol=1e-6)
    assert np.ptp(total) > 1e-3


@pytest.mark.parametrize("kind", ["extxyz", "hdf5"])
def test_molecules_have_no_stress(tmp_path: Path, kind: str) -> None:
    free = replace(fcc(), pbc=np.array([True, True, False]))
    output = Output(tmp_path, replace(SPEC, format=kind), [free], {})
    settings = MDSettings(1.0, 50.0, limits=Limits(0.1))
    md = MolecularDynamics(ModelForces(LennardJones()), [free], NVT(), settings, hooks=output.hooks)
    assert not output.hooks[0].stress  # not worth a sum where there is no volume
    md.call_hooks()
    md.run(4)
    output.save(md)
    assert read_trajectory(tmp_path).stress is None


def test_failures_outlive_a_restart(tmp_path: Path) -> None:
    md, output = started(tmp_path)
    md.run(3)
    md.fail(torch.tensor([True, False]), "temperature", torch.tensor([1234.0, 0.0]))
    md.run(3)
    output.save(md)
    saved = load_restart(tmp_path / RESTART)
    again, _ = started(tmp_path / "again")
    again.restore(saved.state, saved.step, saved.failures)
    assert again.alive == [1]
    assert again.failures[0].message() == md.failures[0].message()
    np.testing.assert_array_equal(again.failures[0].frame.positions, md.failures[0].frame.positions)
    for run in (md, again):
        run.hooks = []
        run.run(5)
    np.testing.assert_array_equal(md.frames()[1].positions, again.frames()[1].positions)


def test_an_append_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = GrowingFile(tmp_path / "file")
    file.append(b"whole\n")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"file cannot be written: there is no room left"):
        file.append(b"torn")
    with pytest.raises(OutputError, match=r"other cannot be written: there is no room left"):
        write_whole(tmp_path / "other", b"content")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"whole\n"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    file.append(b"again\n")
    assert (tmp_path / "file").read_bytes() == b"whole\nagain\n"
    file.restore(6)
    assert (tmp_path / "file").read_bytes() == b"whole\n"
    with pytest.raises(InputError, match="has 6 bytes and had 7"):
        file.restore(7)
    with pytest.raises(OutputError, match="absent"):
        GrowingFile(tmp_path / "absent" / "file").append(b"x")


def test_restart_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    md, output = started(tmp_path)
    md.run(2)
    output.save(md)
    path = tmp_path / RESTART
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match=f"{RESTART} is damaged"):
        load_restart(path)
    header = json.dumps({"version": 99})
    save_file({"x": torch.zeros(1)}, path, metadata={"msmlff_simulation": header})
    with pytest.raises(InputError, match="is of version 99, this program reads 2"):
        load_restart(path)
    path.unlink()
    with pytest.raises(InputError, match="before it was saved"):
        load_restart(path)


def test_a_torn_last_row_does_not_count(tmp_path: Path) -> None:
    md, output = started(tmp_path)
    md.run(6)
    output.save(md)
    path = tmp_path / THERMO
    whole, text = read_thermo(path), path.read_text()
    last = text.splitlines()[-1]
    for torn in (last, last[:-3], last[: len(last) // 2], "8,"):
        path.write_text(text + torn)
        again = read_thermo(path)
        assert all(np.array_equal(again[k]["step"], whole[k]["step"]) for k in (0, 1))
    path.write_text(text + "8,8\n")
    with pytest.raises(InputError, match=r"thermo\.csv:8 has 2 columns in place of 11"):
        read_thermo(path)
    path.write_text(text + last.replace(",", ",x", 1) + "\n")
    with pytest.raises(InputError, match=r"thermo\.csv:8: .*'x"):
        read_thermo(path)


@pytest.mark.parametrize("velocities", [True, False])
@pytest.mark.parametrize("kind", ["extxyz", "hdf5"])
def test_paths_are_read_as_they_were_written(tmp_path: Path, kind: str, velocities: bool) -> None:
    """Steps of 0.7 of a cell from frame to frame are not folded; temperatures are those of the run."""
    writer, start = make_writer(kind, tmp_path, 1, velocities), fcc()
    for k in range(4):
        frame = replace(start, positions=start.positions + 0.7 * k * start.cell[0], energy=0.0)
        writer.add(Snapshot(0, 10 * k, 10.0 * k, frame, np.zeros_like(start.positions), 300.0 + k))
        writer.flush()
    t = read_trajectory(tmp_path)
    assert t.continuous
    np.testing.assert_allclose(np.diff(unwrapped(t)[:, 5, 0]), 0.7 * start.cell[0, 0], atol=1e-6)
    assert longest_step(t) == 0.0
    assert t.temperature is not None
    assert t.temperature.tolist() == [300.0, 301.0, 302.0, 303.0]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"every": 0}, "output.every=0"),
        ({"thermo_every": -1}, "output.thermo_every"),
        ({"format": "dcd"}, "extxyz or hdf5"),
        ({"save_seconds": -1.0}, "save_seconds"),
    ],
)
def test_bad_settings_are_named(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        OutputSpec(**keys)
