"""msmlff data check, with a real engine, and msmlff data card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ase.build import molecule

from msmlff.app import cli
from msmlff.data.configuration import Configuration
from msmlff.data.formats import from_ase, write_frames
from msmlff.labeling import XTBEngine


@pytest.fixture(scope="module")
def water() -> Configuration:
    atoms = molecule("H2O")
    atoms.rattle(0.08, seed=1)
    frame = from_ase(atoms)
    labels = XTBEngine().label(frame)
    return replace(frame, energy=labels.energy, forces=labels.forces)


def test_labels_that_belong_to_the_engine_pass(
    water: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frames(tmp_path / "w.extxyz", [water])
    assert cli.main(["data", "check", str(tmp_path / "w.extxyz"), "--engine", "GFN1-xTB"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 1 frames kept" in printed
    assert "w.extxyz:0: force along a random direction" in printed


def test_forces_of_the_wrong_sign_are_found(
    water: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert water.forces is not None
    write_frames(tmp_path / "w.extxyz", [replace(water, forces=-water.forces)])
    assert cli.main(["data", "check", str(tmp_path / "w.extxyz"), "--engine", "GFN1-xTB"]) == 2
    assert "w.extxyz:0" in (said := capsys.readouterr().err)
    assert "the forces have the wrong sign" in said


def test_the_door_is_asked_without_an_engine(
    water: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "w.extxyz")
    write_frames(path, [water, water])
    assert cli.main(["data", "check", path]) == 2
    assert "w.extxyz:1: the same geometry" in capsys.readouterr().err
    assert cli.main(["data", "check", path, "--allow", "duplicate"]) == 0


def test_the_card_of_each_file_is_printed(
    water: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / name) for name in ("one.extxyz", "two.extxyz")]
    write_frames(paths[0], [water])
    write_frames(paths[1], [water, water])
    assert cli.main(["data", "card", *paths]) == 0
    first, second = capsys.readouterr().out.split("two.extxyz")
    assert "one.extxyz" in first
    assert "1 frames, 3 atoms" in first
    assert "2 frames, 6 atoms" in second
    assert cli.main(["data", "card", str(tmp_path / "none.extxyz")]) == 2
    assert "none.extxyz" in capsys.readouterr().err
