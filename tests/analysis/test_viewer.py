"""What the viewer of structures is given."""

import json

import numpy as np
import pytest
from ase.build import bulk, molecule
from fake_run import fake_frames, fake_predictions

from msmlff.analysis.viewer import Scene, ViewerBlock, can_show, viewer_script
from msmlff.analysis.worst_frames import force_errors, save_worst_frames, worst_rows, worst_viewer
from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames


def to_frame(atoms) -> Configuration:
    return Configuration(atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc)


def scene(frame: Configuration, values: np.ndarray | None = None) -> dict:
    (data,) = ViewerBlock("v", "", "", [Scene("one", frame, values, "eV")]).data["scenes"]
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    return data


def test_molecule_has_bonds_and_no_cell():
    ethanol = scene(to_frame(molecule("CH3CH2OH")))
    assert len(ethanol["bonds"]) == 8
    assert ethanol["cell"] == []
    assert [symbol for symbol, _ in ethanol["legend"]] == ["H", "C", "O"]
    assert len(set(ethanol["colours"])) == 3


def test_dense_crystal_has_a_cell_and_no_bonds():
    nickel = scene(to_frame(bulk("Ni", "fcc", 3.52, cubic=True).repeat(2)))
    assert nickel["bonds"] == []
    assert len(nickel["cell"]) == 12
    lengths = [np.linalg.norm(np.subtract(a, b)) for a, b in nickel["cell"]]
    np.testing.assert_allclose(lengths, 7.04)


def test_atoms_are_put_into_the_cell_and_bonds_do_not_cross_it():
    box = np.eye(3) * 5.0
    pair = np.array([[4.9, 1.0, 1.0], [5.64, 1.0, 1.0], [1.0, 2.0, 2.0], [1.74, 2.0, 2.0]])
    shown = scene(Configuration(np.ones(4, int), pair, box, np.ones(3, bool)))
    assert shown["positions"][1] == [0.64, 1.0, 1.0]
    assert shown["bonds"] == [[2, 3]]


def test_values_colour_the_atoms():
    water = to_frame(molecule("H2O"))
    shown = scene(water, np.array([0.0, 10.0, np.nan]))
    assert shown["largest"] == "10.0"
    assert shown["colours"] == [shown["scale"][0], shown["scale"][-1], "#d55e00"]
    flat = scene(water, np.zeros(3))
    assert len(set(flat["colours"])) == 1


def test_too_large_or_broken_frames_are_not_shown():
    big = Configuration(np.ones(20_001, int), np.zeros((20_001, 3)))
    broken = Configuration(np.ones(1, int), np.full((1, 3), np.nan))
    assert not can_show(big)
    assert not can_show(broken)
    assert can_show(to_frame(molecule("H2O")))


def test_script_can_stand_in_a_page():
    source = viewer_script()
    assert "$3Dmol" in source
    assert "</script" not in source


def test_worst_frames_are_kept_and_shown(tmp_path):
    p = fake_predictions(groups=["a", "b", "c"])
    frames = fake_frames(p)
    path = save_worst_frames(p, frames, tmp_path)
    kept = list(read_frames(path))
    rmse, _ = force_errors(p)
    assert [f.info["frame_id"] for f in kept] == list(p.frame_id[np.argsort(-rmse)[:8]])
    block = worst_viewer(p, kept)
    assert len(block.scenes) == 8
    worst = worst_rows(p)[0]
    np.testing.assert_allclose(block.scenes[0].frame.positions, frames[worst].positions, atol=1e-7)
    # the colours' values are the errors that make the frame's RMSE
    assert np.sqrt(np.mean(block.scenes[0].values ** 2) / 3) == pytest.approx(rmse[worst])
    assert worst_viewer(p, []) is None
